"""Token layout of every view on hand-written pieces. Words are ids from 50 on, newline is 10."""

from dataclasses import replace

import numpy as np
import pytest

from quicksilver.errors import ConfigError
from quicksilver.training.data.views import Split, ViewMix, Views, damage, prompt_response
from quicksilver.training.data.windows import MIN_PIECE_TOKENS, Piece
from tests.fakes import SPECIAL
from tests.training_runs import no_nodes

NEWLINE, BEFORE, AFTER = 10, 13, 14
SENTINELS = frozenset(range(10)) - {SPECIAL.eos} | {BEFORE, AFTER}


def ascii_decode(ids: list[int]) -> str:
    return "".join(chr(i) for i in ids)


def ascii_encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def views(**mix: float) -> Views:
    return Views(ViewMix(**mix), SPECIAL, SENTINELS, NEWLINE, ascii_encode, ascii_decode, (BEFORE, AFTER), no_nodes)


def ids(*token_ids: int) -> np.ndarray:
    return np.array(token_ids, dtype=np.int64)


def lines(*lengths: int) -> np.ndarray:
    """Lines of words, all different, each closed by a newline that counts in its length."""
    tokens, word = [], 50
    for length in lengths:
        tokens += [*range(word, word + length - 1), NEWLINE]
        word += length - 1
    return ids(*tokens)


class Fixed(np.random.Generator):
    """A generator whose draws are given."""

    def __init__(self, *draws: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)

    def integers(self, low: int, high: int | None = None) -> int:
        low, high = (0, low) if high is None else (low, high)
        value = int(self.draws.pop(0))
        assert low <= value < high
        return value


def test_left_to_right_without_prompt():
    document = views().left_to_right(Piece(ids(50, 51, 52, 53, 54), False), 2, Fixed(0.9))
    assert document.token_ids.tolist() == [SPECIAL.file, 50, 51, 52, 53, 54]
    assert document.blocks.tolist() == [0, 1, 1, 2, 2, 3]
    assert document.is_target.tolist() == [False, True, True, True, True, True]
    assert document.token_share.tolist() == [1] * 6


def test_left_to_right_restarts_the_grid_behind_its_prompt():
    document = views().left_to_right(Piece(ids(50, 51, 52, 53, 54), False), 2, Fixed(0.1, 2))
    assert document.token_ids.tolist() == [SPECIAL.file, 50, 51, 52, 53, 54]
    assert document.blocks.tolist() == [0, 0, 1, 2, 2, 3]


def test_the_end_of_a_file_is_eos_to_the_end_of_the_block():
    document = views().left_to_right(Piece(ids(50, 51, 52, 53, 54), True), 4, Fixed(0.9))
    assert document.token_ids.tolist() == [SPECIAL.file, 50, 51, 52, 53, 54, 1, 1, 1]
    assert document.blocks.tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert document.is_target.tolist() == [False] + [True] * 8
    assert document.token_share[-3:].tolist() == pytest.approx([1 / 3] * 3)


def test_a_response_of_whole_blocks_is_closed_by_a_block_of_eos():
    document = views().left_to_right(Piece(ids(50, 51, 52, 53), True), 4, Fixed(0.9))
    assert document.token_ids[-4:].tolist() == [1] * 4
    assert document.blocks[-5:].tolist() == [1, 2, 2, 2, 2]
    assert document.token_share[-4:].sum() == pytest.approx(1.0)


def test_fill_in_the_middle():
    split = Split(ids(50, 51), ids(60, 61, 62), ids(70))
    document = views().fill_in_middle(split, 4)
    assert document.token_ids.tolist() == [5, 50, 51, 6, 70, 7, 60, 61, 62, 1]
    assert document.blocks.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert document.is_target.tolist() == [False, True, True, False, True, False, True, True, True, True]
    causal = views().fill_in_middle(split, 1)
    assert causal.token_ids.tolist() == [5, 50, 51, 6, 70, 7, 60, 61, 62, 1]
    assert causal.blocks.tolist() == list(range(10))


def test_edit_puts_damaged_code_before_the_original():
    rng = np.random.default_rng(0)
    clean = lines(4, 3)
    document = views().edit(clean, 4, rng)
    sentinel = document.token_ids.tolist().index(AFTER)
    assert document.token_ids[0] == BEFORE
    assert document.token_ids[sentinel + 1 : sentinel + 1 + len(clean)].tolist() == clean.tolist()
    assert set(document.token_ids[sentinel + 1 + len(clean) :].tolist()) == {SPECIAL.eos}
    assert document.blocks[sentinel + 1] == document.blocks[sentinel] + 1
    assert document.token_ids[1:sentinel].tolist() == damage(clean, NEWLINE, np.random.default_rng(0)).tolist()
    # Nobody wants a model that writes damaged code.
    assert not document.is_target[: sentinel + 1].any()
    assert document.is_target[sentinel + 1 :].all()


