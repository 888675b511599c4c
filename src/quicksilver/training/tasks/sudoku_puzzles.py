"""9x9 sudoku: puzzles with exactly one solution, their symmetries, and a split that no symmetry crosses.

Legend: N puzzles. Cells are numbered 0..80 row by row; a grid holds digits 1..9 and 0 where unknown. Sets of digits are
9-bit masks.

A puzzle that has one solution keeps it when clues are added. So one base puzzle with few clues, any of the symmetries
of sudoku and any choice of added clues give an endless stream of puzzles that need no further search.
"""

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from jaxtyping import Bool, Int
from rich.console import Console
from rich.progress import track

from quicksilver.errors import ConfigError

CELLS = 81
_ALL_DIGITS = 0b111111111
_ROW = [cell // 9 for cell in range(CELLS)]
_COLUMN = [cell % 9 for cell in range(CELLS)]
_BOX = [cell // 27 * 3 + cell % 9 // 3 for cell in range(CELLS)]
_UNITS = [
    [cell for cell in range(CELLS) if index[cell] == unit] for index in (_ROW, _COLUMN, _BOX) for unit in range(9)
]
_UNITS_OF = [[unit for unit in _UNITS if cell in unit] for cell in range(CELLS)]
_TEST_SHARE = 10
"""One symmetry class in so many belongs to the test split."""


class Split(StrEnum):
    """Which symmetry classes of solutions a puzzle may come from."""

    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Puzzles:
    """Puzzles with their only solutions."""

    solutions: Int[np.ndarray, "N 81"]
    is_clue: Bool[np.ndarray, "N 81"]

    def __len__(self) -> int:
        return len(self.solutions)

    @property
    def clues(self) -> Int[np.ndarray, "N 81"]:
        """The grids as a person gets them: 0 where unknown."""
        return np.where(self.is_clue, self.solutions, 0)

    def take(self, index: Int[np.ndarray, " M"]) -> Self:
        """The puzzles at ``index``, repeats allowed."""
        return type(self)(self.solutions[index], self.is_clue[index])


class _Board:
    """A grid under search, with the digits still free in every unit."""

    def __init__(self, grid: list[int]) -> None:
        self.grid = [0] * CELLS
        self._rows, self._columns, self._boxes = [_ALL_DIGITS] * 9, [_ALL_DIGITS] * 9, [_ALL_DIGITS] * 9
        self.is_consistent = True
        for cell, digit in enumerate(grid):
            if digit:
                self.is_consistent &= bool(self.candidates(cell) & (1 << digit - 1))
                self.put(cell, digit)

    def candidates(self, cell: int) -> int:
        """Digits that no other cell of the three units holds."""
        return self._rows[_ROW[cell]] & self._columns[_COLUMN[cell]] & self._boxes[_BOX[cell]]

    def put(self, cell: int, digit: int) -> None:
        self.grid[cell] = digit
        bit = 1 << digit - 1
        self._rows[_ROW[cell]] &= ~bit
        self._columns[_COLUMN[cell]] &= ~bit
        self._boxes[_BOX[cell]] &= ~bit

    def lift(self, cell: int) -> None:
        """Undo ``put``."""
        bit = 1 << self.grid[cell] - 1
        self.grid[cell] = 0
        self._rows[_ROW[cell]] |= bit
        self._columns[_COLUMN[cell]] |= bit
        self._boxes[_BOX[cell]] |= bit

    def is_forced(self, cell: int, digit: int) -> bool:
        """Whether an empty cell must hold ``digit`` by a naked or a hidden single."""
        bit = 1 << digit - 1
        if self.candidates(cell) == bit:
            return True
        return any(
            not any(self.grid[other] == 0 and other != cell and self.candidates(other) & bit for other in unit)
            for unit in _UNITS_OF[cell]
        )

    def solutions(self, limit: int, rng: np.random.Generator | None = None) -> list[list[int]]:
        """Up to ``limit`` solutions by depth-first search at the cell with the fewest candidates."""
        found: list[list[int]] = []
        if self.is_consistent:
            self._search(found, limit, rng)
        return found

    def _search(self, found: list[list[int]], limit: int, rng: np.random.Generator | None) -> None:
        best, best_mask, fewest = -1, 0, 10
        for cell in range(CELLS):
            if self.grid[cell]:
                continue
            mask = self.candidates(cell)
            count = mask.bit_count()
            if count < fewest:
                best, best_mask, fewest = cell, mask, count
                if count < 2:
                    break
        if best < 0:
            found.append(self.grid.copy())
            return
        digits = [digit for digit in range(1, 10) if best_mask & (1 << digit - 1)]
        for digit in digits if rng is None else rng.permutation(digits).tolist():
            self.put(best, digit)
            self._search(found, limit, rng)
            self.lift(best)
            if len(found) >= limit:
                return


def solve(grid: Int[np.ndarray, "81"], limit: int = 2) -> list[list[int]]:
    """Up to ``limit`` solutions of a grid; two of them show that it is no proper puzzle."""
    return _Board(grid.tolist()).solutions(limit)


def symmetry_invariant(solution: Int[np.ndarray, "81"]) -> int:
    """A number that all images of a solution under the symmetries of sudoku share.

    Two rows of a solution define a permutation of the digits. Its cycle lengths do not change when digits are renamed
    or columns permuted; the collection over all pairs of rows, and of columns, in any order, is left alone by the other
    symmetries too.
    """
    grid = solution.reshape(9, 9)
    halves = sorted(_line_cycles(lines.tolist()) for lines in (grid, grid.T))
    return zlib.crc32(repr(halves).encode())


def _line_cycles(lines: list[list[int]]) -> list[list[list[int]]]:
    near, far = [], []
    for a in range(9):
        for b in range(a):
            (near if a // 3 == b // 3 else far).append(_cycle_lengths(dict(zip(lines[a], lines[b], strict=True))))
    return [sorted(near), sorted(far)]


def _cycle_lengths(permutation: dict[int, int]) -> list[int]:
    """Sorted; a permutation and its inverse have the same."""
    lengths, left = [], set(permutation)
    while left:
        digit, length = left.pop(), 1
        while (digit := permutation[digit]) in left:
            left.remove(digit)
            length += 1
        lengths.append(length)
    return sorted(lengths)


def split_of(solution: Int[np.ndarray, "81"]) -> Split:
    """The split a solution and all its symmetric images belong to."""
    return Split.TEST if symmetry_invariant(solution) % _TEST_SHARE == 0 else Split.TRAIN


def base_puzzles(count: int, num_clues: int, *, seed: int, split: Split) -> Puzzles:
    """Puzzles with exactly ``num_clues`` clues, a pure function of the arguments. Shows a progress bar on a terminal.

    Clues are taken out of a random solution in random order as long as the solution stays the only one.

    Args:
        count: how many.
        num_clues: at least 25; random puzzles without a superfluous clue have 24 or 25, so fewer are seldom reached.
        seed: of the stream of grids.
        split: solutions of the other split are passed over.
    """
    if count < 1 or not 25 <= num_clues <= CELLS:
        raise ConfigError(f"need at least one puzzle with 25 to 81 clues, got {count} with {num_clues}")
    rng = np.random.Generator(np.random.Philox(key=[seed, split is Split.TEST]))
    solutions, clues = [], []
    console = Console(stderr=True)
    for _ in track(range(count), f"{split} puzzles", console=console, transient=True, disable=not console.is_terminal):
        solution, is_clue = _base_puzzle(num_clues, split, rng)
        solutions.append(solution)
        clues.append(is_clue)
    return Puzzles(np.array(solutions, dtype=np.int64), np.array(clues))


def _base_puzzle(num_clues: int, split: Split, rng: np.random.Generator) -> tuple[list[int], list[bool]]:
    while True:
        solution = _random_solution(rng)
        if split_of(np.array(solution)) is not split:
            continue
        board = _Board(solution)
        left = CELLS
        for cell in rng.permutation(CELLS).tolist():
            if left == num_clues:
                return solution, [digit > 0 for digit in board.grid]
            left -= _take_out(board, cell)


def _random_solution(rng: np.random.Generator) -> list[int]:
    # The first row is free to be any permutation; fixing it first saves search.
    return _Board([*(rng.permutation(9) + 1).tolist(), *[0] * 72]).solutions(1, rng)[0]


def _take_out(board: _Board, cell: int) -> bool:
    """Remove a clue if the solution stays the only one; says whether it did."""
    digit = board.grid[cell]
    board.lift(cell)
    if board.is_forced(cell, digit):
        return True
    for other in range(1, 10):
        if other != digit and board.candidates(cell) & (1 << other - 1):
            board.put(cell, other)
            has_second = bool(board.solutions(1))
            board.lift(cell)
            if has_second:
                board.put(cell, digit)
                return False
    return True


def vary(bases: Puzzles, num_clues: Int[np.ndarray, " N"], rng: np.random.Generator) -> Puzzles:
    """A random symmetric image of each puzzle, with clues added up to ``num_clues`` at random cells."""
    count = len(bases)
    cells = _lines(count, rng)[:, :, None] * 9 + _lines(count, rng)[:, None, :]
    is_transposed = rng.random(count) < 0.5
    cells = np.where(is_transposed[:, None, None], cells.transpose(0, 2, 1), cells).reshape(count, CELLS)
    digits = np.pad(rng.random((count, 9)).argsort(1) + 1, ((0, 0), (1, 0)))
    solutions = np.take_along_axis(digits, np.take_along_axis(bases.solutions, cells, 1), 1)
    is_clue = np.take_along_axis(bases.is_clue, cells, 1)
    # Clues first, then the other cells in random order.
    order = np.where(is_clue, -1.0, rng.random((count, CELLS))).argsort(1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(CELLS)[None].repeat(count, 0), 1)
    return Puzzles(solutions, is_clue | (rank < num_clues[:, None]))


def _lines(count: int, rng: np.random.Generator) -> np.ndarray:
    """Orders of nine lines that keep the three bands together, [count, 9]."""
    bands, inside = rng.random((count, 3)).argsort(1), rng.random((count, 3, 3)).argsort(2)
    return (bands[:, :, None] * 3 + inside).reshape(count, 9)


def held_out_puzzles(count: int, min_clues: int, max_clues: int, seed: int) -> Puzzles:
    """Puzzles of the test split, each from a solution grid of its own, clue counts spread evenly over the range."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1 << 32]))
    num_clues = min_clues + np.arange(count) % (max_clues - min_clues + 1)
    return vary(base_puzzles(count, min_clues, seed=seed, split=Split.TEST), num_clues, rng)
