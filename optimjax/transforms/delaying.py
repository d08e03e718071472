"""Gradients that come late: as they would come, and what makes up for it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, base, numerics
from .._checks import Refusal
from ..base import (
    EmptyState,
    GradientTransformation,
    OptState,
    Params,
    Updates,
    transformation,
    where_updated,
)
from ..tree import leafwise, slot_like, slot_of
from ..typing import Count, Decay, NonNegative, PositiveCount, Schedule


def ring_of(slot: Any, steps: int) -> Any:
    """A fresh slot of state for what `slot` is like, of now and of `steps` steps before."""
    return jax.tree.map(lambda x: jnp.repeat(x[None], steps + 1, axis=0), slot)


def check_ring(name: str, ring: Any, steps: int | None, updates: Updates) -> None:
    """Refuses a state that was made for another number of steps."""
    base.check_slot(name, ring, bool(steps), updates)
    for x in jax.tree.leaves(ring):
        if steps is not None and x.shape[0] != steps + 1:
            raise Refusal(
                ValueError,
                f"needs a state made for {steps} steps, but got one made for "
                f"{x.shape[0] - 1}: `{name}` is begun anew by `init`.",
            )


def exchanged(
    ring: jax.Array, new: jax.Array, count: Any, late: Any
) -> tuple[jax.Array, jax.Array]:
    """What was put into the ring `late` steps ago, and the ring with `new` in it."""
    length = ring.shape[0]
    # Written before it is read, for which there is room: in place. If what is read were
    # then written over, no data would say which comes first, and XLA would copy the ring.
    ring = jax.lax.dynamic_update_index_in_dim(ring, new, count % length, axis=0)
    old = jax.lax.dynamic_index_in_dim(ring, (count - late) % length, keepdims=False)
    return old, ring


def filled(updates: Updates, ring: Any) -> Updates:
    """`updates`, with zeros for what is missing: else the last round would come again."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
    if all(u is not None for u in leaves):
        return updates
    rings = _dtypes.match(treedef, leaves, ring, "the state", free=True)

    def zeros(ring: Any) -> Any:
        return jax.tree.map(lambda r: jnp.zeros(r.shape[1:], r.dtype), ring)

    return treedef.unflatten(
        zeros(r) if u is None else u for u, r in zip(leaves, rings, strict=True)
    )


def where_given(out: Updates, updates: Updates) -> Updates:
    """`out`, with None where `updates` has it."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
    return where_updated(treedef, leaves, treedef.flatten_up_to(out))


def _renewed(new: Any, old: Any, updates: Updates) -> Any:
    """`new`, but `old` where there is no update."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
    columns = (leaves, treedef.flatten_up_to(new), treedef.flatten_up_to(old))
    return treedef.unflatten(
        o if u is None else n for u, n, o in zip(*columns, strict=True)
    )


def _checked_schedule(who: str, at: Any) -> None:
    if at is not None and not callable(at):
        raise TypeError(
            f"`{who}(at=...)` must be a function of the step, but got {at!r}. A delay that "
            "is always the same is `steps`."
        )


def _late(at: Schedule | None, count: jax.Array, steps: int) -> jax.Array:
    """The delay in force, a whole number from 0 to `steps`."""
    if at is None:
        return jnp.full_like(count, steps)
    late = jnp.round(numerics.at_step(at, count))
    return jnp.clip(late, 0, steps).astype(count.dtype)


class DelayState(NamedTuple):
    """State of `delay`."""

    count: jax.Array  # t, (), int32: the steps taken.
    # For each parameter the last gradients, (steps + 1, *shape), in a ring: that of step t
    # is at t mod (steps + 1). None for no delay.
    pending: Updates


def _delayed(u: jax.Array, pending: Any, *, count: Any, late: Any) -> tuple[jax.Array, Any]:
    return exchanged(pending, u, count, late)


