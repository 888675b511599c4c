"""Speaking to any server of an OpenAI-compatible API; what only Quicksilver's server gives is optional.

``Client`` blocks, ``AsyncClient`` is for asyncio; what stands on a model takes a ``CompletionClient``.
"""

from importlib.util import find_spec

from quicksilver.errors import ServerError, UsageError

_MISSING = [name for name in ("httpx", "httpx_sse", "pydantic") if find_spec(name) is None]
if _MISSING:
    raise UsageError(f"quicksilver.client needs {', '.join(_MISSING)}: pip install 'quicksilver-lm[serve]'")

# The check comes before the modules that need what it looks for.
from quicksilver.client.aio import AsyncClient  # noqa: E402
from quicksilver.client.blocking import Client  # noqa: E402
from quicksilver.client.connection import Connection  # noqa: E402
from quicksilver.client.errors import RefusedError, ReplyError, UnreachableError  # noqa: E402
from quicksilver.client.interface import AsyncCompletionClient, CompletionClient  # noqa: E402
from quicksilver.client.options import RequestOptions  # noqa: E402
from quicksilver.client.replies import Choice, Reply  # noqa: E402
from quicksilver.client.streams import AsyncStream, AsyncTextStream, Stream, TextStream  # noqa: E402
from quicksilver.protocol.chat import Message  # noqa: E402
from quicksilver.protocol.infill import HoleLimits, InfillEvent, InfillResponse  # noqa: E402

__all__ = [
    "AsyncClient",
    "AsyncCompletionClient",
    "AsyncStream",
    "AsyncTextStream",
    "Choice",
    "Client",
    "CompletionClient",
    "Connection",
    "HoleLimits",
    "InfillEvent",
    "InfillResponse",
    "Message",
    "RefusedError",
    "Reply",
    "ReplyError",
    "RequestOptions",
    "ServerError",
    "Stream",
    "TextStream",
    "UnreachableError",
]
