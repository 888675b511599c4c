r"""Constraints measured: what of JSON Schema is kept, compile times, cost beside a forward, validity of samples.

Rows of the report, by --only:
  coverage   JSON-Schema-Test-Suite beside llguidance, outlines-core and xgrammar: schemas kept exactly, refused, wrong
  compiling  milliseconds to compile the suite's schemas for the model's tokenizer
  step       milliseconds of the constraint per denoising step, beside the forward
  validity   random schemas and the suite's, sampled with random weights and the model's: documents that jsonschema
             calls valid
  determinism  texts that are others in a batch of requests with and without constraints than alone

Examples:
  python benchmarks/constraints.py --suite data/eval/json_schema_test_suite --out runs/constraints.json
  python benchmarks/constraints.py --out runs/valid.json --only validity --items 50
"""

import json
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import finish, load_model, load_parts, markdown_table, progress, reported_errors, verbatim
from constraints_rivals import ENGINES, Group, judge_all, read_suite
from jsonschema import Draft7Validator, Draft202012Validator

from quicksilver.api import DecodingOptions, GenerateRequest, Model
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.compiling import compile_here, eos_of
from quicksilver.constraints.constraint import CompileOptions
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.vocabulary import vocabulary_of
from quicksilver.engine import runner
from quicksilver.errors import ConfigError, UsageError
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.suites.json_documents import make_item

TEMPERATURES = (0.0, 0.7, 1.0)
VALIDATOR = Draft202012Validator
BATCH = 8
"""Schemas whose documents, one per temperature, are written together."""
SUITE_SHARE = 4
"""The suite's schemas allow any text mostly, so their documents get a fourth of the tokens."""
WEIGHT_SCALE = 0.1
"""Of random weights: large enough that their logits are far from flat."""
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "created": {"type": "string", "format": "date-time"},
        "customer": PERSON,
        "items": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
                    "quantity": {"type": "integer", "minimum": 1, "maximum": 999},
                    "price": {"type": "number", "minimum": 0},
                },
                "required": ["sku", "quantity", "price"],
                "additionalProperties": False,
            },
        },
        "note": {"type": "string", "maxLength": 64},
    },
    "required": ["id", "created", "customer", "items"],
    "additionalProperties": False,
}
STEP_SCHEMAS: dict[str, Any] = {"person": PERSON, "order": ORDER, "any object": {"type": "object"}}
app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


