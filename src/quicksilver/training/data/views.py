"""Views: the ways one piece of source becomes a training document.

* left to right: ``<file>`` code, denoised block by block (block-causal).
* fill-in-the-middle: ``<fim_pre>`` prefix ``<fim_suf>`` suffix ``<fim_mid>`` middle ``<eos>`` (block-causal,
  cacheable).
* edit: ``<edit_before>`` damaged code ``<edit_after>`` code ``<eos>`` (block-causal).
* in place: ``<canvas>`` code with holes, all positions seeing each other (one block).

The block grid starts at the document's first token and anew at the response, as it does when a prompt is served. The
tail of the response's last block is filled with ``<eos>`` because the server's last block is always whole, and no
further. Each weighs as much as a token: a weight that depends on the label would bias the probability of the end, and
texts would come out too long (docs/log.md). Fill-in-the-middle follows Bavarian et al. 2022 (arXiv:2207.14255).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from quicksilver.diffusion.spec import SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.training.data.spans import Spans, line_starts
from quicksilver.training.data.windows import MIN_PIECE_TOKENS, Piece


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewMix:
    """Shares of the block-causal views; they must add up to 1."""

    left_to_right: float = 0.5
    fill_in_middle: float = 0.4
    edit: float = 0.1
    split_rate: float = 0.3
    """Probability that a piece is cut into up to four shorter documents, so that short contexts are not rare."""
    char_cut_rate: float = 0.25
    """Probability that a hole's ends are cut between characters and re-tokenized, not between tokens."""
    ast_rate: float = 0.25
    """Probability that a hole or a middle is a node of the syntax tree. 0 parses nothing."""

    def __post_init__(self) -> None:
        total = self.left_to_right + self.fill_in_middle + self.edit
        if abs(total - 1.0) > 1e-9:
            raise ConfigError(f"view shares must add up to 1, got {total}")
        for name in ("left_to_right", "fill_in_middle", "edit", "split_rate", "char_cut_rate", "ast_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Document:
    """A training document before noise. Arrays share length [n]."""

    token_ids: np.ndarray
    is_target: np.ndarray
    """May be noised, and carries loss. Sentinels do not."""
    blocks: np.ndarray
    """Non-decreasing block number within the document."""
    token_share: np.ndarray
    """1, or for each ``<eos>`` of the fill its share of the one token that all count for in figures."""

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Split:
    """A piece cut into prefix, middle and suffix, each tokenized on its own."""

    prefix: np.ndarray
    middle: np.ndarray
    suffix: np.ndarray


def _grid(length: int, block_length: int, first: int = 0) -> np.ndarray:
    return first + np.arange(length) // block_length


def prompt_response(
    prompt: list[np.ndarray],
    response: np.ndarray,
    block_length: int,
    eos: int | None,
    sentinels: frozenset[int],
    is_prompt_trained: bool = True,
) -> Document:
    """A block-causal document whose grid restarts at the response; ``eos`` closes it and fills its last block.

    A prompt of real code is trained as well as the response, which costs nothing; one of damaged code must not be.
    """
    head = np.concatenate(prompt)
    fill = 0 if eos is None else block_length - len(response) % block_length
    tail = np.concatenate([response, np.full(fill, eos if eos is not None else 0, dtype=np.int64)])
    head_blocks = _grid(len(head), block_length)
    blocks = np.concatenate([head_blocks, _grid(len(tail), block_length, first=int(head_blocks[-1]) + 1)])
    token_ids = np.concatenate([head, tail])
    token_share = np.ones(len(token_ids), dtype=np.float32)
    if fill:
        token_share[-fill:] = 1.0 / fill
    is_target = ~np.isin(token_ids, list(sentinels))
    if not is_prompt_trained:
        is_target[: len(head)] = False
    return Document(token_ids, is_target, blocks, token_share)


class Views:
    """Builds documents from pieces. All randomness comes from the generator passed to each call."""

    def __init__(
        self,
        mix: ViewMix,
        special: SpecialIds,
        sentinels: frozenset[int],
        newline_id: int,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        edit_sentinels: tuple[int, int],
        find_nodes: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self._mix = mix
        self._special = special
        self._sentinels = sentinels
        self._newline_id = newline_id
        self._encode = encode
        self._decode = decode
        self._find_nodes = find_nodes
        self._edit_before, self._edit_after = (np.array([token]) for token in edit_sentinels)

    def split(self, piece: Piece, rng: np.random.Generator) -> list[Piece]:
        """The piece, or up to four shorter pieces cut at line starts, none shorter than ``MIN_PIECE_TOKENS``."""
        starts = np.flatnonzero(piece.token_ids == self._newline_id) + 1
        starts = starts[starts <= len(piece.token_ids) - MIN_PIECE_TOKENS]
        if rng.random() >= self._mix.split_rate or len(starts) < 4:
            return [piece]
        cuts = np.sort(rng.choice(starts, size=int(rng.integers(1, 4)), replace=False))
        cuts = cuts[np.diff(cuts, prepend=0) >= MIN_PIECE_TOKENS]
        parts = np.split(piece.token_ids, cuts)
        last = len(parts) - 1
        return [Piece(part, piece.is_end_of_file and at == last) for at, part in enumerate(parts)]

    def block_causal(self, piece: Piece, block_length: int, rng: np.random.Generator) -> list[Document]:
        """One of the block-causal views, drawn from the mix; code that an edit leaves over follows left to right."""
        kind = rng.choice(3, p=[self._mix.left_to_right, self._mix.fill_in_middle, self._mix.edit])
        if kind == 1 and len(piece.token_ids) >= MIN_PIECE_TOKENS:
            return [self.fill_in_middle(self.cut(piece.token_ids, rng), block_length)]
        if kind == 2 and len(piece.token_ids) >= MIN_PIECE_TOKENS:
            stop = self._edit_stop(piece.token_ids, rng)
            rest = Piece(piece.token_ids[stop:], piece.is_end_of_file)
            documents = [self.edit(piece.token_ids[:stop], block_length, rng)]
            return [*documents, self.left_to_right(rest, block_length, rng)] if len(rest.token_ids) else documents
        return [self.left_to_right(piece, block_length, rng)]

    def left_to_right(self, piece: Piece, block_length: int, rng: np.random.Generator) -> Document:
        """Code after ``<file>``; half the time the first part is a prompt, so that the grid restarts anywhere."""
        cut = int(rng.integers(len(piece.token_ids))) if rng.random() < 0.5 else 0
        head = [self._token(self._special.file), piece.token_ids[:cut]]
        eos = self._special.eos if piece.is_end_of_file else None
        return prompt_response(head, piece.token_ids[cut:], block_length, eos, self._sentinels)

    def fill_in_middle(self, split: Split, block_length: int) -> Document:
        """Prefix, suffix, then the middle, which ends with ``<eos>``."""
        special = self._special
        head = [self._token(special.fim_prefix), split.prefix, self._token(special.fim_suffix), split.suffix]
        head.append(self._token(special.fim_middle))
        return prompt_response(head, split.middle, block_length, special.eos, self._sentinels)

    def _edit_stop(self, token_ids: np.ndarray, rng: np.random.Generator) -> int:
        """End of the first few lines: at most 12, so that code before and after an edit fit a short context."""
        starts = line_starts(token_ids, self._newline_id)
        last = int(rng.integers(1, 13))
        return int(starts[last]) if last < len(starts) else len(token_ids)

    def edit(self, token_ids: np.ndarray, block_length: int, rng: np.random.Generator) -> Document:
        """Damaged code before, the original after."""
        head = [self._edit_before, damage(token_ids, self._newline_id, rng), self._edit_after]
        return prompt_response(
            head, token_ids, block_length, self._special.eos, self._sentinels, is_prompt_trained=False
        )

    def cut(self, token_ids: np.ndarray, rng: np.random.Generator) -> Split:
        """A middle drawn by ``Spans``; its ends may lie between characters."""
        low, high = self._spans(token_ids).draw(rng)
        if rng.random() >= self._mix.char_cut_rate:
            return Split(token_ids[:low], token_ids[low:high], token_ids[high:])
        # Widen by one token on each side, then cut inside: what remains of both is re-tokenized with its neighbours.
        low, high = max(low - 1, 0), min(high + 1, len(token_ids))
        text = self._decode(token_ids[low:high].tolist())
        if len(text) < 3 or "\ufffd" in text:  # too short, or a character lies across the span's end
            return Split(token_ids[:low], token_ids[low:high], token_ids[high:])
        first = int(rng.integers(0, min(8, len(text) - 1)))
        last = int(rng.integers(max(first + 1, len(text) - 8), len(text) + 1))
        before, inside, after = (
            np.array(self._encode(part), dtype=np.int64) for part in (text[:first], text[first:last], text[last:])
        )
        return Split(np.concatenate([token_ids[:low], before]), inside, np.concatenate([after, token_ids[high:]]))

    def holes(self, token_ids: np.ndarray, coverage: float, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Disjoint spans [start, stop) that together cover about ``coverage`` of the tokens, at least one, in order."""
        is_hole = np.zeros(len(token_ids), dtype=bool)
        spans: list[tuple[int, int]] = []
        source = self._spans(token_ids)
        while not spans or is_hole.mean() < coverage:
            low, high = source.draw(rng)
            # A gap of one visible token keeps neighbouring holes apart.
            if is_hole[max(low - 1, 0) : high + 1].any():
                if rng.random() < 0.2:
                    break
                continue
            is_hole[low:high] = True
            spans.append((low, high))
        return sorted(spans)

    def _spans(self, token_ids: np.ndarray) -> Spans:
        return Spans(token_ids, self._newline_id, self._mix.ast_rate, self._find_nodes)

    @staticmethod
    def _token(token_id: int | None) -> np.ndarray:
        if token_id is None:
            raise ConfigError("this view needs a sentinel token that the spec does not name")
        return np.array([token_id], dtype=np.int64)


def damage(token_ids: np.ndarray, newline_id: int, rng: np.random.Generator) -> np.ndarray:
    """One plausible mistake: a wrong, missing, doubled or swapped token, or a missing, doubled or swapped line."""
    length = len(token_ids)
    at = int(rng.integers(length))
    kind = int(rng.integers(7))
    if kind == 0:
        return np.concatenate([token_ids[:at], token_ids[at : at + 1], token_ids[at:]])
    if kind == 1 and length > 1:
        return np.delete(token_ids, at)
    if kind in (2, 3):  # another token of the same code in its place: a wrong name, operator or constant
        changed = token_ids.copy()
        changed[at] = token_ids[int(rng.integers(length))]
        return changed
    lines = np.split(token_ids, np.flatnonzero(token_ids == newline_id) + 1)
    lines = [line for line in lines if len(line)]
    line = int(rng.integers(len(lines)))
    if kind == 4 and len(lines) > 1:
        lines.pop(line)
    elif kind == 5:
        lines.insert(line, lines[line])
    elif len(lines) > 1:
        line = min(line, len(lines) - 2)
        lines[line], lines[line + 1] = lines[line + 1], lines[line]
    return np.concatenate(lines)
