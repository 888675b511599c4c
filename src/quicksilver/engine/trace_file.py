"""Decode traces as files: which model, what was asked, what was decided at every forward.

JSON lines. The first line is ``{"format", "version", "model", "fingerprint"}``, every further one a request that ended:
``{"request": {"task", "params", "stop", "deadline_ms", "may_follow_load", "block_lengths"}, "result": {…, "trace":
[[step, hole, position, token_id, confidence], …]}}``. Names are those of the dataclasses; unknown names are errors, and
names that an older program did not write mean their defaults. A constraint is its automaton, arrays as lists.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import numpy as np

from quicksilver import decoding
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.decoding import Guidance, Hole, Policy, Result, Revising, SamplingParams, StopRule, Text, TraceEntry
from quicksilver.engine.request import Continuation, Filling, Request
from quicksilver.errors import ConfigError, InputError, UsageError

FORMAT = "quicksilver-trace"
VERSION = 1

_POLICIES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        decoding.ConfidenceThreshold,
        decoding.DynamicFactor,
        decoding.EntropyBound,
        decoding.Hierarchical,
        decoding.FixedSteps,
        decoding.FixedCount,
        decoding.JointThreshold,
        decoding.Renoise,
        decoding.ReMDM,
        decoding.Revising,
        decoding.Timesteps,
        decoding.SelfSpeculative,
    )
}
_REVISIONS: dict[str, type] = {
    kind.__name__: kind for kind in (decoding.TokenEdits, decoding.MaskAndRepredict, decoding.RandomRemasks)
}
_NOT_PLAIN = ("policy", "stop", "guidance")
"""Of ``SamplingParams``: a policy is an object of one of several classes, a stop rule is built from strings, guidance
may have a classifier, which a trace cannot hold."""

_INTS, _FLAGS = tuple[int, ...], tuple[bool, ...]
_CONSTRAINT: dict[str, Any] = {
    "token_class": _INTS,
    "edge_from": _INTS,
    "edge_class": _INTS,
    "edge_to": _INTS,
    "start": int,
    "end": int,
    "is_accepting": _FLAGS,
    "distance": _INTS,
    "is_clipped": bool,
    "fingerprint": str,
}
"""Fields of a ``TokenAutomaton``, arrays as lists."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class TracedRun:
    """One request and what came of it."""

    request: Request
    """Without its stop rule."""
    stop: tuple[str, ...] = ()
    """What the stop rule was built from."""
    result: Result


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What one model did."""

    model: str
    """A name or folder, for people and for finding the model again."""
    fingerprint: str
    """Of its weights and spec, see ``replay.fingerprint``."""
    runs: tuple[TracedRun, ...]


def traced_run(request: Request, result: Result) -> TracedRun:
    """A request as a trace holds it.

    Raises:
        ConfigError: its policy is not one of this package's, or its stop rule was not built from strings.
    """
    policy, rule, guidance = request.params.policy, request.params.stop, request.params.guidance
    if guidance is not None and guidance.classifier is not None:
        raise ConfigError("a trace cannot hold a classifier")
    parts = [policy.unmasking, policy.revision] if isinstance(policy, Revising) else []
    for each in (policy, *parts):
        if each is not None and type(each) not in (*_POLICIES.values(), *_REVISIONS.values()):
            raise ConfigError(f"a trace cannot hold policy {type(each).__name__}; known: {', '.join(_POLICIES)}")
    return TracedRun(
        request=replace(request, params=replace(request.params, stop=None)), stop=_stop_strings(rule), result=result
    )


def _stop_strings(rule: StopRule | None) -> tuple[str, ...]:
    strings = () if rule is None else getattr(rule, "stop", None)
    if not isinstance(strings, tuple) or not all(isinstance(each, str) for each in strings):
        raise ConfigError(f"a trace cannot hold stop rule {type(rule).__name__}, which was not built from strings")
    return strings


def save(path: Path, trace: Trace) -> None:
    """Write a trace.

    Raises:
        UsageError: the file cannot be written.
    """
    head = {"format": FORMAT, "version": VERSION, "model": trace.model, "fingerprint": trace.fingerprint}
    lines = [head, *(_run_to_json(run) for run in trace.runs)]
    text = "".join(
        json.dumps(line, ensure_ascii=False, allow_nan=False, default=_constraint_to_json) + "\n" for line in lines
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def load(path: Path) -> Trace:
    """Read a trace.

    Raises:
        InputError: the file cannot be read, is of another version, or a line of it is not what it should be.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no trace: it is not UTF-8") from error
    if not lines:
        raise InputError(f"{path} is no trace: it is empty")
    model, fingerprint = _line(path, 1, lines[0], _read_head)
    runs = tuple(_line(path, number, line, _read_run) for number, line in enumerate(lines[1:], 2))
    return Trace(model=model, fingerprint=fingerprint, runs=runs)


