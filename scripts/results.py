r"""Write docs/results.md from the templates and result files of docs/results/, or add a report to these files.

Examples:
  python scripts/results.py                # the same as make results
  python scripts/results.py --check        # fails where the page is not what the files say
  python scripts/results.py add runs/load.json --name engine-load --rows load --column name=loop \
      --column level=concurrent --column requests_per_s=requests/s:.2f --column "p50_ms=p50, ms:,.0f"
  python scripts/results.py add runs/he.json runs/he-ar.json --name infill --rows summary   # a row of each
  python scripts/results.py add runs/eval.json --name eval-humaneval                        # of quicksilver eval
"""

import difflib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import jinja2
import typer
from pydantic import JsonValue
from result_files import (
    Cell,
    Column,
    Evaluation,
    Interval,
    Result,
    ResultsError,
    Shown,
    Table,
    markdown_table,
    read_json,
    read_result,
    write_result,
)
from result_reports import evaluation_of, table_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/results"
PAGE = ROOT / "docs/results.md"
TEMPLATES = "*.md.j2"
HEADER = "<!-- Written by `make results` from the templates and result files of docs/results/: change those. -->"
NUM_DIFF_LINES = 40
COMMIT_LENGTH = 12


class Results:
    """The result files of a folder, and what templates may ask of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Result] = {}

    def table(self, name: str, *more: str, only: Sequence[str] = ()) -> str:
        """The rows of one table, or of several with the same columns below each other; ``only`` picks columns."""
        tables = [self._table(each) for each in (name, *more)]
        columns = tables[0].columns
        for other, table in zip(more, tables[1:], strict=True):
            if [column.key for column in table.columns] != [column.key for column in columns]:
                raise ResultsError(f"{other} has other columns than {name}, so they make no table together")
        _check_known(name, only, [column.key for column in columns])
        shown = [column for column in columns if not only or column.key in only]
        return markdown_table(shown, [row for table in tables for row in table.rows])

    def cell(self, name: str, column: str, **row: Cell) -> Shown:
        """The figure of a column in the only row that has these values."""
        table = self._table(name)
        columns = {each.key: each for each in table.columns}
        _check_known(name, [column, *row], list(columns))
        found = [each for each in table.rows if all(_plain(each.get(key)) == value for key, value in row.items())]
        if len(found) != 1:
            raise ResultsError(f"{name} has {len(found)} rows with {row}, wanted one")
        return columns[column].show(found[0].get(column))

    def evaluations(self, *names: str, figures: Mapping[str, str], subject: Sequence[str]) -> str:
        """Reports of ``quicksilver eval`` below each other: a row for every subject.

        Args:
            names: of the files.
            figures: a column each: the figure's name, and ``TITLE[:FORMAT]``.
            subject: keys of the subject that tell the rows apart.
        """
        reports = [(report, asked) for report in map(self._evaluation, names) for asked in (report, *report.others)]
        columns = [Column.titled(key, text) for key, text in figures.items()]
        _check_known(
            ", ".join(names), [column.key for column in columns], [key for _, asked in reports for key in asked.figures]
        )
        _check_known(", ".join(names), subject, [key for _, asked in reports for key in asked.subject])
        heads = [
            Column(key="suite", title="suite"),
            Column(key="items", title="items", format=","),
            *map(Column.parse, subject),
        ]
        rows: list[dict[str, Cell]] = [
            {"suite": report.suite, "items": report.items}
            | {key: None if asked.subject.get(key) is None else str(asked.subject[key]) for key in subject}
            | {column.key: asked.figures.get(column.key) for column in columns}
            for report, asked in reports
        ]
        return markdown_table([*heads, *columns], rows)

    def figure(self, name: str, key: str, number_format: str = "", of: str | None = None) -> Shown:
        """One figure of an evaluation: of its first subject, or of another by name."""
        report = self._evaluation(name)
        return _figure(name, (report if of is None else report.other(of)).figures, key, number_format)

    def difference(self, name: str, key: str, number_format: str = "", *, of: str) -> Shown:
        """By how much another subject differs from the first, item by item."""
        return _figure(name, self._evaluation(name).other(of).paired, key, number_format)

    def commands(self, *names: str) -> str:
        """The commands by which these were made, a line each, none twice."""
        return "\n".join(dict.fromkeys(line for name in names for line in self._result(name).commands))

    def conditions(self, name: str) -> str:
        """Seed, machine, versions, commit and date of a result."""
        result, found = self._result(name), self._result(name).environment
        parts = [
            *([f"seed {result.conditions['seed']}"] if "seed" in result.conditions else []),
            *(str(found[key]) for key in ("gpu", "cpu", "device", "state") if found.get(key)),
            *(_count(found[key], word) for key, word in (("cpu_cores", "core"), ("threads", "thread")) if key in found),
            *(f"{word} {found[key]}" for key, word in (("torch", "torch"), ("python", "Python")) if key in found),
            *([f"commit {str(found['commit'])[:COMMIT_LENGTH]}"] if found.get("commit") else []),
            *([result.date] if isinstance(result, Table) and result.date else []),
        ]
        return ", ".join(parts)

    def condition(self, name: str, key: str) -> JsonValue:
        """One of the conditions that a result was made under."""
        known = self._result(name).conditions
        _check_known(name, [key], list(known))
        return known[key]

    def check_all_used(self) -> None:
        """A result that no template shows would be lost unseen."""
        if unused := sorted({path.stem for path in self._folder.glob("*.json")} - set(self._read)):
            raise ResultsError(f"no template of {self._folder} uses {', '.join(unused)}: show it or remove the file")

    def _result(self, name: str) -> Result:
        if name not in self._read:
            self._read[name] = read_result(self._folder / f"{name}.json")
        return self._read[name]

    def _table(self, name: str) -> Table:
        found = self._result(name)
        if not isinstance(found, Table):
            raise ResultsError(f"{name} is an evaluation: use evaluations() or figure()")
        return found

    def _evaluation(self, name: str) -> Evaluation:
        found = self._result(name)
        if not isinstance(found, Evaluation):
            raise ResultsError(f"{name} is a table: use table() or cell()")
        return found


def _figure(name: str, figures: Mapping[str, Interval], key: str, number_format: str) -> Shown:
    _check_known(name, [key], list(figures))
    return Column(key=key, title=key, format=number_format).show(figures[key])


def _count(number: JsonValue, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _plain(cell: Cell) -> Cell:
    """Without emphasis, so that a template need not repeat it."""
    return cell.replace("**", "") if isinstance(cell, str) else cell


def _check_known(where: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [each for each in wanted if each not in known]:
        raise ResultsError(f"{where} has no {', '.join(unknown)}; known: {', '.join(dict.fromkeys(known))}")


def render(folder: Path) -> str:
    """The page that the templates of a folder make, in the order of their names."""
    results = Results(folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    directives = (
        results.table,
        results.cell,
        results.evaluations,
        results.figure,
        results.difference,
        results.commands,
        results.conditions,
        results.condition,
    )
    environment.globals.update({each.__name__: each for each in directives})
    sections = [HEADER]
    for path in sorted(folder.glob(TEMPLATES)):
        try:
            sections.append(environment.get_template(path.name).render().strip())
        except (ResultsError, jinja2.TemplateError, TypeError) as error:
            raise ResultsError(f"{path}{_line(error, path)}: {error}") from error
    if len(sections) == 1:
        raise ResultsError(f"{folder} has no templates ({TEMPLATES})")
    results.check_all_used()
    return "\n\n".join(sections) + "\n"


def _line(error: Exception, path: Path) -> str:
    """Of the template: jinja2 puts its lines into the traceback."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f", line {lines[-1]}" if lines else ""


