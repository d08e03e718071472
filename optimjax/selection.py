"""Which leaves: chosen by a tree, by a function, or by patterns of their paths.

Wherever something holds for a part of the parameters only (`masked`, `freeze`, the `mask`
of weight decay; the labels of `partition`), the part is said in one of these ways:

- a tree of booleans (or of labels), or a prefix of one: `{"encoder": False, "head": True}`;
- a pattern of paths, or several: `"**/bias"`, `["!**/bias", "!**/norm/*"]`;
- a function of the path and the leaf: `lambda path, leaf: leaf.ndim > 1`;
- a function from the params to a tree of booleans (or of labels).

A path is what one would write: a text such as `encoder/layers/0/kernel`, the keys, indices,
and names of fields, joined by slashes, so that its last part is `path.split("/")[-1]`. A
box around a single array, such as a `Param` of Flax NNX, adds nothing to it. In a pattern,
`*` stands for any text within one part of the path, `?` for one letter, `[ab]` for one of
these, and `**` for any number of parts, none included. A pattern with `!` before it leaves
out what it matches. Several choose what any of them matches (everything, if all have `!`),
but for what is left out. A pattern that matches nothing is refused, with the paths that
there are.
"""

import collections
import functools
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from . import _checks, _dtypes
from ._checks import Refusal
from .tree import broadcast_prefix

Path = tuple[str, ...]  # The parts of a path, from the root to the leaf.
_IN_A_BOX = jax.tree_util.GetAttrKey("value")


def chosen_by(mask: Any, params: Any) -> Any:
    """For each parameter whether `mask` chooses it.

    Args:
        mask: A tree of booleans or a prefix of one; a pattern or a list of patterns; a
            function of path and leaf to a boolean, or of the params to a tree; `None`
            chooses all.
        params: A tree of arrays.

    Returns:
        A tree of booleans with the structure of `params`.

    Raises:
        ValueError: If the mask does not match the params, or a pattern matches nothing.
        TypeError: If there is something else than booleans in it.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.ones((2, 2)), "b": [jnp.ones(2), jnp.ones(2)]}
        >>> ox.selection.chosen_by({"w": True, "b": False}, params)
        {'b': [False, False], 'w': True}
        >>> ox.selection.chosen_by("b/*", params)
        {'b': [True, True], 'w': False}
        >>> ox.selection.chosen_by(lambda path, leaf: leaf.ndim > 1, params)
        {'b': [False, False], 'w': True}
    """
    if mask is None:
        mask = True
    patterns = [mask] if isinstance(mask, str) else mask
    if isinstance(patterns, list | tuple) and patterns and _all_strings(patterns):
        return _matched(patterns, params)
    return jax.tree_util.tree_map_with_path(_boolean, _spread(mask, params, "mask"))


def labelled_by(labels: Any, params: Any) -> dict[Path, Any]:
    """The label of each parameter, by its path.

    Args:
        labels: A tree of labels or a prefix of one; a function of path and leaf to a label,
            or of the params to a tree of labels.
        params: A tree of arrays.

    Raises:
        ValueError: If the labels do not match the params.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.ones((2, 2)), "b": [jnp.ones(2), jnp.ones(2)]}
        >>> ox.selection.labelled_by(lambda path, leaf: leaf.ndim, params)
        {('b', '0'): 1, ('b', '1'): 1, ('w',): 2}
    """
    return by_path(_spread(labels, params, "tree of labels"))


def first_match(patterns: Sequence[str], params: Any) -> dict[Path, str]:
    """The first of `patterns` that matches each parameter, by its path.

    Args:
        patterns: Patterns of paths, without `!`.
        params: A tree of arrays.

    Returns:
        A dict without the parameters that no pattern matches.

    Raises:
        ValueError: If a pattern matches nothing at all.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.ones((2, 2)), "b": [jnp.ones(2), jnp.ones(2)]}
        >>> ox.selection.first_match(["b/0", "**"], params)
        {('b', '0'): 'b/0', ('b', '1'): '**', ('w',): '**'}
    """
    paths = [path for path, leaf in by_path(params).items() if leaf is not None]
    _check_matches(patterns, paths)
    found = ((path, _first(patterns, text(path))) for path in paths)
    return {path: pattern for path, pattern in found if pattern is not None}


def matches(pattern: str, path: Path) -> bool:
    """Whether a pattern (see `optimjax.selection`) matches a path.

    Args:
        pattern: One, without `!`.
        path: The parts of a path.

    Example:
        >>> import optimjax as ox
        >>> ox.selection.matches("encoder/**/bias", ("encoder", "0", "bias"))
        True
    """
    return _regex(pattern).fullmatch(text(path)) is not None


