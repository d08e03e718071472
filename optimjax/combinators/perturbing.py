"""Gradients taken somewhere else than where the parameters are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, base, numerics
from .._checks import Refusal
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..tree import leafwise, norm
from ..typing import NonNegative
from .branching import when


class SamState(NamedTuple):
    """State of `sam`."""

    # (), bool: whether the params are the perturbed ones now, so that the next call takes
    # the gradient there; never so in the one-call form.
    perturbed: jax.Array
    original: Any  # The params before they were perturbed; None in the one-call form.
    inner_state: OptState  # The state of the inner transformation.

    directions = ("original",)


@transformation(state=SamState)
def sam(
    inner: GradientTransformation,
    rho: NonNegative = 0.05,
    *,
    adaptive: bool = False,
    two_step: bool = False,
) -> GradientTransformation:
    r"""Takes the gradient where the loss is worst nearby: sharpness-aware minimization.

    $$ e = \rho\, \frac{g(p)}{\lVert g(p) \rVert}, \qquad
       p_{t+1} = p_t + u(g(p_t + e), p_t), $$

    where $u$ is `inner` and the norm is of all parameters together. With `adaptive`, the
    neighbourhood has the shape of the parameters (ASAM):

    $$ e = \rho\, \frac{|p|^2 g(p)}{\lVert\, |p|\, g(p) \rVert}. $$

    In the one-call form, `update(grads, state, params, grad_fn=grad_fn)` takes `grads` for
    $g(p)$, calls `grad_fn(params) -> grads` once, at $p + e$ in the dtypes of the params,
    and gives the update. A `grad_fn` that knows the batch is a closure, made where the
    batch is: in the body of a `lax.scan`, for one.

    In the two-step form (`two_step=True`) nothing is called, and two calls make a step. The
    first gives $e$ for the update, and leaves `inner` alone; the second is to be called
    with the gradient at the perturbed params, and gives the update that leads from them to
    the original ones plus the step of `inner`. Use one batch for both, and evaluate, save
    and count steps after the second, when `state.perturbed` is false.

    In the two-step form, what leaves out bad steps belongs around it (a NaN in the first
    half makes params NaN that `inner` never saw), and a leaf that has a gradient in the
    first half needs one in the second, or stays perturbed.

    To gather gradients over several batches, put `sam` into what gathers them
    (`accumulate(sam(...), k)`), not around it: each half then waits for its `k` batches. In
    the one-call form, `grad_fn` has to stand for all of them.

    Args:
        inner: Any transformation. It sees the gradient at the perturbed params, as its
            updates and wherever else it looks for the gradient, and the original params.
        rho: $\rho \ge 0$, the length of the perturbation. May be traced. Adaptive ones are
            ten times as long, or more, in the paper.
        adaptive: Whether it is scaled by the parameters. Those at zero are not perturbed:
            the paper's $\eta$ is zero here, as in its formulas; its experiments take
            $|p| + 0.01$ for the $|p|$ of weights, and 1 for that of biases.
        two_step: Which form it has.

    Returns:
        A `GradientTransformation` with a `SamState`. It needs the params. A gradient of
        zero perturbs nothing. In low precision, the way back ends at the nearest number to
        where it should, unless the perturbation made a parameter more than twice or less
        than half of what it was: the way is then rounded to the dtype of the updates.

    Raises:
        ValueError: If `rho` is negative or not finite; in `update`, if params are missing,
            or what `grad_fn` returned does not match the updates.
        TypeError: If `inner` is no transformation; in `update`, if the one-call form is
            given no `grad_fn`.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> grad_fn = jax.grad(lambda p: jnp.sum(p**4))
        >>> t = ox.sam(ox.sgd(0.01), rho=0.5)
        >>> params = jnp.array([1.0])
        >>> updates, _ = t.update(grad_fn(params), t.init(params), params, grad_fn=grad_fn)
        >>> print(updates)  # -0.01 * 4 * 1.5**3
        [-0.135]
        >>> t = ox.sam(ox.sgd(0.01), rho=0.5, two_step=True)
        >>> state = t.init(params)
        >>> for _ in range(2):
        ...     updates, state = t.update(grad_fn(params), state, params)
        ...     params = ox.apply_updates(params, updates)
        ...     print(params, state.perturbed)
        [1.5] True
        [0.865] False

    References:
        P. Foret et al., [Sharpness-aware minimization for efficiently improving
        generalization](https://arxiv.org/abs/2010.01412), 2020; J. Kwon et al., [ASAM:
        adaptive sharpness-aware minimization](https://arxiv.org/abs/2102.11600), 2021.
    """
    base.check_stages("sam", [inner])

    def init(params: Params) -> SamState:
        copies = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        return SamState(
            jnp.zeros((), bool), copies if two_step else None, inner.init(params)
        )

    def at_once(
        updates: Updates, gradient: Updates, state: SamState, params: Any, extra: Any
    ) -> tuple[Updates, Updates, SamState]:
        del gradient
        perturbed = base.apply_updates(params, _ascent(updates, params, rho, adaptive))
        fresh = _gradient_at(perturbed, updates, extra.get("grad_fn"))
        if "grad" in extra:
            extra = {**extra, "grad": fresh}
        out, lane, inner_state = base.advance(
            inner, fresh, fresh, state.inner_state, params, extra
        )
        return out, lane, state._replace(inner_state=inner_state)

    def by_halves(
        updates: Updates, gradient: Updates, state: SamState, params: Any, extra: Any
    ) -> tuple[Updates, Updates, SamState]:
        leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
        held = _dtypes.match(treedef, leaves, params, "the params")

        def away() -> Any:
            here = jax.tree.map(
                lambda o, p: _dtypes.cast(p, o.dtype), state.original, params
            )
            return _ascent(updates, params, rho, adaptive), here, state.inner_state

        def back() -> Any:
            originals = _dtypes.match(treedef, leaves, state.original, "the state")
            there = treedef.unflatten(
                p if u is None else o
                for u, o, p in zip(leaves, originals, held, strict=True)
            )
            out, _, inner_state = base.advance(
                inner, updates, gradient, state.inner_state, there, extra
            )
            steps = treedef.flatten_up_to(out)
            ways = (
                u if u is None else _way(step, o, p)
                for u, step, o, p in zip(leaves, steps, originals, held, strict=True)
            )
            return treedef.unflatten(ways), state.original, inner_state

        out, original, inner_state = when(state.perturbed, back, away)
        return out, out, SamState(~state.perturbed, original, inner_state)

    def advance(
        updates: Updates,
        gradient: Updates,
        state: SamState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, SamState]:
        form = by_halves if two_step else at_once
        return form(updates, gradient, state, base.needs(params), extra)

    return base.combinator(init, advance, (inner,), reads={"grad_fn"})


def _ascent(grads: Updates, params: Params, rho: Any, adaptive: bool) -> Updates:
    """The step of length `rho` along which the loss grows fastest."""
    if adaptive:
        grads = leafwise(_by_modulus, grads, reads=(params,))
    # Made of a size at which no square overflows or vanishes. The result has none.
    size = jax.lax.stop_gradient(norm(grads, "inf"))
    grads = leafwise(numerics.over, grads, y=jnp.where(size == 0, 1, size))
    gain = numerics.divide(numerics.as_scalar(rho), numerics.as_scalar(norm(grads)))
    step = leafwise(_by, grads, gain=gain)
    return leafwise(_by_modulus, step, reads=(params,)) if adaptive else step


def _by(g: jax.Array, *, gain: jax.Array) -> jax.Array:
    return gain * g


def _by_modulus(g: jax.Array, p: jax.Array) -> jax.Array:
    return numerics.modulus(p) * g


def _gradient_at(
    params: Params, updates: Updates, grad_fn: Callable[[Params], Updates] | None
) -> Updates:
    """What `grad_fn` says of `params`, where there are updates, and in their dtypes."""
    if not callable(grad_fn):
        raise Refusal(
            TypeError,
            "needs the argument `grad_fn`, a function from the params to the gradient: "
            "call `update(updates, state, params, grad_fn=...)`.",
        )
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
    what = "what `grad_fn` returned"
    fresh = _dtypes.match(treedef, leaves, grad_fn(params), what)
    fresh = treedef.unflatten(
        u if u is None else g for u, g in zip(leaves, fresh, strict=True)
    )
    _dtypes.check_inexact(fresh, what)
    wide, _ = _dtypes.widen(fresh, params)
    return jax.tree.map(lambda u, g: _dtypes.cast(g, u.dtype), updates, wide)


@jax.jit
def _way(step: jax.Array, original: jax.Array, p: jax.Array) -> jax.Array:
    """From `p` to the original params plus a step."""
    target = numerics.rounded(_dtypes.cast(original, step.dtype) + step, p.dtype)
    return target - _dtypes.cast(p, step.dtype)
