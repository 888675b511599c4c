"""Latency and goodput over the rate of arrivals."""

from pathlib import Path

from quicksilver.errors import UsageError
from quicksilver.evaluation.load.measuring import SERVER, LoadRow
from quicksilver.evaluation.load.work import Kind
from quicksilver.evaluation.pictures import pyplot


def plot_load(rows: "list[LoadRow]", out: Path, title: str) -> None:
    """Time of fills, time to the first text of continuations, and goodput; a line per server.

    Raises:
        UsageError: the file cannot be written, or there is no load to draw.
    """
    if not rows:
        raise UsageError("there is no load to draw: --plot needs the part load")
    plt = pyplot()
    figure, (fills, first, good) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for server in dict.fromkeys(row.server for row in rows):
        mine = sorted((row for row in rows if row.server == server), key=lambda row: row.rate)
        color, marker = ("C0", "o") if server == SERVER else ("black", "*")
        for axes, kind, figure_name in ((fills, Kind.FILL, "total_ms"), (first, Kind.GENERATE, "first_ms")):
            for quantile, style in (("p50", "-"), ("p99", ":")):
                points = [
                    (row.rate, getattr(found, quantile))
                    for row in mine
                    if kind.value in row.figures
                    and (found := getattr(row.figures[kind.value], figure_name)) is not None
                ]
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    linestyle=style,
                    marker=marker,
                    markersize=5,
                    color=color,
                    label=f"{server}, {quantile}",
                )
        rates, goodput = [row.rate for row in mine], [row.figures["all"].goodput for row in mine]
        good.plot(rates, goodput, marker=marker, markersize=5, color=color, label=server)
    # What a server that never falls behind would reach.
    ends = [min(row.rate for row in rows), max(row.rate for row in rows)]
    good.plot(ends, ends, color="grey", linewidth=0.8, linestyle="--", label="all of them")
    for axes, label in (
        (fills, "a fill, whole, ms"),
        (first, "first text of a continuation, ms"),
        (good, "answers in time a second"),
    ):
        axes.set_xlabel("requests a second")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=160)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {out}: {error}") from error
    finally:
        plt.close(figure)
