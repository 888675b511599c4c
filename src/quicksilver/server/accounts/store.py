"""Keys and usage in a database.

Every method is one transaction and may be called from any thread. What `Accounts.record` has returned from survives the
end of the process at any moment, and of the machine as far as its disk keeps its word.
"""

import hashlib
import secrets
import threading
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Self

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    bindparam,
    func,
    insert,
    literal,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.exc import IntegrityError

from quicksilver.errors import AuthenticationError, ConfigError, InputError, QuotaError, StorageError
from quicksilver.server.accounts.database import open_database, reporting
from quicksilver.server.accounts.limits import Limits
from quicksilver.server.accounts.prices import Prices
from quicksilver.server.accounts.records import DEFAULT_GRANT_TOKENS, Key, Usage, UsageTotal
from quicksilver.server.accounts.tables import KeyRow, Microseconds, UsageRow

_SECRET_BYTES = 32
_MICROSECONDS_PER_DAY = 24 * 60 * 60 * 10**6
_SUMMED = ("input_tokens", "cached_tokens", "output_tokens", "nfe", "cost_nanodollars")

_KEYS = select(*KeyRow.__table__.columns)
# What every request reads. Composed once: 0.1 ms instead of 0.3.
_KEY_BY_DIGEST = _KEYS.where(KeyRow.secret_sha256 == bindparam("digest"))
_GRANT_BY_ID = select(KeyRow.granted_tokens, KeyRow.used_tokens).where(KeyRow.id == bindparam("key_id"))


