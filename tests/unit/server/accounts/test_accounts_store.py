"""Keys, grants and bills."""

import hashlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from quicksilver.errors import AuthenticationError, ConfigError, InputError, QuotaError, StorageError
from quicksilver.server.accounts import Accounts, Limits, Prices
from tests.usages import make_usage


def contents(url: str) -> bytes:
    """All bytes of the database's files."""
    path = url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with open(path, "rb") as file:
        return file.read()


def test_a_secret_finds_its_key_and_is_kept_nowhere(accounts, url):
    key, secret = accounts.create_key("laptop", limits=Limits(requests_per_minute=None), granted_tokens=7)
    _, other = accounts.create_key("laptop")
    assert accounts.find(secret) == key
    assert accounts.find(other).id != key.id
    assert (key.name, key.limits.requests_per_minute, key.remaining_tokens) == ("laptop", None, 7)
    assert len(secret) == 3 + 43
    assert key.hint == f"qs-…{secret[-4:]}"
    data = contents(url)
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in data
    assert secret.encode() not in data


@pytest.mark.parametrize("secret", ["", "qs-", "qs-unknown", "' OR 1=1 --", "é\0"])
def test_an_unknown_secret_is_refused(accounts, secret):
    accounts.create_key("laptop")
    with pytest.raises(AuthenticationError, match="no such API key"):
        accounts.find(secret)


def test_a_revoked_key_is_refused_at_once_by_whoever_has_the_database_open(accounts, url):
    key, secret = accounts.create_key("laptop")
    accounts.find(secret)
    command = Accounts.open(url)
    revoked = command.revoke("laptop")
    command.close()
    with pytest.raises(AuthenticationError, match=f"{key.hint} was revoked on"):
        accounts.find(secret)
    assert accounts.revoke(key.id) == revoked
    assert accounts.keys() == [revoked]


def test_names_are_enough_where_they_are_clear(accounts):
    first, _ = accounts.create_key("ci")
    second, _ = accounts.create_key("ci")
    with pytest.raises(InputError, match=f"2 API keys are called 'ci': give an id, .*{second.id}"):
        accounts.revoke("ci")
    accounts.revoke(first.id)
    assert accounts.revoke("ci").id == second.id
    with pytest.raises(InputError, match="no API key has the id 'ci'"):
        accounts.revoke("ci")


@pytest.mark.parametrize(
    ("name", "grant", "message"),
    [("", 1, "1 to 100"), ("a" * 101, 1, "1 to 100"), ("a\nb", 1, "1 to 100"), ("a", -1, "-1")],
)
def test_what_cannot_be_a_key(accounts, name, grant, message):
    with pytest.raises(ConfigError, match=message):
        accounts.create_key(name, granted_tokens=grant)
    assert accounts.keys() == []


def test_a_bill_is_written_once(accounts):
    key, secret = accounts.create_key("laptop", granted_tokens=100)
    once = make_usage("r1", key.id)
    assert accounts.record(once)
    assert not accounts.record(once)
    assert accounts.find(secret).remaining_tokens == 85
    with pytest.raises(StorageError, match="another request with this id"):
        accounts.record(make_usage("r1", key.id, output_tokens=6))
    assert accounts.find(secret).used_tokens == 15
    assert [total.requests for total in accounts.totals()] == [1]


def test_moments_in_other_zones_are_the_same_moments(accounts):
    key, _ = accounts.create_key("laptop")
    at = datetime(2026, 11, 25, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    accounts.record(make_usage("r1", key.id, finished_at=at))
    assert not accounts.record(make_usage("r1", key.id, finished_at=at.astimezone(UTC)))
    assert accounts.totals()[0].day == date(2026, 11, 24)


def test_an_unknown_key_is_not_billed(accounts):
    with pytest.raises(StorageError, match="there is no API key key_x"):
        accounts.record(make_usage("r1", "key_x"))
    assert accounts.totals() == []


def test_a_server_without_keys_counts_too(accounts):
    accounts.record(make_usage("r1", None))
    assert [(total.key_id, total.requests) for total in accounts.totals()] == [(None, 1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"cached_tokens": 11},
        {"cached_tokens": -1},
        {"output_tokens": -1},
        {"nfe": -1},
        {"finished_at": datetime(2026, 11, 25)},
    ],
)
def test_impossible_usage_is_an_error(changes):
    with pytest.raises(ConfigError, match="usage of r1"):
        make_usage("r1", None, **changes)


