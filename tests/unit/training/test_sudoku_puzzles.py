import itertools

import numpy as np
import pytest

from quicksilver.errors import ConfigError
from quicksilver.training.tasks.sudoku_puzzles import (
    Puzzles,
    Split,
    base_puzzles,
    solve,
    split_of,
    symmetry_invariant,
    vary,
)

# A widely printed puzzle with 30 clues and its solution.
KNOWN = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
KNOWN_SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def _grid(text: str) -> np.ndarray:
    return np.array([int(c) for c in text])


@pytest.fixture(scope="module")
def bases() -> Puzzles:
    return base_puzzles(3, 30, seed=3, split=Split.TRAIN)


def _is_valid(solution: np.ndarray) -> bool:
    grid = solution.reshape(9, 9)
    boxes = grid.reshape(3, 3, 3, 3).transpose(0, 2, 1, 3).reshape(9, 9)
    return all((np.sort(lines, axis=1) == np.arange(1, 10)).all() for lines in (grid, grid.T, boxes))


def test_solver_finds_the_known_solution() -> None:
    assert solve(_grid(KNOWN)) == [_grid(KNOWN_SOLUTION).tolist()]


def test_solver_finds_both_solutions_of_an_ambiguous_grid() -> None:
    # Two digits crosswise in the corners of a rectangle over two boxes can be swapped: opened, it has two fillings.
    grid = _grid(KNOWN_SOLUTION).reshape(9, 9)
    for a, b in itertools.combinations(range(9), 2):
        for c, d in itertools.combinations(range(9), 2):
            is_rectangle = grid[a, c] == grid[b, d] and grid[a, d] == grid[b, c]
            if is_rectangle and (a // 3 == b // 3) != (c // 3 == d // 3):
                opened = grid.copy()
                opened[[a, a, b, b], [c, d, c, d]] = 0
                assert len(solve(opened.flatten())) == 2
                return
    pytest.fail("the known solution holds no deadly rectangle")


def test_solver_rejects_a_contradiction() -> None:
    grid = _grid(KNOWN)
    grid[2] = 5  # the row already has a 5
    assert solve(grid) == []


def test_base_puzzles_have_one_solution_and_the_asked_clues(bases: Puzzles) -> None:
    assert (bases.is_clue.sum(1) == 30).all()
    for clues, solution in zip(bases.clues, bases.solutions, strict=True):
        assert _is_valid(solution)
        assert solve(clues) == [solution.tolist()]


def test_base_puzzles_are_a_function_of_the_seed(bases: Puzzles) -> None:
    again = base_puzzles(3, 30, seed=3, split=Split.TRAIN)
    other = base_puzzles(1, 60, seed=4, split=Split.TRAIN)
    assert (again.solutions == bases.solutions).all()
    assert (again.is_clue == bases.is_clue).all()
    assert (other.solutions[0] != bases.solutions[0]).any()


def test_too_few_clues_are_refused() -> None:
    with pytest.raises(ConfigError, match="25 to 81"):
        base_puzzles(1, 20, seed=0, split=Split.TRAIN)


def test_varied_puzzles_are_proper_and_of_the_same_class(bases: Puzzles) -> None:
    rng = np.random.default_rng(0)
    index = np.repeat(np.arange(3), 4)
    num_clues = np.tile([30, 33, 36, 40], 3)
    varied = vary(bases.take(index), num_clues, rng)
    assert (varied.is_clue.sum(1) == num_clues).all()
    assert len(np.unique(varied.solutions, axis=0)) == 12
    for clues, solution, base in zip(varied.clues, varied.solutions, bases.solutions[index], strict=True):
        assert _is_valid(solution)
        assert solve(clues) == [solution.tolist()]
        assert symmetry_invariant(solution) == symmetry_invariant(base)


def test_invariant_tells_random_grids_apart() -> None:
    # Among a few random grids two of one class do not occur: there are over 5e9 classes.
    solutions = base_puzzles(6, 70, seed=0, split=Split.TRAIN).solutions
    assert len({symmetry_invariant(solution) for solution in solutions}) == 6


def test_splits_are_kept_apart() -> None:
    train = base_puzzles(4, 70, seed=1, split=Split.TRAIN).solutions
    test = base_puzzles(2, 70, seed=1, split=Split.TEST).solutions
    assert all(split_of(solution) is Split.TRAIN for solution in train)
    assert all(split_of(solution) is Split.TEST for solution in test)
    assert not {symmetry_invariant(s) for s in train} & {symmetry_invariant(s) for s in test}
