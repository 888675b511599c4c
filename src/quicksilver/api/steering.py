"""Classifiers that guide decoding, by name. One is shipped: ``typed-python``, towards annotated parameters.

A classifier is small, since its gradient is taken at every step: embeddings of a few numbers, one convolution, and a
sum of what each position says. ``scripts/train_classifier.py`` makes it.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quicksilver.errors import ConfigError
from quicksilver.tokenization.tokenizer import Tokenizer

CLASSIFIERS = ("typed-python",)
VIEW = 64
"""Tokens seen on either side of what is masked: it was trained on so few."""
_WIDTH, _CHANNELS, _KERNEL = 8, 16, 5


class WindowClassifier(nn.Module):
    """Log-odds that a piece of text is what is wanted; ``decoding.Classifier`` by its gradient."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, _WIDTH)
        self.mix = nn.Conv1d(_WIDTH, _CHANNELS, _KERNEL, padding=_KERNEL // 2)
        self.score = nn.Conv1d(_CHANNELS, 1, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(()))

    def odds(self, embedded: Float[Tensor, "B L W"]) -> Float[Tensor, " B"]:
        """Log-odds of embedded texts."""
        return self.bias + self.score(F.gelu(self.mix(embedded.transpose(1, 2)))).sum(dim=(1, 2))

    def gradient(self, token_ids: Int[Tensor, " L"], is_masked: Bool[Tensor, " L"]) -> Float[Tensor, "L V"]:
        """Of log p(wanted) by the one-hot input; zero far from any mask."""
        found = torch.zeros(len(token_ids), self.embed.num_embeddings)
        masks = is_masked.nonzero()[:, 0]
        if not len(masks):
            return found
        here = slice(max(int(masks[0]) - VIEW, 0), int(masks[-1]) + VIEW + 1)
        # Decoding runs in inference mode, in which nothing is differentiated.
        with torch.inference_mode(False), torch.enable_grad():
            weight = self.embed.weight
            embedded = F.embedding(token_ids[here].clone(), weight).detach().requires_grad_()
            (by_embedding,) = torch.autograd.grad(F.logsigmoid(self.odds(embedded[None])[0]), embedded)
            by_token = by_embedding @ weight.detach().T
        found[here] = by_token
        return found

    def save(self, path: Path, tokenizer: Tokenizer) -> None:
        """Write the weights in half precision, and whose tokens they are of."""
        weights = {name: value.detach().half().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, path, metadata={"tokenizer": tokenizer.fingerprint})


def classifier_path(name: str) -> Path:
    """Where a shipped classifier lies."""
    return Path(str(files("quicksilver"))) / "weights" / name / "classifier.safetensors"


@cache
def load_classifier(name: str, fingerprint: str) -> WindowClassifier:
    """A shipped classifier for the tokenizer of a fingerprint.

    Raises:
        ConfigError: there is none of that name, or it is of another tokenizer.
    """
    if name not in CLASSIFIERS:
        raise ConfigError(f"no classifier {name!r}; known: {', '.join(CLASSIFIERS)}")
    with safe_open(classifier_path(name), framework="pt") as file:
        if file.metadata()["tokenizer"] != fingerprint:
            raise ConfigError(f"classifier {name} is of another tokenizer than this model's")
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118  # no mapping
    with torch.inference_mode(False):
        classifier = WindowClassifier(weights["embed.weight"].shape[0])
        classifier.load_state_dict(weights)
    return classifier.eval().requires_grad_(False)
