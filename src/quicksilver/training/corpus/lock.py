"""The lock: which wheels make the corpus, with their hashes, licences, splits, caps and profiles.

A lock is a tab-separated file with comment lines; the committed one is package data beside this module.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path

from quicksilver.errors import ConfigError, CorpusError

COLUMNS = ("package", "version", "wheel", "sha256", "licence", "split", "cap_bytes", "profiles", "index")

ALLOWED_LICENCES = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "HPND",
        "ISC",
        "LicenseRef-matplotlib",
        "MIT",
        "MIT-CMU",
        "PSF-2.0",
        "Zlib",
    }
)
"""Only these may enter the corpus: permissive, without a duty to share alike."""


class Split(StrEnum):
    """What a package may be used for. A whole package belongs to one split."""

    TRAIN = "train"
    VALIDATION = "validation"
    PUBLIC_TEST = "public_test"


class Profile(StrEnum):
    """How much of the lock is built."""

    TEST = "test"
    """About 5 MB."""
    LAPTOP = "laptop"
    """Without torch, transformers, litellm and scipy."""
    FULL = "full"


_HASH = re.compile(r"[0-9a-f]{64}")
_CORPUS_ID = re.compile(rf"^# corpus-id ({'|'.join(Profile)}) ([0-9a-f]{{64}})$", re.MULTILINE)
_WHEEL = re.compile(r"[A-Za-z0-9_.+]+(-[A-Za-z0-9_.+]+){4,5}\.whl")


def is_permissive(licence: str) -> bool:
    """Whether an SPDX expression of AND and OR, without brackets, is on the allow-list (OR binds weaker)."""
    options = [{term.strip() for term in option.split(" AND ")} for option in licence.split(" OR ")]
    return any(terms <= ALLOWED_LICENCES for terms in options)


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedPackage:
    """One wheel of the lock."""

    package: str
    version: str
    wheel: str
    """File name of the wheel."""
    sha256: str
    licence: str
    """SPDX expression."""
    split: Split
    profiles: frozenset[Profile]
    cap_bytes: int | None = None
    """At most this much text is used, chosen by hash order."""
    index: str | None = None
    """Package index that has the wheel; None is the one pip is configured with."""

    def __post_init__(self) -> None:
        if not _HASH.fullmatch(self.sha256):
            raise ConfigError(f"{self.package}: sha256 must be 64 hexadecimal digits, got {self.sha256!r}")
        if not _WHEEL.fullmatch(self.wheel):
            raise ConfigError(f"{self.package}: {self.wheel!r} is not the file name of a wheel")
        if not is_permissive(self.licence):
            raise ConfigError(f"{self.package}: licence {self.licence!r} is not on the allow-list")
        if self.cap_bytes is not None and self.cap_bytes < 1:
            raise ConfigError(f"{self.package}: cap_bytes must be positive, got {self.cap_bytes}")
        if not self.profiles:
            raise ConfigError(f"{self.package}: belongs to no profile")


@dataclass(frozen=True, slots=True)
class Lock:
    """All pinned packages, sorted by name."""

    packages: tuple[LockedPackage, ...]
    digest: str
    """sha256 of the lock file's rows, comments left out."""
    corpus_ids: dict[Profile, str]
    """The corpus id each profile had when the lock was written; not every profile need be there."""

    def of_profile(self, profile: Profile) -> tuple[LockedPackage, ...]:
        """The packages of one profile, sorted by name."""
        return tuple(package for package in self.packages if profile in package.profiles)


def read_lock(path: Path | None = None) -> Lock:
    """Read a lock file; without a path, the committed one.

    Raises:
        CorpusError: the file is missing, malformed, lists a package twice or names a licence that is not allowed.
    """
    source = path if path is not None else resources.files("quicksilver.training.corpus").joinpath("corpus.lock")
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CorpusError(f"corpus lock {source} does not exist") from error
    corpus_ids = {Profile(name): corpus_id for name, corpus_id in _CORPUS_ID.findall(text)}
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows = [line.split("\t") for line in lines]
    if not rows or tuple(rows[0]) != COLUMNS:
        raise CorpusError(f"corpus lock {source} must start with the columns {' '.join(COLUMNS)}")
    packages = tuple(sorted((_read_row(row) for row in rows[1:]), key=lambda package: package.package))
    names = [package.package for package in packages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CorpusError(f"corpus lock {source} lists {', '.join(twice)} more than once")
    return Lock(packages, hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest(), corpus_ids)


def _read_row(row: list[str]) -> LockedPackage:
    if len(row) != len(COLUMNS):
        raise CorpusError(f"corpus lock: {row[0]!r} has {len(row)} columns, must have {len(COLUMNS)}")
    cell = dict(zip(COLUMNS, row, strict=True))
    try:
        return LockedPackage(
            package=cell["package"],
            version=cell["version"],
            wheel=cell["wheel"],
            sha256=cell["sha256"],
            licence=cell["licence"],
            split=Split(cell["split"]),
            profiles=frozenset(Profile(name) for name in cell["profiles"].split(",")),
            cap_bytes=None if cell["cap_bytes"] == "-" else int(cell["cap_bytes"]),
            index=None if cell["index"] == "pypi" else cell["index"],
        )
    except ValueError as error:
        raise CorpusError(f"corpus lock: {cell['package']}: {error}") from error
