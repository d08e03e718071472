"""Compare optimizers on handwritten digits: hundreds of trainings, one compiled program.

A small network learns the digits that scikit-learn ships, once for every optimizer, every
learning rate and every seed. A transformation of this library is a pair of pure functions,
and a learning rate may be traced, so that `jax.vmap` turns one training into the whole
grid of them, and `jax.jit` makes one program of it all.

Run it, from anywhere:

    pip install -e '.[examples]'    # in a clone
    python compare_optimizers.py
    python compare_optimizers.py --optimizers sgd,adam --steps 100 --out two.png

It prints a table and draws a picture. Start reading at `train`.
"""

import argparse
import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optimjax as ox

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ImportError as error:
    raise SystemExit(
        f"{error.name} is missing; get it with: pip install -e '.[examples]' in a clone"
    ) from None


class Entry(NamedTuple):
    make: Callable[[Any], ox.GradientTransformation]  # From a learning rate.
    lowest: float  # The lowest rate on its grid.
    colour: str
    line: Any  # A line style.


# Where each grid begins was found by trying: the best rate should lie well inside. The
# colours can be told apart by colour-blind readers too, and the lines without colour.
OPTIMIZERS = {
    "sgd": Entry(ox.sgd, 1e-3, "#000000", "-"),
    "momentum": Entry(ox.momentum, 1e-3, "#888888", "--"),
    "adagrad": Entry(ox.adagrad, 1e-3, "#E69F00", "-"),
    "rmsprop": Entry(ox.rmsprop, 1e-4, "#56B4E9", "-."),
    "adam": Entry(ox.adam, 1e-4, "#D55E00", "-"),
    "adamw": Entry(ox.adamw, 1e-4, "#0072B2", ":"),
    "nadam": Entry(ox.nadam, 1e-4, "#009E73", "--"),
    "amsgrad": Entry(ox.amsgrad, 1e-4, "#CC79A7", "-"),
    "adamax": Entry(ox.adamax, 1e-4, "#882255", "-."),
}
GRID = np.array([1, 3, 10, 30, 100, 300, 1000, 3000, 10000])  # Times the lowest rate.
HIDDEN = 64  # Units in the hidden layer.
POINTS = 50  # How often, in a training, the loss is looked at.
TIMED_ROUNDS, TIMED_CALLS = 30, 50  # Rounds of timing, and calls in each.
GREY = "#555555"
LIMITS = (0.07, 0.99)  # The accuracies that the picture has room for.


# The task: digits, a network, a loss.


class Digits(NamedTuple):
    pixels: jax.Array  # (samples, 64), from 0 to 1.
    labels: jax.Array  # (samples,), from 0 to 9.


def load_data() -> tuple[Digits, Digits]:
    """The training set and the test set; the split is always the same."""
    pixels, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels / 16, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return (
        Digits(jnp.float32(train_x), jnp.int32(train_y)),
        Digits(jnp.float32(test_x), jnp.int32(test_y)),
    )


def init_network(key: jax.Array) -> dict[str, jax.Array]:
    first, second = jax.random.split(key)
    init = jax.nn.initializers.he_normal()
    return {
        "w1": init(first, (64, HIDDEN)),
        "b1": jnp.zeros(HIDDEN),
        "w2": init(second, (HIDDEN, 10)),
        "b2": jnp.zeros(10),
    }


