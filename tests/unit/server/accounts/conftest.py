"""A database in a temporary folder."""

import pytest

from quicksilver.server.accounts import Accounts


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'accounts.db'}"


@pytest.fixture
def accounts(url):
    opened = Accounts.open(url)
    yield opened
    opened.close()
