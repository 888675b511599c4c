"""The pictures, as PNG."""

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from quicksilver.evaluation.frontier.crossover import UNITS, Axis, Comparison, crossings
from quicksilver.evaluation.frontier.sweep import DIFFUSION, TWIN, Point
from quicksilver.evaluation.pictures import pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 160
_COLORS = {
    "-": ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22"),
    "--": ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#666666"),
    "*": ("#17becf", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#7f7f7f"),
}
"""In place, block by block, and what is no diffusion: by style of the line."""
_MARKERS = ("o", "s", "D", "v", "P", "X", "^", "<", ">", "p")


def frontier_picture(points: Sequence[Point], quality: str) -> bytes:
    """Quality over tokens per second and over tokens per forward; a line per family, the front in black."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained", sharey=True)
    for axes, name, label in (
        (panels[0], "tokens_per_s", "tokens per second, one request at a time"),
        (panels[1], "tpf", "tokens per forward (TPF)"),
    ):
        _draw_families(axes, points, name)
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
    _draw_front(panels[0], points)
    panels[0].set_ylabel(quality.replace("_", " "))
    top = max(each.quality.high for each in points)
    panels[0].set_ylim(-0.03 * top, 1.03 * top or 1)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    return _png(figure)


def _draw_families(axes: "Axes", points: Sequence[Point], name: str) -> None:
    families = dict.fromkeys(point.family for point in points)
    counts = {style: 0 for style in ("-", "--", "*")}
    for family in families:
        mine = [each for each in points if each.family == family and getattr(each, name) is not None]
        if not mine:  # a server does not count forwards
            continue
        mine.sort(key=lambda each: getattr(each, name).value)
        style = "*" if mine[0].kind != DIFFUSION else "-" if mine[0].is_in_place else "--"
        color = "black" if mine[0].kind == TWIN else _COLORS[style][counts[style] % 8]
        marker = _MARKERS[counts[style] % len(_MARKERS)]
        counts[style] += 1
        bars = [
            [each.quality.value - each.quality.low for each in mine],
            [each.quality.high - each.quality.value for each in mine],
        ]
        look = {"linestyle": style, "marker": marker, "markersize": 4, "elinewidth": 0.3, "alpha": 0.85}
        if style == "*":
            look = {"linestyle": "none", "marker": "*", "markersize": 15, "elinewidth": 0.8, "zorder": 5}
        x, y = [getattr(each, name).value for each in mine], [each.quality.value for each in mine]
        axes.errorbar(x, y, yerr=bars, color=color, linewidth=1, label=family, **look)


def _draw_front(axes: "Axes", points: Sequence[Point]) -> None:
    front = sorted((each.tokens_per_s.value, each.quality.value) for each in points if each.is_on_front)
    axes.step(
        [x for x, _ in front], [y for _, y in front], where="pre", color="black", linewidth=1, label="front", zorder=4
    )
    for each in points:
        if each.is_chosen:
            place = (each.tokens_per_s.value, each.quality.value)
            axes.scatter(*place, s=170, facecolors="none", edgecolors="black", linewidths=1.4, label="chosen", zorder=6)


def crossover_picture(points: Sequence[Comparison]) -> bytes:
    """Above: tokens per second of both sides along every axis; below: their ratio, and where it passes 1."""
    plt = pyplot()
    axes_measured = list(dict.fromkeys(each.axis for each in points))
    figure, panels = plt.subplots(
        2, len(axes_measured), figsize=(4.4 * len(axes_measured), 6), layout="constrained", sharex="col", squeeze=False
    )
    for column, axis in enumerate(axes_measured):
        mine = sorted((each for each in points if each.axis is axis), key=lambda each: each.value)
        _draw_speeds(panels[0][column], mine)
        _draw_ratio(panels[1][column], mine, axis)
    panels[0][0].set_ylabel("tokens per second")
    panels[1][0].set_ylabel("diffusion over twin")
    panels[0][0].legend(fontsize=8, frameon=False)
    return _png(figure)


def _draw_speeds(axes: "Axes", mine: Sequence[Comparison]) -> None:
    x = [each.value for each in mine]
    axes.plot(x, [each.diffusion.tokens_per_s for each in mine], "o-", markersize=4, label="diffusion")
    axes.plot(x, [each.twin.tokens_per_s for each in mine], "*-", markersize=8, color="black", label="twin")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)


def _draw_ratio(axes: "Axes", mine: Sequence[Comparison], axis: Axis) -> None:
    x, y = [each.value for each in mine], [each.ratio for each in mine]
    axes.plot(x, y, "o-", markersize=4, color="C3")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.fill_between(x, y, 1, where=[value < 1 for value in y], interpolate=True, color="C3", alpha=0.12)
    for at, _ in crossings(mine):
        axes.axvline(at, color="black", linewidth=0.8, linestyle=":")
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(f"{at:.2g}", (at, 0.97), xytext=(4, 0), **place, fontsize=9, verticalalignment="top")
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [str(value) for value in x])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(UNITS[axis])
    axes.grid(alpha=0.25)


def _png(figure: "Figure") -> bytes:
    import matplotlib.pyplot as plt

    buffer = BytesIO()
    # Without the date and version that matplotlib writes, the same figures give the same file.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
