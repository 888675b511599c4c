"""llm, as its users run it: a model of extra-openai-models.yaml, streamed and not, chats and completions."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from served import KEY, MODEL, V1

MODELS = f"""
- model_id: local
  model_name: {MODEL}
  api_base: "{V1}"
  api_key_name: local
  supports_schema: true
- model_id: local-text
  model_name: {MODEL}
  api_base: "{V1}"
  api_key_name: local
  completion: true
"""
LLM = Path(sys.executable).with_name("llm")


def llm(folder, *arguments, status=0):
    done = subprocess.run(
        [LLM, *arguments],
        env={**os.environ, "LLM_USER_PATH": folder},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, done.stderr
    return done


with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "extra-openai-models.yaml").write_text(MODELS)
    llm(folder, "keys", "set", "local", "--value", KEY)
    options = ("-o", "max_tokens", "16", "-o", "seed", "3")
    streamed = llm(folder, "-m", "local", *options, "def mean(xs):").stdout
    assert streamed.strip()
    assert llm(folder, "-m", "local", *options, "--no-stream", "def mean(xs):").stdout == streamed
    assert llm(folder, "-m", "local", *options, "-s", "# statistics", "def mean(xs):").stdout.strip()
    assert llm(folder, "-m", "local-text", *options, "def mean(xs):").stdout.strip()
    refused = llm(folder, "-m", "local", "-o", "temperature", "1.5", "--schema", "name, age int", "hi", status=1)
    assert "response_format" in refused.stderr
