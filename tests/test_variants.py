"""Every variant of the source articles: the spelling that the README gives, and what it is.

The README's table is read from the README, and each spelling in it is run against the
article's formula, written out here once more in NumPy and float64.
"""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from trajectories import trajectory

import optimjax as ox

README = pathlib.Path(__file__).parents[1] / "README.md"
STEPS, LR, B, B1, B2, EPS = 30, 0.1, 0.9, 0.9, 0.999, 1e-3


def grads_of(rng):
    return rng.normal(size=(STEPS, 5)) * np.array([1e-3, 0.1, 1.0, 10.0, 0.0])


def descend(w, grads, rule, **state):
    """Runs `rule(w, g, t, s) -> w`, where `s` is a namespace of state that starts at 0."""
    s, path = dict.fromkeys("vGm", 0.0) | state, []
    for t, g in enumerate(grads, start=1):
        w = rule(w, g, t, s)
        path.append(w)
    return np.stack(path)


def gradient_descent(w, g, t, s):
    return w - LR * g


def running_mean(w, g, t, s):
    s["v"] = B * s["v"] + (1 - B) * g
    return w - LR * s["v"]


def rate_inside(w, g, t, s):
    s["v"] = B * s["v"] + LR * g
    return w - s["v"]


def heavy_ball(w, g, t, s):
    s["v"] = B * s["v"] + g
    return w - LR * s["v"]


def polyak(w, g, t, s):
    before = s.get("before", w)
    s["before"] = w
    return w - LR * g + B * (w - before)


def adagrad(w, g, t, s, *, lr=LR, inside=False):
    s["G"] = s["G"] + g**2
    root = np.sqrt(s["G"] + EPS) if inside else np.sqrt(s["G"]) + EPS
    return w - lr / root * g


def adagrad_inside(w, g, t, s):
    return adagrad(w, g, t, s, inside=True)


def adagrad_unit_rate(w, g, t, s):
    return adagrad(w, g, t, s, lr=1.0)


def adagrad_tf1(w, g, t, s):
    s["G"] = (0.1 if t == 1 else s["G"]) + g**2
    return w - LR * g / np.sqrt(s["G"])


def rmsprop_outside(w, g, t, s):
    s["G"] = B * s["G"] + (1 - B) * g**2
    return w - LR / (np.sqrt(s["G"]) + EPS) * g


def rmsprop_inside(w, g, t, s):
    s["G"] = B * s["G"] + (1 - B) * g**2
    return w - LR / np.sqrt(s["G"] + EPS) * g


def rmsprop_tf1(w, g, t, s):
    s["G"] = 0.9 * (1.0 if t == 1 else s["G"]) + 0.1 * g**2
    s["m"] = B * s["m"] + LR * g / np.sqrt(s["G"] + 0.1)
    return w - s["m"]


def rmsprop_corrected(w, g, t, s):
    s["G"] = B * s["G"] + (1 - B) * g**2
    return w - LR / np.sqrt(s["G"] / (1 - B**t) + EPS) * g


def moments(g, s):
    s["m"] = B1 * s["m"] + (1 - B1) * g
    s["v"] = B2 * s["v"] + (1 - B2) * g**2
    return s["m"], s["v"]


def adam_half_corrected(w, g, t, s):
    m, v = moments(g, s)
    return w - LR * m / (np.sqrt(v / (1 - B2**t)) + EPS)


def adam_half_corrected_inside(w, g, t, s):
    m, v = moments(g, s)
    return w - LR / np.sqrt(v / (1 - B2**t) + EPS) * m


def adam_algorithm_1(w, g, t, s):
    m, v = moments(g, s)
    return w - LR * (m / (1 - B1**t)) / (np.sqrt(v / (1 - B2**t)) + EPS)


def adam_epsilon_hat(w, g, t, s):
    m, v = moments(g, s)
    return w - LR * np.sqrt(1 - B2**t) / (1 - B1**t) * m / (np.sqrt(v) + EPS)


