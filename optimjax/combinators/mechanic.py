"""Learning how long the steps of another optimizer should be."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _reports, base, numerics
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..tree import leafwise, norm, slot_like, vdot
from ..typing import NonNegative, Positive, PositiveCount


class MechanicState(NamedTuple):
    """State of `mechanize`. The floats are float32 or wider."""

    s: jax.Array  # (n,): what the way is multiplied by, a part from each decay.
    r: jax.Array  # (n,): what has been won.
    m: jax.Array  # (n,): the largest gain at one step, decaying.
    v: jax.Array  # (n,): the sum of squared gains, decaying.
    way: Params  # Delta, the sum of all updates of the base optimizer; as the params.
    base_optimizer_state: OptState  # That of the transformation inside.

    directions = ("way",)


# Gains and norms beyond it count as this much: their squares stay finite in float32.
_MOST = 1e18


def _further(
    u: jax.Array, way: jax.Array, *, scale: Any, growth: Any
) -> tuple[jax.Array, jax.Array]:
    # The same as `scale * (way + u) - old_scale * way`, which would cancel.
    return scale * u + growth * way, way + u


@transformation(state=MechanicState)
def mechanize(
    base_optimizer: GradientTransformation,
    weight_decay: NonNegative = 1e-2,
    eps: Positive = 1e-8,
    s_init: Positive = 1e-6,
    num_betas: PositiveCount = 6,
) -> GradientTransformation:
    r"""Multiplies the way that an optimizer has gone by a number that it learns: Mechanic.

    $\Delta$ is the sum of the updates $u$ of the base optimizer, and $S_t = \sum_i s_{t,i}$
    the length of its steps in the units that they should have, so that, with $x_1$ the
    parameters at the start,

    $$ \Delta_{t+1} = \Delta_t + u_t, \qquad x_{t+1} = x_1 + S_{t+1}\, \Delta_{t+1}. $$

    Had $S$ been longer, the loss would have fallen by $h_t$ more (to first order, and with
    a pull $\lambda$ towards zero). $n$ players, with decays
    $\beta_i = 1 - 10^{-i}$, bet on it:

    $$ h_t = -\Bigl\langle \Delta_t,\; g_t + \lambda\, S_t\, \lVert g_t \rVert\,
       \frac{x_t}{\lVert x_t \rVert + \epsilon} \Bigr\rangle, \qquad
       r_t = \beta\, r_{t-1} + s_t\, \mathrm{clip}(h_t, \pm m_{t-1}), $$
    $$ m_t = \max(\beta\, m_{t-1},\ |h_t| + \epsilon), \qquad
       v_t = \beta^2\, v_{t-1} + h_t^2, \qquad
       s_{t+1} = \frac{s_0\, m_t / n + \max(r_t, 0)}{\sqrt{v_t} + \epsilon}. $$

    It does not replace a schedule: give the base optimizer one that has 1 for its largest
    value, or the rate 1. Updates have to be applied as they are: nothing that changes them
    may come after it.

    Args:
        base_optimizer: Any transformation whose updates are whole steps, such as `adamw`.
            One that makes all steps equally long, such as `lamb`, is not what
            it is for.
        weight_decay: $\lambda \ge 0$. The pull is as strong for a base of rate 0.001 as for
            one of rate 1, the rest of $h$ a thousandth: give the base the rate 1. May be
            traced, as may be the next two.
        eps: $\epsilon > 0$.
        s_init: $s_0 > 0$, a guess that is too small: of what to multiply the rate by.
        num_betas: $n \ge 1$.

    Returns:
        A `GradientTransformation` with a `MechanicState`: 4 bytes a parameter, and those of
        the base optimizer. It needs the params. `measure` knows $S$ as `mechanic_scale`.
        Optax keeps $x_1$, and finds $\Delta$ by $(x_t - x_1) / (S_t + \epsilon)$, of which
        little or nothing is left while steps are small beside the roundings of $x$; here it
        is $\Delta$ that is kept.

    Raises:
        TypeError: If `base_optimizer` is no transformation.
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t, x = ox.mechanize(ox.sgd(1e-3)), jnp.array([3.0, -2.0])
        >>> def step(carry, _):
        ...     x, state = carry
        ...     u, state = t.update(2 * x, state, x)
        ...     return (x + u, state), None
        >>> (x, state), _ = jax.lax.scan(step, (x, t.init(x)), length=200)
        >>> print(bool(jnp.abs(x).max() < 0.01), bool(state.s.sum() > 1.0))
        True True

    References:
        A. Cutkosky, A. Defazio and H. Mehta, [Mechanic: a learning rate
        tuner](https://arxiv.org/abs/2306.00144), 2023. As in the authors' JAX code, which
        is Optax's, $h$ is clipped, and $r$ may fall below zero; in the paper, and in their
        PyTorch code, it is not, and $r$ stops at zero.
    """
    base.check_stages("mechanize", [base_optimizer])
    decline = [0.1**i for i in range(1, num_betas + 1)]  # 1 - beta.

    def init(params: Params) -> MechanicState:
        def every(number: Any) -> jax.Array:
            return jnp.full((num_betas,), numerics.as_scalar(number))

        return MechanicState(
            s=every(s_init),
            r=every(0.0),
            m=every(0.0),
            v=every(0.0),
            way=slot_like(params),
            base_optimizer_state=base_optimizer.init(params),
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: MechanicState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, MechanicState]:
        params = base.needs(params)
        out, _, base_state = base.advance(
            base_optimizer, updates, gradient, state.base_optimizer_state, params, extra
        )
        before = jnp.sum(state.s)
        h = _gain(updates, state.way, params, weight_decay * before, eps)
        less = numerics.as_scalar(jnp.array(decline))
        clipped = jnp.clip(h, -state.m, state.m)
        m = jnp.maximum(state.m - less * state.m, jnp.abs(h) + eps)
        v = state.v + (h * h - less * (2 - less) * state.v)
        r = state.r + (clipped * state.s - less * state.r)
        wealth = s_init / num_betas * m + jnp.maximum(r, 0)
        s = wealth / (numerics.sqrt(v) + eps)
        after = jnp.sum(s)
        _reports.report("mechanic_scale", after)
        out, way = leafwise(_further, out, state.way, scale=after, growth=after - before)
        return out, out, MechanicState(s, r, m, v, way, base_state)

    return base.combinator(init, advance, (base_optimizer,))


def _gain(updates: Updates, way: Updates, params: Params, decay: Any, eps: Any) -> Any:
    """How much more the loss would have fallen, had all steps been longer."""
    size, length = (numerics.as_scalar(norm(x)) for x in (updates, params))
    # Beyond it in other units, so that no terms of opposite sign are infinite.
    unit = jnp.where(size > _MOST, 2.0**100, 1.0)
    scaled = leafwise(numerics.over, updates, y=unit)

    def along(x: Any) -> jax.Array:
        return unit * numerics.as_scalar(jnp.real(vdot(scaled, x)))

    inward = numerics.as_scalar(jnp.real(vdot(way, params)))
    pull = decay * jnp.minimum(size, _MOST) * inward / (length + eps)
    pull = jnp.clip(pull, -_MOST, _MOST)
    return jnp.clip(-along(way) - pull, -_MOST, _MOST)
