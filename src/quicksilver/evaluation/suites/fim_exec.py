"""Holes in functions of networkx, judged by networkx' own tests of the module.

A body or a statement of a function is masked. The module, completed by the answer, takes the place of networkx' own,
and pytest runs the module's test file. The list of holes is part of the repository: place and lines, nothing of the
text. Listed are only holes whose tests notice: with a body that raises, or without the statement, they fail. Packages
other than numpy are kept from the tests, so that verdicts do not depend on what else is installed.
"""

import ast
import atexit
import hashlib
import random
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.data import file_hash
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.suite import Control
from quicksilver.evaluation.suites.execution import MODULE, ExecutedFillSuite
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem, Length
from quicksilver.evaluation.suites.inside import text_of
from quicksilver.sandbox import Limits, Program, Sandbox

HOLES = "fim_exec/networkx.tsv"
RELEASE = "networkx 3.6.1"
"""As in the corpus' lock, whose held-out packages it is one of."""
DEFAULT_COUNT = 100
BODY_LINES = range(3, 31)
MAX_TOKENS = {"body": 256, "statement": 128}
"""By kind. Of the bundled models' tokens 112 of networkx' 676 bodies take more, and one of its 664 statements: with
room for all of them a context of 512 would hold little else."""
LIMITS = Limits(wall_s=240.0, cpu_s=60.0, memory_mb=4096)
"""For a test file: most take less than a second of processor time, all that are listed less than 20."""
BODY, STATEMENT = MAX_TOKENS
_TEST_PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
"""Pytest and what it imports."""
_ALLOWED = ("networkx", "numpy", *_TEST_PACKAGES)


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """A hole: whole lines of a module."""

    module: str
    """Path within the package."""
    function: str
    kind: str
    start: int
    """First line, from 1."""
    end: int
    """Last line."""

    @property
    def test_file(self) -> str:
        """Path within the package."""
        path = Path(self.module)
        return str(path.parent / "tests" / f"test_{path.name}")


def fim_exec(
    holes: Path, package: Path | None, sandbox: Sandbox, *, count: int | None, seed: int, length: Length
) -> ExecutedFillSuite:
    """The suite ``fim-exec``.

    Args:
        holes: the list, ``HOLES``.
        package: a wheel of ``RELEASE`` or a folder it is installed in; None: as Python finds it.
        sandbox: where the tests run.
        count: random holes; None: all, in order.
        seed: of the sample.
        length: what is told of it.

    Raises:
        InputError: the list is missing or damaged, or the package is another release or changed.
        ConfigError: there is no networkx, numpy or pytest; there are fewer holes than that, or a length cannot be told.
    """
    places, wanted = read_places(holes)
    root = package_root(package)
    if fingerprint(root, places) != wanted:
        raise InputError(
            f"the networkx in {root} is not {RELEASE} as it was published, so its lines are not those of {holes.name}: "
            f"name a wheel of that release with --package (pip download --no-deps {RELEASE.replace(' ', '==')})"
        )
    return suite_of(
        subsample(places, count, seed),
        root,
        sandbox,
        length=length,
        source={"package": RELEASE, "holes_sha256": file_hash(holes), "items_seed": seed},
    )


def suite_of(
    places: Sequence[Place], root: Path, sandbox: Sandbox, *, length: Length, source: Mapping[str, object]
) -> ExecutedFillSuite:
    """The suite of these places in ``root/networkx``."""
    items = {_name(place): place for place in places}
    readable, tests = _folders(root), text_of("module_tests")

    def program(item: InfillItem, text: str) -> Program:
        place = items[item.item_id]
        files = {"answer.py": item.prefix + text + item.suffix}
        arguments = f"{_import_name(place.module)!r}, {place.test_file!r}, {_ALLOWED!r}"
        source = f"{tests}\nrun_module_tests({arguments})\n"
        return Program(source, files=files, name=MODULE, readable=readable)

    fills = FillSuite(
        name="fim-exec",
        holes=tuple(_holes(places, root)),
        length=length,
        has_whole_lines=False,
        source={**source, "max_tokens_by_kind": MAX_TOKENS},
    )
    return ExecutedFillSuite(fills=fills, sandbox=sandbox, program=program, wrong=_wrong)


def _wrong(item: InfillItem) -> Mapping[str, Control]:
    indent = item.middle[: len(item.middle) - len(item.middle.lstrip())]
    statement = "raise RuntimeError" if item.kind == BODY else "pass"
    return {statement.split()[0]: Control(text=f"{indent}{statement}\n", passes=False)}


def _name(place: Place) -> str:
    return f"networkx/{place.module}:{place.function}:{place.kind}"


def _import_name(module: str) -> str:
    return ".".join(("networkx", *Path(module).with_suffix("").parts))