@transformation(state=DelayState)
def delay(steps: Count, *, at: Callable[..., Any] | None = None) -> GradientTransformation:
    r"""Gives out the gradient of some steps ago: for trying what delay does.

    $$ u_t = g_{t - n}, \qquad u_t = 0 \text{ for the first } n \text{ steps}. $$

    So it is with a pipeline, or with one of $n + 1$ workers that take turns: a gradient is
    of the parameters that there were when it was begun. To an optimizer behind it that
    counts its steps, zeros are gradients, too; one that is to wait for the first is
    `conditionally_mask(adam(1e-3), lambda t: t >= n)`.

    Put in front of an optimizer it delays gradients; what delays its whole steps, and knows
    those that are on their way, is `delay_updates`. The remedies: `scale_by_staleness`,
    `compensate_delay`, `predict_params`.

    Args:
        steps: $n \ge 0$; the longest delay, if there is a schedule.
        at: A function of the step (0 is the first) to the delay of what comes out there,
            from 0 to `steps`; None: it is always `steps`. With one that jumps, a gradient
            may come twice, or never. A random one: `lambda t: jax.random.randint(
            jax.random.fold_in(key, t), (), 0, n + 1)`.

    Returns:
        A `GradientTransformation` with a `DelayState`: $4(n + 1)$ bytes a parameter. A
        leaf without a gradient (None) gets none, and what was due is lost.

    Raises:
        ValueError: If `steps` is negative.
        TypeError: If `steps` is no integer, or `at` no function.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.delay(2)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (1.0, 2.0, 3.0, 4.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates)
        [0.]
        [0.]
        [1.]
        [2.]
    """
    _checked_schedule("delay", at)

    def init(params: Params) -> DelayState:
        pending = ring_of(slot_like(params), steps) if steps else None
        return DelayState(jnp.zeros((), jnp.int32), pending)

    def update(
        updates: Updates, state: DelayState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, DelayState]:
        del params, extra
        check_ring("pending", state.pending, steps, updates)
        count, pending = numerics.increment(state.count), state.pending
        if steps:
            out, pending = leafwise(
                _delayed,
                filled(updates, pending),
                pending,
                count=state.count,
                late=_late(at, state.count, steps),
            )
            updates = where_given(out, updates)
        return updates, DelayState(count, pending)

    return GradientTransformation(init, update)


class CompensateDelayState(NamedTuple):
    """State of `compensate_delay`."""

    count: jax.Array  # t, (), int32: the steps taken.
    # For each parameter its last values, (steps + 1, *shape), in a ring; float32 or wider.
    # None if they are given to `update`.
    stale_params: Params
    # s, the mean square, shaped like the params; real. None without a decay.
    mean_square: Params


def _compensated(
    g: jax.Array,
    ring: Any,
    mean_square: Any,
    p: jax.Array,
    *given: jax.Array,
    count: Any,
    late: Any,
    strength: Any,
    decay: Any,
    eps: Any,
) -> tuple[jax.Array, Any, Any]:
    if given:
        (then,) = given
    else:
        then, ring = exchanged(ring, p, count, late)
    square = numerics.abs_sq(g)
    if decay is not None:
        mean_square = numerics.decay_and_add(
            mean_square, numerics.weighted_square(g, 1 - decay), decay
        )
        root = numerics.sqrt(mean_square + eps)
        square = jnp.where(jnp.isinf(root), 0, numerics.divide(square, root))
    way = p - then
    # A square may be infinite where nothing has moved.
    ahead = jnp.where(way == 0, 0, strength * square * way)
    return g + ahead, ring, mean_square


