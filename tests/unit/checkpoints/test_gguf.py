"""GGUF files: what gguf's own reader finds in them, what is refused, and what llama.cpp writes with them."""

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from quicksilver.checkpoints.folder import TOKENIZER_FILE, read_config, save_folder
from quicksilver.checkpoints.gguf import TEXT_NOTE, export_gguf
from quicksilver.checkpoints.loading import load_folder
from quicksilver.cli.main import main
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import CheckpointError, ConfigError, UsageError
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from tests.tiny import logits_of, random_denoiser
from tests.tiny_checkpoints import SOURCE, save_tiny_checkpoint, tiny_spec, tiny_tokenizer

gguf = pytest.importorskip("gguf", reason="GGUF files need the gguf extra")

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""By llama.cpp's docs; layers are ``blk.N`` there."""


def theirs(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def save_changed(folder: Path, **changes) -> Path:
    """The tiny twin with another architecture."""
    config, spec = read_config(save_tiny_checkpoint(folder, Objective.AUTOREGRESSIVE))
    save_folder(
        folder, random_denoiser(dataclasses.replace(config, **changes), dtype=torch.float32), spec, torch.float32
    )
    return folder


@pytest.fixture
def twin(tmp_path) -> Path:
    return save_tiny_checkpoint(tmp_path / "twin", Objective.AUTOREGRESSIVE)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_weights_come_back(tmp_path, dtype: str, is_tied: bool):
    folder = save_changed(tmp_path / "twin", ffn_width=64, has_tied_embeddings=is_tied)
    export_gguf(folder, tmp_path / "twin.gguf", dtype=dtype)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "twin.gguf").tensors}
    state = load_folder(folder)[0].state_dict()
    assert set(read) == {theirs(name) for name in state}
    for name, weights in state.items():
        tensor, expected = read[theirs(name)], weights.numpy()
        kind = dtype.upper() if expected.ndim == 2 else "F32"
        assert tensor.tensor_type.name == kind
        assert tuple(tensor.shape)[::-1] == expected.shape  # fastest axis first there
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if kind == "F32":
            np.testing.assert_array_equal(found, expected)
        elif kind == "F16":
            np.testing.assert_array_equal(found, expected.astype(np.float16).astype(np.float32))
        else:
            # Half a step of the block's scale, and the scale's own rounding to 11 bits at up to 127 steps.
            step = np.abs(expected.reshape(-1, 32)).max(axis=1, keepdims=True) / 127
            error = np.abs(found - expected).reshape(-1, 32)
            assert (error <= step * (0.5 + 127 * 2.0**-11) * 1.0001).all()
            assert error.max() > 0


def test_metadata(tmp_path, twin):
    export_gguf(twin, tmp_path / "twin.gguf", dtype="f16")
    found = {key: field.contents() for key, field in gguf.GGUFReader(tmp_path / "twin.gguf").fields.items()}
    config, spec = read_config(twin)
    expected = {
        "general.architecture": "qwen3",
        "general.name": "twin",
        "general.description": TEXT_NOTE,
        "general.file_type": 1,
        "qwen3.vocab_size": config.vocab_size,
        "qwen3.context_length": 128,
        "qwen3.embedding_length": 32,
        "qwen3.block_count": 2,
        "qwen3.feed_forward_length": 48,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 8,
        "qwen3.attention.value_length": 8,
        "qwen3.rope.freq_base": 10_000.0,
        "qwen3.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "superbpe",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.eos_token_id": spec.special.eos,
        "tokenizer.ggml.padding_token_id": spec.special.pad,
        "tokenizer.ggml.mask_token_id": spec.special.mask,
        "tokenizer.ggml.fim_pre_token_id": spec.special.fim_prefix,
        "tokenizer.ggml.fim_suf_token_id": spec.special.fim_suffix,
        "tokenizer.ggml.fim_mid_token_id": spec.special.fim_middle,
    }
    assert {key: found[key] for key in expected} == expected


