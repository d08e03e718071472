"""A fixed set of small problems, and the rates that tune themselves on them.

Used by `test_tuning.py` and by the table of `benchmarks/tuning.py`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optimjax as ox

SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something to minimise.

    Attributes:
        params: Where to start.
        loss: `loss(params, draw)`: of a batch, or with noise in the gradient.
        judge: `judge(params)`, without noise: less the optimum, where that is known.
        draws: What is random, for each seed and step.
    """

    params: Any
    loss: Callable[[Any, Any], jax.Array]
    judge: Callable[[Any], jax.Array]
    draws: Any

    @property
    def steps(self):
        return self.draws.shape[1]


def drawn(seed=0):
    return np.random.default_rng(seed)


def noisy(f, start, sigma, steps):
    """Of `f(x)`, whose gradient has noise of size `sigma` in each number."""
    noise = np.float32(sigma * drawn(1).normal(size=(SEEDS, steps, *start.shape)))
    return Problem(start, lambda x, slope: f(x) + jnp.sum(slope * x), f, noise)


def batched(loss, params, xs, ys, size, steps, optimum=0.0):
    """Of `loss(params, xs, ys)`, in batches of `size`."""
    batches = drawn(1).integers(0, len(xs), size=(SEEDS, steps, size))
    return Problem(
        params,
        lambda params, batch: loss(params, xs[batch], ys[batch]),
        lambda params: loss(params, xs, ys) - optimum,
        batches,
    )


def quadratic():
    """Twenty curvatures from 1 to 100."""
    curvature = jnp.geomspace(1.0, 100.0, 20)
    target = jnp.float32(drawn().normal(size=20))

    def f(x):
        return 0.5 * jnp.sum(curvature * jnp.square(x - target))

    return noisy(f, jnp.zeros(20), 1.0, 2000)


def absolute():
    """Distances of twenty numbers from where they should be, tens away: not smooth."""
    target = jnp.float32(30.0 * drawn().normal(size=20))

    def f(x):
        return jnp.mean(jnp.abs(x - target))

    return noisy(f, jnp.zeros(20), 0.05, 2000)


def logistic():
    """Breast cancer: logistic regression with a small L2 penalty, in batches of 32."""
    from sklearn.datasets import load_breast_cancer

    xs, ys = load_breast_cancer(return_X_y=True)
    xs = np.hstack([(xs - xs.mean(axis=0)) / xs.std(axis=0), np.ones((len(xs), 1))])
    xs, signs = jnp.float32(xs), jnp.float32(2 * ys - 1)

    def loss(w, x, sign):
        margin = sign * (x @ w)
        return jnp.mean(jax.nn.softplus(-margin)) + 5e-3 * jnp.sum(jnp.square(w))

    # The optimum by Newton's method, in float64.
    return batched(loss, jnp.zeros(31), xs, signs, 32, 2000, 0.100446304)


def digits():
    """Handwritten digits: a network with one hidden layer, in batches of 32."""
    from sklearn.datasets import load_digits

    xs, ys = load_digits(return_X_y=True)
    xs, ys = jnp.float32(xs / 8.0 - 1.0), jax.nn.one_hot(ys, 10)
    rng = drawn()
    hidden, out = rng.normal(size=(64, 16)) / 8.0, rng.normal(size=(16, 10)) / 4.0

    def loss(params, x, y):
        logits = jnp.tanh(x @ params["hidden"]) @ params["out"]
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits), axis=-1))

    params = {"hidden": jnp.float32(hidden), "out": jnp.float32(out)}
    return batched(loss, params, xs, ys, 32, 500)


def rosenbrock():
    """The curved valley. Without noise, a tuned Adam would end at zero."""

    def f(x):
        return 100.0 * jnp.square(x[1] - jnp.square(x[0])) + jnp.square(1.0 - x[0])

    return noisy(f, jnp.array([-1.2, 1.0]), 1.0, 4000)


PROBLEMS = {
    make.__name__: functools.cache(make)
    for make in (quadratic, absolute, logistic, digits, rosenbrock)
}

# The rates of the bases, tuned by trying all of them.
RATES = np.geomspace(1e-5, 1e2, 22).astype(np.float32)
BASES = {"sgd": ox.sgd, "adam": ox.adam}
# By what a first guess is off from the default, which is itself far too small.
SCALES = np.float32([1e-3, 1.0, 1e3])


