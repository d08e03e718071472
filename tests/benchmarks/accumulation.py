"""What gathering a gradient costs: `python -m tests.benchmarks.accumulation`.

`accumulate(adamw, 8)` against Optax's `MultiSteps`, in one interleaved run: a training step
`(params, state, gradients) -> (params, state)`, which donates both, and `update` by itself,
which donates the state. Of every eight calls seven are silent and one takes the step.

Bytes are those that the compiled program reads and writes in a call, by XLA's own count of
each instruction that is run: in a program with a branch, of the branch that is taken. They
are given in units of one copy of the parameters. The least that a silent update can do is
to read the gradient, read and write the sum, and write zeros: 4; a training step adds the
zeros to the params besides: 7.

Times are medians over all calls of a kind.
"""

import argparse
import itertools
import math
import platform
import re
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import optimjax as ox
from tests.benchmarks import layouts
from tests.benchmarks.tables import table

EVERY = 8
WIDTHS = {"f64": 8, "f32": 4, "s64": 8, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1}
# These only name a buffer.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}


def size_of(shape):
    """The bytes of all arrays in a shape as XLA writes it, tuples included."""
    return sum(
        WIDTHS[dtype] * math.prod(int(n) for n in axes.split(",") if n)
        for dtype, axes in re.findall(r"(\w+)\[([\d,]*)\]", shape)
    )


class Program:
    """An optimized program of XLA, as text."""

    def __init__(self, text):
        self.computations = {}
        for head, body in re.findall(
            r"^((?:ENTRY )?%\S+) .*?\{\n(.*?)^\}", text, re.M | re.S
        ):
            lines = [line.strip().removeprefix("ROOT ") for line in body.splitlines()]
            self.computations[head.removeprefix("ENTRY ")] = lines
            if head.startswith("ENTRY"):
                self.entry = head.removeprefix("ENTRY ")

    def bytes_moved(self, branch, name=None):
        """What is read and written where every `conditional` takes this branch."""
        lines = self.computations[name or self.entry]
        parsed = [re.match(r"(%\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)", x) for x in lines]
        sizes = {m[1]: size_of(m[2]) for m in parsed if m}
        moved = 0
        for m in filter(None, parsed):
            operation, rest = m[3], m[4]
            if operation == "conditional":
                found = re.search(r"branch_computations=\{([^}]*)\}", rest)
                moved += self.bytes_moved(branch, found[1].split(", ")[branch])
            elif operation == "call":
                moved += self.bytes_moved(
                    branch, re.search(r"to_apply=(%[\w.-]+)", rest)[1]
                )
            elif operation not in FREE:
                operands = re.findall(r"%[\w.-]+", rest.split("), ")[0])
                moved += sizes[m[1]] + sum(sizes.get(x, 0) for x in operands)
        return moved


class Run:
    """One library's accumulation, compiled, with the times of its calls."""

    def __init__(self, tx, apply, params, grads, whole):
        def train(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return apply(params, updates), state

        def update(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return state, updates

        self.whole, self.grads = whole, grads
        self.params, self.state = jax.tree.map(jnp.copy, params), tx.init(params)
        step = jax.jit(train, donate_argnums=(0, 1)) if whole else jax.jit(
            update, donate_argnums=1)  # fmt: skip
        self.compiled = step.lower(self.params, self.state, grads).compile()
        program, one = Program(self.compiled.as_text()), sum(
            p.nbytes for p in jax.tree.leaves(params))  # fmt: skip
        self.copies = [program.bytes_moved(branch) / one for branch in (0, 1)]
        self.temporary = self.compiled.memory_analysis().temp_size_in_bytes / one
        self.times = [[], []]

    def call(self, emits):
        start = time.perf_counter()
        out = self.compiled(self.params, self.state, self.grads)
        jax.block_until_ready(out)
        self.times[emits].append(time.perf_counter() - start)
        if self.whole:
            self.params, self.state = out
        else:
            self.state, _ = out


def measure(layout, windows):
    params, grads = layouts.leaves(layout)
    rows = []
    for what, whole in (("update", False), ("train", True)):
        runs = {
            "ours": Run(
                ox.accumulate(ox.adamw(1e-3), EVERY), ox.apply_updates, params, grads, whole
            ),
            "Optax": Run(
                optax.MultiSteps(optax.adamw(1e-3), EVERY),
                optax.apply_updates,
                params,
                grads,
                whole,
            ),
        }
        for i, run in itertools.product(range(windows * EVERY), runs.values()):
            run.call(i % EVERY == EVERY - 1)
        for name, run in runs.items():
            silent, emitting = (statistics.median(t[2:]) for t in run.times)
            rows.append([layout.name, what, name, *(f"{x:.1f}" for x in run.copies),
                         f"{run.temporary:.1f}", f"{1e3 * silent:.2f}",
                         f"{1e3 * emitting:.2f}"])  # fmt: skip
        medians = [[statistics.median(t[2:]) for t in r.times] for r in runs.values()]
        rows.append([layout.name, what, "ratio", "", "", "",
                     *(f"{a / b:.2f}" for a, b in zip(*medians, strict=True))])  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.accumulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layouts", nargs="+", type=layouts.layout, metavar="LAYOUT",
                        default=[layouts.layout(x) for x in ("10x1M", "100x10k")],
                        help="such as 10x1M")  # fmt: skip
    parser.add_argument("--windows", type=int, default=12, help="of eight calls each")
    args = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, {platform.machine()}, JAX {jax.__version__}, ", end="")
    print(f"Optax {optax.__version__}, {args.windows} windows of {EVERY}")
    header = ["leaves", "", "", "silent copies", "emitting", "temporary", "silent ms",
              "emitting ms"]  # fmt: skip
    rows = [row for layout in args.layouts for row in measure(layout, args.windows)]
    table("accumulate(adamw, 8) and MultiSteps", header, rows)


if __name__ == "__main__":
    main()
