"""Constraints of requests: from their fields to automata, compiled in processes of their own, those used last kept."""

import asyncio
import time
from collections import OrderedDict

import anyio
import anyio.to_process

from quicksilver.api import Model
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.choice import Choice
from quicksilver.constraints.compiling import fingerprint_of
from quicksilver.constraints.constraint import CompileOptions, Constraint
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.python_types import PYTHON_TYPES
from quicksilver.constraints.regex import Regex
from quicksilver.constraints.store import Store
from quicksilver.constraints.vocabulary import Vocabulary, vocabulary_of
from quicksilver.constraints.worker import compile_within
from quicksilver.errors import ConstraintTooLargeError, UsageError
from quicksilver.protocol.constraints import ConstraintFields, ResponseFormat
from quicksilver.protocol.infill import HoleLimits
from quicksilver.server.config import ServerConfig
from quicksilver.server.errors import ApiError, as_api_error, overloaded
from quicksilver.server.metrics import Metrics

ANY_OBJECT = JsonSchema({"type": "object"})
_AT_ONCE = 2
"""Processes that compile."""
_GRACE_S = 5.0
"""For a process to start, and to notice by itself that its time is up."""


class Constraints:
    """Compiles what requests ask for; each constraint once, however many ask for it at the same time."""

    def __init__(self, model: Model, metrics: Metrics, config: ServerConfig, options: CompileOptions) -> None:
        """Know nothing yet but what is on disk."""
        self._model, self._metrics, self._config, self._options = model, metrics, config, options
        self._store = None if config.constraint_folder is None else Store(config.constraint_folder)
        self._kept: OrderedDict[str, asyncio.Task[TokenAutomaton]] = OrderedDict()
        self._num_compiling = 0
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def of(self, fields: ConstraintFields) -> TokenAutomaton | None:
        """What the fields of a request ask for; None: nothing.

        Raises:
            ApiError: they contradict each other, or what they ask cannot be had; ``param`` names the field.
        """
        found = constraint_of(fields)
        return None if found is None else await self.compiled(found[1], param=found[0])

    async def compiled(self, constraint: Constraint, *, param: str) -> TokenAutomaton:
        """A constraint compiled.

        Raises:
            ApiError: it cannot be; ``param`` of the error as given.
        """
        try:
            return await self._task(constraint)
        except UsageError as error:
            raise as_api_error(error, fields=frozenset()).of(param) from error

    async def _task(self, constraint: Constraint) -> TokenAutomaton:
        # The first time, a second for a large vocabulary.
        vocabulary = await asyncio.to_thread(vocabulary_of, self._model.tokenizer)
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
            raise ConstraintTooLargeError(
                "the process that compiled the constraint died: most likely it takes too much memory"
            ) from error
        finally:
            self._metrics.compiling.observe(time.monotonic() - started)


def constraint_of(fields: ConstraintFields) -> tuple[str, Constraint] | None:
    """The field that asks for a constraint, and the constraint; raises ApiError if there are two."""
    found: list[tuple[str, Constraint]] = []
    if fields.response_format is not None and fields.response_format.type != "text":
        found.append(("response_format", _of_format(fields.response_format)))
    if fields.regex is not None:
        found.append(("regex", Regex(fields.regex)))
    if fields.choice is not None:
        found.append(("choice", Choice(tuple(fields.choice))))
    if isinstance(fields, HoleLimits) and fields.type is not None:
        found.append(("type", PYTHON_TYPES[fields.type]))
    if len(found) > 1:
        names = [name for name, _ in found]
        message = f"{' and '.join(names)} contradict each other: an answer has one constraint"
        raise ApiError(400, message, param=names[1], code="invalid_value")
    return found[0] if found else None


def _of_format(form: ResponseFormat) -> Constraint:
    if form.type == "json_object":
        return ANY_OBJECT
    if form.json_schema is None or form.json_schema.schema_ is None:
        message = "response_format of type json_schema needs json_schema with a schema"
        raise ApiError(400, message, param="response_format", code="invalid_value")
    return JsonSchema(form.json_schema.schema_, strict=bool(form.json_schema.strict))
