"""Paged attention in a real network equals dense attention over the whole canvas, in whatever pieces it comes."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.api.network import StaleRecompute
from quicksilver.engine.attention import PagedAttention, PageMemory, RequestRows
from quicksilver.engine.pages import PagePool, PageTable
from quicksilver.models.topology import Topology
from tests.tiny import TINY, hidden_of, random_denoiser, random_tokens

SIZE = 4
DENOISER = random_denoiser()


class Sequence:
    """A canvas of final tokens and a window, its pages, and what has been computed of it."""

    def __init__(self, pool: PagePool, memory: PageMemory, seed: int, num_final: int, num_window: int, block: int):
        self.token_ids = random_tokens(1, num_final + num_window, seed)[0]
        self.num_final, self.num_window, self.memory = num_final, num_window, memory
        causal = torch.arange(num_final)
        self.final_blocks = causal // block
        window = torch.full((num_window,), int(self.final_blocks[-1]) + 1 if num_final else 0)
        self.blocks = torch.cat([self.final_blocks, window])
        self.table = PageTable(pool, f"{block}".encode())
        self.table.adopt_prefix(self.token_ids[:num_final].tolist())
        self.table.reserve(num_final + num_window)

    def rows(self, at: int, num_context: int, has_window: bool) -> tuple[RequestRows, torch.Tensor]:
        """The next context rows and maybe the window: the description and the positions."""
        cached = self.table.num_final
        count = cached + num_context + (self.num_window if has_window else 0)
        rows = slice(at, at + count - cached)
        slots = self.memory.slots(self.table, count)
        return RequestRows(rows, slots, cached, num_context, self.final_blocks), torch.arange(cached, count)

    def expected(self) -> torch.Tensor:
        return hidden_of(DENOISER, self.token_ids[None], Topology.block_causal(self.blocks[None]))[0]


def forward(memory: PageMemory, parts: list[tuple[RequestRows, torch.Tensor]], tokens: list[torch.Tensor]):
    """Hidden states of each part's rows, from one packed forward."""
    attention = PagedAttention(memory, [rows for rows, _ in parts])
    positions = torch.cat([places for _, places in parts])
    hidden = DENOISER(torch.cat(tokens)[None], positions[None], attention)[0]
    return [hidden[rows.rows] for rows, _ in parts]


sizes_drawn = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 6), st.sampled_from([1, 3, 4])), min_size=1, max_size=4
)
"""Final tokens, window, block length of each request."""


# A generator of its own: one that hypothesis steers may answer 0 for ever, and then no chunk ever comes.
@given(sizes_drawn, st.integers(0, 2**30))
@settings(max_examples=60, deadline=None)
def test_any_chunks_of_any_requests_equal_the_whole(sizes, seed):
    random = Random(seed)
    pool = PagePool(64, SIZE)
    memory = PageMemory(TINY, pool, torch.float64, torch.device("cpu"))
    if random.random() < 0.5:  # pages that are not consecutive
        taken = pool.take(40)
        pool.release(random.sample(taken, 20))
    sequences = [Sequence(pool, memory, seed, *size) for seed, size in enumerate(sizes)]
    canvas = random_tokens(1, 11, 99)[0]
    finished = [False] * len(sequences)
    while not all(finished):
        parts, tokens, told, at = [], [], [], 0
        for number, (sequence, (_, _, block)) in enumerate(zip(sequences, sizes, strict=True)):
            missing = sequence.num_final - sequence.table.num_final
            chunk = min(missing, block * random.randint(0, 3))
            has_window = chunk == missing and random.random() < 0.5
            if finished[number] or chunk + has_window == 0:
                continue
            parts.append(sequence.rows(at, chunk, has_window))
            tokens.append(sequence.token_ids[parts[-1][1]])
            at = parts[-1][0].rows.stop
            told.append((number, chunk, has_window))
        if random.random() < 0.5:  # a canvas in place: no pages, everything sees everything
            parts.append((RequestRows(slice(at, at + 11), None), torch.arange(11)))
            tokens.append(canvas)
        if not parts:
            continue
        hidden = forward(memory, parts, tokens)
        for (number, chunk, has_window), (_, places), found in zip(told, parts, hidden, strict=False):
            torch.testing.assert_close(found, sequences[number].expected()[places])
            sequences[number].table.finish(sequences[number].token_ids[: int(places[0]) + chunk].tolist())
            finished[number] = has_window
        if len(parts) > len(told):
            whole = hidden_of(DENOISER, canvas[None], Topology.block_causal(torch.zeros(1, 11, dtype=torch.int64)))
            torch.testing.assert_close(hidden[-1], whole[0])


