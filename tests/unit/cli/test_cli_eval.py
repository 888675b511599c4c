"""`quicksilver eval`: a table, a report of a fixed form, a run that goes on, and errors that say what is missing."""

import json
import threading
from pathlib import Path

import pytest

from quicksilver.api import load
from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.cli.serving import served
from quicksilver.evaluation.suites.registry import SUITES, Kind
from quicksilver.sandbox.cages import Level
from quicksilver.training.corpus.token_file import write_token_file
from tests.sandboxes import require
from tests.tiny_checkpoints import SOURCE, save_tiny_checkpoint, tiny_tokenizer

EDITABLE = '''"""Words."""


def longest(words):
    best = ""
    for word in words:
        if len(word) > len(best):
            best = word
    return best


def shortest(words):
    least = words[0]
    for word in words[1:]:
        if len(word) < len(least):
            least = word
    return least


def lengths(words, unit):
    found = [len(word) for word in words]
    print(unit)
    doubled = [2 * each for each in found]
    print(doubled)
    return doubled
'''


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> str:
    """A corpus of two packages."""
    folder = tmp_path_factory.mktemp("tokens")
    texts = {"networkx": SOURCE, "click": EDITABLE}
    documents = [(f"{name}/a.py", len(text), tiny_tokenizer().encode(text)) for name, text in texts.items()]
    write_token_file(folder, "public_test", documents)
    tiny_tokenizer().save(folder / TOKENIZER_FILE)
    return str(folder)


def test_the_list_shows_every_suite(quicksilver):
    outcome = quicksilver("eval", "list")
    assert outcome.status == 0
    names = [line.split("|")[1].strip() for line in outcome.out.splitlines()[2:]]
    assert names == list(SUITES)


def test_a_report_says_everything_and_a_run_goes_on(quicksilver, folder, tmp_path):
    out = tmp_path / "new" / "report.json"
    about = ("--items", "3", "--length", "given", "--sandbox", "off")
    arguments = ("humaneval-single-line", "--model", folder, *about, "--json", str(out))
    outcome = quicksilver("eval", *arguments)
    assert outcome.status == 0
    assert "| exact_match " in outcome.out
    report = json.loads(out.read_text())
    wanted = {"suite", "subject", "items", "seed", "temperature", "samples", "command", "environment", "sandbox"}
    assert set(report) == wanted | {"about", "figures"}
    assert (report["suite"], report["items"], report["seed"], report["samples"]) == ("humaneval-single-line", 3, 0, 1)
    assert (report["temperature"], report["sandbox"]) == (0, None)  # nothing was run
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


@pytest.mark.parametrize("suite", ["humaneval-single-line", "humaneval", "quixbugs", "quixbugs-located"])
def test_answers_are_run_and_the_report_names_the_sandbox(quicksilver, folder, tmp_path, suite):
    require(Level.BWRAP)
    out = tmp_path / "report.json"
    options = ("--items", "2", "--sandbox", "strict", "--max-nfe", "8", "--json", str(out))
    outcome = quicksilver("eval", suite, "--model", folder, *options)
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[4].startswith("| pass@1 ")
    report = json.loads(out.read_text())
    assert (report["sandbox"], report["about"]["sandbox_mode"]) == (Level.BWRAP.value, "strict")
    assert report["figures"]["pass@1"]["value"] == 0


def test_a_validation_asks_nobody(quicksilver, tmp_path):
    require(Level.BWRAP)
    out = tmp_path / "report.json"
    outcome = quicksilver("eval", "humaneval", "--validate", "--items", "3", "--json", str(out))
    assert outcome.status == 0, outcome.err
    assert [row.split("|")[1].strip() for row in outcome.out.splitlines()[4:]] == [
        "reference", "empty body", "pass", "raise",
    ]  # fmt: skip
    controls = json.loads(out.read_text())["controls"]
    assert [(each["num_items"], each["num_passed"]) for each in controls] == [(3, 3), (3, 0), (3, 0), (3, 0)]


def test_a_validation_that_fails_says_where_and_ends_with_1(quicksilver, tmp_path):
    require(Level.BWRAP)
    row = {"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": "    return 2\n", "entry_point": "f"}
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(row | {"test": "def check(f):\n    assert f() in (1, None)\n"}))
    outcome = quicksilver("eval", "humaneval", "--validate", "--data", str(path))
    assert outcome.status == 1
    assert "HumanEval/0, reference: failed: AssertionError" in outcome.out
    assert "HumanEval/0, pass: passed" in outcome.out


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


