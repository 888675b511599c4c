"""Constraints of requests: from their fields to automata, off the event loop, those used last kept."""

import asyncio
import time
from collections import OrderedDict

from quicksilver.api import Model
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.choice import Choice
from quicksilver.constraints.compiling import fingerprint_of
from quicksilver.constraints.constraint import CompileOptions, Constraint
from quicksilver.constraints.grammar import Grammar
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.python_types import PYTHON_TYPES
from quicksilver.constraints.regex import Regex
from quicksilver.errors import UsageError
from quicksilver.protocol.constraints import ConstraintFields, ResponseFormat
from quicksilver.protocol.infill import HoleLimits
from quicksilver.server.errors import ApiError, as_api_error
from quicksilver.server.metrics import Metrics

ANY_OBJECT = JsonSchema({"type": "object"})


class Constraints:
    """Compiles what requests ask for; each constraint once, however many ask for it at the same time."""

    def __init__(self, model: Model, metrics: Metrics, *, max_kept: int) -> None:
        """Know nothing yet."""
        self._model, self._metrics, self._max_kept = model, metrics, max_kept
        self._options = CompileOptions()
        self._kept: OrderedDict[str, asyncio.Task[TokenAutomaton]] = OrderedDict()

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
        model = self._model
        key = fingerprint_of(constraint, model.tokenizer, self._options, model.spec.special.eos)
        task = self._kept.get(key)
        if task is None:
            task = self._kept[key] = asyncio.create_task(self._compile(constraint))
            if len(self._kept) > self._max_kept:
                self._kept.popitem(last=False)
        else:
            self._metrics.constraints.labels("known").inc()
        self._kept.move_to_end(key)
        try:
            # A client that hangs up must not end the work that others wait for.
            return await asyncio.shield(task)
        except UsageError:
            self._kept.pop(key, None)
            raise

    async def _compile(self, constraint: Constraint) -> TokenAutomaton:
        started = time.monotonic()
        outcome = "refused"
        try:
            found = await asyncio.to_thread(self._model.compile, constraint, self._options)
            outcome = "compiled"
            return found
        finally:
            self._metrics.constraints.labels(outcome).inc()
            self._metrics.compiling.observe(time.monotonic() - started)


def constraint_of(fields: ConstraintFields) -> tuple[str, Constraint] | None:
    """The field that asks for a constraint, and the constraint; raises ApiError if there are two."""
    found: list[tuple[str, Constraint]] = []
    if fields.response_format is not None and fields.response_format.type != "text":
        found.append(("response_format", _of_format(fields.response_format)))
    if fields.regex is not None:
        found.append(("regex", Regex(fields.regex)))
    if fields.grammar is not None:
        found.append(("grammar", Grammar(fields.grammar, fields.grammar_syntax)))
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
