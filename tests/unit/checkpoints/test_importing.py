"""Published folders: used as they are, and imported; in other dtypes, in several files, quantized."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from quicksilver.api import GenerateRequest, load
from quicksilver.checkpoints.importing import import_folder
from quicksilver.checkpoints.loading import load_folder, open_folder
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.models.topology import Topology
from quicksilver.quantization import Scheme, quantize
from tests.foreign_checkpoints import save_autoregressive
from tests.tiny import logits_of, random_tokens
from tests.tiny_checkpoints import save_tiny_checkpoint
from tests.unit.quantization.test_convert import needs


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    save_autoregressive(folder)
    return folder


def logits(denoiser):
    token_ids = random_tokens(1, 20)
    return logits_of(denoiser, token_ids, Topology.block_causal(torch.arange(20)[None]))


def text_of(model):
    return model.run(GenerateRequest(prompt="def mean(xs):", max_tokens=12)).text


def test_a_published_folder_is_used_and_imported_alike(published, tmp_path):
    out = tmp_path / "own"
    seen = []
    import_folder(published, out, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert (out / "README.md").read_text() == "by somebody else"
    theirs, ours = load(published), load(out)
    assert text_of(theirs) == text_of(ours)
    assert theirs.chat_template == ours.chat_template
    assert theirs.spec == ours.spec
    assert torch.equal(logits(load_folder(published)[0]), logits(load_folder(out)[0]))


def test_large_models_are_written_in_several_files(published, tmp_path):
    out = tmp_path / "own"
    import_folder(published, out, dtype="float32", shard_bytes=30_000)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert torch.equal(logits(load_folder(published)[0]), logits(load_folder(out)[0]))


def test_as_stored_weights_stay_mapped(published):
    denoiser, _ = load_folder(published, None)
    assert {value.dtype for value in denoiser.state_dict().values()} == {torch.bfloat16}
    with safe_open(next(published.glob("*.safetensors")), framework="pt") as file:
        name = next(iter(file.keys()))
        assert torch.equal(denoiser.state_dict()[name], file.get_tensor(name))


@pytest.mark.parametrize("scheme", [Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHT, Scheme.INT4_WEIGHT])
def test_a_quantized_import_needs_no_original(published, tmp_path, scheme):
    needs(scheme)
    source, out = tmp_path / "source", tmp_path / "own"
    shutil.copytree(published, source)
    expected = quantize(load_folder(source, torch.float32)[0], scheme, dtype=torch.float32)
    import_folder(source, out, dtype="float32", scheme=scheme)
    at_loading, _ = load_folder(source, torch.float32, scheme=scheme)
    shutil.rmtree(source)
    denoiser, _ = load_folder(out)
    assert open_folder(out).scheme is scheme
    assert torch.equal(logits(denoiser), logits(expected))
    assert torch.equal(logits(at_loading), logits(expected))
    assert text_of(load(out))
    with pytest.raises(ConfigError, match=f"quantized as {scheme} already"):
        load_folder(out, scheme=next(other for other in Scheme if other is not scheme))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 4}, "not known here: num_experts"),
        ({"model_type": "mamba"}, "no family known here"),
        ({"eos_token_id": 320}, "special token ids reach 320"),
    ],
)
def test_what_a_config_asks_for_and_we_lack_is_named(published, tmp_path, change, message):
    source = tmp_path / "source"
    shutil.copytree(published, source)
    config = json.loads((source / "config.json").read_text()) | change
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        import_folder(source, tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_missing_shards_and_tensors_are_named(published, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(published, source)
    index_path = source / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    gone = index["weight_map"].pop("model.norm.weight")
    others = [name for name, file in index["weight_map"].items() if file == gone]
    for name in others:
        del index["weight_map"][name]
    index_path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=min(["model.norm.weight", *others])):
        load_folder(source)
    index["weight_map"]["model.norm.weight"] = gone
    index_path.write_text(json.dumps(index))
    (source / gone).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {gone}, which"):
        load_folder(source)


def test_folders_of_our_own_are_not_imported(tmp_path):
    folder = save_tiny_checkpoint(tmp_path / "own")
    with pytest.raises(ConfigError, match="of our own already"):
        import_folder(folder, tmp_path / "out")


def test_unknown_dtypes_and_schemes(published, tmp_path):
    with pytest.raises(ConfigError, match="no dtype 'int3'"):
        import_folder(published, tmp_path / "out", dtype="int3")
    with pytest.raises(ConfigError, match="no dtype 'int3'"):
        load(published, dtype="int3")
    with pytest.raises(ConfigError, match="no quantization 'int3'"):
        load(published, quantize="int3")