def test_a_grant_covers_running_requests_together(accounts):
    key, secret = accounts.create_key("laptop", granted_tokens=100)
    accounts.reserve(key.id, 60)
    with pytest.raises(QuotaError, match=r"may take 41 tokens, the API key has 100 left, of which .* hold 60"):
        accounts.reserve(key.id, 41)
    accounts.reserve(key.id, 40)
    accounts.record(make_usage("r1", key.id))
    accounts.release(key.id, 60)
    with pytest.raises(QuotaError, match="46 tokens"):
        accounts.reserve(key.id, 46)
    accounts.reserve(key.id, 45)
    assert accounts.find(secret).remaining_tokens == 85
    assert accounts.grant(key.id, 5).remaining_tokens == 90
    accounts.reserve(key.id, 5)


def test_a_key_without_limit_is_never_spent(accounts):
    key, _ = accounts.create_key("laptop", granted_tokens=None)
    accounts.reserve(key.id, 10**15)
    assert accounts.grant("laptop", 5).remaining_tokens is None
    with pytest.raises(ConfigError, match="0 more tokens"):
        accounts.grant("laptop", 0)


def test_totals_by_day_key_and_model(url):
    accounts = Accounts.open(url, prices=Prices(input=Decimal("0.25"), cached=Decimal("0.025"), output=Decimal("0.75")))
    one, two = (accounts.create_key(name)[0].id for name in ("one", "two"))
    late = datetime(2026, 11, 25, 23, 59, 59, 999_999, tzinfo=UTC)
    for number, (key, model, at) in enumerate(
        [
            (one, "a", late),
            (one, "a", late),
            (one, "b", late),
            (two, "a", late),
            (one, "a", late + timedelta(microseconds=1)),
        ]
    ):
        accounts.record(make_usage(f"r{number}", key, model=model, finished_at=at))
    found = accounts.totals()
    assert sorted((t.day.day, t.key_id, t.model, t.requests) for t in found) == sorted(
        [(25, one, "a", 2), (25, one, "b", 1), (25, two, "a", 1), (26, one, "a", 1)]
    )
    both = next(t for t in found if t.requests == 2)
    assert (both.input_tokens, both.cached_tokens, both.output_tokens, both.nfe) == (20, 8, 10, 6)
    assert both.cost_nanodollars == 2 * (6 * 250 + 4 * 25 + 5 * 750)
    assert {t.key_id for t in accounts.totals(key_id=two)} == {two}
    assert [t.day.day for t in accounts.totals(first_day=date(2026, 11, 26))] == [26]
    assert {t.day.day for t in accounts.totals(last_day=date(2026, 11, 25))} == {25}
    accounts.close()


def test_threads_bill_every_request_once(accounts):
    key, secret = accounts.create_key("laptop")
    # Every request is billed by two threads.
    names = [f"r{number // 2}" for number in range(80)]
    with ThreadPoolExecutor(8) as pool:
        is_new = list(pool.map(lambda name: accounts.record(make_usage(name, key.id)), names))
    assert sum(is_new) == 40
    assert accounts.find(secret).used_tokens == 40 * 15
    assert accounts.totals()[0].requests == 40


def test_threads_never_hold_more_than_the_grant(accounts):
    key, secret = accounts.create_key("laptop", granted_tokens=100)

    def run(number: int) -> bool:
        try:
            accounts.reserve(key.id, 15)
        except QuotaError:
            return False
        accounts.record(make_usage(f"r{number}", key.id))
        accounts.release(key.id, 15)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(run, range(60))) == 6
    assert accounts.find(secret).remaining_tokens == 10
