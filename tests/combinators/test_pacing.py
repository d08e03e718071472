"""When a step is taken."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trajectories import assert_same, run

import optimjax as ox


def whole_numbers(rng, *shape):
    """Gradients of which every sum, and every mean of two or four, is exact."""
    return jnp.asarray(rng.integers(-64, 64, size=shape), jnp.float32)


def last(states):
    return jax.tree.map(lambda x: x[-1], states)


def test_steps_are_those_of_the_inner_one_with_the_means(rng):
    grads = {"w": whole_numbers(rng, 12, 3), "b": whole_numbers(rng, 12)}
    p = {"w": jnp.ones(3), "b": jnp.ones(())}
    inner = ox.adamw(ox.linear_schedule(0.1, 0.01, 3))
    means = jax.tree.map(lambda g: g.reshape(3, 4, *g.shape[1:]).mean(axis=1), grads)
    u, state = run(ox.accumulate(inner, 4), grads, p)
    v, wanted = run(inner, means, p)
    assert_same(jax.tree.map(lambda x: x[3::4], u), v)
    assert_same(last(state).inner_state, last(wanted))
    assert last(state).gradient_step == 3


def test_between_steps_nothing_but_the_sum_changes(rng):
    tx = ox.accumulate(ox.adam(0.1), 3)
    u, state = run(tx, whole_numbers(rng, 9, 2), jnp.ones(2))
    np.testing.assert_array_equal(state.emitted, [False, False, True] * 3)
    np.testing.assert_array_equal(state.mini_step, [1, 2, 0] * 3)
    assert (np.asarray(u)[~state.emitted] == 0).all()
    assert (np.asarray(u)[state.emitted] != 0).all()
    for x in jax.tree.leaves(state.inner_state):
        np.testing.assert_array_equal(x[2:5], np.stack([x[2]] * 3))


def test_the_inner_one_does_not_run_on_silent_calls():
    runs = []

    def seen(u, params):
        jax.debug.callback(lambda: runs.append(1))
        return u

    tx = ox.accumulate(ox.stateless(seen), 3)
    jax.block_until_ready(run(tx, jnp.ones((7, 1)), jnp.ones(1)))
    jax.effects_barrier()
    assert len(runs) == 2


def test_a_sum_is_as_many_times_the_mean():
    g = jnp.arange(6.0)[:, None]
    u, _ = run(ox.accumulate(ox.scale(1.0), 3, reduce="sum"), g, jnp.ones(1))
    np.testing.assert_array_equal(u[:, 0], [0, 0, 3, 0, 0, 12])
    u, _ = run(ox.accumulate(ox.scale(1.0), 3), g, jnp.ones(1))
    np.testing.assert_array_equal(u[:, 0], [0, 0, 1, 0, 0, 4])


def test_one_gradient_a_step_is_the_inner_one(rng):
    g = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    u, _ = run(ox.accumulate(ox.adam(0.1), 1), g, jnp.ones(3))
    assert_same(u, run(ox.adam(0.1), g, jnp.ones(3))[0])


def test_a_schedule_is_asked_by_steps_taken():
    tx = ox.accumulate(ox.scale(1.0), lambda step: step + 1)
    u, state = run(tx, jnp.arange(1.0, 11.0)[:, None], jnp.ones(1))
    wanted = [1, 0, 2.5, 0, 0, 5, 0, 0, 0, 8.5]
    np.testing.assert_array_equal(u[:, 0], wanted)
    np.testing.assert_array_equal(state.emitted, np.not_equal(wanted, 0))


def test_a_number_of_gradients_that_falls_ends_the_window():
    # It is asked at every call: three are there already when two are enough.
    numbers = iter([4, 4, 4, 2])
    state, emitted = ox.accumulate(ox.scale(1.0), 4).init(jnp.ones(1)), []
    for n in numbers:
        tx = ox.accumulate(ox.scale(1.0), lambda _, n=n: n)
        u, state = tx.update(jnp.ones(1), state)
        emitted.append(bool(state.emitted))
    assert emitted == [False, False, False, True]
    np.testing.assert_array_equal(u, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_gradient_stays_in_its_own_window(bad):
    g = jnp.array([[1.0], [bad], [3.0], [5.0], [bad], [1.0]])[:, None]
    u, _ = run(ox.accumulate(ox.scale(1.0), 2), g, jnp.ones((1, 1)))
    assert not np.isfinite(u[1]).any()
    np.testing.assert_array_equal(u[::2], 0.0)
    np.testing.assert_array_equal(u[3], 4.0)
    assert not np.isfinite(u[5]).any()


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_is_optax_multi_steps(reduce, rng):
    grads = jnp.asarray(rng.normal(size=(14, 3)), jnp.float32)
    for every in (1, 3, lambda step: 1 + step % 3):
        ours = ox.accumulate(ox.sgd(0.1, 0.9), every, reduce=reduce)
        theirs = optax.MultiSteps(optax.sgd(0.1, 0.9), every, reduce == "mean")
        with jax.numpy_dtype_promotion("standard"):
            u, a = run(ours, grads, jnp.ones(3))
            v, b = run(theirs, grads, jnp.ones(3))
        np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(a.mini_step, b.mini_step)
        np.testing.assert_array_equal(a.gradient_step, b.gradient_step)


def test_the_sum_is_in_float32_unless_asked_otherwise():
    p = jnp.zeros(1, jnp.bfloat16)
    g = jnp.ones((512, 1), jnp.bfloat16)
    fine = ox.accumulate(ox.scale(1.0), 512)
    assert fine.init(p).total.dtype == jnp.float32
    np.testing.assert_array_equal(run(fine, g, p)[0][-1], 1.0)
    coarse = ox.accumulate(ox.scale(1.0), 512, dtype="bfloat16")
    assert coarse.init(p).total.dtype == jnp.bfloat16
    np.testing.assert_array_equal(run(coarse, g, p)[0][-1], 0.5)  # 256 + 1 is 256.


def test_complex_gradients_have_complex_means():
    g = jnp.array([[1.0 + 2.0j], [3.0 - 6.0j]])
    u, _ = run(ox.accumulate(ox.scale(1.0), 2), g, jnp.ones(1, jnp.complex64))
    np.testing.assert_array_equal(u[1], [2.0 - 2.0j])


def test_gradients_that_come_and_go_leave_nothing_behind():
    tx = ox.accumulate(ox.scale(1.0), 2)
    state = tx.init({"a": jnp.ones(1), "b": jnp.ones(1)})
    one = jnp.ones(1)
    for b in (one, one, None, one):
        u, state = tx.update({"a": one, "b": b}, state)
    np.testing.assert_array_equal(u["b"], 0.5)  # One of two; none of the last window.
    u, _ = tx.update({"a": one, "b": None}, state)
    assert u["b"] is None


def test_extra_arguments_are_those_of_the_call_that_steps():
    tx = ox.accumulate(ox.polyak_sgd(1.0), 2)
    value, g = jnp.array([9.0, 0.5]), jnp.array([[1.0], [3.0]])
    u, _ = run(tx, g, jnp.ones(1), value=value)
    np.testing.assert_array_equal(u, [[0.0], [-0.25]])  # -0.5 / 2**2 * 2


def test_inside_the_gradient_is_the_mean():
    # The last one has the sign of the step, their mean has not.
    cautious = ox.chain(ox.scale_by_momentum(0.5), ox.scale(-1.0), ox.cautious())
    g = jnp.array([[4.0], [4.0], [-3.0], [1.0]])
    u, _ = run(ox.chain(ox.accumulate(cautious, 2)), g, jnp.ones(1))
    assert u[1] < 0
    np.testing.assert_array_equal(u[3], 0.0)


def test_windows_of_windows():
    tx = ox.accumulate(ox.accumulate(ox.scale(1.0), 2), 3)
    u, state = run(tx, jnp.arange(12.0)[:, None], jnp.ones(1))
    np.testing.assert_array_equal(np.flatnonzero(u), [5, 11])
    np.testing.assert_array_equal(u[[5, 11], 0], [2.5, 8.5])
    assert last(state).inner_state.gradient_step == 2


def test_a_batch_may_be_at_different_places_of_their_windows(rng):
    tx = ox.accumulate(ox.adam(0.1), 3)
    grads, p = whole_numbers(rng, 3, 2), jnp.ones(2)
    states, state = [], tx.init(p)
    for g in grads:
        states.append(state)
        _, state = tx.update(g, state, p)
    batch = jax.tree.map(lambda *x: jnp.stack(x), *states)
    got = jax.vmap(tx.update, in_axes=(0, 0, None))(grads, batch, p)
    for i, state in enumerate(states):
        want = tx.update(grads[i], state, p)
        jax.tree.map(
            lambda g, w, i=i: np.testing.assert_allclose(g[i], w, rtol=1e-6), got, want
        )
    np.testing.assert_array_equal(got[1].emitted, [False, False, True])


def test_the_step_has_derivatives_to_all_gradients_of_its_window():
    tx = ox.accumulate(ox.sgd(1.0), 4)

    def taken(g):
        return run(tx, g, jnp.ones(1))[0].sum()

    np.testing.assert_array_equal(
        jax.grad(taken)(jnp.ones((6, 1)))[:, 0], [-0.25] * 4 + [0] * 2
    )


# What the compiled program touches.


def computation(text, name):
    """The lines of one computation of an optimized program."""
    found = re.search(rf"^(?:ENTRY )?%?{re.escape(name)} .*?^}}", text, re.M | re.S)
    assert found, name
    return found[0].splitlines()[1:-1]


def test_a_silent_call_moves_nothing_but_the_sum():
    n, leaves = 1000, 3
    p = {str(i): jnp.ones(n) for i in range(leaves)}
    tx = ox.accumulate(ox.adamw(1e-3), 8)

    def step(state, g, p):
        return tx.update(g, state, p)[::-1]

    jitted = jax.jit(step, donate_argnums=0)
    text = jitted.lower(tx.init(p), p, p).compile().as_text()
    big = f"f32[{n}]{{0}} "
    entry = computation(text, re.search(r"^ENTRY %?(\S+)", text, re.M)[1])
    (branches,) = [x for x in entry if " conditional(" in x]
    silent = re.search(r"branch_computations=\{%?([^,]+),", branches)[1]
    made = [
        line
        for line in [*entry, *computation(text, silent)]
        if f"= {big}" in line and " parameter(" not in line
        and " get-tuple-element(" not in line
    ]  # fmt: skip
    added = [x for x in made if "select_add" in x or "add_select" in x]
    zeros = [x for x in made if "broadcast" in x]
    assert len(added) == leaves, made  # The sums, each in one pass,
    assert len(zeros) == leaves, made  # the zeros that come out,
    assert len(made) == 2 * leaves, made  # and not one moment.


# Conditional transforms.


def test_conditions_see_the_call_and_states_only_the_steps(rng):
    g = jnp.asarray(rng.normal(size=(7, 2)), jnp.float32)
    at = np.array([1, 4])
    alone, wanted = run(ox.adam(0.1), g[at], jnp.ones(2))
    for make, rest in ((ox.conditionally_transform, g), (ox.conditionally_mask, 0 * g)):
        u, state = run(make(ox.adam(0.1), ox.every(3, start=1)), g, jnp.ones(2))
        assert_same(u, rest.at[at].set(alone))
        assert_same(last(state).inner_state, last(wanted))
        np.testing.assert_array_equal(state.step, np.arange(1, 8))


@pytest.mark.parametrize("make", [ox.conditionally_transform, ox.conditionally_mask])
def test_conditions_are_told_all_there_is_to_know_if_asked(make):
    asked = make(ox.scale(2.0), lambda step, *, loss: loss > 1.0, True)
    for tx in (asked, ox.chain(ox.identity(), asked)):
        state = tx.init(jnp.ones(1))
        u, _ = tx.update(jnp.ones(1), state, loss=jnp.float32(3.0))
        np.testing.assert_array_equal(u, 2.0)
        u, _ = tx.update(jnp.ones(1), state, loss=jnp.float32(0.5))
        assert u < 2.0


def test_conditions_may_come_as_numbers_or_booleans():
    for yes in (True, 1, 1.0, jnp.ones(()), np.bool_(True)):
        tx = ox.conditionally_mask(ox.scale(2.0), lambda step, yes=yes: yes)
        u, _ = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
        np.testing.assert_array_equal(u, 2.0)


@pytest.mark.parametrize("said", [None, np.array([True, False]), np.array([True])])
def test_conditions_that_are_none_are_refused(said):
    tx = ox.conditionally_transform(ox.scale(2.0), lambda step: said)
    with pytest.raises(TypeError, match=r"`conditionally_transform` got .* one boolean"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    with pytest.raises(TypeError, match=r"`conditionally_mask\(should_transform_fn"):
        ox.conditionally_mask(ox.scale(2.0), True)


def test_where_nothing_is_transformed_the_gradient_stays_the_gradient():
    smooth, never = ox.scale_by_momentum(0.5), lambda step: False
    tx = ox.chain(
        smooth, ox.conditionally_transform(ox.scale(3.0), never), ox.scale_by_rms(0.5)
    )
    g = jnp.array([[3.0], [-2.0]])
    want = ox.chain(smooth, ox.scale_by_rms(0.5))
    assert_same(run(tx, g, jnp.ones(1))[0], run(want, g, jnp.ones(1))[0])
