"""Averages of the parameters along their way."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import numerics
from ..base import GradientTransformation, Params, transformation
from ..states import in_place_of
from ..tree import remembering, slot_of
from ..typing import NonNegative


class AsgdState(NamedTuple):
    """State of `asgd`."""

    count: jax.Array  # t, (), int32: the steps taken.
    average: Params  # a, the averaged parameters, shaped like the params.

    def eval_params(self, params: Params) -> Params:
        """The average, in the dtypes of `params`."""
        return in_place_of(params, self.average)


def _asgd(
    g: jax.Array,
    average: jax.Array,
    p: jax.Array,
    *,
    decay: Any,
    rate: Any,
    weight: Any,
) -> tuple[jax.Array, jax.Array]:
    u = -rate * (g + decay * p)
    return u, numerics.mix(average, p + u, weight)


@transformation(state=AsgdState, packable=True)
def asgd(
    learning_rate: NonNegative = 1e-2,
    lambd: NonNegative = 1e-4,
    alpha: NonNegative = 0.75,
    t0: NonNegative = 1e6,
) -> GradientTransformation:
    r"""Gradient descent with a falling rate, and the average of where it has been.

    $$ \eta_t = \frac{\eta}{(1 + \lambda\, \eta\, (t - 1))^\alpha}, \qquad
       p_{t+1} = p_t - \eta_t (g_t + \lambda p_t), \qquad
       a_t = a_{t-1} + \frac{p_{t+1} - a_{t-1}}{\max(1,\ t - 1 - t_0)}, $$

    $t = 1, 2, \dots$, as in PyTorch. The average changes no step; `eval_params` gives
    it.

    Args:
        learning_rate: $\eta \ge 0$, of the first step. May be traced, as may be the rest.
        lambd: $\lambda \ge 0$.
        alpha: $\alpha \ge 0$.
        t0: $t_0 \ge 0$: how many steps pass before averaging begins; until then, $a$ is
            the newest parameters.

    Returns:
        A `GradientTransformation` with an `AsgdState`. It needs the params.

    Raises:
        ValueError: If an argument is negative or not finite; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.asgd(0.5, lambd=0.0, t0=0.0)
        >>> params = jnp.array([4.0])
        >>> state = t.init(params)
        >>> for _ in range(3):
        ...     updates, state = t.update(params, state, params)
        ...     params = ox.apply_updates(params, updates)
        >>> print(params, state.average)  # 2, 1, 0.5: the mean of the last two
        [0.5] [0.75]

    References:
        B. T. Polyak and A. B. Juditsky, [Acceleration of stochastic approximation by
        averaging](https://doi.org/10.1137/0330046), 1992.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        before = numerics.as_scalar(t) - 1
        return {
            "rate": learning_rate * jnp.power(1 + lambd * learning_rate * before, -alpha),
            "weight": 1 / jnp.maximum(before - t0, 1),
        }

    return remembering(
        AsgdState,
        _asgd,
        {"average": slot_of},
        reads=("params",),
        at=at,
        decay=lambd,
    )
