"""What several workers do together, along an axis that has a name."""

from typing import Annotated, Any, TypeAlias

import jax

from ._checks import Checked


def _checked_axis_name(value: Any, where: str) -> Any:
    names = value if isinstance(value, tuple) and value else (value,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"{where} must be the name of an axis of `vmap`, `pmap` or `shard_map`, or a "
            f"tuple of such names, but got {value!r}."
        )
    return value


AxisName: TypeAlias = Annotated[str | tuple[str, ...], Checked(_checked_axis_name)]


def mean(tree: Any, axis_name: AxisName | None) -> Any:
    """The mean over workers; without a name there is one worker."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def gathered(tree: Any, axis_name: AxisName | None) -> Any:
    """What all workers have, one behind another along a new first axis."""
    if axis_name is None:
        return jax.tree.map(lambda x: x[None], tree)
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name), tree)
