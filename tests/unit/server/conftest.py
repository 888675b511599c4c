"""A tiny model behind a server, and the same weights in an engine of their own."""

import httpx
import pytest

import quicksilver
from quicksilver.server.app import create_app
from quicksilver.server.config import ServerConfig
from tests.serving import listening
from tests.tiny_checkpoints import save_tiny_checkpoint

TEMPLATE = "<file>{% for message in messages %}{{ message.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return quicksilver.load(folder, device="cpu")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The same weights in an engine of their own, for what is compared while the server runs."""
    return quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def app(model):
    return create_app(model, ServerConfig(served_names=("gpt-4o",), max_body_bytes=20_000, max_open=40))


@pytest.fixture(scope="module")
def client(app):
    with listening(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