def network(params: dict[str, jax.Array], pixels: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(pixels @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def cross_entropy(params: dict[str, jax.Array], data: Digits) -> jax.Array:
    log_p = jax.nn.log_softmax(network(params, data.pixels))
    return -jnp.mean(jnp.take_along_axis(log_p, data.labels[:, None], axis=1))


def accuracy(params: dict[str, jax.Array], data: Digits) -> jax.Array:
    return jnp.mean(jnp.argmax(network(params, data.pixels), axis=1) == data.labels)


def batch_order(key: jax.Array, samples: int, steps: int, size: int) -> jax.Array:
    """Which samples each step sees, (steps, size): one shuffled pass after another."""
    passes = -(-steps * size // samples)
    keys = jax.random.split(key, passes)
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, samples))(keys)
    return shuffled.reshape(-1)[: steps * size].reshape(steps, size)


# The program: one training, and from it all of them.


class Run(NamedTuple):
    params: Any
    state: Any  # Of the optimizer.


class Score(NamedTuple):
    loss: Any  # Cross-entropy over the whole training set; infinite once it diverged.
    accuracy: Any  # On the test set; 0 once it diverged.


def train(
    name: str,
    stride: int,
    run: Run,
    rate: jax.Array,
    order: jax.Array,
    data: tuple[Digits, Digits],
    first: jax.Array,
    last: jax.Array,
) -> tuple[Run, Score]:
    """One training, taken on from step `first` to step `last`, `stride` steps at most."""
    training, test = data
    optimizer = OPTIMIZERS[name].make(rate)  # The rate is traced: no number yet.

    def step(run: Run, i: jax.Array) -> Run:
        batch = Digits(training.pixels[order[i]], training.labels[order[i]])
        gradient = jax.grad(cross_entropy)(run.params, batch)
        updates, state = optimizer.update(gradient, run.state, run.params)
        return Run(ox.apply_updates(run.params, updates), state)

    def step_if_due(run: Run, i: jax.Array) -> tuple[Run, None]:
        # `last` is traced: one program serves all parts, of whatever length.
        return jax.lax.cond(i < last, step, lambda run, i: run, run, i), None

    run, _ = jax.lax.scan(step_if_due, run, first + jnp.arange(stride))
    loss = cross_entropy(run.params, training)
    sound = jnp.isfinite(loss)
    return run, Score(
        jnp.where(sound, loss, jnp.inf),
        jnp.where(sound, accuracy(run.params, test), 0.0),
    )


def train_all(
    stride: int,
    runs: dict[str, Run],
    rates: dict[str, jax.Array],
    orders: jax.Array,
    data: tuple[Digits, Digits],
    first: jax.Array,
    last: jax.Array,
) -> tuple[dict[str, Run], dict[str, Score]]:
    """Every training: each optimizer's runs have the leading axes (rates, seeds)."""
    new_runs, scores = {}, {}
    for name, run in runs.items():
        one = functools.partial(train, name, stride)
        seeds = jax.vmap(one, in_axes=(0, None, 0, None, None, None))
        grid = jax.vmap(seeds, in_axes=(0, 0, None, None, None, None))
        new_runs[name], scores[name] = grid(run, rates[name], orders, data, first, last)
    return new_runs, scores


def start_all(names: Sequence[str], keys: jax.Array) -> dict[str, Run]:
    """Every run at step 0. One seed is one network, whatever the optimizer and rate."""

    def start(name: str, key: jax.Array) -> Run:
        params = init_network(key)
        return Run(params, OPTIMIZERS[name].make(0.0).init(params))

    def for_each_rate(x: jax.Array) -> jax.Array:
        return jnp.repeat(x[None], len(GRID), axis=0)

    runs = {name: jax.vmap(functools.partial(start, name))(keys) for name in names}
    return jax.tree.map(for_each_rate, runs)


# Running it.


class Result(NamedTuple):
    rates: np.ndarray  # (rates,)
    losses: np.ndarray  # (points, rates, seeds)
    accuracy: np.ndarray  # (rates, seeds), at the end.

    @property
    def final(self) -> np.ndarray:
        """The final training loss, (rates,): mean over seeds and the last tenth of steps.

        The loss after the very last step alone would be a matter of luck.
        """
        tenth = max(1, len(self.losses) // 10)
        return self.losses[-tenth:].mean(axis=(0, 2))

    @property
    def best(self) -> int:
        """The place of the rate with the lowest final training loss."""
        return int(np.argmin(self.final))

    @property
    def at_edge(self) -> bool:
        """Whether a better rate may lie outside of the grid."""
        return self.best in (0, len(self.rates) - 1)


def look_at(steps: int) -> list[int]:
    """The steps after which the loss is looked at, from 0 to the last."""
    return sorted({round(steps * i / POINTS) for i in range(POINTS + 1)})


def compare(
    names: Sequence[str], steps: int, seeds: int, batch_size: int, progress: Progress
) -> dict[str, Result]:
    """Trains every optimizer at every rate with every seed."""
    total = len(names) * len(GRID) * seeds
    compiling = progress.add_task("Compiling one program", total=None)
    training = progress.add_task(f"Training {total} networks", total=steps, start=False)

    data = load_data()
    keys = jax.vmap(jax.random.split)(jax.vmap(jax.random.key)(jnp.arange(seeds)))
    samples = len(data[0].labels)
    orders = jnp.stack([batch_order(k, samples, steps, batch_size) for k in keys[:, 1]])
    rates = {name: OPTIMIZERS[name].lowest * GRID for name in names}
    runs = jax.jit(functools.partial(start_all, names))(keys[:, 0])
    # The old runs are given up to the new ones (donated), so that no call copies them.
    points, scores = look_at(steps), []
    stride = max(last - first for first, last in itertools.pairwise(points))
    program = jax.jit(functools.partial(train_all, stride), donate_argnums=0)
    program = program.lower(runs, rates, orders, data, 0, 0).compile()
    progress.update(compiling, total=1, completed=1)

    # From 0 to 0 first: no step, only the scores at the start.
    progress.start_task(training)
    for first, last in zip([0, *points], points, strict=False):
        runs, score = program(runs, rates, orders, data, first, last)
        scores.append(jax.device_get(score))
        progress.update(training, completed=last)

    return {
        name: Result(
            rates[name],
            np.stack([score[name].loss for score in scores]),
            scores[-1][name].accuracy,
        )
        for name in names
    }


# What an optimizer costs: memory and time.


def bytes_per_parameter(name: str) -> float:
    """The size of the state. Shapes are enough to know it: nothing is computed."""

    def size(tree: Any) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    params = jax.eval_shape(init_network, jax.random.key(0))
    state = jax.eval_shape(OPTIMIZERS[name].make(0.1).init, params)
    return size(state) / sum(x.size for x in jax.tree.leaves(params))


def microseconds_per_step(names: Sequence[str]) -> dict[str, float]:
    """The time of `update` and `apply_updates` for one network, median of the rounds.

    Optimizers take turns, so that whatever else the machine does hits all of them.
    """

    def compiled(optimizer: ox.GradientTransformation) -> Callable[..., Any]:
        @functools.partial(jax.jit, donate_argnums=0)
        def step(run: Run, gradient: Any) -> Run:
            updates, state = optimizer.update(gradient, run.state, run.params)
            return Run(ox.apply_updates(run.params, updates), state)

        return step

    gradient = init_network(jax.random.key(1))
    steps, runs = {}, {}
    for name in names:
        optimizer = OPTIMIZERS[name].make(1e-3)
        params = init_network(jax.random.key(0))
        steps[name] = compiled(optimizer)
        runs[name] = steps[name](Run(params, optimizer.init(params)), gradient)

    times = {name: [] for name in names}
    for _ in range(TIMED_ROUNDS):
        for name in names:
            run, step = jax.block_until_ready(runs[name]), steps[name]
            begin = time.perf_counter()
            for _ in range(TIMED_CALLS):
                run = step(run, gradient)
            runs[name] = jax.block_until_ready(run)
            times[name].append((time.perf_counter() - begin) / TIMED_CALLS * 1e6)
    return {name: statistics.median(times[name]) for name in names}


# The table and the picture.


def order_of_merit(results: dict[str, Result]) -> list[str]:
    """The names, from the lowest final training loss to the highest."""
    return sorted(results, key=lambda name: results[name].final.min())


def how_many(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def plus_minus(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds, in percent; one seed has no deviation."""
    spread = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.1f}{spread}"


def make_table(results: dict[str, Result], times: dict[str, float]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("\noptimizer", no_wrap=True)
    for heading in (
        "best\nrate ",  # The space is where the star goes.
        "final train-\ning loss",
        "test accu-\nracy, %",
        "state, bytes/\nparameter",
        "step,\nµs",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in order_of_merit(results):
        result, best = results[name], results[name].best
        loss = result.final[best]
        table.add_row(
            name,
            f"{result.rates[best]:g}{'*' if result.at_edge else ' '}",
            f"{loss:.5f}" if np.isfinite(loss) else "diverged",
            plus_minus(result.accuracy[best]),
            f"{bytes_per_parameter(name):.1f}",
            f"{times[name]:.0f}",
        )
    return table


def explain(results: dict[str, Result], steps: int) -> str:
    """What the columns mean."""
    rates, seeds = next(iter(results.values())).accuracy.shape
    size = sum(x.size for x in jax.tree.leaves(init_network(jax.random.key(0))))
    lines = [
        "Sorted by final training loss: cross-entropy over the training set, mean of the "
        f"last tenth of {steps} steps and of {how_many(seeds)}.",
        f"best rate: the one of {rates} with the lowest final training loss.",
        "test accuracy: at that rate, mean ± standard deviation over the seeds.",
        f"step: update and apply_updates alone, for one network of {size} parameters: one "
        "compiled call with donated buffers, at this size more overhead than arithmetic; "
        f"median of {TIMED_ROUNDS} rounds.",
    ]
    if any(result.at_edge for result in results.values()):
        lines.append("*: at the edge of the rates tried; a better one may lie beyond.")
    return "\n".join(lines)


def draw(results: dict[str, Result], steps: int, out: Path) -> None:
    """Left, the loss at the best rate against the step; right, accuracy against rate."""
    # A `Figure` of its own, not `pyplot`: no window, no global state.
    figure = Figure(figsize=(13, 6), dpi=150, facecolor="white")
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.11, top=0.8, wspace=0.52)
    rates, seeds = next(iter(results.values())).accuracy.shape
    figure.text(
        0.06, 0.93, "Optimizers on handwritten digits", fontsize=17, fontweight="bold"
    )
    figure.text(
        0.06,
        0.885,
        f"{len(results) * rates * seeds} trainings of one small network: {rates} learning "
        f"rates and {how_many(seeds)} for each optimizer. Lines: mean over seeds; "
        "shade: from the lowest seed to the highest.",
        fontsize=10.5,
        color=GREY,
    )
    draw_losses(left, results, steps)
    draw_accuracies(right, results)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
    figure.savefig(out, format="png")


def draw_band(axes: Axes, name: str, x: np.ndarray, y: np.ndarray) -> None:
    """A line for the mean over the last axis, the seeds, and a shade for all of them."""
    colour, line = OPTIMIZERS[name].colour, OPTIMIZERS[name].line
    axes.plot(x, y.mean(axis=-1), color=colour, linestyle=line, linewidth=2)
    low, high = y.min(axis=-1), y.max(axis=-1)
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


def draw_losses(axes: Axes, results: dict[str, Result], steps: int) -> None:
    x = np.array(look_at(steps))
    ends = {}
    for name, result in results.items():
        # What diverged is drawn as high as the panel goes, not left out.
        losses = np.minimum(result.losses[:, result.best], 2 * result.losses[0].max())
        draw_band(axes, name, x, losses)
        ends[name] = losses[-1].mean()
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.25), max(high, 3.5))  # Room for some ticks, always.
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0, steps)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("step")
    axes.set_title("Training loss (cross-entropy), at the best rate", loc="left")
    write_labels(axes, results, ends)


def write_labels(axes: Axes, results: dict[str, Result], ends: dict[str, float]) -> None:
    """Beside the panel, the name and the best rate of each line, where it ends."""
    names = sorted(ends, key=lambda name: ends[name])
    to_fraction = axes.transScale + axes.transLimits
    heights = np.array([to_fraction.transform((1.0, ends[name]))[1] for name in names])
    places = apart(heights, gap=0.054)
    write = functools.partial(axes.text, transform=axes.transAxes, va="center")
    write(1.37, places[-1] + 0.06, "best rate", color=GREY, ha="right", fontsize=9)
    for name, height, place in zip(names, heights, places, strict=True):
        axes.plot(
            [1.0, 1.03, 1.05, 1.1],
            [height, place, place, place],
            transform=axes.transAxes,
            clip_on=False,
            color=OPTIMIZERS[name].colour,
            linestyle=OPTIMIZERS[name].line,
            linewidth=1.5,
        )
        result = results[name]
        write(1.12, place, name, color=OPTIMIZERS[name].colour)
        write(1.37, place, f"{result.rates[result.best]:g}", color=GREY, ha="right")


def apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """`heights`, in rising order, moved until neighbours are at least about `gap` apart."""
    places = heights.copy()
    for _ in range(300):
        overlap = np.maximum(0.0, gap - np.diff(places))
        places[:-1] -= overlap / 2
        places[1:] += overlap / 2
    return places - min(0.0, places[0]) - max(0.0, places[-1] - 0.95)


def draw_accuracies(axes: Axes, results: dict[str, Result]) -> None:
    for name, result in results.items():
        # On this scale neither 0 nor 100 % has a place.
        accuracies = np.clip(result.accuracy, *LIMITS)
        draw_band(axes, name, result.rates, accuracies)
        axes.plot(
            result.rates[result.best],
            accuracies[result.best].mean(),
            marker="o",
            markersize=7,
            color=OPTIMIZERS[name].colour,
            markeredgecolor="white",
            zorder=3,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    # Between 95 % and 98 % as much is going on as between 10 % and 90 %.
    axes.set_yscale("logit")
    axes.set_ylim(*LIMITS)
    ticks = [0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98]
    axes.set_yticks(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("learning rate")
    axes.set_title("Test accuracy at every rate (dot: the rate on the left)", loc="left")


# The command line.


def optimizer_names(text: str) -> list[str]:
    names = text.replace(",", " ").split()
    wrong = [name for name in names if name not in OPTIMIZERS]
    if wrong or not names:
        raise argparse.ArgumentTypeError(
            f"no optimizer here is called {', '.join(wrong) or repr(text)}; choose from "
            f"{', '.join(OPTIMIZERS)}"
        )
    return names


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, but got {text!r}")
    return int(text)


def png_path(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a directory; give a file in it")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {str(path.parent)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Trains a small network on handwritten digits with each optimizer, at "
        "several learning rates and with several seeds, all in one compiled program. "
        "Prints a table, and draws training loss against step and test accuracy against "
        "learning rate.",
        epilog="example: python compare_optimizers.py --optimizers sgd,adam --steps 200 "
        "--out two.png",
    )
    parser.add_argument(
        "--optimizers",
        nargs="+",
        type=optimizer_names,
        default=[list(OPTIMIZERS)],
        metavar="NAME",
        help=f"with commas or spaces between: {', '.join(OPTIMIZERS)} (default: all)",
    )
    for flag, default, what in (
        ("--steps", 400, "steps in each training"),
        ("--seeds", 8, "seeds, each with its own initial network and order of batches"),
        ("--batch-size", 128, "samples in a batch"),
    ):
        parser.add_argument(
            flag,
            type=positive,
            default=default,
            metavar="N",
            help=f"{what} (default: {default})",
        )
    parser.add_argument(
        "--out",
        type=png_path,
        default="compare_optimizers.png",
        metavar="PNG",
        help="where to write the picture (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    # With commas or spaces it is a list of lists; a name that comes twice counts once.
    arguments.optimizers = list(
        dict.fromkeys(name for names in arguments.optimizers for name in names)
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    # Progress goes to stderr, so that what is piped on is the table alone.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        results = compare(
            arguments.optimizers,
            arguments.steps,
            arguments.seeds,
            arguments.batch_size,
            progress,
        )
        timing = progress.add_task("Timing one step of each", total=None)
        times = microseconds_per_step(arguments.optimizers)
        progress.update(timing, total=1, completed=1)
    console = Console()
    console.width = max(console.width, 80)  # Narrower, numbers would be cut off.
    console.print(make_table(results, times))
    console.print(explain(results, arguments.steps), highlight=False)
    draw(results, arguments.steps, arguments.out)
    print(f"\nPicture: {arguments.out}")


if __name__ == "__main__":
    main()
