"""Branches of one program, of which one is run."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax


def cond(pred: Any, run: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`run()` where `pred` holds, else `otherwise()`: `lax.cond`, in a `shard_map` too."""
    return jax.lax.cond(pred, *_alike(run, otherwise))


def _alike(*branches: Callable[[], Any]) -> Sequence[Callable[[], Any]]:
    """Branches for `lax.cond` that differ in the axes of a mesh they vary along.

    Inside of a `shard_map`, an output must vary along the same axes in all; a stage that
    takes the mean over devices, for one, varies along fewer than what it is given.
    """
    if not inside_shard_map():
        return branches
    axes: list[Any] = []

    def look(branch: Callable[[], Any]) -> Any:
        out = branch()
        axes.append(jax.tree.map(_varies_along, out))
        return out

    for branch in branches:
        jax.eval_shape(functools.partial(look, branch))
    union = jax.tree.map(frozenset.union, *axes)
    return [lambda b=b: jax.tree.map(_varying_along, b(), union) for b in branches]


def inside_shard_map() -> bool:
    """Whether this is traced for each device by itself."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def _varies_along(x: Any) -> frozenset[str]:
    kind: Any = jax.typeof(x)  # JAX has renamed this, and what `_varying_along` calls.
    return kind.vma if hasattr(kind, "vma") else kind.mat.varying


def _varying_along(x: Any, axes: frozenset[str]) -> Any:
    more = tuple(axes - _varies_along(x))
    if not more:
        return x
    lax: Any = jax.lax
    return lax.pcast(x, more, to="varying") if hasattr(lax, "pcast") else lax.pvary(x, more)
