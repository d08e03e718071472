"""Shampoo: what its updates are by theory, in what precision, and when roots are made."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from stepping import gradients, nbytes, primitives, run

import optimjax as ox


def check_near(got, want, tolerance):
    """All numbers of a step in units of its largest."""
    size = np.abs(want).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(got / size, want / size, atol=tolerance)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_first_step_is_the_polar_factor_of_the_gradient(rank):
    g = gradients(5, rank) @ gradients(rank, 3, seed=1)
    u, s, v = np.linalg.svd(g, full_matrices=False)
    u, s, v = u[:, :rank], s[:rank], v[:rank]
    near = 5e-6 * (s[0] / s[-1]) ** 2  # In squares, the least of them is so much smaller.
    [got] = run(ox.scale_by_shampoo(eps=1e-5), g[None])
    np.testing.assert_allclose(got, u @ v, atol=near)
    [got] = run(ox.scale_by_shampoo(eps=1e-4, exponent=0.5), g[None])
    # Which is u v* where the rank is one; rounding elsewhere grows by 1 / eps.
    want = u / s * np.linalg.norm(s) @ v
    np.testing.assert_allclose(got, want, atol=1e-3 if rank == 1 else near * want.max())


@pytest.mark.parametrize("exponent", [0.25, 0.5])
def test_updates_turn_with_the_gradients_and_not_with_their_scale(exponent):
    grads = gradients(6, 4, 3)
    p, q = (np.linalg.qr(gradients(n, n, seed=n))[0] for n in (4, 3))
    tx = ox.scale_by_shampoo(0.9, exponent=exponent, every=2)
    want = run(tx, grads)
    check_near(run(tx, p @ grads @ q), p @ want @ q, 5e-4)
    for scale in (1e-14, 1e14):
        check_near(run(tx, scale * grads), want, 5e-4)


def test_the_square_root_is_adafactor_in_the_eigenbasis():
    """Claim 1 of Vyas et al. 2024, over the gradients of several steps."""
    grads = gradients(6, 4, 3)
    left = np.linalg.eigh(sum(g @ g.T for g in grads))[1]
    right = np.linalg.eigh(sum(g.T @ g for g in grads))[1]
    mean = ox.scale_by_factored_rms(decay_rate=1.0, min_dim_size_to_factor=1, epsilon=0.0)
    adafactor = left @ run(mean, left.T @ grads @ right)[-1] @ right.T
    shampoo = run(ox.scale_by_shampoo(1.0, exponent=0.5, every=1), grads)[-1]
    # One is of a mean, the other of a sum.
    np.testing.assert_allclose(np.sqrt(len(grads)) * shampoo, adafactor, atol=2e-5)


def test_float32_keeps_what_squares_of_matrices_can_keep():
    """The error grows as rounding over the least eigenvalue, down to the floor."""
    left, right = (np.linalg.qr(gradients(8, 8, seed=n))[0] for n in (1, 2))
    for least, bound in ((1.0, 3e-5), (0.1, 1e-3), (0.01, 1e-4), (0.0, 1e-4)):
        sizes = np.where(np.arange(8) < 6, 1.0, least)
        grads = np.float32(left * sizes @ gradients(20, 8, 8) * sizes @ right)
        got = run(ox.scale_by_shampoo(0.9, every=5), grads)
        want = oracles.scale_by_shampoo(grads, decay=0.9, every=5)
        assert np.abs(got - want).max() < bound * np.abs(want).max()


def in_eigenbasis(**kwargs):
    return ox.in_eigenbasis(ox.scale_by_adam(), **kwargs)


@pytest.mark.parametrize(
    ("make", "decompositions", "kept"),
    [
        (ox.scale_by_shampoo, ["eigh", "eigh"], lambda state: state.roots[0].left),
        pytest.param(
            in_eigenbasis,
            ["eigh", "eigh", "qr", "qr"],
            lambda state: state.bases[0].left,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_steps_between_renewals_hold_no_decomposition(make, decompositions, kept):
    tx = make(every=3)
    grads = gradients(7, 4, 3)
    state = tx.init(grads[0])
    found = primitives(jax.make_jaxpr(tx.update)(grads[0], state).jaxpr)
    found = [pair for pair in found if pair[0] in ("eigh", "qr")]
    assert sorted(found) == [(name, True) for name in decompositions]
    seen = []
    for g in grads:
        _, state = tx.update(g, state)
        seen.append(np.asarray(kept(state)))
    renewed = [not np.array_equal(*pair) for pair in itertools.pairwise(seen)]
    assert renewed == [False, False, True, False, False, True]


def test_blocks_are_matrices_of_their_own():
    grads = gradients(4, 5, 3)
    got = np.asarray(run(ox.scale_by_shampoo(0.9, block_size=2, every=2), grads))
    alone = ox.scale_by_shampoo(0.9, every=2)
    for rows in (slice(0, 2), slice(2, 4), slice(4, 5)):
        for columns in (slice(0, 2), slice(2, 3)):
            want = run(alone, grads[:, rows, columns])
            np.testing.assert_allclose(got[:, rows, columns], want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("make", [ox.scale_by_shampoo, in_eigenbasis])
def test_stacked_matrices_are_as_if_each_stood_alone(make):
    grads = gradients(4, 2, 4, 3)
    got = run(make(axes="bio", every=2), grads)
    apart = {"a": grads[:, 0], "b": grads[:, 1].swapaxes(1, 2)}
    want = run(make(axes={"a": "io", "b": "oi"}, every=2), apart)
    np.testing.assert_allclose(got[:, 0], want["a"], atol=1e-5)
    np.testing.assert_allclose(got[:, 1], want["b"].swapaxes(1, 2), atol=1e-5)


def test_what_is_no_matrix_is_refused_with_the_way_out():
    with pytest.raises(
        ValueError, match=r"`scale_by_shampoo` is for .* no matrix at b\. G"
    ):
        ox.scale_by_shampoo().init({"b": jnp.ones(3), "w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"eps=...\)` must lie in \(0, 1\]"):
        ox.scale_by_shampoo(eps=0.0)


@pytest.mark.parametrize(
    ("make", "of_matrix"),
    [
        (ox.shampoo, 24),
        (lambda rate: ox.shampoo(rate, grafting="sgd"), 20),
        (ox.soap, 24),
    ],
)
def test_bytes_per_parameter_are_those_of_the_docs(make, of_matrix):
    params = {"w": jnp.ones((64, 64), jnp.bfloat16), "b": jnp.ones(640)}
    state = jax.eval_shape(make(0.1).init, params)
    assert nbytes(state) == of_matrix * 64 * 64 + 8 * 640


@pytest.mark.parametrize("grafting", ["adam", "rmsprop", "adagrad", "sgd"])
def test_shampoo_has_the_length_of_what_it_is_grafted_to(grafting):
    grads = {"w": gradients(5, 4, 3), "b": gradients(5, 3)}
    got = run(ox.shampoo(1.0, grafting=grafting), grads)
    to = {
        "adam": ox.adam(1.0),
        "rmsprop": ox.chain(
            ox.scale_by_momentum(0.9, dampening=0.9),
            ox.add_bias_correction(0.9),
            ox.scale_by_rms(0.999, 1e-8),
        ),
        "adagrad": ox.chain(
            ox.scale_by_momentum(0.9, dampening=0.9),
            ox.add_bias_correction(0.9),
            ox.scale_by_rss(0.0, 1e-8, eps_in_sqrt=False),
        ),
        "sgd": ox.ema(0.9),
    }
    length = [np.linalg.norm(u) for u in run(to[grafting], grads["w"])]
    np.testing.assert_allclose([np.linalg.norm(u) for u in got["w"]], length, rtol=1e-5)
    np.testing.assert_allclose(got["b"], run(ox.adam(1.0), grads["b"]), rtol=1e-5)
