"""Tiny wheels made on the spot, and locks that pin them."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from quicksilver.training.corpus.lock import COLUMNS, LockedPackage, Profile, Split

MakeWheel = Callable[..., LockedPackage]


@pytest.fixture
def make_wheel(tmp_path: Path) -> MakeWheel:
    """A function that writes a wheel into ``tmp_path / "wheels"`` and returns its row of the lock."""
    folder = tmp_path / "wheels"
    folder.mkdir()

    def make(
        package: str, files: Mapping[str, str | bytes], split: Split = Split.TRAIN, cap_bytes: int | None = None
    ) -> LockedPackage:
        name = f"{package}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
        return LockedPackage(
            package=package,
            version="1.0",
            wheel=name,
            sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            licence="MIT",
            split=split,
            profiles=frozenset({Profile.TEST}),
            cap_bytes=cap_bytes,
        )

    return make


def write_lock(path: Path, packages: list[LockedPackage], head: str = "") -> None:
    """Write a lock file."""
    rows = [
        [
            *(row.package, row.version, row.wheel, row.sha256, row.licence, row.split.value),
            "-" if row.cap_bytes is None else str(row.cap_bytes),
            ",".join(sorted(row.profiles)),
            row.index or "pypi",
        ]
        for row in packages
    ]
    path.write_text(head + "".join("\t".join(row) + "\n" for row in [list(COLUMNS), *rows]))


def module(seed: int, num_functions: int = 12) -> str:
    """Source text that no other seed gives, long enough for the corpus."""
    functions = [
        f"def compute_{seed}_{index}(first_value, second_value):\n"
        f'    """Result {index} of module {seed}."""\n'
        f"    return first_value * {seed * 31 + index} + second_value\n"
        for index in range(num_functions)
    ]
    return "\n\n".join(functions)
