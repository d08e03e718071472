"""Parameters of low precision that lose nothing to rounding."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import _dtypes, base, numerics
from .._checks import Refusal
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..typing import StorageDtype


class MasterWeightsState(NamedTuple):
    """State of `master_weights`."""

    master: Any  # The params in `dtype`; None for a leaf whose own dtype holds as much.
    inner_state: OptState  # The state of the inner transformation, made for the master.


@transformation(state=MasterWeightsState)
def master_weights(
    inner: GradientTransformation, dtype: StorageDtype = "float32"
) -> GradientTransformation:
    r"""Keeps the parameters in more digits, and lets those of low precision follow.

    $$ m_t = m_{t-1} + u_t(g_t, m_{t-1}), \qquad
       p_t = \mathrm{round}(m_t), \qquad \text{update} = \mathrm{round}(m_t) - p_{t-1}. $$

    `inner` is given the master for its params, so that the master goes where the parameters
    of a run in `dtype` go that is given the same gradients: to the bit, where the compiler
    rounds both alike (it may fuse the product with the rate into the sum behind it).

    `apply_updates` gives $\mathrm{round}(m_t)$ to the bit, unless the update itself has to
    be rounded: where gradient and parameter are both of low precision, so are the updates,
    and a step that makes a parameter more than twice or less than half of what it was, or
    changes its sign, may end off by as much as rounding the update takes from it. The
    update is always found from the params as they are, and the master knows nothing of
    them: so the next step makes up for what this one lost, and nothing adds up.

    For the same reason, params set from outside are set back by the next step. Set
    `state.master` as well, or begin with a new `init`.

    Args:
        inner: Any transformation, a whole optimizer as a rule: what stands behind
            `master_weights` in a chain is not in the master.
        dtype: The real dtype of the master; complex parameters are kept in the complex
            dtype over it. A leaf whose own dtype holds as much has no master: its updates
            are those of `inner`.

    Returns:
        A `GradientTransformation` with a `MasterWeightsState`. It needs the params.

    Raises:
        TypeError: If `inner` is no transformation, or `dtype` no real floating dtype.
        ValueError: In `update`, if params are missing, or the state was made for others.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t = ox.master_weights(ox.sgd(1.0))
        >>> params = jnp.ones(1, jnp.bfloat16)
        >>> state = t.init(params)
        >>> for _ in range(10):  # By 0.001 each, where 1 is next to 1.0078.
        ...     updates, state = t.update(jnp.array([-0.001]), state, params)
        ...     params = ox.apply_updates(params, updates)
        >>> print(params, f"{state.master[0]:.5f}")
        [1.00781] 1.01000

    References:
        P. Micikevicius et al., [Mixed precision training](https://arxiv.org/abs/1710.03740),
        2018.
    """
    base.check_stages("master_weights", [inner])

    def kept(p: Any) -> Any:
        own = _dtypes.dtype_of(p)
        wide = _dtypes.with_real(own, jax.dtypes.canonicalize_dtype(dtype))
        if own == wide or _dtypes.promote(own, wide) != wide:
            return None
        return _dtypes.cast(p, wide)

    def seen(p: Any) -> Any:
        wide = kept(p)
        return p if wide is None else wide

    def init(params: Params) -> MasterWeightsState:
        return MasterWeightsState(
            jax.tree.map(kept, params), inner.init(jax.tree.map(seen, params))
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: MasterWeightsState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, MasterWeightsState]:
        leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
        held, masters = _columns(treedef, leaves, params, state.master, "master")
        followed = [
            u is not None and m is not None for u, m in zip(leaves, masters, strict=True)
        ]

        def widened(tree: Updates) -> Updates:
            columns = zip(treedef.flatten_up_to(tree), masters, followed, strict=True)
            return treedef.unflatten(
                _dtypes.cast(u, _dtypes.promote(u.dtype, m.dtype)) if f else u
                for u, m, f in columns
            )

        for_inner = (m if f else p for m, p, f in zip(masters, held, followed, strict=True))
        out, _, inner_state = base.advance(
            inner,
            widened(updates),
            widened(gradient),
            state.inner_state,
            treedef.unflatten(for_inner),
            extra,
        )
        steps = treedef.flatten_up_to(out)
        for i, f in enumerate(followed):
            if f:
                step, masters[i] = _follow(steps[i], masters[i], held[i])
                steps[i] = _dtypes.cast(step, leaves[i].dtype)
        out = treedef.unflatten(steps)
        return out, out, MasterWeightsState(treedef.unflatten(masters), inner_state)

    return base.combinator(init, advance, (inner,))


@jax.jit
def _follow(step: jax.Array, master: jax.Array, p: jax.Array) -> Any:
    """The way from `p` to the moved master, rounded, and that master."""
    moved = _dtypes.cast(_dtypes.cast(master, step.dtype) + step, master.dtype)
    target = numerics.rounded(moved, p.dtype)
    return target - _dtypes.cast(p, moved.dtype), moved


class KahanSummationState(NamedTuple):
    """State of `kahan_summation`."""

    # What rounding has kept back of each parameter, in its own dtype; for one of 16 bits,
    # as an int16, in units of 2^-16 of its last place.
    swallowed: Any
    inner_state: OptState  # The state of the inner transformation.


@transformation(state=KahanSummationState)
def kahan_summation(inner: GradientTransformation) -> GradientTransformation:
    r"""Remembers what rounding keeps back of each step, and adds it to the next.

    $$ y_t = u_t + c_{t-1}, \qquad p_t = \mathrm{round}(p_{t-1} + y_t), \qquad
       c_t = y_t - (p_t - p_{t-1}). $$

    The update is $p_t - p_{t-1}$ in the parameter's own dtype, and $c_t$ is found from
    exactly what `apply_updates` will give.

    Float32 parameters have a slot as well, and sums of many steps the precision of a
    double. For bfloat16 and float16, what is kept back is stored as an integer of 16 bits,
    as a fraction of the parameter's last place, of which it is half at most: so bfloat16
    parameters have the precision of float32 with half the memory of `master_weights`.
    (Stored in bfloat16, as is usual, it has eight bits of its own, and 10,000 steps of 1e-4
    lead from 1 to 2.03.)

    A step that makes a parameter more than twice or less than half of what it was, or
    changes its sign, is rounded to the parameter's dtype on the way; where that has 16
    bits, what rounding takes from such a step beyond half of the last place of the result
    is lost: at most 2^-9 of the step in bfloat16, 2^-12 in float16, to either side.

    Args:
        inner: Any transformation, a whole optimizer as a rule. Nothing may change the
            updates behind it, `sparsely` and masks included.

    Returns:
        A `GradientTransformation` with a `KahanSummationState`. It needs the params. Params
        that are set from outside are taken as they are.

    Raises:
        TypeError: If `inner` is no transformation.
        ValueError: In `update`, if params are missing, or the state was made for others.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t = ox.kahan_summation(ox.sgd(1.0))
        >>> params = jnp.ones(1, jnp.bfloat16)
        >>> state = t.init(params)
        >>> for _ in range(10):  # By 0.001 each, where 1 is next to 1.0078.
        ...     updates, state = t.update(jnp.array([-0.001]), state, params)
        ...     params = ox.apply_updates(params, updates)
        >>> left = float(state.swallowed[0]) * 2.0**-7 / 2**16  # By the last place.
        >>> print(params, f"{1.0078125 + left:.5f}")
        [1.00781] 1.01000

    References:
        P. Zamirai et al., [Revisiting bfloat16 training](https://arxiv.org/abs/2010.06192),
        2020; W. Kahan, Further remarks on reducing truncation errors, 1965.
    """
    base.check_stages("kahan_summation", [inner])

    def nothing(p: Any) -> jax.Array:
        dtype = _dtypes.dtype_of(p)
        dtype = np.dtype(np.int16) if jnp.finfo(dtype).bits == 16 else dtype
        return jnp.zeros(jnp.shape(p), dtype)

    def init(params: Params) -> KahanSummationState:
        return KahanSummationState(jax.tree.map(nothing, params), inner.init(params))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: KahanSummationState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, KahanSummationState]:
        leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
        held, swallowed = _columns(treedef, leaves, params, state.swallowed, "swallowed")
        out, _, inner_state = base.advance(
            inner, updates, gradient, state.inner_state, params, extra
        )
        steps = treedef.flatten_up_to(out)
        for i, step in enumerate(steps):
            if step is not None:
                steps[i], swallowed[i] = _compensated(step, swallowed[i], held[i])
        out = treedef.unflatten(steps)
        return out, out, KahanSummationState(treedef.unflatten(swallowed), inner_state)

    return base.combinator(init, advance, (inner,))


@jax.jit
def _compensated(u: jax.Array, swallowed: jax.Array, p: jax.Array) -> Any:
    """The update for `p`, and what is kept back of it."""
    dtype, old = p.dtype, _dtypes.cast(p, u.dtype)
    counted = swallowed.dtype == jnp.int16
    kept = _dtypes.cast(swallowed, u.dtype)
    y = u + (kept * _unit(old, dtype) if counted else kept)
    # As a number of the parameter's dtype, it is what it is in any that it is returned in.
    step = numerics.rounded(numerics.rounded(old + y, dtype) - old, dtype)
    total = old + step
    new = numerics.rounded(total, dtype)  # What `apply_updates` will give.
    back = total - old
    lost = (old - (total - back)) + (step - back)  # With it, the sum is exact.
    left = (y - step) + ((total - new) + lost)
    if counted:
        count = jnp.clip(jnp.round(left / _unit(new, dtype)), -(2.0**15), 2.0**15 - 1)
        left = jnp.where(jnp.isnan(count), 0, count)
    return step, _dtypes.cast(left, swallowed.dtype)


def _unit(x: jax.Array, dtype: Any) -> jax.Array:
    """2^-16 of the last place of `x`, as a number of `dtype`."""
    own, coarse = jnp.finfo(x.dtype), jnp.finfo(dtype)
    word = f"uint{own.bits}"
    exponent = np.array(np.inf, x.dtype).view(word)  # The bits that are set in infinity.
    power = jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(x, word) & exponent, x.dtype
    )
    power = jnp.clip(power, float(coarse.smallest_normal), float(coarse.max))
    return jnp.maximum(power * 2.0 ** -(coarse.nmant + 16), float(own.smallest_normal))


def _columns(
    treedef: Any, leaves: list[Any], params: Any, slots: Any, what: str
) -> tuple[list[Any], list[Any]]:
    """The params and the slots that match the leaves of the updates."""
    held = _dtypes.match(treedef, leaves, base.needs(params), "the params")
    try:
        return held, treedef.flatten_up_to(slots)
    except (ValueError, TypeError, KeyError):
        raise Refusal(
            ValueError,
            f"got updates whose structure is not that of `state.{what}`. Was the state "
            "made for other parameters?",
        ) from None
