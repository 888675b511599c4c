"""Suites of functions to be written: HumanEval, HumanEval with the inputs of EvalPlus, MBPP.

HumanEval (Chen et al. 2021, arXiv:2107.03374): 164 signatures with docstrings, continued to one of that paper's stops.

HumanEval+ (Liu et al. 2023, arXiv:2305.01210) is read from EvalPlus' own file, which is not part of this repository. An
answer passes if it gives what the reference gives on every input, or nearly where the file tolerates it; the inputs are
known to be valid, so the file's contracts are not needed.

MBPP (Austin et al. 2021, arXiv:2108.07732): the 257 of the sanitized problems that are in the test split. The prompt is
that of Fried et al. 2022 (arXiv:2204.05999): a docstring with the problem's text and its first test, and no examples.
The paper's own, of three solved problems, needs a longer context than small models have.
"""

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quicksilver.errors import InputError
from quicksilver.evaluation.data import file_hash
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.subject import Answer, Ask, Subject
from quicksilver.evaluation.suite import PASS, Control, Mark
from quicksilver.evaluation.suites.execution import MODULE, about_sandbox, detail_of, values_of, verdicts
from quicksilver.evaluation.suites.humaneval import checks_of, read_rows
from quicksilver.evaluation.suites.inside import text_of
from quicksilver.evaluation.syntax import compiles, parse
from quicksilver.sandbox import Limits, Program, Sandbox

HUMANEVAL = "humaneval/HumanEval.jsonl.gz"
HUMANEVAL_PLUS = "humaneval_plus/HumanEvalPlus.jsonl.gz"
HUMANEVAL_PLUS_ORIGIN = "https://github.com/evalplus/humanevalplus_release"
MBPP = "mbpp/MBPP_sanitized.json"
MBPP_TEST_IDS = range(11, 511)
MAX_TOKENS = 256
"""Of an answer; one of HumanEval's 164 references takes more of the bundled models' tokens, five of MBPP's 427."""
HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MBPP_STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif")
BASE_PASS = "base_pass@1"
"""On the inputs of HumanEval's own tests, where ``pass@1`` is on those that EvalPlus added too."""
SLOW_REFERENCE = Limits(wall_s=60.0, cpu_s=20.0)
"""For MBPP, one of whose references takes several seconds."""
MANY_INPUTS = Limits(wall_s=60.0, cpu_s=30.0, memory_mb=2048)
"""For EvalPlus' inputs, hundreds for each task, on which the reference runs too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionItem:
    """One program to be continued."""

    item_id: str
    prompt: str
    reference: str
    checks: Mapping[str, str]
    """By figure, ``pass@1`` among them: what is run behind the program."""
    files: Mapping[str, str] = field(default_factory=dict)
    """That the checks read."""
    wrong: Mapping[str, str] = field(default_factory=dict)
    """Answers that must not pass, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionSuite:
    """Programs to be continued, and run."""

    name: str
    tasks: tuple[CompletionItem, ...]
    stops: tuple[str, ...]
    sandbox: Sandbox
    source: Mapping[str, object]
    """Where the tasks come from: hashes, seed."""

    @property
    def headline(self) -> str:
        return PASS

    def about(self) -> Mapping[str, object]:
        asked = {"suite": self.name, "max_tokens": MAX_TOKENS, "stops": list(self.stops)}
        return {**asked, **self.source, **about_sandbox(self.sandbox)}

    def items(self) -> tuple[CompletionItem, ...]:
        return self.tasks

    def ask(self, subject: Subject, item: CompletionItem, seed: int, temperature: float) -> Answer:
        ask = Ask(seed=seed, max_tokens=MAX_TOKENS, temperature=temperature, stop=self.stops)
        return subject.complete(item.prompt, ask)

    def judge(self, answered: Iterable[tuple[CompletionItem, Answer]]) -> Iterator[Mark]:
        given = [(item, item.prompt + answer.texts[0]) for item, answer in answered]
        found = verdicts(self.sandbox, (program for item, source in given for program in _programs(item, source)))
        for item, source in given:
            by_figure = {figure: next(found) for figure in item.checks}
            tree = parse(source)
            values = {
                **values_of(by_figure[PASS]),
                "compile_rate": float(tree is not None and compiles(tree)),
                **{figure: float(verdict.is_passed) for figure, verdict in by_figure.items() if figure != PASS},
            }
            yield Mark(values=values, detail=detail_of(by_figure[PASS]))

    def controls(self, item: CompletionItem) -> Mapping[str, Control]:
        wrong = {name: Control(text=text, passes=False) for name, text in item.wrong.items()}
        return {"reference": Control(text=item.reference, passes=True), **wrong}


