"""Keys from the command line, kept in a temporary home."""

import re

import pytest

from quicksilver.server.accounts import DEFAULT_GRANT_TOKENS, Accounts, Limits
from tests.usages import make_usage


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSILVER_HOME", str(tmp_path))
    return tmp_path


def test_a_key_is_printed_once_and_lets_in(quicksilver):
    outcome = quicksilver("keys", "create", "laptop")
    assert outcome.status == 0
    secret = outcome.out.strip()
    accounts = Accounts.open()
    key = accounts.find(secret)
    accounts.close()
    assert (key.name, key.limits, key.granted_tokens) == ("laptop", Limits(), DEFAULT_GRANT_TOKENS)
    assert outcome.err == f"{key.id} laptop: keep the key, it is not shown again\n"
    assert secret not in quicksilver("keys", "list").out + quicksilver("keys", "list", "--json").out


def test_limits_and_grant_for_programs(quicksilver, home):
    url = f"sqlite:///{home / 'other.db'}"
    made = quicksilver(
        *("keys", "create", "ci", "--json", "--database", url, "--grant", "unlimited", "--requests-per-minute", "5"),
        *("--input-tokens-per-minute", "unlimited", "--output-tokens-per-minute", "70"),
    ).json
    secret = made.pop("key")
    assert made["limits"] == {
        "requests_per_minute": 5,
        "input_tokens_per_minute": None,
        "output_tokens_per_minute": 70,
    }
    assert (made["granted_tokens"], made["remaining_tokens"], made["used_tokens"]) == (None, None, 0)
    assert made["hint"] == f"qs-…{secret[-4:]}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", made["created_at"])
    assert quicksilver("keys", "list", "--json", "--database", url).json == [made]
    assert quicksilver("keys", "list", "--json").json == []


def test_a_key_is_extended_and_revoked(quicksilver):
    made = quicksilver("keys", "create", "ci", "--json", "--grant", "20").json
    accounts = Accounts.open()
    accounts.record(make_usage("r1", made["id"]))
    assert quicksilver("keys", "grant", "ci", "2000000", "--json").json["remaining_tokens"] == 2_000_005
    assert "15 of 2M" in quicksilver("keys", "list").out
    assert quicksilver("keys", "revoke", made["id"], "--json").json["revoked_at"] is not None
    assert made["id"] in quicksilver("keys", "revoke", made["id"]).out
    accounts.close()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("create", "a", "--grant", "ten"), 2, "'ten' is neither a whole number nor unlimited"),
        (("create", "a", "--requests-per-minute", "0"), 2, "lets nothing pass"),
        (("create", ""), 2, "1 to 100 printable"),
        (("revoke", "a"), 2, "no API key has the id 'a'"),
        (("grant", "a", "0"), 2, "give 1 or more"),
        (("list", "--database", "accounts.db"), 2, "URL does not read"),
        (("list", "--database", "sqlite:////nowhere/accounts.db"), 1, "unable to open"),
    ],
)
def test_what_cannot_be_done_is_one_line(quicksilver, arguments, status, message):
    outcome = quicksilver("keys", *arguments)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (status, "", 1)
    assert message in outcome.err


def test_the_help_tells_the_defaults_of_the_server(quicksilver):
    outcome = quicksilver("keys", "create", "--help")
    defaults = [int(number) for number in re.findall(r"\[default:\s+(\d+)\]", outcome.out)]
    limits = Limits()
    assert defaults == [*limits.by_resource().values(), DEFAULT_GRANT_TOKENS]
