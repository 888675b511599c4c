"""Loops of the programmes over columns and of the scores of classes, compiled by numba.

The import compiles them, for exactly the types written here, and keeps them on disk: it takes seconds once on a
machine. Loops let the interpreter's lock go. Nothing here checks its arguments: callers do.

Legend and layouts as in ``lattice`` and ``programme``. ``first``, ``other`` and ``sets`` are those of a
``lattice.Direction``.
"""

from functools import partial
from typing import no_type_check

import numpy as np

from quicksilver.errors import ConfigError

try:
    from numba import boolean, float32, float64, int64, njit, types
except ModuleNotFoundError as error:
    raise ConfigError("constraints need numba: pip install 'quicksilver-lm[constraints]'") from error

_LOGITS, _TABLE, _NUMBERS, _INDEX = float32[:, ::1], float64[:, ::1], float64[::1], int64[::1]
_FLAGS = boolean[:, ::1]
_TEXT = types.Tuple((_INDEX, _INDEX, _INDEX))
_kernel = partial(njit, cache=True, nogil=True, error_model="numpy")
# Sums and maxima of many numbers without NaN may be taken in any order, so in vectors.
_reducing_kernel = partial(_kernel, fastmath={"reassoc", "nsz", "nnan"})

FAINTEST_SUM = 1e-250
"""Sums of plain weights smaller than this are taken again by logarithms."""
FAINTEST_PART = 1e-26
"""The same of float32 weights, whose least normal number is 1e-38."""


@_reducing_kernel(_TABLE(_LOGITS, _INDEX))
@no_type_check
def greatest_of_classes(values, first_token):
    """Of every row, the greatest value of every class: [N, C], float64."""
    num_rows, num_classes = len(values), len(first_token) - 1
    found = np.empty((num_rows, num_classes))
    for row in range(num_rows):
        for kind in range(num_classes):
            best = values[row, first_token[kind]]
            for place in range(first_token[kind] + 1, first_token[kind + 1]):
                best = max(best, values[row, place])
            found[row, kind] = best
    return found


@_kernel(_NUMBERS(_LOGITS, _INDEX, _INDEX, _INDEX))
@no_type_check
def second_of_classes(values, rows, kinds, first_token):
    """The greatest value of a class beside its greatest, in each of the rows: [n]."""
    found = np.full(len(rows), -np.inf)
    for at in range(len(rows)):
        best = -np.inf
        for place in range(first_token[kinds[at]], first_token[kinds[at] + 1]):
            value = np.float64(values[rows[at], place])
            if value > best:
                best, found[at] = value, best
            elif value > found[at]:
                found[at] = value
    return found


@_reducing_kernel(float64(_LOGITS, int64, int64, int64))
@no_type_check
def _sum_between(parts, row, first, stop):
    total = 0.0
    for place in range(first, stop):
        total += np.float64(parts[row, place])
    return total


@_kernel(_TABLE(_LOGITS, _LOGITS, _TABLE, _INDEX, float64))
@no_type_check
def totals_of_classes(values, parts, greatest, first_token, temperature):
    """Of every row, the logarithm of the summed exponentials of every class at the temperature: [N, C].

    ``parts`` are e^((values - greatest of the row) / temperature) in float32.
    """
    num_rows, num_classes = greatest.shape
    found = np.empty((num_rows, num_classes))
    for row in range(num_rows):
        top = greatest[row].max() / temperature
        for kind in range(num_classes):
            first, stop = first_token[kind], first_token[kind + 1]
            peak = greatest[row, kind] / temperature
            if stop - first == 1 or peak == -np.inf:
                found[row, kind] = peak
                continue
            total = _sum_between(parts, row, first, stop)
            if total > FAINTEST_PART:
                found[row, kind] = np.log(total) + top
                continue
            total = 0.0
            for place in range(first, stop):
                total += np.exp(np.float64(values[row, place]) / temperature - peak)
            found[row, kind] = np.log(total) + peak
    return found


@_kernel(_TABLE(_TABLE, _INDEX, _INDEX))
@no_type_check
def greatest_of_sets(greatest, first_member, member_class):
    """Of every row, the greatest value of every set: [N, K]."""
    num_rows, num_sets = len(greatest), len(first_member) - 1
    found = np.empty((num_rows, num_sets))
    for row in range(num_rows):
        for number in range(num_sets):
            best = -np.inf
            for member in range(first_member[number], first_member[number + 1]):
                best = max(best, greatest[row, member_class[member]])
            found[row, number] = best
    return found


