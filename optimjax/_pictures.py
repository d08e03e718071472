"""The picture of a sweep. Matplotlib is imported when it is drawn, not before."""

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# They differ in lightness, and can be told apart by colour-blind readers.
RUNGS = ("#0072B2", "#56B4E9", "#A9A9A9", "#D3D3D3")  # From the last rung to the first.
BEST, NOISE, WORSE = "#D55E00", "#E69F00", "#555555"
MARKERS = "os^Dv<>P"  # One for each choice of the other arguments.
GREY = "#555555"
COLUMNS = 3  # Panels in a row.
SHOWN = 12  # Finalists in the lower panel.


def draw(result: Any, path: Any, argument: str | None) -> None:
    """Draws a `SweepResult` into a file."""
    from matplotlib.figure import Figure

    axis_of = {
        name: found
        for name in result.factories
        if (found := _axis(result, name, argument)) is not None
    }
    if not axis_of:
        what = "a range" if argument is None else f"the argument `{argument}`"
        raise ValueError(f"`SweepResult.plot`: no optimizer of this sweep has {what}.")
    finalists = [c for c in result.finalists if not c.diverged][:SHOWN]
    compared = [c for c in finalists if c.verdict == "best" or not math.isnan(c.behind)]
    rows = math.ceil(len(axis_of) / COLUMNS)
    columns = math.ceil(len(axis_of) / rows)
    heights = [1.25, 3.6 * rows, 1.0 + 0.34 * len(compared)]
    if len(compared) < 2:
        heights.pop()
    figure = Figure(
        figsize=(max(4.2 * columns, 10.0), sum(heights)),
        dpi=150,
        facecolor="white",
        layout="constrained",
    )
    # Each part has a layout of its own, so that long names below squeeze no panel above.
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    all_axes = parts[1].subplots(rows, columns, sharey=True, squeeze=False).flat
    limits = _limits(result)
    _write_title(parts[0], result, limits[1])
    for i, (axes, name) in enumerate(itertools.zip_longest(all_axes, axis_of)):
        if name is None:
            axes.set_axis_off()
            continue
        _draw_scores(axes, result, name, axis_of[name], limits)
        if i % columns == 0:
            axes.set_ylabel("score (lower is better)")
    if len(heights) == 3:
        _draw_differences(parts[2].subplots(), compared, result)
    figure.savefig(path)


def _axis(result: Any, name: str, argument: str | None) -> str | None:
    """The argument that goes along the horizontal axis of an optimizer's panel."""
    tried = [c.settings for c in result.candidates if c.optimizer == name]
    varied = [
        a
        for a in tried[0]
        if all(is_number(s[a]) for s in tried) and len({s[a] for s in tried}) > 1
    ]
    ranges = result.ranges[name]
    if argument is not None:
        return argument if argument in varied else None
    return min(varied, key=lambda a: a not in ranges, default=None)


def _write_title(part: Any, result: Any, high: float) -> None:
    from matplotlib.lines import Line2D

    seeds = f"{result.seeds} seeds" if result.seeds > 1 else "1 seed"
    best = next((c for c in result.finalists if not c.diverged), None)
    title = "Every candidate diverged" if best is None else f"Best: {_name(best)}"
    part.text(0.015, 0.9, title, fontsize=15, fontweight="bold", va="top")
    lines = [
        f"{len(result.candidates)} candidates, {seeds} each. Score: {result.scored}; "
        "line or dot: mean, shade or bar: lowest to highest seed."
    ]
    if result.confidence is not None and best is not None:
        equal = sum(c.verdict == "within noise" for c in result.finalists)
        lines.append(
            f"Others trained to the end: {len(result.finalists) - 1}; within noise of it: "
            f"{equal} (paired t-intervals over seeds, {100 * result.confidence:g} % for "
            "all pairs together)."
        )
    part.text(0.015, 0.62, "\n".join(lines), fontsize=9.5, color=GREY, va="top")
    rungs = sorted({steps for c in result.candidates for steps, _ in c.search})
    handles = [
        Line2D(
            [], [], color=_colour(rungs, steps), linewidth=3, label=f"after {steps} steps"
        )
        for steps in rungs
    ]
    fresh = " (its mean over fresh seeds)" if result.confirmed else ""
    star = Line2D([], [], color=BEST, marker="*", markersize=12, linestyle="none")
    star.set_label(f"the best{fresh}")
    handles.append(star)
    if any(not c.search[0][1].mean() <= high for c in result.candidates):
        gone = Line2D([], [], color=GREY, marker="x", markersize=6, linestyle="none")
        gone.set_label("diverged, or off the panel")
        handles.append(gone)
    part.legend(
        handles=handles,
        ncols=len(handles),
        fontsize=9,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0.008, -0.06),
        columnspacing=1.4,
        handletextpad=0.5,
    )


def _colour(rungs: list[int], steps: int) -> str:
    return RUNGS[min(len(rungs) - 1 - rungs.index(steps), len(RUNGS) - 1)]


def _name(candidate: Any) -> str:
    """Optimizer and settings on one line."""
    settings = ", ".join(f"{k}={_short(v)}" for k, v in candidate.settings.items())
    return f"{candidate.optimizer}({settings})" if settings else candidate.optimizer


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _limits(result: Any) -> tuple[float, float]:
    """The scores that there is room for: not those of runs that all but diverged."""
    scores = [c.scores for c in result.finalists]
    scores += [s for c in result.candidates for _, s in c.search]
    scores = [s for s in scores if np.all(np.isfinite(s))] or [np.ones(1)]
    means = np.sort([s.mean() for s in scores])
    best, middle = means[0], means[len(means) // 2]
    high = middle + 2 * (middle - best)
    if best > 0:
        high = max(high, middle * (middle / best))
    low = min(s.min() for s in scores)
    return low, max(min(high, means[-1]), low + 1e-12)


def _scale_scores(axes: "Axes", low: float, high: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    if low > 0 and high > 5 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * (high / low) ** 0.08)
        if high < 1e3 * low:
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low))