def test_block_causal_draws_views_by_their_shares():
    piece = Piece(lines(6, 7, 8, 6, 5), True)
    rng = np.random.default_rng(1)
    mixed = views(left_to_right=0.5, fill_in_middle=0.3, edit=0.2)
    first = [mixed.block_causal(piece, 4, rng)[0].token_ids[0] for _ in range(1000)]
    # sigma of each share is below 0.016; 5 sigma.
    for sentinel, share in ((SPECIAL.file, 0.5), (SPECIAL.fim_prefix, 0.3), (BEFORE, 0.2)):
        assert abs(np.mean(np.array(first) == sentinel) - share) < 0.08


def test_code_behind_an_edit_follows_left_to_right():
    piece = Piece(lines(*[4] * 20), True)
    only_edits = views(left_to_right=0.0, fill_in_middle=0.0, edit=1.0)
    documents = only_edits.block_causal(piece, 4, np.random.default_rng(2))
    assert len(documents) == 2
    sentinel = documents[0].token_ids.tolist().index(AFTER)
    edited = [t for t in documents[0].token_ids[sentinel + 1 :].tolist() if t != SPECIAL.eos]
    rest = [t for t in documents[1].token_ids[1:].tolist() if t != SPECIAL.eos]
    assert edited + rest == piece.token_ids.tolist()
    assert documents[1].token_ids[-1] == SPECIAL.eos


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_short_pieces_become_left_to_right_documents(kind):
    shares = [0.0, 0.0, 0.0]
    shares[kind] = 1.0
    mix = dict(zip(("left_to_right", "fill_in_middle", "edit"), shares, strict=True))
    (document,) = views(**mix).block_causal(Piece(ids(50), True), 4, np.random.default_rng(0))
    assert document.token_ids.tolist() == [SPECIAL.file, 50, 1, 1, 1]


def test_sentinels_are_never_targets_but_eos_is():
    head = [ids(5, 50)]
    document = prompt_response(head, ids(60), 4, SPECIAL.eos, SENTINELS)
    assert document.is_target.tolist() == [False, True, True, True, True, True]
    every = prompt_response([ids(*sorted(SENTINELS))], ids(60), 1, None, SENTINELS)
    assert every.is_target.tolist() == [False] * len(SENTINELS) + [True]


def test_split_cuts_at_line_starts_and_leaves_no_scraps():
    piece = Piece(lines(1, 1, 9, 1, 12, 8, 1, 30, 2, 9), True)
    always = views(split_rate=1.0)
    sizes = set()
    for seed in range(200):
        parts = always.split(piece, np.random.default_rng(seed))
        assert np.concatenate([part.token_ids for part in parts]).tolist() == piece.token_ids.tolist()
        assert all(len(part.token_ids) >= MIN_PIECE_TOKENS for part in parts)
        assert all(part.token_ids[-1] == NEWLINE for part in parts)
        assert [part.is_end_of_file for part in parts] == [False] * (len(parts) - 1) + [True]
        sizes.add(len(parts))
    assert sizes == {1, 2, 3, 4}
    assert views(split_rate=0.0).split(piece, np.random.default_rng(0)) == [piece]


def test_middles_and_holes_are_nodes_of_the_syntax_tree():
    tokens = lines(6, 7, 8)
    nodes = np.array([[1, 4], [9, 12], [15, 20]])
    view = Views(
        ViewMix(ast_rate=1.0, char_cut_rate=0.0),
        SPECIAL,
        SENTINELS,
        NEWLINE,
        ascii_encode,
        ascii_decode,
        (BEFORE, AFTER),
        lambda token_ids: nodes,
    )
    rng = np.random.default_rng(4)
    cuts = [view.cut(tokens, rng) for _ in range(60)]
    assert {(len(cut.prefix), len(cut.prefix) + len(cut.middle)) for cut in cuts} == set(map(tuple, nodes.tolist()))
    assert all(np.array_equal(np.concatenate([c.prefix, c.middle, c.suffix]), tokens) for c in cuts)
    holes = [view.holes(tokens, 0.3, rng) for _ in range(20)]
    assert all(set(spans) <= set(map(tuple, nodes.tolist())) for spans in holes)


def test_a_view_without_its_sentinel_is_an_error():
    special = replace(SPECIAL, file=None)
    view = Views(ViewMix(), special, SENTINELS, NEWLINE, ascii_encode, ascii_decode, (BEFORE, AFTER), no_nodes)
    with pytest.raises(ConfigError, match="sentinel"):
        view.left_to_right(Piece(ids(50, 51), False), 2, np.random.default_rng(0))


@pytest.mark.parametrize(
    "mix",
    [
        {"left_to_right": 0.9},
        {"split_rate": 1.5},
        {"char_cut_rate": -0.1},
        {"ast_rate": 1.1},
        {"left_to_right": 1.4, "edit": -0.8},
    ],
)
def test_bad_mixes_are_errors(mix):
    with pytest.raises(ConfigError):
        ViewMix(**mix)
