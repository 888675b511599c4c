"""What `corpus inspect` says of a row is what the batch holds."""

import json
from dataclasses import asdict, replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from quicksilver.cli.corpus import app
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError, UsageError
from quicksilver.training.data.inspect import Role, RowFacts, describe, render, shade
from tests.training_runs import tiny_recipe, tiny_tokenizer, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def batches(corpus, objective: Objective = Objective.MASK, step: int = 15):
    """One-row batches: three block-causal, then three in-place, with edit noise from step 8."""
    recipe = tiny_recipe(corpus, objective)
    task = replace(recipe.task, rows_per_forward=1).build(recipe.spec, recipe.schedule, 0)
    return task.micro_batches(step, 0, 1), recipe.spec


def picture(facts: RowFacts, has_colour: bool = False) -> str:
    console = Console(width=120, force_terminal=has_colour, color_system="truecolor" if has_colour else None)
    with console.capture() as capture:
        console.print(render(facts, has_colour=has_colour, title="row"))
    return capture.get()


@pytest.mark.parametrize("index", [0, 4])
def test_facts_agree_with_the_batch(corpus, index):
    found, spec = batches(corpus)
    batch = found[index]
    facts = describe(batch, tiny_tokenizer(), spec)
    length = 96
    assert len(facts.cells) == length
    tokens = batch.token_ids[0, :length]
    assert facts.counts["masked"] == int((tokens == spec.special.mask).sum())
    assert facts.counts["targets"] == batch.num_targets
    assert facts.counts["predictions"] == len(batch.labels)
    assert facts.counts["sum of weights"] == pytest.approx(float(batch.weights.sum()), abs=1e-3)
    for place, label, weight in zip(batch.target_rows.tolist(), batch.labels.tolist(), batch.weights, strict=True):
        cell = facts.cells[place]
        assert cell.label == tiny_tokenizer().decode([label], keep_special=True)
        assert cell.weight == pytest.approx(float(weight))
        is_mask = tokens[place] == spec.special.mask
        expected = Role.MASK if is_mask else Role.KEPT if tokens[place] == label else Role.EDIT
        assert cell.role is expected
    assert len(facts.views) == facts.counts["documents"]
    assert set(facts.views) <= {"left to right", "fill in the middle", "edit", "in place"}


def test_topology_is_the_mask_by_groups(corpus):
    found, spec = batches(corpus)
    facts = describe(found[0], tiny_tokenizer(), spec)
    half = len(facts.groups) // 2
    assert [name[2:] for name in facts.groups[:half]] == [name[2:] for name in facts.groups[half:]]
    for query in range(half):
        document, block = facts.groups[query].split()[1:3]
        for key in range(half):
            same, number = facts.groups[key].split()[1] == document, int(facts.groups[key].split()[2][1:])
            assert facts.topology[query][key] == ("#" if query == key else ".")
            is_past, is_not_later = same and number < int(block[1:]), same and number <= int(block[1:])
            assert facts.topology[query][half + key] == ("#" if is_past else ".")
            assert facts.topology[half + query][key] == "."
            assert facts.topology[half + query][half + key] == ("#" if is_not_later else ".")


def test_the_twin_has_no_masks_and_triangles_on_its_diagonal(corpus):
    found, spec = batches(corpus, Objective.AUTOREGRESSIVE)
    facts = describe(found[0], tiny_tokenizer(), spec)
    assert {cell.role for cell in facts.cells} <= {Role.VISIBLE, Role.SENTINEL, Role.PADDING}
    assert all(line[at] in "+#" for at, line in enumerate(facts.topology))
    assert any(line[at] == "+" for at, line in enumerate(facts.topology))
    # The label of a place is its own token, said by the row before.
    assert all(cell.label in (None, cell.text) for cell in facts.cells)


def test_pictures_show_labels_edits_and_boundaries(corpus):
    found, spec = batches(corpus)
    pictures = [picture(describe(batch, tiny_tokenizer(), spec)) for batch in found]
    assert all("⟦" in text and "document 0" in text and "sum of weights" in text for text in pictures)
    assert any("→" in text.split("who sees whom")[0].split("⟦mask's label⟧")[0] for text in pictures)
    assert all("│" in text for text in pictures)
    assert max(len(line) for text in pictures for line in text.splitlines()) <= 120
    coloured = picture(describe(found[0], tiny_tokenizer(), spec), has_colour=True)
    assert "\x1b[" in coloured
    assert "⟦" not in coloured


def test_shades_rise_with_the_weight():
    shades = [shade(weight) for weight in (0.5, 1.5, 3.0, 5.0, 20.0)]
    assert len(set(shades)) == 5


def test_several_rows_are_an_error(corpus):
    recipe = tiny_recipe(corpus)
    batch = recipe.task.build(recipe.spec, recipe.schedule, 0).micro_batches(0, 0, 1)[0]
    with pytest.raises(ConfigError, match="one row"):
        describe(batch, tiny_tokenizer(), recipe.spec)


def test_command_prints_the_same_facts_as_json(corpus):
    arguments = ["inspect", "--tokens", str(corpus), "--length", "96", "--row", "1", "--step", "3"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    facts = json.loads(result.output)
    assert set(facts) == {"cells", "views", "counts", "groups", "topology"}
    assert facts["counts"]["masked"] == sum(cell["role"] == "mask" for cell in facts["cells"])
    again = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert "mask block row 1 of step 3, seed 0" in again.output


@pytest.mark.parametrize("extra", [["--kind", "in-place"], ["--objective", "ar"], ["--edits"]])
def test_command_options(corpus, extra):
    arguments = ["inspect", "--tokens", str(corpus), "--length", "96", "--json", *extra]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    counts = json.loads(result.output)["counts"]
    assert (counts["masked"] == 0) == ("ar" in extra)
    assert (counts["positions"] == 192) == ("--edits" in extra)
    if extra == ["--edits"]:
        assert counts["edited"] + counts["kept samples"] > 0


def test_a_row_that_is_not_there_is_a_usage_error(corpus):
    with pytest.raises(UsageError, match="below 4"):
        CliRunner().invoke(app, ["inspect", "--tokens", str(corpus), "--row", "4"], catch_exceptions=False)


def test_facts_are_plain_data(corpus):
    found, spec = batches(corpus)
    json.dumps(asdict(describe(found[3], tiny_tokenizer(), spec)))
