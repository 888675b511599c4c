"""URLs, versions and the folder of the state; every failure is one sentence."""

import sqlite3
import subprocess
import sys

import pytest

from quicksilver.errors import ConfigError, StorageError
from quicksilver.server.accounts import Accounts, home
from tests.usages import make_usage


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("accounts.db", "URL does not read"),
        ("nonsense://user:hunter2@host/name", "no database speaks nonsense"),
        ("sqlite://", "in memory forgets"),
        ("sqlite:///:memory:", "in memory forgets"),
    ],
)
def test_a_wrong_url_is_an_error(url, message):
    with pytest.raises(ConfigError, match=message) as raised:
        Accounts.open(url)
    assert "hunter2" not in str(raised.value)


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"postgresql\+psycopg needs the Python package psycopg"):
        Accounts.open("postgresql+psycopg://user@host/name")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StorageError, match=r"the database sqlite:///.*nowhere/a.db fails: unable to open"):
        Accounts.open(f"sqlite:///{tmp_path}/nowhere/a.db")


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "a.db").write_text("not a database, but long enough to be read as the header of one" * 20)
    with pytest.raises(StorageError, match="file is not a database"):
        Accounts.open(f"sqlite:///{tmp_path}/a.db")


@pytest.mark.parametrize("version", [0, 2])
def test_tables_of_another_version_are_left_alone(url, version):
    Accounts.open(url).close()
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.execute("UPDATE quicksilver_schema SET version = ?", (version,))
    connection.commit()
    connection.close()
    with pytest.raises(StorageError, match=f"tables of version {version}, this Quicksilver reads version 1: use the"):
        Accounts.open(url)


def test_a_database_that_another_program_keeps_locked(url):
    accounts = Accounts.open(url, timeout_s=0.05)
    key, secret = accounts.create_key("laptop")
    other = sqlite3.connect(url.removeprefix("sqlite:///"))
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="database is locked: another program keeps it busy"):
        accounts.record(make_usage("r1", key.id))
    assert accounts.find(secret) == key
    other.close()
    assert accounts.record(make_usage("r1", key.id))
    accounts.close()


def test_every_commit_goes_to_the_disk(accounts):
    with accounts._engine.connect() as connection:
        settings = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]


def test_the_state_is_kept_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSILVER_HOME", str(tmp_path / "a" / "b"))
    Accounts.open().close()
    assert (tmp_path / "a" / "b" / "accounts.db").is_file()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_the_state_is_kept_with_the_users_data_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSILVER_HOME", "")
    monkeypatch.setattr("platformdirs.user_data_path", lambda name, appauthor: tmp_path / name)
    assert home() == tmp_path / "quicksilver"


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("QUICKSILVER_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(StorageError, match="set QUICKSILVER_HOME to another"):
        home()


def test_the_extra_is_named_where_it_is_missing():
    code = "import sys; sys.modules[sys.argv[1]] = None; import quicksilver.server.accounts"
    for package in ("sqlalchemy", "platformdirs"):
        done = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=False)
        assert f"ConfigError: API keys need {package}: pip install 'quicksilver-lm[serve]'" in done.stderr


def test_neither_torch_nor_fastapi_is_loaded():
    code = "import sys, quicksilver.server.accounts; print({'torch', 'fastapi', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")
