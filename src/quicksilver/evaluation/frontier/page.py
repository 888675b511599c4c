"""The report: one HTML file that needs nothing else, the pictures, and all figures as JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from quicksilver.errors import ConfigError, UsageError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.frontier.crossover import UNITS, Comparison, Condition
from quicksilver.evaluation.frontier.plots import crossover_picture, frontier_picture
from quicksilver.evaluation.frontier.sweep import Point
from quicksilver.evaluation.frontier.words import compared_words, crossover_words, sweep_words
from quicksilver.evaluation.pictures import require_matplotlib


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that was measured, and how."""

    model: str
    twin: str | None
    suite: Mapping[str, object]
    num_items: int
    quality: str
    tolerance: float
    points: Sequence[Point]
    comparisons: Sequence[Comparison]
    """Empty without a twin."""
    base: Condition | None
    """Of the comparisons."""
    subjects: Sequence[Mapping[str, object]]
    """What each contender says of itself."""
    seed: int
    environment: Mapping[str, object]
    command: str

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "model": self.model,
            "twin": self.twin,
            "suite": dict(self.suite),
            "items": self.num_items,
            "quality": self.quality,
            "tolerance": self.tolerance,
            "seed": self.seed,
            "command": self.command,
            "environment": dict(self.environment),
            "words": self.words(),
            "points": [each.to_dict() for each in self.points],
            "base": None if self.base is None else asdict(self.base),
            "crossover": [asdict(each) for each in self.comparisons],
            "subjects": [dict(each) for each in self.subjects],
        }

    def words(self) -> list[str]:
        """What all of it says."""
        found = sweep_words(self.points, self.quality, self.tolerance)
        if self.base is None:
            return found
        return [*found, compared_words(self.points), *crossover_words(self.comparisons, self.base).values()]


def require_libraries() -> None:
    """Raises ConfigError if a report could not be written at the end."""
    require_matplotlib()
    if find_spec("jinja2") is None:
        raise ConfigError("the report needs jinja2: pip install 'quicksilver-lm[serve]'")


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``frontier.json``, the pictures and ``index.html``.

    Raises:
        UsageError: the folder cannot be written.
    """
    pictures = {"frontier.png": frontier_picture(report.points, report.quality)}
    if report.comparisons:
        pictures["crossover.png"] = crossover_picture(report.comparisons)
    contents = {
        "frontier.json": (json.dumps(report.to_dict(), indent=2, default=str) + "\n").encode(),
        **pictures,
        "index.html": render(report, pictures).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from error
    return [folder / name for name in contents]


def render(report: Report, pictures: Mapping[str, bytes]) -> str:
    """The page, its pictures within."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"interval": _interval, "number": _number}
    template = environment.from_string(
        files("quicksilver.evaluation.frontier").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        report=report,
        points=sorted(report.points, key=lambda each: -each.tokens_per_s.value),
        words=report.words(),
        crossover_words={} if report.base is None else crossover_words(report.comparisons, report.base),
        compared=None if report.base is None else compared_words(report.points),
        units=UNITS,
        pictures={name: base64.b64encode(content).decode() for name, content in pictures.items()},
        details=json.dumps(list(report.subjects), indent=1, default=str),
    )


def _interval(value: Interval | None, digits: int = 3) -> str:
    return "" if value is None else f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _number(value: Interval | float | None, digits: int = 2) -> str:
    if value is None:
        return ""
    return f"{value.value if isinstance(value, Interval) else value:.{digits}f}"
