"""What people ask for most, each in a few lines: `python examples/recipes.py [name ...]`.

    pip install -e '.[examples]'    # in a clone; `go_on_from_optax` wants optax besides
    python examples/recipes.py                    # all of them
    python examples/recipes.py accumulate_gradients

Every recipe is one function, most of them one expression for `optimizer`; what it prints is
what shows that it works. All of them train the network below on the handwritten digits that
scikit-learn ships.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import optimjax as ox

try:
    from rich.console import Console
    from rich.table import Table
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit(
        f"{error.name} is missing; get it with: pip install -e '.[examples]' in a clone"
    ) from None

RECIPES = {}


def recipe(function):
    RECIPES[function.__name__] = function
    return function


# What is trained: two hidden layers with a scale behind each, and a head.

pixels, digits = load_digits(return_X_y=True)
images, labels = jnp.asarray(pixels, jnp.float32) / 16.0, jnp.asarray(digits)
train_set = images[:1400], labels[:1400]
test_set = images[1400:], labels[1400:]


def network(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    sizes = [(64, 64), (64, 64), (64, 10)]
    kernels = [jax.random.normal(k, s) / 8.0 for k, s in zip(keys, sizes, strict=True)]
    layers = [
        {"kernel": k, "bias": jnp.zeros(64), "norm": {"scale": jnp.ones(64)}}
        for k in kernels[:2]
    ]
    return {"layers": layers, "head": {"kernel": kernels[2], "bias": jnp.zeros(10)}}


def logits(params, x):
    for layer in params["layers"]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"]) * layer["norm"]["scale"]
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def loss(params, batch):
    x, y = batch
    return -jnp.mean(jax.nn.log_softmax(logits(params, x))[jnp.arange(len(y)), y])


def batch_at(i, size=100):
    return tuple(jax.lax.dynamic_slice_in_dim(a, i * size % 1400, size) for a in train_set)


def accuracy(params):
    return float(jnp.mean(jnp.argmax(logits(params, test_set[0]), -1) == test_set[1]))


def train(optimizer, params=None, state=None, steps=100, begin=0):
    """A hundred steps, compiled as one loop; returns the params and the state."""
    params = network() if params is None else params
    state = optimizer.init(params) if state is None else state
    return run(optimizer, params, state, begin, begin + steps)


@functools.partial(jax.jit, static_argnums=0)
def run(optimizer, params, state, begin, end):
    def step(i, carry):
        params, state = carry
        grads = jax.grad(loss)(params, batch_at(i))
        updates, state = optimizer.update(grads, state, params)
        return ox.apply_updates(params, updates), state

    return jax.lax.fori_loop(begin, end, step, (params, state))


# The recipes.


@recipe
def different_rates_per_layer():
    optimizer = ox.partition({"head/*": ox.adam(1e-2), "**": ox.adam(1e-3)})
    params, state = train(optimizer)
    sizes = {k: len(jax.tree.leaves(v)) for k, v in state.inner_states.items()}
    there = ", ".join(f"{k}: {size}" for k, size in sizes.items())
    return f"accuracy {accuracy(params):.3f}; arrays of state for {there}"


@recipe
def layerwise_learning_rate_decay():
    rates = {"layers/0/**": 0.81, "layers/1/**": 0.9, "**": 1.0}
    optimizer = ox.chain(
        ox.adamw(3e-3), ox.partition({k: ox.scale(rate) for k, rate in rates.items()})
    )
    params, _ = train(optimizer)
    return f"accuracy {accuracy(params):.3f}"


@recipe
def no_decay_on_biases_and_norms():
    optimizer = ox.adamw(3e-3, weight_decay=0.1, mask=["!**/bias", "!**/norm/*"])
    params, _ = train(optimizer)
    return f"accuracy {accuracy(params):.3f}"


@recipe
def freeze_then_thaw():
    thawed = ox.conditionally_mask(ox.adam(3e-3), lambda step: step >= 50)
    optimizer = ox.partition({"layers/**": thawed, "**": ox.adam(3e-3)})
    start = network()
    half, state = train(optimizer, start, steps=50)
    whole, _ = train(optimizer, half, state, steps=50, begin=50)
    moved = [float(ox.tree.norm(ox.tree.sub(p, start)["layers"])) for p in (half, whole)]
    return f"the layers have moved by {moved[0]:.1f} after 50 steps, {moved[1]:.1f} at last"


@recipe
def log_the_learning_rate():
    rate = ox.warmup_cosine_decay_schedule(0.0, 1e-2, warmup_steps=20, decay_steps=100)
    optimizer = ox.measure(ox.adam(rate), "learning_rate", "gradient_norm", "cosine")
    params, state, lines = network(), None, []
    for i in range(0, 100, 25):
        params, state = train(optimizer, params, state, steps=25, begin=i)
        line = {name: f"{value:.2g}" for name, value in ox.get_measures(state).items()}
        lines.append(" ".join(f"{k}={v}" for k, v in line.items()))
    return "\n".join(lines)


@recipe
def change_the_learning_rate_by_hand():
    optimizer = ox.inject_hyperparams(ox.adam)(learning_rate=1e-2)
    params, state = train(optimizer, steps=50)
    state = ox.set_hyperparams(state, learning_rate=1e-3)  # Nothing is compiled anew.
    params, state = train(optimizer, params, state, steps=50, begin=50)
    rate = ox.get_hyperparams(state)["learning_rate"]
    return f"accuracy {accuracy(params):.3f} at a rate of {rate:.0e}"


@recipe
def accumulate_gradients():
    optimizer = ox.accumulate(ox.adam(1e-2), 4)
    params, state = train(optimizer)
    return f"accuracy {accuracy(params):.3f} after {state.gradient_step} steps of 4 batches"


@recipe
def clip_then_decay():
    optimizer = ox.chain(ox.clip_by_global_norm(1.0), ox.adamw(1e-2, weight_decay=0.1))
    params, _ = train(optimizer)
    return f"accuracy {accuracy(params):.3f}"


@recipe
def evaluate_an_average():
    optimizer = ox.average_params(ox.adam(2e-2), 0.95)
    params, state = train(optimizer)
    averaged = ox.eval_params(state, params)
    return f"accuracy {accuracy(params):.3f}, of the average {accuracy(averaged):.3f}"


@recipe
def resume_from_a_checkpoint():
    import orbax.checkpoint as ocp

    optimizer = ox.adam(1e-2)
    straight, _ = train(optimizer)
    halfway = train(optimizer, steps=50)
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as files:
        files.save(Path(folder) / "step_50", halfway)
        files.wait_until_finished()
        shapes = jax.eval_shape(lambda p: (p, optimizer.init(p)), network())
        params, state = files.restore(Path(folder) / "step_50", shapes)
    resumed, _ = train(optimizer, params, state, steps=50, begin=50)
    same = all(map(jnp.array_equal, jax.tree.leaves(resumed), jax.tree.leaves(straight)))
    return f"bit for bit as if it had not been stopped: {same}"


@recipe
def keep_the_state_in_one_file():
    optimizer = ox.adam(1e-2)
    straight, _ = train(optimizer)
    params, state = train(optimizer, steps=50)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "state.npz", **ox.state_to_dict(state))
        with np.load(Path(folder) / "state.npz") as stored:  # In another process, perhaps.
            state = ox.state_from_dict(stored, optimizer.init(params))
    resumed, _ = train(optimizer, params, state, steps=50, begin=50)
    same = all(map(jnp.array_equal, jax.tree.leaves(resumed), jax.tree.leaves(straight)))
    return f"bit for bit as if it had not been stopped: {same}"


@recipe
def go_on_from_optax():
    import optax

    rate = ox.cosine_decay_schedule(1e-2, 100)
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
    ours = ox.chain(ox.clip_by_global_norm(1.0), ox.adamw(rate))
    straight, _ = train(theirs)
    params, state = train(theirs, steps=50)
    state = ox.porting.from_optax(ours, params, state)
    params, _ = train(ours, params, state, steps=50, begin=50)
    apart = ox.tree.max(jax.tree.map(lambda a, b: jnp.abs(a - b), params, straight))
    return f"as far as Optax's own way: {float(apart):.0e} apart after 50 more steps"


@recipe
def leave_out_bad_steps():
    guarded = ox.skip_spikes(ox.adam(1e-2), ox.beyond_quantile(0.9, 5.0))
    optimizer = ox.apply_if_finite(guarded, max_consecutive_errors=5)
    params = network()
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, factor, i):
        grads = jax.grad(loss)(params, batch_at(i))
        updates, state = optimizer.update(ox.tree.scale(factor, grads), state, params)
        return ox.apply_updates(params, updates), state

    for i in range(100):  # Every 30th gradient is a thousand times too long, or NaN.
        factor = {29: 1e3, 59: jnp.nan, 89: jnp.inf}.get(i, 1.0)
        params, state = step(params, state, factor, i)
        if state.gave_up:
            raise FloatingPointError("five gradients in a row were not finite")
    bad, spikes = state.total_notfinite, state.inner_state.total_skipped
    return f"accuracy {accuracy(params):.3f}; left out: {bad} not finite, {spikes} too long"


@recipe
def train_in_float16():
    optimizer = ox.dynamic_loss_scaling(ox.adam(1e-2), 2.0**20)
    params = network()
    state = optimizer.init(params)

    def scaled(params, batch, scale):
        half = ox.tree.cast(params, jnp.float16)
        half_batch = batch[0].astype(jnp.float16), batch[1]
        return loss(half, half_batch).astype(jnp.float32) * scale

    @jax.jit
    def step(params, state, i):
        grads = jax.grad(scaled)(params, batch_at(i), ox.loss_scale(state))
        updates, state = optimizer.update(grads, state, params)
        return ox.apply_updates(params, updates), state

    for i in range(100):
        params, state = step(params, state, i)
    left_out, scale = int(state.total_notfinite), float(state.scale)
    return f"accuracy {accuracy(params):.3f}; {left_out} steps left out, scale {scale:.0f}"


@recipe
def train_in_bfloat16():
    start = ox.tree.cast(network(), jnp.bfloat16)
    plain, _ = train(ox.adam(1e-3), start)
    exact, _ = train(ox.master_weights(ox.adam(1e-3)), start)
    summed, _ = train(ox.kahan_summation(ox.adam(1e-3)), start)
    told = [f"{float(loss(p, test_set)):.3f}" for p in (plain, exact, summed)]
    return "loss {}; {} with master weights, {} with Kahan's sum".format(*told)


@recipe
def look_for_flat_minima():
    optimizer = ox.sam(ox.adam(1e-2), rho=0.05)
    params = network()
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, i):
        def grad_fn(p):
            return jax.grad(loss)(p, batch_at(i))

        grads = grad_fn(params)
        updates, state = optimizer.update(grads, state, params, grad_fn=grad_fn)
        return ox.apply_updates(params, updates), state

    for i in range(100):
        params, state = step(params, state, i)
    return f"accuracy {accuracy(params):.3f}"


@recipe
def train_with_privacy():
    optimizer = ox.adam(1e-2)
    params = network()
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, i):
        one = jax.tree.map(lambda x: x[:, None], batch_at(i))  # Batches of one example.
        grads = jax.vmap(jax.grad(loss), (None, 0))(params, one)
        noisy = ox.private_gradients(grads, 1.0, 0.5, jax.random.key(i))
        updates, state = optimizer.update(noisy, state, params)
        return ox.apply_updates(params, updates), state

    for i in range(100):
        params, state = step(params, state, i)
    return f"accuracy {accuracy(params):.3f} with gradients clipped to 1 and noise of 0.5"


@recipe
def constrain_one_layer():
    shares = ox.project(ox.projections.projection_non_negative)
    optimizer = ox.chain(ox.adam(1e-2), ox.masked(shares, "head/kernel"))
    params, _ = train(optimizer)
    return f"accuracy {accuracy(params):.3f}, least {params['head']['kernel'].min():.1f}"


@recipe
def sweep_with_vmap():
    optimizer = ox.inject_hyperparams(ox.adam)(learning_rate=0.0)
    rates = jnp.geomspace(1e-4, 1.0, 9)

    def final(rate):
        params = network()
        state = ox.set_hyperparams(optimizer.init(params), learning_rate=rate)
        params, _ = train(optimizer, params, state)
        return loss(params, test_set)

    losses = jax.vmap(final)(rates)
    best = int(jnp.nanargmin(losses))
    return f"of 9 rates in one program, {rates[best]:.0e} is best: {losses[best]:.2f}"


@recipe
def tune_by_hypergradients():
    optimizer = ox.inject_hyperparams(ox.sgd)(learning_rate=0.0)

    @jax.jit
    @jax.value_and_grad
    def final(log_rate):
        params = network()
        state = ox.set_hyperparams(optimizer.init(params), learning_rate=jnp.exp(log_rate))

        def step(carry, i):
            params, state = carry
            grads = jax.grad(loss)(params, batch_at(i))
            updates, state = optimizer.update(grads, state, params)
            return (ox.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, state), jnp.arange(20))
        return loss(params, test_set)

    tuner = ox.adam(0.3)  # An optimizer for the logarithm of the other one's rate.
    log_rate = jnp.log(1e-3)
    state, losses = tuner.init(log_rate), []
    for _ in range(15):
        value, slope = final(log_rate)
        losses.append(float(value))
        updates, state = tuner.update(slope, state, log_rate)
        log_rate = ox.apply_updates(log_rate, updates)
    return (
        f"loss after 20 steps of SGD: {losses[0]:.2f} at a rate of 0.001, "
        f"{losses[-1]:.2f} at {float(jnp.exp(log_rate)):.2f}"
    )


def main():
    parser = argparse.ArgumentParser(description="What people ask for most.")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(RECIPES))
    names = parser.parse_args().names or list(RECIPES)
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        parser.error(f"no recipe {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    table = Table("recipe", "what came of it")
    console = Console()
    for name in names:
        with console.status(name):
            try:
                table.add_row(name, RECIPES[name]())
            except ImportError as error:
                table.add_row(name, f"needs {error.name}: pip install {error.name}")
    console.print(table)


if __name__ == "__main__":
    main()
