"""Workers that go on by themselves, and exchange what they have done now and then."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _workers, base, numerics
from .._workers import AxisName
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..states import in_place_of
from ..tree import leafwise, slot_of
from ..typing import PositiveCount
from .branching import when


class LocalUpdatesState(NamedTuple):
    """State of `local_updates`."""

    count: jax.Array  # (), int32: the steps since the last exchange.
    shared: Params  # The params after the last exchange, float32 or wider; equal for all.
    inner_state: OptState  # That of the inner optimizer, this worker's own.
    outer_state: OptState  # That of the outer one, equal for all.

    def eval_params(self, params: Params) -> Params:
        """What all workers had after the last exchange, in the dtypes of `params`."""
        return in_place_of(params, self.shared)


def _way_back(u: jax.Array, p: jax.Array, shared: jax.Array) -> jax.Array:
    return shared - (p + u)


def _arrive(
    step: jax.Array, shared: jax.Array, p: jax.Array
) -> tuple[jax.Array, jax.Array]:
    shared = shared + step
    return shared - p, shared


@transformation(state=LocalUpdatesState)
def local_updates(
    inner: GradientTransformation,
    outer: GradientTransformation,
    every: PositiveCount,
    axis_name: AxisName | None = None,
) -> GradientTransformation:
    r"""Lets each worker take steps of its own, and all exchange them now and then.

    From the shared parameters $s$, worker $w$ goes $k$ steps of `inner`, with its own
    gradients, to $x_w$. Then the mean of what they have gone, turned round, is a gradient
    to the outer optimizer, and they go on from where that leads:

    $$ \Delta = \frac1W \sum_w (s - x_w), \qquad s \leftarrow s + \mathrm{outer}(\Delta),
       \qquad x_w \leftarrow s. $$

    With `outer=sgd(1.0)` it is local SGD, the mean of parameters, around any `inner`; with
    `outer=sgd(0.7, momentum=0.9, nesterov=True)` around `adamw` and a $k$ of some hundreds
    it is DiLoCo; without an axis, and `outer=sgd(a)`, it is `lookahead`. With $k = 1$,
    `inner=sgd(lr)` and `outer=sgd(1.0)` it is descent by the mean gradient, to a rounding
    of the parameters at each step.

    Use it inside of a `shard_map`, a `pmap`, or a `vmap` of that axis, where every worker
    has parameters and a state of its own, and do not take the mean of the gradients: that
    is what is saved. Between the exchanges nothing crosses the link: the mean stands in a
    branch of the program that is not run. (A `vmap` of the state runs both branches, and
    takes the one that counts.) After an exchange the parameters of all workers are $s$ to a
    rounding, which the next exchange takes out again. What crosses the link then is
    $\Delta$, in float32; to send less, take the mean in the outer optimizer:
    `local_updates(inner, chain(compress(compressors.int8(), "workers"), sgd(...)), k)`.

    The state of `inner` stays with its worker, as in DiLoCo, and goes on after an exchange
    as if nothing had been: moments are of gradients, which change little where the
    parameters do. `eval_params` gives $s$. Updates have to be applied as they are: nothing
    that changes them may come after it.

    Args:
        inner: The optimizer of each worker: any transformation whose updates are added to
            the parameters as they are.
        outer: The one of the exchanges, whose gradient is $\Delta$.
        every: $k \ge 1$, the steps from one exchange to the next.
        axis_name: The axis of the workers, or a tuple of axes. None: there is one worker,
            or `outer` takes the mean.

    Returns:
        A `GradientTransformation` with a `LocalUpdatesState`: 4 bytes a parameter besides
        the states of the two. It needs the params. A leaf without a gradient at an exchange
        (None) has no part in it, and waits for the next.

    Raises:
        TypeError: If `inner` or `outer` is no transformation, or `axis_name` no name.
        ValueError: If `every` is less than 1; in `update`, if params are missing.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t = ox.local_updates(ox.sgd(0.5), ox.sgd(1.0), 2, "workers")
        >>> params = jnp.zeros((2, 1))  # of two workers
        >>> state = jax.vmap(t.init)(params)
        >>> grads = jnp.array([[1.0], [3.0]])
        >>> for _ in range(2):
        ...     updates, state = jax.vmap(t.update, axis_name="workers")(
        ...         grads, state, params)
        ...     params = ox.apply_updates(params, updates)
        ...     print(params.ravel())
        [-0.5 -1.5]
        [-2. -2.]

    References:
        S. U. Stich, [Local SGD converges fast and communicates
        little](https://arxiv.org/abs/1805.09767), 2018; A. Douillard et al., [DiLoCo:
        distributed low-communication training of language
        models](https://arxiv.org/abs/2311.08105), 2023.
    """
    base.check_stages("local_updates", [inner, outer], "`inner`", "`outer`")

    def init(params: Params) -> LocalUpdatesState:
        shared = slot_of(params)
        count = jnp.zeros((), jnp.int32)
        return LocalUpdatesState(count, shared, inner.init(params), outer.init(params))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: LocalUpdatesState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, LocalUpdatesState]:
        params = base.needs(params)
        out, _, inner_state = base.advance(
            inner, updates, gradient, state.inner_state, params, extra
        )
        count = numerics.increment(state.count)

        def exchange() -> Any:
            way = leafwise(_way_back, out, reads=(params, state.shared))
            way = _workers.mean(way, axis_name)
            given = {**extra, "grad": way} if "grad" in extra else extra
            step, _, outer_state = base.advance(
                outer, way, way, state.outer_state, state.shared, given
            )
            arrived, shared = leafwise(_arrive, step, state.shared, reads=(params,))
            return arrived, shared, outer_state

        out, shared, outer_state = when(
            count >= every, exchange, lambda: (out, state.shared, state.outer_state)
        )
        count = jnp.where(count >= every, 0, count)
        return out, out, LocalUpdatesState(count, shared, inner_state, outer_state)

    return base.combinator(init, advance, (inner, outer))
