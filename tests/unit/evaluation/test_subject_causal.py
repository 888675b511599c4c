"""Autoregressive models in other engines write what our own engine writes, and end where it ends."""

import sys
from pathlib import Path

import pytest

import quicksilver
from quicksilver.checkpoints.gguf import export_gguf
from quicksilver.checkpoints.huggingface import export_folder
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import CheckpointError, ConfigError, ContextLengthError
from quicksilver.evaluation.subject import TOO_LONG, Ask, Subject
from quicksilver.evaluation.subjects.causal import CausalSubject, Sentinels, Vocabulary, find_sentinels
from quicksilver.evaluation.subjects.engine import EngineSubject
from quicksilver.evaluation.subjects.llamacpp import LlamaCppWriter, llama_cpp_subject
from quicksilver.evaluation.subjects.transformers_generate import transformers_subject
from tests.tiny_checkpoints import save_tiny_checkpoint

TEXTS = ("def mean(xs):\n    total = 0\n", "    return total\n")
LONG = ("x = [1, 2]\n" * 60, "y = 3\n" * 60)
"""Longer than the tiny model's context of 128."""


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("causal") / "twin", Objective.AUTOREGRESSIVE)


@pytest.fixture(scope="module")
def engine(twin) -> EngineSubject:
    return EngineSubject(name="twin", model=quicksilver.load(twin, device="cpu"))


def figures(answer):
    return answer.texts, answer.num_tokens, answer.nfe, answer.finish_reason


@pytest.fixture(scope="module")
def theirs(twin) -> CausalSubject:
    pytest.importorskip("transformers", reason="needs the hf extra")
    return transformers_subject(twin, device="cpu")


@pytest.mark.parametrize("texts", [TEXTS, LONG, (*TEXTS, "\n\ndef f():\n")])
@pytest.mark.parametrize(
    "ask", [Ask(seed=0), Ask(seed=0, max_tokens=7), Ask(seed=0, hole_length=3), Ask(seed=0, stop=("a", "\n"))]
)
def test_holes_are_filled_as_in_our_engine(theirs, engine, texts, ask):
    assert isinstance(theirs, Subject)
    assert figures(theirs.fill(texts, ask)) == figures(engine.fill(texts, ask))


@pytest.mark.parametrize("ask", [Ask(seed=0), Ask(seed=0, max_tokens=9), Ask(seed=0, stop=("e",))])
def test_a_prompt_is_continued_as_in_our_engine(theirs, engine, ask):
    found = theirs.complete("def mean(xs):\n", ask)
    assert figures(found) == figures(engine.complete("def mean(xs):\n", ask))
    if found.texts[0]:
        assert 0 < found.first_text_s <= found.seconds


