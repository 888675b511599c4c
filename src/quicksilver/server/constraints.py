"""Constraints of requests: from their fields to automata, compiled in processes of their own, those used last kept."""

import asyncio
import time
from collections import OrderedDict
from importlib import import_module

import anyio
import anyio.to_process

from quicksilver.api import Model
from quicksilver.api.constraint_fields import wanted_constraint
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.compiling import fingerprint_of
from quicksilver.constraints.constraint import CompileOptions, Constraint
from quicksilver.constraints.store import Store
from quicksilver.constraints.strings import Strings
from quicksilver.constraints.vocabulary import Vocabulary, vocabulary_of
from quicksilver.constraints.worker import compile_within
from quicksilver.errors import ConstraintTooLargeError, EngineError, UsageError
from quicksilver.protocol.constraints import ConstraintFields
from quicksilver.server.config import ServerConfig
from quicksilver.server.errors import as_api_error, overloaded
from quicksilver.server.metrics import Metrics

_AT_ONCE = 2
"""Processes that compile."""
_GRACE_S = 15.0
"""For a process to start on a busy machine, and to notice by itself that its time is up."""


class Constraints:
    """Compiles what requests ask for; each constraint once, however many ask for it at the same time."""

    def __init__(self, model: Model, metrics: Metrics, config: ServerConfig, options: CompileOptions) -> None:
        """Know nothing yet but what is on disk."""
        self._model, self._metrics, self._config, self._options = model, metrics, config, options
        self._store = None if config.constraint_folder is None else Store(config.constraint_folder)
        self._kept: OrderedDict[str, asyncio.Task[TokenAutomaton]] = OrderedDict()
        self._num_compiling = 0
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def of(self, fields: ConstraintFields, *, stop: tuple[str, ...] = ()) -> TokenAutomaton | None:
        """What the fields of a request ask for, without stop texts in it; None: nothing.

        Raises:
            ApiError: they contradict each other, or what they ask cannot be had; ``param`` names the field.
        """
        try:
            wanted = wanted_constraint(fields)
        except UsageError as error:
            raise as_api_error(error, fields=frozenset(fields.model_fields_set)) from error
        if wanted is None:
            return None
        constraint = Strings(banned=stop, base=wanted.constraint) if stop else wanted.constraint
        return await self.compiled(constraint, param=wanted.field)

    async def compiled(self, constraint: Constraint, *, param: str) -> TokenAutomaton:
        """A constraint compiled.

        Raises:
            ApiError: it cannot be; ``param`` of the error as given.
            EngineError: no process could be started to compile it in.
        """
        try:
            return await self._task(constraint)
        except UsageError as error:
            raise as_api_error(error, fields=frozenset()).of(param) from error

    async def _task(self, constraint: Constraint) -> TokenAutomaton:
        # The first time, a second for a large vocabulary; the loops of decoding take seconds once on a machine.
        vocabulary = await asyncio.to_thread(vocabulary_of, self._model.tokenizer)
        await asyncio.to_thread(import_module, "quicksilver.constraints.kernels")
        key = fingerprint_of(constraint, vocabulary, self._options, self._model.spec.special.eos)
        task = self._kept.get(key)
        if task is None:
            if self._num_compiling >= self._config.max_open:
                wait = self._config.retry_after_seconds
                raise overloaded(f"{self._num_compiling} constraints wait to be compiled (max_open)", wait)
            task = self._kept[key] = asyncio.create_task(self._found(key, constraint, vocabulary))
            if len(self._kept) > self._config.max_kept_constraints:
                self._kept.popitem(last=False)
        else:
            self._metrics.constraints.labels("known").inc()
        self._kept.move_to_end(key)
        try:
            # A client that hangs up must not end the work that others wait for.
            return await asyncio.shield(task)
        except Exception:
            self._kept.pop(key, None)
            raise

    async def _found(self, key: str, constraint: Constraint, vocabulary: Vocabulary) -> TokenAutomaton:
        self._num_compiling += 1
        outcome = "refused"
        try:
            async with self._turns:
                found = None if self._store is None else await asyncio.to_thread(self._store.get, key)
                if found is not None:
                    outcome = "stored"
                    return found
                found = await self._compile(constraint, vocabulary)
                outcome = "compiled"
            if self._store is not None:
                await asyncio.to_thread(self._store.put, found)
            return found
        finally:
            self._num_compiling -= 1
            self._metrics.constraints.labels(outcome).inc()

    async def _compile(self, constraint: Constraint, vocabulary: Vocabulary) -> TokenAutomaton:
        """Compile in a process that is kept for the next one, unless it has to be killed."""
        started = time.monotonic()
        seconds = self._options.limits.max_seconds
        eos = self._model.spec.special.eos
        try:
            with anyio.fail_after(seconds + _GRACE_S):
                return await anyio.to_process.run_sync(
                    compile_within, constraint, vocabulary, self._options, eos, cancellable=True
                )
        except TimeoutError:
            raise ConstraintTooLargeError(
                f"the constraint took longer than max_seconds={seconds:g} to compile: lower lengths and counts"
            ) from None
        except anyio.BrokenWorkerProcess as error:
            if error.args:  # of a process that could not begin; one that dies at work says nothing
                raise EngineError(
                    f"no process to compile constraints in could be started: {error.__cause__ or error}"
                ) from error
            raise ConstraintTooLargeError(
                "the process that compiled the constraint died: most likely it takes too much memory"
            ) from error
        finally:
            self._metrics.compiling.observe(time.monotonic() - started)
