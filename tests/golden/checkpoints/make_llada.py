"""Makes ``llada/expected.npz`` with the reference implementations, which are not part of this repository.

    python make_llada.py LLADA_CLONE FAST_DLLM_CLONE

Clones of github.com/ML-GSAI/LLaDA and github.com/NVlabs/Fast-dLLM; transformers 4.46.2.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.seeded_weights import seeded_array

HERE = Path(__file__).parent / "llada"
LENGTH = 32
"""Tokens of every response."""


def load(config_class: type, model_class: type) -> torch.nn.Module:
    values = json.loads((HERE / "config.json").read_text())
    config = config_class(**values | {"init_device": "cpu"})
    model = model_class(config, init_params=False).float().eval()
    weights = {name: torch.from_numpy(seeded_array(name, value.shape)) for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    return model


class GuessedMaskError(Exception):
    """The mask was the best guess for a masked position: the loops commit it then, and we do not."""


class Watched(torch.nn.Module):
    """A model that raises GuessedMaskError."""

    device = torch.device("cpu")

    def __init__(self, model: torch.nn.Module, mask_id: int) -> None:
        super().__init__()
        self.model, self.mask_id = model, mask_id

    def forward(self, ids: torch.Tensor, **options: object) -> object:
        options = {name: value for name, value in options.items() if name != "attention_mask"}
        found = self.model(ids, **options)
        guesses = found.logits.argmax(-1)[ids == self.mask_id]
        if bool((guesses == self.mask_id).any()):
            raise GuessedMaskError
        return found


def main() -> None:
    plain, fast = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path.insert(0, str(fast / "llada"))
    import generate as fast_loops
    from model.configuration_llada import LLaDAConfig
    from model.modeling_llada import LLaDAModelLM

    sys.path.insert(0, str(plain))
    sys.modules.pop("generate")
    import generate as plain_loop

    assert Path(plain_loop.__file__).parent != Path(fast_loops.__file__).parent
    model = load(LLaDAConfig, LLaDAModelLM)
    mask_id = model.config.mask_token_id
    random = np.random.default_rng(1)
    canvas = random.integers(0, 210, 40)
    canvas[[3, 17, 18, 19, 30, 39]] = mask_id
    arrays = {"canvas": canvas}
    with torch.no_grad():
        arrays["logits"] = model(torch.from_numpy(canvas)[None]).logits[0].numpy()

    loops = {
        "plain": lambda m, p, **o: plain_loop.generate(m, p, **o),
        "prefix": lambda m, p, **o: fast_loops.generate_with_prefix_cache(m, p, **o)[0],
        "dual": lambda m, p, **o: fast_loops.generate_with_dual_cache(m, p, **o)[0],
    }
    settings = [
        ("plain", 32, 32, None), ("plain", 32, 8, None), ("plain", 12, 8, None), ("plain", 12, 16, None),
        ("prefix", 32, 8, None), ("prefix", 12, 8, None), ("prefix", 16, 16, None), ("prefix", 32, 8, 0.2),
        ("prefix", 32, 16, 0.2),
        ("dual", 32, 8, None), ("dual", 12, 8, None), ("dual", 16, 16, None), ("dual", 32, 8, 0.2),
        ("dual", 32, 16, 0.2),
    ]  # fmt: skip

    def answers(prompt: np.ndarray) -> dict[str, np.ndarray]:
        found = {f"prompt{len(prompt)}": prompt}
        for loop, steps, block_length, threshold in settings:
            watched = Watched(model, mask_id)
            options = {"steps": steps, "gen_length": LENGTH, "block_length": block_length, "mask_id": mask_id}
            if threshold is not None:
                options["threshold"] = threshold
            written = loops[loop](watched, torch.from_numpy(prompt)[None], **options)[0, len(prompt) :].numpy()
            found[f"{loop}/{len(prompt)}/{steps}/{block_length}/{threshold or 0}"] = written
        return found

    for prompt_length in (5, 23):
        found = None
        while found is None:
            with suppress(GuessedMaskError):
                found = answers(random.integers(0, 210, prompt_length))
        arrays |= found
    np.savez_compressed(HERE / "expected.npz", **arrays)


main()
