"""What happens in a step, as numbers by stable names."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, _reports, base, numerics, states, tree
from .._checks import Refusal
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..tree import leafwise

# All are functions of the gradient, the updates, and the params.
Measure = Callable[[Updates, Updates, Params], Any]


class MeasureState(NamedTuple):
    """State of `measure`."""

    measures: dict[str, jax.Array]  # By name, (), float32: of the last step; NaN before.
    inner_state: OptState  # That of `inner`.


def _gradient_norm(gradient: Updates, updates: Updates, params: Params) -> jax.Array:
    del updates, params
    return tree.norm(gradient)


def _update_norm(gradient: Updates, updates: Updates, params: Params) -> jax.Array:
    del gradient, params
    return tree.norm(updates)


def _param_norm(gradient: Updates, updates: Updates, params: Params) -> jax.Array:
    del gradient
    return tree.norm(_where(updates, base.needs(params)))


def _update_to_weight(gradient: Updates, updates: Updates, params: Params) -> jax.Array:
    longest = _param_norm(gradient, updates, params)
    return numerics.divide(tree.norm(updates), longest)


def _cosine(gradient: Updates, updates: Updates, params: Params) -> jax.Array:
    del params
    # Of what has length one, since products of small numbers underflow.
    units = [leafwise(numerics.divide, x, y=tree.norm(x)) for x in (gradient, updates)]
    return -jnp.real(tree.vdot(*units))


def _where(updates: Updates, params: Params) -> Params:
    """The params that have updates."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
    matching = _dtypes.match(treedef, leaves, params, "the params")
    return base.where_updated(treedef, leaves, matching)


MEASURES: dict[str, Measure] = {
    "gradient_norm": _gradient_norm,
    "update_norm": _update_norm,
    "param_norm": _param_norm,
    "update_to_weight": _update_to_weight,
    "cosine": _cosine,
}


@transformation(state=MeasureState)
def measure(
    inner: GradientTransformation, *names: str, **functions: Measure
) -> GradientTransformation:
    r"""Keeps numbers about the last step in the state, for `get_measures` to read.

    | name | |
    | --- | --- |
    | `gradient_norm` | $\lVert g \rVert$ of what comes in |
    | `update_norm` | $\lVert u \rVert$ of what goes out |
    | `param_norm` | $\lVert p \rVert$ before the step |
    | `update_to_weight` | $\lVert u \rVert / \lVert p \rVert$, about 0.001 in a good run |
    | `cosine` | of the angle between the step and steepest descent, $-g$: 1 for plain SGD |
    | `learning_rate` | the rate in force, of the stage inside that has one |

    Norms are those of all leaves together. Where `inner` holds several learning rates,
    their names tell which: in a `partition`, `encoder/learning_rate`; else
    `learning_rate_2`. The updates themselves are not touched. What is not asked for costs
    nothing, and without `measure` nothing is computed at all; a norm costs a pass over its
    tree.

    Args:
        inner: Any transformation; the whole optimizer, most often.
        *names: Which of these; all but `learning_rate` if neither names nor functions are
            given.
        **functions: Measures of your own, by name: functions of gradient, updates and
            params to a scalar.

    Returns:
        A `GradientTransformation` with a `MeasureState`.

    Raises:
        TypeError: If `inner` is no transformation, or one of `functions` no function.
        ValueError: In `update`, if nothing has a name that is asked for, and if params are
            missing for what needs them.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.measure(ox.sgd(0.1), "learning_rate", "gradient_norm",
        ...                largest=lambda g, u, p: ox.tree.max(u))
        >>> state = t.init(jnp.zeros(2))
        >>> _, state = t.update(jnp.array([3.0, -4.0]), state)
        >>> for name, value in ox.get_measures(state).items():
        ...     print(f"{name:13} {value:.1f}")
        gradient_norm 5.0
        largest       0.4
        learning_rate 0.1
    """
    base.check_stages("measure", [inner])
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(
                f"`measure({name}=...)` must be a function of gradient, updates and "
                f"params, but got {function!r}."
            )
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"`measure` takes names, but got {name!r}. A function is given by name: "
                "`measure(inner, my_name=function)`."
            )
    wanted = names or (() if functions else tuple(MEASURES))
    known = {**{n: MEASURES[n] for n in wanted if n in MEASURES}, **functions}
    reported = [name for name in wanted if name not in known]

    def init(params: Params) -> MeasureState:
        unknown = {name: numerics.as_scalar(jnp.nan) for name in (*wanted, *functions)}
        return MeasureState(unknown, inner.init(params))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: MeasureState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, MeasureState]:
        heard: dict[str, Any] = {}
        with _reports.listening(heard) if reported else contextlib.nullcontext():
            out, lane, inner_state = base.advance(
                inner, updates, gradient, state.inner_state, params, extra
            )
        for name, value in heard.items():  # For a `measure` further out.
            _reports.report(name, value)
        missing = set(reported) - set(heard)
        if missing:
            raise Refusal(
                ValueError,
                f"finds no {sorted(missing)} in {inner!r}; there are "
                f"{[*MEASURES, *heard]}.",
            )
        measures = {name: heard[name] for name in reported}
        for name, function in known.items():
            measures[name] = function(updates, out, params)
        scalars = {name: _scalar(name, value) for name, value in measures.items()}
        return out, lane, MeasureState(scalars, inner_state)

    return base.combinator(init, advance, (inner,))


def _scalar(name: str, value: Any) -> jax.Array:
    one = jax.tree_util.all_leaves([value])
    if not one or jnp.shape(value) != ():
        got = (
            f"an array of shape {jnp.shape(value)}" if one else f"a {type(value).__name__}"
        )
        raise Refusal(
            ValueError,
            f"got {got} from the measure {name!r}, which must be a scalar.",
        )
    return numerics.as_scalar(value)


def get_measures(state: OptState) -> dict[str, jax.Array]:
    """What `measure` has kept of the last step, by name.

    Args:
        state: The state of an optimizer with `measure` anywhere in it.

    Returns:
        A dict from name to scalar, empty if there is no `measure`. Where there are several
        of a name, as much of their paths is in it as tells them apart.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> state = ox.measure(ox.sgd(0.1), "cosine").init(jnp.zeros(2))
        >>> ox.get_measures(state)
        {'cosine': Array(nan, dtype=float32)}
    """
    return states.shortest_names(
        {
            (*path, name): value
            for path, node in states.states_in(state, MeasureState).items()
            for name, value in node.measures.items()
        }
    )
