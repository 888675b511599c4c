"""The harness's model class: log-likelihoods against the library's own, texts against the engine's, tasks offline."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch

import quicksilver
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError, InputError
from tests.tiny_checkpoints import SOURCE, save_tiny_checkpoint

pytest.importorskip("lm_eval", reason="needs the lm-eval extra")

from lm_eval.api.instance import Instance

from quicksilver.evaluation import lm_eval as ours

TEXT = "def mean(xs):\n    total"
LONG = SOURCE * 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm_eval")
    return {
        "mask": save_tiny_checkpoint(folder / "mask"),
        "ar": save_tiny_checkpoint(folder / "ar", Objective.AUTOREGRESSIVE),
    }


@pytest.fixture(scope="module")
def models(folders):
    return {
        (kind, reading): ours.QuicksilverLM(str(folders[kind]), device="cpu", reading=reading)
        for kind, reading in (("mask", "chain"), ("mask", "bound"), ("ar", "exact"))
    }


def asked(*arguments):
    return [Instance(request_type="any", doc={}, arguments=each, idx=0) for each in arguments]


def test_the_reading_is_the_best_that_a_checkpoint_has(folders):
    assert ours.QuicksilverLM(str(folders["mask"]), device="cpu").reading == "chain"
    assert ours.QuicksilverLM(str(folders["ar"]), device="cpu").reading == "exact"
    with pytest.raises(ConfigError, match="readings bound, chain, not 'exact'"):
        ours.QuicksilverLM(str(folders["mask"]), device="cpu", reading="exact")


def test_a_text_without_context_has_the_scores_of_the_library(models, folders):
    [(exact, _)] = models["ar", "exact"].loglikelihood(asked(("", TEXT)), disable_tqdm=True)
    assert exact == pytest.approx(-quicksilver.load(folders["ar"], device="cpu").score(TEXT).nats, rel=1e-5)
    [(bound, _)] = models["mask", "bound"].loglikelihood(asked(("", TEXT)), disable_tqdm=True)
    assert bound == pytest.approx(-quicksilver.load(folders["mask"], device="cpu").score(TEXT).nats, rel=1e-5)


@pytest.mark.parametrize("key", [("mask", "chain"), ("ar", "exact")])
def test_scores_add_up(models, key):
    """Behind its beginning, the rest of a text has the rest of its log-likelihood."""
    model = models[key]
    ids = model.tok_encode(SOURCE)[:40]
    # The start token shifts the grid of blocks of 4: what is read together is cut at the end of one.
    at = 15
    whole, _ = model._score([model.prefix_token_id], ids)
    first, _ = model._score([model.prefix_token_id], ids[:at])
    rest, _ = model._score(ids[:at], ids[at:])
    assert first + rest == pytest.approx(whole, rel=1e-5)


def greedy(model, context):
    """The likeliest next token, by a forward over a plain canvas."""
    spec = model.model.spec
    canvas = [model.prefix_token_id, *context]
    if spec.objective is Objective.MASK:
        canvas.append(spec.special.mask)
    blocks = torch.arange(len(canvas)) // spec.block_length
    row = model.model.canvas_logits.raw(torch.tensor(canvas), blocks)[-1].clone()
    row[spec.special.mask] = -torch.inf
    return int(row.argmax())


@pytest.mark.parametrize("key", [("mask", "chain"), ("mask", "bound"), ("ar", "exact")])
def test_greedy_is_what_would_be_written(models, key):
    model = models[key]
    context = model.tok_encode(TEXT)
    best = greedy(model, context)
    assert model._score(context, [best])[1]
    assert not model._score(context, [best ^ 1])[1]
    more = greedy(model, [*context, best])
    if key[0] == "ar":  # a mask model sees the masks of its block too, so a longer continuation starts otherwise
        assert model._score(context, [best, more])[1]
    assert not model._score(context, [best ^ 1, more])[1]


def test_long_texts_are_scored_in_windows(models):
    model = models["ar", "exact"]
    [found] = model.loglikelihood_rolling(asked((LONG,)), disable_tqdm=True)
    ids = model.tok_encode(LONG)
    assert len(ids) > 2 * model.max_length
    window = model.max_length - 2
    parts, at = [], 0
    while at < len(ids):
        width = min(window, len(ids) - at)
        # A last short window sees as much as fits.
        seen = ids[max(at + width - window - 1, 0) : at] if at else [model.prefix_token_id]
        parts.append(model._score(seen, ids[at : at + width])[0])
        at += width
    assert found == pytest.approx(sum(parts))
    assert math.isfinite(found)


def test_texts_are_those_of_the_engine(models, folders):
    model = models["mask", "chain"]
    prompts = [
        (TEXT, {"until": ["\n"], "max_gen_toks": 12}),
        ("def", {"until": [], "max_tokens": 8, "temperature": 1.0}),
    ]
    found = model.generate_until(asked(*prompts), disable_tqdm=True)
    engine = quicksilver.load(folders["mask"], device="cpu")
    assert found[0] == engine.generate(TEXT, max_tokens=12, stop=("\n",), seed=0, temperature=0.0).text
    assert found[1] == engine.generate("def", max_tokens=8, seed=0, temperature=1.0).text


def test_what_is_too_long_is_cut_at_its_beginning_and_told(models, caplog):
    model = models["ar", "exact"]
    ids = model.tok_encode(LONG)
    assert model._score(ids, [70])[0] == model._score(ids[-(model.max_length - 2) :], [70])[0]
    assert "cut at its beginning" in caplog.text
    caplog.clear()
    [text] = model.generate_until(asked((LONG, {"max_gen_toks": 4})), disable_tqdm=True)
    assert "cut at its beginning" in caplog.text
    assert isinstance(text, str)
    with pytest.raises(InputError, match="cannot be scored"):
        model._score([70], ids[: model.max_length])


@pytest.mark.parametrize(
    ("given", "message"),
    [({"num_beams": 4}, "num_beams"), ({"max_gen_toks": 127}, "max_gen_toks 127")],
)
def test_what_cannot_be_had_is_refused(models, given, message):
    with pytest.raises(ConfigError, match=message):
        models["mask", "chain"].generate_until(asked(("x", given)), disable_tqdm=True)


def test_the_device_that_nobody_chose_is_no_error(folders, caplog, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert ours.QuicksilverLM(str(folders["ar"]), device="cuda:0").model.name == "ar"
    assert "runs on the CPU" in caplog.text
    with pytest.raises(ConfigError, match="not available"):
        ours.QuicksilverLM(str(folders["ar"]), device="cuda:1")


def test_the_batch_size_is_a_number(folders):
    with pytest.raises(ConfigError, match="batch_size"):
        ours.QuicksilverLM(str(folders["mask"]), batch_size="auto")


TASKS = {
    "mini_choice": """
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{[good, bad]}}"
doc_to_target: 0
metric_list: [{metric: acc}]
""",
    "mini_write": """
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{good}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, temperature: 0}
metric_list: [{metric: exact_match}]
""",
    "mini_bytes": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{prompt}}{{good}}"
metric_list: [{metric: bits_per_byte}]
""",
}
DOCUMENTS = [
    {"prompt": "def f(self):\n    return ", "good": "self", "bad": "zxqj"},
    {"prompt": "import os\nimport ", "good": "sys", "bad": "&&&&"},
    {"prompt": "for i in ", "good": "range(10):", "bad": ")))("},
]


@pytest.mark.slow
def test_the_command_runs_tasks_offline(tmp_path):
    """With the bundled model, which tells code from noise."""
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    head = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/data.jsonl}}}}\ntest_split: test\n"
    for name, text in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(f'task: {name}\ntarget_delimiter: ""\n{head}{text}')
    subprocess.run(
        [
            *(sys.executable, "-m", "quicksilver.evaluation.lm_eval", "run", "--model", "quicksilver"),
            *("--model_args", "pretrained=quicksilver-coder", "--device", "cpu", "--include_path", tmp_path),
            *("--tasks", ",".join(TASKS), "--output_path", tmp_path / "out", "--log_samples"),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    [path] = tmp_path.glob("out/**/results_*.json")
    report = json.loads(path.read_text())
    assert report["results"]["mini_choice"]["acc,none"] == 1.0
    assert "exact_match,none" in report["results"]["mini_write"]
    assert 0 < report["results"]["mini_bytes"]["bits_per_byte,none"] < 8
    assert report["config"]["reading"] == "chain"
    assert len(report["config"]["model_sha256"]) == 64
