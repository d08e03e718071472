"""Fit a swinging pendulum: its amplitude, damping and frequency, from noisy positions.

Run it with `python quickstart.py`.
"""

import jax
import jax.numpy as jnp

import optimjax as ox


def swing(params, t):
    fading = jnp.exp(-params["damping"] * t)
    return params["amplitude"] * fading * jnp.cos(params["frequency"] * t)


truth = {"amplitude": 1.5, "damping": 0.3, "frequency": 2.0}
times = jnp.linspace(0.0, 8.0, 200)
noise = 0.02 * jax.random.normal(jax.random.key(0), times.shape)
measured = swing(truth, times) + noise


def loss(params):
    return jnp.mean((swing(params, times) - measured) ** 2)


rate = ox.warmup_cosine_decay_schedule(0.0, 0.05, warmup_steps=20, decay_steps=200)
optimizer = ox.chain(ox.clip_by_global_norm(1.0), ox.adam(rate))

params = {name: jnp.array(1.0) for name in truth}  # A guess for each.
state = optimizer.init(params)


@jax.jit
def step(params, state):
    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state, params)
    return ox.apply_updates(params, updates), state, value


for i in range(200):
    params, state, value = step(params, state)
    if i % 40 == 0:
        print(f"step {i:3}  loss {value:.4f}")

print(f"step 200  loss {loss(params):.4f}  (the noise alone: {jnp.mean(noise**2):.4f})")
for name, value in params.items():
    print(f"{name:9}  found {value:.3f}  true {truth[name]:.3f}")
