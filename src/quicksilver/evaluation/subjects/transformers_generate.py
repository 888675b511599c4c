"""``generate`` of Hugging Face transformers on a folder: what most people run an autoregressive model with."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quicksilver.api.loading import find_model, resolve_device
from quicksilver.checkpoints.folder import DTYPES, SPEC_KEY, is_own, model_hash, read_config, read_values
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Objective, SpecialIds
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.evaluation.subject import Ask
from quicksilver.evaluation.subjects.causal import CausalSubject, Sentinels, Vocabulary, find_sentinels
from quicksilver.tokenization.foreign import load_foreign, load_tokenizer
from quicksilver.tokenization.tokenizer import Tokenizer

_ENGINE = "transformers.generate"


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersWriter:
    """A network of transformers and how it is called."""

    network: Any
    """Of a class that ``generate`` belongs to."""
    device: torch.device
    ends: tuple[int, ...]
    forbidden: tuple[int, ...]

    @torch.inference_mode()
    def write(
        self, prompt: Sequence[int], most: int, ask: Ask, is_over: Callable[[Sequence[int]], bool]
    ) -> Sequence[int]:
        inputs = torch.tensor([list(prompt)], device=self.device)

        def stopped(token_ids: torch.Tensor, scores: object, **options: object) -> torch.Tensor:
            is_done = is_over(token_ids[0, len(prompt) :].tolist())
            return torch.tensor([is_done], device=token_ids.device)

        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # generate draws from torch's own generators
            torch.manual_seed(ask.seed)
            output = self.network.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=most,
                suppress_tokens=list(self.forbidden) or None,
                eos_token_id=list(self.ends),
                pad_token_id=self.ends[0],
                stopping_criteria=_criteria(stopped),
                **_sampling(ask.temperature),
            )
        return output[0, len(prompt) :].tolist()


def _criteria(stopped: Callable[..., torch.Tensor]) -> object:
    from transformers import StoppingCriteriaList

    return StoppingCriteriaList([stopped])  # pyright: ignore[reportArgumentType]  # called like one of its classes


def _sampling(temperature: float) -> dict[str, object]:
    """Nothing but the temperature: a folder's generation_config.json may ask for more."""
    if temperature == 0:
        return {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}


def transformers_subject(
    name: str | Path, *, device: str | None = None, dtype: str | None = None, context: int | None = None
) -> CausalSubject:
    """An autoregressive checkpoint in transformers, asked in its own prefix-suffix-middle form.

    Args:
        name: a folder of our own (``quicksilver export`` writes nothing else) or a bundled model, or any folder that
            ``AutoModelForCausalLM`` loads with code of the library's own.
        device: as ``quicksilver.load`` takes it.
        dtype: of the weights; None: float32.
        context: most tokens it sees, if fewer than it was trained for.

    Raises:
        CheckpointError: the folder is no model, or a diffusion model, which ``generate`` would only read left to right.
        ConfigError: transformers is missing, or the device or dtype is unknown.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("a subject transformers:FOLDER needs transformers: pip install 'quicksilver-lm[hf]'")
    folder = find_model(name)
    spec = _own_spec(folder)
    target, number_format = resolve_device(device), _dtype(dtype)
    network = _load(folder, number_format).eval().to(target)
    trained = network.config.max_position_embeddings
    vocabulary = _vocabulary(folder, None if spec is None else spec.special, network)
    return CausalSubject(
        name=f"{folder.resolve().name} in transformers",
        writer=TransformersWriter(
            network=network,
            device=target,
            ends=tuple(sorted(vocabulary.ends)),
            forbidden=tuple(sorted(vocabulary.forbidden)),
        ),
        vocabulary=vocabulary,
        max_length=min(trained, context or trained),
        max_hole_length=(DecodingDefaults() if spec is None else spec.decoding).max_hole_length,
        identity=_identity(folder, str(target), str(number_format).removeprefix("torch.")),
    )


def _own_spec(folder: Path) -> DiffusionSpec | None:
    """Of a folder of our own; None for another's."""
    values = read_values(folder)
    if not is_own(values):
        return None
    spec = read_config(folder)[1]
    if spec.objective is not Objective.AUTOREGRESSIVE:
        raise CheckpointError(
            f"{folder} holds a diffusion model ({SPEC_KEY}.objective is {spec.objective}), which transformers does not "
            f"denoise; name the folder itself to examine it in this project's engine"
        )
    return spec


def _dtype(name: str | None) -> torch.dtype:
    if name is not None and name not in DTYPES:
        raise ConfigError(f"no dtype {name!r}; known: {', '.join(DTYPES)}")
    return DTYPES[name or "float32"]


def _load(folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401  # whatever class the folder names
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"transformers cannot load {folder}: {error}") from error


def _vocabulary(folder: Path, special: SpecialIds | None, network: Any) -> Vocabulary:  # noqa: ANN401  # see _load
    """Of our own folders as the spec says; else as tokenizer files and generation_config.json say."""
    if special is not None:
        tokenizer, ends = load_tokenizer(folder), {special.eos}
        sentinels = _own_sentinels(special)
        begin, hole_begin = special.file, None
    else:
        tokenizer, names = load_foreign(folder), TokenNames.of_folder(folder)
        told = network.generation_config.eos_token_id
        ends = {each for each in [*(told if isinstance(told, list) else [told]), names.role("eos")] if each is not None}
        sentinels = find_sentinels(names.id_of)
        begin = hole_begin = names.begin
    if not ends:
        raise CheckpointError(f"neither generation_config.json nor a tokenizer file of {folder} says what ends a text")
    return Vocabulary(
        encode=tokenizer.encode,
        decode=tokenizer.decode,
        newline_id=tokenizer.newline_id,
        begin=begin,
        hole_begin=hole_begin,
        sentinels=sentinels,
        ends=frozenset(ends),
        forbidden=frozenset(_unwritten(tokenizer, network.config.vocab_size) - ends),
    )


def _unwritten(tokenizer: Tokenizer, vocab_size: int) -> set[int]:
    return {*tokenizer.special.values(), *tokenizer.unwritten_ids, *range(tokenizer.vocab_size, vocab_size)}


def _own_sentinels(special: SpecialIds) -> Sentinels | None:
    if special.fim_prefix is None or special.fim_suffix is None:
        return None
    return Sentinels(prefix=special.fim_prefix, suffix=special.fim_suffix, middle=special.fim_middle)


def _identity(folder: Path, device: str, dtype: str) -> dict[str, object]:
    import transformers

    return {
        "engine": _ENGINE,
        "engine_version": transformers.__version__,
        "model_sha256": model_hash(folder),
        "device": device,
        "dtype": dtype,
    }