@pytest.mark.parametrize("suite", ["json", "sudoku", "countdown"])
def test_prompts_are_continued(quicksilver, wide_folder, suite):
    outcome = quicksilver("eval", suite, "--model", wide_folder, "--items", "2", "--max-nfe", "3")
    assert outcome.status == 0
    assert SUITES[suite].kind is Kind.PROMPTS
    assert outcome.out.startswith(f"{suite}, 2 items\n")


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory) -> str:
    """A context in which those prompts fit."""
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("wide") / "wide")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return str(folder)


@pytest.mark.parametrize(
    ("suite", "figure", "options"), [("next-edit", "exact_match", ("--max-nfe", "1")), ("apply", "ast_equal", ())]
)
def test_edits_are_asked_of_a_server_that_ends_with_the_command(
    quicksilver, folder, tokens, tmp_path, suite, figure, options
):
    out, before = tmp_path / "report.json", threading.active_count()
    arguments = (suite, "--model", folder, "--tokens", tokens, "--items", "1", "--json", str(out), *options)
    outcome = quicksilver("eval", *arguments)
    assert outcome.status == 0, outcome.err
    figures = json.loads(out.read_text())["figures"]
    assert 0 <= figures[figure]["value"] <= 1
    assert threading.active_count() == before
    if suite == "apply":
        assert figures["untouched_kept"]["value"] == 1  # the merge is the structure's, whatever the model


def test_a_server_that_is_there_already_is_asked(quicksilver, folder, tokens):
    with served(load(folder, device="cpu")) as url:
        arguments = ("apply", "--tokens", tokens, "--items", "1")
        outcome = quicksilver("eval", *arguments, "--server", url)
    assert outcome.status == 0, outcome.err
    assert url in outcome.out
    assert "| ast_equal " in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), ("no suite", "fim-line")),
        (("fim-line",), ("--tokens",)),
        (("humaneval-single-line", "--data", "nowhere"), ("nowhere", "--data")),
        (("humaneval-single-line", "--items", "2000"), ("1..1033",)),
        (("humaneval-single-line", "--length", "long"), ("--length", "long")),
        (("humaneval-single-line", "--samples", "2"), ("temperature 0",)),
        (("humaneval-single-line", "--sandbox", "off", "--policy", "hope"), ("hope",)),
        (("humaneval-single-line", "--sandbox", "off", "--layout", "middle"), ("middle",)),
        (("humaneval-single-line", "--sandbox", "off", "--context", "0"), ("max_length", "0")),
        (("fim-block", "--length", "one-line", "--tokens", "{tokens}", "--items", "1"), ("no single lines",)),
        (("lm", "--tokens", "{tokens}", "--length", "given"), ("lm", "length")),
        (("lm", "--tokens", "{tokens}", "--policy", "remdm"), ("policy", "ignored")),
        (("apply", "--tokens", "{tokens}", "--threshold", "0.5"), ("threshold", "ignored")),
        (("next-edit", "--tokens", "{tokens}"), ("places for", "200")),
        (("next-edit",), ("--tokens",)),
        (("json", "--layout", "psm"), ("layout", "json")),
        (("sudoku", "--items", "501"), ("1..500",)),
        (("fim-line", "--tokens", "{tokens}", "--data", "x"), ("reads no set", "x")),
        (("fim-line", "--tokens", "{tokens}", "--sandbox", "fast"), ("runs nothing",)),
        (("fim-line", "--tokens", "{tokens}", "--accept-unsafe"), ("runs nothing",)),
        (("humaneval", "--package", "x"), ("needs no package", "x")),
        (("humaneval", "--sandbox", "off"), ("not run",)),
        (("humaneval", "--sandbox", "none"), ("--sandbox", "none")),
        (("humaneval", "--length", "given"), ("told of holes", "humaneval has none")),
        (("humaneval-plus",), ("github.com/evalplus", "HumanEvalPlus.jsonl.gz", "--data")),
        (("humaneval", "--validate", "--model", "m", "--threshold", "0.5"), ("model, threshold", "ignored")),
        (("sudoku", "--validate"), ("known to be right",)),
        (("lm", "--tokens", "{tokens}", "--model", "nowhere"), ("nowhere",)),
    ],
)
def test_bad_usage_is_one_line_and_status_2(quicksilver, folder, tokens, arguments, words):
    given = [argument.replace("{tokens}", tokens) for argument in arguments]
    models = () if {"--model", "--validate"} & set(given) else ("--model", folder)
    outcome = quicksilver("eval", *given, *models)
    assert (outcome.status, outcome.out) == (2, "")
    assert all(word in outcome.err for word in words), outcome.err
    assert outcome.err.count("\n") == 1
