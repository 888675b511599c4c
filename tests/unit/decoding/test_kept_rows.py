"""Which rows are computed, and when all of them are."""

import pytest
import torch

from quicksilver.decoding import Cache, Hole, SamplingParams, Text, infill
from quicksilver.decoding.kept_rows import VICINITY, KeptRows
from quicksilver.errors import ConfigError
from tests.fakes import UniformDenoiser, fake_spec

LENGTH = 60


def written(*positions: int) -> torch.Tensor:
    return torch.zeros(LENGTH, dtype=torch.bool).index_fill(0, torch.tensor(positions), value=True)


def second(cache: Cache, is_written: torch.Tensor, changed: tuple[int, ...] = (), shift: int = 0) -> list[int]:
    """The rows of the forward after the first, if tokens have changed meanwhile."""
    kept, token_ids = KeptRows(cache, None, shift), torch.arange(LENGTH)
    kept.ran(token_ids, kept.columns(token_ids, is_written))
    token_ids = token_ids.index_fill(0, torch.tensor(changed, dtype=torch.int64), 99)
    return kept.columns(token_ids, is_written).tolist()


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (Cache.EXACT, [*range(LENGTH)]),
        (Cache.PREFIX, [*range(20, LENGTH)]),
        (Cache.DUAL, [20, 21, 50]),
        (Cache.VICINITY, [*range(20 - VICINITY, 21 + VICINITY + 1), *range(21 + VICINITY + 1, LENGTH)]),
    ],
)
def test_what_each_cache_computes(cache, expected):
    # 50 - 16 = 34 lies within 21 + 16 = 37: the two vicinities meet.
    assert second(cache, written(20, 21, 50)) == expected


def test_a_vicinity_ends():
    assert second(Cache.VICINITY, written(3, 50)) == [*range(20), *range(34, LENGTH)]


def test_a_token_just_written_is_computed_once_more():
    assert second(Cache.DUAL, written(20), changed=(7, 20)) == [7, 20]
    kept, token_ids = KeptRows(Cache.DUAL, None, 0), torch.arange(LENGTH)
    kept.ran(token_ids, kept.columns(token_ids, written(7, 20)))
    for expected in ([7, 20], [20]):
        token_ids = token_ids.index_fill(0, torch.tensor([7]), 99)
        columns = kept.columns(token_ids, written(20))
        assert columns.tolist() == expected
        kept.ran(token_ids, columns)


def test_the_row_that_predicts_is_computed_too():
    assert second(Cache.DUAL, written(20, 21, 50), shift=1) == [19, 20, 21, 49, 50]
    assert second(Cache.DUAL, written(0), shift=1) == [0]


@pytest.mark.parametrize(("refresh_every", "expected"), [(None, "f......"), (1, "fffffff"), (3, "f..f..f")])
def test_all_rows_come_again(refresh_every, expected):
    kept, token_ids, found = KeptRows(Cache.DUAL, refresh_every, 0), torch.arange(LENGTH), ""
    for _ in expected:
        is_needed, columns = kept.is_needed, kept.columns(token_ids, written(20))
        assert is_needed == (len(columns) < LENGTH)
        found += "." if is_needed else "f"
        assert kept.ran(token_ids, columns) == LENGTH - len(columns)
    assert found == expected


def test_all_rows_come_after_positions_have_moved():
    kept, token_ids = KeptRows(Cache.DUAL, 3, 0), torch.arange(LENGTH)
    kept.ran(token_ids, kept.columns(token_ids, written(20)))
    kept.drop()
    assert not kept.is_needed
    shorter = torch.arange(LENGTH - 5)
    assert len(kept.columns(shorter, written(20)[:-5])) == LENGTH - 5
    kept.ran(shorter, torch.arange(LENGTH - 5))
    # Counted anew from there.
    for num_rows in (1, 1, LENGTH - 5):
        columns = kept.columns(shorter, written(20)[:-5])
        assert len(columns) == num_rows
        kept.ran(shorter, columns)


def test_tokens_that_callers_hold_stay_as_they_are():
    kept, token_ids = KeptRows(Cache.DUAL, None, 0), torch.arange(LENGTH)
    kept.ran(token_ids, torch.arange(LENGTH))
    kept.ran(token_ids + 1, torch.tensor([3]))
    assert token_ids.tolist() == list(range(LENGTH))


def test_refresh_every_needs_a_cache():
    with pytest.raises(ConfigError, match=r"refresh_every \(4\).*choose cache prefix, dual, vicinity"):
        SamplingParams(refresh_every=4)
    with pytest.raises(ConfigError, match="refresh_every must be at least 1, got 0"):
        SamplingParams(cache=Cache.DUAL, refresh_every=0)


def test_a_denoiser_without_stale_rows_is_refused():
    template = (Text(token_ids=(11,)), Hole(length=2))
    with pytest.raises(ConfigError, match="cache dual needs a denoiser that can see stale rows"):
        infill(UniformDenoiser(61), fake_spec(), template, SamplingParams(cache=Cache.DUAL))
