"""Pictures of the speed benchmark: times over the number of leaves."""

import math

# Told apart by colour-blind readers, and by their markers.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
MARKERS = "osD^v<>"
COLUMNS = 3


def draw(records, directory):
    """Draws what there are records of into `directory`; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    flat = [r for r in records.get("step", []) if r["layout"][0].isdigit()]
    drawn = []
    for name, found, title in (
        ("step", flat, "A step, ms"),
        ("cold", records.get("cold", []), "Trace, lower and compile, ms"),
    ):
        if found:
            drawn.append(directory / f"{name}.png")
            picture(found, title).savefig(drawn[-1])
    return drawn


def picture(records, title):
    from matplotlib.figure import Figure

    optimizers = list(dict.fromkeys(r["optimizer"] for r in records))
    peers = dict.fromkeys(name for r in records for name in r["peers"])
    peers = [name for name in peers if name != "again"]
    columns = min(COLUMNS, len(optimizers))
    rows = math.ceil(len(optimizers) / columns)
    figure = Figure((4.2 * columns + 1.6, 3.2 * rows), dpi=120, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    handles = {}
    for axes, optimizer in zip(panels, optimizers, strict=False):
        mine = [r for r in records if r["optimizer"] == optimizer]
        mine.sort(key=lambda r: r["leaves"])
        for i, name in enumerate(peers):
            found = [r for r in mine if name in r["peers"]]
            if not found:
                continue
            x = [r["leaves"] for r in found]
            times = [r["peers"][name]["seconds"] for r in found]
            colour = COLOURS[i % len(COLOURS)]
            style = {"ls": "--"} if name == "limit" else {"marker": MARKERS[i % 7], "ms": 4}
            (handles[name],) = axes.loglog(
                x, [1e3 * t["median"] for t in times], color=colour, **style
            )
            low, high = ([1e3 * t[key] for t in times] for key in ("low", "high"))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        axes.set_title(optimizer)
        axes.set_xlabel("leaves")
        axes.grid(alpha=0.3)
    for axes in panels[len(optimizers) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel(title)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    return figure
