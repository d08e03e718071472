"""Pictures of schedules, and of optimizers on surfaces. They need Matplotlib:

pip install 'optimjax[plots]'
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks, numerics, surfaces as surfaces_
from .base import GradientTransformation, apply_updates, check_stages
from .surfaces import Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# They differ in lightness, and can be told apart by colour-blind readers.
COLOURS = ("#D55E00", "#0072B2", "#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RATES = np.geomspace(1e-4, 1e1, 61)


def plot_schedule(
    schedules: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]],
    steps: int,
    path: Any = None,
) -> "Figure":
    """Draws what schedules give, step by step.

    Args:
        schedules: A function of the step, of this library or not; or several, by name.
        steps: How many steps to draw, from 0 on: at least 1.
        path: Where to write it; the ending says in which format, `.png` or any other that
            Matplotlib knows. `None` writes no file.

    Returns:
        A Matplotlib figure.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If one is no function, or gives no number.
        ValueError: If `steps` is less than 1.

    Example:
        >>> import optimjax as ox
        >>> warm = ox.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)
        >>> figure = ox.plot_schedule({"warm": warm, "flat": lambda t: 1e-3}, 100)
        >>> len(figure.axes[0].get_lines())
        2
    """
    named = schedules if isinstance(schedules, Mapping) else {"": schedules}
    if not steps >= 1:
        raise ValueError(
            f"`plot_schedule(steps=...)` must be at least 1, but got {steps!r}."
        )
    values = {name: _values(name, f, int(steps)) for name, f in named.items()}
    figure = _figure("plot_schedule", (7.0, 3.6))
    axes = figure.subplots()
    for i, (name, y) in enumerate(values.items()):
        axes.plot(y, color=COLOURS[i % len(COLOURS)], label=name, lw=1.8)
    _plain(axes)
    axes.set_xlabel("step")
    axes.set_ylabel("value")
    axes.set_xlim(0, max(steps - 1, 1))
    if len(values) > 1:
        axes.legend(
            frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
        )
    if path is not None:
        figure.savefig(path)
    return figure


def _values(name: str, schedule: Any, steps: int) -> np.ndarray:
    if not callable(schedule):
        where = f"`plot_schedule`: {name!r}" if name else "`plot_schedule(schedules=...)`"
        raise TypeError(f"{where} must be a function of the step, but got {schedule!r}.")
    counts = jnp.arange(steps)
    with _checks.named("plot_schedule"):
        return np.asarray(jax.vmap(lambda t: numerics.at_step(schedule, t) + 0.0)(counts))


class Walk(NamedTuple):
    """The way of an optimizer over a surface."""

    points: np.ndarray  # (steps + 1, 2): where it was, the start included.
    learning_rate: float | None  # That was chosen, if one was.


def plot_trajectories(
    optimizers: Mapping[str, GradientTransformation | Callable[[Any], Any]],
    surfaces: Sequence[Surface] = surfaces_.ALL,
    steps: int = 200,
    path: Any = None,
) -> "Figure":
    """Draws the ways of optimizers over surfaces: a panel for each surface.

    Lines begin at the surface's start and end at a dot; stars are the minima. The colours
    of the ground are the logarithm of the function. Gradients are exact, so each step is
    that of the optimizer alone.

    Args:
        optimizers: By name: a transformation, or a function from a learning rate to one,
            such as `ox.adam`. That is tried at 61 rates from 1e-4 to 10, and on each
            surface shown with the one that is lowest along its way, by the mean logarithm
            of the function; the legend says which.
        surfaces: What to walk on: `Surface`s of `optimjax.surfaces`, or your own.
        steps: How many steps each takes: at least 1.
        path: Where to write it, as in `plot_schedule`.

    Returns:
        A Matplotlib figure.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If one is neither a transformation nor a function; if `surfaces` has
            something else in it.
        ValueError: If there is nothing to draw.

    Example:
        >>> import optimjax as ox
        >>> figure = ox.plot_trajectories(
        ...     {"descent": ox.sgd(1e-3), "Adam": ox.adam}, [ox.surfaces.rosenbrock], 20
        ... )
        >>> figure.axes[0].get_title()
        'Rosenbrock'
    """
    if not optimizers or not surfaces or not steps >= 1:
        raise ValueError(
            "`plot_trajectories` needs an optimizer, a surface and a step, but got "
            f"{len(optimizers)}, {len(surfaces)} and {steps}."
        )
    for surface in surfaces:
        if not isinstance(surface, Surface):
            raise TypeError(
                "`plot_trajectories(surfaces=...)` takes a list of `Surface`s, such as "
                f"`[optimjax.surfaces.rosenbrock]`, but got {surfaces!r}."
            )
    walks = {
        (surface.name, name): walk(name, tx, surface, steps)
        for surface in surfaces
        for name, tx in optimizers.items()
    }
    columns = min(len(surfaces), 2)
    rows = math.ceil(len(surfaces) / columns)
    figure = _figure("plot_trajectories", (5.4 * columns, 5.4 * rows))
    for i, surface in enumerate(surfaces):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_ground(axes, surface)
        for k, name in enumerate(optimizers):
            colour = COLOURS[k % len(COLOURS)]
            _draw_walk(axes, name, walks[surface.name, name], surface, colour)
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.06),
            ncols=2,
            fontsize="small",
            frameon=False,
        )
    figure.suptitle(f"{steps} steps with the exact gradient")
    if path is not None:
        figure.savefig(path)
    return figure


def walk(name: str, optimizer: Any, surface: Surface, steps: int) -> Walk:
    """Walks over a surface, at the best of many learning rates if there is a choice.

    Args:
        name: What to call the optimizer in errors.
        optimizer: A transformation, or a function from a learning rate to one.
        surface: What to walk on.
        steps: How many steps to take.

    Example:
        >>> import optimjax as ox
        >>> from optimjax import plotting, surfaces
        >>> found = plotting.walk("Adam", ox.adam, surfaces.himmelblau, 100)
        >>> found.points.shape
        (101, 2)
    """
    start = jnp.asarray(surface.start, float)

    def points(tx: Any) -> jax.Array:
        def step(carry: Any, _: Any) -> Any:
            x, state = carry
            value, grad = jax.value_and_grad(surface.function)(x)
            updates, state = tx.update(
                grad, state, x, value=value, grad=grad, value_fn=surface.function
            )
            return (apply_updates(x, updates), state), x

        (last, _), before = jax.lax.scan(step, (start, tx.init(start)), length=steps)
        return jnp.concatenate([before, last[None]])

    if hasattr(optimizer, "init") or not callable(optimizer):
        check_stages("plot_trajectories", [optimizer], repr(name))
        return Walk(np.asarray(jax.jit(lambda: points(optimizer))()), None)
    rates = jnp.asarray(RATES, float)
    walks = jax.jit(jax.vmap(lambda rate: points(optimizer(rate))))(rates)
    # Not by its end alone: some rate always throws one to a minimum by accident.
    heights = np.log10(np.asarray(jax.vmap(jax.vmap(surface.function))(walks)) + 1e-6)
    low = heights.mean(axis=1)
    best = int(np.argmin(np.where(np.isfinite(low), low, np.inf)))
    return Walk(np.asarray(walks[best]), float(RATES[best]))


def _draw_ground(axes: "Axes", surface: Surface) -> None:
    left, right, bottom, top = surface.window
    x, y = np.meshgrid(np.linspace(left, right, 241), np.linspace(bottom, top, 241))
    points = jnp.stack([jnp.asarray(x, float), jnp.asarray(y, float)], axis=-1)
    z = np.log10(np.asarray(jax.vmap(jax.vmap(surface.function))(points)) + 1e-2)
    axes.contourf(x, y, z, levels=24, cmap="Blues_r", alpha=0.35)
    axes.contour(x, y, z, levels=12, colors="grey", linewidths=0.3)
    for place in surface.minima:
        axes.plot(*place, marker="*", ms=13, mfc="white", mec="black", ls="", zorder=5)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_title(surface.name)


def _draw_walk(axes: "Axes", name: str, found: Walk, surface: Surface, colour: str) -> None:
    # What leaves the window far behind would be drawn as a blot.
    left, right, bottom, top = surface.window
    reach = 3 * max(right - left, top - bottom)
    centre = np.array([(left + right) / 2, (bottom + top) / 2])
    near = np.abs(found.points - centre).max(axis=1) <= reach
    shown = found.points[: len(near) if near.all() else int(np.argmin(near))]
    label = name
    if found.learning_rate is not None:
        label += f", rate {found.learning_rate:.2g}"
    if len(shown) < len(found.points):
        label += ": diverges"
    axes.plot(*shown.T, color=colour, lw=1.3, label=label, alpha=0.9)
    axes.plot(*shown[-1], marker="o", ms=5, color=colour, mec="white", zorder=6)


def _plain(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.25)


def _figure(who: str, size: tuple[float, float]) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"`{who}` draws with Matplotlib ({error}); get it with "
            "`pip install 'optimjax[plots]'`."
        ) from None
    return Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")
