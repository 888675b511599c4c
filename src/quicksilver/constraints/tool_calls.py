"""Calls of tools as a constraint: which tools, how often, and whether text may stand there instead."""

from dataclasses import dataclass

from quicksilver.constraints.constraint import Constraint
from quicksilver.constraints.expression import (
    ANY_TEXT,
    Alternatives,
    Difference,
    Expression,
    Repeat,
    alternatives,
    sequence,
)
from quicksilver.constraints.json_schema.form import FORMS, Separators
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.language import Compiler
from quicksilver.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ToolForm:
    """How a model writes a call: ``{"name": …, "arguments": …}`` between two texts."""

    opening: str = ""
    closing: str = ""
    between: str = ""
    """Calls that follow each other."""
    separators: Separators = "compact"

    def before_name(self) -> str:
        return f'{{"name"{FORMS[self.separators].colon}"'

    def after_name(self) -> str:
        form = FORMS[self.separators]
        return f'"{form.between}"arguments"{form.colon}'


@dataclass(frozen=True)
class Tool:
    """A tool that may be called."""

    name: str
    parameters: JsonSchema
    """Of its arguments, an object."""


@dataclass(frozen=True, kw_only=True)
class ToolCalls:
    """A constraint: one call or several.

    With ``has_text`` any text may stand in front, or instead, of them, in which the form's opening does not occur: it
    always begins a call. With ``content`` that takes the place of the calls.
    """

    tools: tuple[Tool, ...]
    form: ToolForm
    most: int | None = 1
    """Calls; None: any number."""
    has_text: bool = False
    content: Constraint | None = None

    def __post_init__(self) -> None:
        names = [tool.name for tool in self.tools]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"tools must have names of their own, at least one; got {', '.join(names) or 'none'}")
        if self.has_text and not self.form.opening:
            raise ConfigError("text in front of calls needs a form whose calls begin with an opening text")
        if self.has_text and self.content is not None:
            raise ConfigError("has_text contradicts content, which says what the text is")

    def expression(self, compiler: Compiler) -> Expression:
        call = self._call(compiler)
        most = None if self.most is None else self.most - 1
        calls = sequence(call, Repeat(sequence(self.form.between, call), 0, most))
        if self.content is not None:
            return alternatives(self.content.expression(compiler), calls)
        if not self.has_text:
            return calls
        free = Difference(ANY_TEXT, sequence(ANY_TEXT, self.form.opening, ANY_TEXT))
        return sequence(free, Repeat(calls, 0, 1))

    def _call(self, compiler: Compiler) -> Expression:
        calls = [
            sequence(tool.name, self.form.after_name(), tool.parameters.expression(compiler)) for tool in self.tools
        ]
        begin = self.form.opening + self.form.before_name()
        return sequence(begin, Alternatives(tuple(calls)), "}" + self.form.closing)
