"""Train ``typed-python``: whether the parameters of a function are annotated. About a minute on one core.

    python scripts/train_classifier.py CORPUS

Annotated functions of the training split, and the same without annotations, both as Python writes them, so that style
tells nothing; a random part of the tokens is masked, since decoding asks of canvases with masks.
"""

import argparse
import ast
import copy
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from quicksilver.api.steering import VIEW, WindowClassifier, classifier_path
from quicksilver.cli.held_out import open_split
from quicksilver.tokenization.tokenizer import Tokenizer

Pairs = list[tuple[list[int], list[int]]]
"""Token ids of annotated functions, and of the same without annotations."""
NUM_PAIRS, STEPS, BATCH, HELD_OUT = 1500, 300, 32, 150


def functions(text: str) -> Iterator[tuple[str, str]]:
    """Annotated functions of a file, and the same without annotations."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(each.annotation for each in node.args.args):
            plain = copy.deepcopy(node)
            for each in (*plain.args.posonlyargs, *plain.args.args, *plain.args.kwonlyargs):
                each.annotation = None
            plain.returns = None
            yield ast.unparse(node), ast.unparse(plain)


def batch(
    pairs: list[tuple[list[int], list[int]]], mask_id: int, filler: int, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Rows of masked tokens, and which are annotated."""
    rows, labels = [], []
    for pair in rng.sample(pairs, BATCH // 2):
        rate = 0.7 * rng.random()
        for label, ids in zip((1.0, 0.0), pair, strict=True):
            cut = [mask_id if rng.random() < rate else token for token in ids[: 2 * VIEW]]
            rows.append(cut + [filler] * (2 * VIEW - len(cut)))
            labels.append(label)
    return torch.tensor(rows), torch.tensor(labels)


def main() -> None:
    """Train, say how often held-out functions are told apart, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    folder = parser.parse_args().corpus
    torch.manual_seed(0)
    rng, tokenizer = random.Random(0), Tokenizer.load(folder / "tokenizer.json")
    corpus = open_split(folder, "train")
    order = list(range(corpus.documents.num_docs))
    rng.shuffle(order)
    pairs: Pairs = []
    for index in order:
        text = corpus.decode(corpus.documents.document(index).tolist())
        pairs += [(tokenizer.encode(typed), tokenizer.encode(plain)) for typed, plain in functions(text)]
        if len(pairs) >= NUM_PAIRS:
            break
    mask_id, filler = tokenizer.id_of("<mask>"), tokenizer.id_of("<pad>")
    held, pairs = pairs[:HELD_OUT], pairs[HELD_OUT:]
    model = WindowClassifier(tokenizer.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=STEPS)
    losses: list[float] = []
    for _ in range(STEPS):
        ids, labels = batch(pairs, mask_id, filler, rng)
        loss = F.binary_cross_entropy_with_logits(model.odds(model.embed(ids)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    right = []
    with torch.inference_mode():
        for _ in range(20):
            ids, labels = batch(held, mask_id, filler, rng)
            right.append(((model.odds(model.embed(ids)) > 0) == (labels > 0)).float().mean())
    share = sum(right) / len(right)
    sys.stdout.write(
        f"{len(pairs)} pairs, loss {losses[-1]:.3f}; {share:.1%} of masked held-out functions are told apart\n"
    )
    classifier_path("typed-python").parent.mkdir(parents=True, exist_ok=True)
    model.save(classifier_path("typed-python"), tokenizer)


if __name__ == "__main__":
    main()