@_kernel(_TABLE(_TABLE, _INDEX, _INDEX))
@no_type_check
def totals_of_sets(totals, first_member, member_class):
    """Of every row, the logarithm of the summed exponentials of every set: [N, K]."""
    num_rows, num_sets = len(totals), len(first_member) - 1
    found = np.empty((num_rows, num_sets))
    for row in range(num_rows):
        top = totals[row].max()
        plain = np.exp(totals[row] - top)
        for number in range(num_sets):
            first, stop = first_member[number], first_member[number + 1]
            if stop - first == 1:
                found[row, number] = totals[row, member_class[first]]
                continue
            total = 0.0
            for member in range(first, stop):
                total += plain[member_class[member]]
            if total > FAINTEST_SUM:
                found[row, number] = np.log(total) + top
                continue
            peak = -np.inf
            for member in range(first, stop):
                peak = max(peak, totals[row, member_class[member]])
            total = 0.0
            if peak > -np.inf:
                for member in range(first, stop):
                    total += np.exp(totals[row, member_class[member]] - peak)
            found[row, number] = np.log(total) + peak if peak > -np.inf else -np.inf
    return found


@_kernel(_TABLE(_TABLE, _INDEX, _INDEX, _FLAGS))
@no_type_check
def weights_of_columns(per_set, rows, kinds, has_class):
    """Logarithmic weights of the sets in all columns, [L, K]: those of a row, or whether a class fits, or 0."""
    num_sets = per_set.shape[1]
    found = np.zeros((len(rows), num_sets))
    for column in range(len(rows)):
        if rows[column] >= 0:
            found[column] = per_set[rows[column]]
        elif kinds[column] >= 0:
            for number in range(num_sets):
                if not has_class[number, kinds[column]]:
                    found[column, number] = -np.inf
    return found


@_kernel(_FLAGS(int64, boolean[::1], _INDEX, _FLAGS, _INDEX, _INDEX, _INDEX))
@no_type_check
def states_between(start, goals, kinds, has_class, first, other, sets):
    """The states in front of every column that lie on a way from the start to a goal: [L + 1, S]."""
    length, num_states = len(kinds), len(goals)
    found = np.zeros((length + 1, num_states), np.bool_)
    found[0, start] = True
    for column in range(length):
        for state in found[column].nonzero()[0]:
            for pair in range(first[state], first[state + 1]):
                if kinds[column] < 0 or has_class[sets[pair], kinds[column]]:
                    found[column + 1, other[pair]] = True
    found[length] &= goals
    for column in range(length - 1, -1, -1):
        for state in found[column].nonzero()[0]:
            leads_on = False
            for pair in range(first[state], first[state + 1]):
                if kinds[column] < 0 or has_class[sets[pair], kinds[column]]:
                    leads_on |= found[column + 1, other[pair]]
            found[column, state] = leads_on
    return found


@_kernel(types.UniTuple(int64, 3)(int64, int64, boolean))
@no_type_check
def _places(step, length, is_backward):
    """Column of a step of a sweep, where its messages come from, and where they go."""
    if is_backward:
        column = length - 1 - step
        return column, column + 1, column
    return step, step, step + 1


@_kernel(_TABLE(_TABLE, _FLAGS, _INDEX, _INDEX, _INDEX))
@no_type_check
def sweep_greatest(weights, between, first, other, sets):
    """Messages of the max-product programme from its end, logarithms, of the states ``between``: [L + 1, S]."""
    length, num_states = len(weights), between.shape[1]
    found = np.full((length + 1, num_states), -np.inf)
    found[length] = np.where(between[length], 0.0, -np.inf)
    for column in range(length - 1, -1, -1):
        for state in range(num_states):
            if between[column, state]:
                best = -np.inf
                for pair in range(first[state], first[state + 1]):
                    best = max(best, weights[column, sets[pair]] + found[column + 1, other[pair]])
                found[column, state] = best
    return found


@_kernel(_TABLE(_TABLE, _FLAGS, _INDEX, _INDEX, _INDEX, boolean))
@no_type_check
def sweep_plain(weights, between, first, other, sets, is_backward):
    """Messages of the sum-product programme, every column's scaled to a greatest of 1: [L + 1, S]."""
    length, num_states = len(weights), between.shape[1]
    found = np.zeros((length + 1, num_states))
    begin = length if is_backward else 0
    found[begin] = np.where(between[begin], 1.0, 0.0)
    for step in range(length):
        column, source, target = _places(step, length, is_backward)
        most = 0.0
        for state in range(num_states):
            if between[target, state]:
                total = 0.0
                for pair in range(first[state], first[state + 1]):
                    total += weights[column, sets[pair]] * found[source, other[pair]]
                found[target, state] = total
                most = max(most, total)
        if most > 0.0:
            found[target] /= most
    return found


