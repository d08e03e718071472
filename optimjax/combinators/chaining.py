"""One after another: stages that make one step, and steps that follow each other."""

from typing import Any

import jax
import jax.numpy as jnp

from .. import _dtypes, _reports, base
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..tree import leafwise


@transformation(packable=True)
def chain(*transforms: GradientTransformation) -> GradientTransformation:
    r"""Applies `transforms` from left to right; `chain()` is the identity.

    Two things travel along a chain. The *direction* is what each stage turns into
    something else, in the end into the updates. The *gradient* is what the direction came
    from: stages that only smooth (`scale_by_momentum`, `add_bias_correction`, `ema`)
    change the direction and leave the gradient alone; after any other stage (clipping,
    weight decay, noise, a foreign transformation) both are that stage's output. So
    `scale_by_rms`, which takes its second moment from the gradient and divides the
    direction by its root, means the right thing wherever it stands:

    - `scale_by_momentum(b1, dampening=b1), add_bias_correction(b1),
      scale_by_rms(b2, eps, bias_correction=True), scale_by_learning_rate(lr)` is Adam;
    - `scale_by_rms(b2, eps), scale_by_momentum(b1), scale_by_learning_rate(lr)` is
      RMSprop with momentum.

    Chains nest: however stages are grouped, the updates are the same. The gradient travels
    in `ox.chain` alone, though: in an `optax.chain`, or called by hand one after another,
    stages such as `scale_by_rms` and Nadam's take what they are given for the gradient. Put
    a whole `ox.chain` into an `optax.chain`, not the stages of one.

    The dtype rule, for every transformation of the library and so for a whole chain:
    arithmetic is done in at least float32, state keeps the dtypes that `init` gave it,
    and updates come back in the dtype that holds both the gradient leaf and, when params
    are given, the parameter leaf. Nothing is rounded between stages.

    Args:
        *transforms: Transformations, of this library or of any other with the same
            protocol (Optax's go in as they are). Extra keyword arguments of `update`
            reach every one that takes them.

    Returns:
        A `GradientTransformation`. Its state is a dict from the name of each stage that
        has a state (a second one of a name is `name_2`) to that state, so that the path
        of every leaf says to which stage and slot it belongs.

    Raises:
        TypeError: If an argument is no transformation; in `update`, if the state is not
            one of such a chain.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(ox.clip(1.0), ox.scale_by_momentum(0.9), ox.scale(-0.5))
        >>> state = t.init(jnp.zeros(2))
        >>> updates, state = t.update(jnp.array([5.0, 0.5]), state)
        >>> print(updates)
        [-0.5  -0.25]
        >>> print(state["scale_by_momentum"].momentum)
        [1.  0.5]
    """
    stages, kept, init = _in_a_row("chain", transforms)

    def advance(
        updates: Updates,
        gradient: Updates,
        state: OptState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, OptState]:
        _check_state("chain", state, kept)
        new_state = {}
        for name, stage in stages:
            updates, gradient, s = base.advance(
                stage, updates, gradient, state.get(name, _EMPTY), params, extra
            )
            if name in kept:
                new_state[name] = s
        return updates, gradient, new_state

    return base.combinator(init, advance, transforms)


def _sum(a: jax.Array, b: jax.Array) -> jax.Array:
    return a + b


@transformation(packable=True)
def in_turn(*transforms: GradientTransformation) -> GradientTransformation:
    r"""Takes one step after another: each starts from the params that the last one left.

    $$ p^{(0)} = p, \qquad p^{(i)} = p^{(i-1)} + u_i(g, p^{(i-1)}), \qquad
       u = p^{(n)} - p. $$

    In a `chain` each stage changes the updates of the last, and all see the same params.
    Here every transformation is given the gradients as they came, and the updates are the
    sum of all. Keras decays weights in this way before it takes a step.

    Args:
        *transforms: Transformations, as in `chain`.

    Returns:
        A `GradientTransformation`. Its state is as in `chain`. It needs the params.

    Raises:
        TypeError: If an argument is no transformation; in `update`, if the state is not
            one of such a transformation.
        ValueError: In `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> decay = ox.chain(ox.set_to_zero(), ox.add_decayed_weights(-0.5))
        >>> t = ox.in_turn(decay, ox.soft_threshold(1.0))
        >>> params = jnp.array([6.0])
        >>> updates, _ = t.update(jnp.zeros(1), t.init(params), params)
        >>> print(ox.apply_updates(params, updates))  # 6 halved is 3, less 1
        [2.]
    """
    stages, kept, init = _in_a_row("in_turn", transforms)

    def advance(
        updates: Updates,
        gradient: Updates,
        state: OptState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, OptState]:
        _check_state("in_turn", state, kept)
        params = base.needs(params)
        total, new_state = leafwise(jnp.zeros_like, updates), {}
        for name, stage in stages:
            step, _, s = base.advance(
                stage, updates, gradient, state.get(name, _EMPTY), params, extra
            )
            total = leafwise(_sum, total, reads=(step,))
            params = _moved(params, step)
            if name in kept:
                new_state[name] = s
        return total, total, new_state

    return base.combinator(init, advance, transforms)


def _moved(params: Params, step: Updates) -> Params:
    """The params after a step, not rounded, for the next one to start from."""
    leaves, treedef = jax.tree.flatten(step, is_leaf=_dtypes.is_none)
    held = _dtypes.match(treedef, leaves, params, "the params")
    return treedef.unflatten(
        p if u is None else _dtypes.cast(p, u.dtype) + u
        for u, p in zip(leaves, held, strict=True)
    )


_EMPTY = base.EmptyState()


def _in_a_row(who: str, transforms: tuple[Any, ...]) -> Any:
    """The stages with a name for each, which of them have a state, and their `init`."""
    base.check_stages(who, transforms)
    names: list[str] = []
    for stage in transforms:
        names.append(_reports.unused(base.stage_name(stage), names))
    stages = list(zip(names, transforms, strict=True))
    kept = {name for name, stage in stages if not base.is_stateless(stage)}

    def init(params: Params) -> OptState:
        states = {name: stage.init(params) for name, stage in stages}
        return {name: state for name, state in states.items() if name in kept}

    return stages, kept, init


def _check_state(who: str, state: OptState, kept: set[str]) -> None:
    if not isinstance(state, dict) or set(state) != kept:
        got = sorted(state) if isinstance(state, dict) else type(state).__name__
        raise TypeError(
            f"`{who}` needs a state with the stages {sorted(kept)}, but got {got}. "
            "Was it made by the `init` of another optimizer?"
        )
