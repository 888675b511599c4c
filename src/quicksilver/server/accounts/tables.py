"""The tables. A change of them raises `SCHEMA_VERSION`."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Dialect, ForeignKey, Index, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Microseconds(TypeDecorator[datetime]):
    """Moments with a time zone, as microseconds since 1970 in UTC: the same, and exact, in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + value * _MICROSECOND


class Base(DeclarativeBase):
    """Whole numbers have 64 bits, names at most 255 characters."""

    type_annotation_map = {int: BigInteger, str: String(255), datetime: Microseconds}  # noqa: RUF012  # SQLAlchemy's form


class SchemaRow(Base):
    """One row: the version that wrote these tables."""

    __tablename__ = "quicksilver_schema"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class KeyRow(Base):
    """An API key; see `records.Key`."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    secret_sha256: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    requests_per_minute: Mapped[int | None]
    input_tokens_per_minute: Mapped[int | None]
    output_tokens_per_minute: Mapped[int | None]
    granted_tokens: Mapped[int | None]
    used_tokens: Mapped[int] = mapped_column(default=0)
    """Input and output tokens of the key's usage rows. The transaction that adds a row adds to it, so that admission
    reads one row instead of a sum over all."""


class UsageRow(Base):
    """A finished request; see `records.Usage`."""

    __tablename__ = "api_usage"
    __table_args__ = (Index("api_usage_by_key", "key_id", "finished_at"),)

    request_id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str | None] = mapped_column(ForeignKey(KeyRow.id))
    route: Mapped[str]
    model: Mapped[str]
    input_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    output_tokens: Mapped[int]
    nfe: Mapped[int]
    cost_nanodollars: Mapped[int]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]
    finish_reason: Mapped[str]