class Accounts:
    """Who may ask, what they may use and what they have used.

    One server process per database: what running requests hold of a grant is known to their process alone. Commands
    may read and change keys meanwhile.
    """

    def __init__(self, engine: Engine, prices: Prices) -> None:
        self.prices = prices
        self._engine = engine
        self._held_tokens: Counter[str] = Counter()
        """Of running requests, by key id."""
        self._lock = threading.Lock()
        # SQLite has one writer at a time, and lets the others sleep and try again: of 32 threads some waited for 3 s.
        is_sqlite = engine.dialect.name == "sqlite"
        self._turn_to_write = threading.Lock() if is_sqlite else nullcontext()

    @classmethod
    def open(cls, url: str | None = None, *, prices: Prices | None = None, timeout_s: float = 5.0) -> Self:
        """Open a database, and make its tables if it has none.

        Args:
            url: as SQLAlchemy has it; None is SQLite in the folder of Quicksilver's state.
            prices: of what is recorded from now on; None is no cost.
            timeout_s: how long SQLite waits for another writer.

        Raises:
            ConfigError: the URL cannot be used.
            StorageError: the database cannot be opened, or another version of Quicksilver made it.
        """
        return cls(open_database(url, timeout_s), prices or Prices())

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def create_key(
        self, name: str, *, limits: Limits | None = None, granted_tokens: int | None = DEFAULT_GRANT_TOKENS
    ) -> tuple[Key, str]:
        """A new key and its secret, which is kept nowhere.

        Args:
            name: for people; several keys may share it.
            limits: None is the default.
            granted_tokens: input and output tokens that it may use in all; None is without limit.

        Raises:
            ConfigError: the name is empty or too long, or the grant is negative.
        """
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise ConfigError(f"the name {name!r} of a key is not of 1 to 100 printable characters")
        if granted_tokens is not None and granted_tokens < 0:
            raise ConfigError(f"a grant of {granted_tokens} tokens is negative: give 0 or more")
        secret = f"qs-{secrets.token_urlsafe(_SECRET_BYTES)}"
        row = {
            "id": f"key_{secrets.token_hex(6)}",
            "name": name,
            "secret_sha256": _digest(secret),
            "hint": f"qs-…{secret[-4:]}",
            "created_at": datetime.now(UTC),
            "revoked_at": None,
            **asdict(limits or Limits()),
            "granted_tokens": granted_tokens,
            "used_tokens": 0,
        }
        with reporting(self._engine), self._engine.begin() as connection:
            connection.execute(insert(KeyRow).values(**row))
        return _key(row), secret

    def keys(self) -> list[Key]:
        """All keys, revoked ones too, oldest first."""
        with reporting(self._engine), self._engine.connect() as connection:
            return [_key(row._asdict()) for row in connection.execute(_KEYS.order_by(KeyRow.created_at, KeyRow.id))]

    def find(self, secret: str) -> Key:
        """The key of a secret. It is read anew each time, so that a revoked key is refused at once.

        Raises:
            AuthenticationError: there is none, or it is revoked.
        """
        with reporting(self._engine), self._engine.connect() as connection:
            row = connection.execute(_KEY_BY_DIGEST, {"digest": _digest(secret)}).one_or_none()
        if row is None:
            raise AuthenticationError("there is no such API key: make one with quicksilver keys create")
        key = _key(row._asdict())
        if key.revoked_at is not None:
            raise AuthenticationError(f"the API key {key.hint} was revoked on {key.revoked_at.date()}: use another")
        return key

    def revoke(self, key: str) -> Key:
        """Refuse a key from now on; a revoked one stays as it is.

        Args:
            key: its id, or the name of a key that is not revoked.

        Raises:
            InputError: no key, or more than one, is called so.
        """
        return self._change(
            key, revoked_at=func.coalesce(KeyRow.revoked_at, literal(datetime.now(UTC), Microseconds()))
        )

    def grant(self, key: str, tokens: int) -> Key:
        """Let a key use more tokens; one without limit stays so.

        Args:
            key: its id, or the name of a key that is not revoked.
            tokens: how many more.

        Raises:
            InputError: no key, or more than one, is called so.
            ConfigError: the tokens are fewer than one.
        """
        if tokens < 1:
            raise ConfigError(f"{tokens} more tokens are none: give 1 or more")
        return self._change(key, granted_tokens=KeyRow.granted_tokens + tokens)

    def reserve(self, key_id: str, tokens: int) -> None:
        """Hold tokens of a key's grant for a request that is about to run; `release` them when it has ended.

        So requests that run at the same time never use more than the grant together.

        Args:
            key_id: of a key that was found.
            tokens: the most that it may take, input and output together.

        Raises:
            QuotaError: the grant does not cover them.
        """
        # The lock is held while the database is read: a request that ends meanwhile is in the sum once, never not at
        # all, as it records before it releases.
        with self._lock:
            remaining = self._remaining_tokens(key_id)
            if remaining is not None and tokens > remaining - self._held_tokens[key_id]:
                raise QuotaError(
                    f"the request may take {tokens:,} tokens, the API key has {remaining:,} left, of which running "
                    f"requests hold {self._held_tokens[key_id]:,}: lower max_tokens, or have more granted with "
                    f"quicksilver keys grant {key_id} TOKENS"
                )
            self._held_tokens[key_id] += tokens

    def release(self, key_id: str, tokens: int) -> None:
        """Give back what `reserve` held."""
        with self._lock:
            self._held_tokens[key_id] -= tokens

    def record(self, usage: Usage) -> bool:
        """Write down what a finished request took, and bill it. It is on the disk when this returns.

        Call it before the end of the answer is sent: then no finished request is unbilled, whatever happens.

        Returns:
            False if it was written down before; then nothing changes.

        Raises:
            StorageError: nothing was written: the database failed, the key is unknown, or the request id stands for
                another request.
        """
        cost = self.prices.nanodollars(
            input_tokens=usage.input_tokens, cached_tokens=usage.cached_tokens, output_tokens=usage.output_tokens
        )
        with reporting(self._engine):
            try:
                with self._turn_to_write, self._engine.begin() as connection:
                    # Written first, so that SQLite takes its lock at once and waits for it in order.
                    connection.execute(insert(UsageRow).values(**asdict(usage), cost_nanodollars=cost))
                    connection.execute(
                        update(KeyRow)
                        .where(KeyRow.id == usage.key_id)
                        .values(used_tokens=KeyRow.used_tokens + usage.tokens)
                    )
            except IntegrityError as error:
                self._require_recorded(usage, error)
                return False
        return True

    def totals(
        self, *, key_id: str | None = None, first_day: date | None = None, last_day: date | None = None
    ) -> list[UsageTotal]:
        """What was used by day (UTC), key and model, in this order.

        Args:
            key_id: of this key only.
            first_day: from this day on.
            last_day: up to and with this day.
        """
        day = type_coerce(UsageRow.finished_at, BigInteger) // _MICROSECONDS_PER_DAY
        groups = (day.label("days"), UsageRow.key_id, UsageRow.model)
        sums = (func.sum(getattr(UsageRow, name)).label(name) for name in _SUMMED)
        query = select(*groups, func.count().label("requests"), *sums)
        if key_id is not None:
            query = query.where(UsageRow.key_id == key_id)
        if first_day is not None:
            query = query.where(UsageRow.finished_at >= _midnight(first_day))
        if last_day is not None:
            query = query.where(UsageRow.finished_at < _midnight(last_day + timedelta(days=1)))
        with reporting(self._engine), self._engine.connect() as connection:
            rows = connection.execute(query.group_by(*groups).order_by(*groups))
            return [_total(row._asdict()) for row in rows]

    def _change(self, key: str, **values: object) -> Key:
        with reporting(self._engine), self._engine.begin() as connection:
            key_id = _id_of(connection, key)
            connection.execute(update(KeyRow).where(KeyRow.id == key_id).values(**values))
            return _key(connection.execute(_KEYS.where(KeyRow.id == key_id)).one()._asdict())

    def _remaining_tokens(self, key_id: str) -> int | None:
        with reporting(self._engine), self._engine.connect() as connection:
            granted, used = connection.execute(_GRANT_BY_ID, {"key_id": key_id}).one()
        return None if granted is None else granted - used

    def _require_recorded(self, usage: Usage, error: IntegrityError) -> None:
        query = select(*UsageRow.__table__.columns).where(UsageRow.request_id == usage.request_id)
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise StorageError(f"cannot bill {usage.request_id}: there is no API key {usage.key_id}") from error
        if any(getattr(row, name) != value for name, value in asdict(usage).items()):
            raise StorageError(f"cannot bill {usage.request_id}: another request with this id is billed") from error


