"""Tools that a model may call, and its calls."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from quicksilver.protocol.wire import Wire

MAX_TOOLS = 128
FunctionName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


class Function(Wire):
    """What a tool is called and takes."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of its arguments; None: it takes none."""
    strict: bool | None = None
    """Arguments are always valid, and hold no properties that are not listed."""


class Tool(Wire):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(Wire):
    """Which function."""

    name: str


class NamedTool(Wire):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class FunctionCall(Wire):
    """What is called with what."""

    name: str
    arguments: str
    """JSON."""


class ToolCall(Wire):
    """A call that the model wrote."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class _Sparse(Wire):
    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Some clients append a null to what they have, and take a second name for a second call.
        return {name: value for name, value in handler(self).items() if value is not None}


class FunctionDelta(_Sparse):
    """Name at the beginning of a call, then pieces of its arguments."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(_Sparse):
    """What a chunk adds to a call."""

    index: int
    id: str | None = None
    """Once, like the type."""
    type: Literal["function"] | None = None
    function: FunctionDelta
