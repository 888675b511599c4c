"""The code task on a tiny corpus: batches that do not depend on ranks, and validation."""

import math
from dataclasses import replace

import pytest
import torch

from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError, CorpusError
from quicksilver.models.attention import DenseAttention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training.batch import MicroBatch
from quicksilver.training.code_task import CodeTask
from quicksilver.training.data.noising import NoiseDraw
from tests.training_runs import tiny_recipe, tiny_spec, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def build(corpus, objective: Objective = Objective.MASK, **config: object) -> CodeTask:
    recipe = tiny_recipe(corpus, objective)
    return replace(recipe.task, **config).build(recipe.spec, recipe.schedule, recipe.seed)


def rows_of(batches: list[MicroBatch]) -> set[tuple]:
    """Everything about each row, as one comparable value."""
    found = []
    for batch in batches:
        length = batch.token_ids.shape[1]
        for row in range(batch.token_ids.shape[0]):
            mine = batch.target_rows // length == row
            found.append(
                (
                    tuple(batch.token_ids[row].tolist()),
                    tuple(batch.positions[row].tolist()),
                    tuple(batch.topology.documents[row].tolist()),
                    tuple(batch.topology.blocks[row].tolist()),
                    tuple((batch.target_rows[mine] - row * length).tolist()),
                    tuple(batch.labels[mine].tolist()),
                    tuple(batch.weights[mine].tolist()),
                    tuple(batch.bound_weights[mine].tolist()),
                    None if batch.is_drafted is None else tuple(batch.is_drafted[mine].tolist()),
                )
            )
    assert len(set(found)) == len(found)
    return set(found)


@pytest.mark.parametrize("objective", [Objective.MASK, Objective.AUTOREGRESSIVE])
@pytest.mark.parametrize("step", [2, 15])
def test_ranks_share_out_the_same_rows(corpus, objective, step):
    task = build(corpus, objective)
    alone = task.micro_batches(step, 0, 1)
    assert sum(batch.token_ids.shape[0] for batch in alone) == 6
    for num_ranks in (2, 3):
        parts = [batch for rank in range(num_ranks) for batch in task.micro_batches(step, rank, num_ranks)]
        assert rows_of(parts) == rows_of(alone)
        for name in ("num_targets", "num_bound_targets"):
            assert sum(getattr(b, name) for b in parts) == sum(getattr(b, name) for b in alone)


def test_edit_noise_begins_at_its_share_of_the_schedule(corpus):
    # 20 steps, edit_start 0.4: from step 8.
    task = build(corpus)
    specials = torch.arange(48)
    for step in (7, 8, 19):
        pairs = [b for b in task.micro_batches(step, 0, 1) if b.token_ids.shape[1] == 192]
        noisy, clean = (torch.cat([b.token_ids[:, half] for b in pairs]) for half in (slice(96), slice(96, 192)))
        is_edited = ((noisy != clean) & ~torch.isin(noisy, specials)).any()
        assert bool(is_edited) == (step >= 8)
        assert all((b.num_bound_targets == 0) == (step >= 8) for b in pairs)


