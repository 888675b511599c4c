"""Speaking to any server of an OpenAI-compatible API."""

from quicksilver.client.http import DEFAULT_URL, Client, CompletionClient
from quicksilver.errors import ServerError

__all__ = ["DEFAULT_URL", "Client", "CompletionClient", "ServerError"]
