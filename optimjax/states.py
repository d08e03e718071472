"""What is in the state of a transformation, wherever in it: found, replaced, asked.

A class of states answers two questions, if they concern it. `eval_params(params)`, a
method: what is averaged of the parameters (see `evaluated`). `directions`, an attribute, a
tuple of the names of its fields that hold directions, or points: trees like the params that
turn with the gradients when axes do (see `in_eigenbasis`), as momentum does, and second
moments do not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _dtypes
from ._checks import named
from .base import OptState, Params
from .selection import Path, by_path, listed, path_of, text

# The version of the layout of states: the names of their fields, and what is in them. It
# rises with every change of either, and `_RENEWALS` says how to read what was before.
LAYOUT = 1
LAYOUT_KEY = "optimjax_state_layout"  # By what name it stands among the arrays.
# From a version to a function of the leaves by path, `renewed(leaves, like) -> leaves`,
# which makes them those of the next version.
_RENEWALS: dict[int, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {}


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


def state_to_dict(state: OptState) -> dict[str, Any]:
    """A state as a flat dict of arrays, for any file format: with the layout's version.

    Orbax, Flax and `pickle` store states as they are, too. What this adds is that a later
    version of the library knows what it reads, and that what is wrong with a file is said
    leaf by leaf: see `state_from_dict`.

    Args:
        state: The state of any transformation, of other libraries too.

    Returns:
        The leaves by their paths, `"scale_by_momentum/momentum/w"`, as they are (no copy),
        and the version, an int32 scalar, as `"optimjax_state_layout"`.

    Raises:
        ValueError: If two leaves have one path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> state = ox.momentum(0.1).init({"w": jnp.zeros(2)})
        >>> for path in ox.state_to_dict(state):
        ...     print(path)
        optimjax_state_layout
        scale_by_learning_rate/count
        scale_by_momentum/count
        scale_by_momentum/momentum/w
    """
    with named("state_to_dict"):
        _dtypes.check_arrays(state, "the state")
    leaves = _leaves(state)
    return {LAYOUT_KEY: np.int32(LAYOUT), **leaves}


def state_from_dict(stored: Mapping[str, Any], like: OptState) -> OptState:
    """The state that `state_to_dict` made a dict of.

    Args:
        stored: The dict, as it came out of a file. Nothing in it is changed.
        like: What it shall be: the state of a new run, `tx.init(params)`, or, so that it is
            not made in vain, its shapes, `jax.eval_shape(tx.init, params)`. Where they say
            how they are sharded, the arrays are put there.

    Returns:
        A state with the structure, shapes and dtypes of `like`, and the numbers of
        `stored`, bit for bit.

    Raises:
        ValueError: If a leaf is missing, or is none of the state's, or has another shape or
            dtype, with the paths of all such; if there is no version, or one that this
            version of the library does not read.

    Example:
        >>> import io, jax, jax.numpy as jnp, numpy as np, optimjax as ox
        >>> tx, params = ox.adam(0.1), {"w": jnp.zeros(2)}
        >>> _, state = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
        >>> file = io.BytesIO()
        >>> np.savez(file, **ox.state_to_dict(state))
        >>> _ = file.seek(0)
        >>> again = ox.state_from_dict(np.load(file), jax.eval_shape(tx.init, params))
        >>> print(again["scale_by_momentum"].momentum["w"])
        [0.1 0.1]
    """
    wanted = _leaves(like)
    given = {name: stored[name] for name in stored}
    if LAYOUT_KEY not in given:
        raise ValueError(
            f"`state_from_dict` needs the version of the layout, {LAYOUT_KEY!r}, which "
            f"`state_to_dict` writes, but got {_some(given)}. If it was written otherwise, "
            "read it as it was written: by Orbax, Flax or pickle."
        )
    version = int(np.asarray(given.pop(LAYOUT_KEY)))
    if not (version == LAYOUT or version in _RENEWALS):
        way = "a newer" if version > LAYOUT else "an older"
        raise ValueError(
            f"`state_from_dict` got a state of layout {version}, and reads layout "
            f"{LAYOUT}: {way} version of optimjax wrote it. Read it with that one."
        )
    for old in range(version, LAYOUT):
        given = _RENEWALS[old](given, wanted)
    problems = []
    if missing := [path for path in wanted if path not in given]:
        problems.append(f"there is no {_some(missing)}")
    if unknown := [path for path in given if path not in wanted]:
        problems.append(f"the state has no {_some(unknown)}")
    held = {p: _as_stored(given[p], x) for p, x in wanted.items() if p in given}
    for path, x in held.items():
        want = wanted[path]
        if x.shape != want.shape or x.dtype != want.dtype:
            problems.append(
                f"{path} is {x.dtype}{list(x.shape)} where {want.dtype}{list(want.shape)} "
                "is wanted"
            )
    if problems:
        raise ValueError(
            "`state_from_dict` got what is not the state of this optimizer for these "
            f"params: {'; '.join(problems)}."
        )
    return jax.tree.unflatten(
        jax.tree.structure(like), [_put(held[p], x) for p, x in wanted.items()]
    )


def _leaves(state: OptState) -> dict[str, Any]:
    named = {path: x for path, x in by_path(state).items() if x is not None}
    leaves = {text(path): x for path, x in named.items()}
    if len(leaves) < len(named):
        raise ValueError("`state_to_dict` got a state with two leaves of one path.")
    return leaves


def _some(paths: Any) -> str:
    return listed([(path,) for path in paths]) or "nothing"


def _as_stored(x: Any, want: Any) -> Any:
    """An array, where a format that knows no bfloat16 gave the bits of one."""
    if isinstance(x, jax.Array):
        return x
    array = np.asarray(x)
    bits = array.dtype.kind == "V" and array.dtype.itemsize == want.dtype.itemsize
    # Only where it would have been written so: else the bits are of something else.
    return array.view(want.dtype) if bits and np.dtype(want.dtype).kind == "V" else array


def _put(x: Any, want: Any) -> jax.Array:
    sharding = getattr(want, "sharding", None)
    if sharding is None or not getattr(want, "committed", True):
        return jnp.array(x)
    return jax.device_put(x, sharding, may_alias=False)
