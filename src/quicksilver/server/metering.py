"""Who may ask for how much, and what was used: the seam between routes and accounts."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from fastapi import Request

from quicksilver.engine.request import Usage as EngineUsage
from quicksilver.errors import AuthenticationError, QuotaError, RateLimitError
from quicksilver.protocol.service import UsageDay, UsageReport, UsageTotals
from quicksilver.server.accounts import Accounts, Admission, Key, Meter, RateLimiter, Usage
from quicksilver.server.errors import ApiError, retry_headers


class Permit(Protocol):
    """Leave to run one HTTP request. Ends with ``settle`` or ``release``, whichever comes first."""

    async def settle(self, usages: Sequence[EngineUsage], finish_reason: str) -> None:
        """Record what was used; durable when it returns. A second call changes nothing."""
        ...

    def release(self) -> None:
        """Give back what was reserved: nothing was used."""
        ...


class Gate(Protocol):
    """Decides who may enter."""

    async def admit(self, request: Request, *, model: str, num_input: int, max_output: int) -> Permit:
        """Leave for a request of so many tokens.

        Raises:
            ApiError: 401 without a valid key, 402 if the key's grant is spent, 429 beyond a rate limit.
            InputError: the request alone is more than the key's minute has.
        """
        ...

    async def check(self, request: Request) -> None:
        """Raise ApiError 401 unless the caller may see the routes that cost nothing."""
        ...

    async def report(self, request: Request) -> UsageReport:
        """What the caller's key has used.

        Raises:
            ApiError: 401 without a valid key, 404 if nothing is recorded here.
        """
        ...


class _Free:
    async def settle(self, usages: Sequence[EngineUsage], finish_reason: str) -> None:
        pass

    def release(self) -> None:
        pass


class OpenGate:
    """Everybody may enter and nothing is recorded: for a server on loopback."""

    async def admit(self, request: Request, *, model: str, num_input: int, max_output: int) -> Permit:
        return _Free()

    async def check(self, request: Request) -> None:
        pass

    async def report(self, request: Request) -> UsageReport:
        raise ApiError(404, "this server runs without keys and records no usage", code="usage_not_recorded")


class KeyGate:
    """Every caller needs a key, and what it uses is billed to it."""

    def __init__(self, accounts: Accounts) -> None:
        """Guard with the keys of a database."""
        self._meter = Meter(accounts, RateLimiter())

    async def admit(self, request: Request, *, model: str, num_input: int, max_output: int) -> Permit:
        key = self._key(request)
        try:
            admission = self._meter.admit(key, input_tokens=num_input, max_output_tokens=max_output)
        except RateLimitError as error:
            raise ApiError(
                429,
                str(error),
                kind="rate_limit_error",
                code="rate_limit_reached",
                headers={**self._rates(key), **retry_headers(error.retry_after_s)},
            ) from error
        except QuotaError as error:
            raise ApiError(402, str(error), kind="account_error", code="insufficient_quota") from error
        request.state.headers = self._rates(key)
        return _Billed(admission, request, key, model)

    async def check(self, request: Request) -> None:
        self._key(request)

    async def report(self, request: Request) -> UsageReport:
        key = self._key(request)
        days = await asyncio.to_thread(self._meter.accounts.totals, key_id=key.id)
        rows = [
            UsageDay(
                day=total.day.isoformat(),
                model=total.model,
                requests=total.requests,
                input_tokens=total.input_tokens,
                cached_tokens=total.cached_tokens,
                output_tokens=total.output_tokens,
                nfe=total.nfe,
                cost_nanodollars=total.cost_nanodollars,
            )
            for total in days
        ]
        names = UsageTotals.model_fields
        return UsageReport(
            key=key.hint,
            totals=UsageTotals(**{name: sum(getattr(row, name) for row in rows) for name in names}),
            days=rows,
            remaining_tokens=key.remaining_tokens,
        )

    def _key(self, request: Request) -> Key:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer" or not secret.strip():
                raise AuthenticationError("send Authorization: Bearer KEY; quicksilver keys create makes a key")
            # One row by its index, a tenth of a millisecond: less than a thread would cost.
            return self._meter.accounts.find(secret.strip())
        except AuthenticationError as error:
            raise ApiError(
                401,
                str(error),
                kind="authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            ) from error

    def _rates(self, key: Key) -> dict[str, str]:
        return self._meter.limiter.state(key.id, key.limits).headers()


class _Billed:
    def __init__(self, admission: Admission, request: Request, key: Key, model: str) -> None:
        self._admission, self._key, self._model = admission, key, model
        self._request_id: str = request.state.request_id
        self._route: str = request.url.path
        self._started = datetime.now(UTC)
        self._is_over = False

    async def settle(self, usages: Sequence[EngineUsage], finish_reason: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        if not usages:  # nothing ran to its end
            self._admission.__exit__(None, None, None)
            return
        prompt = sum(usage.num_prompt for usage in usages)
        usage = Usage(
            request_id=self._request_id,
            key_id=self._key.id,
            route=self._route,
            model=self._model,
            input_tokens=prompt,
            cached_tokens=min(sum(usage.num_cached for usage in usages), prompt),
            output_tokens=sum(usage.num_written for usage in usages),
            nfe=sum(usage.nfe for usage in usages),
            started_at=self._started,
            finished_at=datetime.now(UTC),
            finish_reason=finish_reason,
        )
        # Shielded: a client that hangs up now must still be billed for what was written.
        await asyncio.shield(asyncio.to_thread(self._admission.bill, usage))

    def release(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._admission.__exit__(None, None, None)
