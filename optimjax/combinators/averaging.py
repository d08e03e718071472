"""Averages of the parameters beside the steps, or within them; and how to ask for them."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, base, numerics, states
from ..base import (
    GradientTransformation,
    OptState,
    Params,
    Updates,
    transformation,
)
from ..states import in_place_of
from ..tree import leafwise, slot_of
from ..typing import (
    Count,
    Decay,
    DecayOrSchedule,
    Fraction,
    NonNegative,
    NonNegativeOrSchedule,
    PositiveCount,
    StorageDtype,
)


def eval_params(state: OptState, params: Params) -> Params:
    """The parameters to evaluate with: the average that `state` keeps, if it keeps one.

    The state of an optimizer is searched, with all that it is made of (those of Optax's
    wrappers around it, too), for that of `average_params`, `lookahead`, `schedule_free` or
    `asgd`. Of two, one inside of the other, the outer one answers.

    Args:
        state: The state that the last `update` returned.
        params: The parameters that go with it: those after that step.

    Returns:
        A tree with the structure, shapes and dtypes of `params`: `params` themselves where
        nothing is averaged. It may share buffers with `state` and `params`: before they
        are donated, copy what has to outlive them.

    Raises:
        ValueError: If there are two averages, neither inside of the other, by their paths;
            if state and params have changed places.
        TypeError: If `state` is a transformation.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(ox.clip(9.0), ox.average_params(ox.sgd(0.5)))
        >>> params = jnp.array([4.0])
        >>> state = t.init(params)
        >>> updates, state = t.update(params, state, params)
        >>> params = ox.apply_updates(params, updates)
        >>> print(params, ox.eval_params(state, params))
        [2.] [3.]
    """
    if base.is_transformation(state):
        raise TypeError(
            "`eval_params(state, params)` takes a state, but got the transformation "
            f"{state!r}."
        )
    answer = states.evaluated(state, params)
    if answer is None and states.averages(params):
        raise ValueError(
            "`eval_params(state, params)` got the params for the state, and the state for "
            "the params."
        )
    return params if answer is None else answer


class AverageParamsState(NamedTuple):
    """State of `average_params`."""

    count: jax.Array  # t, (), int32: the steps taken.
    average: Params  # a, shaped like the params.
    inner_state: OptState  # That of the transformation inside.

    def eval_params(self, params: Params) -> Params:
        """The average, in the dtypes of `params`."""
        return in_place_of(params, self.average)


def _sampled(
    p: jax.Array, average: jax.Array, *, weight: Any
) -> tuple[jax.Array, jax.Array]:
    return p, jnp.where(weight > 0, numerics.mix(average, p, weight), average)


@transformation(state=AverageParamsState)
def average_params(
    inner: GradientTransformation,
    decay: DecayOrSchedule | None = None,
    *,
    start: Count = 0,
    every: PositiveCount = 1,
    debias: bool = False,
    dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Runs `inner` as it is, and keeps an average of the parameters beside it.

    Let $p_t$ be the parameters after step $t$, and $p_0$ those given to `init`. The samples
    are $p_s, p_{s+k}, p_{s+2k}, \dots$; the first is the average, and each later one is
    mixed in, with the weight $w_n$ after $n = 1, 2, \dots$ others:

    $$ a \leftarrow a + w_n\,(p_t - a), \qquad w_n = \frac{1}{n+1}, \quad 1 - d_n,
       \quad \text{or} \quad \frac{1 - d_n}{1 - d_n^{n+1}}, $$

    without a decay, with one, and with one and `debias`. Before the first sample $a$ is the
    current parameters. `eval_params` gives the average. What others do is spelled

    - Polyak-Ruppert averaging: `average_params(inner)`; of the tail alone: `start=s`;
    - SWA, of the cycles of length k after step s: `start=s, every=k`;
    - PyTorch's `AveragedModel`: `start=1`; its EMA, and Keras' `use_ema`: `d, start=1`;
    - TensorFlow 1's `ExponentialMovingAverage(d)`: `d`; with `num_updates`:
      `lambda n: jnp.minimum(d, (1 + n) / (10 + n))`.

    What changes updates belongs inside of it: what comes after it, it does not see. What
    holds steps back (accumulation of gradients, skipping) belongs around it, so that only
    steps that are taken are samples; inside of it, a step of zeros would be one, too.

    Args:
        inner: Any transformation whose updates are added to the parameters as they are.
        decay: $d$, in $[0, 1)$, a number, a traced scalar, or a schedule, which is called
            with $n$, the number of samples before. `None` weighs all samples alike.
        start: $s \ge 0$, the step of the first sample; 0 is before all steps.
        every: $k \ge 1$, the steps from one sample to the next.
        debias: Whether a mean with decay starts as if from nothing, divided by its bias,
            rather than at the first sample. Without a decay there is no bias.
        dtype: The dtype to store the average in; `None` means float32, or wider where the
            parameters are. In float32, what is mixed in is lost below the last digit: with
            a decay of 0.9999 the average stops 3e-4 short of parameters that stand still.

    Returns:
        A `GradientTransformation` with an `AverageParamsState`. It needs the params.

    Raises:
        TypeError: If `inner` is no transformation.
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.average_params(ox.sgd(0.5), start=1)
        >>> params = jnp.array([4.0])
        >>> state = t.init(params)
        >>> for _ in range(3):
        ...     updates, state = t.update(params, state, params)
        ...     params = ox.apply_updates(params, updates)
        >>> print(params, ox.eval_params(state, params))  # of 2, 1 and 0.5
        [0.5] [1.1666666]

    References:
        B. T. Polyak and A. B. Juditsky, [Acceleration of stochastic approximation by
        averaging](https://doi.org/10.1137/0330046), 1992.
        P. Izmailov et al., [Averaging weights leads to wider optima and better
        generalization](https://arxiv.org/abs/1803.05407), 2018.
    """
    base.check_stages("average_params", [inner])

    def init(params: Params) -> OptState:
        inner_state = inner.init(params)
        average = slot_of(params, dtype=dtype)
        return AverageParamsState(jnp.zeros((), jnp.int32), average, inner_state)

    def weight_after(n: jax.Array) -> Any:
        if decay is None:
            return 1 / (numerics.as_scalar(n) + 1)
        d = numerics.at_step(decay, n)
        if not debias:
            return numerics.as_scalar(1 - d)
        return (1 - d) / numerics.one_minus_power(d, n + 1)

    def weight_at(count: jax.Array) -> jax.Array:
        since = count - start
        weight = weight_after(jnp.maximum(since // every, 1))
        return jnp.where(since <= 0, 1, jnp.where(since % every == 0, weight, 0))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: Any,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, OptState]:
        params = base.needs(params)
        out, lane, inner_state = base.advance(
            inner, updates, gradient, state.inner_state, params, extra
        )
        count = numerics.increment(state.count)
        # Not by the updates: what has no gradient at this step is sampled all the same.
        landed = jax.tree.map(
            lambda a, p: None if a is None else p,
            state.average,
            base.apply_updates(params, out),
            is_leaf=_dtypes.is_none,
        )
        _, average = leafwise(_sampled, landed, state.average, weight=weight_at(count))
        return out, lane, AverageParamsState(count, average, inner_state)

    return base.combinator(init, advance, (inner,))


class LookaheadState(NamedTuple):
    """State of `lookahead`."""

    count: jax.Array  # (), int32: the steps since the last synchronisation.
    slow: Params  # The slow weights, shaped like the params.
    inner_state: OptState  # That of the transformation inside.
    # The slow copy of its floating leaves, None for others; None unless pulled back.
    slow_inner_state: OptState | None

    def eval_params(self, params: Params) -> Params:
        """The slow weights, in the dtypes of `params`."""
        return in_place_of(params, self.slow)


def _look_ahead(
    u: jax.Array, slow: jax.Array, p: jax.Array, *, sync: Any, step_size: Any
) -> tuple[jax.Array, jax.Array]:
    slow = jnp.where(sync, numerics.mix(slow, p + u, step_size), slow)
    return jnp.where(sync, slow - p, u), slow


def _pull_back(
    fast: jax.Array, slow: jax.Array, *, sync: Any, step_size: Any
) -> tuple[jax.Array, jax.Array]:
    # NaN for what was not known before: a measure, or a schedule that is set by hand.
    both = jnp.where(jnp.isnan(slow), fast, numerics.mix(slow, fast, step_size))
    return jnp.where(sync, both, fast), jnp.where(sync, both, slow)


def _floating(state: OptState) -> OptState:
    """The floating leaves of a state, None for others."""

    def kept(x: Any) -> Any:
        return x if jnp.issubdtype(_dtypes.dtype_of(x), jnp.inexact) else None

    return jax.tree.map(kept, state)


@transformation(state=LookaheadState)
def lookahead(
    inner: GradientTransformation,
    sync_period: PositiveCount,
    slow_step_size: Fraction,
    *,
    on_sync: Literal["keep", "reset", "pull_back"] = "keep",
) -> GradientTransformation:
    r"""Lets `inner` run ahead, and every so often goes a part of its way.

    The parameters are the fast weights, $p$, which `inner` moves; the slow ones, $s$, are
    in the state. At every $k$-th step, after that of `inner`,

    $$ s \leftarrow s + \alpha\,(p - s), \qquad p \leftarrow s. $$

    `eval_params` gives the slow weights. Updates have to be applied as they are: nothing
    that changes them may come after it.

    Args:
        inner: Any transformation whose updates are added to the parameters as they are.
        sync_period: $k \ge 1$.
        slow_step_size: $\alpha$, in $[0, 1]$. May be traced.
        on_sync: What happens then to the state of `inner`: `"keep"` leaves it alone,
            `"reset"` makes it anew as its `init` would, and `"pull_back"` makes all
            floating numbers in it go the same part of their way, which costs a second copy
            of them.

    Returns:
        A `GradientTransformation` with a `LookaheadState`. It needs the params. Optax's
        works on pairs of fast and slow parameters; here they are plain.

    Raises:
        TypeError: If `inner` is no transformation.
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.lookahead(ox.sgd(0.5), sync_period=2, slow_step_size=0.5)
        >>> params = jnp.array([4.0])
        >>> state = t.init(params)
        >>> for _ in range(2):
        ...     updates, state = t.update(params, state, params)
        ...     params = ox.apply_updates(params, updates)
        ...     print(params)  # 2, and 1, which is half of the way from 4 to 2.5
        [2.]
        [2.5]

    References:
        M. R. Zhang et al., [Lookahead optimizer: k steps forward, 1 step
        back](https://arxiv.org/abs/1907.08610), 2019.
    """
    base.check_stages("lookahead", [inner])

    def init(params: Params) -> OptState:
        inner_state, slow_inner_state = inner.init(params), None
        if on_sync == "pull_back":
            slow_inner_state = jax.tree.map(jnp.copy, _floating(inner_state))
        count = jnp.zeros((), jnp.int32)
        return LookaheadState(count, slot_of(params), inner_state, slow_inner_state)

    def anew(slow: Params, params: Params) -> OptState:
        """A fresh state at the slow weights, which are what the params will be."""

        def at_params(s: Any, p: Any) -> Any:
            return s if s is None or p is None else _dtypes.cast(s, _dtypes.dtype_of(p))

        return inner.init(jax.tree.map(at_params, slow, params, is_leaf=_dtypes.is_none))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: Any,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, OptState]:
        params = base.needs(params)
        keeps = on_sync == "pull_back"
        base.check_slot("slow_inner_state", state.slow_inner_state, keeps, updates)
        out, _, new = base.advance(
            inner, updates, gradient, state.inner_state, params, extra
        )
        count = numerics.increment(state.count)
        now = {"sync": count >= sync_period, "step_size": slow_step_size}
        out, slow = leafwise(_look_ahead, out, state.slow, reads=(params,), **now)
        slow_new = state.slow_inner_state
        if on_sync == "reset":
            fresh = anew(slow, params)
            new = jax.tree.map(lambda f, n: jnp.where(now["sync"], f, n), fresh, new)
        elif keeps:
            pulled, slow_new = leafwise(_pull_back, _floating(new), slow_new, **now)
            new = jax.tree.map(
                lambda x, n: n if x is None else x, pulled, new, is_leaf=_dtypes.is_none
            )
        count = jnp.where(now["sync"], 0, count)
        return out, out, LookaheadState(count, slow, new, slow_new)

    return base.combinator(init, advance, (inner,))


