"""What needs the whole corpus: exact duplicates, caps per package, and the removal of leaks from the training split.

The order of the documents decides which duplicate stays, so it is fixed: held-out splits first, then by package and
path.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from quicksilver.training.corpus.extract import Document
from quicksilver.training.corpus.lock import LockedPackage, Split

SHINGLE_LINES = 4
MAX_HELD_OUT_SHARE = 0.30
"""A training file goes when more than this share of its shingles is in a held-out split."""

_PRIORITY = {Split.PUBLIC_TEST: 0, Split.VALIDATION: 1, Split.TRAIN: 2}


@dataclass(frozen=True, slots=True)
class Selection:
    """The documents of the corpus."""

    documents: dict[Split, tuple[Document, ...]]
    """Per split, sorted by package and path."""
    dropped: dict[str, int]
    """Number of files per reason."""


def select_documents(staged: Sequence[tuple[LockedPackage, Sequence[Document]]]) -> Selection:
    """Choose the corpus from what the wheels gave."""
    ordered = sorted(staged, key=lambda item: (_PRIORITY[item[0].split], item[0].package))
    seen: set[str] = set()
    dropped: Counter[str] = Counter(duplicate=0, over_cap=0, leaked=0)
    chosen: dict[Split, list[Document]] = {split: [] for split in Split}
    for package, documents in ordered:
        unique = _unseen(documents, seen)
        capped = _cap(unique, package.cap_bytes)
        dropped["duplicate"] += len(documents) - len(unique)
        dropped["over_cap"] += len(unique) - len(capped)
        chosen[package.split] += capped
    kept = _without_leaks(chosen[Split.TRAIN], [*chosen[Split.PUBLIC_TEST], *chosen[Split.VALIDATION]])
    dropped["leaked"] = len(chosen[Split.TRAIN]) - len(kept)
    chosen[Split.TRAIN] = kept
    by_name = {
        split: tuple(sorted(documents, key=lambda document: (document.package, document.path)))
        for split, documents in chosen.items()
    }
    return Selection(by_name, dict(dropped))


def shingles(text: str) -> Iterator[str]:
    """Every run of four lines that are not blank, white space made single; a shorter text is one shingle."""
    lines = [" ".join(line.split()) for line in text.split("\n") if line.strip()]
    for start in range(max(1, len(lines) - SHINGLE_LINES + 1)):
        yield "\n".join(lines[start : start + SHINGLE_LINES])


def held_out_share(text: str, held_out: set[str]) -> float:
    """The share of a text's shingles that are in ``held_out``, in [0, 1]."""
    found = [shingle in held_out for shingle in shingles(text)]
    return sum(found) / len(found)


def _unseen(documents: Iterable[Document], seen: set[str]) -> list[Document]:
    # Adds to `seen`.
    unique: list[Document] = []
    for document in documents:
        if document.sha256 not in seen:
            seen.add(document.sha256)
            unique.append(document)
    return unique


def _cap(documents: Sequence[Document], cap_bytes: int | None) -> list[Document]:
    if cap_bytes is None:
        return list(documents)
    kept: list[Document] = []
    total = 0
    for document in sorted(documents, key=lambda document: document.sha256):
        if total + document.num_bytes <= cap_bytes:
            kept.append(document)
            total += document.num_bytes
    return kept


def _without_leaks(train: Sequence[Document], held_out: Iterable[Document]) -> list[Document]:
    known = {shingle for document in held_out for shingle in shingles(document.text)}
    return [document for document in train if held_out_share(document.text, known) <= MAX_HELD_OUT_SHARE]