@_kernel(_TABLE(_TABLE, _FLAGS, _INDEX, _INDEX, _INDEX, boolean))
@no_type_check
def sweep_logs(weights, between, first, other, sets, is_backward):
    """Messages of the sum-product programme, logarithms of any range: [L + 1, S]."""
    length, num_states = len(weights), between.shape[1]
    found = np.full((length + 1, num_states), -np.inf)
    begin = length if is_backward else 0
    found[begin] = np.where(between[begin], 0.0, -np.inf)
    for step in range(length):
        column, source, target = _places(step, length, is_backward)
        for state in range(num_states):
            if between[target, state]:
                total = -np.inf
                for pair in range(first[state], first[state + 1]):
                    total = np.logaddexp(total, weights[column, sets[pair]] + found[source, other[pair]])
                found[target, state] = total
    return found


@_kernel(_TABLE(_TABLE, _TABLE, _TABLE, _INDEX, _INDEX, _INDEX, _INDEX, _INDEX, int64))
@no_type_check
def shares_of_classes(forward, backward, weights, first, other, sets, first_member, member_class, num_classes):
    """Per class, the weight of all ways that have a token of it in a column, over that of all ways: [L, C].

    All three weights are plain, not logarithms.
    """
    length, num_sets = weights.shape
    found = np.zeros((length, num_classes))
    ways = np.empty(num_sets)
    for column in range(length):
        ways[:] = 0.0
        for state in range(forward.shape[1]):
            before = forward[column, state]
            if before == 0.0:
                continue
            for pair in range(first[state], first[state + 1]):
                ways[sets[pair]] += before * backward[column + 1, other[pair]]
        all_ways = 0.0
        for number in range(num_sets):
            all_ways += ways[number] * weights[column, number]
        for number in range(num_sets):
            if ways[number] > 0.0:
                for member in range(first_member[number], first_member[number + 1]):
                    found[column, member_class[member]] += ways[number] / all_ways
    return found


@_kernel(_TABLE(_TABLE, _TABLE, _TABLE, _INDEX, _INDEX, _INDEX, _INDEX, _INDEX, int64))
@no_type_check
def log_shares_of_classes(forward, backward, weights, first, other, sets, first_member, member_class, num_classes):
    """The logarithms of the same, of logarithms."""
    length, num_sets = weights.shape
    found = np.full((length, num_classes), -np.inf)
    ways = np.empty(num_sets)
    for column in range(length):
        ways[:] = -np.inf
        for state in range(forward.shape[1]):
            for pair in range(first[state], first[state + 1]):
                way = forward[column, state] + backward[column + 1, other[pair]]
                ways[sets[pair]] = np.logaddexp(ways[sets[pair]], way)
        all_ways = -np.inf
        for number in range(num_sets):
            all_ways = np.logaddexp(all_ways, ways[number] + weights[column, number])
        for number in range(num_sets):
            for member in range(first_member[number], first_member[number + 1]):
                kind = member_class[member]
                found[column, kind] = np.logaddexp(found[column, kind], ways[number] - all_ways)
    return found


@_kernel(int64(_LOGITS, int64, int64, int64))
@no_type_check
def _best_place(values, row, first, stop):
    """The greatest token of a class, the first among equals, which has the lowest id."""
    best = first
    for place in range(first + 1, stop):
        if values[row, place] > values[row, best]:
            best = place
    return best


@_kernel(types.UniTuple(int64, 2)(int64, int64, _LOGITS, _TABLE, _INDEX, _INDEX, _INDEX, _INDEX))
@no_type_check
def _best_of_set(number, row, values, greatest, token_ids, first_token, first_member, member_class):
    """Place and class of the greatest token of a set, the lowest id among equals."""
    best_place, best_kind, best = -1, -1, -np.inf
    for member in range(first_member[number], first_member[number + 1]):
        kind = member_class[member]
        value = greatest[row, kind]
        if value < best:
            continue
        place = _best_place(values, row, first_token[kind], first_token[kind + 1])
        if best_place < 0 or value > best or token_ids[place] < token_ids[best_place]:
            best_place, best_kind, best = place, kind, value
    return best_place, best_kind