def by_path(tree: Any) -> dict[Path, Any]:
    """The leaves of `tree`, `None` among them, by their paths, in their order.

    Args:
        tree: Any tree.

    Raises:
        ValueError: If two leaves have one path (as `{1: x, "1": y}` would).

    Example:
        >>> import optimjax as ox
        >>> ox.selection.by_path({"w": 1, "b": [2, None]})
        {('b', '0'): 2, ('b', '1'): None, ('w',): 1}
    """
    pairs = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_dtypes.is_none)[0]
    paths = _paths([keys for keys, _ in pairs])
    found = {path: leaf for path, (_, leaf) in zip(paths, pairs, strict=True)}
    if len(found) < len(pairs):
        raise Refusal(ValueError, "got a tree with two leaves of one path.")
    return found


def nested(items: dict[Path, Any]) -> Any:
    """A tree of dicts with these leaves; the leaf itself, where its path is empty.

    Args:
        items: Leaves by their paths.

    Example:
        >>> import optimjax as ox
        >>> ox.selection.nested({("b", "1"): 2.0, ("w",): 1.0})
        {'b': {'1': 2.0}, 'w': 1.0}
    """
    if () in items:
        return items[()]
    root: dict[str, Any] = {}
    for path, leaf in items.items():
        node = root
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = leaf
    return root


def part(leaves: dict[Path, Any], paths: Iterable[Path]) -> Any:
    """The tree of dicts of some leaves; None for what is not there.

    Args:
        leaves: Leaves by their paths.
        paths: Which of them.

    Example:
        >>> import optimjax as ox
        >>> ox.selection.part({("a", "x"): 1, ("b",): 2}, [("a", "x"), ("c",)])
        {'a': {'x': 1}, 'c': None}
    """
    return nested({path: leaves.get(path) for path in paths})


def path_of(keys: Any) -> Path:
    """The parts of a key path of JAX.

    Args:
        keys: Keys as `jax.tree_util.tree_flatten_with_path` gives them.

    Example:
        >>> import jax, optimjax as ox
        >>> ox.selection.path_of((jax.tree_util.DictKey("w"), jax.tree_util.SequenceKey(0)))
        ('w', '0')
    """
    kinds = ("key", "idx", "name")  # Of a dict, a sequence, an object with fields.
    return tuple(
        str(next((getattr(key, kind) for kind in kinds if hasattr(key, kind)), key))
        for key in keys
    )


def unboxed(tree: Any) -> Any:
    """`tree` with what is in the boxes of Flax NNX in their places.

    NNX gives `init` its `Variable`s, and `update` what is in them. Moments may be made in
    the likeness of either; what is no array like the parameter, such as a tuple, cannot
    lie in such a box for longer than one step.

    Args:
        tree: Any tree.

    Example:
        >>> import optimjax as ox
        >>> ox.selection.unboxed([1, {"b": 2}])  # There are none.
        [1, {'b': 2}]
    """

    def of_one(node: Any) -> bool:
        return hasattr(type(node), "get_metadata")

    def opened(node: Any) -> Any:
        return jax.tree.leaves(node)[0] if of_one(node) else node

    return jax.tree.map(opened, tree, is_leaf=of_one)


def text(path: Path) -> str:
    """A path as it is written: `encoder/0/kernel`.

    Args:
        path: The parts of it.

    Example:
        >>> import optimjax as ox
        >>> ox.selection.text(("encoder", "0", "kernel"))
        'encoder/0/kernel'
    """
    return "/".join(path)


def listed(paths: Iterable[Path], most: int = 20) -> str:
    """Paths for an error message, not all of too many.

    Args:
        paths: Which.
        most: How many of them to write out.

    Example:
        >>> import optimjax as ox
        >>> ox.selection.listed([("a",), ("b", "0"), ("b", "1")], most=2)
        'a, b/0 and 1 more'
    """
    names = [text(path) or "(the whole tree)" for path in paths]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _paths(leaves: list[Any]) -> list[Path]:
    """The paths of leaves, given the keys to each of them."""
    paths = [path_of(keys) for keys in leaves]
    below = collections.Counter(path[:n] for path in paths for n in range(len(path)))

    # NNX gives its optimizers boxes for `init`, and what is in them for `update`.
    def boxed(keys: Any, path: Path) -> bool:
        return keys[-1:] == (_IN_A_BOX,) and below[path[:-1]] == 1

    return [
        path[:-1] if boxed(keys, path) else path
        for keys, path in zip(leaves, paths, strict=True)
    ]


