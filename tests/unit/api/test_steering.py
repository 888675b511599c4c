"""The shipped classifier, and guidance through the public interface."""

import pytest
import torch
import torch.nn.functional as F

import quicksilver
from quicksilver.api.steering import WindowClassifier, load_classifier
from quicksilver.errors import ConfigError
from tests.tiny_checkpoints import save_tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"), device="cpu")


def test_the_gradient_is_that_of_the_one_hot_input() -> None:
    """Against autograd over one-hot rows themselves; zero where the view ends."""
    torch.manual_seed(0)
    classifier = WindowClassifier(vocab_size=12)
    token_ids = torch.randint(12, (9,))
    is_masked = torch.zeros(9, dtype=torch.bool)
    is_masked[4] = True
    one_hot = F.one_hot(token_ids, 12).float().requires_grad_()
    F.logsigmoid(classifier.odds((one_hot @ classifier.embed.weight)[None])[0]).backward()
    with torch.inference_mode():
        found = classifier.gradient(token_ids, is_masked)
    assert one_hot.grad is not None
    assert torch.allclose(found, one_hot.grad, atol=1e-6)
    assert not classifier.gradient(token_ids, torch.zeros_like(is_masked)).any()


def test_guidance_is_asked_for_by_name(model) -> None:
    plain = model.generate("def f(", max_tokens=8, seed=1)
    guided = model.generate("def f(", max_tokens=8, seed=1, guidance=6.0)
    negative = model.generate("def f(", max_tokens=8, seed=1, guidance=6.0, negative_prompt="class")
    assert len({each.text for each in (plain, guided, negative)}) > 1
    assert model.infill("def f(", "): pass\n", seed=1, guidance=2.0, cfg_until=0.5).holes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cfg_until": 0.5}, "cfg_until is of classifier-free guidance"),
        ({"negative_prompt": "x"}, "negative_prompt is of"),
        ({"classifier_scale": 2.0}, "needs a classifier"),
        ({"classifier": "polite"}, "no classifier 'polite'; known: typed-python"),
        ({"classifier": "typed-python"}, "of another tokenizer"),
        ({"guidance": 1.0, "cache": "dual"}, "cache exact"),
    ],
)
def test_what_cannot_be(model, options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        model.infill("def f(", "): pass\n", seed=1, **options)


def test_the_shipped_one_knows_what_it_was_trained_for() -> None:
    tokenizer = quicksilver.load().tokenizer
    classifier = load_classifier("typed-python", tokenizer.fingerprint)
    texts = ["def add(first: int, second: int) -> int:\n    return first", "def add(first, second):\n    return first"]
    typed, plain = (float(classifier.odds(classifier.embed(torch.tensor([tokenizer.encode(each)])))) for each in texts)
    assert typed > plain
