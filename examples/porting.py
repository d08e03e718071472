"""A training that begins in PyTorch and goes on here: `python examples/porting.py`.

    pip install -e '.[examples]' torch    # in a clone; a CPU build of torch is enough

A small network learns the handwritten digits of scikit-learn by AdamW, with weight decay on
the weights alone, clipping, and a rate that falls. After 100 steps its parameters and the
state of its optimizer are brought over. Both go on, and stay together.
"""

import jax
import jax.numpy as jnp
import numpy as np

import optimjax as ox

try:
    import torch  # pyright: ignore[reportMissingImports]
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit(
        f"{error.name} is missing; get it with: pip install -e '.[examples]' torch"
    ) from None

STEPS, MORE = 100, 100
pixels, digits = load_digits(return_X_y=True)
images = np.float32(pixels[:1600] / 16.0).reshape(-1, 100, 64)
labels = np.int64(digits[:1600]).reshape(-1, 100)

# There.

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10)
)
named = list(model.named_parameters())
theirs = torch.optim.AdamW(
    [
        {"params": [(n, p) for n, p in named if p.ndim > 1], "weight_decay": 0.1},
        {"params": [(n, p) for n, p in named if p.ndim == 1], "weight_decay": 0.0},
    ],
    lr=1e-2,
)
falling = torch.optim.lr_scheduler.ExponentialLR(theirs, 0.99)


def step_of_torch(i):
    theirs.zero_grad()
    x, y = (torch.from_numpy(a[i % len(a)]) for a in (images, labels))
    value = torch.nn.functional.cross_entropy(model(x), y)
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    theirs.step()
    falling.step()
    return value.item()


# Here: weights are (inputs, outputs), those of torch the other way round.


def place(name):
    layer, kind = name.split(".")
    layer = {"0": "hidden", "2": "head"}[layer]
    return (f"{layer}/kernel", (1, 0)) if kind == "weight" else f"{layer}/bias"


def loss(params, x, y):
    x = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    x = x @ params["head"]["kernel"] + params["head"]["bias"]
    return -jnp.mean(jax.nn.log_softmax(x)[jnp.arange(len(y)), y])


for i in range(STEPS):
    step_of_torch(i)

shapes = {
    "hidden": {"kernel": jnp.zeros((64, 32)), "bias": jnp.zeros(32)},
    "head": {"kernel": jnp.zeros((32, 10)), "bias": jnp.zeros(10)},
}
saved = theirs.state_dict()
params = ox.porting.params_from_torch(shapes, model.state_dict(), place)
optimizer = ox.chain(
    ox.clip_by_global_norm(1.0, eps=1e-6),
    # The rate of a scheduler is a function of the step; the rest is in the groups, of which
    # torch 2.6 knows the names of the parameters.
    ox.porting.like_torch(
        "AdamW", saved, places=place, lr=ox.exponential_decay(1e-2, 1, 0.99)
    ),
)
state = ox.porting.from_torch(optimizer, params, saved, places=place)


@jax.jit
def step(params, state, x, y):
    value, grads = jax.value_and_grad(loss)(params, x, y)
    updates, state = optimizer.update(grads, state, params)
    return ox.apply_updates(params, updates), state, value


print("  step     torch      here")
for i in range(STEPS, STEPS + MORE):
    there = step_of_torch(i)
    batch = images[i % len(images)], np.int32(labels[i % len(labels)])
    params, state, here = step(params, state, *batch)
    if (i + 1) % 20 == 0:
        print(f"{i + 1:6d}  {there:.6f}  {float(here):.6f}")

after = ox.porting.params_from_torch(shapes, model.state_dict(), place)
apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), params, after)
print(f"largest difference of a parameter: {max(jax.tree.leaves(apart)):.1e}")
