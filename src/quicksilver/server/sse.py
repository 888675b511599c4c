"""Server-sent events, framed as every client reads them."""

from collections.abc import AsyncIterator

from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

_SEPARATOR = "\n"
"""Some clients split lines at it alone."""

END = ServerSentEvent(data="[DONE]", sep=_SEPARATOR)


def event(body: BaseModel, *, exclude_none: bool = False) -> ServerSentEvent:
    """One event with a JSON body."""
    return ServerSentEvent(data=body.model_dump_json(exclude_none=exclude_none), sep=_SEPARATOR)


def respond(events: AsyncIterator[ServerSentEvent]) -> EventSourceResponse:
    """A stream of events; it is cancelled when the client hangs up."""
    return EventSourceResponse(
        events,
        sep=_SEPARATOR,
        headers={"cache-control": "no-cache"},
        # One client takes a comment that begins with "ping" for the end of the stream.
        ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep=_SEPARATOR),
    )
