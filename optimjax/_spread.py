"""Stacks of matrices that are divided among devices, while somebody asks for it.

Nobody does but `spread_matrices`: it lays matrices together into stacks, with a tree of
`{"others": ..., "stacks": {...}}` for what it holds, and rules for matrices ask here.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

STACKS = "stacks"


class Over(NamedTuple):
    """The devices that stacks are divided among, along their first axis."""

    mesh: Mesh
    axis: str


class _Asked(threading.local):
    over: Over | None = None


_asked = _Asked()


def over() -> Over | None:
    """The devices, if there are stacks; else None."""
    return _asked.over


@contextlib.contextmanager
def stacked(devices: Over) -> Iterator[None]:
    """Inside, trees hold stacks that are divided among the devices."""
    before, _asked.over = _asked.over, devices
    try:
        yield
    finally:
        _asked.over = before


def divided(
    rule: Callable[..., Any], devices: Over | None, *stacks: Any, **scalars: Any
) -> Any:
    """`rule(*stacks, **scalars)`, for which each device has its part of the stacks."""
    if devices is None:
        return rule(*stacks, **scalars)
    shared = {k: x for k, x in scalars.items() if isinstance(x, jax.Array)}
    fixed = {k: x for k, x in scalars.items() if k not in shared}
    part, whole = PartitionSpec(devices.axis), PartitionSpec()

    def mine(stacks: Any, shared: Any) -> Any:
        return rule(*stacks, **shared, **fixed)

    return jax.shard_map(
        mine,
        mesh=devices.mesh,
        in_specs=(part, whole),
        out_specs=part,
        check_vma=False,  # Nothing here depends on the device but the parts.
    )(stacks, shared)


def put(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    """`x`, divided among devices like that."""
    kinds = getattr(sharding.mesh, "axis_types", None) or ()
    explicit = any(str(kind).endswith("Explicit") for kind in kinds)
    reshard: Any = jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint
    return reshard(x, sharding)
