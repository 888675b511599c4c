"""Exported folders: complete, readable by transformers, and refused with a reason."""

import pytest
import torch
import transformers

from quicksilver.checkpoints.folder import save_folder
from quicksilver.checkpoints.huggingface import export_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.autoregressive import align_predictions
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import CheckpointError, ConfigError, UsageError
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


@pytest.fixture
def own_code_cache(tmp_path, monkeypatch):
    """Where transformers copies the folder's code to."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


LAYOUTS = {
    "qwen3": {},
    "qwen3-untied": {"has_tied_embeddings": False},
    "qwen2": {"has_qkv_bias": True, "has_qk_norm": False},
    "llama": {"has_qk_norm": False},
}


@pytest.mark.usefixtures("own_code_cache")
@pytest.mark.parametrize("shape", list(LAYOUTS))
@pytest.mark.parametrize("shift", [0, 1])
@torch.no_grad()
def test_a_diffusion_model_is_a_masked_one_for_transformers(tmp_path, shape, shift):
    folder, out, tokenizer = tmp_path / "checkpoint", tmp_path / "out", tiny_tokenizer()
    spec = DiffusionSpec(
        objective=Objective.MASK, special=special_ids(), layouts=(Layout.IN_PLACE,), prediction_shift=shift
    )
    config = tiny_config(vocab_size=tokenizer.vocab_size, **LAYOUTS[shape])
    ours = random_denoiser(config, dtype=torch.float32)
    save_folder(folder, ours, spec, dtype=torch.float32)
    tokenizer.save(folder / "tokenizer.json")
    export_folder(folder, out, dtype="float32")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(out, trust_remote_code=True, dtype=torch.float32).eval()
    token_ids = random_tokens(2, 12)
    for blocks in (torch.zeros(2, 12, dtype=torch.int64), torch.arange(12).expand(2, -1) // 4):
        expected = align_predictions(logits_of(ours, token_ids, Topology.block_causal(blocks)), shift)
        given = None if blocks.max() == 0 else blocks
        torch.testing.assert_close(theirs(token_ids, block_ids=given).logits, expected, rtol=0, atol=1e-4)
    padded = torch.nn.functional.pad(token_ids[:1], (0, 5), value=7)
    is_token = torch.arange(17)[None] < 12
    alone = theirs(token_ids[:1]).logits
    torch.testing.assert_close(theirs(padded, attention_mask=is_token).logits[:, :12], alone, rtol=0, atol=1e-4)
    labels = token_ids[:1].masked_fill(torch.arange(12) > 5, -100)
    loss = torch.nn.functional.cross_entropy(alone[0, :6], labels[0, :6])
    torch.testing.assert_close(theirs(token_ids[:1], labels=labels).loss, loss, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("own_code_cache")
def test_the_code_in_the_folder_refuses_what_it_does_not_know(checkpoint, tmp_path):
    export_folder(checkpoint, tmp_path / "out", dtype="float32")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    with pytest.raises(TypeError, match="token_type_ids"):
        theirs(random_tokens(1, 4), token_type_ids=random_tokens(1, 4))


def test_an_architecture_that_transformers_lacks(tmp_path):
    config = tiny_config(vocab_size=tiny_tokenizer().vocab_size, has_qkv_bias=True)
    spec = DiffusionSpec(objective=Objective.MASK, special=special_ids())
    save_folder(tmp_path / "own", random_denoiser(config, dtype=torch.float32), spec)
    tiny_tokenizer().save(tmp_path / "own/tokenizer.json")
    with pytest.raises(ConfigError, match="own cannot be written for transformers"):
        export_folder(tmp_path / "own", tmp_path / "out", dtype="float32")


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
