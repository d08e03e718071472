"""Steps that are not taken: where gradients are not finite, or unlike all before.

A step that is left out is as if it had not been: updates are zero, and the state of what is
guarded, its counts included, stays what it is.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, base, numerics, selection, states, tree
from .._checks import Refusal, checked
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..tree import leafwise
from ..typing import AtLeastOne, Count, Fraction, Positive, PositiveCount
from .branching import advance_if, decision, no_step, when


def _all_finite(updates: Updates) -> jax.Array:
    leaves = [jnp.isfinite(u).all() for u in jax.tree.leaves(updates)]
    return jnp.stack([jnp.ones((), bool), *leaves]).all()


def _grown(count: jax.Array, more: jax.Array) -> jax.Array:
    """`count`, and one more where `more` holds."""
    return jnp.where(more, numerics.increment(count), count)


def _in_a_row(count: jax.Array, holds: jax.Array) -> jax.Array:
    """How often `holds` has been true without a break; zero where it is not."""
    return jnp.where(holds, numerics.increment(count), 0)


class ApplyIfFiniteState(NamedTuple):
    """State of `apply_if_finite`."""

    notfinite_count: jax.Array  # (), int32: the bad steps in a row, up to the last one.
    total_notfinite: jax.Array  # (), int32: all of them.
    last_finite: jax.Array  # (), bool: whether the last step was taken.
    gave_up: jax.Array  # (), bool: whether there are too many in a row.
    inner_state: OptState  # That of `inner`.


@transformation(state=ApplyIfFiniteState, packable=True)
def apply_if_finite(
    inner: GradientTransformation, max_consecutive_errors: PositiveCount
) -> GradientTransformation:
    """Leaves out every step whose gradients hold NaN or infinity.

    It looks at all that it is given, before `inner` does. Bad steps are left out as long as
    they come; that there are too many in a row is said in the state, for the caller to see:

        if state.gave_up: raise FloatingPointError(...)

    (Optax takes the bad step then, which makes all parameters NaN.) The first finite step
    is taken as ever, and takes the word back. In a `shard_map`, take the mean over devices
    before, so that all of them decide alike.

    Args:
        inner: Any transformation.
        max_consecutive_errors: How many bad steps in a row are too many, at least 1.

    Returns:
        A `GradientTransformation` with an `ApplyIfFiniteState`.

    Raises:
        TypeError: If `inner` is no transformation.
        ValueError: If `max_consecutive_errors` is less than 1.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.apply_if_finite(ox.sgd(1.0), 2)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (jnp.nan, jnp.inf, 1.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates, state.notfinite_count, state.gave_up)
        [0.] 1 False
        [0.] 2 True
        [-1.] 0 False
    """
    base.check_stages("apply_if_finite", [inner])

    def init(params: Params) -> ApplyIfFiniteState:
        return ApplyIfFiniteState(
            notfinite_count=jnp.zeros((), jnp.int32),
            total_notfinite=jnp.zeros((), jnp.int32),
            last_finite=jnp.ones((), bool),
            gave_up=jnp.zeros((), bool),
            inner_state=inner.init(params),
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: ApplyIfFiniteState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, ApplyIfFiniteState]:
        finite = _all_finite(updates)
        out, lane, inner_state = advance_if(
            finite, inner, updates, gradient, state.inner_state, params, extra
        )
        in_a_row = _in_a_row(state.notfinite_count, ~finite)
        total = _grown(state.total_notfinite, ~finite)
        gave_up = in_a_row >= max_consecutive_errors
        return out, lane, ApplyIfFiniteState(in_a_row, total, finite, gave_up, inner_state)

    return base.combinator(init, advance, (inner,))


class SkipSpikesState(NamedTuple):
    """State of `skip_spikes`."""

    recent: jax.Array  # (window,), float32: the last sizes that passed, in a ring.
    seen: jax.Array  # (), int32: how many have passed since the memory began.
    skipped_count: jax.Array  # (), int32: the steps left out in a row, up to the last.
    total_skipped: jax.Array  # (), int32: all of them.
    last_skipped: jax.Array  # (), bool: whether the last step was left out.
    gave_up: jax.Array  # (), bool: whether there are too many in a row.
    inner_state: OptState  # That of `inner`.


@transformation(state=SkipSpikesState, packable=True)
def skip_spikes(
    inner: GradientTransformation,
    is_spike: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    of: Literal["norm", "value"] = "norm",
    window: PositiveCount = 128,
    warmup: Count = 16,
    max_consecutive_skips: PositiveCount = 16,
) -> GradientTransformation:
    """Leaves out steps whose gradient, or loss, is unlike those of the steps before.

    The sizes of the last steps that were taken are kept, and `is_spike` holds each new one
    against them; a size of NaN or infinity is always a spike. With `of="value"` gradients
    are not looked at: put `apply_if_finite` around it for these. A level that stays is no
    spike: after `max_consecutive_skips` in a row, the memory starts anew (and `gave_up`
    says so), so that the next finite step is taken.

    Args:
        inner: Any transformation.
        is_spike: A function of the size and of the recent ones, NaN where there are none
            yet, to a boolean: `beyond_z_score(4.0)`, `beyond_quantile(0.9, 3.0)`, or one of
            your own.
        of: What is looked at: the `"norm"` of all gradients together, or the `"value"` that
            is given to `update` (the loss).
        window: How many sizes are kept.
        warmup: How many must be there before the first spike; until then all finite steps
            are taken. 0 is for an `is_spike` that knows a bound by itself.
        max_consecutive_skips: How many steps left out in a row are too many.

    Returns:
        A `GradientTransformation` with a `SkipSpikesState`. With `of="value"` it needs
        `value=...`.

    Raises:
        TypeError: If `inner` is no transformation, or `is_spike` no function; in `update`,
            if `value` is missing.
        ValueError: If a count is too small, or `warmup` more than `window`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.skip_spikes(ox.sgd(1.0), ox.beyond_quantile(0.5, 10.0), warmup=2)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (1.0, 2.0, 1000.0, 1.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates, state.last_skipped)
        [-1.] False
        [-2.] False
        [0.] True
        [-1.] False
    """
    base.check_stages("skip_spikes", [inner])
    if not callable(is_spike):
        raise TypeError(
            "`skip_spikes(is_spike=...)` must be a function such as "
            f"`beyond_z_score(4.0)`, but got {is_spike!r}."
        )
    if warmup > window:
        raise ValueError(
            f"`skip_spikes(warmup=...)` must be at most `window`, which is {window}, but "
            f"got {warmup}."
        )

    def init(params: Params) -> SkipSpikesState:
        return SkipSpikesState(
            recent=jnp.zeros((window,), jnp.float32),
            seen=jnp.zeros((), jnp.int32),
            skipped_count=jnp.zeros((), jnp.int32),
            total_skipped=jnp.zeros((), jnp.int32),
            last_skipped=jnp.zeros((), bool),
            gave_up=jnp.zeros((), bool),
            inner_state=inner.init(params),
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: SkipSpikesState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, SkipSpikesState]:
        size = tree.norm(updates) if of == "norm" else base.needs_extra("value", extra)
        if jnp.shape(size) != ():
            raise Refusal(
                ValueError, f"got a `value` of shape {jnp.shape(size)}, not one number."
            )
        size = _dtypes.cast(size, jnp.float32)
        there = jnp.arange(window, dtype=jnp.int32) < state.seen
        said = is_spike(size, jnp.where(there, state.recent, jnp.nan))
        spike = decision(said, is_spike)
        taken = jnp.isfinite(size) & ~((state.seen >= warmup) & spike)
        out, lane, inner_state = advance_if(
            taken, inner, updates, gradient, state.inner_state, params, extra
        )
        in_a_row = _in_a_row(state.skipped_count, ~taken)
        gave_up = in_a_row >= max_consecutive_skips
        with_it = state.recent.at[state.seen % window].set(size)
        new_state = SkipSpikesState(
            jnp.where(taken, with_it, state.recent),
            jnp.where(gave_up, 0, _grown(state.seen, taken)),
            in_a_row,
            _grown(state.total_skipped, ~taken),
            ~taken,
            gave_up,
            inner_state,
        )
        return out, lane, new_state

    reads = {"value"} if of == "value" else ()
    return base.combinator(init, advance, (inner,), reads=reads)


@checked
def beyond_z_score(threshold: Positive) -> Callable[[jax.Array, jax.Array], jax.Array]:
    r"""Tells sizes more than so many standard deviations above the mean of the recent ones.

    $$ x > \mu + z\,\sigma. $$

    Args:
        threshold: $z > 0$.

    Returns:
        A function for `skip_spikes`.

    Raises:
        ValueError: If `threshold` is not positive.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.beyond_z_score(3.0)(9.0, jnp.array([1.0, 3.0, jnp.nan])))
        True
    """

    def is_spike(size: jax.Array, recent: jax.Array) -> jax.Array:
        return size > jnp.nanmean(recent) + threshold * jnp.nanstd(recent)

    is_spike.__name__ = f"beyond_z_score({threshold})"
    return is_spike


@checked
def beyond_quantile(
    q: Fraction, factor: Positive = 1.0
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    r"""Tells sizes more than a factor above a quantile of the recent ones.

    $$ x > c\,Q_q. $$

    Args:
        q: Which quantile, in [0, 1]; 0.5 is the median.
        factor: $c > 0$.

    Returns:
        A function for `skip_spikes`.

    Raises:
        ValueError: If `q` or `factor` lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.beyond_quantile(0.5, 4.0)(9.0, jnp.array([1.0, 3.0, jnp.nan])))
        True
    """

    def is_spike(size: jax.Array, recent: jax.Array) -> jax.Array:
        return size > factor * jnp.nanquantile(recent, q)

    is_spike.__name__ = f"beyond_quantile({q}, {factor})"
    return is_spike


class DynamicLossScalingState(NamedTuple):
    """State of `dynamic_loss_scaling`."""

    scale: jax.Array  # s, (), float32: what to multiply the next loss by.
    finite_count: jax.Array  # (), int32: the finite steps since the scale has changed.
    total_notfinite: jax.Array  # (), int32: the steps left out.
    last_finite: jax.Array  # (), bool: whether the last step was taken.
    inner_state: OptState  # That of `inner`.


def _unscaled(u: jax.Array, *, scale: jax.Array) -> jax.Array:
    return numerics.over(u, scale)


@transformation(state=DynamicLossScalingState, packable=True)
def dynamic_loss_scaling(
    inner: GradientTransformation,
    initial_scale: Positive = 2.0**15,
    *,
    growth_interval: PositiveCount = 2000,
    growth_factor: AtLeastOne = 2.0,
    backoff_factor: Fraction = 0.5,
    min_scale: Positive = 1.0,
    max_scale: Positive = 2.0**24,
) -> GradientTransformation:
    r"""Divides gradients by the number that the loss was multiplied by, and finds it.

    Gradients in float16 vanish below 6e-8. So the loss is multiplied by a large $s$, the
    gradients, as large, are divided by it in float32, and $s$ follows what float16 holds: a
    step with an overflow is left out and lowers it, a long row of good ones raises it.

        grads = jax.grad(lambda params: ox.loss_scale(state) * loss(params))(params)
        updates, state = optimizer.update(grads, state, params)

    Args:
        inner: Any transformation; it sees the gradients of the loss itself.
        initial_scale: The first $s$. Keras and TensorFlow start at $2^{15}$, PyTorch at
            $2^{16}$.
        growth_interval: After how many finite steps in a row $s$ grows.
        growth_factor: What it is multiplied by then, at least 1.
        backoff_factor: What it is multiplied by after a step that was not finite, from 0
            to 1.
        min_scale: It does not fall below this,
        max_scale: nor rise above this.

    Returns:
        A `GradientTransformation` with a `DynamicLossScalingState`; `loss_scale` reads it.

    Raises:
        TypeError: If `inner` is no transformation.
        ValueError: If a number lies outside of its range, `initial_scale` outside of its
            bounds.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.dynamic_loss_scaling(ox.sgd(1.0), 4.0)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (8.0, jnp.inf, 2.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates, state.scale)
        [-2.] 4.0
        [0.] 2.0
        [-1.] 2.0

    References:
        P. Micikevicius et al., [Mixed precision
        training](https://arxiv.org/abs/1710.03740), 2018.
    """
    base.check_stages("dynamic_loss_scaling", [inner])
    scales = [min_scale, initial_scale, max_scale]
    if all(isinstance(s, float) for s in scales) and scales != sorted(scales):
        raise ValueError(
            "`dynamic_loss_scaling(initial_scale=...)` must lie between `min_scale` and "
            f"`max_scale`, {min_scale} and {max_scale}, but got {initial_scale}."
        )

    def init(params: Params) -> DynamicLossScalingState:
        return DynamicLossScalingState(
            scale=_dtypes.cast(initial_scale, jnp.float32),
            finite_count=jnp.zeros((), jnp.int32),
            total_notfinite=jnp.zeros((), jnp.int32),
            last_finite=jnp.ones((), bool),
            inner_state=inner.init(params),
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: DynamicLossScalingState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, DynamicLossScalingState]:
        finite = _all_finite(updates)

        def step() -> Any:
            true, lane = (
                leafwise(_unscaled, x, scale=state.scale) for x in (updates, gradient)
            )
            given = {**extra, "grad": true} if "grad" in extra else extra
            return base.advance(inner, true, lane, state.inner_state, params, given)

        out, lane, inner_state = when(
            finite, step, lambda: no_step(updates, state.inner_state)
        )
        in_a_row = _in_a_row(state.finite_count, finite)
        grows = in_a_row >= growth_interval
        factor = jnp.where(finite, jnp.where(grows, growth_factor, 1.0), backoff_factor)
        new_state = DynamicLossScalingState(
            _dtypes.cast(jnp.clip(state.scale * factor, min_scale, max_scale), jnp.float32),
            jnp.where(grows, 0, in_a_row),
            _grown(state.total_notfinite, ~finite),
            finite,
            inner_state,
        )
        return out, lane, new_state

    return base.combinator(init, advance, (inner,))


def loss_scale(state: OptState) -> jax.Array:
    """The number to multiply the loss by, for `dynamic_loss_scaling`.

    Args:
        state: The state of an optimizer with `dynamic_loss_scaling` anywhere in it.

    Returns:
        $s$, a float32 scalar.

    Raises:
        ValueError: If there is none in it, or more than one.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(ox.dynamic_loss_scaling(ox.adam(1e-3)))
        >>> print(ox.loss_scale(t.init(jnp.zeros(1))))
        32768.0
    """
    found = states.states_in(state, DynamicLossScalingState)
    if len(found) != 1:
        raise ValueError(
            "`loss_scale` needs a state with one `dynamic_loss_scaling` in it, but there "
            f"are {len(found)}: {selection.listed(found) or 'none'}."
        )
    return next(iter(found.values())).scale
