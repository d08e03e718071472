"""What is in the state of a transformation, wherever in it: found, replaced, asked.

A class of states answers two questions, if they concern it. `eval_params(params)`, a
method: what is averaged of the parameters (see `evaluated`). `directions`, an attribute, a
tuple of the names of its fields that hold directions, or points: trees like the params that
turn with the gradients when axes do (see `in_eigenbasis`), as momentum does, and second
moments do not.
"""

from collections.abc import Callable
from typing import Any

import jax

from . import _dtypes
from .base import OptState, Params
from .selection import Path, path_of, text


def states_in(state: Any, kind: type) -> dict[Path, Any]:
    """The states of one kind, anywhere in a state, by their paths.

    Args:
        state: The state of any transformation.
        kind: The class of the states to find.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> state = ox.chain(ox.clip(1.0), ox.adam(0.1)).init(jnp.zeros(2))
        >>> list(ox.states.states_in(state, ox.ScaleByRmsState))
        [('adam', 'scale_by_rms')]
    """
    found: dict[Path, Any] = {}
    map_states(found.setdefault, state, kind)
    return found


def map_states(function: Callable[..., Any], state: Any, kind: type) -> Any:
    """A state, with those of one kind in it replaced, wherever they are.

    Args:
        function: A function of the path and the state of that kind, in which those inside
            of it are replaced already, to the new one.
        state: The state of any transformation.
        kind: The class of the states to replace.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> def again(path, state):
        ...     return state._replace(count=jnp.zeros_like(state.count))
        >>> state = ox.adam(0.1).init(jnp.zeros(2))
        >>> state = ox.states.map_states(again, state, ox.ScaleByLearningRateState)
    """

    def visit(path: Any, x: Any) -> Any:
        if not isinstance(x, kind):
            return x
        here = path_of(path)
        fields: Any = x
        inside = map_states(
            lambda there, y: function(here + there, y), fields._asdict(), kind
        )
        return function(here, type(x)(**inside))

    return jax.tree_util.tree_map_with_path(
        visit, state, is_leaf=lambda x: isinstance(x, kind)
    )


def shortest_names(values: dict[Path, Any]) -> dict[str, Any]:
    """`values` by the last part of their paths, or as many parts as tell them apart.

    Args:
        values: Anything, by paths.

    Example:
        >>> import optimjax as ox
        >>> paths = {("s", "a", "x"): 1, ("s", "b", "x"): 2, ("s", "b", "y"): 3}
        >>> ox.states.shortest_names(paths)
        {'a/x': 1, 'b/x': 2, 'y': 3}
    """

    def shortest(path: Path) -> str:
        ends = (path[n:] for n in range(len(path) - 1, -1, -1))
        alone = (e for e in ends if [e] == [p[-len(e) :] for p in values if _ends(p, e)])
        return text(next(alone, path))

    return {shortest(path): value for path, value in values.items()}


def _ends(path: Path, end: Path) -> bool:
    return path[-len(end) :] == end


def averages(state: OptState) -> list[tuple[Any, Any]]:
    """The states that may keep an average, by key path; none inside of another.

    Args:
        state: The state of any transformation.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> len(ox.states.averages(ox.average_params(ox.sgd(0.1)).init(jnp.zeros(2))))
        1
    """

    def answers(node: Any) -> bool:
        return hasattr(type(node), "eval_params")

    pairs = jax.tree.leaves_with_path(state, is_leaf=answers)
    return [(path, node) for path, node in pairs if answers(node)]


def evaluated(state: OptState, params: Params) -> Params | None:
    """What the averages in `state` answer for `params`; None if there is none.

    A state takes part by a method `eval_params(params)` of its class, which returns a tree
    like `params`, or None. It is not looked into: a combinator whose state holds those of
    others, for a part of the params, calls this function from its own method.

    Args:
        state: The state of any transformation.
        params: The current parameters.

    Raises:
        ValueError: If two states answer, neither inside of the other.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.states.evaluated(ox.adam(0.1).init(jnp.zeros(2)), jnp.zeros(2)))
        None
    """
    found = None
    for path, node in averages(state):
        answer = node.eval_params(params)
        if answer is None:
            continue
        if found is not None:
            raise ValueError(
                "`eval_params` found two averages, neither inside of the other: "
                f"{_dtypes.name_of(found[0])} and {_dtypes.name_of(path)} of the state. "
                "Give it the state of the one that you mean."
            )
        found = path, answer
    return None if found is None else found[1]


def in_place_of(params: Params, average: Params) -> Params:
    """`average` in the dtypes of `params`; `params` where nothing is averaged.

    Args:
        params: A tree of arrays.
        average: A tree that matches it, with None where nothing is averaged.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.zeros(1), "b": jnp.ones(1)}
        >>> print(ox.states.in_place_of(params, {"w": jnp.ones(1), "b": None}))
        {'b': Array([1.], dtype=float32), 'w': Array([1.], dtype=float32)}
    """

    def chosen(p: Any, a: Any) -> Any:
        return _dtypes.cast(a, _dtypes.dtype_of(p)) if hasattr(a, "dtype") else p

    return jax.tree.map(chosen, params, average)
