"""Wheels are downloaded by pip with the locked hash, and only a whole, matching wheel is used."""

import subprocess
import sys
from pathlib import Path

import pytest

from quicksilver.errors import CorpusError
from quicksilver.training.corpus import wheels
from quicksilver.training.corpus.progress import SilentProgress
from quicksilver.training.corpus.wheels import default_wheel_cache, fetch_wheels, verify_wheel
from tests.unit.training.corpus.conftest import MakeWheel


class FakePip:
    """Stands in for pip: remembers its command and serves one wheel."""

    def __init__(self, served: bytes | None) -> None:
        self.served = served
        self.command: list[str] = []
        self.requirement = ""

    def __call__(self, command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        self.command = command
        self.requirement = Path(command[command.index("--requirement") + 1]).read_text()
        if self.served is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: No matching distribution found\n")
        name = "alpha-1.0-py3-none-any.whl"
        (Path(command[command.index("--dest") + 1]) / name).write_bytes(self.served)
        return subprocess.CompletedProcess(command, 0, "", "")


def test_a_missing_wheel_is_downloaded_with_its_hash_and_nothing_is_installed(
    tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_wheel("alpha", {"alpha/a.py": "x = 1\n"})
    pip = FakePip((tmp_path / "wheels" / package.wheel).read_bytes())
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    fetch_wheels([package], tmp_path / "cache", SilentProgress())
    assert pip.command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(pip.command)
    assert pip.requirement == f"alpha==1.0 --hash=sha256:{package.sha256}\n"
    assert verify_wheel(package, tmp_path / "cache").is_file()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [package.wheel]


def test_a_wheel_that_is_there_is_not_downloaded(
    tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip(None)
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    fetch_wheels([make_wheel("alpha", {})], tmp_path / "wheels", SilentProgress())
    assert pip.command == []


def test_a_failed_download_names_package_reason_and_remedy(
    tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels.subprocess, "run", FakePip(None))
    with pytest.raises(CorpusError, match=r"alpha: .*No matching distribution found.*put a wheel"):
        fetch_wheels([make_wheel("alpha", {})], tmp_path / "cache", SilentProgress())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, make_wheel: MakeWheel) -> None:
    package = make_wheel("alpha", {})
    (tmp_path / "wheels" / package.wheel).write_bytes(b"changed")
    with pytest.raises(CorpusError, match=rf"alpha: .*{package.sha256}.*delete the file"):
        verify_wheel(package, tmp_path / "wheels")
    with pytest.raises(CorpusError, match=r"alpha: .* is missing"):
        verify_wheel(package, tmp_path / "elsewhere")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSILVER_HOME", "/somewhere")
    assert default_wheel_cache() == Path("/somewhere/wheels")
    monkeypatch.delenv("QUICKSILVER_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_wheel_cache() == Path("/cache/quicksilver/wheels")
