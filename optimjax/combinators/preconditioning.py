"""Dividing by curvature that is estimated now and then: Sophia and AdaHessian."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from .. import base, numerics
from .._checks import Checked
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..transforms.hessian import HUTCHINSON
from ..tree import broadcast_prefix, leafwise, slot_like
from ..typing import Decay, Fraction, NonNegative, Positive, PositiveCount
from .branching import when


class ScaleByCurvatureState(NamedTuple):
    """State of `scale_by_curvature`."""

    count: jax.Array  # t, (), int32: the steps taken.
    estimates: jax.Array  # (), int32: how many estimates went into the mean.
    mean: Params  # h, shaped like the params; real, float32 or wider.
    hessian_fn_state: OptState  # That of the estimator; () if there is none.


@transformation(state=ScaleByCurvatureState)
def scale_by_curvature(
    decay: Decay = 0.99,
    gamma: NonNegative = 0.01,
    eps: Positive = 1e-8,
    update_interval: PositiveCount = 10,
    hessian_diagonal_fn: GradientTransformation | None = HUTCHINSON,
) -> GradientTransformation:
    r"""Divides by a running mean of the curvature: the middle of Sophia.

    With estimates $\hat h_t$ of a diagonal at the steps $t = 1, k + 1, 2 k + 1, \dots$,

    $$ h_t = \beta\, h_{t-1} + (1 - \beta)\, \hat h_t \text{ at those, else } h_{t-1},
       \qquad u_t = \frac{d_t}{\max(\gamma\, h_t,\ \epsilon)}. $$

    Where the curvature is small or negative, that is as good as infinite: `clip` belongs
    behind it. Between two estimates the estimator is not run, and costs nothing.

    Args:
        decay: $\beta$, in $[0, 1)$, from estimate to estimate. May be traced, as may be the
            next two.
        gamma: $\gamma \ge 0$: 0.01 for Hutchinson's estimates, 0.05 for those of
            `gauss_newton_bartlett_estimator`, in the paper. Tune it until between 1 and 5
            of 10 numbers are not clipped.
        eps: $\epsilon > 0$.
        update_interval: $k \ge 1$.
        hessian_diagonal_fn: Where estimates come from: any transformation whose updates are
            a diagonal. It is given the updates and the gradient as they come in here, the
            params, and all extra arguments; what it reads of these, `update` needs at every
            call. `None`: they are handed in, at the steps that have one,
            `update(..., hessian_diagonal=h)`, as a tree like the updates or a prefix of one
            (a number for a leaf, or for all). Until the first, and for good if there never
            is one, $h = 0$ and updates are divided by $\epsilon$, without a warning.

    Returns:
        A `GradientTransformation` with a `ScaleByCurvatureState`.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: If `hessian_diagonal_fn` is no transformation.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_curvature(0.5, gamma=1.0)
        >>> p = jnp.array([1.0, 1.0])
        >>> def loss(p):
        ...     return 3.0 * p[0] ** 2 + p[1] ** 2
        >>> updates, state = t.update(jnp.array([6.0, 2.0]), t.init(p), p, obj_fn=loss)
        >>> print(updates, state.mean)
        [2. 2.] [3. 1.]

    References:
        H. Liu et al., [Sophia: a scalable stochastic second-order optimizer for language
        model pre-training](https://arxiv.org/abs/2305.14342), 2023.
    """

    def divide(estimates: jax.Array) -> tuple[Callable[..., Any], dict[str, Any]]:
        del estimates
        return _over_mean, {"gamma": gamma, "eps": eps}

    return _preconditioner(
        "scale_by_curvature",
        ScaleByCurvatureState,
        hessian_diagonal_fn,
        update_interval,
        _averaged,
        divide,
        decay=decay,
    )


def _averaged(
    u: jax.Array, mean: jax.Array, h: jax.Array, *, decay: Any
) -> tuple[jax.Array, jax.Array]:
    return u, numerics.decay_and_add(mean, (1 - decay) * jnp.real(h), decay)


def _over_mean(u: jax.Array, mean: jax.Array, *, gamma: Any, eps: Any) -> jax.Array:
    return numerics.over(u, jnp.maximum(gamma * mean, eps))


def _checked_axes(axes: Any, where: str) -> tuple[int, ...]:
    if not isinstance(axes, tuple | list) or not set(axes) <= {0, 1, 2, 3}:
        raise ValueError(
            f"{where} must be some of the axes 0 to 3, such as (0, 1), but got {axes!r}."
        )
    return tuple(axes)


SpatialAxes: TypeAlias = Annotated[tuple[int, ...], Checked(_checked_axes)]


class ScaleByCurvatureRmsState(NamedTuple):
    """State of `scale_by_curvature_rms`."""

    count: jax.Array  # t, (), int32: the steps taken.
    estimates: jax.Array  # (), int32: how many estimates went into the mean.
    mean: Params  # v, of squares, shaped like the params; real, float32 or wider.
    hessian_fn_state: OptState  # That of the estimator; () if there is none.


@transformation(state=ScaleByCurvatureRmsState)
def scale_by_curvature_rms(
    decay: Decay = 0.999,
    eps: NonNegative = 1e-4,
    update_interval: PositiveCount = 1,
    hessian_diagonal_fn: GradientTransformation | None = HUTCHINSON,
    *,
    hessian_power: Fraction = 1.0,
    spatial_axes: SpatialAxes = (0, 1),
) -> GradientTransformation:
    r"""Divides by the root mean square of the curvature: the second half of AdaHessian.

    With estimates $\hat h$ of a diagonal at every $k$-th step, as in `scale_by_curvature`,
    and $n$ of them until now,

    $$ v = \beta\, v + (1 - \beta)\, \bar h^2, \qquad
       u = \frac{d}{\bigl(\sqrt{v / (1 - \beta^n)}\bigr)^{\kappa} + \epsilon}, $$

    where $\bar h$ is $\hat h$, but in a convolution's kernel its mean over the window, and
    $u = 0$ where the denominator is, and before there is any estimate.

    Args:
        decay: $\beta$, in $[0, 1)$. May be traced, as may be the next.
        eps: $\epsilon \ge 0$.
        update_interval: $k \ge 1$.
        hessian_diagonal_fn: As in `scale_by_curvature`.
        hessian_power: $\kappa$, in $[0, 1]$. May be traced. At 0, it is gradient descent.
        spatial_axes: The axes of the window in an array of four axes, over which the noise
            of the estimates is averaged out: `(0, 1)` in JAX's layout, (height, width, in,
            out); `(2, 3)` in PyTorch's; `()` to leave them alone, for arrays that are no
            kernels. It is the mean of what the estimates are, as in the paper; the authors'
            code takes that of their moduli.

    Returns:
        A `GradientTransformation` with a `ScaleByCurvatureRmsState`.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: If `hessian_diagonal_fn` is no transformation.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_curvature_rms(eps=0.0)
        >>> p = jnp.array([1.0, 1.0])
        >>> def loss(p):
        ...     return 3.0 * p[0] ** 2 + p[1] ** 2
        >>> updates, _ = t.update(jnp.array([6.0, 2.0]), t.init(p), p, obj_fn=loss)
        >>> print(updates)
        [1. 1.]

    References:
        Z. Yao et al., [AdaHessian: an adaptive second order optimizer for machine
        learning](https://arxiv.org/abs/2006.00719), 2021.
    """

    def divide(estimates: jax.Array) -> tuple[Callable[..., Any], dict[str, Any]]:
        known = estimates > 0
        correction = numerics.debiasing(decay, jnp.maximum(estimates, 1))
        return _over_root, {
            "known": known,
            "correction": correction,
            "power": hessian_power,
            "eps": eps,
        }

    return _preconditioner(
        "scale_by_curvature_rms",
        ScaleByCurvatureRmsState,
        hessian_diagonal_fn,
        update_interval,
        _squares_averaged,
        divide,
        decay=decay,
        axes=spatial_axes,
    )


def _squares_averaged(
    u: jax.Array, mean: jax.Array, h: jax.Array, *, decay: Any, axes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    h = jnp.real(h)
    if h.ndim == 4 and axes:
        h = jnp.broadcast_to(jnp.mean(h, axes, keepdims=True), h.shape)
    return u, numerics.decay_and_add(mean, numerics.weighted_square(h, 1 - decay), decay)


def _over_root(
    u: jax.Array, mean: jax.Array, *, known: Any, correction: Any, power: Any, eps: Any
) -> jax.Array:
    root = numerics.sqrt(numerics.times(correction, mean))
    if not (isinstance(power, float) and power == 1):
        zero = root == 0  # Whose power has no derivative.
        root = jnp.where(zero, 0, jnp.where(zero, 1, root) ** power)
    return jnp.where(known, numerics.divide(u, root + eps), 0)


def _preconditioner(
    name: str,
    state_type: Callable[..., Any],
    estimator: GradientTransformation | None,
    every: int,
    average: Callable[..., Any],
    divide: Callable[[jax.Array], tuple[Callable[..., Any], dict[str, Any]]],
    **settings: Any,
) -> GradientTransformation:
    """What the rules have in common: when there is an estimate, and where it comes from.

    Args:
        average: The rule `(u, mean, h) -> (u, mean)` that takes an estimate into the mean.
        divide: From the number of estimates to the rule `(u, mean) -> u`, and its scalars.
    """
    stages = () if estimator is None else (estimator,)
    base.check_stages(name, stages, "`hessian_diagonal_fn`")

    def init(params: Params) -> Any:
        def zero() -> jax.Array:
            return jnp.zeros((), jnp.int32)

        inner = () if estimator is None else estimator.init(params)
        return state_type(zero(), zero(), slot_like(params, real=True), inner)

    def advance(
        updates: Updates,
        gradient: Updates,
        state: Any,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, Any]:
        def renewed(diagonal: Any, inner: Any) -> tuple[Any, jax.Array, Any]:
            _, mean = leafwise(average, updates, state.mean, reads=(diagonal,), **settings)
            return mean, numerics.increment(state.estimates), inner

        def estimated() -> Any:
            assert estimator is not None
            diagonal, _, inner = base.advance(
                estimator, updates, gradient, state.hessian_fn_state, params, extra
            )
            return renewed(diagonal, inner)

        old = state.mean, state.estimates, state.hessian_fn_state
        if estimator is not None:
            due = state.count % every == 0
            now = estimated() if every == 1 else when(due, estimated, lambda: old)
        elif extra.get("hessian_diagonal") is not None:
            given = extra["hessian_diagonal"]
            spread = broadcast_prefix(given, updates, "`hessian_diagonal`")
            now = renewed(spread, state.hessian_fn_state)
        else:
            now = old
        mean, estimates, inner = now
        rule, scalars = divide(estimates)
        out = leafwise(rule, updates, reads=(mean,), **scalars)
        count = numerics.increment(state.count)
        return out, out, state_type(count, estimates, mean, inner)

    reads = {"hessian_diagonal"} if estimator is None else ()
    return base.combinator(init, advance, stages, reads=reads)