def _draw_scores(
    axes: "Axes", result: Any, name: str, argument: str, limits: tuple[float, float]
) -> None:
    """Scores at every rung against one argument; a line for each choice of the others."""
    from matplotlib.lines import Line2D

    _scale_scores(axes, *limits)
    mine = [c for c in result.candidates if c.optimizer == name]
    ranges = [a for a in result.ranges[name] if a != argument]
    same = [a for a, v in mine[0].settings.items() if all(c.settings[a] == v for c in mine)]
    rungs = sorted({steps for c in result.candidates for steps, _ in c.search})

    def choice(c: Any) -> tuple[tuple[str, Any], ...]:
        free = (argument, *ranges, *same)
        return tuple((k, v) for k, v in c.settings.items() if k not in free)

    choices = sorted(dict.fromkeys(map(choice, mine)), key=_in_order)
    for steps in rungs:
        colour = _colour(rungs, steps)
        for k, chosen in enumerate(choices):
            group = [c for c in mine if choice(c) == chosen]
            points = _points(group, argument, steps)
            if not points:
                continue
            x = np.array([value for value, _ in points])
            y = np.array([scores for _, scores in points])
            axes.plot(
                x,
                y.mean(axis=1),
                color=colour,
                marker=MARKERS[k % len(MARKERS)],
                markersize=5,
                markeredgecolor="white",
                markeredgewidth=0.6,
                zorder=2 + rungs.index(steps),
                **_line(k, ranges),
            )
            ends = y.min(axis=1), y.max(axis=1)
            if ranges or len(x) == 1:
                axes.vlines(x, *ends, color=colour, linewidth=1.4)
            else:
                axes.fill_between(x, *ends, color=colour, alpha=0.18, linewidth=0)
    off = [c.settings[argument] for c in mine if not c.search[0][1].mean() <= limits[1]]
    height = axes.get_xaxis_transform()
    axes.plot(off, [0.98] * len(off), "x", color=GREY, markersize=5, transform=height)
    best = next((c for c in result.finalists if not c.diverged), None)
    if best is not None and best.optimizer == name:
        axes.plot(
            best.settings[argument],
            best.mean,
            marker="*",
            markersize=17,
            color=BEST,
            markeredgecolor="white",
            zorder=20,
            linestyle="none",
        )
    values = [c.settings[argument] for c in mine]
    spread = result.ranges[name].get(argument)
    wide = min(values) > 0 and max(values) > 9 * min(values)
    if wide if spread is None else spread.log:
        axes.set_xscale("log")
    axes.set_xlabel(argument.replace("_", " "))
    axes.set_title(name, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    if len(choices) > 1:
        handles = [
            Line2D(
                [], [], color=GREY, label=", ".join(f"{k}={_short(v)}" for k, v in chosen)
            )
            for chosen in choices
        ]
        for k, handle in enumerate(handles):
            handle.set(marker=MARKERS[k % len(MARKERS)], markersize=5, **_line(k, ranges))
        axes.legend(
            handles=handles,
            ncols=min(3, len(choices)),
            fontsize=8.5,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.15),
        )


def _in_order(chosen: tuple[tuple[str, Any], ...]) -> list[tuple[Any, ...]]:
    """What to sort choices by: numbers by size, before names and `None`."""
    return [(0, v, "") if is_number(v) else (1, 0.0, str(v)) for _, v in chosen]


def _line(k: int, ranges: list[str]) -> dict[str, Any]:
    """The line of a choice; none where further ranges scatter the points."""
    style = "none" if ranges else ("-", "--", ":", "-.")[k % 4]
    return {"linestyle": style, "linewidth": 1.6}


def _points(
    candidates: list[Any], argument: str, steps: int
) -> list[tuple[float, np.ndarray]]:
    """Value and scores of all who were sound at a rung, by value."""
    found = [
        (c.settings[argument], scores)
        for c in candidates
        for at, scores in c.search
        if at == steps and np.all(np.isfinite(scores))
    ]
    return sorted(found, key=lambda point: point[0])


def _draw_differences(axes: "Axes", compared: list[Any], result: Any) -> None:
    """Each finalist's distance behind the best, with its interval."""
    from matplotlib.ticker import MaxNLocator

    places = range(len(compared) - 1, -1, -1)
    for place, c in zip(places, compared, strict=True):
        behind, margin = (0.0, 0.0) if c.verdict == "best" else (c.behind, c.margin)
        colour = {"best": BEST, "within noise": NOISE}.get(c.verdict, WORSE)
        axes.errorbar(
            behind,
            place,
            xerr=margin or None,
            color=colour,
            marker="*" if c.verdict == "best" else "o",
            markersize=13 if c.verdict == "best" else 6,
            capsize=3,
            linewidth=2,
        )
        axes.annotate(
            c.verdict,
            (1.0, place),
            (8, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=colour if c.verdict == "best" else GREY,
            va="center",
            fontsize=9,
        )
    apart = [c.behind for c in compared if c.behind > 0]
    if apart and max(apart) > 100 * min(apart):
        axes.set_xscale("symlog", linthresh=min(apart))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.axvline(0.0, color=GREY, linewidth=0.8, zorder=0)
    axes.set_yticks(list(places), [_name(c) for c in compared], fontsize=9)
    axes.set_ylim(-0.6, len(compared) - 0.4)
    axes.set_xlabel(
        "score behind the best, with the same seeds; the bar holds 0: within noise "
        f"({100 * (result.confidence or 0):g} %)"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
