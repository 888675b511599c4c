"""The whole build on tiny wheels, without a network: contents, repeatability, resuming, errors, the command."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quicksilver.cli.corpus import app
from quicksilver.cli.main import main
from quicksilver.errors import ConfigError, CorpusError
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.training.corpus.build import BuildConfig, build_corpus
from quicksilver.training.corpus.lock import LockedPackage, Profile, Split
from quicksilver.training.corpus.token_file import TokenFile
from tests.unit.training.corpus.conftest import MakeWheel, module, write_lock

LICENCE = "Permission is granted to everyone.\n"
TEXTS: dict[Split, Mapping[str, str]] = {
    Split.TRAIN: {"alpha/a.py": module(1), "alpha/sub/b.py": module(2).replace("\n", "\r\n")},
    Split.VALIDATION: {"beta/c.py": module(3) + "# é\n"},
    Split.PUBLIC_TEST: {"gamma/d.py": module(4), "gamma/e.py": module(5)},
}


@pytest.fixture
def packages(make_wheel: MakeWheel) -> list[LockedPackage]:
    clutter = {"alpha/tests/test_a.py": module(6), "alpha/data.txt": "no source", "alpha/bad.py": b"x = '\xff'" * 40}
    return [
        make_wheel("alpha", {**TEXTS[Split.TRAIN], **clutter, "alpha-1.0.dist-info/licenses/LICENSE": LICENCE}),
        make_wheel("beta", TEXTS[Split.VALIDATION], Split.VALIDATION),
        make_wheel("gamma", TEXTS[Split.PUBLIC_TEST], Split.PUBLIC_TEST),
    ]


@pytest.fixture
def config(tmp_path: Path, packages: list[LockedPackage]) -> BuildConfig:
    write_lock(tmp_path / "tiny.lock", packages)
    return BuildConfig(
        profile=Profile.TEST,
        out=tmp_path / "corpus",
        wheels=tmp_path / "wheels",
        lock=tmp_path / "tiny.lock",
        vocab_size=400,
    )


class Killed(BaseException):
    """Ends a build in the middle."""


class KillAfter:
    """A progress listener that ends the build when a number of wheels has been read."""

    def __init__(self, num_wheels: int) -> None:
        self.left = num_wheels
        self.step = ""

    def start(self, step: str, total: int) -> None:
        self.step = step

    def advance(self, units: int, detail: str) -> None:
        self.left -= units if self.step == "Reading wheels" else 0
        if self.left == 0:
            raise Killed


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_text_is_in_its_split_and_nothing_else(config: BuildConfig) -> None:
    meta = build_corpus(config)
    tokenizer = Tokenizer.load(config.out / "tokenizer.json")
    for split, texts in TEXTS.items():
        tokens = TokenFile.open(config.out, split.value)
        found = {tokens.doc_name(i): tokenizer.decode(tokens.document(i).tolist()) for i in range(tokens.num_docs)}
        plain = {f"{path.split('/')[0]}/{path}": text.replace("\r\n", "\n") for path, text in texts.items()}
        assert found == plain
        assert tokens.doc_bytes.tolist() == [len(text.encode()) for text in found.values()]
        assert meta.splits[split.value].documents == len(texts)
        assert meta.splits[split.value].tokens == tokens.num_tokens
    assert {reason: count for reason, count in meta.dropped.items() if count} == {"test": 1, "not_utf8": 1}


def test_manifest_id_notice_and_meta_agree(config: BuildConfig) -> None:
    meta = build_corpus(config)
    manifest = (config.out / "manifest.tsv").read_text()
    assert meta.corpus_id == hashlib.sha256(manifest.encode()).hexdigest()
    assert manifest.splitlines() == sorted(manifest.splitlines())
    text = module(1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert f"alpha\talpha/a.py\t{digest}\t{len(text.encode())}\ttrain" in manifest.splitlines()
    notice = (config.out / "NOTICE").read_text()
    assert LICENCE in notice
    assert [f"{name} 1.0" in notice for name in ("alpha", "beta", "gamma")] == [True] * 3
    written = json.loads((config.out / "meta.json").read_text())
    assert written["corpus_id"] == meta.corpus_id
    assert written["tokenizer_fingerprint"] == Tokenizer.load(config.out / "tokenizer.json").fingerprint


def test_two_builds_are_the_same_file_by_file(config: BuildConfig, tmp_path: Path) -> None:
    build_corpus(config)
    build_corpus(replace(config, out=tmp_path / "again"))
    assert all_files(config.out) == all_files(tmp_path / "again")


@pytest.mark.slow
def test_many_processes_build_the_same_as_one(config: BuildConfig, tmp_path: Path) -> None:
    build_corpus(config)
    build_corpus(replace(config, out=tmp_path / "again", jobs=2))
    assert all_files(config.out) == all_files(tmp_path / "again")


def test_a_killed_build_goes_on_without_reading_finished_wheels_again(config: BuildConfig, tmp_path: Path) -> None:
    whole = build_corpus(replace(config, out=tmp_path / "whole"))
    with pytest.raises(Killed):
        build_corpus(config, KillAfter(2))
    assert not (config.out / "meta.json").exists()
    assert config.wheels is not None
    for name in ("alpha", "beta"):
        (config.wheels / f"{name}-1.0-py3-none-any.whl").unlink()
    assert build_corpus(config) == whole
    assert all_files(config.out) == all_files(tmp_path / "whole")


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"", lambda data: data.replace(b"31", b"32")])
def test_a_damaged_stage_file_is_made_again(config: BuildConfig, damage: Callable[[bytes], bytes]) -> None:
    whole = build_corpus(config)
    stage = config.out / "stages" / "alpha-1.0.jsonl"
    data = stage.read_bytes()
    stage.write_bytes(damage(data))
    assert build_corpus(config) == whole
    assert stage.read_bytes() == data


def test_a_corpus_is_not_complete_while_it_is_rebuilt(config: BuildConfig) -> None:
    build_corpus(config)
    (config.out / "stages" / "gamma-1.0.jsonl").unlink()
    with pytest.raises(Killed):
        build_corpus(config, KillAfter(3))
    assert not (config.out / "meta.json").exists()


def test_a_changed_wheel_stops_the_build_by_name(config: BuildConfig) -> None:
    assert config.wheels is not None
    with zipfile.ZipFile(config.wheels / "beta-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("beta/added.py", module(7))
    with pytest.raises(CorpusError, match=r"beta: .*sha256"):
        build_corpus(config)


def test_a_file_that_is_no_wheel_stops_the_build_by_name(
    config: BuildConfig, packages: list[LockedPackage], tmp_path: Path
) -> None:
    assert config.wheels is not None
    (config.wheels / packages[0].wheel).write_bytes(b"not a zip file")
    digest = hashlib.sha256(b"not a zip file").hexdigest()
    write_lock(tmp_path / "tiny.lock", [replace(packages[0], sha256=digest), *packages[1:]])
    with pytest.raises(CorpusError, match=r"alpha: .*cannot be read"):
        build_corpus(config)


def test_a_given_tokenizer_is_used_and_kept(config: BuildConfig, tmp_path: Path) -> None:
    first = build_corpus(config)
    (tmp_path / "tokenizer.json").write_bytes((config.out / "tokenizer.json").read_bytes())
    second = build_corpus(
        replace(config, out=tmp_path / "again", tokenizer=tmp_path / "tokenizer.json", vocab_size=8192)
    )
    assert second.tokenizer_fingerprint == first.tokenizer_fingerprint
    assert second.splits == first.splits


def test_a_profile_without_packages_and_bad_options_are_errors(config: BuildConfig) -> None:
    with pytest.raises(CorpusError, match="full"):
        build_corpus(replace(config, profile=Profile.FULL))
    with pytest.raises(ConfigError, match="jobs"):
        replace(config, jobs=0)
    with pytest.raises(ConfigError, match="vocab_size"):
        replace(config, vocab_size=70_000)


def command(config: BuildConfig, *options: str) -> list[str]:
    places = ["--out", str(config.out), "--wheels", str(config.wheels), "--lock", str(config.lock)]
    return ["build", "--profile", "test", *places, "--vocab-size", "400", "--jobs", "1", *options]


def test_the_command_prints_meta_as_json_and_a_table(config: BuildConfig) -> None:
    outcome = CliRunner().invoke(app, command(config, "--json"))
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.stdout) == json.loads((config.out / "meta.json").read_text())
    assert "public_test" in CliRunner().invoke(app, command(config)).stdout


def test_the_command_warns_when_the_lock_expects_another_corpus(
    config: BuildConfig, packages: list[LockedPackage], tmp_path: Path
) -> None:
    write_lock(tmp_path / "tiny.lock", packages, head=f"# corpus-id test {'0' * 64}\n")
    outcome = CliRunner().invoke(app, command(config))
    assert outcome.exit_code == 0
    assert "warning" in outcome.stderr


def test_the_command_fails_in_one_line(config: BuildConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert config.wheels is not None
    (config.wheels / "beta-1.0-py3-none-any.whl").write_bytes(b"")
    assert main(["corpus", *command(config)]) == 1
    assert "quicksilver: error: beta:" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--jobs", "0"), ("--tokenizer", "no.json"), ("--vocab-size", "70000")])
def test_bad_usage_has_exit_status_2(
    config: BuildConfig, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", *command(config, *option)]) == 2
    assert capsys.readouterr().err.count("quicksilver: error:") == 1


def test_the_command_lists_packages_with_licences() -> None:
    outcome = CliRunner().invoke(app, ["list", "--profile", "test", "--json"])
    rows = json.loads(outcome.stdout)
    assert {"package": "h11", "version": "0.16.0", "licence": "MIT", "split": "validation"} in rows
    assert "h11" in CliRunner().invoke(app, ["list", "--profile", "test"]).stdout
