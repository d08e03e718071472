"""Several workers: on devices of their own, and what crosses the link between them."""

import math
import re

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

AXIS = "workers"
BYTES = {"f32": 4, "f64": 8, "s32": 4, "u8": 1, "s8": 1, "pred": 1, "bf16": 2, "u32": 4}
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def on_devices(f, workers=8, jit=True):
    """`f` as it is under `vmap(f, axis_name=AXIS)`, each member on a device of its own."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:workers]), (AXIS,))

    def one(*args):
        out = f(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], out)

    mapped = jax.shard_map(one, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS))
    return jax.jit(mapped) if jit else mapped


def together(f):
    """`f` under `vmap`, all members on one device."""
    return jax.jit(jax.vmap(f, axis_name=AXIS))


def collectives(text):
    """The bytes that each collective of a compiled program gives, with its computation."""
    where = None
    for line in text.splitlines():
        if line and not line[0].isspace() and "{" in line:
            where = line.split()[0]
        found = re.search(rf"= (.*?) ({COLLECTIVES})(?:-start)?\(", line)
        if found:
            arrays = re.findall(r"(\w+)\[([\d,]*)\]", found[1])
            sizes = [
                BYTES[kind] * math.prod(map(int, filter(None, dims.split(","))))
                for kind, dims in arrays
            ]
            yield where, found[2], sum(sizes)
