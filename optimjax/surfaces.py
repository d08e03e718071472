r"""Classic functions of two variables, to watch optimizers on.

Each is a `Surface`: the function itself, called with an array of shape (2,), where to
start, where the minima are, and a window to look at it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Surface(NamedTuple):
    """A function of two variables; calling it evaluates it.

    Attributes:
        name: What it is called.
        function: `function(x) -> value`, of an array of shape (2,), to a scalar.
        start: A usual point to start from.
        minima: All its global minima, where the value is 0.
        window: `(left, right, bottom, top)`: where it is interesting.
    """

    name: str
    function: Callable[[jax.Array], jax.Array]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    window: tuple[float, float, float, float]

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


def _rosenbrock(x: jax.Array) -> jax.Array:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def _beale(x: jax.Array) -> jax.Array:
    return (
        (1.5 - x[0] + x[0] * x[1]) ** 2
        + (2.25 - x[0] + x[0] * x[1] ** 2) ** 2
        + (2.625 - x[0] + x[0] * x[1] ** 3) ** 2
    )


def _himmelblau(x: jax.Array) -> jax.Array:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def _rastrigin(x: jax.Array) -> jax.Array:
    return 20 + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))


rosenbrock = Surface(  # H. H. Rosenbrock, 1960: a bent valley.
    "Rosenbrock", _rosenbrock, (-1.5, 2.0), ((1.0, 1.0),), (-2.0, 2.0, -1.0, 3.0)
)
beale = Surface(  # E. M. L. Beale, 1958: flat, with steep walls in the corners.
    "Beale", _beale, (1.0, 1.5), ((3.0, 0.5),), (-0.5, 4.5, -1.5, 2.0)
)
himmelblau = Surface(  # D. M. Himmelblau, 1972: four minima, all as good.
    "Himmelblau",
    _himmelblau,
    (-0.5, -1.0),
    (
        (3.0, 2.0),
        (-2.8051180869527448, 3.1313125182505730),
        (-3.7793102533777469, -3.2831859912861694),
        (3.5844283403304917, -1.8481265269644034),
    ),
    (-5.0, 5.0, -5.0, 5.0),
)
rastrigin = Surface(  # L. A. Rastrigin, 1974: a minimum in every unit square.
    "Rastrigin", _rastrigin, (2.3, 1.7), ((0.0, 0.0),), (-2.6, 2.6, -2.6, 2.6)
)
ALL = (rosenbrock, beale, himmelblau, rastrigin)  # The four of them.
