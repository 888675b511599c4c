"""Windows against a plain walk through the token file. Newline is token 10."""

import itertools

import numpy as np
import pytest

from quicksilver.errors import TrainingError
from quicksilver.training.corpus.token_file import TokenFile
from quicksilver.training.data.windows import MIN_PIECE_TOKENS, Windows

NEWLINE = 10


def token_file(sizes: list[int], newline_every: int = 5) -> TokenFile:
    """Token i of the file is 100 + i, so a token says where it is from; every fifth of a document is a newline."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    tokens = 100 + np.arange(offsets[-1])
    for low, high in itertools.pairwise(offsets):
        tokens[low + newline_every - 1 : high : newline_every] = NEWLINE
    names = [str(index) for index in range(len(sizes))]
    return TokenFile(tokens.astype("<u2"), offsets.astype(np.int64), np.array(sizes, np.int64), names)


def windows(file: TokenFile, length: int = 40, seed: int = 3) -> Windows:
    return Windows(file, window_length=length, seed=seed, newline_id=NEWLINE)


def places(piece) -> list[int]:
    """Where the piece's tokens stand in the file; newlines follow their predecessor."""
    first = int(piece.token_ids[0]) - 100
    return list(range(first, first + len(piece.token_ids)))


def test_an_epoch_visits_every_window_once():
    file = token_file([1000], newline_every=1000)
    # One document without line starts: only the piece at its very start remains, so walk the permutation instead.
    view = windows(file)
    for epoch in range(3):
        assert sorted(view._epoch_permutation(epoch).tolist()) == list(range(view.num_windows))
    assert view._epoch_permutation(0).tolist() != view._epoch_permutation(1).tolist()


def test_pieces_of_an_epoch_do_not_overlap_and_cover_nearly_everything():
    file = token_file([70, 300, 9, 45, 120, 400])
    view = windows(file)
    for epoch in range(3):
        seen = [
            place
            for index in range(view.num_windows)
            for piece in view.pieces(epoch * view.num_windows + index)
            for place in places(piece)
        ]
        assert len(seen) == len(set(seen))
        # Lost: up to one line or a scrap per window and document edge, and at most two windows at the file's ends.
        assert len(seen) > file.num_tokens - 2 * 40 - (view.num_windows + 6) * MIN_PIECE_TOKENS


def test_epochs_are_shifted():
    view = windows(token_file([2000]))
    firsts = {
        min(places(view.pieces(row)[0])[0] % 40 for row in range(e * view.num_windows, e * view.num_windows + 8))
        for e in range(6)
    }
    assert len(firsts) > 1


def test_a_piece_is_consecutive_tokens_of_one_document_from_a_line_start():
    sizes = [70, 300, 9, 45, 120, 400]
    file = token_file(sizes)
    view = windows(file)
    for row in range(4 * view.num_windows):
        for piece in view.pieces(row):
            at = places(piece)
            assert piece.token_ids.dtype == np.int64
            assert piece.token_ids.tolist() == file.tokens[at[0] : at[-1] + 1].tolist()
            document = int(np.searchsorted(file.doc_offsets, at[0], side="right")) - 1
            low, high = file.doc_offsets[document : document + 2]
            assert low <= at[0]
            assert at[-1] < high
            assert at[0] == low or file.tokens[at[0] - 1] == NEWLINE
            assert piece.is_end_of_file == (at[-1] + 1 == high)
            assert len(at) >= MIN_PIECE_TOKENS


def test_a_window_inside_one_endless_line_has_no_piece():
    view = windows(token_file([1000], newline_every=1000))
    found = [piece for row in range(view.num_windows) for piece in view.pieces(row)]
    assert all(places(piece)[0] == 0 for piece in found)


def test_pieces_are_a_function_of_seed_and_row_alone():
    file = token_file([500, 300])
    straight = windows(file)
    backwards = windows(file)
    rows = list(range(2 * straight.num_windows))
    forward = {row: [piece.token_ids.tolist() for piece in straight.pieces(row)] for row in rows}
    for row in reversed(rows):
        assert [piece.token_ids.tolist() for piece in backwards.pieces(row)] == forward[row]
    other = windows(file, seed=4)
    assert any([piece.token_ids.tolist() for piece in other.pieces(row)] != forward[row] for row in rows)


def test_too_small_a_corpus_is_an_error():
    with pytest.raises(TrainingError, match="79 tokens, fewer than two windows of 40"):
        windows(token_file([79]))
    assert windows(token_file([80])).num_windows == 1