def test_the_loss_is_of_the_batch_with_the_models_own_tokens(corpus):
    recipe = tiny_recipe(corpus)
    task = recipe.task.build(recipe.spec, recipe.schedule, recipe.seed)
    denoiser = Denoiser(recipe.model)
    denoiser.initialise(1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        # A mask looks a little like a word, or it would itself be the likeliest token.
        denoiser.model.embed_tokens.weight[:48] = 0.5 * denoiser.model.embed_tokens.weight[100:148]
    assert all(batch.is_drafted is None for batch in task.micro_batches(7, 0, 1))
    num_written = 0
    for batch in task.micro_batches(19, 0, 1):
        with torch.no_grad():
            hidden = denoiser(batch.token_ids, batch.positions, DenseAttention(batch.topology))
            logits = denoiser.logits(hidden).flatten(0, 1)
        token_ids, weights = batch.token_ids.flatten().clone(), batch.weights.clone()
        for at in batch.is_drafted.nonzero()[:, 0].tolist():
            place, label = int(batch.target_rows[at]), int(batch.labels[at])
            assert token_ids[place] == recipe.spec.special.mask
            own = int(logits[place].argmax())
            if own >= 48:
                token_ids[place] = own
                weights[at] = 0.0 if label in (3, 4) else 0.2 if own == label else 1.0
                num_written += 1
        hidden = denoiser(token_ids.view_as(batch.token_ids), batch.positions, DenseAttention(batch.topology))
        log_p = denoiser.logits(hidden.flatten(0, 1)[batch.target_rows]).log_softmax(-1)
        loss = -(weights * log_p.gather(1, batch.labels[:, None])[:, 0]).sum()
        assert task.loss(denoiser, batch).loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert num_written > 10


def test_steps_and_seeds_differ_and_repeat(corpus):
    task = build(corpus)
    assert rows_of(task.micro_batches(3, 0, 1)) == rows_of(build(corpus).micro_batches(3, 0, 1))
    assert not rows_of(task.micro_batches(3, 0, 1)) & rows_of(task.micro_batches(4, 0, 1))


def test_rows_per_forward_bounds_a_micro_batch_and_changes_nothing(corpus):
    wide = build(corpus, rows_per_forward=8).micro_batches(4, 0, 1)
    narrow = build(corpus, rows_per_forward=1).micro_batches(4, 0, 1)
    assert [b.token_ids.shape[0] for b in wide] == [3, 3]
    assert [b.token_ids.shape[0] for b in narrow] == [1] * 6
    assert rows_of(wide) == rows_of(narrow)


@pytest.mark.parametrize(("block_rows", "in_place_rows"), [(4, 0), (0, 4)])
def test_one_kind_of_row_alone(corpus, block_rows, in_place_rows):
    batches = build(corpus, num_block_rows=block_rows, num_in_place_rows=in_place_rows).micro_batches(0, 0, 1)
    assert {b.token_ids.shape[1] for b in batches} == ({192} if block_rows else {96})


def test_a_rank_without_rows_gets_no_batches(corpus):
    assert build(corpus).micro_batches(0, 5, 6) == []


def test_no_target_is_a_sentinel_but_eos_and_length_tokens(corpus):
    specials = {1, 3, 4}
    task = build(corpus)
    for step in (0, 1, 2, 15):
        for batch in task.micro_batches(step, 0, 1):
            assert set(batch.labels[batch.labels < 48].tolist()) <= specials
            assert (batch.weights > 0).all()
            assert torch.isfinite(batch.weights).all()


def test_validation_of_the_twin_is_a_plain_chain_rule(corpus):
    recipe = tiny_recipe(corpus, Objective.AUTOREGRESSIVE)
    task = recipe.task.build(recipe.spec, recipe.schedule, recipe.seed)
    denoiser = Denoiser(recipe.model)
    denoiser.initialise(1)
    nats, count = 0.0, 0
    # The rows of validation, token by token, under a causal mask per document.
    draw = NoiseDraw(recipe.seed, 0, torch.arange(3), torch.zeros(3, 96, dtype=torch.float64))
    batch = task._validation_batch(draw)
    with torch.no_grad():
        for row in range(3):
            documents = batch.topology.documents[row]
            for document in documents.unique().tolist():
                ids = batch.token_ids[row][documents == document]
                if ids[0] != recipe.spec.special.file:
                    continue
                positions = torch.arange(len(ids))[None]
                hidden = denoiser(ids[None], positions, DenseAttention(Topology.block_causal(positions)))
                log_p = denoiser.logits(hidden)[0].log_softmax(-1)
                nats -= sum(float(log_p[i, ids[i + 1]]) for i in range(len(ids) - 1))
                count += len(ids) - 1
        figure = task.validate(denoiser)["validation_bits_per_byte"]
    held_out = task._held_out._tokens
    bytes_per_token = held_out.doc_bytes.sum() / held_out.num_tokens
    assert figure == pytest.approx(nats / count / math.log(2) / bytes_per_token, rel=1e-5)


@pytest.mark.parametrize("objective", [Objective.MASK, Objective.AUTOREGRESSIVE])
def test_validation_of_a_model_that_knows_nothing_is_log_v(corpus, objective):
    recipe = tiny_recipe(corpus, objective)
    task = recipe.task.build(recipe.spec, recipe.schedule, recipe.seed)
    denoiser = Denoiser(recipe.model)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.zero_()
        figure = task.validate(denoiser)["validation_bits_per_byte"]
    held_out = task._held_out._tokens
    bytes_per_token = held_out.doc_bytes.sum() / held_out.num_tokens
    assert figure == pytest.approx(math.log2(recipe.model.vocab_size) / bytes_per_token, rel=0.02)


def test_the_tokenizer_goes_into_the_checkpoint(corpus, tmp_path):
    build(corpus).export_extras(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (corpus / "tokenizer.json").read_bytes()


def test_other_objectives_and_a_missing_corpus_are_errors(corpus, tmp_path):
    recipe = tiny_recipe(corpus)
    with pytest.raises(ConfigError, match="uniform"):
        recipe.task.build(tiny_spec(Objective.UNIFORM), recipe.schedule, 0)
    (tmp_path / "tokenizer.json").write_bytes((corpus / "tokenizer.json").read_bytes())
    with pytest.raises(CorpusError, match="corpus build"):
        replace(recipe.task, tokens=tmp_path).build(recipe.spec, recipe.schedule, 0)


@pytest.mark.parametrize(
    "change", [{"num_block_rows": 0, "num_in_place_rows": 0}, {"num_block_rows": -1}, {"block_lengths": ((4, 0.5),)}]
)
def test_bad_configs_are_errors(corpus, change):
    with pytest.raises(ConfigError):
        replace(tiny_recipe(corpus).task, **change)
