"""The verdicts of the benchmark of constraints; how fast is not a test's business."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "constraints.py"
GROUPS = [
    {"schema": {"type": "integer"}, "tests": [{"data": 1, "valid": True}, {"data": "a", "valid": False}]},
    {"schema": {"type": "array", "uniqueItems": True}, "tests": [{"data": [1, 1], "valid": False}]},
    # Expectations that are wrong on purpose, so that an engine which is right seems not to be.
    {"schema": {"type": "null"}, "tests": [{"data": None, "valid": False}]},
    {"schema": {"type": "null"}, "tests": [{"data": 1, "valid": True}]},
]


def test_verdicts_are_counted_by_kind(tmp_path):
    for draft, groups in (("draft7", []), ("draft2020-12", GROUPS)):
        lines = (json.dumps({"file": "f", "description": "d", **group}) + "\n" for group in groups)
        (tmp_path / f"{draft}.jsonl").write_text("".join(lines))
    out = tmp_path / "report.json"
    command = [sys.executable, str(BENCHMARK), "--out", str(out), "--suite", str(tmp_path)]
    command += ["--only", "coverage", "--engine", "quicksilver"]
    subprocess.run(command, check=True, capture_output=True)
    (row,) = json.loads(out.read_text())["coverage"]
    counts = {key: row[key] for key in ("exact", "refused", "too loose", "too strict", "hung or died")}
    assert counts == {"exact": 1, "refused": 1, "too loose": 1, "too strict": 1, "hung or died": 0}
    assert row["verdicts_unlike_jsonschema"] == 0
