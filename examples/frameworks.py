"""One optimizer in Flax NNX, Flax Linen, Equinox, and plain JAX.

    pip install -e '.[examples]' flax equinox    # in a clone
    python frameworks.py
    python frameworks.py equinox jax

The same small network learns a sine; each function is a whole training run, from the model
to the last step. What is not installed is left out, and said.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp

import optimjax as ox

WIDTH, STEPS = 32, 400
X = jnp.linspace(-3.0, 3.0, 128)[:, None]
Y = jnp.sin(X)
# Weight decay for matrices, not for biases, whatever a framework calls them.
OPTIMIZER: Any = ox.chain(  # `Any`: Flax asks type checkers for the pair of Optax.
    ox.clip_by_global_norm(1.0),
    ox.adamw(
        ox.cosine_decay_schedule(1e-2, STEPS),
        weight_decay=1e-4,
        mask=lambda path, leaf: leaf.ndim > 1,
    ),
)


def flax_nnx():
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(1, WIDTH, rngs=rngs)
            self.head = nnx.Linear(WIDTH, 1, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.tanh(self.hidden(x)))

    def loss(model):
        return jnp.mean((model(X) - Y) ** 2)

    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(STEPS):
        step(model, optimizer)
    return loss(model)


def flax_linen():
    from flax import linen
    from flax.training.train_state import TrainState

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(linen.tanh(linen.Dense(WIDTH)(x)))

    model = Network()
    state = TrainState.create(
        apply_fn=model.apply, params=model.init(jax.random.key(0), X), tx=OPTIMIZER
    )

    def loss(params):
        return jnp.mean((state.apply_fn(params, X) - Y) ** 2)

    @jax.jit
    def step(state):
        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    for _ in range(STEPS):
        state = step(state)
    return loss(state.params)


def equinox():
    import equinox as eqx

    model = eqx.nn.MLP(1, 1, WIDTH, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    state = OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))

    def loss(model):
        return jnp.mean((jax.vmap(model)(X) - Y) ** 2)

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(loss)(model)
        updates, state = OPTIMIZER.update(
            grads, state, eqx.filter(model, eqx.is_inexact_array)
        )
        return eqx.apply_updates(model, updates), state

    for _ in range(STEPS):
        model, state = step(model, state)
    return loss(model)


def plain_jax():
    """All steps are one compiled loop."""
    first, second = jax.random.split(jax.random.key(0))
    params = {
        "hidden": {
            "kernel": jax.random.normal(first, (1, WIDTH)),
            "bias": jnp.zeros(WIDTH),
        },
        "head": {"kernel": jax.random.normal(second, (WIDTH, 1)) / WIDTH**0.5},
    }

    def loss(params):
        hidden = jnp.tanh(X @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
        return jnp.mean((hidden @ params["head"]["kernel"] - Y) ** 2)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = OPTIMIZER.update(grads, state, params)
        return (ox.apply_updates(params, updates), state), value

    @jax.jit
    def train(params):
        return jax.lax.scan(step, (params, OPTIMIZER.init(params)), length=STEPS)

    _, values = train(params)
    return values[-1]


FRAMEWORKS = {"nnx": flax_nnx, "linen": flax_linen, "equinox": equinox, "jax": plain_jax}


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("frameworks", nargs="*", metavar="framework", help="which; all")
    args = parser.parse_args()
    for name in args.frameworks or FRAMEWORKS:
        if name not in FRAMEWORKS:
            parser.error(f"there is no {name!r}; there are {', '.join(FRAMEWORKS)}")
        try:
            print(f"{name:8} loss {FRAMEWORKS[name]():.5f}")
        except ImportError as error:
            package = str(error.name).partition(".")[0]
            print(f"{name:8} needs {package}: pip install {package}")


if __name__ == "__main__":
    main()
