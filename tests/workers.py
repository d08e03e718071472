"""Several workers: on devices of their own, and what crosses the link between them."""

import math
import re

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

AXIS = "workers"
BYTES = {"f32": 4, "f64": 8, "s32": 4, "u8": 1, "s8": 1, "pred": 1, "bf16": 2, "u32": 4}
BYTES |= {"f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8}
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


def bytes_of(result):
    """Of the arrays that an instruction gives, as they stand in the text of a program."""
    return sum(
        BYTES[kind] * math.prod(map(int, filter(None, dims.split(","))))
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", result)
    )


def collectives(text):
    """The bytes that each collective of a compiled program gives, with its computation."""
    where = None
    for line in text.splitlines():
        if line and not line[0].isspace() and "{" in line:
            where = line.split()[0]
        found = re.search(rf"= (.*?) ({COLLECTIVES})(?:-start)?\(", line)
        if found:
            yield where, found[2], bytes_of(found[1])


def traffic(text, devices):
    """What a device sends in a run of a compiled program: on a ring, in bytes.

    Loops count as often as they run. Of the branches of a conditional all count, since no
    program says which is taken: the most that is sent.
    """
    lines, where = {}, ""
    for line in text.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith("{"):
            where = line.split()[line.startswith("ENTRY")].lstrip("%")
            start = where if line.startswith("ENTRY") else ""
            lines[where], lines["ENTRY"] = [], lines.get("ENTRY") or start
        elif where:
            lines[where].append(line)

    def sent(line):
        found = re.search(rf"= (.*?) ({COLLECTIVES})(?:-start)?\(", line)
        if not found:
            return 0
        groups = re.search(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+))", line)
        n = devices
        if groups:
            n = int(groups[1]) if groups[1] else len(groups[2].split(","))
        size = bytes_of(found[1])
        of_result = {
            "all-gather": (n - 1) / n,
            "all-reduce": 2 * (n - 1) / n,
            "all-to-all": (n - 1) / n,
            "reduce-scatter": n - 1,
            "collective-permute": 1,
        }
        return of_result[found[2]] * size

    def run(name):
        total = 0
        for line in lines[name]:
            total += sent(line)
            called = re.findall(r"(?:body|to_apply|_computation)=%?([\w.\-]+)", line)
            branches = re.search(r"branch_computations=\{(.*?)\}", line)
            if branches:
                called += [x.strip().lstrip("%") for x in branches[1].split(",")]
            if re.search(r" (while|call|conditional)\(", line):
                inside = sum(map(run, called))
                times = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                if times:
                    inside *= int(times[1])
                elif inside and " while(" in line:
                    raise ValueError(f"How often does it run, and send? {line}")
                total += inside
        return total

    return run(lines["ENTRY"])
