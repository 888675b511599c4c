"""lm-eval's local-completions, over a local task each: loglikelihood by echo, generate_until, the remote tokenizer."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from served import KEY, MODEL, V1

TASKS = {
    "mini_choice": """
task: mini_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{[good, bad]}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "mini_write": """
task: mini_write
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{good}}"
target_delimiter: ""
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, temperature: 0}
metric_list: [{metric: exact_match}]
""",
}
DOCUMENTS = [
    {"prompt": "def f(self):\n    return ", "good": "self", "bad": "zxqj"},
    {"prompt": "import os\nimport ", "good": "sys", "bad": "&&&&"},
    {"prompt": "for i in ", "good": "range(10):", "bad": ")))("},
]

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "data.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    for task, text in TASKS.items():
        (folder / f"{task}.yaml").write_text(text.replace("DATA", str(folder / "data.jsonl")))
    model = f"model={MODEL},base_url={V1}/completions,tokenizer_backend=remote,num_concurrent=1,max_retries=1"
    subprocess.run(
        [
            Path(sys.executable).with_name("lm_eval"),
            *("--model", "local-completions", "--model_args", model, "--include_path", folder),
            *("--tasks", ",".join(TASKS), "--output_path", folder / "out", "--log_samples"),
        ],
        env={**os.environ, "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")},
        check=True,
    )
    [results] = folder.glob("out/**/results_*.json")
    found = json.loads(results.read_text())["results"]
    # Choices that no Python holds: a server that scores the wrong tokens would do no better than half of them.
    assert found["mini_choice"]["acc,none"] == 1.0, found
    assert "exact_match,none" in found["mini_write"], found
    [samples] = folder.glob("out/**/samples_mini_write_*.jsonl")
    written = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    assert len(written) == len(DOCUMENTS)
    assert all("\n" not in text for text in written), written
    assert any(text.strip() for text in written)
