"""What a file of docs/results/ holds, and how a cell of it is written. Part of ``results.py``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator


class ResultsError(Exception):
    """A template, a result file or a report is not what it should be; the message says where and what to do."""


class Strict(BaseModel):
    """No key but the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(Strict):
    """A figure with the ends of its interval, where it has one; which interval is the page's to say."""

    value: float
    low: float | None
    high: float | None


Cell = Interval | bool | int | float | str | None
"""Text is shown as it stands, Markdown included; None is an empty cell."""


class Column(Strict):
    """A column of a table."""

    key: str
    title: str
    format: str = ""
    """Python's, of a number or of an interval's value: ``.2f``, ``,d``; ``.1%`` for shares, which are kept as such."""
    bounds: str | None = None
    """Format of an interval's ends; None: that of its value."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """``KEY[=TITLE][:FORMAT]``; the title is the key in words if none is given."""
        key, has_title, rest = text.partition("=")
        if has_title:
            return cls.titled(key, rest)
        key, _, number_format = text.partition(":")
        return cls(key=key, title=key.replace("_", " "), format=number_format)

    @classmethod
    def titled(cls, key: str, text: str) -> Self:
        """``TITLE[:FORMAT]``, for keys that may hold any character; the format is what follows the last colon."""
        title, colon, number_format = text.rpartition(":")
        return cls(key=key, title=title if colon else text, format=number_format if colon else "")

    def show(self, cell: Cell) -> "Shown":
        """The cell as text.

        Raises:
            ResultsError: the format does not fit the number.
        """
        try:
            if isinstance(cell, Interval):
                bounds = self.format if self.bounds is None else self.bounds
                low, high = (
                    "" if end is None else _number(end, bounds).removesuffix(" %") for end in (cell.low, cell.high)
                )
                return Shown(_number(cell.value, self.format), low, high, cell.value)
            if isinstance(cell, bool):
                return Shown("yes" if cell else "no")
            if cell is None or isinstance(cell, str):
                return Shown(cell or "")
            return Shown(_number(cell, self.format), number=cell)
        except ValueError as error:
            raise ResultsError(f"column {self.key!r} cannot show {cell!r} as {self.format!r}: {error}") from error


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure as text: its value, and the ends of its interval or nothing."""

    value: str
    low: str = ""
    high: str = ""
    number: float | None = None
    """To reckon with in a template; None: the cell is text."""

    def __str__(self) -> str:
        return f"{self.value} ({self.low} to {self.high})" if self.low else self.value


def _number(value: float, number_format: str) -> str:
    text = format(value, number_format)
    return text.removesuffix("%") + " %" if text.endswith("%") else text


class Table(Strict):
    """Rows of figures that were made together, and how."""

    source: str
    """The report, or where the figures were copied from."""
    commands: list[str]
    environment: dict[str, JsonValue]
    conditions: dict[str, JsonValue]
    """Seed, model, hashes: what else a figure depends on."""
    date: str | None
    columns: list[Column]
    rows: list[dict[str, Cell]]

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        known = [column.key for column in self.columns]
        if len(set(known)) < len(known):
            raise ValueError(f"columns share a key: {', '.join(known)}")
        if unknown := {key for row in self.rows for key in row} - set(known):
            raise ValueError(f"rows have keys that are no column: {', '.join(sorted(unknown))}")
        return self


class Compared(Strict):
    """Another subject of the same run."""

    subject: dict[str, JsonValue]
    figures: dict[str, Interval]
    paired: dict[str, Interval]
    """Its figures less those of the first subject, item by item."""

    @property
    def name(self) -> JsonValue:
        return self.subject["name"]


class Evaluation(Strict):
    """A report of ``quicksilver eval``: one suite, one subject and those it was compared with."""

    suite: str
    subject: dict[str, JsonValue]
    items: int
    seed: int
    command: str
    environment: dict[str, JsonValue]
    sandbox: str | None
    figures: dict[str, Interval]
    others: list[Compared] = []

    def other(self, name: str) -> Compared:
        """The subject of a name that the first one was compared with."""
        found = [each for each in self.others if each.name == name]
        if len(found) != 1:
            known = ", ".join(str(each.name) for each in self.others)
            raise ResultsError(f"{len(found)} of the others are called {name}; there are: {known or 'none'}")
        return found[0]

    @property
    def commands(self) -> list[str]:
        return [self.command]

    @property
    def conditions(self) -> dict[str, JsonValue]:
        found: dict[str, JsonValue] = {"items": self.items, "seed": self.seed}
        return found if self.sandbox is None else found | {"sandbox": self.sandbox}


Result = Table | Evaluation


def read_json(path: Path) -> dict[str, JsonValue]:
    """The object in a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ResultsError(f"{path} holds no JSON object")
    return values


def read_result(path: Path) -> Result:
    """A file of docs/results/, checked."""
    return check(read_json(path), path)


def check(values: dict[str, JsonValue], path: Path) -> Result:
    """An evaluation if it has figures, else a table."""
    try:
        return (Evaluation if "figures" in values else Table).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ResultsError(f"{path} is no result file: {where}: {first['msg']}") from error


def write_result(path: Path, result: Result) -> None:
    """A row a line, so that a difference between two commits can be read."""
    values = result.model_dump(mode="json", exclude_defaults=True)
    lines = [f"  {json.dumps(key)}: {_lines(value)}" for key, value in values.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _lines(value: JsonValue) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"    {json.dumps(each, ensure_ascii=False)}" for each in value) + "\n  ]"
    return json.dumps(value, ensure_ascii=False)


def markdown_table(columns: Sequence[Column], rows: Sequence[dict[str, Cell]]) -> str:
    """A GitHub table."""
    body = [[str(column.show(row.get(column.key))).replace("|", "\\|") for column in columns] for row in rows]
    lines = [[column.title for column in columns], *body]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(columns), *text[1:]])
