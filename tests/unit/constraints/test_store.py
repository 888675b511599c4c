import dataclasses
import logging
import os

import numpy as np
import pytest

from quicksilver.constraints.choice import Choice
from quicksilver.constraints.store import Store
from quicksilver.errors import ConfigError
from tests.constraint_languages import automaton_of


def test_an_automaton_comes_back_as_it_was(tmp_path):
    automaton = automaton_of(Choice(("yes", "no")))
    Store(tmp_path / "new" / "folder").put(automaton)
    found = Store(tmp_path / "new" / "folder").get(automaton.fingerprint)
    for each in dataclasses.fields(automaton):
        ours, theirs = getattr(automaton, each.name), getattr(found, each.name)
        assert type(ours) is type(theirs)
        assert np.array_equal(ours, theirs)
        assert not isinstance(ours, np.ndarray) or ours.dtype == theirs.dtype


def test_what_was_never_put_is_not_there(tmp_path):
    assert Store(tmp_path / "none").get("0" * 64) is None


def test_a_broken_file_is_removed_and_told(tmp_path, caplog):
    automaton = automaton_of(Choice(("yes", "no")))
    store = Store(tmp_path)
    store.put(automaton)
    (path,) = tmp_path.iterdir()
    for contents in (b"", b"PK\x03\x04 not a zip file", path.read_bytes()[:200]):
        path.write_bytes(contents)
        with caplog.at_level(logging.WARNING):
            assert store.get(automaton.fingerprint) is None
        assert not path.exists()
        assert str(path) in caplog.text
        caplog.clear()


def test_a_folder_that_cannot_be_written_is_told(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        Store(tmp_path / "file").put(automaton_of(Choice(("yes", "no"))))
    assert "cannot be stored" in caplog.text


def test_those_used_longest_ago_make_room(tmp_path):
    # Three files of 0.4 MiB, of which the limit has room for two.
    store = Store(tmp_path, max_mb=1)
    automaton = automaton_of(Choice(("yes", "no")))
    noise = np.random.default_rng(0).integers(0, 2**31 - 1, 105_000, dtype=np.int32)
    for place, name in enumerate(("a", "b", "c")):
        store.put(dataclasses.replace(automaton, token_class=noise, fingerprint=name))
        os.utime(tmp_path / f"{name}.npz", (place, place))
        if name == "b":
            assert store.get("a") is not None  # so b was used longer ago
    assert [store.get(name) is not None for name in ("a", "b", "c")] == [True, False, True]


def test_a_store_without_room_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="max_mb"):
        Store(tmp_path, max_mb=0)