class Tuner(NamedTuple):
    """One that finds its rate, and how its authors use it.

    Attributes:
        base: What it is compared with.
        averages: Whether the result is an average of the parameters, with weights that
            grow (DoG), rather than the last ones, after a rate that falls as a cosine
            (Prodigy).
        make: `make(rate, scale)`: with a factor of the rate, and a first guess.
    """

    base: str
    averages: bool
    make: Callable[[Any, Any], ox.GradientTransformation]


def _dog(rate, scale, **how):
    return ox.dog(rate, ("heuristic", 1e-6 * scale), **how)


TUNERS = {
    "dog": Tuner("sgd", True, _dog),
    "ldog": Tuner("sgd", True, functools.partial(_dog, layerwise=True)),
    "dowg": Tuner("sgd", True, lambda rate, s: ox.dowg(rate, 1e-12 * s * s, eps=0.0)),
    "cocob": Tuner("adam", True, lambda rate, s: ox.cocob(rate, eps=1e-8 * s)),
    "dadapt_adamw": Tuner(
        "adam", False, lambda rate, s: ox.dadapt_adamw(rate, estim_lr0=1e-6 * s)
    ),
    "prodigy": Tuner("adam", False, lambda rate, s: ox.prodigy(rate, estim_lr0=1e-6 * s)),
}

# Those whose first guess is a rate, and is off from the tuned one.


def _momo(make):
    """Its rate is but the largest: what falls is a factor of the step behind it."""
    return lambda rate, s: ox.chain(make(s), ox.scale_by_schedule(rate))


RATED = {
    "mechanize_sgd": Tuner(
        "sgd", True, lambda rate, s: ox.mechanize(ox.sgd(rate), s_init=s)
    ),
    "mechanize_adam": Tuner(
        "adam", True, lambda rate, s: ox.mechanize(ox.adam(rate), s_init=s)
    ),
    "momo": Tuner("sgd", False, _momo(ox.momo)),
    "momo_adam": Tuner("adam", False, _momo(ox.momo_adam)),
}
# Mechanic finds what is larger than its guess, MoMo what is smaller.
OFF = {name: np.float32([1e3 if "momo" in name else 1e-3]) for name in RATED}


def as_advised(tuner, steps, make):
    """`make(rate)` by the recipe of a tuner."""
    if tuner.averages:
        return ox.average_params(make(1.0), lambda n: n / (n + 9), start=1)
    return make(ox.cosine_decay_schedule(1.0, steps))


def final_losses(problem, make, scales):
    """The loss at the end, the mean over the seeds, for each scale; one program."""

    def train(scale, draws):
        tx = make(scale)

        def step(carry, draw):
            params, state = carry
            value, grads = jax.value_and_grad(problem.loss)(params, draw)
            updates, state = tx.update(grads, state, params, value=value)
            return (ox.apply_updates(params, updates), state), None

        start = problem.params, tx.init(problem.params)
        (params, state), _ = jax.lax.scan(step, start, draws)
        return problem.judge(ox.eval_params(state, params))

    over_seeds = jax.vmap(train, in_axes=(None, 0))
    losses = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))(scales, problem.draws)
    return np.asarray(losses).mean(axis=1)


@functools.cache
def tuned(name, base):
    """The least loss of a base with a constant rate, and that rate."""
    losses = final_losses(PROBLEMS[name](), BASES[base], RATES)
    best = np.nanargmin(losses)
    return losses[best], RATES[best]


@functools.cache
def tuned_alike(name, base, averages):
    """The least loss of a base with the recipe of a tuner, and its rate."""
    problem, tuner = PROBLEMS[name](), Tuner(base, averages, BASES[base])

    def make(rate):
        def scaled(factor):
            return lambda t: rate * (factor(t) if callable(factor) else factor)

        return as_advised(tuner, problem.steps, lambda x: BASES[base](scaled(x)))

    losses = final_losses(problem, make, RATES)
    best = np.nanargmin(losses)
    return losses[best], RATES[best]


def losses_of(name, tuner, scales=SCALES):
    """The losses of a tuner from first guesses that are off by `scales`."""
    problem, how = PROBLEMS[name](), (TUNERS | RATED)[tuner]

    def make(scale):
        return as_advised(how, problem.steps, lambda rate: how.make(rate, scale))

    return final_losses(problem, make, scales)
