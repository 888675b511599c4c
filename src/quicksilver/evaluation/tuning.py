"""Finding decoding defaults on a user's own prompts: quality and speed of every setting, and the fastest good one."""

import difflib
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from quicksilver.api import Completion, GenerateRequest, InfillLayout, InfillRequest, Model
from quicksilver.decoding import Policy, make_policy
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Objective
from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.bootstrap import Interval, bootstrap_mean
from quicksilver.evaluation.pictures import pyplot
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.subjects.engine import ExactPolicy
from quicksilver.evaluation.tables import markdown_table

ONE_AT_A_TIME = 1.01
"""A threshold no confidence reaches: one token per forward, the slowest setting and the most careful."""
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, ONE_AT_A_TIME)
WITH_THRESHOLD = ("confidence_threshold", "joint_threshold")
POLICIES = (*WITH_THRESHOLD, "dynamic_factor", "entropy_bound", "hierarchical")
"""Those whose settings ``DecodingDefaults`` can hold: a threshold, or the policy's own parameters."""
DEFAULT_MAX_TOKENS = 64
"""Of a continuation without an answer."""
_ANSWER_ROOM = 8
"""Tokens beyond an answer's own, for another way to cut the same text into tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One prompt: a hole between two texts, or a text to continue."""

    texts: tuple[str, ...]
    """Prefix and suffix, or the prompt alone."""
    answer: str | None = None

    @property
    def is_infill(self) -> bool:
        return len(self.texts) == 2


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a JSON-lines file: ``prefix`` and ``suffix``, or ``prompt``, and perhaps ``answer``.

    Raises:
        InputError: the file cannot be read, is empty, or a line is no task; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start}") from error
    tasks = [_read_task(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not tasks:
        raise InputError(f"{path} holds no task")
    return tasks


def _read_task(line: str, where: str) -> Task:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where}: a task is an object, not {type(values).__name__}")
    given = set(values) - {"answer"}
    if given not in ({"prefix", "suffix"}, {"prompt"}):
        raise InputError(
            f"{where}: a task has prefix and suffix, or prompt, and perhaps answer; found {', '.join(sorted(values))}"
        )
    for name, value in values.items():
        if not isinstance(value, str):
            raise InputError(f"{where}: {name} must be a text, got {value!r}")
    names = ("prompt",) if "prompt" in values else ("prefix", "suffix")
    if names == ("prompt",) and not values["prompt"]:
        raise InputError(f"{where}: the prompt is empty")
    return Task(texts=tuple(values[name] for name in names), answer=values.get("answer"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A line of the table: what ``DecodingDefaults`` would say."""

    policy: str
    threshold: float | None = None
    """None: the policy has none, or keeps its own."""
    block_length: int | None = None
    """None: no task is decoded block by block."""

    def build(self, defaults: DecodingDefaults) -> Policy:
        """The policy that a request without options would get."""
        return make_policy(self.policy, defaults=self._changed(defaults))

    def _changed(self, defaults: DecodingDefaults) -> DecodingDefaults:
        threshold = defaults.threshold if self.threshold is None else self.threshold
        return replace(defaults, policy=self.policy, threshold=threshold)

    def apply(self, spec: DiffusionSpec) -> DiffusionSpec:
        """A spec with this setting as its default."""
        return replace(spec, block_length=self.block_length or spec.block_length, decoding=self._changed(spec.decoding))


def reference_setting(spec: DiffusionSpec, is_by_blocks: bool) -> Setting:
    """The slowest setting: one token per forward."""
    block_length = spec.block_length if is_by_blocks else None
    return Setting(policy="confidence_threshold", threshold=ONE_AT_A_TIME, block_length=block_length)


def grid(
    spec: DiffusionSpec,
    *,
    is_by_blocks: bool,
    policies: Sequence[str] = (),
    thresholds: Sequence[float] = (),
    block_lengths: Sequence[int] = (),
) -> list[Setting]:
    """The settings to try, the slowest first; what is empty is everything that the checkpoint knows.

    Raises:
        ConfigError: the checkpoint has nothing to tune, or does not know what is asked.
    """
    _check_grid(spec, is_by_blocks, policies, block_lengths)
    names = policies or [name for name in POLICIES if _is_edit_trained(spec) or name != "joint_threshold"]
    lengths = (block_lengths or _trained_lengths(spec)) if is_by_blocks else (None,)
    found = [reference_setting(spec, is_by_blocks)]
    for length in lengths:
        for name in names:
            for threshold in (thresholds or THRESHOLDS) if name in WITH_THRESHOLD else (None,):
                found.append(Setting(policy=name, threshold=threshold, block_length=length))
    for setting in found:
        setting.build(spec.decoding)  # refuses values out of range before hours are spent
    return list(dict.fromkeys(found))


def _trained_lengths(spec: DiffusionSpec) -> list[int]:
    return sorted({spec.block_length, *spec.trained_block_lengths})


def _is_edit_trained(spec: DiffusionSpec) -> bool:
    return bool(spec.noise.edit_rate or spec.noise.uniform_fraction)


def _check_grid(spec: DiffusionSpec, is_by_blocks: bool, policies: Sequence[str], block_lengths: Sequence[int]) -> None:
    if spec.objective not in (Objective.MASK, Objective.HYBRID):
        raise ConfigError(f"a checkpoint of objective {spec.objective} has no thresholds to tune")
    trained = _trained_lengths(spec)
    for length in block_lengths:
        if length not in trained:
            raise ConfigError(f"block length {length} was not trained; the checkpoint knows {trained}")
    if block_lengths and not is_by_blocks:
        raise ConfigError("block lengths mean nothing in place; give tasks with a prompt, or layout psm")
    for name in policies:
        if name not in POLICIES:
            raise ConfigError(f"policy {name!r} cannot be tuned; known: {', '.join(POLICIES)}")
    if "joint_threshold" in policies and not _is_edit_trained(spec):
        raise ConfigError("joint_threshold edits visible tokens, but this checkpoint never saw wrong ones")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One task under one setting."""

    text: str
    token_ids: tuple[int, ...]
    log_confidence: float
    """Sum over the tokens."""
    nfe: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuner:
    """Runs tasks under settings."""

    model: Model
    layout: InfillLayout | None = None
    """Of infill tasks; None: the checkpoint's."""
    max_tokens: int | None = None
    """Of continuations; None: the answer's length and some, or ``DEFAULT_MAX_TOKENS``."""
    seed: int = 0

    def is_by_blocks(self, tasks: Sequence[Task]) -> bool:
        """Whether some task is decoded block by block.

        Raises:
            ConfigError: the checkpoint was not trained in the layout.
        """
        return any(not self._is_in_place(task) for task in tasks)

    def _is_in_place(self, task: Task) -> bool:
        if not task.is_infill:
            return False
        return InfillRequest(texts=task.texts, layout=self.layout).resolve_layout(self.model.spec) is (
            InfillLayout.IN_PLACE
        )

    def run(self, task: Task, setting: Setting) -> Trial:
        """Decode one task."""
        completion = self.model.run(self._request(task, setting))
        tokens = [token for hole in completion.holes for token in hole.tokens]
        return Trial(
            text=_written(completion),
            token_ids=tuple(token.token_id for token in tokens),
            log_confidence=sum(math.log(max(token.confidence, 1e-12)) for token in tokens),
            nfe=completion.nfe,
            seconds=completion.seconds,
        )

    def _request(self, task: Task, setting: Setting) -> GenerateRequest | InfillRequest:
        policy = setting.build(self.model.spec.decoding)
        length = None if self._is_in_place(task) else setting.block_length
        options = ExactPolicy(exact_policy=policy, block_length=length, seed=self.seed)
        if task.is_infill:
            return InfillRequest(texts=task.texts, layout=self.layout, options=options)
        return GenerateRequest(prompt=task.texts[0], max_tokens=self._room(task), options=options)

    def _room(self, task: Task) -> int:
        if self.max_tokens is not None:
            return self.max_tokens
        if task.answer is None:
            return DEFAULT_MAX_TOKENS
        return len(self.model.tokenizer.encode(task.answer)) + _ANSWER_ROOM

    def sweep(
        self, tasks: Sequence[Task], settings: Sequence[Setting], *, repeats: int = 1, advance: Callable[[], None]
    ) -> list[list[Trial]]:
        """Trials by setting and task; the seconds of a trial are the median over the repeats.

        Settings take turns at each task, in changing order, so that a busy moment does not fall on one of them.
        """
        found: list[list[Trial]] = [[] for _ in settings]
        for number, task in enumerate(tasks):
            taken: list[list[Trial]] = [[] for _ in settings]
            for again in range(repeats):
                for turn in range(len(settings)):
                    index = (turn + number + again) % len(settings)
                    taken[index].append(self.run(task, settings[index]))
                    advance()
            for trials, one in zip(found, taken, strict=True):
                trials.append(replace(one[0], seconds=statistics.median(trial.seconds for trial in one)))
        return found


def _written(completion: Completion) -> str:
    return "".join(hole.text for hole in completion.holes)


def quality(task: Task, trial: Trial, reference: Trial) -> float:
    """How good a trial is, from 0 to 1.

    With an answer: whether the text is the answer, white space at the end left out; a continuation must begin with it,
    since a model goes on writing. Without one: the share of tokens, in order, that the slowest setting wrote too.
    """
    if task.answer is None:
        matcher = difflib.SequenceMatcher(a=reference.token_ids, b=trial.token_ids, autojunk=False)
        return matcher.ratio()
    answer = task.answer.rstrip()
    return float(trial.text.rstrip() == answer if task.is_infill else trial.text.startswith(answer))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One setting, measured."""

    setting: Setting
    quality: Interval
    log_confidence: float | None
    """Mean over tokens; None: nothing was written."""
    tpf: float
    nfe: float
    """Forwards per task."""
    tokens_per_s: float
    is_on_front: bool = False
    """No other setting is as good and as fast, and better in one of the two."""
    is_chosen: bool = False


def sum_up(settings: Sequence[Setting], tasks: Sequence[Task], trials: Sequence[Sequence[Trial]]) -> list[Row]:
    """A row per setting, the front marked; the first setting is what answers are compared with where there are none."""
    rows = []
    for setting, mine in zip(settings, trials, strict=True):
        scores = [quality(task, trial, slow) for task, trial, slow in zip(tasks, mine, trials[0], strict=True)]
        num_tokens, nfe = sum(len(trial.token_ids) for trial in mine), sum(trial.nfe for trial in mine)
        seconds = sum(trial.seconds for trial in mine)
        rows.append(
            Row(
                setting=setting,
                quality=bootstrap_mean(np.array(scores)),
                log_confidence=sum(trial.log_confidence for trial in mine) / num_tokens if num_tokens else None,
                tpf=num_tokens / nfe if nfe else 0.0,
                nfe=nfe / len(tasks),
                tokens_per_s=num_tokens / seconds if seconds else 0.0,
            )
        )
    return mark_front(rows)


def mark_front(rows: Sequence[Row]) -> list[Row]:
    """Mark the rows that no other row beats in quality and speed together."""
    points = [(row.quality.value, row.tokens_per_s) for row in rows]

    def is_beaten(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)

    return [replace(row, is_on_front=not is_beaten(point)) for row, point in zip(rows, points, strict=True)]


def mark_chosen(rows: Sequence[Row], tolerance: float) -> list[Row]:
    """Mark the fastest row whose quality is within ``tolerance`` of the best; none if nothing was any good."""
    check_tolerance(tolerance)
    highest = max(row.quality.value for row in rows)
    if highest == 0:
        return list(rows)
    least = highest - tolerance
    # Sums of floats: what is equal to the limit in decimals must count.
    good = [row for row in rows if row.quality.value >= least - 1e-9]
    best = max(good, key=lambda row: (row.tokens_per_s, row.tpf, row.quality.value))
    return [replace(row, is_chosen=row is best) for row in rows]


def check_tolerance(tolerance: float) -> None:
    """Raises ConfigError if the tolerance is no fraction."""
    if not 0 <= tolerance <= 1:
        raise ConfigError(f"tolerance must lie in [0, 1], got {tolerance}")


def chosen(rows: Sequence[Row]) -> Row:
    """The row that ``mark_chosen`` marked.

    Raises:
        InputError: there is none, since no setting gave any answer: then speed alone would choose.
    """
    for row in rows:
        if row.is_chosen:
            return row
    raise InputError(
        "no setting gave the answer to any task, so there is no quality to choose by; without answers, settings are "
        "compared with the slowest one"
    )


def to_dict(row: Row) -> dict[str, object]:
    """A JSON-ready row, the setting's fields beside the figures."""
    values = asdict(row)
    return values.pop("setting") | values


def report(
    model: Model, file: Path, tasks: Sequence[Task], rows: Sequence[Row], *, tolerance: float, seed: int
) -> dict[str, object]:
    """All of a sweep for programs, with what it was measured on."""
    return {
        "model": model.name,
        "tasks": str(file),
        "tasks_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "num_tasks": len(tasks),
        "num_answers": sum(task.answer is not None for task in tasks),
        "seed": seed,
        "tolerance": tolerance,
        "batch": 1,
        "environment": environment(),
        "chosen": next((asdict(row.setting) for row in rows if row.is_chosen), None),
        "settings": [to_dict(row) for row in rows],
    }


def write(folder: Path, values: Mapping[str, object], rows: Sequence[Row]) -> None:
    """Put report and table beside the model that was chosen."""
    (folder / "tuning.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    (folder / "tuning.md").write_text(table(rows) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, fastest first. ``*``: on the front. ``>``: chosen."""
    header = ("", "policy", "threshold", "block", "quality [95 %]", "log confidence", "TPF", "NFE/task", "tokens/s")
    lines = [
        (
            ">" * row.is_chosen + "*" * row.is_on_front,
            row.setting.policy,
            "" if row.setting.threshold is None else f"{row.setting.threshold:g}",
            "" if row.setting.block_length is None else str(row.setting.block_length),
            str(row.quality),
            "" if row.log_confidence is None else f"{row.log_confidence:.3f}",
            f"{row.tpf:.2f}",
            f"{row.nfe:.2f}",
            f"{row.tokens_per_s:.1f}",
        )
        for row in sorted(rows, key=lambda each: -each.tokens_per_s)
    ]
    return markdown_table(header, lines)


def plot(rows: Sequence[Row], out: Path, title: str) -> None:
    """Quality over tokens per second, the front as a line."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in dict.fromkeys(row.setting.policy for row in rows):
        mine = [row for row in rows if row.setting.policy == name]
        axes.scatter([row.tokens_per_s for row in mine], [row.quality.value for row in mine], s=18, label=name)
    front = sorted((row.tokens_per_s, row.quality.value) for row in rows if row.is_on_front)
    axes.step([x for x, _ in front], [y for _, y in front], where="pre", color="grey", linewidth=1, label="front")
    for row in rows:
        if row.is_chosen:
            axes.scatter([row.tokens_per_s], [row.quality.value], s=120, facecolors="none", edgecolors="black")
    axes.set_xlabel("tokens/s, batch 1")
    axes.set_ylabel("quality")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)
