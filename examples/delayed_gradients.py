"""What late gradients do to an optimizer, and what each remedy gets back, on digits.

    pip install -e '.[examples]'    # in a clone
    python delayed_gradients.py
    python delayed_gradients.py --optimizers sgd --delays 0 4 --steps 50 --out small.png

In a pipeline, or where workers take turns, a gradient is of parameters that are some steps
old. Here a small network learns the handwritten digits that scikit-learn ships, with SGD,
Adam and Muon, several delays, and each remedy, at every rate of a grid: one compiled
program for each optimizer and remedy, since a delay may be traced as a rate may. It prints
a table and draws a picture. Start reading at `REMEDIES`.
"""

import argparse
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optimjax as ox

try:
    from matplotlib.figure import Figure
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit(
        f"{error.name} is missing; get it with: pip install -e '.[examples]' in a clone"
    ) from None

HIDDEN, BATCH = 32, 64
LOOKS = 5  # How often, in the last tenth of the steps, the loss is looked at.

Make = Callable[[Any], ox.GradientTransformation]  # An optimizer, from its rate.
# At every delay, the best rate lies inside of the grid.
OPTIMIZERS: dict[str, tuple[Make, np.ndarray]] = {
    "sgd": (ox.sgd, np.geomspace(0.02, 5.0, 7)),
    "adam": (ox.adam, np.geomspace(4e-4, 1e-1, 7)),
    "muon": (
        lambda rate: ox.muon(rate, adam_learning_rate=rate),
        np.geomspace(1e-3, 2e-1, 7),
    ),
}


class Late(NamedTuple):
    steps: Any  # By how many steps gradients are late here, perhaps traced;
    most: int  # and the most that there is room for.

    def at(self, step: Any) -> Any:
        del step
        return self.steps


# Every one is an optimizer whose gradients are late, and what is done about it. That it is
# `delay` that makes them so is the only thing that is not as it would be in earnest.


def nothing(make: Make, rate: Any, late: Late) -> ox.GradientTransformation:
    return ox.chain(ox.delay(late.most, at=late.at), make(rate))


def lower_rate(make: Make, rate: Any, late: Late) -> ox.GradientTransformation:
    """The rate over the delay."""
    return ox.chain(
        ox.delay(late.most, at=late.at),
        make(rate),
        ox.scale(1 / jnp.maximum(late.steps, 1.0)),
    )


def compensation(make: Make, rate: Any, late: Late) -> ox.GradientTransformation:
    """Each gradient, moved to the parameters of now: DC-ASGD-a."""
    return ox.chain(
        ox.delay(late.most, at=late.at),
        ox.compensate_delay(2.0, late.most, at=late.at, decay=0.95),
        make(rate),
    )


def prediction(make: Make, rate: Any, late: Late) -> ox.GradientTransformation:
    """The gradient, taken where the parameters will be."""
    return ox.predict_params(nothing(make, rate, late), late.steps, decay=0.5)


class Remedy(NamedTuple):
    make: Callable[[Make, Any, Late], ox.GradientTransformation]
    colour: str
    line: Any  # A line style.


REMEDIES = {
    "nothing": Remedy(nothing, "#000000", "-"),
    "rate / delay": Remedy(lower_rate, "#E69F00", "-."),
    "compensation": Remedy(compensation, "#0072B2", "--"),
    "prediction": Remedy(prediction, "#D55E00", ":"),
}
SAME_RATE = "same rate"  # As without delay, and nothing done at all.


# The task: digits, a network, a loss.


def load_data() -> tuple[jax.Array, jax.Array]:
    pixels, labels = load_digits(return_X_y=True)
    return jnp.float32(pixels / 16), jnp.int32(labels)


def init_network(key: jax.Array) -> dict[str, jax.Array]:
    first, second = jax.random.split(key)
    normal = jax.nn.initializers.he_normal()
    return {
        "w1": normal(first, (64, HIDDEN)),
        "b1": jnp.zeros(HIDDEN),
        "w2": normal(second, (HIDDEN, 10)),
        "b2": jnp.zeros(10),
    }


