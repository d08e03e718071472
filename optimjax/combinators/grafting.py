"""Where one transformation says where to go, and another one how far."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import base, numerics
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..tree import leafwise


class GraftState(NamedTuple):
    """State of `graft`."""

    direction: OptState  # That of the transformation that says where to go.
    magnitude: OptState  # That of the one that says how far.


def _as_long_as(d: jax.Array, m: jax.Array) -> jax.Array:
    return _unit(d) * _norm(m)


def _unit(x: jax.Array) -> jax.Array:
    return numerics.divide(x, _norm(x))


def _norm(x: jax.Array) -> jax.Array:
    # By the largest number, so that the square of none over- or underflows.
    largest = jax.lax.stop_gradient(jnp.max(numerics.modulus(x), initial=0))
    squares = numerics.abs_sq(numerics.divide(x, largest))
    return largest * numerics.sqrt(jnp.sum(squares))


@transformation(state=GraftState)
def graft(
    direction: GradientTransformation, magnitude: GradientTransformation
) -> GradientTransformation:
    r"""Takes the direction of one transformation, and the length of another, in each leaf.

    Both are given the same gradients, and keep their own state. With their updates $d$ and
    $m$ for a leaf,

    $$ u = d\, \frac{\lVert m \rVert}{\lVert d \rVert}, $$

    and $u = 0$ where $d = 0$. So a rule whose steps have no known length, such as
    Shampoo's, takes over the learning rates, and the schedules, of one that is tuned.

    The length is that of the whole leaf: of layers that are stacked in one parameter, all
    together.

    Args:
        direction: Any transformation. Its learning rate, if it has one, does not count, but
            its sign does: `sgd` points downhill, `identity` uphill.
        magnitude: Any transformation, such as `scale_by_adam`, of which the sign does not
            count.

    Returns:
        A `GradientTransformation` with a `GraftState`: the states of both.

    Raises:
        TypeError: If an argument is no transformation.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.graft(direction=ox.identity(), magnitude=ox.scale_by_sign())
        >>> updates, _ = t.update(jnp.array([3.0, 4.0, 0.0]), t.init(jnp.zeros(3)))
        >>> print(updates)  # Of length sqrt(2), as is (1, 1, 0).
        [0.8485 1.1314 0.    ]

    References:
        N. Agarwal et al., [Disentangling adaptive gradient methods from learning
        rates](https://arxiv.org/abs/2002.11803), 2020.
    """
    base.check_stages("graft", [direction, magnitude])

    def init(params: Params) -> GraftState:
        return GraftState(direction.init(params), magnitude.init(params))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: GraftState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, GraftState]:
        d, _, of_direction = base.advance(
            direction, updates, gradient, state.direction, params, extra
        )
        m, _, of_magnitude = base.advance(
            magnitude, updates, gradient, state.magnitude, params, extra
        )
        out = leafwise(_as_long_as, d, reads=(m,))
        return out, out, GraftState(of_direction, of_magnitude)

    return base.combinator(init, advance, (direction, magnitude))
