"""Fix the second token when the fifth is known: what revisions do, with a model that is written out here.

    python examples/second_when_fifth_is_known.py

The "model" is sure of ``dog`` until it knows the fifth word, ``all``: then it wants ``dogs``.
"""

import torch

from quicksilver.decoding import REVISION_NAMES, Hole, SamplingParams, Text, final_result, infill, make_policy
from quicksilver.diffusion.spec import DiffusionSpec, Layout, NoiseRates, Objective, SpecialIds

WORDS = ["<eos>", "<mask>", "<canvas>", "say:", ".", "feed", "dog", "dogs", "today", ":", "all"]
ID = {word: number for number, word in enumerate(WORDS)}
SPEC = DiffusionSpec(
    objective=Objective.MASK,
    special=SpecialIds(eos=ID["<eos>"], mask=ID["<mask>"], canvas=ID["<canvas>"]),
    layouts=(Layout.IN_PLACE,),
    noise=NoiseRates(edit_rate=0.1),
)


def model(token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
    """Logits for ``say: _ _ _ _ _ .``: the second word depends on the fifth, which comes last."""
    start = token_ids.tolist().index(ID["say:"]) + 1
    expected = [("feed", 0.97), ("dog", 0.95), ("today", 0.95), (":", 0.95), ("all", 0.6)]
    if token_ids[start + 4] == ID["all"]:
        expected[1] = ("dogs", 0.99)
    logits = torch.zeros(len(token_ids), len(WORDS))
    for place, (word, probability) in enumerate(expected, start):
        logits[place] = torch.tensor((1 - probability) / (len(WORDS) - 1)).log()
        logits[place, ID[word]] = torch.tensor(probability).log()
    return logits


def main() -> None:
    template = (Text(token_ids=(ID["say:"],)), Hole(length=5), Text(token_ids=(ID["."],)))
    for name in REVISION_NAMES:
        params = SamplingParams(policy=make_policy("confidence_threshold", revision=name))
        result = final_result(infill(model, SPEC, template, params))
        words = " ".join(WORDS[token] for token in result.holes[0])
        print(f"{name:14} {words:28} {result.nfe} forwards, {result.num_edits} edits")


if __name__ == "__main__":
    main()
