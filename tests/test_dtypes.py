"""The dtype rule, on every pair of dtypes, over the whole catalogue."""

import inspect
import itertools

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax import _dtypes

DTYPES = [jnp.bfloat16, jnp.float16, jnp.float32]
STORED = ("dtype", "state_dtype", "mu_dtype", "accumulator_dtype", "dtype_momentum")


def shapes(dtype):
    return {"w": jax.ShapeDtypeStruct((2, 3), dtype), "b": jax.ShapeDtypeStruct((), dtype)}


def storages(make):
    """The argument of a factory that says in which dtype it stores, if it has one."""
    return [name for name in inspect.signature(make).parameters if name in STORED]


def check(case, tx, stored=None):
    for p_dtype, g_dtype in itertools.product(DTYPES, DTYPES):
        params, grads = shapes(p_dtype), shapes(g_dtype)
        state = jax.eval_shape(tx.init, params)
        updates, new_state = jax.eval_shape(
            lambda g, s, p: tx.update(g, s, p, **case.extra), grads, state, params
        )
        assert jax.tree.map(_dtypes.dtype_of, new_state) == jax.tree.map(
            _dtypes.dtype_of, state
        )
        promised = _dtypes.promote(p_dtype, g_dtype)
        assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(promised)}
        floats = {x.dtype for x in jax.tree.leaves(state) if x.dtype.kind not in "iub"}
        if case.make is ox.sam:  # It keeps the params themselves.
            floats -= {jnp.dtype(p_dtype)}
        low = {d for d in floats if jnp.finfo(d).bits < 32}
        # Moments are in float32 unless asked for; then, those asked for are not.
        assert low == ({jnp.dtype(stored)} if stored and stored != jnp.float32 else set())


@pytest.mark.parametrize("case", catalogue.ONE_EACH, ids=str)
def test_state_keeps_its_dtypes_and_updates_have_the_promised_one(case):
    check(case, case())


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize(
    "case",
    # What `master_weights` stores in a lower precision is nothing; the dtype of
    # `orthogonalize` is that of products.
    [
        c
        for c in catalogue.ONE_EACH
        if storages(c.make) and c.make not in (ox.master_weights, ox.orthogonalize)
    ],
    ids=str,
)
def test_moments_are_stored_as_asked_for(case, stored):
    names = storages(case.make)  # Of two, the other is that of products.
    name = "mu_dtype" if "mu_dtype" in names else names[0]
    kwargs = {**case.kwargs, name: stored}
    # Without momentum there is none to store.
    if case.make.__name__ in ("sgd", "adafactor"):
        kwargs["momentum"] = 0.9
    check(case, case.make(*case.args, **kwargs), stored)


# Of these, nothing but the sign or the bits of a random number is left.
DISCRETE = catalogue.NOISY
# These store what such parameters lose: see combinators/test_averaging.py.
STORING = {ox.schedule_free, ox.schedule_free_sgd, ox.schedule_free_adamw}
# Of these, the update ends at a number of the parameter's dtype.
AIMED = {ox.master_weights, ox.kahan_summation, ox.sam}
# These call functions of the parameters, which compute in the parameters' own dtype. (And
# what amplifies roundings may end at the other neighbour.)
CALLING = catalogue.ESTIMATING


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "case",
    [
        c
        for c in catalogue.PARTS
        if c.make not in DISCRETE | STORING | AIMED | CALLING and c.amplifies == 1
    ],
    ids=str,
)
def test_low_precision_is_rounded_once_at_the_end(case, dtype):
    """With default settings, updates are those of a float32 run, rounded."""
    rng = np.random.default_rng(3)
    low = jnp.asarray(rng.normal(size=(20, 3, 4)), dtype)
    params = jnp.asarray(rng.normal(size=(20, 3, 4)), dtype)
    tx = case()

    def run(grads, params):
        def step(state, x):
            updates, state = tx.update(x[0], state, x[1], **case.extra)
            return state, updates

        return jax.lax.scan(step, tx.init(params[0]), (grads, params))[1]

    got = jax.jit(run)(low, params)
    want = jax.jit(run)(low.astype(jnp.float32), params.astype(jnp.float32))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want.astype(dtype))


@pytest.mark.parametrize("case", catalogue.quick_for(catalogue.PARTS, catalogue.OPTIMIZERS))
def test_zero_gradients_in_float16_give_finite_updates(case):
    params = {"w": jnp.ones((2, 3), jnp.float16)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = case()
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(zeros, state, params, **case.extra)
        assert np.isfinite(updates["w"]).all()
