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


def sequences(dtype, *, alike=False):
    """Gradients of many sizes, some zero (or all `alike`), and parameters that wander."""
    rng = np.random.default_rng(7)
    grads = rng.normal(size=(STEPS, *SHAPE))
    if not alike:
        grads *= 10.0 ** rng.integers(-3, 3, size=SHAPE)
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


def wandering(extra, dtype):
    """A value for each step, some up and some down, in place of each number."""
    rng = np.random.default_rng(8)
    real = np.finfo(dtype).dtype
    steps = 1.0 - 0.03 * np.arange(STEPS) + 0.2 * rng.normal(size=STEPS)
    return {k: (v * steps).astype(real) for k, v in extra.items()}


def run_stage(tx, grads, params, extra):
    def step(state, x):
        g, p, extra = x
        updates, state = tx.update(g, state, p, **extra)
        return state, updates

    return jax.lax.scan(step, tx.init(params[0]), (grads, params, extra))[1]


def compare(case, dtype, tolerance):
    grads, params = sequences(dtype, alike=case.alike)
    extra = wandering(case.extra, dtype)
    doubled = {k: v.astype(np.float64) for k, v in extra.items()}
    wide = np.complex128 if np.issubdtype(dtype, np.complexfloating) else np.float64
    if case.whole:
        got = trajectory(case(), jnp.asarray(params[0]), jnp.asarray(grads), **extra)
        want = case.expected(grads.astype(wide), params[0].astype(wide), **doubled)
    else:
        got = run_stage(case(), jnp.asarray(grads), jnp.asarray(params), extra)
        want = case.expected(grads.astype(wide), params.astype(wide), **doubled)
    got = np.asarray(got)
    assert got.dtype == dtype
    scale = np.abs(want).max(axis=0)
    if case.whole:  # A parameter that is set anew is rounded at the size that it had.
        scale = np.maximum(scale, np.abs(params[0]))
    error = np.abs(got - want) / np.where(scale > 0, scale, 1.0)
    assert error.max() <= tolerance * case.amplifies


def is_centered(case):
    return case.kwargs.get("centered", False)


# Whether the formula is right for other settings, float64 tells.
@pytest.mark.parametrize("case", catalogue.quick_for(catalogue.ONE_EACH, WITH_ORACLE))
def test_float32_is_the_oracle_to_rounding(case):
    # A variance as a difference of squares cancels: digits are lost by its nature. Where it
    # is zero, an ulp of a square of 1300 stands beside an epsilon of 0.01.
    compare(case, np.float32, 5e-3 if is_centered(case) else 2e-6)


@pytest.mark.parametrize("case", WITH_ORACLE, ids=str)
def test_float64_is_the_oracle_to_rounding(case):
    with enable_x64():
        compare(case, np.float64, 1e-12 if is_centered(case) else 2e-14)


COMPLEX = [c for c in catalogue.ONE_EACH if c in WITH_ORACLE and c.supports_complex]


@pytest.mark.parametrize("case", catalogue.quick_for(catalogue.PARTS, COMPLEX))
def test_complex64_is_the_oracle_to_rounding(case):
    # What is left of a modulus above the threshold `l1` has lost its leading digits.
    usual = 1e-5 if case.kwargs.get("l1") else 3e-6
    compare(case, np.complex64, 5e-4 if is_centered(case) else usual)