def test_a_window_may_be_computed_again_and_again():
    pool = PagePool(8, SIZE)
    memory = PageMemory(TINY, pool, torch.float64, torch.device("cpu"))
    sequence = Sequence(pool, memory, seed=0, num_final=5, num_window=4, block=1)
    forward(memory, [sequence.rows(0, 5, True)], [sequence.token_ids])
    sequence.table.finish(sequence.token_ids[:5].tolist())
    for seed in range(3):
        sequence.token_ids[5:] = random_tokens(1, 4, 50 + seed)[0]
        rows = sequence.rows(0, 0, True)
        (hidden,) = forward(memory, [rows], [sequence.token_ids[5:]])
        torch.testing.assert_close(hidden, sequence.expected()[5:])


def test_rows_that_are_not_computed_are_seen_as_they_were():
    """Against every row computed, with the keys and values of the stale ones replaced."""
    pool, reference = PagePool(8, SIZE), StaleRecompute(DENOISER, 0)
    memory = PageMemory(TINY, pool, torch.float64, torch.device("cpu"))
    table = PageTable(pool)
    table.reserve(11)
    token_ids, is_computed = random_tokens(1, 11, seed=3)[0], torch.ones(11, dtype=torch.bool)
    other = Sequence(pool, memory, seed=1, num_final=5, num_window=4, block=1)
    for seed, columns in enumerate(([*range(11)], [4, 5, 9], [5], [0, 4, 5, 6, 10])):
        at = torch.tensor(columns)
        token_ids[at] = random_tokens(1, len(columns), seed)[0]
        first, places = other.rows(0, 5, True)
        rows = RequestRows(slice(9, 9 + len(columns)), memory.slots(table, 11), columns=at)
        parts = [(first, places), (rows, at)]
        hidden = forward(memory, parts, [other.token_ids, token_ids[at]])
        is_computed = torch.zeros(11, dtype=torch.bool).index_fill(0, at, value=True)
        expected = reference.with_stale(token_ids, torch.zeros(11, dtype=torch.int64), is_computed)
        torch.testing.assert_close(DENOISER.logits(hidden[1]), expected[at])
        torch.testing.assert_close(hidden[0], other.expected())


def test_another_request_in_the_batch_changes_no_bit():
    pool = PagePool(16, SIZE)
    memory = PageMemory(TINY, pool, torch.float64, torch.device("cpu"))
    one = Sequence(pool, memory, seed=0, num_final=5, num_window=4, block=1)
    two = Sequence(pool, memory, seed=1, num_final=9, num_window=4, block=1)
    query, key, value = (torch.randn(1, heads, 22, 8, dtype=torch.float64) for heads in (4, 2, 2))
    first, _ = one.rows(0, 5, True)
    second, _ = two.rows(9, 9, True)
    alone = PagedAttention(memory, [first])(query[:, :, :9], key[:, :, :9], value[:, :, :9])
    both = PagedAttention(memory, [first, second])(query, key, value)
    assert torch.equal(alone, both[:, :, :9])


def test_memory_says_what_it_takes():
    memory = PageMemory(TINY, PagePool(8, SIZE), torch.bfloat16, torch.device("cpu"))
    assert memory.num_bytes == 2 * TINY.num_layers * 8 * SIZE * TINY.num_kv_heads * TINY.head_width * 2
    with pytest.raises(IndexError):
        memory.keys[TINY.num_layers]