def test_sampling_repeats_by_its_seed(theirs):
    texts = [theirs.complete("def", Ask(seed=seed, temperature=1.0, max_tokens=20)).texts for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_too_long_is_left_unanswered_a_hole_too_long_refused(theirs):
    answer = theirs.complete("x = 1\n" * 100, Ask(seed=0))
    assert (answer.texts, answer.num_tokens, answer.finish_reason) == (("",), 0, TOO_LONG)
    with pytest.raises(ContextLengthError, match="sentinels"):
        theirs.fill(TEXTS, Ask(seed=0, max_tokens=127))


def test_it_says_what_it_is(theirs):
    about = theirs.about()
    assert (about["engine"], about["dtype"], about["device"]) == ("transformers.generate", "float32", "cpu")
    assert len(about["model_sha256"]) == 64
    assert theirs.count_tokens("def mean") == len(theirs.vocabulary.encode("def mean"))


@pytest.mark.slow
def test_an_exported_folder_is_the_same(twin, engine, tmp_path):
    pytest.importorskip("transformers", reason="needs the hf extra")
    export_folder(twin, tmp_path / "exported", dtype="float32")
    found = transformers_subject(tmp_path / "exported", device="cpu").fill(TEXTS, Ask(seed=0))
    assert figures(found) == figures(engine.fill(TEXTS, Ask(seed=0)))


def test_a_diffusion_checkpoint_is_refused(tmp_path):
    pytest.importorskip("transformers", reason="needs the hf extra")
    with pytest.raises(CheckpointError, match="holds a diffusion model"):
        transformers_subject(save_tiny_checkpoint(tmp_path / "tiny"))


def test_the_absence_of_transformers_is_told(twin, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"quicksilver-lm\[hf\]"):
        transformers_subject(twin)


@pytest.mark.slow
@pytest.mark.parametrize("ask", [Ask(seed=0, max_tokens=12), Ask(seed=0, max_tokens=12, stop=("a", "\n"))])
def test_it_writes_what_our_engine_writes(twin, engine, tmp_path, ask):
    pytest.importorskip("llama_cpp", reason="needs the llama extra")
    export_gguf(twin, tmp_path / "twin.gguf", dtype="f32")
    subject = llama_cpp_subject(tmp_path / "twin.gguf")
    assert isinstance(subject, Subject)
    assert figures(subject.fill(TEXTS, ask)) == figures(engine.fill(TEXTS, ask))
    assert figures(subject.complete("def mean", ask)) == figures(engine.complete("def mean", ask))
    # llama.cpp knows the end of a chat turn by its name.
    assert subject.vocabulary.ends == {1, 21}
    assert subject.vocabulary.forbidden == {*range(48)} - {1, 21}
    assert subject.max_length == 128


def test_the_absence_of_llama_cpp_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("quicksilver.evaluation.subjects.llamacpp.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"quicksilver-lm\[llama\]"):
        llama_cpp_subject(tmp_path / "twin.gguf")


def test_a_missing_file_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("quicksilver.evaluation.subjects.llamacpp._library", lambda: sys)
    with pytest.raises(CheckpointError, match="no file"):
        LlamaCppWriter.open(tmp_path / "twin.gguf")


class Scripted:
    """Writes the letters of a text one after the other, and would go on."""

    def __init__(self, text: str):
        self.text, self.prompts = text, []

    def write(self, prompt, most, ask, is_over):
        self.prompts.append(list(prompt))
        written = []
        while len(written) < most and not (written and is_over(written)):
            written.append(ord(self.text[len(written)]))
        return written


def letters(writer: Scripted, **changes) -> CausalSubject:
    """A model whose tokens are characters; 0 ends a text."""
    vocabulary = Vocabulary(
        encode=lambda text: list(map(ord, text)),
        decode=lambda ids: "".join(map(chr, ids)).replace("\0", ""),
        newline_id=10,
        **{"begin": 1, "hole_begin": None, "sentinels": Sentinels(prefix=2, suffix=3, middle=4)} | changes,
        ends=frozenset({0}),
        forbidden=frozenset({1, 2, 3, 4}),
    )
    return CausalSubject(name="letters", writer=writer, vocabulary=vocabulary, max_length=40)


def test_prompts_are_in_the_models_own_form():
    writer = Scripted("xy\0" * 9)
    found = letters(writer).fill(("a", "b", "c"), Ask(seed=0))
    assert writer.prompts == [[2, 97, 3, 98, 99, 4], [2, 97, 120, 121, 98, 3, 99, 4]]
    assert (found.texts, found.num_tokens, found.nfe, found.finish_reason) == (("xy", "xy"), 4, 6, "eos")
    suffix_first = Sentinels(prefix=2, suffix=3, middle=None, is_suffix_first=True)
    letters(writer, sentinels=suffix_first, hole_begin=1).fill(("a", "b"), Ask(seed=0))
    assert writer.prompts[-1] == [1, 3, 98, 2, 97]
    letters(writer).complete("ab", Ask(seed=0))
    assert writer.prompts[-1] == [1, 97, 98]


@pytest.mark.parametrize(
    ("written", "ask", "text", "num_tokens", "nfe", "reason"),
    [
        ("abc\0", Ask(seed=0), "abc", 3, 4, "eos"),
        ("abcdef", Ask(seed=0, max_tokens=4), "abcd", 4, 4, "length"),
        ("ab\ncd", Ask(seed=0, stop=("\n",)), "ab", 2, 3, "stop"),
        ("abcabd", Ask(seed=0, stop=("abd", "ca")), "ab", 2, 4, "stop"),
        ("\0", Ask(seed=0), "", 0, 1, "eos"),
    ],
)
def test_a_text_ends_where_it_should(written, ask, text, num_tokens, nfe, reason):
    found = letters(Scripted(written)).complete("q", ask)
    assert figures(found) == ((text,), num_tokens, nfe, reason)
    assert (found.first_text_s is None) == (text == "")


def test_a_model_without_sentinels_fills_no_holes():
    with pytest.raises(ConfigError, match="fill-in-the-middle"):
        letters(Scripted("a"), sentinels=None).fill(("a", "b"), Ask(seed=0))


def test_sentinels_are_found_by_the_names_of_a_family():
    ids = {"<fim_prefix>": 7, "<fim_suffix>": 8, "<fim_middle>": 9, "[PREFIX]": 1}
    assert find_sentinels(ids.get) == Sentinels(prefix=7, suffix=8, middle=9)
    codestral = {"[PREFIX]": 1, "[SUFFIX]": 2}
    assert find_sentinels(codestral.get) == Sentinels(prefix=1, suffix=2, middle=None, is_suffix_first=True)
    assert find_sentinels({}.get) is None
