"""Rules that look at signs: how a gradient points, not how long it is."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import numerics
from ..base import (
    EmptyState,
    GradientTransformation,
    OptState,
    Params,
    Updates,
    memoryless,
    transformation,
)
from ..tree import leafwise, remembering, slot_like
from ..typing import AtLeastOne, Decay, Fraction, NonNegative, Positive, StorageDtype


@transformation(packable=True)
def scale_by_sign() -> GradientTransformation:
    r"""Keeps the sign of each number: $u = g / |g|$, and $0$ where $g = 0$.

    Returns:
        A `GradientTransformation` with an `EmptyState`. Complex numbers keep their phase.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_sign()
        >>> updates, _ = t.update(jnp.array([3.0, -2.0, 0.0]), t.init(jnp.zeros(3)))
        >>> print(updates)
        [ 1. -1.  0.]

    References:
        J. Bernstein et al., [signSGD: compressed optimisation for non-convex
        problems](https://arxiv.org/abs/1802.04434), 2018.
    """
    return memoryless(lambda updates: leafwise(jnp.sign, updates))


class ScaleByLionState(NamedTuple):
    """State of `scale_by_lion`."""

    mu: Params  # m, the mean of gradients, shaped like the params; in `mu_dtype`.

    directions = ("mu",)


def _lion(
    g: jax.Array, m: jax.Array, *, b1: Any, b2: Any, mode: str, smooth_beta: Any
) -> tuple[jax.Array, jax.Array]:
    x = numerics.decay_and_add(m, (1 - b1) * g, b1)
    u = jnp.sign(x)
    if mode == "smooth":
        u = u * jnp.tanh(smooth_beta * numerics.modulus(x))
    elif mode == "refined":
        u = jnp.where(numerics.modulus(x) < 1, x, u)
    return u, numerics.decay_and_add(m, (1 - b2) * g, b2)


@transformation(state=ScaleByLionState, packable=True)
def scale_by_lion(
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    mu_dtype: StorageDtype | None = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: Positive = 1.0,
) -> GradientTransformation:
    r"""Takes the sign of a mean in which the newest gradient counts for more: Lion.

    $$ x_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad u_t = \mathrm{sgn}\, x_t, \qquad
       m_t = \beta_2 m_{t-1} + (1 - \beta_2)\, g_t. $$

    Args:
        b1: $\beta_1$, in $[0, 1)$. May be traced, as may be `b2` and `smooth_beta`.
        b2: $\beta_2$, in $[0, 1)$.
        mu_dtype: The dtype in which $m$ is stored; `None`: that of the parameter, but
            float32 for parameters of lower precision.
        mode: `"hard"` is the paper's; `"smooth"` gives $\tanh(s\, x_t)$; `"refined"` keeps
            $x_t$ where it is smaller than 1.
        smooth_beta: $s > 0$, for `"smooth"`.

    Returns:
        A `GradientTransformation` with a `ScaleByLionState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_lion()
        >>> updates, _ = t.update(jnp.array([3.0, -0.1, 0.0]), t.init(jnp.zeros(3)))
        >>> print(updates)
        [ 1. -1.  0.]

    References:
        X. Chen et al., [Symbolic discovery of optimization
        algorithms](https://arxiv.org/abs/2302.06675), 2023.
    """
    return remembering(
        ScaleByLionState,
        _lion,
        {"mu": functools.partial(slot_like, dtype=mu_dtype)},
        b1=b1,
        b2=b2,
        mode=mode,
        smooth_beta=smooth_beta,
    )


class ScaleByRpropState(NamedTuple):
    """State of `scale_by_rprop`. Both are shaped like the params."""

    step_size: Params  # How far each number goes; real.
    previous: Params  # The sign of the gradient before; 0 where it had just turned.

    directions = ("previous",)


def _rprop(
    g: jax.Array,
    step: jax.Array,
    old: jax.Array,
    *,
    eta_minus: Any,
    eta_plus: Any,
    smallest: Any,
    largest: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    sign = jnp.sign(g)
    turned = sign * old
    factor = jnp.where(turned > 0, eta_plus, jnp.where(turned < 0, eta_minus, 1))
    step = jnp.clip(step * factor, smallest, largest)
    sign = jnp.where(turned < 0, 0, sign)
    return sign * step, step, sign


@transformation(state=ScaleByRpropState, real=True, packable=True)
def scale_by_rprop(
    learning_rate: NonNegative,
    eta_minus: Fraction = 0.5,
    eta_plus: AtLeastOne = 1.2,
    min_step_size: NonNegative = 1e-6,
    max_step_size: NonNegative = 50.0,
) -> GradientTransformation:
    r"""Gives each number a step of its own, which grows until the gradient turns: Rprop.

    $$ \Delta_t = \mathrm{clip}(\Delta_{t-1} \cdot \{\eta_+, \eta_-, 1\}), \qquad
       u_t = \Delta_t\, \mathrm{sgn}\, g_t, $$

    with $\eta_+$ where $g_t$ has the sign of $g_{t-1}$, and $\eta_-$ where it has the other
    one; there $u_t = 0$, and the gradient counts as 0 at the next step. This is the variant
    without backtracking, iRprop-, as in PyTorch. Optax's applies each step one call later.

    Args:
        learning_rate: $\Delta_0 \ge 0$, the first step. It is the rate itself: only the
            sign has to be flipped behind this stage (`scale(-1.0)`).
        eta_minus: $\eta_-$, in $[0, 1]$. May be traced, as may be the rest.
        eta_plus: $\eta_+ \ge 1$.
        min_step_size: The smallest step.
        max_step_size: The largest step.

    Returns:
        A `GradientTransformation` with a `ScaleByRpropState`.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: In `init`, if a parameter is complex.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_rprop(0.25, eta_plus=2.0)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (3.0, 5.0, -1.0, -1.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates)
        [0.25]
        [0.5]
        [0.]
        [-0.25]

    References:
        M. Riedmiller and H. Braun, [A direct adaptive method for faster backpropagation
        learning](https://doi.org/10.1109/ICNN.1993.298623), 1993.
        C. Igel and M. Huesken, [Improving the Rprop learning
        algorithm](https://citeseerx.ist.psu.edu/doc/10.1.1.17.1332), 2000, for iRprop-.
    """
    bounds = (min_step_size, max_step_size)
    if all(isinstance(b, float) for b in bounds) and min_step_size > max_step_size:
        raise ValueError(
            "`scale_by_rprop(min_step_size=...)` must be no larger than max_step_size, but "
            f"got {min_step_size} and {max_step_size}."
        )
    return remembering(
        ScaleByRpropState,
        _rprop,
        {
            "step_size": lambda params: slot_like(params, learning_rate),
            "previous": slot_like,
        },
        eta_minus=eta_minus,
        eta_plus=eta_plus,
        smallest=min_step_size,
        largest=max_step_size,
    )


def _agreeing(u: jax.Array, g: jax.Array, *, sign: float, rescale: bool) -> jax.Array:
    # By signs: a product of small numbers would underflow.
    if jnp.iscomplexobj(u) or jnp.iscomplexobj(g):
        agrees = jnp.real(jnp.sign(u) * jnp.conj(jnp.sign(g))) * sign > 0
    else:
        agrees = jnp.sign(u) * jnp.sign(g) * sign > 0
    kept = jnp.where(agrees | jnp.isnan(u), u, 0)
    if not rescale:
        return kept
    return kept * (u.size / (jnp.sum(agrees, dtype=kept.real.dtype) + 1))


@transformation
def cautious(*, flip_sign: bool = True, rescale: bool = True) -> GradientTransformation:
    r"""Keeps of each update only the numbers that go downhill by the newest gradient.

    $$ \phi_i = [\, -u_i\, g_i > 0 \,], \qquad
       u'_i = u_i\, \phi_i \cdot \frac{d}{\lVert \phi \rVert_0 + 1}, $$

    where $d$ is the number of parameters in the leaf. It stands behind a whole optimizer,
    `chain(adamw(1e-3), cautious())`, and compares with the gradient that the outermost
    `update` was called with.

    Args:
        flip_sign: Whether the updates are steps downhill, their sign flipped by the
            learning rate. `False` for a place before it, where $u_i g_i > 0$ is kept.
        rescale: Whether to make up for what is left out.

    Returns:
        A `GradientTransformation` with an `EmptyState`. Put it into an `ox.chain`: alone,
        or in a chain of Optax's, nobody tells it the gradient, and `update` needs the
        argument `grad=grads`.

    Raises:
        TypeError: If an argument is no boolean; in `update`, if there is no `grad`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(ox.sgd(1.0, momentum=0.9), ox.cautious(rescale=False))
        >>> state = t.init(jnp.zeros(2))
        >>> for g in ([1.0, 1.0], [1.0, -0.5]):
        ...     updates, state = t.update(jnp.array(g), state)
        >>> print(updates)  # The second still goes where the gradient was before.
        [-1.9 -0. ]

    References:
        K. Liang et al., [Cautious optimizers: improving training with one line of
        code](https://arxiv.org/abs/2411.16085), 2024.
    """

    def init(params: Params) -> EmptyState:
        del params
        return EmptyState()

    def update(
        updates: Updates,
        state: EmptyState,
        params: Params | None = None,
        *,
        grad: Updates,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        sign = -1.0 if flip_sign else 1.0
        kept = leafwise(_agreeing, updates, reads=(grad,), sign=sign, rescale=rescale)
        return kept, state

    return GradientTransformation(init, update)
