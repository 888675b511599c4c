"""What can go wrong with a server, and how to tell it from an answer.

ServerError                  the server failed (5xx), is too busy (429), or failed in mid-stream
├── RefusedError             4xx: another request is needed, or another key (UsageError)
├── UnreachableError         no connection, no answer in time, or the answer broke off
└── ReplyError               the answer is not of the shape that the API promises
"""

import json

from quicksilver.errors import ServerError, UsageError

_LATER = frozenset({408, 409, 429})
"""4xx, but the same request may succeed later."""
_MOST_QUOTED = 300
"""Characters of an answer without an error body that the message quotes."""


class RefusedError(ServerError, UsageError):
    """The request cannot be served as it is."""


class UnreachableError(ServerError):
    """No connection, no answer in time, or the answer broke off."""


class ReplyError(ServerError):
    """The answer is not of the shape that the API promises."""


def refusal(status: int, content: bytes, request_id: str | None = None) -> ServerError:
    """The exception of an answer that is no success, or of an error in mid-stream."""
    body = _error_body(content)
    said = _text(body.get("message")) or content.decode("utf-8", errors="replace").strip()[:_MOST_QUOTED]
    message = "the server failed in the middle of its answer" if status < 300 else f"the server answers {status}"
    is_refused = 400 <= status < 500 and status not in _LATER
    return (RefusedError if is_refused else ServerError)(
        f"{message}: {said}" if said else message,
        status=status,
        kind=_text(body.get("type")),
        code=_text(body.get("code")),
        param=_text(body.get("param")),
        request_id=request_id,
    )


def _error_body(content: bytes) -> dict[str, object]:
    """What stands under ``error``; some servers send a bare text there, or the fields without it."""
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    error = body.get("error", body) if isinstance(body, dict) else {}
    if not isinstance(error, dict):
        return {"message": error}
    return error if "message" in error else {**error, "message": error.get("detail")}


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
