"""Combinators in one another, in any order and any depth, around anything."""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import optimjax as ox
from optimjax.testing import gradients_like

PARAMS = {
    "w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3),
    "b": (jnp.linspace(0.5, 2.0, 3), None, jnp.float32(-1.5)),
}

# Each as it changes nothing, so that whatever is inside can be compared with itself.
NEUTRAL = {
    "chain": ox.chain,
    "in_turn": ox.in_turn,
    "masked": lambda tx: ox.masked(tx, "**"),
    "partition": lambda tx: ox.partition({"**": tx}),
    "accumulate": lambda tx: ox.accumulate(tx, 1),
    "conditionally_transform": lambda tx: ox.conditionally_transform(tx, ox.every(1)),
    "conditionally_mask": lambda tx: ox.conditionally_mask(tx, ox.every(1)),
    "apply_if_finite": lambda tx: ox.apply_if_finite(tx, 3),
    "skip_spikes": lambda tx: ox.skip_spikes(tx, ox.beyond_z_score(1e9), warmup=2),
    "dynamic_loss_scaling": lambda tx: ox.dynamic_loss_scaling(tx, 1.0, max_scale=1.0),
    "measure": ox.measure,
    "inject_hyperparams": lambda tx: ox.inject_hyperparams(lambda: tx)(),
    "average_params": ox.average_params,
    "lookahead": lambda tx: ox.lookahead(tx, 5, 1.0),
    "master_weights": ox.master_weights,
    "kahan_summation": ox.kahan_summation,
    "local_updates": lambda tx: ox.local_updates(tx, ox.sgd(1.0), 1),
    "delay_updates": lambda tx: ox.delay_updates(tx, 0),
    "predict_params": lambda tx: ox.predict_params(tx, 2),
}
# And as it does something.
AT_WORK = {
    "chain": lambda tx: ox.chain(ox.clip(0.5), tx, ox.scale(0.5)),
    "in_turn": lambda tx: ox.in_turn(ox.scale(-0.1), tx),
    "masked": lambda tx: ox.masked(tx, lambda path, leaf: leaf.ndim > 0),
    "partition": lambda tx: ox.partition({"all": ox.chain(tx, ox.clip(0.5))}, "all"),
    "on_matrices": lambda tx: ox.on_matrices(tx, ox.sgd(0.1)),
    "graft": lambda tx: ox.graft(tx, ox.sgd(0.1)),
    "mechanize": ox.mechanize,
    "accumulate": lambda tx: ox.accumulate(tx, 2),
    "conditionally_transform": lambda tx: ox.conditionally_transform(tx, ox.every(2)),
    "conditionally_mask": lambda tx: ox.conditionally_mask(tx, ox.every(2)),
    "apply_if_finite": NEUTRAL["apply_if_finite"],
    "skip_spikes": lambda tx: ox.skip_spikes(tx, ox.beyond_quantile(0.5), warmup=1),
    "dynamic_loss_scaling": ox.dynamic_loss_scaling,
    "measure": lambda tx: ox.measure(tx, "cosine", own=lambda g, u, p: ox.tree.max(u)),
    "inject_hyperparams": lambda tx: ox.inject_hyperparams(
        lambda rate=0.1: ox.chain(tx, ox.scale(rate))
    )(),
    "sparsely": ox.sparsely,
    "average_params": lambda tx: ox.average_params(tx, 0.9, start=1, debias=True),
    "lookahead": lambda tx: ox.lookahead(tx, 2, 0.5, on_sync="pull_back"),
    "schedule_free": lambda tx: ox.schedule_free(tx, 0.1),
    "master_weights": ox.master_weights,
    "kahan_summation": ox.kahan_summation,
    "sam": lambda tx: ox.sam(tx, two_step=True),
    "local_updates": lambda tx: ox.local_updates(tx, ox.sgd(0.7, momentum=0.9), 2),
    "delay_updates": lambda tx: ox.delay_updates(tx, 2),
}
# What turns or shrinks matrices refuses an inner transformation that needs the params.
INNERMOST = {
    "in_eigenbasis": lambda tx: ox.in_eigenbasis(tx, every=2),
    "in_low_rank": lambda tx: ox.in_low_rank(tx, 1),
}
PAIRS = [
    pytest.param(
        outer, inner, id=f"{outer}-{inner}", marks=[pytest.mark.slow] if (i + j) % 3 else []
    )
    for i, outer in enumerate(AT_WORK)
    for j, inner in enumerate(AT_WORK | INNERMOST)
]