class ScheduleFreeState(NamedTuple):
    """State of `schedule_free`. The floating scalars are float32 or wider."""

    b1: jax.Array  # ().
    count: jax.Array  # t, (), int32: the steps taken.
    max_lr: jax.Array  # (): the largest learning rate so far.
    total: jax.Array  # (): the sum of all weights, over the newest.
    base_optimizer_state: OptState  # That of the transformation inside.
    z: Params  # What the base optimizer moves, shaped like the params.
    # The average, where it is stored; () where it follows from the params and z.
    x: Params

    def eval_params(self, params: Params) -> Params:
        """The average of z, in the dtypes of `params`."""

        def recovered(y: Any, z: Any, x: Any) -> Any:
            if not (hasattr(z, "dtype") and isinstance(x, tuple)):
                return x
            real = _dtypes.real_dtype(y, z)
            wide = _dtypes.with_real(z.dtype, real)
            b1, y, z = (
                _dtypes.cast(*pair) for pair in ((self.b1, real), (y, wide), (z, wide))
            )
            return numerics.over(y - (1 - b1) * z, b1)

        with jax.numpy_dtype_promotion("standard"):
            return in_place_of(params, jax.tree.map(recovered, params, self.z, self.x))


def _schedule_free(
    u: jax.Array, z: jax.Array, x: Any, y: jax.Array, *, b1: Any, weight: Any
) -> tuple[jax.Array, jax.Array, Any]:
    if isinstance(x, tuple):
        if isinstance(b1, float) and b1 == 0:
            base.check_slot("x", None, True, u)
        # What the equations give when x is put in from y = b1 x + (1 - b1) z: it is divided
        # by nothing, and no small difference of large numbers. Of the new z: then nothing
        # else needs the old one, and it can be written over.
        z = z + u
        return (1 - b1) * (1 - weight) * u + weight * (z - y), z, x
    z = z + u
    x = numerics.mix(x, z, weight)
    return b1 * x + (1 - b1) * z - y, z, x


