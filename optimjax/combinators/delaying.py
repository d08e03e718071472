"""Steps that land late; and where the parameters will be when the next one does."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, _workers, base, numerics
from .._checks import named
from .._workers import AxisName
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..states import in_place_of
from ..transforms.delaying import check_ring, exchanged, filled, ring_of, where_given
from ..tree import leafwise, slot_like
from ..typing import Count, Decay, NonNegative


def predicted_params(state: OptState, params: Params) -> Params:
    """The parameters to take the gradient at, when it will be late.

    The state of an optimizer is searched, with all that it is made of, for that of
    `delay_updates`, which knows the steps that are on their way, or of `predict_params`,
    which extrapolates. Both belong around the whole optimizer, not around a part of the
    parameters.

    Args:
        state: The state that the last `update` returned.
        params: The parameters that go with it: those after that step.

    Returns:
        A tree with the structure, shapes and dtypes of `params`: `params` themselves where
        nothing is predicted.

    Raises:
        ValueError: If there are two predictions, by their paths, or if one is of other
            parameters.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.delay_updates(ox.sgd(0.5), 1)
        >>> params = jnp.array([4.0])
        >>> updates, state = t.update(params, t.init(params), params)
        >>> print(updates, ox.predicted_params(state, params))
        [0.] [2.]
    """

    def answers(node: Any) -> bool:
        return hasattr(type(node), "predicted_params")

    pairs = jax.tree.leaves_with_path(state, is_leaf=answers)
    found = [(path, node) for path, node in pairs if answers(node)]
    if len(found) > 1:
        places = " and ".join(_dtypes.name_of(path) for path, _ in found)
        raise ValueError(
            f"`predicted_params` found more than one prediction, at {places} of the state. "
            "Give it the state of the one that you mean."
        )
    if not found:
        return params
    with named("predicted_params"):
        return found[0][1].predicted_params(params)


def _further(params: Params, way: Any) -> Params:
    """`params` and a way to go, in the dtypes of `params`."""
    leaves, treedef = jax.tree.flatten(params, is_leaf=_dtypes.is_none)
    ways = _dtypes.match(treedef, leaves, way, "the state", ours="params")

    def end(p: Any, w: Any) -> Any:
        return None if p is None else _dtypes.wide(p) + _dtypes.cast(w, _wide_of(p))

    return in_place_of(params, treedef.unflatten(map(end, leaves, ways)))


def _wide_of(p: Any) -> Any:
    return _dtypes.with_real(_dtypes.dtype_of(p), _dtypes.real_dtype(p))


class DelayUpdatesState(NamedTuple):
    """State of `delay_updates`."""

    count: jax.Array  # t, (), int32: the steps taken.
    # For each parameter the last steps of `inner`, (steps + 1, *shape), in a ring: that of
    # step t is at t mod (steps + 1). float32 or wider; None for no delay.
    pending: Updates
    inner_state: OptState  # That of the transformation inside.

    def predicted_params(self, params: Params) -> Params:
        """The parameters when all has landed."""
        if self.pending is None:
            return params

        def under_way(ring: jax.Array) -> jax.Array:
            # All but the one that has landed, in whose place the next one comes.
            places = jnp.arange(ring.shape[0]).reshape(-1, *[1] * (ring.ndim - 1))
            landed = places == self.count % ring.shape[0]
            return jnp.sum(jnp.where(landed, 0, ring), axis=0)

        return _further(params, jax.tree.map(under_way, self.pending))


def _landing(u: jax.Array, pending: Any, *, count: Any) -> tuple[jax.Array, Any]:
    return exchanged(pending, u, count, late=pending.shape[0] - 1)


@transformation(state=DelayUpdatesState)
def delay_updates(
    inner: GradientTransformation, steps: Count, axis_name: AxisName | None = None
) -> GradientTransformation:
    r"""Lets every step of `inner` land some steps later, and knows those on their way.

    With the updates $v_t$ of `inner`, for one worker and for several,

    $$ u_t = v_{t-n}, \qquad u_t = \frac1W \sum_w v_{w, t-n}, \qquad
       e_t = \sum_{i=t-n+1}^{t} v_i, $$

    and zero for the first $n$ steps: so it is when the mean over workers takes as long as
    $n$ steps, and nobody waits for it. What is under way, $e_t$, is the residual of an
    error feedback, as what `compress` has not sent yet is: the parameters are $\tilde x_t -
    e_t$, where $\tilde x$ takes every step at once.

    `predicted_params` gives $x_t + e_t$. Take the gradient there: of one worker, $v$ is
    then what it would be without any delay, to rounding, and of several, what each one has
    done itself is not late any more.

    Args:
        inner: Any transformation whose updates are added to the parameters as they are.
        steps: $n \ge 0$.
        axis_name: The axis of the workers, of a `vmap`, `pmap` or `shard_map`, over which
            the mean is taken; None: there is one worker.

    Returns:
        A `GradientTransformation` with a `DelayUpdatesState`: $4(n + 1)$ bytes a parameter.
        A leaf without a gradient (None) gets no update, and what was due is lost.

    Raises:
        ValueError: If `steps` is negative.
        TypeError: If `inner` is no transformation, or `axis_name` no name.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.delay_updates(ox.sgd(0.5), 1)
        >>> params = jnp.array([4.0])
        >>> state = t.init(params)
        >>> for _ in range(3):
        ...     g = ox.predicted_params(state, params)  # of the loss p^2 / 2
        ...     updates, state = t.update(g, state, params)
        ...     params = ox.apply_updates(params, updates)
        ...     print(params)  # What it would have been a step before.
        [4.]
        [2.]
        [1.]

    References:
        S. U. Stich and S. P. Karimireddy, [The error-feedback framework: better rates for
        SGD with delayed gradients and compressed
        communication](https://arxiv.org/abs/1909.05350), 2020.
    """
    base.check_stages("delay_updates", [inner])

    def init(params: Params) -> DelayUpdatesState:
        pending = ring_of(slot_like(params), steps) if steps else None
        return DelayUpdatesState(jnp.zeros((), jnp.int32), pending, inner.init(params))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: DelayUpdatesState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, DelayUpdatesState]:
        check_ring("pending", state.pending, steps, updates)
        out, _, inner_state = base.advance(
            inner, updates, gradient, state.inner_state, params, extra
        )
        pending = state.pending
        if steps:
            all_of_it = filled(out, pending)
            landed, pending = leafwise(_landing, all_of_it, pending, count=state.count)
            out = where_given(landed, out)
        out = _workers.mean(out, axis_name)
        count = numerics.increment(state.count)
        return out, out, DelayUpdatesState(count, pending, inner_state)

    return base.combinator(init, advance, (inner,))


class PredictParamsState(NamedTuple):
    """State of `predict_params`."""

    count: jax.Array  # t, (), int32: the steps taken.
    # (), float32 or wider: what to multiply the mean by, to go as far as is predicted.
    reach: jax.Array
    mean: Updates  # Of the last steps, shaped like the params; float32 or wider.
    inner_state: OptState  # That of the transformation inside.

    directions = ("mean",)

    def predicted_params(self, params: Params) -> Params:
        """The parameters, if the steps go on as they have."""
        reach = self.reach

        def way(x: Any) -> Any:
            return _dtypes.cast(reach, jnp.finfo(x.dtype).dtype) * x

        with jax.numpy_dtype_promotion("standard"):
            return _further(params, jax.tree.map(way, self.mean))


def _meant(u: jax.Array, mean: jax.Array, *, decay: Any) -> tuple[jax.Array, jax.Array]:
    return u, numerics.decay_and_add(mean, (1 - decay) * u, decay)


@transformation(state=PredictParamsState, packable=True)
def predict_params(
    inner: GradientTransformation, steps: NonNegative, *, decay: Decay = 0.0
) -> GradientTransformation:
    r"""Runs `inner` as it is, and knows where it will be some steps from now.

    With the updates $u_t$ of `inner`, `predicted_params` gives

    $$ \hat x_{t+n} = x_t + n\, \hat m_t, \qquad
       \hat m_t = \frac{(1 - \beta) \sum_{i \le t} \beta^{t-i} u_i}{1 - \beta^t}, $$

    with $\beta = 0$ the last update itself, as is enough where it has momentum. A gradient
    that will come $n$ steps late is taken there, so that it is about right when it comes.

    It foresees what has a direction. Where noise is most of a step, take a decay; for rates
    at which the delay makes the steps swing, it is no remedy by itself.

    Args:
        inner: Any transformation whose updates are added to the parameters as they are.
        steps: $n \ge 0$. May be traced.
        decay: $\beta$, in $[0, 1)$.

    Returns:
        A `GradientTransformation` with a `PredictParamsState`: 4 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: If `inner` is no transformation.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.predict_params(ox.sgd(0.5), 3)
        >>> params = jnp.array([4.0])
        >>> updates, state = t.update(jnp.array([1.0]), t.init(params), params)
        >>> params = ox.apply_updates(params, updates)
        >>> print(params, ox.predicted_params(state, params))
        [3.5] [2.]

    References:
        C.-C. Chen, C.-L. Yang and H.-Y. Cheng, [Efficient and robust parallel DNN training
        through model parallelism on multi-GPU platform](https://arxiv.org/abs/1809.02839),
        2018; L. Guan et al., [XPipe: efficient pipeline model
        parallelism](https://arxiv.org/abs/1911.04610), 2019.
    """
    base.check_stages("predict_params", [inner])

    def init(params: Params) -> PredictParamsState:
        inner_state = inner.init(params)
        return PredictParamsState(
            jnp.zeros((), jnp.int32),
            numerics.as_scalar(0.0),
            slot_like(params),
            inner_state,
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: PredictParamsState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, PredictParamsState]:
        out, lane, inner_state = base.advance(
            inner, updates, gradient, state.inner_state, params, extra
        )
        out, mean = leafwise(_meant, out, state.mean, decay=decay)
        count = numerics.increment(state.count)
        reach = numerics.as_scalar(steps / numerics.one_minus_power(decay, count))
        return out, lane, PredictParamsState(count, reach, mean, inner_state)

    return base.combinator(init, advance, (inner,))
