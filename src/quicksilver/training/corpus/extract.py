"""One wheel to one stage file: the texts that pass the per-file filters, and the licence texts for the notice.

A stage file is JSON lines: a header, then one document per line. It is written in one piece and named after the wheel,
so a build that was killed goes on with the first package that has no stage file yet.
"""

import hashlib
import json
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quicksilver.errors import CorpusError
from quicksilver.training.corpus.filters import Drop, content_drop, path_drop, read_text
from quicksilver.training.corpus.lock import LockedPackage
from quicksilver.training.corpus.wheels import verify_wheel

FORMAT = 1
"""Raised whenever the filters or the stage file change, so that old stage files are made again."""

_LICENCE_WORDS = ("licen", "copying", "notice", "author")


@dataclass(frozen=True, slots=True)
class Document:
    """One source file of the corpus."""

    package: str
    path: str
    """Member name inside the wheel."""
    text: str
    sha256: str
    """Of the text's UTF-8 bytes."""
    num_bytes: int
    """UTF-8 bytes of the text."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What one wheel gave."""

    documents: tuple[Document, ...]
    """Sorted by path."""
    dropped: dict[str, int]
    """Number of files per reason."""
    licences: dict[str, str]
    """Text per licence file of the wheel."""


def extract_package(package: LockedPackage, wheel_folder: Path, stage_folder: Path) -> int:
    """Make the stage file of a package, unless it is there and whole.

    Returns:
        Number of documents.

    Raises:
        CorpusError: the wheel is missing, its hash differs from the lock's, or it cannot be read.
    """
    if (stage := _read_whole(package, stage_folder)) is not None:
        return len(stage.documents)
    wheel = verify_wheel(package, wheel_folder)
    try:
        with zipfile.ZipFile(wheel) as archive:
            documents, dropped = _read_documents(package, archive)
            licences = _read_licences(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise CorpusError(f"{package.package}: {wheel} cannot be read: {error}") from error
    lines = [json.dumps([document.path, document.sha256, document.text]) for document in documents]
    body = "".join(line + "\n" for line in lines)
    header = {
        "format": FORMAT,
        "wheel_sha256": package.sha256,
        "body_sha256": _digest(body),
        "dropped": dropped,
        "licences": licences,
    }
    path = _stage_path(package, stage_folder)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(header) + "\n" + body, encoding="utf-8", newline="\n")
    partial.replace(path)
    return len(documents)


def is_staged(package: LockedPackage, stage_folder: Path) -> bool:
    """Whether the stage file of a package is there and whole."""
    return _read_whole(package, stage_folder) is not None


def read_stage(package: LockedPackage, stage_folder: Path) -> Stage:
    """The stage of a package that ``extract_package`` has made.

    Raises:
        CorpusError: there is none, or it is damaged.
    """
    stage = _read_whole(package, stage_folder)
    if stage is None:
        path = _stage_path(package, stage_folder)
        raise CorpusError(f"{package.package}: stage file {path} is missing or damaged; build the corpus again")
    return stage


def _stage_path(package: LockedPackage, stage_folder: Path) -> Path:
    return stage_folder / f"{package.package}-{package.version}.jsonl"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_whole(package: LockedPackage, stage_folder: Path) -> Stage | None:
    path = _stage_path(package, stage_folder)
    if not path.is_file():
        return None
    head, _, body = path.read_text(encoding="utf-8").partition("\n")
    try:
        header = json.loads(head)
    except json.JSONDecodeError:
        return None
    expected = (FORMAT, package.sha256, _digest(body))
    if (header.get("format"), header.get("wheel_sha256"), header.get("body_sha256")) != expected:
        return None
    rows = [json.loads(line) for line in body.splitlines()]
    documents = tuple(Document(package.package, name, text, sha, len(text.encode("utf-8"))) for name, sha, text in rows)
    return Stage(documents, header["dropped"], header["licences"])


def _read_documents(package: LockedPackage, archive: zipfile.ZipFile) -> tuple[list[Document], dict[str, int]]:
    documents: list[Document] = []
    dropped: Counter[str] = Counter()
    for path in sorted(name for name in archive.namelist() if name.endswith(".py")):
        drop = path_drop(path)
        if drop is None:
            text = read_text(archive.read(path))
            drop = Drop.NOT_UTF8 if text is None else content_drop(text)
            if text is not None and drop is None:
                documents.append(Document(package.package, path, text, _digest(text), len(text.encode("utf-8"))))
        if drop is not None:
            dropped[drop.value] += 1
    return documents, dict(sorted(dropped.items()))


def _read_licences(archive: zipfile.ZipFile) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name in sorted(archive.namelist()):
        path = PurePosixPath(name)
        is_metadata = name.partition("/")[0].endswith(".dist-info") and not name.endswith("/")
        if is_metadata and any(word in path.name.lower() for word in _LICENCE_WORDS):
            texts[name] = archive.read(name).decode("utf-8", errors="replace").replace("\r\n", "\n")
    return texts