@transformation(state=ScheduleFreeState)
def schedule_free(
    base_optimizer: GradientTransformation,
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Averages instead of lowering the rate: gradients are taken between path and average.

    The base optimizer moves $z$ by $u_t$, its updates for the gradients at the parameters
    $y$; $x$ averages $z$; for $t = 1, 2, \dots$, from $x = y = z$,

    $$ z \leftarrow z + u_t, \qquad x \leftarrow x + c_t\,(z - x), \qquad
       y \leftarrow \beta x + (1 - \beta) z, $$
    $$ c_t = w_t \Big/ \sum_{i \le t} w_i, \qquad w_t = \max_{i \le t} \eta_i^r. $$

    `eval_params` gives $x$. Leave momentum out of the base optimizer: $\beta$ has its part.
    Updates have to be applied as they are: nothing that changes them may come after it.

    $x$ is not stored, but follows from the parameters and $z$. Where the parameters have
    lower precision than float32 it would take over their rounding at every step, and where
    $\beta = 0$ they do not depend on it: there it is stored.

    Args:
        base_optimizer: Any transformation whose updates are whole steps, such as `sgd`.
        learning_rate: $\eta \ge 0$, that of the base optimizer, here for the weights alone.
            A schedule is read at $t$, as in Optax, one step ahead of the base optimizer,
            whose first step is 0: a warm-up from zero has no first weight of zero.
        b1: $\beta$, in $[0, 1)$. If traced, it must not be 0.
        weight_lr_power: $r \ge 0$: at 0, all steps weigh the same.
        state_dtype: The dtype to store $z$ in; `None` means float32, or wider where the
            parameters are.

    Returns:
        A `GradientTransformation` with a `ScheduleFreeState`. It needs the params.

    Raises:
        TypeError: If `base_optimizer` is no transformation.
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.schedule_free(ox.sgd(0.5), 0.5, b1=0.5)
        >>> params = jnp.array([4.0])
        >>> state = t.init(params)
        >>> for _ in range(2):
        ...     updates, state = t.update(params, state, params)
        ...     params = ox.apply_updates(params, updates)
        >>> print(state.z, ox.eval_params(state, params), params)  # x is the mean of 2, 1
        [1.] [1.5] [1.25]

    References:
        A. Defazio et al., [The road less
        scheduled](https://arxiv.org/abs/2405.15682), 2024.
    """
    base.check_stages("schedule_free", [base_optimizer])

    def stored(p: Any) -> Any:
        narrow = jnp.finfo(_dtypes.dtype_of(p)).bits < 32
        return slot_of(p) if narrow or (isinstance(b1, float) and b1 == 0) else ()

    def init(params: Params) -> OptState:
        base_state = base_optimizer.init(params)
        scalars = _dtypes.scalar_dtype()
        return ScheduleFreeState(
            b1=jnp.array(b1, scalars),
            count=jnp.zeros((), jnp.int32),
            max_lr=jnp.zeros((), scalars),
            total=jnp.zeros((), scalars),
            base_optimizer_state=base_state,
            z=slot_of(params, dtype=state_dtype),
            x=jax.tree.map(stored, params),
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: Any,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, OptState]:
        params = base.needs(params)
        out, _, base_state = base.advance(
            base_optimizer, updates, gradient, state.base_optimizer_state, params, extra
        )
        count = numerics.increment(state.count)
        rate = numerics.as_scalar(numerics.at_step(learning_rate, count))
        max_lr = jnp.maximum(state.max_lr, rate)
        # Not the sum: counting in units of the newest weight is exact while it stays.
        ratio = jnp.where(state.max_lr > 0, numerics.divide(state.max_lr, max_lr), 1)
        total = state.total * ratio**weight_lr_power + 1
        total = jnp.where((max_lr > 0) | (weight_lr_power == 0), total, 0)
        out, z, x = leafwise(
            _schedule_free,
            out,
            state.z,
            state.x,
            reads=(params,),
            b1=b1,
            weight=numerics.divide(jnp.ones_like(total), total),
        )
        new = state._replace(
            count=count,
            max_lr=max_lr,
            total=total,
            base_optimizer_state=base_state,
            z=z,
            x=x,
        )
        return out, out, new

    return base.combinator(init, advance, (base_optimizer,))
