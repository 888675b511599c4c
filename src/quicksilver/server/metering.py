"""Who may ask for how much, and what was used: the seam between routes and accounts."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fastapi import Request

from quicksilver.engine.request import Usage
from quicksilver.protocol.service import UsageReport
from quicksilver.server.errors import ApiError


@runtime_checkable
class Permit(Protocol):
    """Leave to run one HTTP request. Ends with ``settle`` or ``release``, whichever comes first."""

    async def settle(self, usages: Sequence[Usage], finish_reason: str) -> None:
        """Record what was used; durable when it returns. A second call changes nothing."""
        ...

    def release(self) -> None:
        """Give back what was reserved: nothing was used."""
        ...


@runtime_checkable
class Gate(Protocol):
    """Decides who may enter."""

    async def admit(self, request: Request, *, num_input: int, max_output: int) -> Permit:
        """Leave for a request of so many tokens.

        Raises:
            ApiError: 401 without a valid key, 402 if the key's grant is spent, 429 beyond a rate limit.
        """
        ...

    async def report(self, request: Request) -> UsageReport:
        """What the caller's key has used.

        Raises:
            ApiError: 401 without a valid key, 404 if nothing is recorded here.
        """
        ...


class _Free:
    async def settle(self, usages: Sequence[Usage], finish_reason: str) -> None:
        pass

    def release(self) -> None:
        pass


class OpenGate:
    """Everybody may enter and nothing is recorded: for a server on loopback."""

    async def admit(self, request: Request, *, num_input: int, max_output: int) -> Permit:
        return _Free()

    async def report(self, request: Request) -> UsageReport:
        raise ApiError(404, "this server runs without keys and records no usage", code="usage_not_recorded")