def _line(path: Path, number: int, line: str, read: Callable[[Any], T]) -> T:
    try:
        return read(json.loads(line))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}, line {number}: {error}") from error


def _read_head(data: object) -> tuple[str, str]:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"this is no trace: it does not start with {{'format': '{FORMAT}'}}")
    if data.get("version") != VERSION:
        raise InputError(f"a trace of version {data.get('version')}; this program reads version {VERSION}")
    head = _named(data, ("format", "version", "model", "fingerprint"), "the first line")
    return _kind(str, head["model"], "model"), _kind(str, head["fingerprint"], "fingerprint")


def _run_to_json(run: TracedRun) -> dict[str, object]:
    request, policy = run.request, run.request.params.policy
    params = _plain(request.params)
    for name in _NOT_PLAIN:
        del params[name]
    if policy is not None:
        params["policy"] = _policy_to_json(policy)
    if request.params.guidance is not None:
        guidance = _plain(request.params.guidance)
        del guidance["classifier"]
        params["guidance"] = guidance
    result = _plain(run.result)
    result["trace"] = [[e.step, e.hole, e.position, e.token_id, e.confidence] for e in run.result.trace]
    return {
        "request": {
            "task": _task_to_json(request.task),
            "params": params,
            "stop": run.stop,
            "deadline_ms": request.deadline_ms,
            "may_follow_load": request.may_follow_load,
            "block_lengths": request.block_lengths,
        },
        "result": result,
    }


def _policy_to_json(policy: Policy) -> Mapping[str, object]:
    parts = {}
    if isinstance(policy, Revising):
        parts = {"unmasking": _policy_to_json(policy.unmasking)}
        parts["revision"] = {"kind": type(policy.revision).__name__} | _plain(policy.revision)
    return {"kind": type(policy).__name__} | _plain(policy) | parts


def _task_to_json(task: Continuation | Filling) -> Mapping[str, object]:
    if isinstance(task, Continuation):
        return {"kind": "continuation"} | _plain(task)
    kinds = {Text: "text", Hole: "hole"}
    return {"kind": "filling", "template": [{"kind": kinds[type(each)]} | _plain(each) for each in task.template]}


def _plain(value: Any) -> dict[str, Any]:  # noqa: ANN401  # no type says: a dataclass
    """The fields of a flat dataclass; json writes tuples as lists and StrEnums as strings."""
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _constraint_to_json(value: object) -> dict[str, object]:
    """What ``json`` cannot write by itself."""
    if not isinstance(value, TokenAutomaton):
        raise TypeError(f"a trace cannot hold a {type(value).__name__}")
    return {name: each.tolist() if isinstance(each, np.ndarray) else each for name, each in _plain(value).items()}


def _read_constraint(data: object) -> TokenAutomaton:
    given = dict(_named(data, [each.name for each in fields(TokenAutomaton)], "constraint"))
    for name, kind in _CONSTRAINT.items():
        given[name] = _restore(given[name], kind)
        if kind in (_INTS, _FLAGS):
            given[name] = np.array(given[name], dtype=np.int32 if kind is _INTS else np.bool_)
    return TokenAutomaton(**given)


def _read_run(data: object) -> TracedRun:
    run = _named(data, ("request", "result"), "a run")
    names = ("task", "params", "stop", "deadline_ms", "may_follow_load")
    request = {"block_lengths": []} | dict(_named(run["request"], names, "request", optional=("block_lengths",)))
    params = dict(_kind(dict, request["params"], "params"))
    policy, guidance = params.pop("policy", None), params.pop("guidance", None)
    result = dict(_kind(dict, run["result"], "result"))
    trace = tuple(_read_entry(entry) for entry in _kind(list, result.get("trace"), "trace"))
    return TracedRun(
        request=Request(
            task=_read_task(request["task"]),
            params=replace(
                _build(SamplingParams, params, skipped=_NOT_PLAIN),
                policy=_read_policy(policy),
                guidance=None if guidance is None else _build(Guidance, guidance, skipped=("classifier",)),
            ),
            deadline_ms=_restore(request["deadline_ms"], float | None),
            may_follow_load=_restore(request["may_follow_load"], bool),
            block_lengths=_restore(request["block_lengths"], tuple[int, ...]),
        ),
        stop=_restore(request["stop"], tuple[str, ...]),
        result=replace(_build(Result, result | {"trace": []}), trace=trace),
    )