def _digest(secret: str) -> str:
    # Slow hashes protect what people choose; nobody guesses 256 random bits. A database index finds the digest, and
    # how long that takes tells nothing, as nobody can choose a digest's beginning without knowing the secret.
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: dict[str, Any]) -> Key:
    names = ("id", "name", "hint", "created_at", "revoked_at", "granted_tokens", "used_tokens")
    limits = Limits(**{field.name: row[field.name] for field in fields(Limits)})
    return Key(**{name: row[name] for name in names}, limits=limits)


def _total(row: dict[str, Any]) -> UsageTotal:
    return UsageTotal(
        day=date(1970, 1, 1) + timedelta(days=int(row["days"])),
        key_id=row["key_id"],
        model=row["model"],
        requests=row["requests"],
        # Some databases answer sums of whole numbers as decimals.
        **{name: int(row[name]) for name in _SUMMED},
    )


def _id_of(connection: Connection, key: str) -> str:
    is_meant = or_(KeyRow.id == key, (KeyRow.name == key) & KeyRow.revoked_at.is_(None))
    ids = connection.scalars(select(KeyRow.id).where(is_meant).order_by(KeyRow.created_at)).all()
    if not ids:
        raise InputError(f"no API key has the id {key!r}, and none in force has this name: see quicksilver keys list")
    if len(ids) > 1:
        raise InputError(f"{len(ids)} API keys are called {key!r}: give an id, {' or '.join(ids)}")
    return ids[0]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
