"""Checkpoints as transformers writes them, adapted: texts by their own tokenizer, training, a folder that generates."""

from pathlib import Path

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

import quicksilver
from quicksilver.cli.main import main
from quicksilver.diffusion.spec import Objective
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training import trainer as trainer_module
from quicksilver.training.adaptation import adapted_architecture, adopt_weights
from tests.tiny import logits_of
from tests.training_runs import source

NUM_IDS = 300
RECIPE = """
from dataclasses import replace
from pathlib import Path

from quicksilver.training.data.noising import NoiseConfig
from quicksilver.training.recipe import Recipe, load_recipe
from quicksilver.training.tasks.adaptation import BlockStage

adapt = load_recipe("adapt:adapt", Path({recipes!r}))


def small(source: Path, tokens: Path) -> Recipe:
    recipe = adapt(source, tokens)
    stages = (BlockStage(block_length=1, start=0.0), BlockStage(block_length=4, start=0.3))
    task = replace(recipe.task, row_length=64, num_rows=2, stages=stages)
    spec = replace(recipe.spec, block_length=4, trained_block_lengths=(1, 4))
    return replace(recipe, spec=spec, task=task)
"""
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "eos_token_id": NUM_IDS - 1,
    "bos_token_id": None,
}
CLASSES = {
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
}


def write_tokenizer(folder: Path) -> None:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [source(index) for index in range(20)]
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=NUM_IDS - 1, initial_alphabet=alphabet))
    backend.add_special_tokens(["<|endoftext|>"])
    assert backend.get_vocab_size() == NUM_IDS
    backend.save(str(folder / "tokenizer.json"))


def write_model(folder: Path, family: str, num_rows: int) -> torch.nn.Module:
    """A random checkpoint with a table of ``num_rows``."""
    torch.manual_seed(3)
    config, kind = CLASSES[family]
    model = kind(config(vocab_size=num_rows, tie_word_embeddings=family == "qwen2", **SHAPE)).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(trainer_module, "matmul_peak", lambda precision, device: 1e12)


@pytest.mark.parametrize(
    ("family", "num_rows", "mask_id", "grown"),
    [
        ("qwen2", NUM_IDS + 20, NUM_IDS, NUM_IDS + 20),
        ("qwen3", NUM_IDS, NUM_IDS, NUM_IDS + 1),
        ("llama", 320, 300, 320),
    ],
)
def test_any_of_the_three_layouts_is_adapted(tmp_path, monkeypatch, family, num_rows, mask_id, grown):
    monkeypatch.chdir(tmp_path)
    reference = write_model(tmp_path / "model", family, num_rows)
    config, spec = adapted_architecture(tmp_path / "model", [1, 4])
    assert (config.vocab_size, spec.special.mask, spec.special.eos) == (grown, mask_id, NUM_IDS - 1)
    start = Denoiser(config)
    adopt_weights(start, tmp_path / "model", mask_id)
    token_ids = torch.arange(5, 45)[None]
    found = logits_of(start, token_ids, Topology.block_causal(torch.arange(40)[None]))[..., :NUM_IDS]
    with torch.no_grad():
        expected = reference(token_ids).logits[..., :NUM_IDS]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    texts = tmp_path / "texts"
    texts.mkdir()
    for index in range(12):
        (texts / f"{index}.py").write_text(source(index))
    assert main(["corpus", "tokenize", "texts", "--model", "model", "--out", "tokens", "--suffix", ".py"]) == 0
    (tmp_path / "recipes").mkdir()
    recipes = str(Path(__file__).parents[2] / "recipes")
    (tmp_path / "recipes" / "tiny.py").write_text(RECIPE.format(recipes=recipes))
    arguments = ["train", "small", "--from", "model", "--tokens", "tokens", "--steps", "12", "--decay-steps", "2"]
    assert main(arguments) == 0
    model = quicksilver.load(tmp_path / "runs" / "model-adapted" / "final")
    assert (model.spec.objective, model.spec.special.mask, model.spec.prediction_shift) == (Objective.MASK, mask_id, 1)
    first, again = (model.generate("def count", max_tokens=8, seed=0) for _ in range(2))
    assert first.text == again.text
    assert first.nfe > 0
