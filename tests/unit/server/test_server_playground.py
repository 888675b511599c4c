"""The playground's files and settings; what the page does with them is tested in tests/browser."""

import re

import httpx
import pytest

import quicksilver
from quicksilver.decoding import POLICY_NAMES
from quicksilver.diffusion.spec import Objective
from quicksilver.server.app import create_app
from tests.serving import listening
from tests.tiny_checkpoints import save_tiny_checkpoint


@pytest.fixture(scope="module", params=[Objective.MASK, Objective.AUTOREGRESSIVE], ids=str)
def objective(request):
    return request.param


@pytest.fixture(scope="module")
def client(tmp_path_factory, objective):
    model = quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", objective), device="cpu")
    with listening(create_app(model)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_the_page_and_all_that_it_names_are_served(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    seen, left = set(), set(re.findall(r'(?:src|href)="(/[^"]+)"', page.text))
    while left:
        path = left.pop()
        file = client.get(path)
        assert file.status_code == 200, path
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[path.rsplit(".")[-1]]
        assert file.headers["content-type"].startswith(kind)
        assert file.headers["content-security-policy"] == page.headers["content-security-policy"]
        assert file.headers["x-content-type-options"] == "nosniff"
        seen.add(path)
        left |= {f"/playground/{name}" for name in re.findall(r'from "\./([^"]+)"', file.text)} - seen
        # Only names of XML namespaces look like addresses.
        assert set(re.findall(r"https?://[^\s\"'`$]+", file.text)) <= {"http://www.w3.org/2000/svg"}
    assert "/playground/recorder.js" in seen


def test_nothing_but_this_server_may_be_asked(client):
    policy = dict(part.split(" ", 1) for part in client.get("/").headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {sources for name, sources in policy.items()} == {"'self'", "'none'"}
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script>", client.get("/").text)


def test_files_are_sent_again_only_when_they_have_changed(client):
    first = client.get("/playground/style.css")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/playground/style.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/playground/style.css", headers={"if-none-match": '"other"'}).content == first.content


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fapp.py", "%2e%2e/app.py", "__init__.py"])
def test_other_files_are_not_served(client, name):
    response = client.get(f"/playground/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def test_what_is_offered_is_what_the_server_takes(client, objective):
    settings = client.get("/playground/settings.json").json()
    offered = {policy["name"]: set(policy["takes"]) for policy in settings["policies"]}
    if objective is Objective.AUTOREGRESSIVE:
        assert offered == {}

    def is_taken(**options):
        body = {"template": "def <FILL>:", "holes": [{"max_length": 2}], "seed": 0, **options}
        return client.post("/v1/infill", json=body).status_code == 200

    for name in POLICY_NAMES:
        assert is_taken(policy=name) == (name in offered), name
        for option, value in (("threshold", 0.8), ("steps", 2)):
            assert is_taken(policy=name, **{option: value}) == (option in offered.get(name, ())), (name, option)
