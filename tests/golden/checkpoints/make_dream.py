"""Makes ``expected.npz`` of ``dream`` and ``dreamon`` with reference code that is not part of this repository.

    python make_dream.py DLLM_CLONE DREAMON_CLONE

Clones of github.com/ZHZisZZ/dllm, which carries Dream's published network and loop, and of github.com/DreamLM/DreamOn;
transformers 4.46.2.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.seeded_weights import seeded_array

HERE = Path(__file__).parent / "dream"
EXPAND_ID = 214
MOST = 16
"""Tokens of a hole."""


def module(folder: Path, name: str, package: str | None = None) -> ModuleType:
    """One file, without what its package would import."""
    full = name if package is None else f"{package}.{name}"
    if package is not None and package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    spec = importlib.util.spec_from_file_location(full, folder / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[full] = found
    spec.loader.exec_module(found)
    return found


def main() -> None:
    folder = Path(sys.argv[1]) / "dllm/pipelines/dream/models"
    config_class = module(folder, "configuration_dream", "reference").DreamConfig
    options_class = module(folder, "generation_utils", "reference").DreamGenerationConfig
    modeling = module(folder, "modeling_dream", "reference")
    values = json.loads((HERE / "config.json").read_text())
    config = config_class(**values)
    config._attn_implementation = "sdpa"
    model = modeling.DreamModel(config).float().eval()
    weights = {name: torch.from_numpy(seeded_array(name, value.shape)) for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    mask_id = config.mask_token_id
    random = np.random.default_rng(2)
    canvas = random.integers(0, 200, 40)
    canvas[[0, 3, 17, 18, 19, 30, 39]] = mask_id
    arrays = {"canvas": canvas}
    with torch.no_grad():
        arrays["logits"] = model(torch.from_numpy(canvas)[None], "full", None).logits[0].numpy()

    forward, guesses = model.forward, []

    def watched(ids: torch.Tensor, *args: object, **options: object) -> object:
        found = forward(ids, *args, **options)
        best = found.logits.argmax(-1)[:, :-1]
        guesses.append(bool((best[ids[:, 1:] == mask_id] == mask_id).any()))
        return found

    model.forward = watched
    settings = [(alg, steps) for alg in ("entropy", "maskgit_plus", "topk_margin") for steps in (24, 10, 3, 40)]
    settings.append(("origin", 1))

    def answers(prompt: np.ndarray) -> dict[str, np.ndarray] | None:
        """None: the mask was a best guess somewhere, which the loop then commits and we do not."""
        found = {f"prompt{len(prompt)}": prompt}
        for alg, steps in settings:
            guesses.clear()
            options = options_class(
                max_length=len(prompt) + 24, steps=steps, alg=alg, temperature=0.0, mask_token_id=mask_id,
                pad_token_id=config.pad_token_id, eos_token_id=config.eos_token_id, bos_token_id=config.bos_token_id,
            )  # fmt: skip
            arguments = {"inputs": torch.from_numpy(prompt)[None], "generation_config": options}
            written = model.diffusion_generate(**arguments, max_length=options.max_length)[0, len(prompt) :].numpy()
            if any(guesses):
                return None
            found[f"{alg}/{len(prompt)}/{steps}"] = written
        return found

    for prompt_length in (4, 19):
        found = None
        while found is None:
            found = answers(random.integers(0, 200, prompt_length))
        arrays |= found
    np.savez_compressed(HERE / "expected.npz", **arrays)
    guesses.clear()
    np.savez_compressed(HERE.parent / "dreamon" / "expected.npz", **dreamon(model, guesses, config))


def dreamon(model: torch.nn.Module, guesses: list[bool], config: object) -> dict[str, np.ndarray]:
    """Holes of unknown length: prefix, suffix, and what stands between them at the end."""
    sys.modules["omegaconf"] = ModuleType("omegaconf")
    sys.modules["omegaconf"].OmegaConf = None
    generator = module(Path(sys.argv[2]) / "eval", "generator").MDMGenerator
    tokens = SimpleNamespace(mask_id=config.mask_token_id, expand_id=EXPAND_ID, eos_id=config.eos_token_id)
    random, arrays = np.random.default_rng(3), {}

    def answer(alg: str, length: int, prefix: np.ndarray, suffix: np.ndarray) -> np.ndarray | None:
        """None: the mask was a best guess."""
        guesses.clear()
        options = SimpleNamespace(
            max_tokens=2048, max_prompt_len=1024, max_gen_len=MOST, min_gen_len=length, pad_to_max_len=True,
            temperature=0, alg_temp=0, top_p=None, top_k=None, steps=512, eps=1e-3, alg=alg, delete_eos_token=True,
            pad_eos_to_right=True, batch_size=1, device="cpu", show_progress=False, dtype="fp32",
        )  # fmt: skip
        loop = generator(options, model, tokens)
        given = [prefix, np.full(length, tokens.mask_id), suffix]
        written, count = loop.batch_generate_with_expand_as_token(torch.from_numpy(np.concatenate(given))[None])
        if any(guesses):
            return None
        return written[0, len(prefix) : len(prefix) + count].numpy()

    wanted = (("entropy", 4, 5), ("maskgit_plus", 8, 7), ("topk_margin", 4, 5), ("entropy", 12, 11))
    for number, (alg, length, final) in enumerate(wanted):
        found = None
        while found is None or (len(found) < final if final > length else not 0 < len(found) <= final):
            prefix, suffix = random.integers(0, 200, 9), np.append(random.integers(0, 200, 6), tokens.eos_id)
            found = answer(alg, length, prefix, suffix)
        arrays |= {f"{number}/prefix": prefix, f"{number}/suffix": suffix, f"{number}/{alg}/{length}": found}
    return arrays


main()
