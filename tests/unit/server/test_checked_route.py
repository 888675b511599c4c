"""`POST /v1/infill` with a check: what a client may ask, what it is told, and what it pays."""

import httpx
import pytest

from quicksilver.sandbox.cages import Level
from quicksilver.server.app import create_app
from quicksilver.server.config import ServerConfig
from tests.sandboxes import require
from tests.serving import listening

TEMPLATE = "x = <FILL>\n"
CHECKS = {"fails": "sh -c 'echo no; exit 2'", "passes": "true", "slow": "sleep 30"}


@pytest.fixture(scope="module", params=["confined", "here"])
def checked(model, request):
    if request.param == "confined":
        require(Level.BWRAP)
    config = ServerConfig(checks=CHECKS, check_seconds=1.5, confines_checks=request.param == "confined")
    with listening(create_app(model, config)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def ask(client, status: int = 200, **body):
    answer = client.post("/v1/infill", json={"template": TEMPLATE, "holes": [{"length": 3}], "seed": 1} | body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_answer_says_what_was_checked(checked):
    plain, passed = ask(checked), ask(checked, check="passes")
    assert plain["check"] is None
    assert passed["text"] == plain["text"]
    assert passed["check"] == {
        "name": "passes",
        "parts": ["true"],
        "passed": True,
        "repairs": 0,
        "drafts": 0,
        "problems": [],
    }


def test_what_fails_is_told_and_all_drafts_are_counted(checked):
    plain, failed = ask(checked), ask(checked, check="fails", repairs=2)
    assert failed["text"] == plain["text"]
    assert (failed["check"]["passed"], failed["check"]["repairs"]) == (False, 2)
    assert failed["check"]["problems"] == ["status 2: no"]
    assert failed["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"] * (1 + failed["check"]["drafts"])
    assert ask(checked, check="slow", repairs=0)["check"]["problems"] == ["slow took longer than 1.5 s"]


def test_python_is_built_in(checked):
    report = ask(checked, check="python", repairs=1)["check"]
    assert report["name"] == "python"
    assert report["parts"][:2] == ["parse", "compile"]


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"check": "rm -rf"}, "check", "no check 'rm -rf' here; there are: python, fails, passes, slow"),
        ({"repairs": 2}, "repairs", "name one in check"),
        ({"check": "python", "stream": True}, "stream", "leave stream out"),
        ({"check": "python", "repairs": 17}, "repairs", "16"),
    ],
)
def test_what_is_refused(checked, body, param, said):
    error = ask(checked, 400, **body)["error"]
    assert error["param"] == param
    assert said in error["message"]


def test_a_check_that_cannot_be_run_is_the_servers_fault(model):
    config = ServerConfig(checks={"gone": "no-such-tool {}"}, confines_checks=False)
    with listening(create_app(model, config)) as url, httpx.Client(base_url=url, timeout=60) as client:
        error = ask(client, 500, check="gone")["error"]
    assert error["code"] == "check_error"
    assert "no-such-tool" in error["message"]
