"""`quicksilver eval`: a table, a report of a fixed form, a run that goes on, and errors that say what is missing."""

import json
from pathlib import Path

import pytest

from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.evaluation.suites.registry import SUITES
from quicksilver.training.corpus.token_file import write_token_file
from tests.tiny_checkpoints import SOURCE, tiny_tokenizer


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> str:
    """A corpus of two packages."""
    folder = tmp_path_factory.mktemp("tokens")
    ids = tiny_tokenizer().encode(SOURCE)
    write_token_file(folder, "public_test", [(f"{name}/a.py", len(SOURCE), ids) for name in ("networkx", "click")])
    tiny_tokenizer().save(folder / TOKENIZER_FILE)
    return str(folder)


def test_the_list_shows_every_suite(quicksilver):
    outcome = quicksilver("eval", "list")
    assert outcome.status == 0
    names = [line.split("|")[1].strip() for line in outcome.out.splitlines()[2:]]
    assert names == list(SUITES)


def test_a_report_says_everything_and_a_run_goes_on(quicksilver, folder, tmp_path):
    out = tmp_path / "new" / "report.json"
    arguments = ("humaneval-single-line", "--model", folder, "--items", "3", "--length", "given", "--json", str(out))
    outcome = quicksilver("eval", *arguments)
    assert outcome.status == 0
    assert "| exact_match " in outcome.out
    report = json.loads(out.read_text())
    wanted = {"suite", "subject", "items", "seed", "temperature", "samples", "command", "environment", "sandbox"}
    assert set(report) == wanted | {"about", "figures"}
    assert (report["suite"], report["items"], report["seed"], report["samples"]) == ("humaneval-single-line", 3, 0, 1)
    assert (report["temperature"], report["sandbox"]) == (0, None)
    assert report["command"].startswith("quicksilver eval humaneval-single-line --model ")
    assert len(report["subject"]["weights_sha256"]) == 64
    assert report["about"]["length"] == "given"
    assert all(set(each) == {"value", "low", "high"} for each in report["figures"].values())
    assert {"exact_match", "parse_rate", "length_error", "nfe", "tpf", "tokens_per_s"} <= set(report["figures"])
    log = tmp_path / "new" / "report.items.jsonl"
    before = log.read_text()
    assert len(before.splitlines()) == 4
    again = quicksilver("eval", *arguments)
    assert (again.status, again.out, log.read_text()) == (0, outcome.out, before)


def test_two_models_are_compared_on_the_same_lines(quicksilver, folder, ar_folder, tokens, tmp_path):
    out = tmp_path / "report.json"
    models = ("--model", folder, "--model", ar_folder)
    outcome = quicksilver("eval", "fim-line", *models, "--tokens", tokens, "--items", "4", "--json", str(out))
    assert outcome.status == 0
    assert "tiny-ar - tiny" in outcome.out.splitlines()[2]
    report = json.loads(out.read_text())
    (other,) = report["others"]
    for name in ("exact_match", "tpf"):
        difference = other["figures"][name]["value"] - report["figures"][name]["value"]
        assert other["paired"][name]["value"] == pytest.approx(difference)
    logs = [tmp_path / f"report.{number}.items.jsonl" for number in (1, 2)]
    first, second = ([json.loads(line)["item_id"] for line in log.read_text().splitlines()[1:]] for log in logs)
    assert first == second
    assert len(first) == 4


def test_bits_per_byte(quicksilver, folder, ar_folder, tokens, tmp_path):
    arguments = ("--tokens", tokens, "--context", "16", "--samples", "2", "--block-length", "4")
    for model, names in ((folder, {"_chain", ""}), (ar_folder, {""})):
        out = tmp_path / f"{Path(model).name}.json"
        assert quicksilver("eval", "lm", "--model", model, *arguments, "--json", str(out)).status == 0
        figures = json.loads(out.read_text())["figures"]
        assert {f"bits_per_byte{name}" for name in names} == {
            name for name in figures if name.startswith("bits_per_byte") and "/" not in name
        }
        assert {f"xz_bits_per_byte{name}" for name in ("", "/package=networkx", "/package=click")} <= set(figures)
        assert ("sampling_error" in figures) == (model == folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), ("no suite", "fim-line")),
        (("fim-line",), ("--tokens",)),
        (("humaneval-single-line", "--data", "nowhere"), ("nowhere", "--data")),
        (("humaneval-single-line", "--items", "2000"), ("1..1033",)),
        (("humaneval-single-line", "--length", "long"), ("--length", "long")),
        (("humaneval-single-line", "--samples", "2"), ("temperature 0",)),
        (("humaneval-single-line", "--policy", "hope"), ("hope",)),
        (("humaneval-single-line", "--layout", "middle"), ("middle",)),
        (("humaneval-single-line", "--context", "0"), ("max_length", "0")),
        (("fim-block", "--length", "one-line", "--tokens", "{tokens}", "--items", "1"), ("no single lines",)),
        (("lm", "--tokens", "{tokens}", "--length", "given"), ("lm", "length")),
        (("lm", "--tokens", "{tokens}", "--policy", "remdm"), ("policy", "ignored")),
        (("lm", "--tokens", "{tokens}", "--model", "nowhere"), ("nowhere",)),
    ],
)
def test_bad_usage_is_one_line_and_status_2(quicksilver, folder, tokens, arguments, words):
    given = [argument.replace("{tokens}", tokens) for argument in arguments]
    models = () if "--model" in given else ("--model", folder)
    outcome = quicksilver("eval", *given, *models)
    assert (outcome.status, outcome.out) == (2, "")
    assert all(word in outcome.err for word in words), outcome.err
    assert outcome.err.count("\n") == 1
