"""Combinators inside of `shard_map`, and sharded parameters, in a process of their own.

Each device has two of eight examples. The mean over devices is taken before the
combinator, inside of it, or not at all; every time the same as without devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import optimjax as ox

OPTIMIZER = ox.sgd(0.1, momentum=0.9)
COMBINATORS = {
    "accumulate": lambda tx: ox.accumulate(tx, 2),
    "conditionally_mask": lambda tx: ox.conditionally_mask(tx, ox.every(2)),
    "apply_if_finite": lambda tx: ox.apply_if_finite(tx, 3),
    "skip_spikes": lambda tx: ox.skip_spikes(tx, ox.beyond_quantile(0.5, 1.0), warmup=2),
    "dynamic_loss_scaling": lambda tx: ox.dynamic_loss_scaling(tx, 4.0),
    "measure": lambda tx: ox.measure(ox.accumulate(tx, 2), "learning_rate", "cosine"),
}


def mean_over_devices(tree):
    return jax.tree.map(lambda x: jax.lax.pmean(x, "devices"), tree)


def train(tx, batches, before=lambda g: g):
    """The params after some steps; a gradient is the mean of a batch."""
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    for batch in batches:
        updates, state = tx.update(before({"w": batch.mean(axis=0)}), state, params)
        params = ox.apply_updates(params, updates)
    return params


# With one distance for parameters that no device has all of.
TUNERS = [
    ox.dog(init_step=("distance", 0.1)),
    ox.dog(init_step=("distance", 0.1), layerwise=True),
    ox.prodigy(estim_lr0=0.1),
]


def descend(tx, params):
    state = tx.init(params)
    for _ in range(4):
        updates, state = tx.update(params, state, params)
        params = ox.apply_updates(params, updates)
    return params


def main():
    assert jax.device_count() == 4
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))
    split, whole = P(None, "devices"), P()
    batches = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 3)), jnp.float32)
    average = ox.stateless(lambda updates, params: mean_over_devices(updates))

    def on_devices(f, out):
        return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=split, out_specs=out))

    for name, make in COMBINATORS.items():
        tx = make(OPTIMIZER)
        alone = jax.jit(functools.partial(train, tx))
        before = on_devices(functools.partial(train, tx, before=mean_over_devices), whole)(
            batches
        )
        ways = [(before, batches)]
        if name in ("accumulate", "conditionally_mask", "measure"):
            # A guard must see the mean: devices have to decide alike.
            inside = make(ox.chain(average, OPTIMIZER))
            ways.append(
                (on_devices(functools.partial(train, inside), whole)(batches), batches)
            )
        each = on_devices(lambda b, tx=tx: train(tx, b)["w"][None], P("devices"))(batches)
        ways += [({"w": each[i]}, batches[:, 2 * i : 2 * i + 2]) for i in range(4)]
        for got, given in ways:
            np.testing.assert_allclose(got["w"], alone(given)["w"], rtol=2e-5, atol=1e-6)
        print(name)
    for tx in TUNERS:
        params = {"w": jnp.linspace(-1.0, 2.0, 8), "b": jnp.ones(3)}
        shards = jax.sharding.NamedSharding(mesh, P("devices"))
        sharded = {"w": jax.device_put(params["w"], shards), "b": params["b"]}
        got, want = jax.jit(functools.partial(descend, tx))(sharded), descend(tx, params)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5), got, want)


if __name__ == "__main__":
    main()
