"""Servers under load: what arrives when, what counts, that nothing waits; the whole command against a real server."""

import asyncio
import json
import re

import httpx
import numpy as np
import pytest

import quicksilver
from quicksilver.cli.main import main
from quicksilver.client import AsyncClient
from quicksilver.errors import ConfigError
from quicksilver.evaluation.load.dialogue import AgentFigures, agent_loops, voice_turns
from quicksilver.evaluation.load.driving import Limits, Outcome, drive, quantiles, sum_up
from quicksilver.evaluation.load.measuring import SERVER, TWIN, saved_words
from quicksilver.evaluation.load.work import Arrival, Job, Kind, Mix, draw_arrivals, draw_jobs, read_sources
from quicksilver.server.app import create_app
from quicksilver.server.config import ServerConfig
from tests.serving import listening
from tests.tiny_checkpoints import save_tiny_checkpoint

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
JOB = Job(kind=Kind.GENERATE, prefix="x", suffix="", max_tokens=4)


def events(*chunks):
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


STREAM = events(
    {"choices": [{"index": 0, "text": "a", "finish_reason": None}]},
    {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]},
    {"choices": [], "usage": USAGE},
)


def fake(handler) -> AsyncClient:
    return AsyncClient("http://server", max_retries=0, transport=httpx.MockTransport(handler))


def streamed() -> httpx.Response:
    return httpx.Response(200, text=STREAM, headers={"content-type": "text/event-stream"})


class TestWork:
    def test_arrivals_are_a_poisson_process(self):
        """4,000 gaps: their mean is within five standard errors (8 %) of the rate's, and so is the share of fills."""
        found = draw_arrivals(100.0, 40.0, Mix(fill_share=0.7), read_sources(), seed=0)
        times = np.array([each.at_s for each in found])
        gaps = np.diff(times)
        assert abs(len(found) - 4000) < 5 * 4000**0.5
        assert gaps.mean() == pytest.approx(0.01, rel=0.08)
        assert gaps.std() == pytest.approx(0.01, rel=0.15)
        assert 0 < times[0] < times[-1] < 40
        share = np.mean([each.job.kind is Kind.FILL for each in found])
        assert share == pytest.approx(0.7, abs=5 * (0.21 / 4000) ** 0.5)

    def test_a_seed_repeats_times_and_texts(self):
        first, again, other = (draw_arrivals(5.0, 4.0, Mix(), read_sources(), seed) for seed in (1, 1, 2))
        assert first == again != other
        # A longer run begins as a shorter one.
        assert draw_arrivals(5.0, 8.0, Mix(), read_sources(), 1)[: len(first)] == first

    def test_a_fill_is_the_rest_of_a_line(self):
        mix = Mix(fill_share=1.0, prompt_chars=90, fill_tokens=7)
        jobs = draw_jobs(mix, ["one = 1\ntwo = 2\nthree = 3\n" * 20], np.random.Generator(np.random.Philox(0)))
        for _, job in zip(range(50), jobs, strict=False):
            assert (job.kind, job.max_tokens, job.stop) == (Kind.FILL, 7, ("\n",))
            assert job.suffix.startswith("\n")
            assert len(job.prefix) <= 60
            assert len(job.suffix) <= 30

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Mix(fill_share=1.5), "share of fills"),
            (lambda: Mix(long_tokens=0), "long_tokens"),
            (lambda: draw_arrivals(0.0, 1.0, Mix(), ["x = 1"], 0), "must be positive"),
            (lambda: draw_arrivals(0.001, 0.001, Mix(), ["x = 1"], 0), "no request falls"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, make, message):
        with pytest.raises(ConfigError, match=message):
            make()


