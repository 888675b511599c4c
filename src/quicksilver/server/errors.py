"""Errors as OpenAI's API tells them: a status, and a body that names what is wrong."""

import math
import re
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from quicksilver.errors import (
    CheckError,
    ConfigError,
    ConstraintTooLargeError,
    ContextLengthError,
    EngineError,
    MergeError,
    OverloadedError,
    SandboxError,
    StorageError,
    UnsatisfiableConstraintError,
    UnsupportedConstraintError,
    UsageError,
)
from quicksilver.protocol.wire import ErrorBody, ErrorResponse
from quicksilver.server.logs import log


class ApiError(Exception):
    """Ends a request with a status and a body in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """State what is wrong.

        Args:
            status: of HTTP.
            message: for people.
            kind: OpenAI's ``type``.
            param: the field of the request.
            code: for programs.
            headers: of the answer.
        """
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = ErrorBody(message=message, type=kind, param=param, code=code)

    def of(self, param: str) -> "ApiError":
        """The same, about a field."""
        body = self.body
        return ApiError(self.status, body.message, kind=body.type, param=param, code=body.code, headers=self.headers)


def unsupported(param: str, message: str) -> ApiError:
    """A field is understood, but what it asks for is not to be had."""
    return ApiError(400, message, param=param, code="unsupported_parameter")


def overloaded(message: str, retry_after: float) -> ApiError:
    """Too much at once; the same request may be accepted later."""
    return ApiError(503, message, kind="overloaded", code="overloaded", headers=retry_headers(retry_after))


def retry_headers(seconds: float) -> dict[str, str]:
    """When to come again: in whole seconds, as HTTP has it, and in milliseconds for OpenAI's clients; rounded up."""
    return {
        "retry-after": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(max(1, math.ceil(seconds * 1000))),
        "x-should-retry": "true",
    }


_CONSTRAINT_CODES = (
    (UnsupportedConstraintError, "unsupported_constraint"),
    (UnsatisfiableConstraintError, "unsatisfiable_constraint"),
    (ConstraintTooLargeError, "constraint_too_large"),
)


def as_api_error(error: Exception, *, fields: frozenset[str] = frozenset(), retry_after: float = 1.0) -> ApiError:
    """What a client is told of an exception.

    Args:
        error: whatever ended the request.
        fields: those the client sent; the first that the message names becomes ``param``.
        retry_after: seconds, where coming again helps.
    """
    match error:
        case ApiError():
            return error
        case ContextLengthError():
            # Clients that shorten what they send know the case by OpenAI's words, not by the code.
            message = f"{error}; this model's maximum context length is exceeded"
            return ApiError(400, message, param="prompt", code="context_length_exceeded")
        case MergeError():
            return ApiError(422, str(error), param="messages", code="merge_refused")
        case ConfigError():
            code = next((code for kind, code in _CONSTRAINT_CODES if isinstance(error, kind)), "invalid_value")
            return ApiError(400, str(error), param=_named(str(error), fields), code=code)
        case UsageError():
            return ApiError(400, str(error), code="invalid_value")
        case OverloadedError():
            return overloaded(str(error), retry_after)
        case CheckError() | SandboxError():
            return ApiError(500, str(error), kind="server_error", code="check_error")
        case StorageError():
            return ApiError(500, str(error), kind="server_error", code="storage_error")
        case EngineError():
            return ApiError(500, str(error), kind="server_error", code="engine_error")
        case _:
            return ApiError(500, "the server failed; its log says why", kind="server_error", code="internal_error")


_ALSO_CALLED = {
    "max_tokens": ("max_completion_tokens",),
    "max_length": ("max_tokens", "max_completion_tokens", "holes"),
    "length": ("holes",),
}
"""What requests call, or keep inside, what messages name."""


def _named(message: str, fields: frozenset[str]) -> str | None:
    words = re.findall(r"\w+", message)
    names = (name for word in words for name in (*_ALSO_CALLED.get(word, ()), word))
    return next((name for name in names if name in fields), None)


def to_response(error: ApiError) -> JSONResponse:
    """The HTTP answer."""
    return JSONResponse(ErrorResponse(error=error.body).model_dump(), error.status, error.headers)


def install(app: FastAPI) -> None:
    """Make every failure of a route an answer in OpenAI's shape."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_failure)


async def _on_api_error(request: Request, error: Exception) -> JSONResponse:
    return to_response(as_api_error(error))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    first = found[0] if found else {"loc": (), "msg": str(error), "type": "value_error"}
    path = [str(part) for part in first["loc"] if part != "body"]
    is_json = first["type"] == "json_invalid"
    message = "the body is not valid JSON" if is_json else f"{'.'.join(path) or 'body'}: {first['msg']}"
    param = None if is_json or not path else path[0]
    return to_response(ApiError(400, message, param=param, code="invalid_json" if is_json else "invalid_value"))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    status = getattr(error, "status_code", 500)
    codes = {404: "not_found", 405: "method_not_allowed"}
    detail = str(getattr(error, "detail", error))
    message = f"{detail}: {request.method} {request.url.path}" if status in codes else detail
    headers = getattr(error, "headers", None)
    return to_response(ApiError(status, message, code=codes.get(status), headers=headers))


async def _on_failure(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return to_response(as_api_error(error))
