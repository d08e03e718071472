"""Choose an optimizer and its hyperparameters for a network: `ox.sweep` on real digits.

    pip install -e '.[examples]'    # in a clone
    python sweep.py
    python sweep.py --optimizers sgd lion --steps 45 --seeds 3 --out small.png

Four optimizers, each with 18 settings and 8 seeds, learn the handwritten digits that
scikit-learn ships. After a ninth and after a third of the steps, the better third of the
settings goes on; those that are left are trained once more with fresh seeds, and compared.
It prints a table, says which differences may be luck, and draws a picture.
"""

import argparse

import jax
import jax.numpy as jnp

import optimjax as ox

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ImportError as error:
    raise SystemExit(
        f"{error.name} is missing; get it with: pip install -e '.[examples]' in a clone"
    ) from None

HIDDEN = 32


def load_data():
    """Images and labels to train on, and others to validate on."""
    pixels, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels / 16, labels, test_size=0.25, stratify=labels, random_state=0
    )
    return tuple(
        (jnp.float32(x), jnp.int32(y)) for x, y in ((train_x, train_y), (test_x, test_y))
    )


def init(key):
    first, second = jax.random.split(key)
    normal = jax.nn.initializers.he_normal()
    return {
        "hidden": {"kernel": normal(first, (64, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
        "head": {"kernel": normal(second, (HIDDEN, 10)), "bias": jnp.zeros(10)},
    }


def loss(params, batch):
    """Cross-entropy."""
    x, labels = batch
    hidden, head = params["hidden"], params["head"]
    x = jax.nn.relu(x @ hidden["kernel"] + hidden["bias"])
    log_p = jax.nn.log_softmax(x @ head["kernel"] + head["bias"])
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


# A name, a factory, and what its arguments may be. Any function that returns an optimizer
# is a factory: here, one with weight decay on the kernels alone.
def adamw(learning_rate, weight_decay):
    return ox.adamw(learning_rate, weight_decay=weight_decay, mask="**/kernel")


OPTIMIZERS = {
    "sgd": (
        ox.sgd,
        {"learning_rate": ox.log_uniform(1e-3, 10.0), "momentum": [0.0, 0.9]},
    ),
    "adamw": (
        adamw,
        {"learning_rate": ox.log_uniform(1e-4, 1.0), "weight_decay": [0.0, 0.1]},
    ),
    "lion": (
        ox.lion,
        {"learning_rate": ox.log_uniform(1e-5, 1e-1), "b1": [0.9, 0.95]},
    ),
    "schedule_free": (
        ox.schedule_free_adamw,
        {"learning_rate": ox.log_uniform(1e-4, 1.0), "b1": [0.9, 0.95]},
    ),
}


def main():
    parser = argparse.ArgumentParser(description="Sweeps over optimizers on digits.")
    names = list(OPTIMIZERS)
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--candidates", type=int, default=18, help="of each optimizer")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", default="sweep.png", help="where the picture goes")
    arguments = parser.parse_args()
    training, held_out = load_data()
    result = ox.sweep(
        loss,
        init,
        {name: OPTIMIZERS[name] for name in arguments.optimizers},
        data=training,
        batch_size=64,
        validation=held_out,
        steps=arguments.steps,
        candidates=arguments.candidates,
        seeds=arguments.seeds,
    )
    print(result)
    print(f"\nTo use it: result.best(), which is {result.best()}")
    result.plot(arguments.out)
    print(f"Picture: {arguments.out}")


if __name__ == "__main__":
    main()
