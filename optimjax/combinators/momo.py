"""Polyak's step for momentum, before any preconditioner."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _reports, base, numerics
from ..base import (
    GradientTransformation,
    OptState,
    Params,
    Updates,
    identity,
    transformation,
)
from ..transforms.adaptive import loss_of
from ..tree import leafwise, slot_like, vdot
from ..typing import Decay, NonNegative, NonNegativeOrSchedule, Scalar


class MomoState(NamedTuple):
    """State of `momo`. The floating scalars are float32 or wider."""

    count: jax.Array  # t, (), int32: the steps taken.
    value: jax.Array  # f, (): the mean of the losses.
    product: jax.Array  # gamma, (): the mean of the products of gradient and params.
    lower_bound: jax.Array  # f*, (): a bound of the loss from below.
    momentum: Params  # d, the mean of the gradients; shaped like the params.
    preconditioner_state: OptState  # That of the preconditioner.

    directions = ("momentum",)


def _mean(g: jax.Array, d: jax.Array, *, weight: Any) -> tuple[jax.Array, jax.Array]:
    d = numerics.mix(d, g, weight)
    return d, d


def _step(u: jax.Array, p: jax.Array, *, rate: Any, decay: Any) -> jax.Array:
    return -numerics.over(rate * u + decay * p, 1 + decay)


@transformation(state=MomoState)
def momo(
    learning_rate: NonNegativeOrSchedule = 1.0,
    beta: Decay = 0.9,
    lower_bound: Scalar = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
    *,
    preconditioner: GradientTransformation | None = None,
    bias_correction: bool = False,
) -> GradientTransformation:
    r"""Momentum with a rate that follows from how far the loss is above a bound: MoMo.

    The linear models that the last gradients made of the loss, averaged, say how long a
    step along their mean would take the loss down to $f^*$. It is that long, but at most
    $\alpha$. With running means $\bar f_t$ of the losses, $d_t$ of the gradients, and
    $\gamma_t$ of the products $\langle g, x \rangle$, and a preconditioner $P$,

    $$ \tau_t = \min\Bigl( \frac{\alpha_t}{\rho_t},\
       \frac{\bigl[ (1 + \alpha_t \lambda)(\bar f_t - \rho_t f^* - \gamma_t)
       + \langle d_t, x_t \rangle \bigr]_+}{\langle d_t, P d_t \rangle} \Bigr), \qquad
       x_{t+1} = \frac{x_t - \tau_t\, P d_t}{1 + \alpha_t \lambda}. $$

    The means begin with what comes first, and $\rho_t = 1$; with `bias_correction` they
    begin with zero, and $\rho_t = 1 - \beta^t$, Adam's. $P$ is any transformation that
    multiplies what it is given by something positive: it gets $d_t$ for its updates, and
    the gradient for its gradient (see `chain`). `scale_by_rms` makes MoMo-Adam of it
    (`momo_adam`), `scale_by_rss` what is not in the paper.

    `update` needs the loss, `value=f`, of the batch that the gradient is of; inside of
    `accumulate`, the mean of the batches', at the call that takes the step. The updates are
    whole steps. Where the gradients of batches differ at the minimum, steps do not die out
    by themselves: a factor that falls, `scale_by_schedule`, belongs behind it.

    Args:
        learning_rate: $\alpha \ge 0$: better too large than too small. A number, a traced
            scalar, or a schedule.
        beta: $\beta$, in $[0, 1)$. May be traced, as may be the next two.
        lower_bound: $f^*$: for most losses zero, and the nearer the better.
        weight_decay: $\lambda \ge 0$. (Optax does not divide the step by
            $1 + \alpha \lambda$, the paper and the authors' code do.)
        adapt_lower_bound: Whether $f^*$ is found on the way, from `lower_bound` on: where
            it turns out too high, $\rho f^*$ becomes half of what it may at most be; after
            a step, it is where that step would have led, less half of what it would have
            won.
        preconditioner: $P$; `None` for none.
        bias_correction: See above.

    Returns:
        A `GradientTransformation` with a `MomoState`: 4 bytes a parameter, and those of the
        preconditioner. It needs the params. Where $\langle d, P d \rangle$ is zero or
        negative, it takes no step. `measure` knows $\tau$ as `momo_rate`.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.
        TypeError: If `preconditioner` is no transformation; in `update`, if `value` is
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.momo()
        >>> params = jnp.array([1.0, 2.0, 3.0])  # of the loss |p|^2
        >>> updates, _ = t.update(2 * params, t.init(params), params, value=14.0)
        >>> print(updates)
        [-0.5 -1.  -1.5]

    References:
        F. Schaipp et al., [MoMo: momentum models for adaptive learning
        rates](https://arxiv.org/abs/2305.07583), 2023.
    """
    inner = identity() if preconditioner is None else preconditioner
    base.check_stages("momo", [inner], "`preconditioner`")

    def init(params: Params) -> MomoState:
        return MomoState(
            count=jnp.zeros((), jnp.int32),
            value=numerics.as_scalar(0.0),
            product=numerics.as_scalar(0.0),
            lower_bound=numerics.as_scalar(lower_bound),
            momentum=slot_like(params),
            preconditioner_state=inner.init(params),
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: MomoState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, MomoState]:
        params = base.needs(params)
        loss = loss_of(base.needs_extra("value", extra))
        count = numerics.increment(state.count)
        weight, rho = 1 - beta, 1.0
        if bias_correction:
            rho = numerics.one_minus_power(beta, count)
        else:
            weight = jnp.where(state.count == 0, 1.0, weight)
        value = numerics.mix(state.value, loss, weight)
        product = numerics.mix(state.product, _along(updates, params), weight)
        d, momentum = leafwise(_mean, updates, state.momentum, weight=weight)
        direction, _, inner_state = base.advance(
            inner, d, gradient, state.preconditioner_state, params, extra
        )
        rate = numerics.as_scalar(numerics.rate_at(learning_rate, state.count))
        decay = rate * weight_decay
        here, square = _along(d, params), jnp.maximum(_along(d, direction), 0)
        bound = numerics.as_scalar(lower_bound)
        if adapt_lower_bound:
            most = value + here / (1 + decay) - product
            lower = jnp.maximum(most / (2 * rho), bound)
            bound = jnp.where(most < rho * state.lower_bound, lower, state.lower_bound)
        # The two products nearly cancel, and are the large ones.
        gap = (1 + decay) * (value - rho * bound) + (here - (1 + decay) * product)
        longest = numerics.divide(jnp.maximum(gap, 0), square)
        tau = jnp.minimum(rate / rho, longest)
        _reports.report("momo_rate", tau)
        if adapt_lower_bound:
            fall = jnp.where(tau > 0, tau / 2 * square, 0)  # A square may be infinite.
            landed = value + (here - product) - fall
            bound = jnp.maximum(landed / rho, lower_bound)
        out = leafwise(_step, direction, reads=(params,), rate=tau, decay=decay)
        return out, out, MomoState(count, value, product, bound, momentum, inner_state)

    return base.combinator(init, advance, (inner,), reads={"value"})


def _along(x: Any, y: Any) -> jax.Array:
    return numerics.as_scalar(jnp.real(vdot(x, y)))