def loss(params: dict[str, jax.Array], x: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy."""
    x = jax.nn.relu(x @ params["w1"] + params["b1"])
    log_p = jax.nn.log_softmax(x @ params["w2"] + params["b2"])
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


def train(
    make: Callable[[Any, Late], ox.GradientTransformation],
    data: tuple[jax.Array, jax.Array],
    most: int,
    late: jax.Array,
    rate: jax.Array,
    params: dict[str, jax.Array],
    order: jax.Array,
) -> jax.Array:
    """The loss at the end of one training: the mean over its last tenth."""
    x, labels = data
    optimizer = make(rate, Late(late, most))
    steps = len(order)
    stride = max(steps // 10 // LOOKS, 1)

    def step(carry: Any, now: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        (params, state), (i, batch) = carry, now
        # The parameters themselves, where nothing is predicted.
        there = ox.predicted_params(state, params)
        gradient = jax.grad(loss)(there, x[batch], labels[batch])
        updates, state = optimizer.update(gradient, state, params)
        params = ox.apply_updates(params, updates)
        left = steps - 1 - i
        looked_at = (left < LOOKS * stride) & (left % stride == 0)
        seen = jax.lax.cond(
            looked_at, lambda: loss(params, x, labels), lambda: jnp.zeros(())
        )
        return (params, state), seen

    start = params, optimizer.init(params)
    _, losses = jax.lax.scan(step, start, (jnp.arange(steps), order))
    end = jnp.sum(losses) / LOOKS
    return jnp.where(jnp.isfinite(end), end, jnp.inf)


# Losses of an optimizer, by remedy: (delays, seeds), at the best rate of each delay.
Losses = dict[str, np.ndarray]


def compare(arguments: argparse.Namespace, progress: Progress) -> dict[str, Losses]:
    data, delays = load_data(), arguments.delays
    most = max(*delays, 1)
    # One seed is one network and one order of batches, whatever the rest.
    networks = jax.vmap(init_network)(jax.random.split(jax.random.key(0), arguments.seeds))
    shape = (arguments.seeds, arguments.steps, BATCH)
    orders = np.random.default_rng(0).integers(len(data[1]), size=shape)
    total = len(arguments.optimizers) * len(REMEDIES)
    task = progress.add_task(f"Training: {total} programs", total=total)
    results: dict[str, Losses] = {}
    for name in arguments.optimizers:
        make, rates = OPTIMIZERS[name]
        found: Losses = {}
        for label, remedy in REMEDIES.items():
            made = functools.partial(remedy.make, make)
            one = functools.partial(train, made, data, most)
            seeds = jax.vmap(one, in_axes=(None, None, 0, 0))
            grid = jax.vmap(seeds, in_axes=(None, 0, None, None))
            all_of_them = jax.jit(jax.vmap(grid, in_axes=(0, None, None, None)))
            ends = np.asarray(
                all_of_them(jnp.float32(delays), jnp.float32(rates), networks, orders)
            )
            best = ends.mean(axis=2).argmin(axis=1)
            found[label] = ends[np.arange(len(delays)), best]
            if label == "nothing":
                # The rate that is best at the shortest delay, whatever the delay.
                found[SAME_RATE] = ends[:, best[0]]
            progress.advance(task)
        results[name] = {k: found[k] for k in (SAME_RATE, *REMEDIES)}
    return results


# The table and the picture.


def make_table(results: dict[str, Losses], delays: list[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("\noptimizer", no_wrap=True)
    table.add_column("\ndelay", justify="right", no_wrap=True)
    for label in (SAME_RATE, *REMEDIES):
        above = "" if label == SAME_RATE else "best rate,"
        table.add_column(f"{above}\n{label}", justify="right", no_wrap=True)
    for name, losses in results.items():
        for i, late in enumerate(delays):
            cells = [f"{losses[label][i].mean():.4f}" for label in losses]
            table.add_row(name if i == 0 else "", str(late), *cells)
        table.add_section()
    return table


def draw(results: dict[str, Losses], delays: list[int], path: str, title: str) -> None:
    figure = Figure(figsize=(4.2 * max(len(results), 2), 5), dpi=150, facecolor="white")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.2, top=0.79, wspace=0.08)
    figure.text(0.07, 0.93, "Late gradients", fontsize=16, fontweight="bold")
    figure.text(0.07, 0.875, title, fontsize=10, color="#555555")
    everything = np.concatenate([np.ravel(x) for r in results.values() for x in r.values()])
    ceiling = 3.0  # About the loss before the first step; what diverged is drawn there.
    lowest = max(min(everything.min(), 1.0), 1e-5)
    for axes, (name, losses) in zip(panels, results.items(), strict=True):
        place = np.arange(len(delays))
        for label, ends in losses.items():
            remedy = REMEDIES.get(label, Remedy(nothing, "#999999", (0, (1, 1))))
            shown = np.clip(ends, lowest, ceiling)
            mean = np.minimum(ends.mean(axis=1), ceiling)
            how = {"color": remedy.colour, "linestyle": remedy.line}
            axes.plot(place, mean, marker="o", markersize=4, label=label, **how)
            axes.fill_between(
                place, shown.min(axis=1), shown.max(axis=1), color=remedy.colour, alpha=0.12
            )
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.5, ceiling * 1.3)
        axes.set_xticks(place, [str(late) for late in delays])
        axes.set_title(name, loc="left")
        axes.set_xlabel("delay, steps")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
    panels[0].set_ylabel("training loss at the end")
    figure.legend(
        *panels[0].get_legend_handles_labels(), ncols=5, loc="lower center", frameon=False
    )
    figure.savefig(path, format="png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    names = list(OPTIMIZERS)
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names)
    parser.add_argument("--delays", nargs="+", type=int, default=[0, 1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="delayed_gradients.png")
    arguments = parser.parse_args()
    if min(arguments.delays) < 0 or arguments.seeds < 1:
        parser.error("delays are from 0 on, and seeds from 1")
    if arguments.steps < LOOKS:
        parser.error(f"it takes {LOOKS} steps at least")
    arguments.delays = sorted(set(arguments.delays))
    return arguments


def main() -> None:
    arguments = parse()
    # Progress goes to stderr, so that what is piped on is the table alone.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        results = compare(arguments, progress)
    console = Console()
    console.width = max(console.width, 100)  # Narrower, numbers would be cut off.
    console.print(make_table(results, arguments.delays))
    rates = len(next(iter(OPTIMIZERS.values()))[1])
    trainings = math.prod(
        (len(results), len(REMEDIES), len(arguments.delays), rates, arguments.seeds)
    )
    console.print(
        f"Cross-entropy over all images: mean of the last tenth of {arguments.steps} steps "
        f"and of {arguments.seeds} seeds; {trainings} trainings.\n{SAME_RATE}: nothing is "
        f"done, and the rate is that which is best at a delay of {arguments.delays[0]}. "
        f"best rate: the best of {rates}.",
        highlight=False,
    )
    title = (
        f"{trainings} trainings of one small network on digits. Lines: mean over seeds at "
        f"the best of {rates} rates; grey: at the best one of delay {arguments.delays[0]}."
    )
    draw(results, arguments.delays, arguments.out, title)
    print(f"\nPicture: {arguments.out}")


if __name__ == "__main__":
    main()
