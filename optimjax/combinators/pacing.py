"""When a transformation takes a step: after some gradients, or where a condition holds."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import base, numerics
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..tree import leafwise, slot_like
from ..typing import CountOrSchedule, StorageDtype
from .branching import decision, no_step, when


class AccumulateState(NamedTuple):
    """State of `accumulate`."""

    mini_step: jax.Array  # (), int32: the gradients gathered since the last step.
    gradient_step: jax.Array  # (), int32: the steps that `inner` has taken.
    emitted: jax.Array  # (), bool: whether the last call was such a step.
    # Their sum, and after a step still that of its own; as the params, float32 at least.
    total: Updates
    inner_state: OptState  # That of `inner`.

    directions = ("total",)


def _added(u: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    return u, total + u


def _mean(u: jax.Array, total: jax.Array, *, divisor: Any) -> jax.Array:
    del u  # It is in the total already.
    return numerics.over(total, divisor)


@transformation(state=AccumulateState, packable=True)
def accumulate(
    inner: GradientTransformation,
    every: CountOrSchedule,
    *,
    reduce: Literal["mean", "sum"] = "mean",
    dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Gathers gradients, and takes one step with their mean.

    $$ u_t = \begin{cases} \text{inner}\big(\frac1k \sum_{i=0}^{k-1} g_{t-i}\big) &
       \text{at every $k$-th call} \\ 0 & \text{else.} \end{cases} $$

    Between the steps nothing but the sum is touched: `inner` is not run, its state and its
    counts stay what they are. A window starts from zero, whatever was in the last one.

    Inside of `inner`, the gradient is the mean. Extra arguments are those of the call that
    takes the step; a leaf without a gradient at that call (`None`) takes none, and what was
    gathered for it is lost. What stands behind it in a chain runs at every call: put the
    whole optimizer inside. To leave out single bad gradients, put `apply_if_finite` around
    it.
    In a `shard_map`, a mean over devices inside of `inner` is taken once for each step.

    A step that donates the state has to return its parts in the order in which it takes
    them, `(params, state)`: `jit` matches buffers by shape alone, and would copy otherwise.

    Args:
        inner: Any transformation.
        every: $k \ge 1$: a number, or a function of the steps that `inner` has taken, which
            is asked at every call.
        reduce: `"mean"`, or `"sum"`, which multiplies the gradient by $k$.
        dtype: The real dtype of the sum; by default that of the parameter, float32 at
            least.

    Returns:
        A `GradientTransformation` with an `AccumulateState`, whose `emitted` tells whether
        the last call took a step.

    Raises:
        TypeError: If `inner` is no transformation, or `every` no integer.
        ValueError: If `every` is less than 1.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.accumulate(ox.sgd(1.0), 2)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (1.0, 3.0, 5.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates, state.emitted)
        [0.] False
        [-2.] True
        [0.] False
    """
    base.check_stages("accumulate", [inner])

    def init(params: Params) -> AccumulateState:
        return AccumulateState(
            mini_step=jnp.zeros((), jnp.int32),
            gradient_step=jnp.zeros((), jnp.int32),
            emitted=jnp.zeros((), bool),
            total=slot_like(params, dtype=dtype),
            inner_state=inner.init(params),
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: AccumulateState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, AccumulateState]:
        gathered = state.mini_step + 1
        number = numerics.as_scalar(gathered)
        emitted = number >= numerics.at_step(every, state.gradient_step)
        # The sum stands outside of the branches, and what is left of the last window goes
        # when the next begins, so that a silent call passes over it once, in place.
        first = state.mini_step == 0
        total = jax.tree.map(lambda t: jnp.where(first, 0, t), state.total)
        total = leafwise(_added, updates, total)[1]

        def step() -> Any:
            divisor = number if reduce == "mean" else 1.0
            mean = leafwise(_mean, updates, reads=(total,), divisor=divisor)
            given = {**extra, "grad": mean} if "grad" in extra else extra
            return base.advance(inner, mean, mean, state.inner_state, params, given)

        out, lane, inner_state = when(
            emitted, step, lambda: no_step(updates, state.inner_state)
        )
        new_state = AccumulateState(
            jnp.where(emitted, 0, gathered),
            jnp.where(
                emitted, numerics.increment(state.gradient_step), state.gradient_step
            ),
            emitted,
            total,
            inner_state,
        )
        return out, lane, new_state

    return base.combinator(init, advance, (inner,))


