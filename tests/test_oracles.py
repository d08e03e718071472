"""Every rule against the same rule in NumPy and float64, written from the paper."""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from trajectories import trajectory

STEPS = 25
SHAPE = (3, 4)
WITH_ORACLE = [case for case in catalogue.CASES if case.oracle is not None]


def sequences(dtype):
    """Gradients of many sizes, some zero, and parameters that wander."""
    rng = np.random.default_rng(7)
    grads = rng.normal(size=(STEPS, *SHAPE)) * 10.0 ** rng.integers(-3, 3, size=SHAPE)
    grads[:, 0, 0] = 0.0
    grads[:10, 0, 1] = 0.0
    grads[::2, 0, 2] = 0.0
    params = rng.normal(size=(STEPS, *SHAPE))
    params[:, 1, 1] = 0.0
    if np.issubdtype(dtype, np.complexfloating):
        grads = grads + 1j * rng.normal(size=grads.shape) * (grads != 0)
        params = params + 1j * rng.normal(size=params.shape)
    # What the library is given is what the oracle is given: rounded before, not after.
    return grads.astype(dtype), params.astype(dtype)


def run_stage(tx, grads, params):
    def step(state, x):
        updates, state = tx.update(x[0], state, x[1])
        return state, updates

    return jax.lax.scan(step, tx.init(params[0]), (grads, params))[1]


def compare(case, dtype, tolerance):
    grads, params = sequences(dtype)
    wide = np.complex128 if np.issubdtype(dtype, np.complexfloating) else np.float64
    if case.whole:
        got = trajectory(case(), jnp.asarray(params[0]), jnp.asarray(grads))
        want = case.expected(grads.astype(wide), params[0].astype(wide))
    else:
        got = run_stage(case(), jnp.asarray(grads), jnp.asarray(params))
        want = case.expected(grads.astype(wide), params.astype(wide))
    got = np.asarray(got)
    assert got.dtype == dtype
    scale = np.abs(want).max(axis=0)
    error = np.abs(got - want) / np.where(scale > 0, scale, 1.0)
    assert error.max() <= tolerance


def is_centered(case):
    return case.kwargs.get("centered", False)


@pytest.mark.parametrize("case", WITH_ORACLE, ids=str)
def test_float32_is_the_oracle_to_rounding(case):
    # A variance as a difference of squares cancels: digits are lost by its nature.
    compare(case, np.float32, 2e-4 if is_centered(case) else 2e-6)


@pytest.mark.parametrize("case", WITH_ORACLE, ids=str)
def test_float64_is_the_oracle_to_rounding(case):
    with enable_x64():
        compare(case, np.float64, 1e-12 if is_centered(case) else 2e-14)


@pytest.mark.parametrize("case", [c for c in WITH_ORACLE if c.supports_complex], ids=str)
def test_complex64_is_the_oracle_to_rounding(case):
    compare(case, np.complex64, 5e-4 if is_centered(case) else 3e-6)