def run(tx, params, extra=None):
    """The params after each of three steps."""

    def step(carry, seed):
        params, state = carry
        grads = jax.tree.map(lambda p: jnp.cos(p + seed), params)
        updates, state = tx.update(grads, state, params, **(extra or {}))
        params = ox.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(3.0))[1]


def check_close(got, want, name=None):
    for p, q in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        size = np.abs(q).max()
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6 * size, err_msg=str(name))


def signature(tree):
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves]


PRECISIONS = [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float16)]


def check_by_tracing(tx, extra=None, precisions=PRECISIONS):
    """Laws that need no numbers: a `scan` in a `vmap`, mixed precision, no gradient."""
    for p_dtype, g_dtype in precisions:
        params = jax.tree.map(lambda p, d=p_dtype: p.astype(d), PARAMS)
        grads = jax.tree.map(lambda p, d=g_dtype: p.astype(d), PARAMS)
        grads["b"] = (None, None, grads["b"][2])

        def many(params, grads, state):
            def step(state, _):
                updates, state = tx.update(grads, state, params, **(extra or {}))
                return state, updates

            return jax.lax.scan(step, state, length=2)

        state = jax.eval_shape(tx.init, params)
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((4, *x.shape), x.dtype), state)
        batched = jax.vmap(many, in_axes=(None, None, 0), axis_size=4)
        new_state, updates = jax.eval_shape(batched, params, grads, batch)
        assert signature(new_state) == signature(batch)
        wide = jnp.result_type(np.float32 if p_dtype != g_dtype else p_dtype)
        assert all(u.dtype == wide for u in jax.tree.leaves(updates))
        assert updates["b"][:2] == (None, None)


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_every_pair_around_adam_keeps_its_types(outer, inner):
    check_by_tracing(AT_WORK[outer]((AT_WORK | INNERMOST)[inner](ox.adam(0.1))))


@pytest.mark.parametrize(
    "outer",
    [pytest.param(n, marks=[pytest.mark.slow] * (i % 2)) for i, n in enumerate(NEUTRAL)],
)
def test_every_pair_that_does_nothing_does_nothing_to_adam(outer):
    plain = ox.adam(0.1)

    @jax.jit
    def all_of_them(params):
        pairs = {n: NEUTRAL[outer](wrap(plain)) for n, wrap in NEUTRAL.items()}
        return {name: run(tx, params) for name, tx in pairs.items()}, run(plain, params)

    got, want = all_of_them({"w": PARAMS["w"]})
    for name, params in got.items():
        check_close(params, want, name)


@pytest.mark.slow
@pytest.mark.parametrize("case", catalogue.PARTS, ids=str)
def test_all_of_them_around_anything_change_nothing(case):
    plain = wrapped = case()
    for wrap in NEUTRAL.values():
        wrapped = wrap(wrapped)
    with jax.disable_jit():  # A program for each would take long to compile.
        got, want = (run(tx, PARAMS, case.extra) for tx in (wrapped, plain))
    check_close(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("case", catalogue.PARTS, ids=str)
def test_each_of_them_around_anything_keeps_its_types(case):
    # Each second combinator, and with the next entry the others.
    turn = catalogue.PARTS.index(case)
    for i, wrap in enumerate(AT_WORK.values()):
        if (i + turn) % 2 == 0:
            check_by_tracing(wrap(case()), case.extra, [PRECISIONS[i // 2 % 2]])


nestings = st.lists(st.sampled_from(sorted(AT_WORK)), min_size=3, max_size=6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(nestings, st.sampled_from(catalogue.ONE_EACH))
def test_random_nestings_keep_their_types(names, case):
    tx = case()
    for name in names:
        tx = AT_WORK[name](tx)
    check_by_tracing(tx, case.extra)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(NEUTRAL)), min_size=3, max_size=6))
def test_random_nestings_that_do_nothing_do_nothing(names):
    plain = wrapped = ox.adamw(0.1)
    for name in names:
        wrapped = NEUTRAL[name](wrapped)
    grads = gradients_like(PARAMS)
    got, _ = wrapped.update(grads, wrapped.init(PARAMS), PARAMS)
    want, _ = plain.update(grads, plain.init(PARAMS), PARAMS)
    check_close(got, want)
