"""PSGD-Kron: what it is known for, and what its catalogue entry does not show."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from stepping import nbytes, primitives
from trajectories import run

import optimjax as ox
from optimjax.transforms import psgd

pytestmark = pytest.mark.slow  # Loops and decompositions take long to compile.

ALWAYS = {"preconditioner_update_probability": 1.0}


@jax.jit
def factors_of_run(grads, precond_lr=0.1):
    """The updates and the factors after each step."""
    tx = ox.scale_by_psgd_kron(precond_lr, **ALWAYS)

    def step(state, g):
        updates, state = tx.update(g, state)
        return state, (updates, state.factors[0])

    return jax.lax.scan(step, tx.init(grads[0]), grads)[1]


def normal(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def whitened(factors, covariance):
    """The covariance of what comes out, for each of the factors, from that of g."""
    left, right = (np.asarray(q[:, 0], np.float64) for q in factors)
    p = np.einsum("tki,tkj,tlm,tln->timjn", left, left, right, right)
    p = p.reshape(len(p), *covariance.shape)
    return p @ covariance @ p.swapaxes(-1, -2)


def test_gradients_come_out_as_white_noise():
    """Published: P E[g g*] P = 1, where the covariance is a Kronecker product."""
    rows = np.diag([10.0, 1.0, 0.1, 3.0]) + 0.3 * np.triu(np.ones((4, 4)))
    columns = np.diag([1.0, 0.1, 5.0]) + 0.2
    covariance = np.kron(rows @ rows.T, columns @ columns.T)
    assert np.linalg.cond(covariance) > 1e5
    a, b = jnp.asarray(rows, jnp.float32), jnp.asarray(columns.T, jnp.float32)
    grads = a @ normal(8000, 4, 3) @ b

    def spread(precond_lr):
        _, factors = factors_of_run(grads, precond_lr)
        return np.linalg.eigvalsh(
            whitened(jax.tree.map(lambda q: q[4000::20], factors), covariance)
        )

    # With a constant rate the logarithm of Q wanders about the solution with a variance of
    # the order of the rate: of 12 eigenvalues, the outer ones by some 3 sqrt(rate).
    fine, coarse = spread(0.01), spread(0.1)
    assert 0.7 < fine.mean(axis=0).min() < 1 < fine.mean(axis=0).max() < 1.4
    assert abs(fine.mean() - 1) < 0.05
    shrinks = np.std(np.log(fine)) / np.std(np.log(coarse))
    assert shrinks < 2 * np.sqrt(0.01 / 0.1)


STEPS = np.arange(10_000).reshape(-1, 1, 1)
EXTREMES = {
    "tiny": lambda g: 1e-30 * g,
    "huge": lambda g: 1e30 * g,
    "both": lambda g: jnp.where(STEPS % 2, 1e20, 1e-20) * g,
    "zero": lambda g: 0 * g,
    "of rank one": lambda g: jnp.broadcast_to(g[:1, :, :1] * g[:1, :1], g.shape),
    "a spike": lambda g: jnp.where(STEPS == 5000, 1e36, 1.0) * g,
}


@pytest.mark.parametrize("name", EXTREMES)
def test_factors_stay_triangular_and_positive_whatever_the_gradients(name):
    grads = EXTREMES[name](normal(len(STEPS), 4, 3))
    for precond_lr in (0.1, 0.99):
        updates, factors = factors_of_run(grads, precond_lr)
        for q in map(np.asarray, factors):
            assert np.isfinite(q).all()
            assert (np.tril(q, -1) == 0).all()
            assert (np.diagonal(q, axis1=-2, axis2=-1) > 0).all()
        assert np.isfinite(updates).all()
        rms = np.sqrt(np.mean(np.square(updates), axis=(1, 2)))
        assert rms.max() <= 1.1 * (1 + 1e-6)
        if name in ("tiny", "huge"):  # They are found to be of size one in the end.
            assert np.median(rms[-1000:]) > 0.5


def test_other_parameters_are_divided_by_a_root_mean_square():
    """The one diagonal factor of a vector, beside a matrix, by its formula."""
    rng = np.random.default_rng(3)
    grads = rng.normal(size=(20, 5)) * [1e-2, 1.0, 30.0, 2.0, 0.1]
    tree = {"b": jnp.asarray(grads, jnp.float32), "w": jnp.ones((20, 2, 2))}
    params = {"b": jnp.zeros(5), "w": jnp.zeros((2, 2))}
    tx = ox.scale_by_psgd_kron(0.2, precond_init_scale=0.5, **ALWAYS)
    got, _ = run(tx, tree, params)
    key, q = jax.random.key(0), np.full(5, 0.5)
    for g, u in zip(grads.astype(np.float32).astype(float), got["b"], strict=True):
        key, _, probes = jax.random.split(key, 3)
        v = np.asarray(jax.random.normal(jax.random.split(probes, 2)[0], (5,)), float)
        ours, wanted = (q * g) ** 2, (v / q) ** 2
        q = q - 0.2 * (ours - wanted) / np.max(ours + wanted) * q
        want = q * q * g
        want = want * min(1.0, 1.1 / np.sqrt(np.mean(want**2)))
        np.testing.assert_allclose(u, want, rtol=2e-6)


def test_each_matrix_of_a_stack_is_on_its_own():
    keys = iter(jax.random.split(jax.random.key(1), 6))
    g, v = (jax.random.normal(next(keys), (3, 4, 2)) for _ in range(2))
    g = g * jnp.array([1.0, 0.0, 1e3])[:, None, None]
    q = psgd.PsgdFactors(
        jnp.triu(jax.random.normal(next(keys), (3, 4, 4))) + 3 * jnp.eye(4)[None],
        1 + jax.random.uniform(next(keys), (3, 2)),
    )

    @jax.jit
    def both(g, q, v):
        _, q = psgd._renew(g, q, v, lr=0.3)
        return q, psgd._precondition(g, q, max_rms=1.1)[0]

    together, white = both(g, q, v)
    for i in range(3):
        one = slice(i, i + 1)
        own = jax.tree.map(lambda x, one=one: x[one], q)
        alone, got = both(g[one], own, v[one])
        for x, y in zip(together, alone, strict=True):
            np.testing.assert_allclose(x[one], y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(white[one], got, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together.left[1], q.left[1])  # No gradient, no change.


def test_factors_learn_from_the_gradient_if_told_so():
    rng = np.random.default_rng(4)
    grads, how = rng.normal(size=(12, 3, 4)), {"precond_lr": 0.3}
    tx = ox.chain(
        ox.scale_by_momentum(0.9),
        ox.scale_by_psgd_kron(**how, momentum_into_precond_update=False),
    )
    got, _ = run(tx, jnp.asarray(grads, jnp.float32), jnp.zeros((3, 4)))
    momentum = oracles.scale_by_momentum(grads, decay=0.9)
    want = oracles.scale_by_psgd_kron(momentum, grads_of_q=grads, **how)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    other = oracles.scale_by_psgd_kron(momentum, **how)
    assert np.abs(want - other).max() > 0.1


def test_a_step_without_a_renewal_computes_none():
    tx, params = ox.scale_by_psgd_kron(), {"w": jnp.ones((3, 4)), "b": jnp.ones(3)}
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params)).jaxpr
    for costly in ("triangular_solve", "erf_inv"):
        places = {inside for name, inside in primitives(jaxpr) if name == costly}
        assert places == {True}


def test_renewals_are_as_frequent_as_the_schedule_says():
    falling = ox.piecewise_constant_schedule(1.0, {100: 0.3, 1100: 0.0})
    tx = ox.scale_by_psgd_kron(preconditioner_update_probability=falling)
    _, states = run(tx, normal(1200, 2, 2), jnp.zeros((2, 2)))
    changed = np.any(np.diff(states.factors[0].left, axis=0) != 0, axis=(1, 2, 3))
    assert changed[:99].all()  # The first change is before the first that is seen.
    assert 250 < changed[100:1099].sum() < 350  # 300, by a deviation of 14.
    assert not changed[1100:].any()
    steps = np.array([0, 499, 600, 1000, 3999, 4100, 10**6])
    want = [oracles.annealed(t) for t in steps]
    np.testing.assert_allclose([psgd.ANNEALED(t) for t in steps], want, rtol=1e-6)


def test_a_rule_is_traced_once_for_each_shape(monkeypatch):
    traces = []

    def counted(g, q, *rest, **how):
        traces.append(g.shape)
        return own(g, q, *rest, **how)

    own = psgd._precondition
    monkeypatch.setattr(psgd, "_precondition", counted)
    params = {f"w{i}": jnp.ones((2, 3)) for i in range(5)} | {"v": jnp.ones((3, 2))}
    tx = ox.scale_by_psgd_kron()
    jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params))
    assert sorted(traces) == [(1, 2, 3), (1, 3, 2)]


def test_the_state_is_as_large_as_is_said():
    params = {"w": jnp.ones((16, 16), jnp.bfloat16), "long": jnp.ones((16, 64))}
    params["b"] = jnp.ones(10)
    state = ox.scale_by_psgd_kron(max_size_triangular=32).init(params)
    assert nbytes(state.factors["w"]) == 8 * 16 * 16
    assert nbytes(state.factors["long"]) == 4 * (16 * 16 + 64)
    assert nbytes(state.factors["b"]) == 4 * 10


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"^`scale_by_psgd_kron` has no matrix among"):
        ox.scale_by_psgd_kron().init({"b": jnp.ones(3)})
    with pytest.raises(
        TypeError, match=r"^`scale_by_psgd_kron\(key=...\)` must be one key"
    ):
        ox.scale_by_psgd_kron(key="0")
    with pytest.raises(TypeError, match=r"^`psgd_kron\(key=...\)` must be one key"):
        ox.psgd_kron(0.1, key="0")
    with pytest.raises(ValueError, match=r"precond_lr=...\)` must lie in \[0, 1\)"):
        ox.psgd_kron(0.1, precond_lr=1.0)
