"""Tools of a chat request: which calls its answer may hold, and how they are told.

A checkpoint whose chat template shows tools writes calls as its template does, between ``<tool_call>`` and
``</tool_call>``. Any other was never taught to call: it can be made to (bare JSON), but does not choose to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from quicksilver.api import Completion
from quicksilver.constraints.constraint import Constraint
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.tool_calls import Tool, ToolCalls, ToolForm
from quicksilver.protocol import tools as wire
from quicksilver.protocol.chat import AssistantMessage, ChatRequest, Delta
from quicksilver.protocol.tools import FunctionCall, FunctionDelta, NamedTool, ToolCall, ToolCallDelta
from quicksilver.server.chat_template import ChatTemplate
from quicksilver.server.errors import ApiError
from quicksilver.server.generation import finish_reason
from quicksilver.server.tool_reading import Argued, Begun, Piece, Said, ToolReader

MARK = "<tool_call>"
MARKED = ToolForm(opening="<tool_call>\n", closing="\n</tool_call>", between="\n", separators="spaced")
"""As templates of the Hermes and Qwen families have it."""
BARE = ToolForm()


@dataclass(frozen=True, kw_only=True, slots=True)
class Calling:
    """How calls may stand in an answer."""

    constraint: ToolCalls
    most_tokens: int
    """Of the answer, eos included."""

    def reader(self) -> ToolReader:
        """Of one answer."""
        has_text = self.constraint.has_text or self.constraint.content is not None
        return ToolReader(self.constraint.form, has_text=has_text)

    def finish_reason(self, completion: Completion, reader: ToolReader) -> str:
        """OpenAI's word for how an answer ended that ``reader`` has read."""
        if not reader.is_whole:
            return "length"
        if reader.num_calls:
            return "tool_calls"
        # Free text may end anywhere, so the constraint ends it where it must; that is no end of the model's choice.
        is_cut = self.constraint.has_text and completion.num_tokens + 1 >= self.most_tokens
        return "length" if is_cut else finish_reason(completion)


def calls_of(body: ChatRequest, template: ChatTemplate, content: Constraint | None) -> ToolCalls | None:
    """The calls that an answer may or must hold; None: it holds none.

    Args:
        body: the request.
        template: of the checkpoint.
        content: what the answer must be where it holds no call.

    Raises:
        ApiError: the tools contradict the choice among them.
    """
    tools = body.tools or []
    choice = body.tool_choice or ("auto" if tools else "none")
    if choice == "none":
        return None
    if not tools:
        raise ApiError(400, "tool_choice needs tools", param="tool_choice", code="invalid_value")
    is_marked = template.shows_tools and MARK in template.source
    is_single = not is_marked or body.parallel_tool_calls is False or isinstance(choice, NamedTool)
    form = MARKED if is_marked else BARE
    calls = ToolCalls(tools=_signatures(tools, form), form=form, most=1 if is_single else None)
    match choice:
        case "required":
            return calls
        case NamedTool():
            return replace(calls, tools=_named(calls.tools, choice.function.name))
        case _:
            return replace(calls, has_text=content is None, content=content) if is_marked else None


def _signatures(tools: Sequence[wire.Tool], form: ToolForm) -> tuple[Tool, ...]:
    names = [tool.function.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ApiError(400, f"two tools are called {twice!r}", param="tools", code="invalid_value")
    return tuple(
        Tool(tool.function.name, JsonSchema(_arguments(tool.function), separators=form.separators, strict=True))
        for tool in tools
    )


def _arguments(function: wire.Function) -> dict[str, Any]:
    """The schema of the arguments; of a tool without parameters, there are none."""
    schema = function.parameters or {}
    is_empty = not any(schema.get(name) for name in schema if name != "type")
    closed = {"properties": {}, "additionalProperties": False} if is_empty else {}
    return {"type": "object", **schema, **closed}


def _named(tools: Sequence[Tool], name: str) -> tuple[Tool, ...]:
    found = tuple(tool for tool in tools if tool.name == name)
    if not found:
        known = ", ".join(tool.name for tool in tools)
        raise ApiError(400, f"tool_choice names {name!r}; tools are {known}", param="tool_choice", code="invalid_value")
    return found


def read_message(reader: ToolReader, text: str) -> AssistantMessage:
    """An answer's text as a message."""
    pieces = [*reader.take(text), *reader.end()]
    said = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    arguments: dict[int, str] = {}
    for piece in pieces:
        if isinstance(piece, Argued):
            arguments[piece.index] = arguments.get(piece.index, "") + piece.text
    calls = [
        ToolCall(id=piece.id, function=FunctionCall(name=piece.name, arguments=arguments.get(piece.index, "")))
        for piece in pieces
        if isinstance(piece, Begun)
    ]
    return AssistantMessage(content=said if said or not calls else None, tool_calls=calls or None)


def delta_of(piece: Piece) -> Delta:
    """What a piece adds to a stream."""
    match piece:
        case Said(text):
            return Delta(content=text)
        case Begun(index, call_id, name):
            function = FunctionDelta(name=name, arguments="")
            return Delta(tool_calls=[ToolCallDelta(index=index, id=call_id, type="function", function=function)])
        case Argued(index, text):
            return Delta(tool_calls=[ToolCallDelta(index=index, function=FunctionDelta(arguments=text))])


def whole_delta(message: AssistantMessage) -> Delta:
    """A message as the last frame of a stream whose frames replace each other."""
    calls = [
        ToolCallDelta(
            index=index,
            id=call.id,
            type="function",
            function=FunctionDelta(name=call.function.name, arguments=call.function.arguments),
        )
        for index, call in enumerate(message.tool_calls or ())
    ]
    return Delta(role="assistant", content=message.content or "", tool_calls=calls or None)
