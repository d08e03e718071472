"""Fit a swinging pendulum from noisy positions: `python examples/quickstart.py`."""

import jax
import jax.numpy as jnp

import optimjax as ox

truth = {"amplitude": 1.5, "damping": 0.3, "frequency": 2.0}
times = jnp.linspace(0.0, 8.0, 200)


def swing(params):
    fading = params["amplitude"] * jnp.exp(-params["damping"] * times)
    return fading * jnp.cos(params["frequency"] * times)


measured = swing(truth) + 0.02 * jax.random.normal(jax.random.key(0), times.shape)


def loss(params):
    return jnp.mean((swing(params) - measured) ** 2)


rate = ox.warmup_cosine_decay_schedule(0.0, 0.05, warmup_steps=20, decay_steps=200)
optimizer = ox.chain(ox.clip_by_global_norm(1.0), ox.adam(rate))
params = {name: jnp.array(1.0) for name in truth}  # A guess for each.
state = optimizer.init(params)


@jax.jit
def step(params, state):
    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return ox.apply_updates(params, updates), state


for i in range(201):
    if i % 40 == 0:
        print(f"step {i:3}  loss {loss(params):.4f}")
    params, state = step(params, state)

print("found", {name: round(float(value), 2) for name, value in params.items()})
