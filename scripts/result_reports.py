"""Reports of benchmarks/ and of ``quicksilver eval`` made into files of docs/results/. Part of ``results.py``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from pydantic import JsonValue
from result_files import Cell, Column, Evaluation, Interval, ResultsError, Table, check, read_json

MACHINE = ("cpu", "cpu_cores", "threads", "gpu", "device", "torch", "python", "commit")
"""Keys of an environment, for reports that have no object of that name."""
NAME = "name"
"""Key of a row's name, where a report keeps its rows by name."""
INTERVAL = set(Interval.model_fields)
Row = dict[str, Cell]


def table_of(
    paths: Sequence[Path], rows_key: str | None, columns: Sequence[Column], commands: Sequence[str]
) -> tuple[Table, list[str]]:
    """One table of several reports of a kind, and the keys of their rows that were left out.

    What differs between the reports (model, length, …) becomes a column.

    Args:
        paths: reports, in the order of their rows.
        rows_key: where a report has its rows; None: in the only place that looks like rows.
        columns: what is kept of a row; none: all that can be shown.
        commands: where the reports do not say by which command they were made.
    """
    reports = [read_json(path) for path in paths]
    keys = [rows_key or _only_rows(report, path) for report, path in zip(reports, paths, strict=True)]
    about = [_conditions(report, key) for report, key in zip(reports, keys, strict=True)]
    shared = {key: value for key, value in about[0].items() if all(each.get(key) == value for each in about)}
    rows: list[Row] = []
    left_out: list[str] = []
    for report, key, path, conditions in zip(reports, keys, paths, about, strict=True):
        own, bulk = _flat({name: value for name, value in conditions.items() if name not in shared})
        left_out += [*bulk, *(name for name in report if name not in {*conditions, *_placed(report), key})]
        for values in _rows(report.get(key), f"{key!r} of {path}"):
            row, bulk = _flat(values)
            rows.append(own | row)
            left_out += bulk
    known = list(dict.fromkeys(key for row in rows for key in row))
    kept = {column.key: column for column in columns or [_guessed(key, rows) for key in known]}
    if unknown := [key for key in kept if key not in known]:
        raise ResultsError(f"no row has {', '.join(unknown)}; known: {', '.join(known)}")
    table = Table(
        # A folder of somebody's machine says nothing to others.
        source=", ".join(path.name if path.is_absolute() else str(path) for path in paths),
        commands=list(commands) or [_command(report, path) for report, path in zip(reports, paths, strict=True)],
        environment=_environment(reports, paths),
        conditions=shared,
        date=max((str(report["date"]) for report in reports if report.get("date")), default=None),
        columns=list(kept.values()),
        rows=[{key: value for key, value in row.items() if key in kept} for row in rows],
    )
    return table, list(dict.fromkeys([*left_out, *(key for key in known if key not in kept)]))


def evaluation_of(report: Mapping[str, JsonValue], path: Path) -> tuple[Evaluation, list[str]]:
    """What is kept of a report of ``quicksilver eval``, and the keys that were left out."""
    known = Evaluation.model_fields
    found = check({key: value for key, value in report.items() if key in known}, path)
    if not isinstance(found, Evaluation):
        raise ResultsError(f"{path} is no report of quicksilver eval: it has no figures")
    return found, [key for key in report if key not in known]


def _only_rows(report: Mapping[str, JsonValue], path: Path) -> str:
    found = [key for key, value in report.items() if _has_rows(value)]
    if len(found) == 1:
        return found[0]
    objects = [key for key, value in report.items() if isinstance(value, dict) and key != "environment"]
    raise ResultsError(f"{path} has {len(found)} lists of rows; choose one by --rows: {', '.join(found or objects)}")


def _has_rows(value: JsonValue) -> bool:
    """A list of objects, or such lists or objects by name."""
    if isinstance(value, dict):
        return bool(value) and all(isinstance(each, dict) or _is_objects(each) for each in value.values())
    return _is_objects(value)


def _is_objects(value: JsonValue) -> TypeGuard[list[dict[str, JsonValue]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _rows(value: JsonValue, where: str) -> list[dict[str, JsonValue]]:
    """Rows out of any of the shapes that reports have."""
    if _is_objects(value):
        return value
    if isinstance(value, dict) and _has_rows(value):
        named = ((name, each) for name, inner in value.items() for each in (inner if _is_objects(inner) else [inner]))
        return [{NAME: name} | each for name, each in named if isinstance(each, dict)]
    if isinstance(value, dict):
        lists = {key: each for key, each in value.items() if isinstance(each, list)}
        if lists and len({len(each) for each in lists.values()}) == 1:
            return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        if value:
            return [value]
    raise ResultsError(f"{where} holds no rows")


def _flat(row: Mapping[str, JsonValue], prefix: str = "") -> tuple[Row, list[str]]:
    """Objects inside a row become keys of their own; lists (of every round, of every item) are left out."""
    found: Row = {}
    left_out = []
    for key, value in row.items():
        if isinstance(value, list):
            left_out.append(prefix + key)
        elif not isinstance(value, dict):
            found[prefix + key] = value
        elif set(value) == INTERVAL:
            found[prefix + key] = Interval.model_validate(value)
        else:
            inner, bulk = _flat(value, f"{prefix}{key}_")
            found |= inner
            left_out += bulk
    return found, left_out


def _guessed(key: str, rows: Sequence[Row]) -> Column:
    kinds = {type(row[key]) for row in rows if row.get(key) is not None}
    is_measured = kinds <= {float, int, Interval} and kinds != {int}
    return Column(key=key, title=key.replace("_", " "), format=".2f" if is_measured else "")


def _is_cell(value: JsonValue) -> TypeGuard[bool | int | float | str | None]:
    return not isinstance(value, list | dict)


def _conditions(report: Mapping[str, JsonValue], rows_key: str) -> dict[str, JsonValue]:
    """What a report says about all of its rows: single values, lists and objects of such."""
    found = {key: value for key, value in report.items() if key not in {*_placed(report), rows_key}}
    return {key: value for key, value in found.items() if all(map(_is_cell, _values(value)))}


def _placed(report: Mapping[str, JsonValue]) -> set[str]:
    """Keys that have a place of their own in a result file."""
    return {"environment", "command", "date", *(() if "environment" in report else MACHINE)}


def _values(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def _command(report: Mapping[str, JsonValue], path: Path) -> str:
    command = report.get("command")
    if not isinstance(command, str):
        raise ResultsError(f"{path} does not say by which command it was made; say it by --command")
    return command


def _environment(reports: Sequence[Mapping[str, JsonValue]], paths: Sequence[Path]) -> dict[str, JsonValue]:
    """Of all reports alike; but for the commit, of which there may be several."""
    found: list[dict[str, JsonValue]] = []
    for report, path in zip(reports, paths, strict=True):
        given = report.get("environment")
        each = given if isinstance(given, dict) else {key: report[key] for key in MACHINE if key in report}
        if not each:
            raise ResultsError(f"{path} does not say on which machine it was made (environment)")
        found.append(each)
    first = found[0]
    for each, path in zip(found, paths, strict=True):
        if different := [key for key in {**first, **each} if key != "commit" and first.get(key) != each.get(key)]:
            raise ResultsError(f"{path} was made elsewhere than {paths[0]}: {', '.join(different)} differ")
    commits = list(dict.fromkeys(str(each["commit"]) for each in found if each.get("commit")))
    return first | ({"commit": ", ".join(commits)} if commits else {})
