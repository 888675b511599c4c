"""Whether a function gives what a task's reference gives, by the rules of EvalPlus (github.com/evalplus/evalplus)."""

import copy
import json
import math
from collections.abc import Callable


def check_same_answers(candidate: Callable[..., object], *kinds: str) -> None:
    """Compare on the inputs of these kinds in ``task.json``."""
    with open("task.json", encoding="utf-8") as stream:
        task = json.load(stream)
    reference: dict = {}
    exec(task["prompt"] + task["canonical_solution"], reference)
    for given in [given for kind in kinds for given in task[kind]]:
        found = candidate(*copy.deepcopy(given))
        if task["entry_point"] == "find_zero":
            # There may be several.
            distance = abs(reference["poly"](given[0], found))
            if not distance <= task["atol"]:
                raise AssertionError(f"no zero of {given}: {found}")
            continue
        wanted = reference[task["entry_point"]](*copy.deepcopy(given))
        if not is_same(found, wanted, task["atol"]):
            raise AssertionError(f"on {given}: {found!r}, not {wanted!r}")


def is_same(found: object, wanted: object, tolerance: float) -> bool:
    """Equal; floats, in lists and tuples too, within a tolerance, 1e-6 where it is 0."""
    if isinstance(wanted, float) and isinstance(found, int | float):
        return found == wanted or math.isclose(found, wanted, rel_tol=1e-7, abs_tol=tolerance or 1e-6)
    if isinstance(wanted, list | tuple) and isinstance(found, list | tuple):
        is_alike = type(found) is type(wanted) and len(found) == len(wanted)
        return is_alike and all(is_same(*pair, tolerance) for pair in zip(found, wanted, strict=True))
    return found == wanted
