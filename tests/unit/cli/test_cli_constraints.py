"""Constraints and decisions on the command line, by a model in this process and by a server."""

import json
import re

import jsonschema
import pytest

import quicksilver as library
from quicksilver.server.app import create_app
from tests.serving import listening

SCHEMA = {"properties": {"x": {"enum": [None, 1]}, "y": {"type": "boolean"}}, "required": ["x", "y"], "type": "object"}
HOLE = "x = <FILL> + 1\n"


@pytest.fixture(scope="module")
def url(folder):
    with listening(create_app(library.load(folder, device="cpu"))) as found:
        yield found


@pytest.fixture(params=["local", "server"])
def where(request, folder):
    return ("--model", folder) if request.param == "local" else ("--server", request.getfixturevalue("url"))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "point.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "list.gbnf").write_text('root ::= "[" [0-9] ("," [0-9])* "]"')
    (tmp_path / "list.lark").write_text('start: "[" /[0-9]/ ("," /[0-9]/)* "]"')
    return tmp_path


def test_generate_writes_json_of_a_schema(quicksilver, where, files):
    outcome = quicksilver(
        "generate", "x = ", *where, "--json-schema", str(files / "point.json"), "--max-tokens", "60", "--json",
        "--temperature", "1", "--seed", "2",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    jsonschema.validate(json.loads(outcome.json["text"]), SCHEMA | {"additionalProperties": False})
    assert outcome.json["finish_reason"] != "length"


@pytest.mark.parametrize("name", ["list.gbnf", "list.lark"])
def test_generate_writes_texts_of_a_grammar(quicksilver, where, files, name):
    outcome = quicksilver(
        "generate", "x = ", *where, "--grammar", str(files / name), "--max-tokens", "20", "--seed", "1"
    )
    assert re.fullmatch(r"\[[0-9](,[0-9])*\]", outcome.out.strip())


def test_infill_writes_matches_and_choices(quicksilver, where):
    outcome = quicksilver("infill", "-", *where, "--regex", "[a-c]{2,4}", "--seed", "1", stdin=HOLE)
    assert re.fullmatch(r"x = [a-c]{2,4} \+ 1\n", outcome.out)
    outcome = quicksilver("infill", "-", *where, "--choice", "left", "--choice", "right", "--seed", "1", stdin=HOLE)
    assert outcome.out in {"x = left + 1\n", "x = right + 1\n"}


def test_a_budget_that_is_too_small_says_how_much_is_needed(quicksilver, where):
    outcome = quicksilver("generate", "x = ", *where, "--regex", "a{9}", "--max-tokens", "2")
    assert outcome.status != 0
    assert re.search(r"needs at least \d+ tokens", outcome.err)


@pytest.mark.parametrize("command", ["generate", "infill"])
def test_two_constraints_are_bad_usage(quicksilver, folder, command):
    outcome = quicksilver(command, "-", "--model", folder, "--regex", "a", "--choice", "a", stdin=HOLE)
    assert (outcome.status, "contradict" in outcome.err) == (2, True)


@pytest.mark.parametrize(("text", "words"), [("{", "no JSON"), ("[]", "an object is expected")])
def test_a_file_that_is_no_schema_is_bad_usage(quicksilver, folder, tmp_path, text, words):
    (tmp_path / "bad.json").write_text(text)
    outcome = quicksilver("generate", "x", "--model", folder, "--json-schema", str(tmp_path / "bad.json"))
    assert (outcome.status, words in outcome.err) == (2, True)


def test_decide_tells_the_likeliest_first(quicksilver, where, folder):
    asked = ("decide", "-", *where, "--choice", "a", "--choice", "bb", "--choice", "7")
    found = library.load(folder, device="cpu").decide("x = ", " + 1\n", ["a", "bb", "7"])
    answer = quicksilver(*asked, "--json", stdin=HOLE).json
    assert answer["choice"] == found.label
    assert list(answer["probabilities"].values()) == pytest.approx(list(found.probabilities))
    lines = quicksilver(*asked, stdin=HOLE).out.splitlines()
    assert [line.split()[1] for line in lines] == sorted(["a", "bb", "7"], key=lambda x: -answer["probabilities"][x])


def test_decide_needs_one_mark(quicksilver, folder):
    outcome = quicksilver("decide", "-", "--model", folder, "--choice", "a", stdin="x = 1\n")
    assert (outcome.status, "once" in outcome.err) == (2, True)


def test_strings_stand_in_the_answer_or_do_not(quicksilver, where):
    options = ("--regex", "[a-c]{4}", "--require", "ba", "--ban", "c", "--ban", "aa")
    outcome = quicksilver("infill", "-", *where, *options, "--seed", "1", "--temperature", "1", stdin=HOLE)
    written = re.fullmatch(r"x = ([ab]{4}) \+ 1\n", outcome.out)
    assert written
    assert "ba" in written[1]
    assert "aa" not in written[1]
    outcome = quicksilver("infill", "-", *where, "--ban", "", stdin=HOLE)
    assert outcome.status == 2
    assert "--ban: String should have at least 1 character" in outcome.err
