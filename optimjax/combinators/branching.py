"""Running a transformation or not: branches of one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .. import _branches, _checks, _dtypes, _reports, base, numerics
from ..base import GradientTransformation, OptState, Params, Updates


def when(pred: Any, run: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`run()` where `pred` holds, else `otherwise()`; for combinators.

    As `lax.cond`, of which only one branch is run; what stages report inside of `run` is
    heard outside, as NaN where it was not run.
    """
    if not _reports.wanted():
        return _branches.cond(pred, run, otherwise)

    def reporting() -> Any:
        heard: dict[str, Any] = {}
        with _reports.listening(heard):
            out = run()
        return out, {name: numerics.as_scalar(x) for name, x in heard.items()}

    names = jax.eval_shape(reporting)[1]

    def silent() -> Any:
        return otherwise(), {name: numerics.as_scalar(jnp.nan) for name in names}

    out, heard = _branches.cond(pred, reporting, silent)
    for name, value in heard.items():
        _reports.report(name, value)
    return out


def advance_if(
    pred: Any,
    inner: GradientTransformation,
    updates: Updates,
    gradient: Updates,
    state: OptState,
    params: Params | None,
    extra: dict[str, Any],
) -> tuple[Updates, Updates, OptState]:
    """Runs `inner` where `pred` holds; else it is as if the step had not been."""
    return when(
        pred,
        lambda: base.advance(inner, updates, gradient, state, params, extra),
        lambda: no_step(updates, state),
    )


def decision(said: Any, function: Any) -> jax.Array:
    """What a function has said, as a boolean; for combinators that ask one.

    Raises:
        Refusal: If it is not one yes or no.
    """
    if said is None or jnp.shape(said) != ():
        raise _checks.Refusal(
            TypeError, f"got {said!r} from {function!r}, which must give one boolean."
        )
    return _dtypes.cast(said, bool)


def no_step(updates: Updates, state: OptState) -> tuple[Updates, Updates, OptState]:
    """What `advance` gives where nothing is done: zeros, and the state as it is."""

    def zero(u: Any) -> jax.Array:
        # The same on all devices, even where `u` is not.
        alike = _branches.inside_shard_map()
        return jnp.zeros(jnp.shape(u), u.dtype) if alike else jnp.zeros_like(u)

    zeros = jax.tree.map(zero, updates)
    return zeros, zeros, state
