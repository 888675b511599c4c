"""The benchmark scripts run from end to end on the smallest models; their figures mean nothing here."""

import importlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.diffusion.spec import Objective
from quicksilver.training.corpus.token_file import write_token_file
from tests.tiny_checkpoints import SOURCE, save_tiny_checkpoint, tiny_tokenizer

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its twin and a corpus of two packages."""
    folder = tmp_path_factory.mktemp("benchmarks")
    save_tiny_checkpoint(folder / "model")
    save_tiny_checkpoint(folder / "twin", Objective.AUTOREGRESSIVE)
    (folder / "tokens").mkdir()
    tokens = tiny_tokenizer().encode(SOURCE)
    documents = [(f"{name}/a.py", len(SOURCE), tokens) for name in ("networkx", "click")]
    for split in ("public_test", "validation"):
        write_token_file(folder / "tokens", split, documents)
    tiny_tokenizer().save(folder / "tokens" / TOKENIZER_FILE)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object) -> tuple[int, str]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    result = CliRunner().invoke(importlib.import_module(script).app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_length_margins(monkeypatch: pytest.MonkeyPatch, folder: Path):
    out = folder / "lengths.json"
    arguments = ("--model", folder / "model", "--tokens", folder / "tokens", "--items", 3)
    code, text = run(monkeypatch, "lengths", *arguments, "--margin", 0.0, "--margin", 1.0, "--out", out)
    assert code == 0
    assert "length_margin" in text
    margins = json.loads(out.read_text())["margins"]
    assert {name: set(found) >= {"exact_match", "length_error", "nfe"} for name, found in margins.items()} == {
        "0.0": True,
        "1.0": True,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "nowhere"), "no model"),
        (("--model", "{}/model", "--items", "2000"), "must lie in 1.."),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, folder: Path, arguments: tuple[str, ...], message: str
):
    given = [argument.format(folder) for argument in arguments]
    code, text = run(monkeypatch, "lengths", *given, "--tokens", folder / "tokens", "--out", folder / "bad.json")
    assert code == 2
    assert message in text
    assert len(text.splitlines()) == 1


@pytest.mark.slow
def test_speed(monkeypatch: pytest.MonkeyPatch, folder: Path):
    pytest.importorskip("transformers")
    out = folder / "speed.json"
    models = ("--model", folder / "model", "--twin", folder / "twin")
    code, _ = run(monkeypatch, "speed", *models, "--items", 1, "--rounds", 1, "--out", out)
    assert code == 0
    loops = {row["loop"]: row for row in json.loads(out.read_text())["loops"]}
    assert len(loops) == 4
    assert loops["twin"]["times_twin"] == 1.0
    # The cached loop writes what the plain one does, so it takes as many forwards.
    assert loops["twin"]["nfe_per_item"] == loops["twin, cached (transformers)"]["nfe_per_item"]