def _read_task(data: object) -> Continuation | Filling:
    kind, rest = _split_kind(data, ("continuation", "filling"), "task")
    if kind == "continuation":
        return _build(Continuation, rest)
    template = _named(rest, ("template",), "task")["template"]
    segments = []
    for each in _kind(list, template, "template"):
        segment, given = _split_kind(each, ("text", "hole"), "template")
        segments.append(_build(Text if segment == "text" else Hole, given))
    return Filling(template=tuple(segments))


def _read_policy(data: object) -> Policy | None:
    if data is None:
        return None
    kind, rest = _split_kind(data, tuple(_POLICIES), "policy")
    if _POLICIES[kind] is Revising:
        unmasking = _read_policy(rest.get("unmasking"))
        revision, given = _split_kind(rest.get("revision"), tuple(_REVISIONS), "revision")
        if unmasking is None:
            raise InputError("a policy with a revision needs unmasking")
        return Revising(unmasking=unmasking, revision=_build(_REVISIONS[revision], given))
    return _build(_POLICIES[kind], rest)


def _read_entry(data: object) -> TraceEntry:
    row, columns = _kind(list, data, "an entry of trace"), fields(TraceEntry)
    if len(row) != len(columns):
        raise InputError(f"an entry of trace holds {', '.join(each.name for each in columns)}; got {row}")
    values = {each.name: _restore(value, each.type) for each, value in zip(columns, row, strict=True)}
    return TraceEntry(**values)


def _split_kind(data: object, known: Sequence[str], what: str) -> tuple[str, dict[str, Any]]:
    rest = dict(_kind(dict, data, what))
    kind = rest.pop("kind", None)
    if kind not in known:
        raise InputError(f"no kind of {what} is called {kind!r}; known: {', '.join(known)}")
    return kind, rest


def _named(data: object, names: Sequence[str], what: str, optional: Sequence[str] = ()) -> Mapping[str, Any]:
    """Exactly these names, and perhaps the optional ones."""
    given = _kind(dict, data, what)
    wrong = sorted((set(given) ^ set(names)) - set(optional))
    if wrong:
        raise InputError(f"{what} has {', '.join(names)}; missing or unknown: {', '.join(wrong)}")
    return given


def _build(kind: type[T], data: Mapping[str, Any], skipped: Sequence[str] = ()) -> T:
    """A flat dataclass from its fields; those without a value keep their defaults."""
    known = {each.name: each for each in fields(kind) if each.name not in skipped}  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise InputError(f"{kind.__name__} has no {', '.join(unknown)}")
    needed = {name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING}
    missing = sorted(needed - set(data))
    if missing:
        raise InputError(f"{kind.__name__} needs {', '.join(missing)}")
    values = {}
    for name, value in data.items():
        try:
            values[name] = _restore(value, known[name].type)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
    return kind(**values)


def _restore(value: object, hint: object) -> Any:  # noqa: ANN401  # of the type that the hint says
    """The value that JSON's ``value`` stands for where a field has type ``hint``."""
    if hint is float and type(value) is int:
        return float(value)
    if hint is TokenAutomaton:
        return _read_constraint(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    options = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        for option in options:
            with suppress(ValueError):
                return _restore(value, option)
    elif get_origin(hint) is tuple and isinstance(value, list):
        kinds = options[:1] * len(value) if options[-1] is Ellipsis else options
        if len(kinds) == len(value):
            return tuple(_restore(each, kind) for each, kind in zip(value, kinds, strict=True))
    elif type(value) is hint:
        return value
    raise InputError(f"{value!r:.80} is no {getattr(hint, '__name__', hint)}")


def _kind(kind: type[T], value: object, what: str) -> T:
    if not isinstance(value, kind):
        raise InputError(f"{what} must be a {kind.__name__}, got {value!r:.80}")
    return value