# In the order of the README's table.
FORMULAS = {
    "gradient descent": gradient_descent,
    "momentum, running mean": running_mean,
    "momentum, rate inside": rate_inside,
    "momentum, rate outside": heavy_ball,
    "momentum, Polyak's form": polyak,
    "AdaGrad, epsilon outside": adagrad,
    "AdaGrad, epsilon inside": adagrad_inside,
    "AdaGrad, unit rate": adagrad_unit_rate,
    "AdaGrad, TensorFlow 1": adagrad_tf1,
    "RMSprop, epsilon outside": rmsprop_outside,
    "RMSprop, epsilon inside": rmsprop_inside,
    "RMSprop, TensorFlow 1": rmsprop_tf1,
    "RMSprop, bias-corrected": rmsprop_corrected,
    "Adam, first moment uncorrected": adam_half_corrected,
    "the same, epsilon inside": adam_half_corrected_inside,
    "Adam, Algorithm 1": adam_algorithm_1,
    "Adam, epsilon hat": adam_epsilon_hat,
}


def spellings():
    """The rows of the README's table of variants: the name, and the code."""
    text = README.read_text()
    table = text[text.index("<!-- variants -->") : text.index("<!-- /variants -->")]
    rows = re.findall(r"^\| ([^|]+?) \|[^|]*\| `(ox\..+?)` \|", table, re.MULTILINE)
    return dict(rows)


def spelled(name):
    names = {"ox": ox, "lr": LR, "b": B, "b1": B1, "b2": B2, "eps": EPS}
    return eval(spellings()[name], names)


def test_the_readme_spells_every_variant():
    assert list(spellings()) == list(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_spelling_is_the_variant(name, rng):
    w, grads = rng.normal(size=5), grads_of(rng)
    want = descend(w, grads, FORMULAS[name])
    got = trajectory(spelled(name), jnp.float32(w), jnp.float32(grads))
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_sampled_gradients_are_only_other_gradients(rng):
    # GD and SGD are one rule: full-batch and single-sample gradients of the same loss.
    data, target = rng.normal(size=(STEPS, 5)), rng.normal(size=STEPS)

    def loss_gradient(w, rows):
        x, y = data[rows], target[rows]
        return x.T @ (x @ w - y) / len(y)

    for batch in (slice(None), [3]):
        w = rng.normal(size=5)
        got = jnp.float32(w)
        tx = ox.sgd(LR)
        state = tx.init(got)
        for _ in range(5):
            updates, state = tx.update(jnp.float32(loss_gradient(w, batch)), state)
            got = ox.apply_updates(got, updates)
            w = w - LR * loss_gradient(w, batch)
        np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-5)


def scheduled(name, rates, rng):
    """The trajectories of two forms of momentum under a rate that changes."""
    w, grads = jnp.float32(rng.normal(size=5)), jnp.float32(grads_of(rng))
    names = {"ox": ox, "lr": rates, "b": B}
    return trajectory(eval(spellings()[name], names), w, grads)


def test_rate_inside_and_outside_agree_while_the_rate_is_constant():
    outside, inside, polyaks = (
        scheduled(name, LR, np.random.default_rng(1))
        for name in (
            "momentum, rate outside",
            "momentum, rate inside",
            "momentum, Polyak's form",
        )
    )
    np.testing.assert_allclose(inside, outside, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inside, polyaks, rtol=1e-4, atol=1e-5)


def test_rate_inside_and_outside_part_when_the_rate_changes():
    rates = ox.piecewise_constant_schedule(LR, {10: 0.1})
    outside, inside, polyaks = (
        np.asarray(scheduled(name, rates, np.random.default_rng(1)))
        for name in (
            "momentum, rate outside",
            "momentum, rate inside",
            "momentum, Polyak's form",
        )
    )
    np.testing.assert_allclose(inside[:10], outside[:10], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inside, polyaks, rtol=1e-4, atol=1e-5)
    # At the change the one keeps its speed, the other loses nine tenths of it.
    assert np.abs(inside[10] - outside[10]).max() > 0.1


def test_the_misprinted_rmsprop_taken_literally_never_forgets(rng):
    # The article has G_t = (G_{t-1} + (1 - b) g^2) / (1 - b^t): the corrected state is fed
    # back and the old one never decays, so that G grows without end, as AdaGrad's does.
    g, G = 1.0, 0.0
    for t in range(1, 2001):
        G = (G + (1 - B) * g**2) / (1 - B**t)
    assert G > 100.0
    # What was meant: the mean square of a constant gradient is its square, at any step.
    tx = ox.scale_by_rms(B, eps=0.0, bias_correction=True)
    state = tx.init(jnp.float32(0))
    for _ in range(50):
        update, state = tx.update(jnp.float32(g), state)
        np.testing.assert_allclose(update, 1.0, rtol=1e-6)
