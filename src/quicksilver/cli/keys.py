"""`quicksilver keys`: make, list, extend and revoke the API keys of the server."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from quicksilver.server.accounts import Accounts, Key

UNLIMITED = "unlimited"

app = typer.Typer(name="keys", help="Make, list and revoke API keys of the server.", no_args_is_help=True)


def _count(text: str) -> int | None:
    if text == UNLIMITED:
        return None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor {UNLIMITED}") from None


def _count_option(help_text: str) -> typer.models.OptionInfo:
    return typer.Option(metavar=f"N|{UNLIMITED}", help=help_text)


KeyArgument = Annotated[str, typer.Argument(metavar="ID|NAME", help="The id of a key, or its name if only one has it.")]
Database = Annotated[
    str | None, typer.Option(metavar="URL", help="As SQLAlchemy has it. [default: SQLite in the folder of your data]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For people; several keys may share it.")],
    requests_per_minute: Annotated[str, _count_option("Requests admitted within a minute.")] = "1000",
    input_tokens_per_minute: Annotated[str, _count_option("Tokens read within a minute.")] = "1000000",
    output_tokens_per_minute: Annotated[str, _count_option("Tokens written within a minute.")] = "100000",
    grant: Annotated[str, _count_option("Tokens that the key may use in all, read and written.")] = "10000000",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown this once: the database keeps only its hash."""
    limits = {
        "requests_per_minute": _count(requests_per_minute),
        "input_tokens_per_minute": _count(input_tokens_per_minute),
        "output_tokens_per_minute": _count(output_tokens_per_minute),
    }
    granted_tokens = _count(grant)
    with _accounts(database) as accounts:
        from quicksilver.server.accounts import Limits

        key, secret = accounts.create_key(name, limits=Limits(**limits), granted_tokens=granted_tokens)
    if as_json:
        _print_json({"key": secret, **_to_json(key)})
    else:
        typer.echo(secret)
        Console(stderr=True).print(f"{key.id} {key.name}: keep the key, it is not shown again", highlight=False)


@app.command("list")
def list_keys(database: Database = None, as_json: AsJson = False) -> None:
    """List all keys with their limits and what they have used."""
    with _accounts(database) as accounts:
        keys = accounts.keys()
    if as_json:
        _print_json([_to_json(key) for key in keys])
    else:
        Console().print(_table(keys))


@app.command()
def grant(
    key: KeyArgument,
    tokens: Annotated[int, typer.Argument(metavar="TOKENS", help="How many more.")],
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Let a key use more tokens."""
    _change(lambda accounts: accounts.grant(key, tokens), database, as_json=as_json)


@app.command()
def revoke(key: KeyArgument, database: Database = None, as_json: AsJson = False) -> None:
    """Refuse a key from now on, also on servers that run."""
    _change(lambda accounts: accounts.revoke(key), database, as_json=as_json)


@contextmanager
def _accounts(database: str | None) -> "Iterator[Accounts]":
    from quicksilver.server.accounts import Accounts

    accounts = Accounts.open(database)
    try:
        yield accounts
    finally:
        accounts.close()


def _change(change: "Callable[[Accounts], Key]", database: str | None, *, as_json: bool) -> None:
    with _accounts(database) as accounts:
        key = change(accounts)
    if as_json:
        _print_json(_to_json(key))
    else:
        Console().print(_table([key]))


def _to_json(key: "Key") -> dict[str, object]:
    return {**asdict(key), "remaining_tokens": key.remaining_tokens}


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=datetime.isoformat))


def _table(keys: "list[Key]") -> Table:
    table = Table("id", "name", "key", "used", "req/in/out a min", "revoked", box=SIMPLE_HEAD)
    # To be copied, so never cut off.
    table.columns[0].no_wrap = True
    for key in keys:
        table.add_row(
            key.id,
            key.name,
            key.hint,
            f"{_short(key.used_tokens)} of {_short(key.granted_tokens)}",
            "/".join(map(_short, astuple(key.limits))),
            "" if key.revoked_at is None else f"{key.revoked_at:%Y-%m-%d}",
        )
    return table


def _short(count: int | None) -> str:
    """Four digits and a unit: 1.234M."""
    if count is None:
        return UNLIMITED
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)