def _all_strings(items: Sequence[Any]) -> bool:
    return all(isinstance(x, str) for x in items)


def _boolean(path: Any, x: Any) -> bool:
    known = isinstance(x, bool) or (hasattr(x, "dtype") and not _is_traced(x))
    if not known or jnp.shape(x) != () or not jnp.issubdtype(_dtypes.dtype_of(x), jnp.bool):
        raise Refusal(
            TypeError,
            f"got a mask with {x!r} at {_dtypes.name_of(path)}; it takes True and False, "
            "patterns of paths such as '**/bias', or a function of path and leaf.",
        )
    return bool(x)


def _is_traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def _spread(choice: Any, params: Any, what: str) -> Any:
    """What `choice` says of each parameter, as a tree like `params`."""
    # A tree may be callable too, as Equinox modules are.
    if callable(choice) and jax.tree_util.all_leaves([choice]):
        if _takes_path(choice):

            def say(path: Path, leaf: Any) -> Any:
                if not isinstance(leaf, float | complex) and not hasattr(leaf, "dtype"):
                    return False  # A function, in an Equinox module: nothing to train.
                return choice(text(path), leaf)

            treedef = jax.tree.structure(params, is_leaf=_dtypes.is_none)
            said = (None if x is None else say(p, x) for p, x in by_path(params).items())
            return treedef.unflatten(said)
        given, choice = choice, choice(params)
        whole = jax.tree_util.all_leaves([choice])
        if whole and not jax.tree_util.all_leaves([params]):
            raise Refusal(
                TypeError,
                f"got a {what} that is {_checks.shown(given)}, a function of one argument, "
                f"which is all the params, and gave {choice!r} for them all. A function of "
                "path and leaf takes two: `lambda path, leaf: ...`.",
            )
    return broadcast_prefix(choice, params, what)


def _takes_path(function: Any) -> bool:
    """Whether it is a function of path and leaf, rather than of all the params."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # Some builtin functions have none.
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len([p for p in parameters if p.kind in kinds and p.default is p.empty]) == 2


def _matched(patterns: Sequence[str], params: Any) -> Any:
    """The tree of booleans that a list of patterns means."""
    wanted = [p for p in patterns if not p.startswith("!")]
    unwanted = [p[1:] for p in patterns if p.startswith("!")]
    leaves = by_path(params)
    _check_matches(
        wanted + unwanted, [path for path, leaf in leaves.items() if leaf is not None]
    )

    def chosen(path: Path) -> bool:
        name = text(path)
        picked = not wanted or _first(wanted, name) is not None
        return picked and _first(unwanted, name) is None

    treedef = jax.tree.structure(params, is_leaf=_dtypes.is_none)
    return treedef.unflatten(None if x is None else chosen(p) for p, x in leaves.items())


def _first(patterns: Sequence[str], name: str) -> str | None:
    return next((p for p in patterns if _regex(p).fullmatch(name)), None)


def _check_matches(patterns: Sequence[str], paths: list[Path]) -> None:
    """Refuses a pattern that matches nothing, unless there is nothing at all."""
    names = [text(path) for path in paths]
    for pattern in patterns if names else ():
        if any(map(_regex(pattern).fullmatch, names)):
            continue
        wider = (f"{pattern}/**", f"**/{pattern}", f"**/{pattern}/**")
        meant = next((p for p in wider if any(map(_regex(p).fullmatch, names))), None)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise Refusal(
            ValueError,
            f"got the pattern {pattern!r}, which matches no parameter. There are: "
            f"{listed(paths)}.{hint}",
        )


@functools.lru_cache(maxsize=4096)
def _regex(pattern: str) -> re.Pattern[str]:
    *parts, last = pattern.split("/")
    above = "".join("(?:[^/]+/)*" if p == "**" else _regex_of(p) + "/" for p in parts)
    if last != "**":
        return re.compile(above + _regex_of(last))
    # None of the parts that `**` stands for: `a/**` is also `a`.
    return re.compile(f"{above}.*|{above.removesuffix('/')}" if above else ".*")


def _regex_of(part: str) -> str:
    def translate(piece: re.Match[str]) -> str:
        token = piece[0]
        if token in "*?":
            return {"*": "[^/]*", "?": "[^/]"}[token]
        if len(token) > 1:  # [ab], [a-z], [!ab]
            return "[^" + token[2:] if token[1] == "!" else token
        return re.escape(token)

    return re.sub(r"\[[^\]]+\]|.", translate, part)
