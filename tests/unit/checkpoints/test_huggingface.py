"""Exported folders: complete, readable by transformers, and refused with a reason."""

import pytest
import torch
import transformers

from quicksilver.checkpoints.folder import save_folder
from quicksilver.checkpoints.huggingface import export_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.errors import CheckpointError, UsageError
from quicksilver.models.topology import Topology
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.training.code_task import special_ids
from tests.tiny import logits_of, random_denoiser, random_tokens, tiny_config
from tests.training_runs import tiny_tokenizer


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    tokenizer = tiny_tokenizer()
    spec = DiffusionSpec(objective=Objective.MASK, special=special_ids())
    denoiser = random_denoiser(tiny_config(vocab_size=tokenizer.vocab_size), dtype=torch.float32)
    save_folder(folder, denoiser, spec, dtype=torch.float32)
    tokenizer.save(folder / "tokenizer.json")
    (folder / "README.md").write_text("card")
    return folder


def test_the_export_is_a_checkpoint_again(checkpoint, tmp_path):
    export_folder(checkpoint, tmp_path / "out", dtype="float32")
    (before, spec), (after, spec_after) = load_folder(checkpoint), load_folder(tmp_path / "out")
    assert spec == spec_after
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (tmp_path / "out/README.md").read_text() == "card"


@torch.no_grad()
def test_transformers_reads_model_and_tokenizer(checkpoint, tmp_path):
    out = tmp_path / "out"
    export_folder(checkpoint, out, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    text = "def f(x):\n    return x + <mask>\n"
    assert tokenizer(text)["input_ids"] == list(tiny_tokenizer().encode(text))
    special = special_ids()
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (special.pad, special.eos)
    assert tokenizer.mask_token == SPECIAL_TOKENS[special.mask]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ours, _ = load_folder(out)
    token_ids = random_tokens(1, 12)
    expected = logits_of(ours, token_ids, Topology.block_causal(torch.arange(12)[None]))
    torch.testing.assert_close(theirs(input_ids=token_ids).logits, expected, rtol=0, atol=1e-4)


def test_refusals(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="no dtype 'int8'; known: bfloat16"):
        export_folder(checkpoint, tmp_path / "out", dtype="int8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UsageError, match="exists and is not an empty folder"):
        export_folder(checkpoint, tmp_path / "full", dtype="float32")
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.json"):
        export_folder(checkpoint, tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()
