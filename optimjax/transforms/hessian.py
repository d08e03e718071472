"""Estimates of curvature as transformations: their updates are a diagonal of the Hessian.

What comes in is looked at for one thing only: where it is None, there is no estimate. They
go into rules that divide by what they say (`scale_by_curvature`), which run them now and
then; a `chain` may clip what they say, take its modulus, or average it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes
from .._checks import Key, Refusal, typed_key
from ..base import GradientTransformation, Params, Updates, transformation
from ..curvature import gauss_newton_bartlett_diagonal, hutchinson_diagonal


class HutchinsonState(NamedTuple):
    """State of `hutchinson_estimator_diag_hessian`."""

    key_data: jax.Array  # The next random key, as plain uint32 that any format can save.


@transformation(state=HutchinsonState)
def hutchinson_estimator_diag_hessian(
    random_seed: Key = 0,
) -> GradientTransformation:
    r"""Gives the diagonal of the Hessian, estimated by `hutchinson_diagonal`.

    `update` needs the loss as a function of the params alone, with the batch of this step
    in it: `obj_fn=lambda p: loss(p, batch)`, or by the name that line searches have for it,
    `value_fn`. It is called with the params as they reach this transformation: inside of
    `masked` or `partition` that is a part of them.

    Args:
        random_seed: A random key of `jax.random.key`, or an integer seed for one.

    Returns:
        A `GradientTransformation` with a `HutchinsonState`. It needs the params. Over
        several devices, `obj_fn` has to be the mean over all.

    Raises:
        TypeError: If `random_seed` is neither a key nor an integer; in `update`, if there
            is no function.
        ValueError: In `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.hutchinson_estimator_diag_hessian()
        >>> params = jnp.array([1.0, 2.0])
        >>> diagonal, _ = t.update(
        ...     params, t.init(params), params, obj_fn=lambda p: 3 * p[0] ** 2 - p[1] ** 2)
        >>> print(diagonal)
        [ 6. -2.]

    References:
        C. Bekas, E. Kokiopoulou and Y. Saad, [An estimator for the diagonal of a
        matrix](https://doi.org/10.1016/j.apnum.2007.01.003), 2007.
    """
    init, drawn = _drawing(
        hutchinson_diagonal,
        random_seed,
        HutchinsonState,
    )

    def update(
        updates: Updates,
        state: HutchinsonState,
        params: Params,
        *,
        obj_fn: Any = None,
        value_fn: Any = None,
        **extra: Any,
    ) -> tuple[Updates, HutchinsonState]:
        del extra
        function = value_fn if obj_fn is None else obj_fn
        return drawn(updates, state, params, _needed("obj_fn", function))

    return GradientTransformation(init, update)


class GaussNewtonBartlettState(NamedTuple):
    """State of `gauss_newton_bartlett_estimator`."""

    key_data: jax.Array  # The next random key, as plain uint32 that any format can save.


@transformation(state=GaussNewtonBartlettState)
def gauss_newton_bartlett_estimator(
    random_seed: Key = 0,
) -> GradientTransformation:
    r"""Gives the diagonal of the Gauss-Newton matrix of a cross-entropy, estimated.

    By `gauss_newton_bartlett_diagonal`, which is not negative, and needs one gradient: what
    makes Sophia-G. `update` needs the logits as a function of the params alone, with the
    batch of this step in it: `logits_fn=lambda p: model(p, batch)`.

    Args:
        random_seed: A random key of `jax.random.key`, or an integer seed for one.

    Returns:
        A `GradientTransformation` with a `GaussNewtonBartlettState`. It needs the params.

    Raises:
        TypeError: If `random_seed` is neither a key nor an integer; in `update`, if there
            is no function.
        ValueError: In `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.gauss_newton_bartlett_estimator()
        >>> def logits(p):  # Of one example.
        ...     return jnp.array([2.0, 1.0]) * p
        >>> params = jnp.array([0.0, 0.0])
        >>> diagonal, _ = t.update(params, t.init(params), params, logits_fn=logits)
        >>> print(diagonal)  # Whichever label: 2**2 / 4, 1**2 / 4
        [1.   0.25]

    References:
        H. Liu et al., [Sophia: a scalable stochastic second-order optimizer for language
        model pre-training](https://arxiv.org/abs/2305.14342), 2023, algorithm 2.
    """
    init, drawn = _drawing(
        gauss_newton_bartlett_diagonal,
        random_seed,
        GaussNewtonBartlettState,
    )

    def update(
        updates: Updates,
        state: GaussNewtonBartlettState,
        params: Params,
        *,
        logits_fn: Any = None,
        **extra: Any,
    ) -> tuple[Updates, GaussNewtonBartlettState]:
        del extra
        return drawn(updates, state, params, _needed("logits_fn", logits_fn))

    return GradientTransformation(init, update)


def _needed(argument: str, function: Any) -> Callable[[Params], Any]:
    if not callable(function):
        raise Refusal(
            TypeError,
            f"needs the argument `{argument}`, a function of the params: call "
            f"`update(updates, state, params, {argument}=...)`.",
        )
    return function


def _drawing(
    estimate: Callable[..., Any], seed: Any, state_type: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`init`, and `drawn(updates, state, params, function)`, of an estimator with a key."""
    if isinstance(seed, int):
        # Not made a key before it is needed: a default of a factory is made on import,
        # where JAX is not to be started yet.
        kind = None
    else:
        seed = typed_key(seed)
        kind = jax.random.key_impl(seed)

    def init(params: Params) -> Any:
        del params
        key = typed_key(seed)
        # A copy: a state shares no buffer with anything, so that it can be donated.
        return state_type(jnp.array(jax.random.key_data(key), copy=True))

    def drawn(
        updates: Updates, state: Any, params: Params, function: Callable[[Params], Any]
    ) -> tuple[Updates, Any]:
        key = jax.random.wrap_key_data(state.key_data, impl=kind)
        next_key, now = jax.random.split(key)
        leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
        held = _dtypes.match(treedef, leaves, params, "the params")

        def of_part(part: list[Any]) -> Any:
            """Of those with an update; the others stay what they are."""
            return function(
                treedef.unflatten(
                    p if u is None else x
                    for u, p, x in zip(leaves, held, part, strict=True)
                )
            )

        part = [None if u is None else p for u, p in zip(leaves, held, strict=True)]
        diagonal = estimate(of_part, part, now)
        return treedef.unflatten(diagonal), state_type(jax.random.key_data(next_key))

    return init, drawn


HUTCHINSON = hutchinson_estimator_diag_hessian()  # Where rules get estimates by default.
