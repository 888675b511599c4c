r"""The HTTP server, measured: what it adds to the engine, latency behind a cached prefix, start-up.

``quicksilver bench serve`` measures any server from outside: load that does not wait, agent loops, hang-ups.

Examples:
  python benchmarks/server.py --model quicksilver-coder --out runs/server.json
  python benchmarks/server.py --items 40 --rounds 5 --threads 1 --out runs/server.json

HTTP and engine take turns over the same single-line holes (HumanEval), with the same seeds; the engine runs in this
process, the server in its own. Latency is that of prefix-suffix-middle fills behind one long prefix, which is cached
after the first.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import torch
import typer
from common import CONTEXT, Subject, Suite, finish, markdown_table, progress, reported_errors, verbatim

from quicksilver.api import DecodingOptions, InfillRequest, Model
from quicksilver.errors import EngineError
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.suites.filling import InfillItem

CONCURRENCY = (1, 4, 16)
PREFIX_TOKENS = 400
"""The bundled model's context of 512 has no room for a thousand."""
MAX_HOLE = 24
_COMMAND = (sys.executable, "-c", "import sys; from quicksilver.cli.main import main; sys.exit(main())")


def main(
    model: Annotated[str, typer.Option(help="Bundled model or checkpoint folder.")] = "quicksilver-coder",
    out: Annotated[Path, typer.Option(help="JSON report; a Markdown table beside it.")] = Path("runs/server.json"),
    items: Annotated[int, typer.Option(help="Holes.")] = 20,
    rounds: Annotated[int, typer.Option(help="Turns over the holes.")] = 3,
    requests: Annotated[int, typer.Option(help="Requests for each number of concurrent ones.")] = 96,
    threads: Annotated[int, typer.Option(help="Threads of the engine, here and in the server.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the choice of holes.")] = 0,
) -> None:
    """Measure a server."""
    torch.set_num_threads(threads)
    subject = Subject(
        model=model, suite=Suite.HUMANEVAL, tokens=None, items=items, context=CONTEXT, seed=seed, device="cpu"
    )
    with reported_errors():
        loaded, holes = subject.load(), subject.holes()
        with server(model, threads) as (url, start_seconds), httpx.Client(base_url=url, timeout=120) as client:
            ratio = overhead(client, loaded, holes, rounds)
            latency = {count: latencies(url, loaded, holes, count, requests) for count in CONCURRENCY}
    report = {
        **subject.about(),
        **environment(),
        "overhead": ratio,
        "latency": latency,
        "start_seconds": start_seconds,
    }
    rows = [
        [
            "HTTP ÷ engine alone, single-line fill",
            f"{ratio['ratio']:.2f} ({ratio['http_ms']:.1f} over {ratio['engine_ms']:.1f} ms)",
        ],
        *(
            [
                f"{count} at once, warm prefix: p50, p95, p99 ms; fills/s",
                ", ".join(f"{found[key]:.0f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
                + f"; {found['fills_per_s']:.1f}",
            ]
            for count, found in latency.items()
        ),
        ["start-up to ready, s", f"{start_seconds:.1f}"],
    ]
    finish(out, report, markdown_table(["what", "figure"], rows))


@contextmanager
def server(model: str, threads: int) -> Iterator[tuple[str, float]]:
    """A server process: its URL, and the seconds until it took requests."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"  # a pipe that nobody reads would fill up and stop it
        started = time.perf_counter()
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*_COMMAND, "serve", "--model", model, "--port", "0"],
                stderr=stderr,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        try:
            while process.poll() is None and "\n" not in log.read_text():
                time.sleep(0.01)
            found = re.search(r"http://\S+", log.read_text())
            if found is None:
                raise EngineError(f"the server did not start: {log.read_text()}")
            httpx.get(f"{found.group()}/health").raise_for_status()
            yield found.group(), time.perf_counter() - started
        finally:
            process.terminate()
            process.wait()


def overhead(client: httpx.Client, model: Model, holes: list[InfillItem], rounds: int) -> dict[str, float]:
    """Milliseconds per fill over HTTP and by the engine alone, and the median over holes of their ratio."""
    http: list[float] = []
    alone: list[float] = []
    most = model.spec.decoding.max_hole_length
    with progress() as bar:
        task = bar.add_task("overhead", total=rounds * len(holes), detail="")
        for turn in range(rounds + 1):  # the first warms both up
            for number, item in enumerate(holes):
                order = [0, 1] if (turn + number) % 2 else [1, 0]
                seconds = [0.0, 0.0]
                for side in order:
                    start = time.perf_counter()
                    if side == 0:
                        body = {"prompt": item.prefix, "suffix": item.suffix, "seed": number, "stop": ["\n"]}
                        client.post("/v1/fim/completions", json=body).raise_for_status()
                    else:
                        options = DecodingOptions(seed=number, stop=("\n",))
                        model.run(
                            InfillRequest(texts=(item.prefix, item.suffix), max_hole_length=most, options=options)
                        )
                    seconds[side] = time.perf_counter() - start
                if turn:
                    http.append(seconds[0] * 1000)
                    alone.append(seconds[1] * 1000)
                    bar.advance(task)
    ratios = [one / other for one, other in zip(http, alone, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "http_ms": statistics.median(http),
        "engine_ms": statistics.median(alone),
    }


def latencies(url: str, model: Model, holes: list[InfillItem], concurrent: int, requests: int) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds of fills behind one cached prefix, and fills per second."""
    source = "".join(item.prefix for item in holes)
    prefix = model.tokenizer.decode(model.tokenizer.encode(source)[:PREFIX_TOKENS])
    seconds: list[float] = []
    with httpx.Client(base_url=url, timeout=300) as client:

        def fill(number: int) -> float:
            start = time.perf_counter()
            body = {
                "template": f"{prefix}\n    x{number} = <FILL>\n",
                "layout": "psm",
                "holes": [{"max_length": MAX_HOLE}],
                "stop": ["\\n"],
                "seed": number,
            }
            client.post("/v1/infill", json=body).raise_for_status()
            return time.perf_counter() - start

        fill(-1 % 1000)
        start = time.perf_counter()
        with ThreadPoolExecutor(concurrent) as pool:
            seconds = list(pool.map(fill, range(requests)))
        wall = time.perf_counter() - start
    found = {f"p{each}_ms": float(np.percentile(seconds, each) * 1000) for each in (50, 95, 99)}
    return found | {"fills_per_s": requests / wall}


if __name__ == "__main__":
    main.__doc__ = verbatim(__doc__)
    typer.run(main)
