"""`quicksilver serve --dry-run`: what it would take, without loading."""

from tests.foreign_checkpoints import save_autoregressive


def test_a_plan_is_printed_and_nothing_loaded(quicksilver, tmp_path):
    save_autoregressive(tmp_path)
    for shard in tmp_path.glob("*-of-*.safetensors"):
        size = shard.stat().st_size
        shard.write_bytes(shard.read_bytes()[: size - 64] + b"\0" * 64)  # values are never read
    outcome = quicksilver("serve", "--model", str(tmp_path), "--dry-run", "--num-pages", "8", "--dtype", "bfloat16")
    assert outcome.status == 0
    assert "8 pages of 32 tokens in bfloat16" in " ".join(outcome.out.split())


def test_a_plan_that_does_not_fit_fails_and_says_what_would(quicksilver, tmp_path):
    save_autoregressive(tmp_path)
    outcome = quicksilver("serve", "--model", str(tmp_path), "--dry-run", "--num-pages", str(10**10))
    assert outcome.status == 2
    assert "these would fit: --num-pages" in outcome.err
