"""Speed against Optax, measured in one interleaved run: `python -m tests.benchmarks`.

Three tables: the step (update and apply as one donated program), the same step without a
`jit` around it, and the cold start. Times are medians; a ratio is the median of the ratios
of neighbouring runs, so that a machine whose speed drifts does not decide it. The column
`again` is ours against ours: how far from 1.00 noise alone gets.
"""

import argparse
import itertools
import json
import pathlib
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import optimjax as ox

LAYOUTS = {
    "1 x 16M": (1, 16_000_000),
    "10 x 1M": (10, 1_000_000),
    "100 x 10k": (100, 10_000),
    "1000 x 100": (1000, 100),
    "3000 x 16": (3000, 16),
}
OPTIMIZERS = {
    "sgd": (lambda: ox.sgd(1e-3), lambda: optax.sgd(1e-3)),
    "momentum": (lambda: ox.sgd(1e-3, 0.9), lambda: optax.sgd(1e-3, 0.9)),
    "rmsprop": (lambda: ox.rmsprop(1e-3), lambda: optax.rmsprop(1e-3)),
    "adam": (lambda: ox.adam(1e-3), lambda: optax.adam(1e-3)),
    "clip, adamw": (
        lambda: ox.chain(ox.clip_by_global_norm(1.0), ox.adamw(1e-3)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    ),
}


def leaves(count, size):
    params = {f"layer_{i:04d}": jnp.full(size, 0.5) for i in range(count)}
    return params, jax.tree.map(lambda p: 0.1 * p, params)


class Step:
    """One library's step: what compiling it costs, and what running it does."""

    def __init__(self, tx, apply, params, grads):
        def step(grads, state, params):
            updates, state = tx.update(grads, state, params)
            return apply(params, updates), state

        self.tx, self.grads = tx, grads
        self.params = jax.tree.map(jnp.copy, params)
        self.state = tx.init(params)
        clock = [time.perf_counter()]
        traced = jax.jit(step, donate_argnums=(1, 2)).trace(grads, self.state, self.params)
        clock.append(time.perf_counter())
        lowered = traced.lower()
        clock.append(time.perf_counter())
        self.compiled = lowered.compile()
        clock.append(time.perf_counter())
        self.cold = [b - a for a, b in itertools.pairwise(clock)]

    def run(self):
        start = time.perf_counter()
        self.params, self.state = self.compiled(self.grads, self.state, self.params)
        jax.block_until_ready((self.params, self.state))
        return time.perf_counter() - start


def ratio_of(first, second, rounds):
    """Medians of two timings taken in turn, and of their ratios."""
    pairs = [(first(), second()) for _ in range(rounds)][2:]
    a, b = (statistics.median(x) for x in zip(*pairs, strict=True))
    return a, b, statistics.median(x / y for x, y in pairs)


def plain_and_jitted(tx, params, grads):
    """Two functions that time one update: as called plainly, and inside of a `jit`."""
    state, jitted = tx.init(params), jax.jit(tx.update)

    def timed(update):
        start = time.perf_counter()
        jax.block_until_ready(update(grads, state, params))
        return time.perf_counter() - start

    return (lambda: timed(tx.update)), (lambda: timed(jitted))


def table(title, header, rows):
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(
            zip(row, widths, strict=True))]  # fmt: skip
        print("  " + "  ".join(cells))


def measure(optimizers, layouts, rounds):
    records = []
    for layout in layouts:
        count, size = LAYOUTS[layout]
        params, grads = leaves(count, size)
        for name in optimizers:
            ours, theirs = (make() for make in OPTIMIZERS[name])
            a = Step(ours, ox.apply_updates, params, grads)
            b = Step(theirs, optax.apply_updates, params, grads)
            again = Step(OPTIMIZERS[name][0](), ox.apply_updates, params, grads)
            step, other, ratio = ratio_of(a.run, b.run, rounds)
            _, _, noise = ratio_of(a.run, again.run, rounds)
            few = max(6, rounds // 4)
            plain = ratio_of(*plain_and_jitted(ours, params, grads), few)
            plain_other = ratio_of(*plain_and_jitted(theirs, params, grads), few)
            records.append({
                "layout": layout, "optimizer": name,
                "step_ms": 1e3 * step, "optax_step_ms": 1e3 * other,
                "step_ratio": ratio, "again": noise,
                "plain_ms": 1e3 * plain[0], "plain_over_jitted": plain[2],
                "optax_plain_over_jitted": plain_other[2],
                "cold_s": a.cold, "optax_cold_s": b.cold,
            })  # fmt: skip
            r = records[-1]
            print(f"  measured {layout:10s} {name:12s} step ratio {r['step_ratio']:.2f}")
    return records


def report(records):
    head = lambda r: [r["layout"], r["optimizer"]]
    table(
        "Step: update and apply, one donated program",
        ["leaves", "optimizer", "ours ms", "Optax ms", "ratio", "again"],
        [
            [
                *head(r),
                f"{r['step_ms']:.2f}",
                f"{r['optax_step_ms']:.2f}",
                f"{r['step_ratio']:.2f}",
                f"{r['again']:.2f}",
            ]
            for r in records
        ],
    )
    table(
        "Without a jit: a plain call of update, over the same call jitted",
        ["leaves", "optimizer", "ours ms", "ours", "Optax"],
        [
            [
                *head(r),
                f"{r['plain_ms']:.2f}",
                f"{r['plain_over_jitted']:.1f}",
                f"{r['optax_plain_over_jitted']:.1f}",
            ]
            for r in records
        ],
    )
    table(
        "Cold start: trace + lower + compile, seconds",
        ["leaves", "optimizer", "ours", "Optax", "trace+lower ratio", "total ratio"],
        [
            [
                *head(r),
                " + ".join(f"{x:.2f}" for x in r["cold_s"]),
                " + ".join(f"{x:.2f}" for x in r["optax_cold_s"]),
                f"{sum(r['cold_s'][:2]) / sum(r['optax_cold_s'][:2]):.2f}",
                f"{sum(r['cold_s']) / sum(r['optax_cold_s']):.2f}",
            ]
            for r in records
        ],
    )


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS),
                        choices=OPTIMIZERS, metavar="NAME")  # fmt: skip
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS,
                        metavar="LAYOUT", help=f"of {', '.join(LAYOUTS)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here, too")
    args = parser.parse_args()

    device = jax.devices()[0]
    print(f"{device.device_kind}, {platform.machine()}, JAX {jax.__version__}, ", end="")
    print(f"Optax {optax.__version__}, {args.rounds} rounds")
    records = measure(args.optimizers, args.layouts, args.rounds)
    report(records)
    if args.json:
        args.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
