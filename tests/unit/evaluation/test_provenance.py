from pathlib import Path

from quicksilver.evaluation.provenance import environment, model_hash
from tests.tiny_checkpoints import save_tiny_checkpoint


def test_the_hash_is_of_the_model_not_of_its_place(tmp_path: Path):
    one = save_tiny_checkpoint(tmp_path / "one")
    assert model_hash(one) == model_hash(save_tiny_checkpoint(tmp_path / "two"))
    assert model_hash(one) != model_hash(save_tiny_checkpoint(tmp_path / "three", seed=1))
    before = model_hash(one)
    (one / "tokenizer.json").write_text("{}")
    assert model_hash(one) != before


def test_the_environment_names_the_machine():
    found = environment()
    assert found["cpu"]
    assert found["torch"]
    assert found["threads"] == 1