class TestDriving:
    def test_requests_do_not_wait_for_earlier_ones(self):
        """No request is answered before all are under way: a client that waits would never end."""
        count, inside, everyone = 120, 0, asyncio.Event()

        async def answer(request):
            nonlocal inside
            inside += 1
            if inside == count:
                everyone.set()
            await everyone.wait()
            return streamed()

        arrivals = [Arrival(at_s=0.0005 * number, job=JOB) for number in range(count)]
        done = []
        outcomes, wall_s = asyncio.run(drive(fake(answer), arrivals, lambda: done.append(1)))
        assert len(outcomes) == len(done) == count
        assert [each.at_s for each in outcomes] == [each.at_s for each in arrivals]
        for each in outcomes:
            assert (each.error, each.num_tokens, each.kind) == (None, 5, Kind.GENERATE)
            assert 0 < each.first_s <= each.total_s <= wall_s

    def test_a_refused_request_is_counted_and_not_repeated(self):
        asked = []

        def answer(request):
            asked.append(json.loads(request.content))
            return httpx.Response(503, json={"error": {"message": "full"}}) if len(asked) == 1 else streamed()

        fill = Job(kind=Kind.FILL, prefix="x = ", suffix="\n", max_tokens=4, stop=("\n",))
        arrivals = [Arrival(at_s=0.0, job=fill), Arrival(at_s=0.05, job=fill)]
        outcomes, _ = asyncio.run(drive(fake(answer), arrivals, lambda: None))
        assert len(asked) == 2
        assert "full" in outcomes[0].error
        assert outcomes[1].error is None
        # Without a seed, so that a server may follow its load.
        assert {name: asked[0].get(name) for name in ("suffix", "stop", "seed", "temperature")} == {
            "suffix": "\n",
            "stop": ["\n"],
            "seed": None,
            "temperature": 0.0,
        }

    def test_figures(self):
        def outcome(kind, first_s, total_s, error=None, num_tokens=10):
            return Outcome(
                kind=kind, at_s=0.0, late_s=0.0, first_s=first_s, total_s=total_s, num_tokens=num_tokens, error=error
            )

        outcomes = [
            outcome(Kind.FILL, 0.1, 0.4),
            outcome(Kind.FILL, 0.1, 0.6),
            outcome(Kind.FILL, None, 0.1, error="full", num_tokens=None),
            outcome(Kind.GENERATE, 0.9, 9.0),
            outcome(Kind.GENERATE, 1.1, 2.0),
            outcome(Kind.GENERATE, None, 0.2, num_tokens=0),
        ]
        found = sum_up(outcomes, Limits(fill_ms=500.0, first_ms=1000.0), duration_s=2.0, wall_s=10.0)
        assert {name: (each.requests, each.errors, each.goodput, each.good_share) for name, each in found.items()} == {
            "all": (6, 1, 1.5, 0.5),
            "fill": (3, 1, 0.5, 1 / 3),
            "generate": (3, 0, 1.0, 2 / 3),
        }
        assert found["all"].tokens_per_s == 4.0
        assert found["fill"].total_ms.p50 == pytest.approx(500)
        assert found["generate"].first_ms.p50 == pytest.approx(1000)
        unknown = [*outcomes, outcome(Kind.FILL, 0.1, 0.2, num_tokens=None)]
        assert sum_up(unknown, Limits(), duration_s=1.0, wall_s=1.0)["all"].tokens_per_s is None
        assert quantiles([]) is None


def test_each_call_of_an_agent_sees_what_was_written_before():
    asked = {"a": [], "b": []}

    def answering(name):
        def answer(request):
            body = json.loads(request.content)
            asked[name].append(body["prompt"])
            text = f"<{name}{len(asked[name])}>"
            choice = {"index": 0, "text": text, "finish_reason": "length"}
            return httpx.Response(200, json={"choices": [choice], "usage": USAGE})

        return answer

    done = []
    found = asyncio.run(
        agent_loops(
            {name: fake(answering(name)) for name in asked},
            "def f():\n",
            num_calls=3,
            max_tokens=8,
            prompt_chars=60,
            advance=lambda: done.append(1),
        )
    )
    assert len(done) == 6
    # The first call warms up.
    assert asked["a"] == [
        "def f():\n",
        "def f():\n\n\n# step 1\n",
        "def f():\n\n\n# step 1\n<a2>\n\n# step 2\n",
        "def f():\n\n\n# step 1\n<a2>\n\n# step 2\n<a3>\n\n# step 3\n"[-60:],
    ]
    assert [prompt.replace("a", "b") for prompt in asked["a"]] == asked["b"]
    assert (found["a"].calls, found["a"].num_tokens) == (3, 15)
    assert found["a"].seconds > 0


