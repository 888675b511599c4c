"""What a run reports."""

import json

from quicksilver.training.progress import Progress

FIGURES = {
    "loss": 2.5,
    "bits_per_byte": 1.25,
    "tokens_per_s": 12345.6,
    "mfu": 0.314,
    "lr_multiplier": 0.5,
    "seconds_left": 3725.9,
}


def test_log_and_line(tmp_path):
    with (tmp_path / "out").open("w") as out, Progress(tmp_path, 10, stream=out) as progress:
        progress.note("hello")
        progress.step(9, FIGURES)
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 9, **FIGURES}
    assert (tmp_path / "out").read_text().splitlines() == [
        "hello",
        "step 10/10  loss 2.500  bits/byte 1.250  12,346 tokens/s  MFU 31%  lr x0.50  left 1:02:05",
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_second_session_appends(tmp_path):
    for step in range(2):
        with (tmp_path / "out").open("w") as out, Progress(tmp_path, 10, stream=out) as progress:
            progress.step(step, FIGURES)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [0, 1]


def test_data_that_is_no_text_has_no_bits_per_byte(tmp_path):
    with (tmp_path / "out").open("w") as out, Progress(tmp_path, 1, stream=out) as progress:
        progress.step(0, {name: value for name, value in FIGURES.items() if name != "bits_per_byte"})
    assert "bits/byte" not in (tmp_path / "out").read_text()
