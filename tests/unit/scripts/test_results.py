"""The page of results: that it is what its files say, what templates may ask, how reports become files."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[3]
REPORT = {
    "command": "python b.py --seed 3",
    "date": "2026-11-25",
    "seed": 3,
    "environment": {"cpu": "EPYC", "threads": 1},
}
INTERVAL = {"value": 0.031, "low": 0.02, "high": 0.045}
TABLE = {
    "source": "a test",
    "commands": ["first", "second"],
    "environment": {"cpu": "EPYC", "threads": 2, "commit": "0123456789abcdef"},
    "conditions": {"seed": 0},
    "date": "2026-11-25",
    "columns": [
        {"key": "model", "title": "model"},
        {"key": "exact", "title": "exact match", "format": ".1%", "bounds": ".0%"},
        {"key": "tokens", "title": "tokens", "format": ",d"},
    ],
    "rows": [{"model": "**ours**", "exact": INTERVAL, "tokens": 94219}, {"model": "a|b", "exact": 0.5, "tokens": 1}],
}
EVALUATION = {
    "suite": "humaneval",
    "subject": {"model": "coder"},
    "items": 1033,
    "seed": 0,
    "command": "quicksilver eval humaneval",
    "environment": {"cpu": "EPYC"},
    "sandbox": "strict",
    "figures": {"pass@1/kind=code": INTERVAL, "nfe": {"value": 9.75, "low": 9.0, "high": 10.5}},
}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("results")


class Folder:
    """A folder of templates and result files, and what the command makes of it."""

    def __init__(self, module: ModuleType, path: Path) -> None:
        self.module, self.path, self.page = module, path, path / "page.md"

    def write(self, **files: object) -> "Folder":
        for name, values in files.items():
            (self.path / f"{name}.json").write_text(json.dumps(values))
        return self

    def render(self, template: str) -> str:
        (self.path / "10-part.md.j2").write_text(template)
        return self.module.render(self.path).removeprefix(self.module.HEADER).strip()

    def run(self, *arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(
            self.module.app, ["--folder", str(self.path), "--out", str(self.page), *arguments], catch_exceptions=False
        )
        return done.exit_code, done.output

    def add(self, name: str, *reports: object, options: tuple[str, ...] = ()) -> dict:
        paths = []
        for number, report in enumerate(reports):
            paths.append(self.path / f"{number}.report")
            paths[-1].write_text(json.dumps(report))
        code, output = self.run("add", *map(str, paths), "--name", name, *options)
        assert code == 0, output
        return json.loads((self.path / f"{name}.json").read_text()) | {"output": output}


@pytest.fixture
def folder(results: ModuleType, tmp_path: Path) -> Folder:
    return Folder(results, tmp_path)


def test_the_page_is_what_its_files_say(results: ModuleType) -> None:
    assert results.render(results.FOLDER) == results.PAGE.read_text(encoding="utf-8"), "run make results"


def test_a_changed_page_fails_the_check_and_is_written_again(folder: Folder) -> None:
    folder.write(t=TABLE)
    folder.render("# Title\n{{ table('t') }}")
    assert folder.run("--check")[0] == 1
    assert folder.run() == (0, "")
    assert folder.run("--check") == (0, "")
    folder.page.write_text(folder.page.read_text().replace("3.1 %", "9.1 %"))
    code, output = folder.run("--check")
    assert code == 1
    assert "9.1 %" in output
    assert "make results" in output


def test_a_table(folder: Folder) -> None:
    wanted = [
        "| model | exact match | tokens |",
        "|---|---|---|",
        "| **ours** | 3.1 % (2 to 4) | 94,219 |",
        "| a\\|b | 50.0 % | 1 |",
    ]
    assert folder.write(t=TABLE).render("{{ table('t') }}").splitlines() == wanted
    assert folder.render("{{ table('t', 't', only=['model']) }}").splitlines()[2:] == ["| **ours** |", "| a\\|b |"] * 2


def test_figures_in_sentences(folder: Folder) -> None:
    folder.write(t=TABLE, e=EVALUATION)
    text = """{% set c = cell("t", "exact", model="ours") %}
{{ c }}, {{ c.value }}, {{ c.low }}; {{ figure("e", "nfe", ".1f") }}
{{ "%.2f" % (c.number / cell("t", "exact", tokens=1).number) }}"""
    assert folder.render(text) == "3.1 % (2 to 4), 3.1 %, 2; 9.8 (9.0 to 10.5)\n0.06"


def test_commands_and_conditions(folder: Folder) -> None:
    folder.write(t=TABLE, u=TABLE | {"commands": ["first", "third"]}, e=EVALUATION)
    assert folder.render("{{ commands('t', 'u', 'e') }}").splitlines() == [
        "first", "second", "third", "quicksilver eval humaneval",
    ]  # fmt: skip
    assert (
        folder.render("{{ condition('e', 'sandbox') }}, {{ condition('t', 'seed') }}{{ table('u')[:0] }}")
        == "strict, 0"
    )
    assert folder.render("{{ table('u') and conditions('e') and conditions('t') }}") == (
        "seed 0, EPYC, 2 threads, commit 0123456789ab, 2026-11-25"
    )


def test_evaluations_side_by_side(folder: Folder) -> None:
    other = EVALUATION | {
        "subject": {"model": "twin"},
        "figures": {"pass@1/kind=code": {"value": 0.5, "low": None, "high": None}},
    }
    folder.write(a=EVALUATION, b=other)
    figures = "{'pass@1/kind=code': 'pass, code:.1%', 'nfe': 'NFE:.1f'}"
    assert folder.render(f"{{{{ evaluations('a', 'b', subject=['model'], figures={figures}) }}}}").splitlines() == [
        "| suite | items | model | pass, code | NFE |",
        "|---|---|---|---|---|",
        "| humaneval | 1,033 | coder | 3.1 % (2.0 to 4.5) | 9.8 (9.0 to 10.5) |",
        "| humaneval | 1,033 | twin | 50.0 % |  |",
    ]


def test_a_subject_beside_others(folder: Folder) -> None:
    others = [
        {
            "subject": {"name": "twin", "model": "twin"},
            "figures": {"nfe": {"value": 5.0, "low": None, "high": None}},
            "paired": {"nfe": {"value": -4.8, "low": -5.0, "high": -4.5}},
        }
    ]
    folder.write(a=EVALUATION | {"others": others})
    table = folder.render("{{ evaluations('a', subject=['model'], figures={'nfe': 'NFE:.1f'}) }}")
    assert table.splitlines()[2:] == [
        "| humaneval | 1,033 | coder | 9.8 (9.0 to 10.5) |",
        "| humaneval | 1,033 | twin | 5.0 |",
    ]
    said = "{{ figure('a', 'nfe', '.1f', of='twin') }}, {{ difference('a', 'nfe', '.1f', of='twin') }}"
    assert folder.render(said) == "5.0, -4.8 (-5.0 to -4.5)"


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("\n\n{{ cell('t', 'exact') }}", "line 3: t has 2 rows"),
        ("{{ cell('t', 'exakt', model='ours') }}", "no exakt; known: model, exact, tokens"),
        ("{{ table('t', only=['exakt']) }}", "exakt"),
        ("{{ table('t', 'u') }}", "u has other columns than t"),
        ("{{ table() }}", "line 1"),
        ("{{ table('none') }}", "none.json"),
        ("{{ table('e') }}", "e is an evaluation"),
        ("{{ evaluations('t', subject=[], figures={}) }}", "t is a table"),
        ("{{ evaluations('e', subject=[], figures={'pass@2': 'x'}) }}", "pass@2; known: pass@1/kind=code, nfe"),
        ("{{ evaluations('e', figures={'nfe': 'NFE'}, subject=['server']) }}", "server; known: model"),
        ("{{ figure('e', 'pass@2') }}", "e has no pass@2"),
        ("{{ figure('e', 'nfe', of='twin') }}", "0 of the others are called twin; there are: none"),
        ("{{ condition('t', 'items') }}", "no items; known: seed"),
        ("{{ tabel('t') }}", "tabel"),
        ("\n{{ table('t' }}", "line 2"),
        ("{{ table('t') }}", "uses e, u"),
    ],
)
def test_what_is_wrong_with_a_template_is_named(folder: Folder, template: str, named: str) -> None:
    folder.write(t=TABLE, u=TABLE | {"columns": TABLE["columns"][:1], "rows": []}, e=EVALUATION)
    (folder.path / "10-part.md.j2").write_text(template)
    code, output = folder.run()
    assert code == 1
    assert named in output
    assert not folder.page.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rows": [{"modle": "x"}]}, "modle"),
        ({"columns": [{"key": "model", "title": "a"}, {"key": "model", "title": "b"}], "rows": []}, "share a key"),
        ({"kommands": []}, "kommands"),
        ({"rows": [{"exact": {"value": 1}}]}, "rows"),
        ({"rows": [{"tokens": 1.5}]}, "column 'tokens' cannot show 1.5"),
    ],
)
def test_what_is_wrong_with_a_result_file_is_named(folder: Folder, change: dict, named: str) -> None:
    folder.write(t=TABLE | change)
    (folder.path / "10-part.md.j2").write_text("{{ table('t') }}")
    code, output = folder.run()
    assert code == 1
    assert named in output
    assert "t" in output


ROWS = [{"loop": "a", "ms": 1.25, "exact": INTERVAL, "by": {"x": 2}, "every": [1, 2]}]
FLAT = [{"loop": "a", "ms": 1.25, "exact": INTERVAL, "by_x": 2}]


@pytest.mark.parametrize(
    ("found", "rows", "dropped"),
    [
        (ROWS, FLAT, "every"),
        ({"first": ROWS, "second": ROWS}, [{"name": "first"} | FLAT[0], {"name": "second"} | FLAT[0]], "every"),
        ({"first": ROWS[0]}, [{"name": "first"} | FLAT[0]], "every"),
        ({"rows": [1, 2], "ms": [3.5, 4.5], "budget": 8}, [{"rows": 1, "ms": 3.5}, {"rows": 2, "ms": 4.5}], ""),
        (ROWS[0] | {"every": 1}, [FLAT[0] | {"every": 1}], ""),
    ],
)
def test_the_shapes_of_reports(folder: Folder, found: object, rows: list, dropped: str) -> None:
    table = folder.add("t", REPORT | {"loops": found, "seconds": {"a": [1.0]}}, options=("--rows", "loops"))
    assert [{key: row[key] for key in sorted(row)} for row in table["rows"]] == [
        {key: row[key] for key in sorted(row)} for row in rows
    ]
    assert {key: table[key] for key in ("commands", "date", "environment", "conditions")} == {
        "commands": [REPORT["command"]],
        "date": "2026-11-25",
        "environment": REPORT["environment"],
        "conditions": {"seed": 3},
    }
    assert "seconds" in table["output"]
    assert dropped in table["output"]
    assert "1.25" in folder.render("{{ table('t') }}") or "3.50" in folder.render("{{ table('t') }}")


def test_several_reports_make_one_table(folder: Folder) -> None:
    reports = [REPORT | {"model": name, "seed": 3, "loops": ROWS} for name in ("coder", "twin")]
    table = folder.add("t", *reports, options=("--column", "model", "--column", "ms=time, ms:.1f"))
    assert table["rows"] == [{"model": "coder", "ms": 1.25}, {"model": "twin", "ms": 1.25}]
    assert table["columns"][1] == {"key": "ms", "title": "time, ms", "format": ".1f"}
    assert table["conditions"] == {"seed": 3}


def test_a_report_without_an_environment_may_name_its_machine(folder: Folder) -> None:
    report = {"command": "x", "cpu": "EPYC", "device": "cpu", "loops": ROWS}
    bare = folder.add("t", report)
    assert (bare["environment"], bare["conditions"], bare["date"]) == ({"cpu": "EPYC", "device": "cpu"}, {}, None)
    both = folder.add("t", report | {"environment": {"cpu": "Xeon"}})
    assert (both["environment"], both["conditions"]) == ({"cpu": "Xeon"}, {"cpu": "EPYC", "device": "cpu"})


def test_a_table_that_is_added_again_keeps_its_columns(folder: Folder) -> None:
    first = folder.add("t", REPORT | {"loops": ROWS}, options=("--column", "ms=time:.1f"))
    again = folder.add("t", REPORT | {"loops": [{"loop": "a", "ms": 9.0}]})
    assert again["columns"] == first["columns"]
    assert again["rows"] == [{"ms": 9.0}]


def test_an_evaluation_is_kept_as_it_is(folder: Folder) -> None:
    kept = folder.add("e", EVALUATION | {"tasks": [1, 2]})
    assert "left out: tasks" in kept.pop("output")
    assert kept == EVALUATION


@pytest.mark.parametrize(
    ("reports", "options", "named"),
    [
        ([{"environment": {"cpu": "EPYC"}, "loops": ROWS}], (), "--command"),
        ([{"command": "x", "loops": ROWS}], (), "machine"),
        ([REPORT | {"one": ROWS, "other": ROWS}], (), "--rows: one, other"),
        ([REPORT | {"summary": {"ms": 1.5}}], (), "--rows: summary"),
        ([REPORT | {"loops": ROWS}], ("--rows", "lopes"), "lopes"),
        ([REPORT | {"loops": ROWS}], ("--column", "seconds"), "seconds; known: loop, ms"),
        ([REPORT | {"loops": ROWS}, REPORT | {"loops": ROWS, "environment": {"cpu": "Xeon"}}], (), "elsewhere"),
        ([EVALUATION, EVALUATION], (), "alone"),
        ([[1]], (), "no JSON object"),
    ],
)
def test_what_is_wrong_with_a_report_is_named(folder: Folder, reports: list, options: tuple, named: str) -> None:
    with pytest.raises(AssertionError, match=named):
        folder.add("t", *reports, options=options)
    assert not (folder.path / "t.json").exists()


def test_the_order_of_sections_is_that_of_their_names(folder: Folder) -> None:
    (folder.path / "20-second.md.j2").write_text("## Second\n")
    assert folder.render("## First\n\n") == "## First\n\n## Second"
