"""Clients that people use, against the bundled model as `quicksilver serve` serves it. Run by `make test-clients`.

Each has an environment of its own under .clients/, made from a package index when its pins change. The file's name
keeps it out of `make test`, which must not install gigabytes.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving import wait_until

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".clients"
SERVE = ("-c", "import sys; from quicksilver.cli.main import main; sys.exit(main())", "serve", "--port", "0")
NAMES = ("--served-model-name", "gpt-4o", "--served-model-name", "mercury-coder")
NEEDS_NPM = pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm (Debian: nodejs, npm)")


@dataclass(frozen=True)
class Client:
    """A script, and the packages it needs."""

    script: str
    packages: tuple[str, ...]

    @property
    def is_node(self) -> bool:
        return self.script.endswith(".mjs")


CLIENTS = (
    Client("with_openai.py", ("openai==3.57.0",)),
    Client("with_inceptionai.py", ("inceptionai==0.3.0",)),
    Client("with_litellm.py", ("litellm==1.110.2",)),
    Client("with_langchain.py", ("langchain-openai==1.7.4",)),
    Client("with_llm.py", ("llm==0.36",)),
    Client("with_lm_eval.py", ("lm_eval[api]==0.4.13",)),
    Client("with_livekit.py", ("livekit-agents==1.8.9", "livekit-plugins-openai==1.8.9")),
    Client("with_pipecat.py", ("pipecat-ai[openai]==1.14.0",)),
    Client("with_openai.mjs", ("openai@6.49.0",)),
    Client("with_ai_sdk.mjs", ("ai@6.0.326", "@ai-sdk/openai-compatible@2.0.92")),
    Client("with_continue.mjs", ("@continuedev/openai-adapters@1.37.0",)),
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Of a server process. Its lines go to a file: a pipe that nobody reads would fill up and stop it."""
    folder = tmp_path_factory.mktemp("server")
    with (folder / "log").open("w") as log:
        env = {**os.environ, "QUICKSILVER_HOME": str(folder), "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen([sys.executable, *SERVE, *NAMES], stderr=log, env=env)
    try:
        wait_until(lambda: server.poll() is not None or "http://" in (folder / "log").read_text(), 120)
        found = re.search(r"http://[\w.:]+", (folder / "log").read_text())
        assert found, (folder / "log").read_text()
        yield found.group()
    finally:
        server.terminate()
        server.wait(60)


def run(*command: str | Path, cwd: Path, **variables: str) -> None:
    """Run to the end; what it printed is the failure's message."""
    # A client must not find this project's packages.
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    done = subprocess.run(command, cwd=cwd, env=kept | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"


def environment(client: Client) -> Path:
    """The folder of the client's packages, installed if it is not there or its pins have changed."""
    folder = ENVIRONMENTS / client.script.replace(".", "-")
    stamp = folder / "installed"
    pins = "\n".join(client.packages)
    if stamp.is_file() and stamp.read_text() == pins:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if client.is_node:
        (folder / "package.json").write_text('{"private": true}')
        run("npm", "install", "--no-audit", "--no-fund", *client.packages, cwd=folder)
    else:
        run(sys.executable, "-m", "venv", folder, cwd=folder)
        run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *client.packages, cwd=folder)
    stamp.write_text(pins)
    return folder


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "client", [pytest.param(each, id=each.script, marks=[NEEDS_NPM] * each.is_node) for each in CLIENTS]
)
def test_client(client, url):
    folder = environment(client)
    if not client.is_node:
        run(folder / "bin" / "python", HERE / client.script, cwd=folder, QUICKSILVER_CLIENTS_URL=url)
        return
    # Node looks for packages beside the script.
    for script in ("served.mjs", client.script):
        shutil.copy(HERE / script, folder)
    run("node", client.script, cwd=folder, QUICKSILVER_CLIENTS_URL=url)
