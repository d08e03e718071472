"""What is peculiar to sending gradients in few bits. Its steps stand against oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping import gradients, run
from workers import AXIS, collectives, on_devices, together

import optimjax as ox
from optimjax import compressors

N, M, W = 96, 50, 8  # Matrices, and workers.
# What one worker sends of a matrix of N x M, in bytes.
SENT = {
    compressors.sign(): N * M // 8 + 4,
    compressors.int8(): 19 * (256 + 4),  # In whole blocks.
    compressors.top_k(0.01): 8 * 48,
    compressors.low_rank(2): 4 * 2 * (N + M),
}
ALL = pytest.mark.parametrize("compressor", SENT, ids=str)


def several(tx, grads, together_or_apart):
    """The updates and states of all workers after each step; `grads` (steps, workers,)."""
    state = jax.vmap(tx.init)(grads[0])
    step = together_or_apart(tx.update)
    out = []
    for g in grads:
        updates, state = step(g, state)
        out.append((updates, state))
    return out


@ALL
def test_what_is_sent_and_what_is_kept_are_all_that_there_was(compressor):
    tx = ox.compress(compressor)
    state = tx.init(jnp.zeros((N, M)))
    for g in gradients(5, N, M):
        before = state.residual
        sent, state = tx.update(jnp.asarray(g), state)
        there = np.float64(g) + np.float64(before)
        got = np.float64(sent) + np.float64(state.residual)
        # The sum is rounded, then the difference; XLA may round the product in it or not.
        rounding = 2.0**-24 * (abs(there) + abs(np.float64(sent)) + abs(state.residual))
        assert (abs(got - there) <= rounding).all()
    assert np.abs(state.residual).max() > 0


@ALL
def test_all_workers_get_the_mean_of_what_each_has_sent(compressor):
    grads = jnp.asarray(gradients(3, 4, N, M, seed=1))
    before = jnp.zeros((4, N, M))
    for g, (updates, state) in zip(
        grads, several(ox.compress(compressor, AXIS), grads, together), strict=True
    ):
        sent = np.float64(g + before) - np.float64(state.residual)
        np.testing.assert_allclose(updates[0], sent.mean(axis=0), atol=2e-6)
        np.testing.assert_array_equal(updates, np.broadcast_to(updates[0], updates.shape))
        before = state.residual


@pytest.mark.parametrize("compressor", [*SENT][:3], ids=str)
def test_each_worker_sends_what_it_would_send_alone(compressor):
    grads = jnp.asarray(gradients(3, 4, N, M, seed=1))
    alone = [run(ox.compress(compressor), grads[:, w]) for w in range(4)]
    got = [u for u, _ in several(ox.compress(compressor, AXIS), grads, together)]
    np.testing.assert_allclose(np.stack(got)[:, 0], np.mean(alone, axis=0), atol=2e-6)


@ALL
def test_nothing_larger_than_the_code_crosses_the_link(compressor):
    tx = ox.compress(compressor, AXIS)
    grads = jnp.asarray(gradients(W, N, M))
    state = jax.vmap(tx.init)(grads)
    step = on_devices(tx.update)
    found = list(collectives(step.lower(grads, state).compile().as_text()))
    assert found
    gathers = "low_rank" not in str(compressor)  # From all; a mean has the size of one.
    assert sum(size for *_, size in found) <= SENT[compressor] * (W if gathers else 1)
    got, want = step(grads, state), together(tx.update)(grads, state)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_plain_mean_is_found_by_that_test():
    step = on_devices(lambda g: jax.lax.pmean(g, AXIS))
    text = step.lower(jnp.zeros((W, N, M))).compile().as_text()
    assert [(kind, size) for _, kind, size in collectives(text)] == [
        ("all-reduce", 4 * N * M)
    ]


@pytest.mark.parametrize("feedback", [True, False])
def test_feedback_is_what_makes_the_mean_right(feedback):
    g = jnp.asarray([[3.0, -1.0, 0.5]])
    tx = ox.compress(compressors.sign(), error_feedback=feedback)
    mean = run(tx, jnp.repeat(g, 200, axis=0)).mean(axis=0)
    assert (np.abs(mean - g[0]).max() < 0.1) == feedback
    assert (tx.init(g[0]).residual is None) == (not feedback)


def test_blocks_have_scales_of_their_own():
    g = jnp.array([1e-6, 2e-6, 1e6, 3e6, 5.0])
    sent = run(ox.compress(compressors.int8(2)), g[None])[0]
    np.testing.assert_allclose(sent, g, rtol=4e-3 * 2)
    assert run(ox.compress(compressors.int8(5)), g[None])[0, 0] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_sent_as_a_number(bad):
    g = jnp.array([1.0, bad, 2.0, 3.0])
    sent = run(ox.compress(compressors.int8(2)), g[None])[0]
    assert np.isnan(sent[:2]).all()
    np.testing.assert_allclose(sent[2:], [2.0, 3.0], rtol=1e-2)


def test_the_power_iteration_finds_the_leading_directions():
    g = np.float32(np.diag([5.0, 4.0, 1.0, 0.5, 0.1, 0.1, 0.1, 0.1]))
    tx = ox.compress(compressors.low_rank(2), error_feedback=False)
    sent = run(tx, jnp.repeat(jnp.asarray(g)[None], 30, axis=0))
    np.testing.assert_allclose(sent[-1], np.diag([5.0, 4.0] + [0] * 6), atol=1e-4)


def test_zeros_leave_the_power_iteration_able_to_go_on():
    """Else it would look at the first rows for good, and here they are zero."""
    tx = ox.compress(compressors.low_rank(2))
    g = jnp.zeros((8, 8)).at[5, 3].set(1.0)
    sent = run(tx, jnp.stack([jnp.zeros((8, 8)), g]))
    np.testing.assert_allclose(sent[1], g, atol=1e-6)


def test_low_rank_sends_what_is_small_as_it_is_and_folds_more_axes():
    params = {
        "kernel": jnp.ones((3, 3, 4, 8)),
        "bias": jnp.ones(8),
        "thin": jnp.ones((9, 2)),
    }
    tx = ox.compress(compressors.low_rank(2))
    state = tx.init(params)
    assert state.memory["kernel"][0].shape == (8, 2)
    assert state.memory["bias"] == state.memory["thin"] == ()
    grads = jax.tree.map(lambda p: jnp.asarray(gradients(*p.shape)), params)
    sent, state = tx.update(grads, state)
    for name in ("bias", "thin"):
        np.testing.assert_array_equal(sent[name], grads[name])
        assert not np.any(state.residual[name])
    assert np.linalg.matrix_rank(sent["kernel"].reshape(36, 8)) == 2


def test_leaves_without_numbers_pass():
    for compressor in SENT:
        tx = ox.compress(compressor)
        empty = jnp.zeros((0, 3))
        assert tx.update(empty, tx.init(empty))[0].shape == (0, 3)


# Another number of workers.


def test_the_mean_of_the_residuals_is_kept():
    """The parameters will end where they would have: what is owed to them is the same."""
    tx = ox.chain(ox.compress(compressors.top_k(0.1), AXIS), ox.sgd(1.0, momentum=0.9))
    grads = jnp.asarray(gradients(3, 4, 20, seed=2))
    _, state = several(tx, grads, together)[-1]
    want = np.mean(state["compress"].residual, axis=0)
    assert np.abs(want).max() > 0.1
    for workers in (3, 6, 1):
        changed = ox.change_workers(state, workers)
        residual = changed["compress"].residual
        assert residual.shape == (workers, 20)
        np.testing.assert_allclose(residual, np.tile(want, (workers, 1)), rtol=1e-5)
        momentum = changed["sgd"]["scale_by_momentum"].momentum
        alike = state["sgd"]["scale_by_momentum"].momentum[0]
        np.testing.assert_array_equal(momentum, np.tile(alike, (workers, 1)))
        # And they go on from there, for as long as it takes to send all of it.
        sent = several_from(changed, tx, jnp.zeros((30, workers, 20)))
        np.testing.assert_allclose(sent, want, rtol=1e-5, atol=1e-6)


def several_from(state, tx, grads):
    """What the compressor gives out in all, of gradients of one worker each."""
    compress = ox.compress(compressors.top_k(0.1), AXIS)
    inner, total = state["compress"], 0.0
    step = together(compress.update)
    for g in grads:
        updates, inner = step(g, inner)
        total = total + updates[0]
    return total


def test_who_joins_gets_a_copy():
    copies = ox.change_workers({"x": jnp.arange(3), "n": None}, 5)
    np.testing.assert_array_equal(copies["x"], [0, 1, 2, 0, 1])
    with pytest.raises(ValueError, match=r"`change_workers` needs leaves .* got 2, none"):
        ox.change_workers([jnp.zeros(2), jnp.zeros(())], 3)


# Refusals.


def test_what_is_no_compressor_or_no_axis_is_refused():
    with pytest.raises(TypeError, match=r"`compress\(compressor=\.\.\.\)` must be one of"):
        ox.compress("int8")
    with pytest.raises(TypeError, match=r"`compress\(axis_name=\.\.\.\)` must be the name"):
        ox.compress(compressors.sign(), 3)
    with pytest.raises(
        ValueError, match=r"`top_k\(fraction=\.\.\.\)` must lie in \(0, 1\]"
    ):
        compressors.top_k(0.0)
    with pytest.raises(ValueError, match=r"`int8\(block_size=\.\.\.\)` must be at least 1"):
        compressors.int8(0)