@transformation(state=CompensateDelayState)
def compensate_delay(
    strength: NonNegative,
    steps: PositiveCount | None = None,
    *,
    at: Callable[..., Any] | None = None,
    decay: Decay | None = None,
    eps: NonNegative = 1e-7,
) -> GradientTransformation:
    r"""Moves a late gradient to the parameters of now, to first order: DC-ASGD.

    Of the Hessian, the gradient knows an estimate of the diagonal, its own squares. With
    $x_t$ the parameters, and $x_{t-n}$ those that the gradient was taken at,

    $$ u_t = g_t + \lambda_t\, |g_t|^2 (x_t - x_{t-n}), \qquad \lambda_t = \lambda
       \quad \text{or} \quad \frac{\lambda}{\sqrt{s_t + \epsilon}}, $$

    the latter with a decay $\beta$ and $s_t = \beta s_{t-1} + (1 - \beta)\, |g_t|^2$ from
    zero, which is not corrected for its bias (DC-ASGD-a). That has the better units: with a
    loss that is twice as large, the correction is too.

    It belongs behind what is late, before everything that changes the gradient: `chain(
    delay(4), compensate_delay(1.0, 4, decay=0.95), sgd(0.1))`.

    Args:
        strength: $\lambda \ge 0$. May be traced.
        steps: $n \ge 1$, with the last $n$ parameters kept in the state. None: `update` is
            given the parameters that the gradient was taken at, `stale_params=...`.
        at: As in `delay`: a schedule of delays up to `steps`.
        decay: $\beta$, in $[0, 1)$: 0.95 in the paper. None: $\lambda$ is constant.
        eps: $\epsilon \ge 0$.

    Returns:
        A `GradientTransformation` with a `CompensateDelayState`: $4(n + 1)$ bytes a
        parameter, and 4 more with a decay. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.
        TypeError: If `at` is no function, or given without `steps`; in `update`, if
            `stale_params` are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.compensate_delay(0.5)
        >>> params, stale = jnp.array([3.0]), jnp.array([2.0])
        >>> g = jnp.array([2.0])
        >>> print(t.update(g, t.init(params), params, stale_params=stale)[0])
        [4.]

    References:
        S. Zheng et al., [Asynchronous stochastic gradient descent with delay
        compensation](https://arxiv.org/abs/1609.08326), 2017.
    """
    _checked_schedule("compensate_delay", at)
    if at is not None and steps is None:
        raise TypeError(
            "`compensate_delay(at=...)` needs the longest delay: `compensate_delay(..., "
            "steps=n, at=...)`."
        )

    def init(params: Params) -> CompensateDelayState:
        ring = None if steps is None else ring_of(slot_of(params), steps)
        mean_square = None if decay is None else slot_like(params, real=True)
        return CompensateDelayState(jnp.zeros((), jnp.int32), ring, mean_square)

    def update(
        updates: Updates,
        state: CompensateDelayState,
        params: Params,
        *,
        stale_params: Params | None = None,
        **extra: Any,
    ) -> tuple[Updates, CompensateDelayState]:
        del extra
        check_ring("stale_params", state.stale_params, steps, updates)
        base.check_slot("mean_square", state.mean_square, decay is not None, updates)
        late, given, grads = None, (), updates
        if steps is not None:
            late = _late(at, state.count, steps)
            grads = filled(updates, state.stale_params)
        elif stale_params is None:
            base.needs_extra("stale_params", {})
        else:
            given = (stale_params,)
        out, ring, mean_square = leafwise(
            _compensated,
            grads,
            state.stale_params,
            state.mean_square,
            reads=(params, *given),
            count=state.count,
            late=late,
            strength=strength,
            decay=decay,
            eps=eps,
        )
        if mean_square is not None and grads is not updates:
            # Only the params of such a step are kept.
            mean_square = _renewed(mean_square, state.mean_square, updates)
        count = numerics.increment(state.count)
        return where_given(out, updates), CompensateDelayState(count, ring, mean_square)

    return GradientTransformation(init, update)


@transformation(packable=True)
def scale_by_staleness() -> GradientTransformation:
    r"""Divides a gradient that is $\tau$ steps late by $\tau$.

    $$ u = g / \max(\tau, 1). $$

    `update` needs the delay: `staleness=tau`, a number, which may be traced, and may be
    another at every step. Where it is always the same, $n$, this is `scale(1 / n)`. Put it
    behind rules that divide by moments of the gradient, in which it would cancel:
    `chain(adam(1e-3), scale_by_staleness())`.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        TypeError: In `update`, if `staleness` is missing, or no number.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(ox.scale_by_staleness(), ox.sgd(1.0))
        >>> g = jnp.array([6.0])
        >>> for tau in (0, 1, 3):
        ...     print(t.update(g, t.init(g), staleness=tau)[0])
        [-6.]
        [-6.]
        [-2.]

    References:
        W. Zhang et al., [Staleness-aware async-SGD for distributed deep
        learning](https://arxiv.org/abs/1511.05950), 2015.
    """

    def init(params: Params) -> EmptyState:
        del params
        return EmptyState()

    def update(
        updates: Updates,
        state: EmptyState,
        params: Params | None = None,
        *,
        staleness: Any,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        if jnp.shape(staleness) != () or isinstance(staleness, bool):
            raise Refusal(
                TypeError, f"needs a number for its `staleness`, but got {staleness!r}."
            )
        divisor = jnp.maximum(numerics.as_scalar(staleness), 1)
        return leafwise(numerics.over, updates, y=divisor), state

    return GradientTransformation(init, update)
