"""Spans of a piece against hand-written nodes and lines. Newline is 10."""

import numpy as np

from quicksilver.training.data.spans import Spans, line_starts

NEWLINE = 10
TEXT = np.array([50, 51, NEWLINE, 52, NEWLINE, NEWLINE, 53, 54, 55])


def test_lines_start_behind_newlines():
    assert line_starts(TEXT, NEWLINE).tolist() == [0, 3, 5, 6]
    assert line_starts(TEXT[:3], NEWLINE).tolist() == [0]


def test_nodes_of_every_size_are_drawn_alike():
    small = [[i, i + 1] for i in range(80)]
    nodes = np.array([*small, [10, 14], [20, 27], [30, 62]])
    spans = Spans(np.full(90, 50), NEWLINE, 1.0, lambda token_ids: nodes)
    rng = np.random.default_rng(0)
    drawn = [spans.draw(rng) for _ in range(900)]
    sizes = np.array([high - low for low, high in drawn])
    # Thirds of 900, standard deviation 14; 5 of them.
    for low, high in ((1, 1), (4, 7), (32, 32)):
        assert abs(((sizes >= low) & (sizes <= high)).sum() - 300) < 70
    assert set(drawn) <= set(map(tuple, nodes.tolist()))
    # Both nodes of the middle size.
    assert {4, 7} <= set(sizes.tolist())


def test_a_piece_is_parsed_once_and_only_if_need_be():
    calls = []

    def find_nodes(token_ids: np.ndarray) -> np.ndarray:
        calls.append(token_ids)
        return np.array([[0, 2]])

    rng = np.random.default_rng(0)
    never = Spans(TEXT, NEWLINE, 0.0, find_nodes)
    assert {never.draw(rng) for _ in range(50)} != {(0, 2)}
    assert not calls
    often = Spans(TEXT, NEWLINE, 0.5, find_nodes)
    drawn = [often.draw(rng) for _ in range(200)]
    assert len(calls) == 1
    assert np.array_equal(calls[0], TEXT)
    # Half are the node, and some of the others may be.
    assert 70 <= drawn.count((0, 2)) < 170


def test_without_nodes_lines_are_drawn():
    spans = Spans(TEXT, NEWLINE, 1.0, lambda token_ids: np.zeros((0, 2), dtype=np.int64))
    rng = np.random.default_rng(0)
    drawn = {spans.draw(rng) for _ in range(100)}
    assert {(0, 3), (3, 5), (5, 6), (6, 9)} <= drawn
    assert all(0 <= low < high <= len(TEXT) for low, high in drawn)
