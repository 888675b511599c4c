"""Dispatch, exit status and help."""

import os
import re
from pathlib import Path

import pytest

from quicksilver import __version__
from quicksilver.cli import infill, main, remote, running
from quicksilver.cli.options import POLICY_HELP
from quicksilver.decoding import POLICY_NAMES, params
from quicksilver.decoding.policy_names import SELF_SPECULATIVE
from quicksilver.errors import TrainingError

GOLDEN = Path(__file__).parents[2] / "golden" / "help"
COMMANDS = [
    "infill",
    "generate",
    "serve",
    "demo",
    "replay",
    "tune",
    "eval",
    "calibrate",
    "decide",
    "train",
    "import",
    "export",
    "keys",
    "keys create",
    "bench",
    "bench frontier",
    "bench serve",
]


def words(text: str) -> str:
    """Help without what differs between versions of the parser: line breaks, types and braces of arguments."""
    return " ".join(re.sub(r"<\w+>(?!')|[{}]|\bTEXT\b(?=\s\s)", " ", text.replace("<FILL>", "FILL-MARK")).split())


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_as_recorded(quicksilver, command):
    """Set UPDATE_GOLDEN=1 to record, then read the difference."""
    outcome = quicksilver(*command.split(), "--help")
    assert outcome.status == 0
    path = GOLDEN / f"{command.replace(' ', '-') or 'quicksilver'}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(outcome.out)
    assert words(outcome.out) == words(path.read_text())
    assert "Examples:" in outcome.out or " " in command


def test_every_command_has_a_recorded_help():
    assert {command.partition(" ")[0] for command in [*COMMANDS, "corpus"]} == set(main._COMMANDS)


def test_the_help_names_all_policies():
    names = POLICY_HELP.partition(":")[2].partition(".")[0]
    assert re.findall(r"(?!or\b)\b\w+", names) == [*POLICY_NAMES, SELF_SPECULATIVE]


def test_a_group_shows_its_examples(quicksilver):
    outcome = quicksilver("corpus", "--help")
    assert outcome.status == 0
    assert "Examples:\n    quicksilver corpus build" in outcome.out


def test_no_arguments_show_the_help(quicksilver):
    assert quicksilver() == quicksilver("--help")


def test_version(quicksilver):
    outcome = quicksilver("--version")
    assert (outcome.status, outcome.out) == (0, f"quicksilver {__version__}\n")


@pytest.mark.parametrize("arguments", [("frobnicate",), ("infill",), ("infill", "--what")])
def test_wrong_usage_is_one_line_and_status_2(quicksilver, arguments):
    outcome = quicksilver(*arguments)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith("quicksilver: error: ")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (TrainingError("it broke\nbadly"), 1, "quicksilver: error: it broke badly\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_status_follows_the_error(quicksilver, folder, monkeypatch, error, status, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(running, "follow", fail)
    outcome = quicksilver("infill", "-", "--model", folder, stdin="<FILL>")
    assert (outcome.status, outcome.out, outcome.err.strip("\n")) == (status, "", message.strip("\n"))


def test_bugs_are_not_hidden(quicksilver, folder, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(infill, "read_text", fail)
    with pytest.raises(ZeroDivisionError):
        quicksilver("infill", "-", "--model", folder)


def test_a_server_is_asked_for_as_much_as_a_model_here_writes():
    """Two constants, because the one of decoding would import torch."""
    assert remote.DEFAULT_MAX_TOKENS == params.DEFAULT_MAX_TOKENS
