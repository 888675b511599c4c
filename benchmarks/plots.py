"""Pictures of the reports."""

import json
from pathlib import Path


def plot_adaptation(report: Path, out: Path) -> None:
    """Bits per byte over tokens, a panel per reading and a line per run; dashes: the twin's own."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    values = json.loads(report.read_text(encoding="utf-8"))
    titles = {"bound": "bound, any order", "chain": "chain rule, left to right", "exact": "next token"}
    figure, panels = plt.subplots(1, len(titles), figsize=(12, 4), layout="constrained", sharey=True)
    for axes, (reading, title) in zip(panels, titles.items(), strict=True):
        for variant in dict.fromkeys(row["variant"] for row in values["rows"]):
            rows = [row for row in values["rows"] if row["variant"] == variant]
            tokens = [row["tokens"] / 1e6 for row in rows]
            bits = [row["readings"][reading]["bits_per_byte"]["value"] for row in rows]
            axes.plot(tokens, bits, marker="o", markersize=4, linewidth=1, label=variant)
        axes.axhline(values["twin"]["bits_per_byte"]["value"], linestyle="--", color="gray", label="twin, next token")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("million tokens")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("bits per byte")
    panels[0].legend(fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)


def plot_engine(report: Path, out: Path) -> None:
    """Throughput and latency over concurrent requests, milliseconds over rows, on logarithmic axes.

    What was not measured stays empty.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    values = json.loads(report.read_text(encoding="utf-8"))
    figure, (speed, latency, costs) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for number, (name, levels) in enumerate(values.get("load", {}).items()):
        x = [each["level"] for each in levels]
        speed.plot(x, [each["tokens_per_s"] for each in levels], marker="o", markersize=4, label=name)
        for quantile, style in (("p50", "-"), ("p99", ":")):
            y = [each[f"{quantile}_ms"] for each in levels]
            latency.plot(x, y, style, color=f"C{number}", marker="o", markersize=3, label=f"{name}, {quantile}")
    if "costs" in values:
        costs.plot(values["costs"]["num_rows"], values["costs"]["ms"], marker="o", markersize=4)
        costs.axvline(values["costs"]["row_budget"], color="grey", linewidth=1, linestyle="--")
    panels = ((speed, "tokens/s"), (latency, "latency, ms"), (costs, "ms per forward"))
    for axes, label in panels:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylabel(label)
        axes.set_xlabel("rows" if axes is costs else "concurrent requests")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    figure.suptitle(f"{values['model']}, {values['dtype']}, {values['device']}", fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)
