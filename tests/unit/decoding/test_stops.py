"""What stops take away from holes in place."""

from collections.abc import Sequence

import pytest

from quicksilver.decoding import (
    ConfidenceThreshold,
    FinishReason,
    Hole,
    Resize,
    SamplingParams,
    State,
    Text,
    final_result,
    infill,
)
from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.stops import drop_behind_stops, drop_stops
from quicksilver.errors import ConfigError
from tests.fakes import HashDenoiser, fake_spec

MASK = 2


def before_two_threes(token_ids: Sequence[int]) -> int | None:
    """A stop of two tokens."""
    places = [at for at in range(len(token_ids) - 1) if list(token_ids[at : at + 2]) == [13, 13]]
    return places[0] if places else None


def canvas_of(*holes: Sequence[int | None], state: State = State.FINAL) -> Canvas:
    """Holes between single tokens of a prompt; None is a mask."""
    parts = [Canvas.of_prompt([10])]
    for number, hole in enumerate(holes):
        for token in hole:
            part = Canvas.of_masks(1, mask_id=MASK, hole=number)
            if token is not None:
                part.token_ids[0], part.state[0] = token, int(state)
            parts.append(part)
        parts.append(Canvas.of_prompt([13, 13]))
    return Canvas.join(parts)


def texts(canvas: Canvas, num_holes: int = 1) -> list[list[int]]:
    return [canvas.token_ids[canvas.hole == hole].tolist() for hole in range(num_holes)]


@pytest.mark.parametrize(
    ("hole", "expected"),
    [
        ([11, 13, 13, 12, None], [11, 13, 13]),
        ([None, 12, 13, 13, None, 15], [MASK, 12, 13, 13]),  # what is in front of a stop stays open
        ([None, 13, None, 13, 13, 12], [MASK, 13, MASK, 13, 13]),
        ([11, 13, None, 13, 14], [11, 13, MASK, 13, 14]),  # a mask lies within
        ([13, 13], [13, 13]),
        ([None, None], [MASK, MASK]),
        ([], []),
    ],
)
def test_what_stands_behind_the_first_stop_goes(hole, expected):
    canvas, events = drop_behind_stops(canvas_of(hole), before_two_threes, 1)
    assert texts(canvas) == [expected]
    gone = len(hole) - len(expected)
    assert events == ([Resize(hole=0, start=len(expected), added=-gone)] if gone else [])


def test_each_hole_has_its_own_stop_and_the_text_between_stays():
    canvas, events = drop_behind_stops(canvas_of([13, 13, 11], [12, 11], [13, 13, None]), before_two_threes, 3)
    assert texts(canvas, 3) == [[13, 13], [12, 11], [13, 13]]
    assert [event.hole for event in events] == [0, 2]
    assert int((canvas.hole < 0).sum()) == 7


def test_a_stop_that_may_still_change_ends_nothing():
    canvas, events = drop_behind_stops(canvas_of([13, 13, 11], state=State.DRAFT), before_two_threes, 1)
    assert texts(canvas) == [[13, 13, 11]]
    assert not events


def test_at_last_the_stop_goes_too():
    canvas, events = drop_stops(canvas_of([11, 13, 13, 12], [12]), before_two_threes, 2)
    assert texts(canvas, 2) == [[11], [12]]
    assert events == [Resize(hole=0, start=1, added=-3)]


def test_without_a_rule_nothing_goes():
    given = canvas_of([13, 13, 11])
    assert drop_behind_stops(given, None, 1) == (given, [])
    assert drop_stops(given, None, 1) == (given, [])


def test_a_stop_saves_forwards_and_is_told_as_the_reason():
    template = (Text(token_ids=(11,)), Hole(length=12), Text(token_ids=(12,)))
    params = SamplingParams(policy=ConfidenceThreshold(threshold=1.1))
    whole = final_result(infill(HashDenoiser(18, seed=1), fake_spec(), template, params))
    # Written first, so that what is behind it need not be.
    middle = whole.token_ids[whole.step_committed[0].index(1)]

    def before_it(token_ids: Sequence[int]) -> int | None:
        return next((at for at, token in enumerate(token_ids) if token == middle), None)

    params = SamplingParams(policy=ConfidenceThreshold(threshold=1.1), stop=before_it)
    stopped = final_result(infill(HashDenoiser(18, seed=1), fake_spec(), template, params))
    assert middle not in stopped.token_ids
    assert stopped.nfe < whole.nfe == 12
    assert stopped.finish_reason is FinishReason.STOP
    assert whole.finish_reason is FinishReason.FILLED


def test_a_rule_that_keeps_more_than_there_is_is_refused():
    with pytest.raises(ConfigError, match="stop must keep"):
        drop_behind_stops(canvas_of([11]), lambda token_ids: len(token_ids) + 1, 1)
