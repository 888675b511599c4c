"""Tiny folders in a published layout, with the weights that golden files were made with."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from quicksilver.checkpoints.family import Whole
from quicksilver.checkpoints.loading import open_folder
from quicksilver.models.denoiser import Denoiser
from tests.seeded_weights import seeded_array

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"


def write_folder(family: str, folder: Path) -> None:
    """The configuration files of a golden folder and the weights, under their published names."""
    folder.mkdir(exist_ok=True)
    for path in (GOLDEN / family).glob("*config.json"):
        shutil.copy(path, folder)
    if (GOLDEN / family / "expected.json").is_file():  # the reference's own names and shapes
        shapes = json.loads((GOLDEN / family / "expected.json").read_text())["shapes"]
        drawn = {name: torch.from_numpy(seeded_array(name, shape)) for name, shape in shapes.items()}
        save_file(drawn, folder / "model.safetensors")
        return
    opened, weights = open_folder(folder), {}
    for name, tensor in Denoiser(opened.config).state_dict().items():
        source = opened.source(name)
        assert isinstance(source, Whole)
        weights[source.name] = torch.from_numpy(seeded_array(source.name, tensor.shape))
    save_file(weights, folder / "model.safetensors")


def expected(family: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / family / "expected.npz") as arrays:
        return dict(arrays)
