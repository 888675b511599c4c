"""Export of autoregressive checkpoints to GGUF, the file format of llama.cpp.

Token ids mean the same there. Texts do not quite: llama.cpp knows the rules that split a text before merges by name
only, and none is exactly this tokenizer's (docs/decisions/0008-gguf.md).
"""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import torch

from quicksilver.checkpoints.folder import read_config
from quicksilver.checkpoints.layouts import layout_of
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import DiffusionSpec, Objective, SpecialIds
from quicksilver.errors import CheckpointError, ConfigError, UsageError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.tokenization.foreign import load_tokenizer
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

_PRE: Final = "superbpe"
"""The nearest of llama.cpp's rules: it sets numbers apart and nothing else, and merges never cross our pieces but for
spaces."""
TEXT_NOTE: Final = (
    "llama.cpp has no rule that splits texts exactly as this tokenizer does (numbers behind a space differ), so give "
    "it token ids, which mean the same"
)
_FILE_TYPES: Final = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
"""Of the matrices; gains of norms are f32 in all."""


def export_gguf(folder: Path, out: Path, *, dtype: str) -> None:
    """Write a checkpoint folder as one GGUF file of architecture ``qwen3``, tokenizer included.

    Args:
        folder: an autoregressive checkpoint.
        out: a file that does not exist yet.
        dtype: of the matrices: ``f32``, ``f16``, or ``q8_0``, which is 8 bits and a scale per 32 weights of a row.

    Raises:
        CheckpointError: ``folder`` is no whole checkpoint, or contradicts itself.
        ConfigError: llama.cpp could not run it, ``q8_0`` does not fit its widths, or gguf is not installed.
        UsageError: ``out`` exists or cannot be written, or ``dtype`` is unknown.
    """
    if dtype not in _FILE_TYPES:
        raise UsageError(f"no dtype {dtype!r} in GGUF; known: {', '.join(_FILE_TYPES)}")
    if out.exists():
        raise UsageError(f"{out} exists; choose a new file")
    _require_known(folder, *read_config(folder))
    gguf = _library()
    tokenizer = load_tokenizer(folder)
    if not tokenizer.is_own:
        raise ConfigError(f"{folder.name} cannot become GGUF here: only this project's own tokenizer is written")
    denoiser, spec = load_folder(folder, torch.float32)
    if tokenizer.vocab_size != denoiser.config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the network {denoiser.config.vocab_size}"
        )
    writer = gguf.GGUFWriter(None, "qwen3")
    writer.add_name(folder.resolve().name)
    writer.add_description(TEXT_NOTE)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_architecture(writer, denoiser.config)
    _add_tokenizer(writer, gguf, tokenizer, spec.special)
    _add_weights(writer, gguf, denoiser, gguf.GGMLQuantizationType[dtype.upper()])
    try:
        writer.write_header_to_file(out)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error}") from error
    finally:
        writer.close()


def _require_known(folder: Path, config: DenoiserConfig, spec: DiffusionSpec) -> None:
    if spec.objective is not Objective.AUTOREGRESSIVE or spec.prediction_shift != 1:
        raise ConfigError(
            f"{folder.name} cannot become GGUF: llama.cpp attends causally and reads the next token from each row, and "
            f"this model has objective {spec.objective.value!r} and prediction shift {spec.prediction_shift}, not 'ar' "
            "and 1; export its autoregressive twin, or write a Hugging Face folder"
        )
    if layout_of(config) != "qwen3":
        raise ConfigError(f"{folder.name} cannot become GGUF: only Qwen3's layout (QK-norm, no bias) is written")


def _library() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise ConfigError("GGUF needs the gguf package: pip install 'quicksilver-lm[gguf]'") from error
    return gguf


def _add_architecture(writer: "GGUFWriter", config: DenoiserConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.model_width)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _add_tokenizer(writer: "GGUFWriter", gguf: ModuleType, tokenizer: Tokenizer, special: SpecialIds) -> None:
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre(_PRE)
    writer.add_token_list(tokenizer.symbols)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (tokenizer.vocab_size - len(kinds)))
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_eos_token_id(special.eos)
    writer.add_pad_token_id(special.filler)
    writer.add_mask_token_id(special.mask)
    for name, token_id in (("pre", special.fim_prefix), ("suf", special.fim_suffix), ("mid", special.fim_middle)):
        if token_id is not None:
            writer.add_uint32(f"tokenizer.ggml.fim_{name}_token_id", token_id)


def _add_weights(writer: "GGUFWriter", gguf: ModuleType, denoiser: Denoiser, kind: "GGMLQuantizationType") -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, denoiser.config.num_layers)
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    for ours, value in denoiser.state_dict().items():
        if value.ndim == 2 and value.shape[1] % block:
            raise ConfigError(
                f"q8_0 needs in-widths that are multiples of {block}, {ours} has {value.shape[1]}; choose f16 or f32"
            )
        own_kind = kind if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(value.numpy(), own_kind)
        writer.add_tensor(names.get_name(ours, try_suffixes=(".weight",)), data, raw_dtype=own_kind)
