"""What it costs not to tune a rate: `python -m tests.benchmarks.tuning`.

For each of the small problems of `tests/tuning_problems.py` and each optimizer that finds
its rate: the loss at the end (less the optimum, where that is known; the mean over three
seeds), over that of its base (SGD or Adam), the rate of which was tuned on a grid of 22.

`tuned` is the base with a constant rate, and its last parameters; `alike` is the base with
what the authors of the other advise: an average of the parameters, or a rate that falls.
The columns are by what the first guess is off from the default: 1e+03 starts from a
thousandth of a typical distance, 1e+09 from a thousand times as much, and none of these
methods ever takes a distance back. COCOB guesses but the size of a gradient.
"""

import argparse
import platform

import jax
import numpy as np

import optimjax as ox
from tests.benchmarks.tables import table
from tests.tuning_problems import PROBLEMS, TUNERS, losses_of, tuned, tuned_alike

SCALES = np.float32([1e-3, 1.0, 1e3, 1e6, 1e9])


def rows_of(name):
    """A row for each optimizer: its name, the two bests, and the ratios to both."""
    several = isinstance(PROBLEMS[name]().params, dict)
    for tuner, (base, averages, _) in TUNERS.items():
        if tuner == "ldog" and not several:
            continue  # It is DoG.
        best, rate = tuned(name, base)
        alike, _ = tuned_alike(name, base, averages)
        losses = losses_of(name, tuner, SCALES)
        over = [f"{x:.3g}" for x in losses / best]
        over_alike = [f"{x:.3g}" for x in losses / alike]
        yield [tuner, f"{base} {rate:.0e}", f"{best:.2e}", *over, "  ", *over_alike]


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.tuning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS,
                        metavar="NAME", help=f"of {', '.join(PROBLEMS)}")  # fmt: skip
    args = parser.parse_args()
    device = jax.devices()[0].device_kind
    print(f"{device}, {platform.machine()}, JAX {jax.__version__}, optimjax", end=" ")
    print(ox.__version__)
    scales = [f"{s:.0e}" for s in SCALES]
    header = ["", "tuned", "loss", *scales, "  ", *scales]
    for name in args.problems:
        title = f"{name}, {PROBLEMS[name]().steps} steps: over tuned, over alike"
        table(title, header, list(rows_of(name)))


if __name__ == "__main__":
    main()