def _holes(places: Iterable[Place], root: Path) -> Iterator[InfillItem]:
    for place in places:
        lines = (root / "networkx" / place.module).read_text(encoding="utf-8").splitlines(keepends=True)
        prefix, middle, suffix = (
            "".join(part) for part in (lines[: place.start - 1], lines[place.start - 1 : place.end], lines[place.end :])
        )
        yield InfillItem(
            item_id=_name(place),
            prefix=prefix,
            middle=middle,
            suffix=suffix,
            kind=place.kind,
            max_tokens=MAX_TOKENS[place.kind],
        )


def package_root(package: Path | None) -> Path:
    """The folder that holds ``networkx``; a wheel is unpacked, and removed when Python ends.

    Raises:
        ConfigError: there is no such package.
        InputError: it is no wheel that can be read.
    """
    if package is None:
        root = _home("networkx")
    elif package.is_dir():
        root = package
    else:
        root = Path(tempfile.mkdtemp(prefix="quicksilver-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        try:
            with zipfile.ZipFile(package) as wheel:
                wheel.extractall(root)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read the wheel {package}: {error}") from error
    if not (root / "networkx" / "__init__.py").is_file():
        raise ConfigError(
            f"there is no networkx in {package}: name a wheel of {RELEASE}, or a folder it is installed in"
        )
    return root


def _home(name: str) -> Path:
    """The folder that a package or module is installed in."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"suite fim-exec needs {name}: pip install 'quicksilver-lm[eval]'")
    path = Path(spec.origin)
    return path.parents[1] if path.name == "__init__.py" else path.parent


def _folders(root: Path) -> tuple[Path, ...]:
    """For the sandbox's search path, networkx' own before others that may hold another release."""
    return tuple(dict.fromkeys((root, *map(_home, _ALLOWED[1:]))))


def fingerprint(root: Path, places: Iterable[Place]) -> str:
    """SHA-256 over the modules and test files of places."""
    total = hashlib.sha256()
    for name in sorted({name for place in places for name in (place.module, place.test_file)}):
        path = root / "networkx" / name
        total.update(f"{name} {file_hash(path) if path.is_file() else 'missing'}\n".encode())
    return total.hexdigest()


def read_places(path: Path) -> tuple[list[Place], str]:
    """The list's places, and the fingerprint of the package it was made from.

    Raises:
        InputError: the list is missing or damaged.
    """
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines if not line.startswith("#")]
        places = [Place(module, name, kind, int(start), int(end)) for module, name, kind, start, end in rows]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the holes of {path}: {error}") from error
    return places, head.removeprefix("# ").strip()


def write_places(path: Path, places: Sequence[Place], root: Path, remarks: Sequence[str]) -> None:
    """Write a list that ``read_places`` reads."""
    rows = ["\t".join((each.module, each.function, each.kind, str(each.start), str(each.end))) for each in places]
    head = [f"# {fingerprint(root, places)}", *(f"# {remark}" for remark in remarks)]
    path.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


def find_places(root: Path) -> Iterator[Place]:
    """A body and a statement of every function of modules with a test file of their own, by path and line.

    Functions are those at a module's top whose body, a docstring left out, has 3 to 30 lines. The statement is a random
    simple one of whole lines that is not the whole body; the choice depends on the function's name alone.
    """
    package = root / "networkx"
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package)
        if "tests" in module.parts or not (path.parent / "tests" / f"test_{path.name}").is_file():
            continue
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                yield from _places(str(module), node, source.splitlines())


def _places(module: str, node: ast.FunctionDef, lines: Sequence[str]) -> Iterator[Place]:
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    if not body:
        return
    start, end = _lines(body)
    if end - start + 1 not in BODY_LINES:
        return
    yield Place(module, node.name, BODY, start, end)
    whole = [span for span in _statements(body, lines) if span != (start, end)]
    if whole:
        yield Place(module, node.name, STATEMENT, *random.Random(f"{module}:{node.name}").choice(whole))


def _lines(body: Sequence[ast.stmt]) -> tuple[int, int]:
    first = min([body[0].lineno, *(each.lineno for each in getattr(body[0], "decorator_list", ()))])
    return first, body[-1].end_lineno or first


def _statements(body: Sequence[ast.stmt], lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First and last line of simple statements with nothing before them on their line and no code behind."""
    for statement in body:
        for node in ast.walk(statement):
            if not isinstance(node, ast.stmt) or hasattr(node, "body") or isinstance(node, ast.Pass | ast.Match):
                continue
            start, end = _lines([node])
            rest = lines[end - 1].encode()[node.end_col_offset or 0 :].decode().strip()
            if not lines[start - 1].encode()[: node.col_offset].strip() and (not rest or rest.startswith("#")):
                yield start, end
