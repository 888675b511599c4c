"""A client of any server of OpenAI's completions API, our own extensions included."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from quicksilver.errors import ConfigError, ServerError

try:
    import httpx
    import httpx_sse
except ModuleNotFoundError as error:
    raise ConfigError(f"the client needs {error.name}: pip install 'quicksilver-lm[serve]'") from error

DEFAULT_URL = "http://127.0.0.1:8080"
_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
_MOST_WAIT_S = 30.0
_KEY_VARIABLES = ("QUICKSILVER_API_KEY", "OPENAI_API_KEY")
_URL_VARIABLE = "QUICKSILVER_BASE_URL"


@runtime_checkable
class CompletionClient(Protocol):
    """Whoever continues texts and fills holes; coding tools know models only so."""

    def complete(self, prompt: str, **options: object) -> str:
        """What follows a prompt."""
        ...

    def fill(self, prefix: str, suffix: str, **options: object) -> str:
        """What stands between two texts."""
        ...


class Client:
    r"""Speaks to one server. Options are fields of the request, as docs/server.md lists them.

    Example:
        >>> with Client("http://127.0.0.1:8080") as client:
        ...     client.fill("def area(r):\n    return ", "\n", seed=1)
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 2,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open a connection pool; nothing is sent yet.

        Args:
            base_url: with or without ``/v1``; None: ``QUICKSILVER_BASE_URL``, else a server on this machine.
            api_key: None: ``QUICKSILVER_API_KEY`` or ``OPENAI_API_KEY``; neither: none is sent.
            model: by the server's name; None: whatever it serves, which not every server allows.
            timeout_s: for an answer, or between two events of a stream.
            max_retries: after an overload, a rate limit, a failure of the server or of the connection.
            transport: instead of the network, for tests.
            sleep: waits some seconds before a retry.

        Raises:
            ConfigError: the URL is none, or ``max_retries`` is negative.
        """
        url = base_url or os.environ.get(_URL_VARIABLE) or DEFAULT_URL
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"a server's URL begins with http:// or https://, got {url!r}")
        if max_retries < 0:
            raise ConfigError(f"max_retries must not be negative, got {max_retries}")
        key = api_key or next(filter(None, map(os.environ.get, _KEY_VARIABLES)), None)
        self._model, self._max_retries, self._sleep = model, max_retries, sleep
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def models(self) -> list[str]:
        """Names of the served models.

        Raises:
            ServerError: as every method here.
        """
        return [str(entry["id"]) for entry in self._request("GET", "/v1/models")["data"]]

    def complete(self, prompt: str, **options: object) -> str:
        """What follows a prompt.

        Raises:
            ServerError: the server refused or failed, or could not be reached.
        """
        return _text(self._post("/v1/completions", prompt=prompt, **options))

    def fill(self, prefix: str, suffix: str, **options: object) -> str:
        """What stands between two texts.

        Raises:
            ServerError: as ``complete``.
        """
        return _text(self._post("/v1/completions", prompt=prefix, suffix=suffix, **options))

    def chat(self, messages: list[Mapping[str, str]], **options: object) -> str:
        """The next turn of a conversation.

        Raises:
            ServerError: as ``complete``.
        """
        body = self._post("/v1/chat/completions", messages=messages, **options)
        return str(_choice(body)["message"]["content"])

    def infill(self, template: str, **options: object) -> dict[str, Any]:
        """A template with its holes filled, by a server of this project: see ``protocol.infill.InfillResponse``.

        Raises:
            ServerError: as ``complete``.
        """
        return self._post("/v1/infill", template=template, **options)

    def stream(self, prompt: str, **options: object) -> Iterator[str]:
        """What follows a prompt, piece by piece as it settles. Closing the iterator ends the request.

        Raises:
            ServerError: as ``complete``, also in mid-stream.
        """
        for event in self._events("/v1/completions", prompt=prompt, **options):
            if event.get("choices"):
                yield str(_choice(event).get("text") or "")

    def stream_infill(self, template: str, **options: object) -> Iterator[dict[str, Any]]:
        """The events of an infill, by a server of this project: see ``protocol.infill.InfillEvent``.

        Raises:
            ServerError: as ``stream``.
        """
        return self._events("/v1/infill", template=template, **options)

    def _post(self, path: str, **fields: object) -> dict[str, Any]:
        return self._request("POST", path, json=self._body(fields))

    def _body(self, fields: Mapping[str, object]) -> dict[str, object]:
        given = {"model": self._model, **fields}
        return {name: value for name, value in given.items() if value is not None}

    def _request(self, method: str, path: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401
        for attempt in range(self._max_retries + 1):
            is_last = attempt == self._max_retries
            try:
                response = self._http.request(method, path, **content)
            except httpx.TransportError as error:
                if is_last:
                    raise self._unreachable(error) from error
                self._sleep(_backoff(attempt))
                continue
            if response.is_success:
                return _json(response)
            if is_last or not _is_retried(response):
                raise _refusal(response)
            self._sleep(_wait_s(response, attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _events(self, path: str, **fields: object) -> Iterator[dict[str, Any]]:
        with self._stream(path, fields) as source:
            for event in source.iter_sse():
                if event.data == "[DONE]":
                    return
                body = json.loads(event.data)
                if body.get("error"):
                    raise _error(body["error"], None)
                yield body

    @contextmanager
    def _stream(self, path: str, fields: Mapping[str, object]) -> Iterator["httpx_sse.EventSource"]:
        """An open stream. Retried only until it has begun: what was read cannot be taken back."""
        body = self._body({**fields, "stream": True})
        for attempt in range(self._max_retries + 1):
            is_last = attempt == self._max_retries
            request = self._http.build_request("POST", path, json=body)
            try:
                response = self._http.send(request, stream=True)
            except httpx.TransportError as error:
                if is_last:
                    raise self._unreachable(error) from error
                self._sleep(_backoff(attempt))
                continue
            try:
                if response.is_success:
                    yield httpx_sse.EventSource(response)
                    return
                response.read()
                if is_last or not _is_retried(response):
                    raise _refusal(response)
            except httpx.TransportError as error:
                raise self._unreachable(error) from error
            finally:
                response.close()
            self._sleep(_wait_s(response, attempt))

    def _unreachable(self, error: Exception) -> ServerError:
        return ServerError(f"no answer from {self._http.base_url}: {error or type(error).__name__}")


def _is_retried(response: httpx.Response) -> bool:
    asked = response.headers.get("x-should-retry")
    return asked == "true" if asked in ("true", "false") else response.status_code in _RETRIED


def _wait_s(response: httpx.Response, attempt: int) -> float:
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return min(max(float(response.headers[name]) / scale, 0.0), _MOST_WAIT_S)
        except (KeyError, ValueError):  # absent, or a date, which our own servers do not send
            continue
    return _backoff(attempt)


def _backoff(attempt: int) -> float:
    return 0.5 * 2**attempt


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as error:
        raise ServerError(f"the answer is no JSON: {response.text[:200]!r}", status=response.status_code) from error
    if not isinstance(body, dict):
        raise ServerError("the answer is JSON, but no object", status=response.status_code)
    return body


def _refusal(response: httpx.Response) -> ServerError:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return ServerError(f"HTTP {response.status_code}: {response.text[:200]!r}", status=response.status_code)
    return _error(error, response.status_code)


def _error(error: object, status: int | None) -> ServerError:
    if not isinstance(error, dict):
        return ServerError(str(error), status=status)
    return ServerError(
        str(error.get("message")),
        status=status,
        kind=error.get("type"),
        code=error.get("code"),
        param=error.get("param"),
    )


def _choice(body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return body["choices"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise ServerError("the answer has no choices; is this an OpenAI-compatible server?") from error


def _text(body: Mapping[str, Any]) -> str:
    return str(_choice(body).get("text") or "")
