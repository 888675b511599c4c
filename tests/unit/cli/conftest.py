"""A tiny checkpoint and a way to run commands in this process."""

import io
import json
import sys
from dataclasses import dataclass

import pytest

from quicksilver.cli.main import main
from quicksilver.diffusion.spec import Objective
from tests.tiny_checkpoints import save_tiny_checkpoint


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("cli") / "tiny"))


@pytest.fixture(scope="session")
def ar_folder(tmp_path_factory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("cli") / "tiny-ar", Objective.AUTOREGRESSIVE))


@pytest.fixture
def quicksilver(capsysbinary, monkeypatch):
    """Run a command line; ``stdin`` is text or bytes."""

    def run(*arguments: str, stdin: str | bytes = b"") -> Outcome:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        status = main(arguments)
        captured = capsysbinary.readouterr()
        return Outcome(status, captured.out.decode(), captured.err.decode())

    return run
