"""The tables of the speed benchmark, from its records."""

from tests.benchmarks.tables import table, without_empty_columns

RATIOS = "ratios are ours over the peer's, ± half of 10th to 90th percentile"


def about(spread):
    """A median, and half the way from the 10th to the 90th percentile."""
    return f"{spread['median']:.2f} ±{(spread['high'] - spread['low']) / 2:.2f}"


def scaled(spread, factor):
    return {key: factor * x for key, x in spread.items()}


def milliseconds(figures, key="seconds"):
    return about(scaled(figures[key], 1e3)) if key in figures else ""


def ratio(figures, key="ratio"):
    return about(figures[key]) if key in figures else ""


def names(records, leave_out=("ours",)):
    """All peers of the records, in their order."""
    found = dict.fromkeys(name for r in records for name in r["peers"])
    return [name for name in found if name not in leave_out]


def show(title, header, rows, left=2):
    table(title, *without_empty_columns(header, rows), left=left)


def step(records):
    others = names(records)
    others = [x for x in others if x != "limit"] + ["limit"]
    rows = [
        [
            r["layout"],
            r["optimizer"],
            milliseconds(r["peers"]["ours"]),
            *(ratio(r["peers"].get(name, {})) for name in others),
            f"{r['bandwidth'] / 1e9:.1f}",
        ]
        for r in records
    ]
    title = f"Step: update and apply, one donated program; {RATIOS}"
    show(title, ["leaves", "optimizer", "ours ms", *others, "GB/s"], rows)


def cold(records):
    others = names(records)
    rows = [
        [
            r["layout"],
            r["optimizer"],
            *(
                f"{mine[part]['median']:.3f}" if part in mine else ""
                for part in ("lower", "compile", "seconds")
            ),
            *(ratio(r["peers"].get(name, {}), "ratio of lower") for name in others),
            *(ratio(r["peers"].get(name, {})) for name in others),
            *(
                f"{r['peers'][name]['seconds']['median']:.3f}" if name in r["peers"] else ""
                for name in others
            ),
        ]
        for r in records
        for mine in [r["peers"]["ours"]]
    ]
    header = ["leaves", "optimizer", "trace+lower", "compile", "ours s"]
    header += [*(f"{name} t+l" for name in others), *others]
    title = f"Cold start: trace, lower and compile, seconds; {RATIOS}"
    show(title, [*header, *(f"{name} s" for name in others)], rows)


def plain(records):
    every = names(records, leave_out=())
    rows = [
        [
            r["layout"],
            r["optimizer"],
            milliseconds(r["peers"]["ours"]),
            *(ratio(r["peers"].get(name, {}), "plain_over_jitted") for name in every),
        ]
        for r in records
    ]
    title = "Without a jit: a plain call of update, over the same call jitted"
    show(title, ["leaves", "optimizer", "ours ms", *every], rows)


def matrices(records):
    rows = []
    for r in records:
        ours = r["peers"]["ours"]
        for name, figures in r["peers"].items():
            cells = [r["layout"], r["optimizer"], name, milliseconds(figures)]
            cells += [ratio(figures)] + [""] * 4
            if figures.get("cold"):
                cells[5] = f"{figures['cold']:.2f}"
                cells[6] = f"{ours['cold'] / figures['cold']:.2f}"
            if figures.get("peak_bytes"):
                cells[7] = f"{figures['peak_bytes'] / 1e6:.1f}"
                cells[8] = f"{figures['peak_bytes'] / figures['argument_bytes']:.2f}"
            rows.append(cells)
    header = ["leaves", "optimizer", "peer", "ms", "ratio", "cold s", "ratio", "peak MB",
              "over arguments"]  # fmt: skip
    title = f"Rules for matrices (of SOAP, the mean of ten steps); {RATIOS}"
    show(title, header, rows, left=3)


def training(records):
    others = names(records, leave_out=("ours", "gradient"))
    shares = ["ours", *(x for x in others if x != "again")]
    rows = [
        [
            r["layout"],
            r["optimizer"],
            milliseconds(r["peers"]["ours"]),
            *(ratio(r["peers"].get(name, {})) for name in others),
            *(
                f"{r['peers'][name]['share']['median']:.1%}" if name in r["peers"] else ""
                for name in shares
            ),
        ]
        for r in records
    ]
    header = ["model", "optimizer", "ours ms", *others, *(f"{x}: share" for x in shares)]
    title = "Training: forward, backward, update and apply; the optimizer's share of each"
    show(f"{title}; {RATIOS}", header, rows)


TABLES = {
    "step": step,
    "cold": cold,
    "plain": plain,
    "matrices": matrices,
    "training": training,
}
