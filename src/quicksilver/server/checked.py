"""The checker in the loop of a served model: drafts go to the engine, the check runs beside the event loop."""

from collections.abc import Sequence

import anyio
import anyio.to_process
import anyio.to_thread
from fastapi import Request

from quicksilver.api import Answer, Check, Completion, InfillRequest, Problem, Repairs
from quicksilver.api.checking import Span, fill_checked
from quicksilver.coding.checks import CommandCheck, PythonCheck
from quicksilver.coding.checks import Problem as Found
from quicksilver.server.config import ServerConfig
from quicksilver.server.errors import ApiError
from quicksilver.server.generation import settle_failed
from quicksilver.server.metering import Permit
from quicksilver.server.service import Service, completions_of, until_hang_up


def find_check(name: str, config: ServerConfig) -> Check:
    """The check of a name. A client names commands, it never brings them.

    Raises:
        ApiError: this server has none of that name.
    """
    if name == PythonCheck().name:
        return PythonCheck()
    if name in config.checks:
        return CommandCheck.of(
            config.checks[name], name=name, timeout_s=config.check_seconds, is_confined=config.confines_checks
        )
    known = ", ".join((PythonCheck().name, *config.checks))
    message = f"no check {name!r} here; there are: {known}. Commands are the operator's to allow: serve --check"
    raise ApiError(400, message, param="check", code="invalid_value")


class CheckedFill:
    """One request with a check, and all that it took."""

    def __init__(self, service: Service, http: Request, request: InfillRequest, check: Check, repairs: Repairs) -> None:
        """Run nothing yet."""
        self._service, self._http, self._request, self._check = service, http, request, check
        self._repairs = repairs
        self.answers: list[Answer] = []
        self.completions: list[Completion] = []
        """Of all drafts."""

    async def collected(self, permit: Permit) -> Completion:
        """The answer; if there is none, what was used is recorded.

        Raises:
            ClientGoneError: the client hung up.
            UsageError, EngineError, CheckError: the request, the engine or the check failed.
        """
        work = fill_checked(
            self._request, self._check, self._repairs, self._service.model.tokenizer, self._run, self._look
        )
        try:
            with self._service.beside_engine():
                return await until_hang_up(self._http, work)
        except BaseException as error:
            await settle_failed(self._service, permit, self.answers, error)
            raise

    async def _run(self, requests: Sequence[InfillRequest]) -> Sequence[Completion]:
        answers = await self._service.submit(requests)
        self.answers += answers
        completions = await completions_of(answers)
        self.completions += completions
        return completions

    async def _look(self, text: str, written: Sequence[Span]) -> Sequence[Problem]:
        if isinstance(self._check, CommandCheck):  # keeps to its time itself
            return await anyio.to_thread.run_sync(self._check, text, written)
        limit_s = self._service.config.check_seconds
        try:
            # In a process of its own: a parser that takes too long can be killed there.
            with anyio.fail_after(limit_s):
                return await anyio.to_process.run_sync(self._check, text, written, cancellable=True)
        except TimeoutError:
            return [Found(f"{self._check.name} took longer than {limit_s:g} s (check_seconds)", None)]