class Part(StrEnum):
    """What is measured."""

    COVERAGE = "coverage"
    COMPILING = "compiling"
    STEP = "step"
    VALIDITY = "validity"
    DETERMINISM = "determinism"


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    out: Annotated[Path, typer.Option(help="JSON report, with a Markdown table beside it.")],
    suite: Annotated[Path | None, typer.Option(help="Folder of JSON-Schema-Test-Suite, a line per schema.")] = None,
    model: Annotated[str, typer.Option(help="Bundled model or checkpoint folder.")] = "quicksilver-coder",
    only: Annotated[list[Part] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    items: Annotated[int, typer.Option(help="Random schemas.", min=0)] = 1000,
    block_length: Annotated[
        int | None, typer.Option(help="Of documents whose validity is measured. [default: the model's]", min=1)
    ] = None,
    plain_items: Annotated[int, typer.Option(help="Of them answered without a constraint too.", min=0)] = 100,
    together: Annotated[int, typer.Option(help="Requests of the batch beside which each runs alone.", min=2)] = 32,
    steps: Annotated[int, typer.Option(help="Documents of each schema whose steps are timed.", min=1)] = 10,
    max_tokens: Annotated[int, typer.Option(help="Of a document.", min=16)] = 128,
    sample: Annotated[int | None, typer.Option(help="Schemas of the suite, drawn at random. [default: all]")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine's coverage; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="After which an engine is taken to hang on a schema.")] = 30.0,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of schemas and decoding.")] = 0,
) -> None:
    """Measure and report."""
    torch.set_num_threads(threads)
    parts, engines = only or list(Part), engine or list(ENGINES)
    report: dict[str, Any] = {
        "model": model, "items": items, "max_tokens": max_tokens, "threads": threads, "seed": seed, "sample": sample,
        "block_length": block_length,
        "environment": environment(),
    }  # fmt: skip
    with reported_errors():
        if unknown := [name for name in engines if name not in ENGINES]:
            raise ConfigError(f"no engine {unknown[0]!r}; known: {', '.join(ENGINES)}")
        if suite is None and {Part.COVERAGE, Part.COMPILING} & set(parts):
            raise ConfigError("coverage and compiling need --suite; or leave them out by --only")
        groups = [] if suite is None else read_suite(suite, sample, seed)
        if Part.COVERAGE in parts:
            report["coverage"] = measure_coverage(groups, engines, seconds)
        if Part.COMPILING in parts:
            report["compiling"] = measure_compiling(groups, model)
        if Part.STEP in parts:
            report["step"] = measure_steps(load_model(model, "cpu"), steps, max_tokens, seed)
        if Part.VALIDITY in parts:
            report["validity"] = measure_validity(model, groups, items, plain_items, max_tokens, block_length, seed)
        if Part.DETERMINISM in parts:
            report["determinism"] = measure_determinism(model, together, max_tokens, seed)
        finish(out, report, "\n\n".join(_table(report[part]) for part in parts))


def measure_coverage(groups: list[Group], engines: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """A row per engine."""
    rows = []
    with progress() as bar:
        for name in engines:
            task = bar.add_task(name, total=len(groups), detail="")
            found = judge_all(name, groups, seconds, lambda task=task: bar.advance(task))
            outcomes = Counter(each["outcome"] for each in found)
            times = [each["ms"] for each in found if "ms" in each]
            row = {"engine": name, "schemas": len(groups)}
            row |= {key: outcomes[key] for key in ("exact", "refused", "too loose", "too strict", "hung or died")}
            row |= {"exact_share": outcomes["exact"] / len(groups), **_quantiles(times, "compile")}
            if name == "quicksilver":
                row["verdicts_unlike_jsonschema"] = sum(each.get("other_than_jsonschema", 0) for each in found)
            rows.append(row)
    return rows


def measure_compiling(groups: list[Group], model: str) -> list[dict[str, Any]]:
    """From schema to automaton over tokens, caches apart."""
    tokenizer = load_parts(model, "cpu")[2]
    vocabulary, eos = vocabulary_of(tokenizer), eos_of(tokenizer)
    times, states = [], []
    with progress() as bar:
        task = bar.add_task("compiling", total=len(groups), detail="")
        for group in groups:
            bar.advance(task)
            constraint = JsonSchema(group.schema, formats="annotate")
            started = time.perf_counter()
            try:
                automaton = compile_here(constraint, vocabulary, CompileOptions(), eos_token_id=eos)
            except UsageError:
                continue
            times.append((time.perf_counter() - started) * 1e3)
            states.append(automaton.num_states)
    row = {"vocabulary": vocabulary.size, "schemas": len(times), **_quantiles(times, "compile")}
    return [row | {"states_p50": statistics.median(states), "states_max": max(states)}]


def _quantiles(times: Sequence[float], what: str) -> dict[str, float]:
    ordered = sorted(times)
    return {f"{what}_ms_p{part}": ordered[len(ordered) * part // 100] for part in (50, 95)}


def measure_steps(model: Model, documents: int, max_tokens: int, seed: int) -> list[dict[str, Any]]:
    """What the constraint adds to the forwards of single requests."""
    rows = []
    for name, schema in STEP_SCHEMAS.items():
        automaton = model.compile(JsonSchema(schema))
        for temperature in TEMPERATURES[::2]:
            spent: dict[str, float] = defaultdict(float)
            num_forwards = 0
            with _timed(spent):
                for number in range(documents + 1):
                    if number == 1:  # the first one warms up
                        spent.clear()
                        num_forwards = 0
                    options = DecodingOptions(constraint=automaton, temperature=temperature, seed=seed + number)
                    request = GenerateRequest(prompt="document = ", max_tokens=2 * max_tokens, options=options)
                    num_forwards += model.run(request).nfe
            forward, constraint = spent["forward"] / num_forwards * 1e3, spent["constraint"] / num_forwards * 1e3
            rows.append(
                {"schema": name, "temperature": temperature, "states": automaton.num_states, "forwards": num_forwards,
                 "forward_ms": forward, "constraint_ms": constraint, "constraint_share": constraint / forward}
            )  # fmt: skip
    return rows


@contextmanager
def _timed(spent: dict[str, float]) -> Iterator[None]:
    """Seconds of the network with its head and own candidates, and of the constraint, added to ``spent``."""

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - started

        return run

    places = (
        (runner.Runner, "_forward", "forward"),
        (runner, "choose", "forward"),
        (runner, "constrain", "constraint"),
    )
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, kind in places:
        setattr(owner, name, timed(getattr(owner, name), kind))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def with_random_weights(model: Model, seed: int) -> Model:
    """The same network, drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.engine.denoiser.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, WEIGHT_SCALE, generator=generator)
    return model


@dataclass(frozen=True)
class Case:
    """A schema of which documents are written."""

    source: str
    prompt: str
    schema: Any
    validator: Callable[[Any], Any]
    max_tokens: int

    @classmethod
    def of(cls, group: Group, max_tokens: int) -> "Case":
        """A schema of the suite, which says nothing of what a document is about."""
        validator = Draft7Validator if group.draft == "draft7" else VALIDATOR
        return cls("suite", "document = ", group.schema, validator, max_tokens)

    def verdict(self, text: str) -> str:
        """Of jsonschema; ``unread`` where the schema has a pattern that Python's expressions do not know."""
        try:
            return "valid" if self.validator(self.schema).is_valid(json.loads(text)) else "invalid"
        except ValueError:
            return "invalid"
        except re.error:
            return "unread"


def measure_validity(
    name: str,
    groups: Sequence[Group],
    items: int,
    plain_items: int,
    max_tokens: int,
    block_length: int | None,
    seed: int,
) -> list[dict[str, Any]]:
    """A row per source, weights, temperature and whether there was a constraint."""
    models = {"random": with_random_weights(load_model(name, "cpu"), seed), name: load_model(name, "cpu")}
    made = [make_item(seed, number) for number in range(items)]
    cases = [Case("random", item.prompt, dict(item.given), VALIDATOR, max_tokens) for item in made]
    cases += [Case.of(group, max_tokens // SUITE_SHARE) for group in groups]
    rows: dict[tuple[str, str, float, bool], Counter[str]] = defaultdict(Counter)
    with progress() as bar:
        task = bar.add_task("schemas", total=len(cases), detail="")
        for first in range(0, len(cases), BATCH):
            chosen = cases[first : first + BATCH]
            seeds = range(seed + first, seed + first + len(chosen))
            plain = chosen[: max(plain_items - first, 0)]
            for weights, model in models.items():
                for part, is_constrained in ((chosen, True), (plain, False)):
                    written = _documents(model, part, seeds, block_length, is_constrained=is_constrained)
                    for source, temperature, count in written:
                        rows[source, weights, temperature, is_constrained] += count
            bar.advance(task, len(chosen))
    return [
        {"schemas of": source, "weights": weights, "temperature": temperature, "constraint": is_constrained,
         "schemas": count["asked"], "refused": count["refused"], "valid": count["valid"], "invalid": count["invalid"],
         "unread": count["unread"], "forwards": count["forwards"] / max(count["asked"], 1),
         "tokens": count["tokens"] / max(count["asked"], 1)}
        for (source, weights, temperature, is_constrained), count in rows.items()
    ]  # fmt: skip


def _documents(
    model: Model, cases: Sequence[Case], seeds: Sequence[int], block_length: int | None, *, is_constrained: bool
) -> Iterator[tuple[str, float, Counter[str]]]:
    """What became of one document per schema and temperature, all written in one batch."""
    taken: list[tuple[Case, float, GenerateRequest]] = []
    for case, seed in zip(cases, seeds, strict=False):
        constraint = JsonSchema(case.schema, formats="annotate") if is_constrained else None
        for temperature in TEMPERATURES:
            options = DecodingOptions(
                temperature=temperature, seed=seed, constraint=constraint, block_length=block_length
            )
            request = GenerateRequest(prompt=case.prompt, max_tokens=case.max_tokens, options=options)
            try:
                asked = model.engine_request(request)
                if asked.params.constraint is not None and _least(asked.params.constraint) > case.max_tokens:
                    raise ConfigError("the shortest document does not fit")
            except UsageError:  # or the schema is refused by name
                yield case.source, temperature, Counter(refused=1)
            else:
                taken.append((case, temperature, request))
    found = model.run_together([request for _, _, request in taken])
    for (case, temperature, _), each in zip(taken, found, strict=True):
        tokens = sum(len(hole.tokens) for hole in each.holes)
        count = Counter({"asked": 1, case.verdict(each.text): 1, "forwards": each.nfe, "tokens": tokens})
        yield case.source, temperature, count


def _least(automaton: TokenAutomaton) -> int:
    """Tokens of the shortest text, eos included."""
    return int(automaton.distance[automaton.start])


def measure_determinism(name: str, items: int, max_tokens: int, seed: int) -> list[dict[str, Any]]:
    """Texts that are others in one batch, half of it without constraints, than alone."""
    model, rows = load_model(name, "cpu"), []
    for temperature in TEMPERATURES:
        requests = []
        for number in range(items):
            item = make_item(seed, number)
            constraint = JsonSchema(dict(item.given)) if number % 2 == 0 else None
            options = DecodingOptions(temperature=temperature, seed=number, constraint=constraint)
            requests.append(GenerateRequest(prompt=item.prompt, max_tokens=max_tokens, options=options))
        alone = [model.run(request).text for request in requests]
        together = [each.text for each in model.run_together(requests)]
        others = sum(a != b for a, b in zip(alone, together, strict=True))
        rows.append({"temperature": temperature, "requests": items, "other_texts": others})
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(rows[0])
    shown = [
        [f"{row.get(key):.3g}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in columns]
        for row in rows
    ]
    return markdown_table(columns, shown)


if __name__ == "__main__":
    app()
