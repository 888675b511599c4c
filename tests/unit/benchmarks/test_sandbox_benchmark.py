"""The sandbox's benchmark runs and reports; how fast is not a test's business."""

import json
import subprocess
import sys
from pathlib import Path

from quicksilver.sandbox.cages import Level
from tests.sandboxes import require

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "sandbox.py"


def test_every_row_is_measured(tmp_path):
    require(Level.BWRAP)
    out = tmp_path / "report.json"
    command = [sys.executable, str(BENCHMARK), "--out", str(out), "--rounds", "1", "--programs", "1"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["level"] == "bwrap+seccomp"
    assert list(report["milliseconds"]) == ["bare interpreter, -I -S", "strict", "fast", "fast, call"]
    assert all(len(values) == 1 for values in report["milliseconds"].values())
    assert table == out.with_suffix(".md").read_text(encoding="utf-8")
