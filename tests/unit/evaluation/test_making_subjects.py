"""From a name to a subject, and what each kind refuses."""

import sys

import pytest

from quicksilver.diffusion.spec import Objective
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.evaluation.subjects import Settings, make_subject
from quicksilver.evaluation.subjects.causal import CausalSubject
from quicksilver.evaluation.subjects.engine import EngineSubject
from quicksilver.evaluation.subjects.http import HttpSubject
from tests.tiny_checkpoints import save_tiny_checkpoint


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("making") / "twin", Objective.AUTOREGRESSIVE)


def test_each_form_has_its_kind(twin):
    assert isinstance(make_subject(str(twin), Settings(device="cpu")), EngineSubject)
    server = make_subject("http://host:1/v1#small", Settings(decoding={"threshold": 0.5}))
    assert isinstance(server, HttpSubject)
    assert (server.client.connection.base_url, server.client.connection.model) == ("http://host:1/v1", "small")
    assert server.options.threshold == 0.5


def test_transformers_form(twin):
    pytest.importorskip("transformers", reason="needs the hf extra")
    subject = make_subject(f"transformers:{twin}", Settings(device="cpu", context=64))
    assert isinstance(subject, CausalSubject)
    assert subject.max_length == 64


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("http://host/v1", Settings(dtype="bfloat16"), "its own dtype"),
        ("http://host/v1", Settings(decoding={"hope": 1}), "cannot be told hope"),
        ("http://host:99999/v1", Settings(), "no URL"),
        ("transformers:folder", Settings(decoding={"policy": "renoise"}), "its own decoding"),
        ("transformers:folder", Settings(quantize="int8_weight", layout="psm"), "its own quantize, layout"),
        ("llama.cpp:file.gguf", Settings(device="cuda"), "its own device"),
    ],
)
def test_what_cannot_be_honoured_is_refused(spec, settings, message):
    with pytest.raises(ConfigError, match=message):
        make_subject(spec, settings)


def test_what_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr("quicksilver.evaluation.subjects.llamacpp._library", lambda: sys)
    with pytest.raises(CheckpointError, match="no file nowhere.gguf"):
        make_subject("llama.cpp:nowhere.gguf")
    pytest.importorskip("transformers", reason="needs the hf extra")
    with pytest.raises(CheckpointError, match="nowhere"):
        make_subject("transformers:nowhere")
