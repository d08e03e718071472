"""Speed against the peers, in one interleaved run: `python -m tests.benchmarks`.

In every round each peer has its turn, behind another one than in the last. Times are
medians over rounds; a ratio is ours over the peer's in the same round, the median of
these, so that a machine whose speed drifts does not decide it. The peers:

- again: ours, compiled once more: how far from 1.00 noise alone gets.
- packed: ours in `pack_small_leaves`, where it takes the optimizer.
- Optax; torch with `foreach`, with `fused`, or without for what has neither.
- loop: plain `jnp` over the leaves, as a careful user writes it (`by_hand.py`).
- leaf by leaf: ours, each matrix by itself.
- limit: the bytes that a step has to read and write over the bandwidth that `x = a x + y`
  reaches over arrays of 128 MB, x donated, before and after the row. What fits into the
  caches of the processor can be faster.

Every step is called as its users call it: a compiled program that donates params and
state. Muon and SOAP are given vectors as matrices of as many numbers. A cold start begins
with empty caches of JAX, in a process that has imported and compiled before.

Without `--optimizers`, each table has those that are worth their time on the layout: from
1000 leaves on, the programs of five peers take minutes to compile.
"""

import argparse
import datetime
import functools
import json
import os
import pathlib
import platform
from typing import NamedTuple

import jax
import optax

import optimjax as ox
from tests.benchmarks import layouts, measures, peers, plots, report, timing, training

FEW = ("adam", "clip_adamw")
QUICK = {
    "step": ["10x1M", "100x10k", "300x16", "transformer:4x128"],
    "cold": ["10x16", "100x16", "300x16"],
    "plain": ["10x10k", "100x100"],
    "matrices": ["24x64x64"],
}
LAYOUTS = {
    "step": [*layouts.FLAT, *layouts.MODELS],
    "cold": ["10x16", "100x16", "1000x16", "3000x16"],
    "plain": ["10x1M", "100x10k", "1000x100"],
    "matrices": ["24x128x128", "96x128x128"],
}
TABLES = (*LAYOUTS, "training")


class Plan(NamedTuple):
    rounds: int
    seconds: float
    triad: timing.Triad
    note: object


def chosen(table, layout, args):
    """The optimizers of a row."""
    if table == "matrices":
        given = [x for x in args.optimizers or () if x in peers.FOR_MATRICES]
        return given or peers.FOR_MATRICES
    if args.optimizers:
        return args.optimizers
    if table == "training":
        return [*FEW, "muon"]
    leaves = len(layout.shapes)
    if leaves >= (1000 if table == "cold" else 3000):
        return FEW[:1]
    if args.quick or leaves >= 1000 or table != "step":
        return FEW
    # Products of matrices of a million numbers take seconds.
    small = max(map(len, layout.shapes.values())) > 1 or layout.parameters <= 2_000_000
    return [x for x in peers.OURS if x != "soap" and (x != "muon" or small)]


def planned(args):
    """Rows as (table, what, measurement), in the order of the tables."""
    defaults = QUICK if args.quick else LAYOUTS
    for table in args.tables:
        if table == "training":
            for model in training.MODELS:
                for optimizer in chosen(table, None, args):
                    measure = functools.partial(measures.train, model, optimizer)
                    yield table, f"{model} {optimizer}", measure
            continue
        given = args.matrices if table == "matrices" else args.layouts
        for layout in given or map(layouts.layout, defaults[table]):
            for optimizer in chosen(table, layout, args):
                measure = functools.partial(getattr(measures, table), layout, optimizer)
                yield table, f"{layout.name} {optimizer}", measure


def setting(args):
    """Where, when and with what this was measured."""
    found = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": timing.cores(),
        "python": platform.python_version(),
        "optimjax": ox.__version__,
        "jax": jax.__version__,
        "optax": optax.__version__,
        "rounds": args.rounds,
    }
    if peers.has_torch():
        import torch

        found["torch"] = torch.__version__
        for key in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
            if key in os.environ:
                found[key] = os.environ[key]
    return found


def parsed(argv):
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=f"{__doc__}\n{layouts.__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--tables", nargs="+", default=TABLES, choices=TABLES, metavar="TABLE",
        help=f"of {', '.join(TABLES)}")  # fmt: skip
    add("--layouts", nargs="+", type=layouts.layout, metavar="LAYOUT",
        help="for step, cold and plain, such as 2000x50")  # fmt: skip
    add("--matrices", nargs="+", type=layouts.layout, metavar="LAYOUT",
        help="for matrices, such as 24x256x256")  # fmt: skip
    add("--optimizers", nargs="+", choices=peers.OURS, metavar="NAME",
        help=f"of {', '.join(peers.OURS)}")  # fmt: skip
    add("--rounds", type=int, help="at most; 30, or 7 if quick")
    add("--seconds", type=float, help="for a row, beyond seven rounds; 3, or 1 if quick")
    add("--triad", type=int, default=128, metavar="MB", help="an array of the limit's")
    add("--quick", action="store_true", help="fewer and smaller, in about two minutes")
    add("--json", type=pathlib.Path, metavar="FILE", help="write the figures here, too")
    add("--plots", type=pathlib.Path, metavar="DIR", help="draw times over leaves here")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (7 if args.quick else 30)
    args.seconds = args.seconds or (1.0 if args.quick else 3.0)
    return args


def main(argv=None):
    from rich.progress import Progress  # Of the extra `benchmarks`.

    args = parsed(argv)
    rows = list(planned(args))
    result = {"setting": setting(args)} | {table: [] for table in args.tables}
    print(", ".join(f"{key} {x}" for key, x in result["setting"].items()))
    with Progress() as progress:
        plan = Plan(args.rounds, args.seconds, timing.Triad(args.triad),
                    progress.console.print)  # fmt: skip
        task = progress.add_task("", total=len(rows))
        for table, what, measure in rows:
            progress.update(task, description=f"{table:8} {what:28}")
            result[table].append(measure(plan=plan))
            if args.json:  # At once: a long run may be stopped.
                args.json.write_text(json.dumps(result, indent=1))
            progress.advance(task)
    for table in args.tables:
        if result[table]:
            report.TABLES[table](result[table])
    if args.plots:
        print("\n" + "\n".join(f"drawn: {path}" for path in plots.draw(result, args.plots)))
    return result


if __name__ == "__main__":
    # A cold start is none if programs come from a disk.
    jax.config.update("jax_enable_compilation_cache", False)
    main()
