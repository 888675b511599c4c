"""What a run leaves on disk."""

import json

import pytest
import torch

from quicksilver.errors import TrainingError
from quicksilver.training.run_folder import RunFolder


def folder(path, keep: int = 2) -> RunFolder:
    run = RunFolder(path, keep)
    run.create("{}\n", None)
    return run


def test_the_newest_checkpoints_are_kept(tmp_path):
    run = folder(tmp_path, keep=2)
    for step in (5, 10, 100_000_000, 15):
        run.save({"next_step": step}, step)
    assert [path.name for path in run.checkpoints()] == ["step-00000015.pt", "step-100000000.pt"]


def test_a_checkpoint_comes_back(tmp_path):
    run = folder(tmp_path)
    path = run.save({"next_step": 7, "weights": {"a": torch.arange(3)}}, 7)
    state = run.load(path)
    assert state["next_step"] == 7
    assert torch.equal(state["weights"]["a"], torch.arange(3))


def test_partial_files_are_no_checkpoints(tmp_path):
    run = folder(tmp_path)
    run.save({"next_step": 1}, 1)
    (tmp_path / "checkpoints" / "step-00000009.partial").write_bytes(b"cut off")
    assert [path.name for path in run.checkpoints()] == ["step-00000001.pt"]


def test_no_run_no_checkpoints(tmp_path):
    assert RunFolder(tmp_path / "nothing", 2).checkpoints() == []


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04broken"])
def test_a_damaged_checkpoint_is_an_error(tmp_path, content):
    path = tmp_path / "step-00000001.pt"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        RunFolder.load(path)


def test_a_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        RunFolder.load(tmp_path / "none.pt")


def test_log_lines_that_will_be_run_again_are_dropped(tmp_path):
    run = folder(tmp_path)
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in range(6)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n" + '{"step": 6, "lo')
    run.drop_log_after(4)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [0, 1, 2, 3]


def test_a_log_that_is_not_there_is_no_error(tmp_path):
    folder(tmp_path).drop_log_after(0)
    assert not (tmp_path / "log.jsonl").exists()
