"""Duplicates, caps and leakage, against plain counting."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from quicksilver.training.corpus.extract import Document
from quicksilver.training.corpus.lock import LockedPackage, Profile, Split
from quicksilver.training.corpus.selection import held_out_share, select_documents, shingles
from tests.unit.training.corpus.conftest import module


def package(name: str, split: Split, cap_bytes: int | None = None) -> LockedPackage:
    return LockedPackage(
        package=name,
        version="1.0",
        wheel=f"{name}-1.0-py3-none-any.whl",
        sha256="0" * 64,
        licence="MIT",
        split=split,
        profiles=frozenset({Profile.TEST}),
        cap_bytes=cap_bytes,
    )


def document(name: str, path: str, text: str) -> Document:
    data = text.encode()
    return Document(name, path, text, hashlib.sha256(data).hexdigest(), len(data))


def naive_share(text: str, other: str) -> float:
    def windows(source: str) -> list[list[str]]:
        lines = [" ".join(line.split()) for line in source.split("\n") if line.split()]
        return [lines[start : start + 4] for start in range(len(lines) - 3)] if len(lines) > 4 else [lines]

    mine, theirs = windows(text), windows(other)
    return sum(window in theirs for window in mine) / len(mine)


LINES = st.lists(st.sampled_from(["a = 1", "b = 2", "  a  =  1", "", "   ", "c()"]), max_size=12).map("\n".join)


@given(LINES, LINES)
def test_share_equals_plain_counting(text: str, other: str) -> None:
    assert held_out_share(text, set(shingles(other))) == naive_share(text, other)


def test_a_duplicate_stays_in_the_held_out_split_and_leaves_training() -> None:
    text = module(1)
    chosen = select_documents(
        [
            (package("alpha", Split.TRAIN), [document("alpha", "a.py", text), document("alpha", "b.py", module(2))]),
            (package("omega", Split.PUBLIC_TEST), [document("omega", "z.py", text)]),
        ]
    )
    assert [found.path for found in chosen.documents[Split.TRAIN]] == ["b.py"]
    assert [found.path for found in chosen.documents[Split.PUBLIC_TEST]] == ["z.py"]
    assert chosen.dropped == {"duplicate": 1, "over_cap": 0, "leaked": 0}


def test_the_cap_chooses_by_hash_and_is_never_exceeded() -> None:
    documents = [document("alpha", f"{index}.py", module(index)) for index in range(10)]
    cap = sum(found.num_bytes for found in documents) // 2
    kept = select_documents([(package("alpha", Split.TRAIN, cap), documents)]).documents[Split.TRAIN]
    total = sum(found.num_bytes for found in kept)
    assert cap - max(found.num_bytes for found in documents) < total <= cap
    by_hash = sorted(documents, key=lambda found: found.sha256)
    assert {found.path for found in kept} == {found.path for found in by_hash[: len(kept)]}


def test_a_training_file_leaves_when_more_than_30_percent_is_held_out() -> None:
    held_out = module(1, num_functions=20)
    own = module(2, num_functions=20)
    # 20 functions of 3 lines, so 57 shingles each; parts of the held-out module are put in front of the training file.
    little = "\n".join(held_out.split("\n")[:20]) + "\n" + own
    much = "\n".join(held_out.split("\n")[:60]) + "\n" + own
    assert 0 < naive_share(little, held_out) <= 0.30 < naive_share(much, held_out)
    chosen = select_documents(
        [
            (
                package("alpha", Split.TRAIN),
                [document("alpha", "little.py", little), document("alpha", "much.py", much)],
            ),
            (package("beta", Split.VALIDATION), [document("beta", "b.py", held_out)]),
        ]
    )
    assert [found.path for found in chosen.documents[Split.TRAIN]] == ["little.py"]
    assert chosen.dropped["leaked"] == 1


def test_the_order_of_the_packages_does_not_matter() -> None:
    staged = [
        (package(name, split), [document(name, "a.py", module(seed)), document(name, "b.py", module(9))])
        for name, split, seed in (("a", Split.TRAIN, 1), ("b", Split.VALIDATION, 2), ("c", Split.TRAIN, 3))
    ]
    assert select_documents(staged) == select_documents(staged[::-1])
