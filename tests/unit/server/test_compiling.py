"""Constraints of strangers: compiled apart, killed where need be, kept on disk."""

import asyncio
import os

import anyio
import pytest

from quicksilver.constraints.choice import Choice
from quicksilver.constraints.constraint import CompileOptions
from quicksilver.constraints.limits import Limits
from quicksilver.constraints.regex import Regex
from quicksilver.errors import EngineError
from quicksilver.server import constraints as module
from quicksilver.server.config import ServerConfig
from quicksilver.server.constraints import Constraints
from quicksilver.server.errors import ApiError
from quicksilver.server.metrics import Metrics
from tests.constraint_languages import Fatal, Stubborn

BRIEF = CompileOptions(limits=Limits(max_seconds=0.5))


def make(model, options=None, **config):
    return Constraints(model, Metrics(model.engine), ServerConfig(**config), options or CompileOptions())


def count(constraints, outcome):
    return constraints._metrics.constraints.labels(outcome)._value.get()


async def refusal(constraints, constraint):
    with pytest.raises(ApiError) as caught:
        await constraints.compiled(constraint, param="regex")
    return caught.value


@pytest.mark.parametrize(("hostile", "told"), [(Stubborn(), "max_seconds=0.5"), (Fatal(), "died")])
def test_what_hangs_or_dies_is_refused_and_the_next_is_served(model, monkeypatch, hostile, told):
    # A slow machine must not keep what dies from dying.
    monkeypatch.setattr(module, "_GRACE_S", 60.0 if told == "died" else 0.5)
    constraints = make(model, BRIEF)

    async def ask():
        error = await refusal(constraints, hostile)
        # A slow machine must not fail what is not hostile.
        monkeypatch.setattr(module, "_GRACE_S", 60.0)
        return error, await constraints.compiled(Choice(("a", "b")), param="choice")

    error, automaton = asyncio.run(ask())
    assert (error.status, error.body.code, error.body.param) == (400, "constraint_too_large", "regex")
    assert told in error.body.message
    assert automaton.num_states > 1


def test_a_process_that_cannot_start_is_the_servers_fault(model, monkeypatch):
    async def fail(*args, **options):
        try:
            raise ModuleNotFoundError("No module named 'theirs'")
        except ModuleNotFoundError as error:
            raise anyio.BrokenWorkerProcess("Error during worker process initialization") from error

    monkeypatch.setattr(module.anyio.to_process, "run_sync", fail)
    with pytest.raises(EngineError, match="could be started: No module named 'theirs'"):
        asyncio.run(make(model).compiled(Regex("a"), param="regex"))


def test_those_who_wait_are_not_more_than_may_be_open(model, monkeypatch):
    monkeypatch.setattr(module, "_GRACE_S", 0.2)
    constraints = make(model, BRIEF, max_open=3)

    async def ask():
        waiting = [asyncio.create_task(refusal(constraints, Stubborn(str(number)))) for number in range(3)]
        while constraints._num_compiling < 3:
            await asyncio.sleep(0.01)
        overloaded = await refusal(constraints, Regex("a"))
        return overloaded, await asyncio.gather(*waiting)

    overloaded, others = asyncio.run(ask())
    assert overloaded.status == 503
    assert "3 constraints" in overloaded.body.message
    assert {error.body.code for error in others} == {"constraint_too_large"}
    assert constraints._num_compiling == 0


def test_another_server_reads_what_was_compiled_from_disk(model, tmp_path):
    first, second = (make(model, constraint_folder=tmp_path / "kept") for _ in range(2))

    async def ask(constraints):
        return await constraints.compiled(Regex("[a-f]{3}"), param="regex")

    made, read = asyncio.run(ask(first)), asyncio.run(ask(second))
    assert (count(first, "compiled"), count(second, "compiled"), count(second, "stored")) == (1, 0, 1)
    assert made.fingerprint == read.fingerprint
    assert (made.edge_to == read.edge_to).all()
    assert os.listdir(tmp_path / "kept") == [f"{made.fingerprint}.npz"]