@_kernel(
    _TEXT(
        _TABLE, _TABLE, int64, _INDEX, _INDEX, _INDEX, _INDEX, _INDEX, _LOGITS, _TABLE, _INDEX, _INDEX, _INDEX, _INDEX
    )
)
@no_type_check
def trace_greatest(
    weights, backward, start, rows, kinds, first, other, sets,
    values, greatest, token_ids, first_token, first_member, member_class,
):  # fmt: skip
    """The best text by ``sweep_greatest``'s messages: states [L + 1], places and classes [L]."""
    length, state = len(rows), start
    states, places, found = np.empty(length + 1, np.int64), np.full(length, -1), kinds.copy()
    states[0] = start
    for column in range(length):
        best = -np.inf
        for pair in range(first[state], first[state + 1]):
            best = max(best, weights[column, sets[pair]] + backward[column + 1, other[pair]])
        chosen = -1
        for pair in range(first[state], first[state + 1]):
            if weights[column, sets[pair]] + backward[column + 1, other[pair]] < best:
                continue
            if rows[column] < 0:
                chosen = pair
                break
            place, kind = _best_of_set(
                sets[pair], rows[column], values, greatest, token_ids, first_token, first_member, member_class
            )
            if chosen < 0 or token_ids[place] < token_ids[places[column]]:
                chosen, places[column], found[column] = pair, place, kind
        state = other[chosen]
        states[column + 1] = state
    return states, places, found


@_kernel(int64(_NUMBERS, int64, float64))
@no_type_check
def _drawn(weights, count, uniform):
    """The index that a uniform number in (0, 1) draws by unnormalised weights."""
    total = 0.0
    for at in range(count):
        total += weights[at]
    mark, steps = uniform * total, 0.0
    for at in range(count):
        steps += weights[at]
        if steps > mark:
            return at
    return count - 1


@_kernel(types.void(_NUMBERS, int64))
@no_type_check
def _plain(logs, count):
    """Turn logarithms into weights, in place, the greatest 1."""
    most = logs[0]
    for at in range(1, count):
        most = max(most, logs[at])
    for at in range(count):
        logs[at] = np.exp(logs[at] - most)


@_kernel(int64(_LOGITS, _LOGITS, int64, int64, int64, float64, float64, _NUMBERS))
@no_type_check
def _drawn_place(values, parts, row, first, stop, temperature, uniform, room):
    """A token of a class by its probability at the temperature."""
    count = stop - first
    for at in range(count):
        room[at] = parts[row, first + at]
    if room[:count].sum() <= FAINTEST_PART:
        for at in range(count):
            room[at] = np.float64(values[row, first + at]) / temperature
        _plain(room, count)
    return first + _drawn(room, count, uniform)


@_kernel(
    _TEXT(
        _TABLE,
        _TABLE,
        int64,
        _INDEX,
        _INDEX,
        _TABLE,
        _INDEX,
        _INDEX,
        _INDEX,
        _LOGITS,
        _LOGITS,
        _TABLE,
        float64,
        _INDEX,
        _INDEX,
        _INDEX,
    )
)
@no_type_check
def sample_columns(
    weights, log_backward, start, rows, kinds, uniforms, first, other, sets,
    values, parts, totals, temperature, first_token, first_member, member_class,
):  # fmt: skip
    """An exact sample, from the first column on: states [L + 1], places and classes [L]."""
    length, state = len(rows), start
    states, places, found = np.empty(length + 1, np.int64), np.full(length, -1), kinds.copy()
    states[0] = start
    room = np.empty(max(values.shape[1], len(sets), len(member_class)))
    for column in range(length):
        begin, count = first[state], first[state + 1] - first[state]
        chosen = begin
        if count > 1:
            for at in range(count):
                room[at] = weights[column, sets[begin + at]] + log_backward[column + 1, other[begin + at]]
            _plain(room, count)
            chosen = begin + _drawn(room, count, uniforms[column, 0])
        row = rows[column]
        if row >= 0:
            member = first_member[sets[chosen]]
            members = first_member[sets[chosen] + 1] - member
            if members > 1:
                for at in range(members):
                    room[at] = totals[row, member_class[member + at]]
                _plain(room, members)
                member += _drawn(room, members, uniforms[column, 1])
            kind = member_class[member]
            found[column] = kind
            places[column] = _drawn_place(
                values, parts, row, first_token[kind], first_token[kind + 1], temperature, uniforms[column, 2], room
            )
        state = other[chosen]
        states[column + 1] = state
    return states, places, found