class ConditionallyTransformState(NamedTuple):
    """State of `conditionally_transform`."""

    step: jax.Array  # t, (), int32: the calls so far.
    inner_state: OptState  # That of `inner`.


class ConditionallyMaskState(NamedTuple):
    """State of `conditionally_mask`."""

    step: jax.Array  # t, (), int32: the calls so far.
    inner_state: OptState  # That of `inner`.


def _conditionally(
    who: str,
    inner: GradientTransformation,
    condition: Callable[..., Any],
    forward: bool,
    state_type: Any,
    otherwise: Callable[..., Any],
) -> GradientTransformation:
    """Runs `inner` where `condition` holds, and else what `otherwise` gives."""
    base.check_stages(who, [inner])
    if not callable(condition):
        raise TypeError(
            f"`{who}(should_transform_fn=...)` must be a function of the step, but got "
            f"{condition!r}."
        )

    def init(params: Params) -> Any:
        return state_type(jnp.zeros((), jnp.int32), inner.init(params))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: Any,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, Any]:
        holds = condition(state.step, **(extra if forward else {}))
        out, lane, inner_state = when(
            decision(holds, condition),
            lambda: base.advance(
                inner, updates, gradient, state.inner_state, params, extra
            ),
            lambda: otherwise(updates, gradient, state.inner_state),
        )
        return out, lane, state_type(numerics.increment(state.step), inner_state)

    return base.combinator(init, advance, (inner,), reads=None if forward else ())


@transformation(state=ConditionallyTransformState, packable=True)
def conditionally_transform(
    inner: GradientTransformation,
    should_transform_fn: Callable[..., Any],
    forward_extra_args: bool = False,
) -> GradientTransformation:
    """Transforms the updates at some steps; at the others they pass as they are.

    Where it does not transform, `inner` is not run, and its state stays what it is.

    Args:
        inner: Any transformation.
        should_transform_fn: A function of the step (0 is the first) to a boolean, such as
            `every(10)`, or `lambda step: step < 1000`.
        forward_extra_args: Whether it is given the extra arguments of `update`, too, all
            of them, by name.

    Returns:
        A `GradientTransformation` with a `ConditionallyTransformState`.

    Raises:
        TypeError: If `inner` is no transformation, or `should_transform_fn` no function.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.conditionally_transform(ox.clip(1.0), lambda step: step < 1)
        >>> state = t.init(jnp.zeros(1))
        >>> for _ in range(2):
        ...     updates, state = t.update(jnp.array([3.0]), state)
        ...     print(updates)
        [1.]
        [3.]
    """
    return _conditionally(
        "conditionally_transform",
        inner,
        should_transform_fn,
        forward_extra_args,
        ConditionallyTransformState,
        lambda updates, gradient, state: (updates, gradient, state),
    )


@transformation(state=ConditionallyMaskState, packable=True)
def conditionally_mask(
    inner: GradientTransformation,
    should_transform_fn: Callable[..., Any],
    forward_extra_args: bool = False,
) -> GradientTransformation:
    """Transforms the updates at some steps; at the others they are zero.

    Where it does not transform, `inner` is not run, and its state stays what it is.

    Args:
        inner: Any transformation.
        should_transform_fn: As in `conditionally_transform`.
        forward_extra_args: As in `conditionally_transform`.

    Returns:
        A `GradientTransformation` with a `ConditionallyMaskState`.

    Raises:
        TypeError: If `inner` is no transformation, or `should_transform_fn` no function.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.conditionally_mask(ox.sgd(1.0), ox.every(2))
        >>> state = t.init(jnp.zeros(1))
        >>> for _ in range(2):
        ...     updates, state = t.update(jnp.array([3.0]), state)
        ...     print(updates)
        [-3.]
        [0.]
    """
    return _conditionally(
        "conditionally_mask",
        inner,
        should_transform_fn,
        forward_extra_args,
        ConditionallyMaskState,
        lambda updates, gradient, state: no_step(updates, state),
    )