app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@contextmanager
def _reported_errors() -> Iterator[None]:
    try:
        yield
    except ResultsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.callback(invoke_without_command=True, help="\b\n" + (__doc__ or "").replace("\n\n", "\n\n\b\n"))
def page(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if the page would change.")] = False,
    folder: Annotated[Path, typer.Option(help="Templates and result files.")] = FOLDER,
    out: Annotated[Path, typer.Option(help="The page.")] = PAGE,
) -> None:
    """Write the page, or check it."""
    if context.invoked_subcommand is not None:
        context.obj = folder
        return
    with _reported_errors():
        wanted, found = render(folder), out.read_text(encoding="utf-8") if out.is_file() else ""
        if not check:
            out.write_text(wanted, encoding="utf-8")
        elif wanted != found:
            lines = difflib.unified_diff(
                found.splitlines(), wanted.splitlines(), str(out), str(folder), lineterm="", n=0
            )
            typer.echo("\n".join(list(lines)[:NUM_DIFF_LINES]), err=True)
            raise ResultsError(f"{out} is not what {folder} makes: change the files there, then make results")


@app.command()
def add(
    context: typer.Context,
    reports: Annotated[list[Path], typer.Argument(help="Reports of benchmarks/, or one of quicksilver eval.")],
    name: Annotated[str, typer.Option(help="Of the file in docs/results/, without .json.")],
    rows: Annotated[str | None, typer.Option(help="Key of the rows; needed where there are several.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="KEY[=TITLE][:FORMAT], repeated. Default: those of the file there is; else all."),
    ] = None,
    command: Annotated[list[str] | None, typer.Option(help="Where the reports do not name theirs; repeated.")] = None,
) -> None:
    """Trim reports to a file of docs/results/; a file of that name keeps its columns and gets new figures."""
    with _reported_errors():
        path = context.obj / f"{name}.json"
        report = read_json(reports[0])
        if "figures" in report and "suite" in report:
            if len(reports) > 1 or rows or column or command:
                raise ResultsError("a report of quicksilver eval is added alone, as it is")
            result, left_out = evaluation_of(report, reports[0])
        else:
            columns = [Column.parse(each) for each in column or ()] or _columns_of(path)
            result, left_out = table_of(reports, rows, columns, command or ())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_result(path, result)
        typer.echo(f"wrote {path}" + (f"; left out: {', '.join(left_out)}" if left_out else ""))


def _columns_of(path: Path) -> list[Column]:
    if not path.is_file():
        return []
    found = read_result(path)
    if not isinstance(found, Table):
        raise ResultsError(f"{path} is an evaluation, not a table; choose another --name")
    return found.columns


if __name__ == "__main__":
    app()
