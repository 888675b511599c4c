"""Where the server listens."""

import socket

import pytest

from quicksilver.errors import UsageError
from quicksilver.server.run import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_send_at_once(host):
    """What is sent in two parts must not wait for an acknowledgement of the first."""
    try:
        listener = listen(host, 0)
    except UsageError:
        pytest.skip(f"this machine has no {host}")
    with listener, socket.create_connection(listener.getsockname()[:2]), listener.accept()[0] as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_told():
    with listen("127.0.0.1", 0) as listener, pytest.raises(UsageError, match="choose another --port"):
        listen("127.0.0.1", listener.getsockname()[1])
