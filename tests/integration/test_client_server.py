"""The clients and the command line against a real server, whose model writes what it writes in this process."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

import quicksilver
from quicksilver.api import DecodingOptions, GenerateRequest, HoleOptions, InfillRequest, split_template
from quicksilver.cli.main import main
from quicksilver.client import AsyncClient, Client, HoleLimits, Message, RefusedError, RequestOptions, ServerError
from quicksilver.server.app import create_app
from quicksilver.server.config import ServerConfig
from tests.serving import listening, wait_until
from tests.tiny_checkpoints import save_tiny_checkpoint

OPTIONS = RequestOptions(seed=3, temperature=1.0)
DECODING = DecodingOptions(seed=3, temperature=1.0)
TEMPLATE = "def <FILL>(xs):\r\n    return <FILL>\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    return folder


@pytest.fixture(scope="module")
def reference(folder):
    """The same weights in an engine of their own."""
    return quicksilver.load(folder, device="cpu")


@pytest.fixture(scope="module")
def app(folder):
    return create_app(quicksilver.load(folder, device="cpu"), ServerConfig(served_names=("gpt-4o",), max_open=8))


@pytest.fixture(scope="module")
def url(app):
    with listening(app) as url:
        yield url


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


@pytest.fixture(scope="module")
def written(reference):
    return reference.run(GenerateRequest(prompt="def", max_tokens=24, options=DECODING))


@pytest.fixture
def command(url, capsysbinary):
    """Run a command against the server: status, standard output, standard error."""

    def run(*arguments):
        status = main((*arguments, "--server", url))
        captured = capsysbinary.readouterr()
        return status, captured.out.decode(), captured.err.decode()

    return run


def test_models(client):
    assert client.models() == ("tiny", "gpt-4o")


def test_what_is_completed(client, written):
    reply = client.complete("def", max_tokens=24, options=OPTIONS)
    assert reply.text == written.text
    assert reply.usage.nfe == written.nfe
    assert (reply.finish_reason, reply.model) == ("length", "tiny")


def test_pieces_are_the_whole(client, written):
    with client.stream_complete("def", max_tokens=24, options=OPTIONS) as stream:
        pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces) == stream.reply.text == written.text
    assert stream.reply.usage.nfe == written.nfe
    assert stream.reply.finish_reason == "length"


def test_choices_differ_by_their_seed(client, reference, written):
    reply = client.complete("def", max_tokens=24, num_choices=2, options=OPTIONS)
    other = DecodingOptions(seed=4, temperature=1.0)
    second = reference.run(GenerateRequest(prompt="def", max_tokens=24, options=other))
    assert [choice.text for choice in reply.choices] == [written.text, second.text]


def test_holes_are_filled(client, reference):
    filled = client.infill(TEMPLATE, holes=[HoleLimits(draft="mean"), HoleLimits(length=3)], options=OPTIONS)
    holes = (HoleOptions(draft="mean"), HoleOptions(length=3))
    expected = reference.run(InfillRequest(texts=split_template(TEMPLATE), holes=holes, options=DECODING))
    assert filled.text == expected.text
    assert [hole.text for hole in filled.holes] == [hole.text for hole in expected.holes]
    events = list(
        client.stream_infill(TEMPLATE, holes=[HoleLimits(draft="mean"), HoleLimits(length=3)], options=OPTIONS)
    )
    assert events[-1].response.text == expected.text
    assert {event.type for event in events} >= {"frame", "commit", "done"}


def test_one_hole_between_two_texts(client, reference):
    expected = reference.run(InfillRequest(texts=("def ", "(xs):\n"), options=DECODING))
    assert client.fill("def ", "(xs):\n", options=OPTIONS).text == expected.holes[0].text
    assert "".join(client.stream_fill("def ", "(xs):\n", options=OPTIONS)) == expected.holes[0].text


def test_a_conversation(client):
    messages = [Message(role="system", content="x = 1\n"), Message(role="user", content="y = 2\n")]
    reply = client.chat(messages, max_tokens=8, options=OPTIONS)
    assert reply.text == "".join(client.stream_chat(messages, max_tokens=8, options=OPTIONS))
    drafted = client.chat(messages, prediction="total = 0", options=OPTIONS)
    details = drafted.usage.completion_tokens_details
    assert details.accepted_prediction_tokens + details.rejected_prediction_tokens > 0


def test_what_is_wrong_is_named(client, url):
    with pytest.raises(RefusedError, match="confidence_threshold") as refused:
        client.complete("x", options=RequestOptions(policy="fastest"))
    assert (refused.value.status, refused.value.param) == (400, "policy")
    assert refused.value.request_id
    with Client(url, model="nobody") as other, pytest.raises(RefusedError, match="gpt-4o") as missing:
        other.complete("x")
    assert (missing.value.status, missing.value.code) == (404, "model_not_found")
    with pytest.raises(RefusedError, match="context"):
        list(client.stream_complete("x" * 1000))


def num_aborts(service):
    [line] = [
        line for line in service.metrics.render().decode().splitlines() if line.startswith("quicksilver_aborts_total")
    ]
    return float(line.split()[1])


def test_hanging_up_frees_the_request(client, app):
    service = app.state.service
    before = num_aborts(service)
    with client.stream_complete("def", max_tokens=100, options=RequestOptions(policy="random_order")) as stream:
        next(stream)
    wait_until(lambda: service.num_open == 0)
    assert num_aborts(service) == before + 1


def test_many_at_once(url, written):
    async def run():
        async with AsyncClient(url, model="gpt-4o") as client:
            texts = [client.complete("def", max_tokens=24, options=OPTIONS) for _ in range(3)]
            async with client.stream_complete("def", max_tokens=24, options=OPTIONS) as stream:
                pieces = [piece async for piece in stream]
            events = [event async for event in client.stream_infill(TEMPLATE, options=OPTIONS)]
            return [reply.text for reply in await asyncio.gather(*texts)], "".join(pieces), events[-1].type

    texts, streamed, last = asyncio.run(run())
    assert texts == [written.text] * 3
    assert streamed == written.text
    assert last == "done"


def test_a_full_server_is_asked_again_and_then_told(url):
    with Client(url, max_retries=0) as client, pytest.raises(ServerError, match="max_open") as error:
        client.complete("x", num_choices=9, max_tokens=4)
    assert (error.value.status, error.value.kind) == (503, "overloaded")


SEEDED = ("--max-tokens", "24", "--seed", "3", "--temperature", "1")


def test_generate_prints_what_a_model_here_would(command, written, tmp_path):
    assert command("generate", "def", *SEEDED) == (0, written.text, "")
    assert command("generate", "def", *SEEDED, "--server-model", "gpt-4o")[:2] == (0, written.text)
    status, out, err = command("generate", "def", *SEEDED, "--output", str(tmp_path / "out.py"), "--verbose")
    assert (status, out, (tmp_path / "out.py").read_bytes().decode()) == (0, "", written.text)
    assert f"NFE {written.nfe}" in err


def test_generate_reports_as_json(command, written):
    report = json.loads(command("generate", "def", *SEEDED, "--json")[1])
    assert report["text"] == report["holes"][0]["text"] == written.text
    assert (report["num_tokens"], report["nfe"]) == (written.num_tokens, written.nfe)
    assert (report["model"], report["seed"], report["finish_reason"]) == ("tiny", 3, "length")


def test_infill_prints_what_a_model_here_would(command, reference, tmp_path):
    (tmp_path / "draft.py").write_bytes(TEMPLATE.encode())
    arguments = ("infill", str(tmp_path / "draft.py"), "--hole-length", "3", "--seed", "3", "--temperature", "1")
    expected = reference.run(InfillRequest(texts=split_template(TEMPLATE), hole_length=3, options=DECODING))
    assert command(*arguments) == (0, expected.text, "")
    report = json.loads(command(*arguments, "--json")[1])
    assert [hole["text"] for hole in report["holes"]] == [hole.text for hole in expected.holes]


@pytest.mark.parametrize(
    "given", [("--model", "quicksilver-coder"), ("--device", "cpu"), ("--trace", "t.jsonl"), ("--watch",)]
)
@pytest.mark.parametrize("subcommand", [("generate", "x"), ("infill", __file__)])
def test_options_of_a_model_here_contradict_a_server(command, subcommand, given):
    status, out, err = command(*subcommand, *given)
    assert (status, out) == (2, "")
    assert given[0] in err
    assert "--server" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "x", "--policy", "fastest"), ("confidence_threshold",)),
        (("generate", "x", "--server-model", "nobody"), ("nobody", "gpt-4o")),
        (("infill", __file__, "--device", "cpu"), ("--device", "--server")),
        (("infill", __file__, "--cache", "fast"), ("fast", "vicinity")),
        (("infill", __file__, "--mark", "\x7f"), ("no hole",)),
    ],
)
def test_what_a_server_refuses_is_bad_usage(command, arguments, words):
    status, out, err = command(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in words)


def test_a_server_that_is_not_there_is_a_failure(capsys, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(("generate", "x", "--server", "http://127.0.0.1:1")) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
    assert main(("generate", "x", "--server-model", "m")) == 2
    assert "--server" in capsys.readouterr().err


@pytest.mark.slow
def test_asking_a_server_does_not_wait_for_torch(url, written):
    code = (
        "import sys; from quicksilver.cli.main import main; status = main(sys.argv[1:]);"
        "sys.exit(status or bool({'torch', 'numpy', 'tokenizers', 'fastapi'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "generate", "def", *SEEDED, "--server", url]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=os.environ | {"NO_PROXY": "*"})
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, written.text, b"")


def test_without_its_packages_the_client_says_what_to_install():
    code = (
        "import sys; sys.modules['httpx_sse'] = None; from quicksilver.cli.main import main;"
        "sys.exit(main(['generate', 'x', '--server', 'http://127.0.0.1:1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"httpx_sse" in done.stderr
    assert b"quicksilver-lm[serve]" in done.stderr
    assert b"Traceback" not in done.stderr