def test_what_a_loop_saves_is_said():
    def loop(seconds, num_tokens=96):
        return AgentFigures(calls=30, seconds=seconds, call_ms=None, num_tokens=num_tokens)

    [said] = saved_words({SERVER: loop(2.0), TWIN: loop(5.0)})
    assert said.startswith("A loop of 30 dependent calls saves 3.00 s beside the twin (2.00 s and 5.00 s, 2.50 times")
    assert "loses 1.00 s" in saved_words({SERVER: loop(2.0, None), TWIN: loop(1.0)})[0]
    assert saved_words({SERVER: loop(2.0)}) == []


def test_a_turn_with_a_server_that_tells_nothing_of_its_memory():
    def answer(request):
        return (
            streamed()
            if b'"stream":true' in request.content.replace(b" ", b"")
            else httpx.Response(
                200, json={"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}], "usage": USAGE}
            )
        )

    found = asyncio.run(
        voice_turns(fake(answer), ["one", "two"], max_tokens=9, is_realtime=False, advance=lambda: None)
    )
    assert (found.turns, found.num_silent, found.freed_ms) == (2, 0, None)
    assert found.first_ms.p50 > 0


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("load") / "tiny")
    with listening(create_app(quicksilver.load(folder, device="cpu"), ServerConfig())) as url:
        yield url


def test_the_command_measures_everything(url, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    report, picture = tmp_path / "serve.json", tmp_path / "serve.svg"
    few = ("--rate", "8", "--duration", "0.6", "--prompt-chars", "60", "--long-tokens", "8", "--fill-tokens", "4")
    arguments = (*few, "--calls", "3", "--turns", "2", "--realtime", "--json", str(report), "--plot", str(picture))
    assert main(("bench", "serve", url, "--twin", url, *arguments)) == 0
    said = capsys.readouterr().out
    found = json.loads(report.read_text())
    assert [row["server"] for row in found["load"]] == ["server", "twin"]
    for row in found["load"]:
        assert row["figures"]["all"]["errors"] == 0
        assert row["figures"]["all"]["requests"] == len(row["outcomes"]) > 1
        assert row["figures"]["all"]["tokens_per_s"] > 0
    assert [each["at_s"] for each in found["load"][0]["outcomes"]] == [
        each["at_s"] for each in found["load"][1]["outcomes"]
    ]
    assert found["agent"]["server"]["num_tokens"] == found["agent"]["twin"]["num_tokens"] > 0
    for name in ("server", "twin"):
        assert found["voice"][name]["turns"] == 2
        assert found["voice"][name]["freed_ms"] is not None or found["voice"][name]["num_silent"] == 2
    assert re.search(r"A loop of 3 dependent calls (saves|loses)", said)
    assert said.count("| server ") >= 4
    assert "<svg" in picture.read_text()
    pages = re.search(r"^quicksilver_pages_in_use (\S+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert float(pages.group(1)) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("http://127.0.0.1:1",), 1, "nobody answers at http://127.0.0.1:1"),
        (("ftp://host",), 2, "no URL of a server"),
        (("http://host", "--part", "hope"), 2, "--part is one of load, agent, voice"),
        (("http://host", "--rate", "-1"), 2, "must be positive"),
        (("http://host", "--part", "agent", "--plot", "x.svg"), 2, "--plot draws the part load"),
        (("http://host", "--fill-share", "2"), 2, "share of fills"),
    ],
)
def test_what_cannot_be_measured_is_one_line(capsys, arguments, status, message):
    assert main(("bench", "serve", *arguments)) == status
    assert message in capsys.readouterr().err
