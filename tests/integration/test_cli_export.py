"""`quicksilver export`: what Hugging Face transformers makes of the folder."""

import json

import pytest
import torch

import quicksilver
from quicksilver.checkpoints.huggingface import export_folder
from quicksilver.cli.main import main
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import CheckpointError, UsageError
from tests.tiny_checkpoints import SOURCE, save_tiny_checkpoint, tiny_tokenizer

transformers = pytest.importorskip("transformers", reason="checks against Hugging Face transformers")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    source = save_tiny_checkpoint(folder / "twin", Objective.AUTOREGRESSIVE)
    (source / "README.md").write_text("# the twin\n")
    assert main(["export", str(source), str(folder / "out"), "--dtype", "float32"]) == 0
    return folder / "out"


@pytest.mark.slow
def test_transformers_gives_the_same_logits(exported):
    theirs = transformers.Qwen3ForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    tokens = tiny_tokenizer().encode(SOURCE)[:90]
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0]
    ours = quicksilver.load(exported, device="cpu")
    torch.testing.assert_close(ours.logits(tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_transformers_reads_the_tokenizer(exported):
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    ours = tiny_tokenizer()
    for text in (SOURCE, "é漢😀\r\n\t x", "a <mask> b <eos>"):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text)
        assert theirs.decode(ids) == text
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.id_of("<eos>"), ours.id_of("<pad>"))


def test_an_export_loads_again(tmp_path):
    source = save_tiny_checkpoint(tmp_path / "model")
    assert main(["export", str(source), str(tmp_path / "out")]) == 0
    first, again = quicksilver.load(source), quicksilver.load(tmp_path / "out")
    assert again.spec == first.spec
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    tokens = first.tokenizer.encode(SOURCE)
    # bfloat16 keeps 8 bits: about three decimal digits of weights near 1.
    torch.testing.assert_close(again.logits(tokens), first.logits(tokens), rtol=0.2, atol=0.5)


def test_the_model_card_comes_along(exported):
    assert (exported / "README.md").read_text() == "# the twin\n"


def test_export_overwrites_nothing(tmp_path, exported, capsys):
    assert main(["export", str(exported), str(exported)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    with pytest.raises(UsageError, match="int8"):
        export_folder(exported, tmp_path / "new", dtype="int8")
    assert main(["export", str(exported), str(tmp_path / "new"), "--dtype", "int8"]) == 2
    assert "int8" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"tokenizer.json"):
        export_folder(tmp_path, tmp_path / "new", dtype="float32")
