"""Which server, with which key, how patiently."""

import os
from dataclasses import dataclass, field
from typing import TypedDict

import httpx

from quicksilver.client import errors
from quicksilver.client.errors import UnreachableError
from quicksilver.errors import ConfigError, ServerError

DEFAULT_BASE_URL = "http://127.0.0.1:8080/v1"
"""Where ``quicksilver serve`` listens."""
BASE_URL_VARIABLE = "QUICKSILVER_BASE_URL"
API_KEY_VARIABLE = "QUICKSILVER_API_KEY"
OPENAI_KEY_VARIABLE, OPENAI_HOST = "OPENAI_API_KEY", "api.openai.com"
"""A key that many people have set, and no other server is to see."""
_CONNECT_S = 5.0


class HttpOptions(TypedDict):
    """What both of httpx's clients take."""

    base_url: str
    headers: dict[str, str]
    timeout: httpx.Timeout


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """How to reach a server. ``resolve`` fills in what is not given from the environment."""

    base_url: str
    """With the version, as in ``http://127.0.0.1:8080/v1``; without any path it gets ``/v1``."""
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    """None leaves the choice to the server."""
    timeout_s: float = 600.0
    """Longest silence: of a stream between two events, else until the answer is there."""
    max_retries: int = 2
    """How often a request is repeated that the server was too busy for or never answered."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _with_version(self.base_url))
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s must be above 0, got {self.timeout_s}")
        if self.max_retries < 0:
            raise ConfigError(f"max_retries must not be negative, got {self.max_retries}")
        key = self.api_key
        # Told without the key: an HTTP library's own message would quote it.
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
            raise ConfigError("the API key is empty, begins or ends with a space, or holds a character no header may")

    @classmethod
    def resolve(
        cls, base_url: str | None, api_key: str | None, model: str | None, timeout_s: float, max_retries: int
    ) -> "Connection":
        """Arguments go before the environment's variables, those before the defaults."""
        url = base_url or os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
        key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
        if key is None and httpx.URL(url).host == OPENAI_HOST:
            key = os.environ.get(OPENAI_KEY_VARIABLE)
        return cls(
            base_url=url,
            api_key=key or None if api_key is None else api_key,
            model=model,
            timeout_s=timeout_s,
            max_retries=max_retries,
        )

    @property
    def headers(self) -> dict[str, str]:
        named = {"user-agent": "quicksilver"}
        return named if self.api_key is None else {**named, "authorization": f"Bearer {self.api_key}"}


def _with_version(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.userinfo:
        raise ConfigError("the server's URL must not hold a user or password: give the key as api_key")
    is_address = bool(url.host) and (url.port is None or 0 < url.port < 2**16)
    if url.scheme not in ("http", "https") or not is_address or url.query or url.fragment:
        raise ConfigError(f"no URL of a server: {text!r}; it looks like http://127.0.0.1:8080/v1")
    return str(url if url.path.strip("/") else url.copy_with(path="/v1")).rstrip("/")


def http_options(connection: Connection) -> HttpOptions:
    """For httpx's clients. Redirects are not followed: the key would go along."""
    return {
        "base_url": connection.base_url + "/",
        "headers": connection.headers,
        "timeout": httpx.Timeout(connection.timeout_s, connect=min(_CONNECT_S, connection.timeout_s)),
    }


def refusal(response: httpx.Response) -> ServerError:
    """Of an answer that is no success and has been read."""
    return errors.refusal(response.status_code, response.content, response.headers.get("x-request-id"))


def unreachable(connection: Connection, error: httpx.RequestError) -> UnreachableError:
    """Of a request without an answer."""
    url = connection.base_url
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return UnreachableError(f"nobody answers at {url}: {error}; start a server with: quicksilver serve")
    if isinstance(error, httpx.TimeoutException):
        return UnreachableError(f"no answer from {url} within {connection.timeout_s} s")
    return UnreachableError(f"no answer from {url}: {error or type(error).__name__}")
