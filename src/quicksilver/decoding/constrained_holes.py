"""Holes in place that hold a whole text of a constraint: how long they may be, and which of a draft may stay.

An automaton has no text of some lengths: a hole for one of three words may have one token or two, but not eight. So the
length that the denoiser asks for is moved to the nearest one at which the hole can still be filled, around the tokens
that stand in it already.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.lattice import NO_TOKEN, Lattice, lattice_of
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.lengths import HoleLength, length_changes
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import ConfigError


def hole_lattice(automaton: TokenAutomaton | None, spec: DiffusionSpec, never: Iterable[int]) -> Lattice | None:
    """The constraint of a hole, in which eos is not written; None if there is none.

    Raises:
        ConfigError: it is of another tokenizer, or allows nothing that may be written.
    """
    if automaton is None:
        return None
    none = frozenset[int]()
    return lattice_of(automaton, eos_id=spec.special.eos, never=frozenset(never), ends=none, has_end=False)


def fitting_length(lattice: Lattice, number: int, wanted: int, most: int) -> int:
    """The length nearest to ``wanted`` that a text of at most ``most`` tokens has, the shorter of two.

    Raises:
        ConfigError: no text of the constraint of hole ``number`` has 1 to ``most`` tokens.
    """
    found = lattice.lengths(most)
    if not found:
        _require_room(lattice, number, f"max_length is {most}", most)
        raise ConfigError(f"the constraint of hole {number} has no text of 1 to {most} tokens")
    return min(found, key=lambda length: (abs(length - wanted), length))


def require_text(lattice: Lattice, number: int, token_ids: Sequence[int]) -> None:
    """Raise ConfigError if hole ``number`` cannot be filled at its length around ``token_ids`` that must stay.

    ``NO_TOKEN`` stands for what is to be found.
    """
    if not lattice.has_text(token_ids):
        _require_room(lattice, number, f"length is {len(token_ids)}", len(token_ids))
        kept = sum(token != NO_TOKEN for token in token_ids)
        around = f" around {kept} frozen tokens" if kept else ""
        raise ConfigError(f"the constraint of hole {number} has no text of {len(token_ids)} tokens{around}")


def _require_room(lattice: Lattice, number: int, given: str, most: int) -> None:
    least = int(lattice.distance[lattice.start])
    if least > most:
        raise ConfigError(f"the constraint of hole {number} needs at least {least} tokens, {given}")


def constrained_changes(
    canvas: Canvas,
    expand: Float[Tensor, " L"],
    delete: Float[Tensor, " L"],
    lengths: Sequence[HoleLength],
    lattices: Sequence[Lattice | None],
) -> Int[Tensor, " L"]:
    """``lengths.length_changes``, but to lengths that the holes' constraints have."""
    before = [replace(entry) for entry in lengths]
    change = length_changes(canvas, expand, delete, lengths)
    for number, (lattice, entry) in enumerate(zip(lattices, lengths, strict=True)):
        here = (canvas.hole == number).nonzero()[:, 0]
        if lattice is None or not bool(change[here].any()):
            continue
        entry.length, entry.changes_left = before[number].length, before[number].changes_left
        fitting = _fitting_change(lattice, _standing(canvas.take(here)), change[here].tolist(), entry)
        change[here] = torch.tensor(fitting)
        for by in fitting:
            if by:
                entry.change(by)
    return change


def _standing(canvas: Canvas) -> list[int]:
    return torch.where(canvas.is_masked, NO_TOKEN, canvas.token_ids).tolist()


def _fitting_change(lattice: Lattice, token_ids: list[int], wanted: list[int], entry: HoleLength) -> list[int]:
    """The change of a hole that comes nearest to the one wanted and leaves it a text; at worst none."""
    length, target = len(token_ids), len(token_ids) + sum(wanted)
    masks = [at for at, token in enumerate(token_ids) if token == NO_TOKEN]
    num_trailing = next((at for at, token in enumerate(reversed(token_ids)) if token != NO_TOKEN), length)
    # First the masks that are to expand, the last first; then the others.
    growing = sorted(masks, key=lambda at: (wanted[at] <= 0, -at))
    most = min(len(masks), entry.changes_left, entry.cap - length)
    fewest = min(num_trailing, entry.changes_left)
    for new in sorted(
        range(length - fewest, length + most + 1), key=lambda new: (abs(new - target), abs(new - length))
    ):
        change = [0] * length
        if new < length:
            change[new:] = [-1] * (length - new)
        for at in growing[: max(new - length, 0)]:
            change[at] = 1
        moved = [token for token, by in zip(token_ids, change, strict=True) for _ in range(1 + by)]
        if lattice.has_text(moved):
            return change
    return [0] * length


def unfit_drafts(canvas: Canvas, is_weak: Bool[Tensor, " L"], lattices: Sequence[Lattice | None]) -> Bool[Tensor, " L"]:
    """``is_weak`` and those drafts besides that must go so that every hole has a text around what stays.

    The least confident go first, equals by position.
    """
    is_weak = is_weak.clone()
    for number, lattice in enumerate(lattices):
        here = (canvas.hole == number).nonzero()[:, 0].tolist()
        if lattice is None:
            continue
        standing = [NO_TOKEN if is_weak[at] or canvas.is_masked[at] else int(canvas.token_ids[at]) for at in here]
        order = sorted(range(len(here)), key=lambda at: float(canvas.confidence[here[at]]))
        drafts = [at for at in order if canvas.state[here[at]] == State.DRAFT and standing[at] != NO_TOKEN]
        while drafts and not lattice.has_text(standing):
            at = drafts.pop(0)
            standing[at], is_weak[here[at]] = NO_TOKEN, True
    return is_weak
