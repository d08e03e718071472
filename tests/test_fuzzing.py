"""A few of the random runs of `fuzzing.py`, and that it sees what is wrong."""

import fuzzing
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox


@pytest.mark.parametrize(
    "numbers",
    [
        range(20),
        *(pytest.param(range(n, n + 20), marks=pytest.mark.slow) for n in (20, 40)),
    ],
    ids=lambda numbers: str(numbers.start),
)
def test_random_chains_on_random_trees_keep_what_is_promised(numbers):
    ends = [fuzzing.fuzz(0, number) for number in numbers]
    assert ends.count("kept") >= len(numbers) // 2


def broken(update, init=lambda params: {"m": jnp.zeros(2)}):
    params = {"w": jnp.ones(2)}
    rng = np.random.default_rng(0)
    return fuzzing.Run(ox.GradientTransformation(init, update), params, {}, rng)


def _nan(updates, state, params=None, **extra):
    return jax.tree.map(lambda u: u * jnp.nan, updates), state


def _nan_in_state(updates, state, params=None, **extra):
    return updates, {"m": jnp.full(2, jnp.nan)}


def _another_dtype(updates, state, params=None, **extra):
    return updates, {"m": jnp.zeros(2, jnp.bfloat16)}


def _lost(updates, state, params=None, **extra):
    return [], state


def _narrow(updates, state, params=None, **extra):
    return jax.tree.map(lambda u: u.astype(jnp.bfloat16), updates), state


@pytest.mark.parametrize(
    ("update", "match"),
    [
        (_nan, "NaN in updates"),
        (_nan_in_state, r"NaN in the state at \['m'\], step 0"),
        (_another_dtype, "another signature after step 0"),
        (_lost, "another structure"),
        (_narrow, "an update is bfloat16"),
    ],
)
def test_what_is_broken_is_seen(update, match):
    with jax.disable_jit(), pytest.raises(fuzzing.Broken, match=match):
        fuzzing.check_good(broken(update))


def test_errors_without_a_name_are_seen():
    def update(updates, state, params=None, **extra):
        raise KeyError("m")

    with pytest.raises(fuzzing.Broken, match="KeyError"):
        fuzzing.check_bad(broken(update))


def test_a_changed_gradient_is_seen():
    def update(updates, state, params=None, **extra):
        updates["w"] = updates["w"] + 1
        return updates, state

    with jax.disable_jit(), pytest.raises(fuzzing.Broken, match="has been changed"):
        fuzzing.check_good(broken(update))