def test_the_tokenizer_comes_along(tmp_path, twin):
    export_gguf(twin, tmp_path / "twin.gguf", dtype="f32")
    fields = gguf.GGUFReader(tmp_path / "twin.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(line.split(" ")) for line in fields["tokenizer.ggml.merges"].contents()]
    ours = tiny_tokenizer()
    assert len(tokens) == len(types) == ours.vocab_size
    assert tokens[:3] == ["<pad>", "<eos>", "<mask>"]
    assert set(types[:48]) == {3}  # control
    assert set(types[48:]) == {1}  # normal
    # Merging a word by hand with what the file says gives our ids.
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    word = list("median")
    while pairs := [pair for pair in itertools.pairwise(word) if pair in ranks]:
        at = list(itertools.pairwise(word)).index(min(pairs, key=ranks.__getitem__))
        word[at : at + 2] = ["".join(word[at : at + 2])]
    assert len(word) < len("median")
    assert [tokens.index(piece) for piece in word] == ours.encode("median")


def test_only_what_llama_cpp_can_run_is_written(tmp_path, twin):
    out = tmp_path / "out.gguf"
    diffusion = save_tiny_checkpoint(tmp_path / "diffusion")
    with pytest.raises(ConfigError, match=r"diffusion cannot become GGUF: .* objective 'mask' and prediction shift 0"):
        export_gguf(diffusion, out, dtype="f32")
    config, spec = read_config(twin)
    shifted = dataclasses.replace(spec, prediction_shift=0)
    save_folder(tmp_path / "shifted", Denoiser(config), shifted)
    with pytest.raises(ConfigError, match="objective 'ar' and prediction shift 0"):
        export_gguf(tmp_path / "shifted", out, dtype="f32")
    qwen2 = save_changed(tmp_path / "qwen2", has_qk_norm=False, has_qkv_bias=True)
    with pytest.raises(ConfigError, match="only Qwen3's layout"):
        export_gguf(qwen2, out, dtype="f32")
    with pytest.raises(ConfigError, match=r"multiples of 32, model.layers.0.mlp.down_proj.weight has 48; choose f16"):
        export_gguf(twin, out, dtype="q8_0")
    wide = save_changed(tmp_path / "wide", vocab_size=tiny_tokenizer().vocab_size + 1)
    with pytest.raises(CheckpointError, match="the tokenizer has 357 ids, the network 358"):
        export_gguf(wide, out, dtype="f32")
    assert not out.exists()


def test_bad_usage(tmp_path, twin, monkeypatch):
    with pytest.raises(UsageError, match="no dtype 'float32' in GGUF; known: f32, f16, q8_0"):
        export_gguf(twin, tmp_path / "out.gguf", dtype="float32")
    with pytest.raises(UsageError, match="config.json exists; choose a new file"):
        export_gguf(twin, twin / "config.json", dtype="f32")
    with pytest.raises(UsageError, match="cannot write"):
        export_gguf(twin, tmp_path / "nowhere/out.gguf", dtype="f32")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'quicksilver-lm\[gguf\]'"):
        export_gguf(twin, tmp_path / "out.gguf", dtype="f32")
    (twin / TOKENIZER_FILE).unlink()
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="tokenizer"):
        export_gguf(twin, tmp_path / "out.gguf", dtype="f32")


def test_the_command(tmp_path, twin, capsys):
    out = tmp_path / "twin.gguf"
    assert main(["export", str(twin), str(out), "--format", "gguf"]) == 0
    assert TEXT_NOTE in capsys.readouterr().err
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(out).tensors}
    assert kinds == {"F16", "F32"}
    assert main(["export", str(twin), str(out), "--format", "gguf"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["export", str(twin), str(tmp_path / "folder"), "--dtype", "q8_0"]) == 2
    assert "known: bfloat16, float32, float16" in capsys.readouterr().err


@torch.no_grad()
@pytest.mark.slow
def test_llama_cpp_gives_the_same_logits(tmp_path, twin):
    llama_cpp = pytest.importorskip("llama_cpp", reason="checks against llama.cpp: pip install llama-cpp-python")
    export_gguf(twin, tmp_path / "twin.gguf", dtype="f32")
    llama = llama_cpp.Llama(
        str(tmp_path / "twin.gguf"), n_ctx=128, logits_all=True, type_k=0, type_v=0, n_threads=1, verbose=False
    )
    tokens = tiny_tokenizer().encode(SOURCE)[:90]
    llama.eval(tokens)
    denoiser, _ = load_folder(twin)
    topology = Topology.block_causal(torch.arange(len(tokens))[None])
    ours = logits_of(denoiser, torch.tensor([tokens]), topology)[0]
    found = torch.from_numpy(llama.scores[: len(tokens)].copy())
    torch.testing.assert_close(found, ours, rtol=1e-3, atol=1e-3)
    for text in ("def mean(xs):", "        total += x", "a <mask> b"):
        assert llama.tokenize(text.encode(), add_bos=False) == tiny_tokenizer().encode(text)
    assert tiny_spec(Objective.AUTOREGRESSIVE).special.eos == llama.token_eos()