def _programs(item: CompletionItem, source: str) -> Iterator[Program]:
    for checks in item.checks.values():
        yield Program(source, checks=checks, files=item.files, name=MODULE)


_BODIES = {"empty body": "", "pass": "    pass\n", "raise": "    raise NotImplementedError\n"}
"""Behind a docstring, which is a body by itself."""


def humaneval(path: Path, sandbox: Sandbox, *, count: int | None, seed: int) -> CompletionSuite:
    """The suite ``humaneval``.

    Args:
        path: of ``HUMANEVAL``.
        sandbox: where answers run.
        count: random tasks; None: all, in order.
        seed: of the sample.

    Raises:
        InputError: the file is missing or damaged.
        ConfigError: there are fewer tasks than that.
    """
    tasks = [
        CompletionItem(
            item_id=row["task_id"],
            prompt=row["prompt"],
            reference=row["canonical_solution"],
            checks={PASS: checks_of(row)},
            wrong=_BODIES,
        )
        for row in read_rows(path, "test")
    ]
    return _suite("humaneval", tasks, path, sandbox, count, seed)


def humaneval_plus(path: Path, sandbox: Sandbox, *, count: int | None, seed: int) -> CompletionSuite:
    """The suite ``humaneval-plus``, of a file of EvalPlus; see ``humaneval``."""
    tasks = [
        CompletionItem(
            item_id=row["task_id"],
            prompt=row["prompt"],
            reference=row["canonical_solution"],
            checks={
                PASS: _comparing(row["entry_point"], "base_input", "plus_input"),
                BASE_PASS: _comparing(row["entry_point"], "base_input"),
            },
            files={"task.json": json.dumps(row)},
            wrong=_BODIES,
        )
        for row in read_rows(path, "base_input", "plus_input", "atol")
    ]
    return _suite("humaneval-plus", tasks, path, sandbox, count, seed)


def _comparing(function: str, *kinds: str) -> str:
    """Checks that a function gives what the reference gives on inputs of these kinds."""
    return f"{text_of('same_answers')}\ncheck_same_answers({', '.join([function, *map(repr, kinds)])})\n"


def mbpp(path: Path, sandbox: Sandbox, *, count: int | None, seed: int) -> CompletionSuite:
    """The suite ``mbpp``, of ``MBPP``; see ``humaneval``."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        tasks = [_problem(row) for row in rows if row["task_id"] in MBPP_TEST_IDS]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"cannot read the problems of {path}: {error!r}") from error
    if not tasks:
        raise InputError(f"cannot read the problems of {path}: none is of the test split")
    return _suite("mbpp", tasks, path, sandbox, count, seed, MBPP_STOPS)


def _problem(row: Mapping) -> CompletionItem:
    return CompletionItem(
        item_id=f"MBPP/{row['task_id']}",
        prompt=f'"""\n{row["prompt"]}\n{row["test_list"][0]}\n"""\n',
        reference=row["code"],
        checks={PASS: "\n".join([*row["test_imports"], *row["test_list"]])},
        wrong={"empty": "", "pass": _hollowed(row["code"], "pass"), "raise": _hollowed(row["code"], "raise")},
    )


def _hollowed(source: str, statement: str) -> str:
    """A program whose functions do nothing but one statement."""
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = ast.parse(statement).body
    return ast.unparse(tree)


def _suite(
    name: str,
    tasks: list[CompletionItem],
    path: Path,
    sandbox: Sandbox,
    count: int | None,
    seed: int,
    stops: tuple[str, ...] = HUMANEVAL_STOPS,
) -> CompletionSuite:
    return CompletionSuite(
        name=name,
        tasks=tuple(subsample(tasks, count, seed)),
        stops=stops,
        sandbox=sandbox,
        source={"data_sha256": file_hash(path), "items_seed": seed},
    )
