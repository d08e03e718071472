"""Gradients where the loss is worst nearby."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax.testing import check_transformation

A = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, -1.0], [0.0, -1.0, 4.0]])
START = {"w": np.array([1.0, -2.0, 0.5]), "b": np.array([[0.3], [0.0]])}


def grad_fn(params):
    """Of a quartic in `w` and a quadratic form of both."""
    w, b = params["w"], params["b"]
    form = jnp.asarray(A, w.dtype)
    return {"w": form @ w + w**3, "b": 2 * b + 0.5 * b**3 + 0.1}


def exact(rho, adaptive, steps, rate=0.05, decay=0.9):
    """Sharpness-aware descent with momentum in float64."""
    p = {k: v.copy() for k, v in START.items()}
    m = {k: 0 * v for k, v in p.items()}

    def gradient(p):
        return {"w": A @ p["w"] + p["w"] ** 3, "b": 2 * p["b"] + 0.5 * p["b"] ** 3 + 0.1}

    for _ in range(steps):
        g = gradient(p)
        t = {k: np.abs(v) if adaptive else np.ones_like(v) for k, v in p.items()}
        length = np.sqrt(sum(np.sum((t[k] * g[k]) ** 2) for k in g))
        g = gradient({k: p[k] + rho * t[k] ** 2 * g[k] / length for k in p})
        m = {k: decay * m[k] + g[k] for k in m}
        p = {k: p[k] - rate * m[k] for k in p}
    return p


def tree(dtype=jnp.float32):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), START)


def train(tx, steps, two_step, params=None, grad_fn=grad_fn):
    params = tree() if params is None else params

    def step(carry, _):
        params, state = carry
        extra = {} if two_step else {"grad_fn": grad_fn}
        updates, state = tx.update(grad_fn(params), state, params, **extra)
        return (ox.apply_updates(params, updates), state), None

    start = (params, tx.init(params))
    return jax.jit(lambda c: jax.lax.scan(step, c, length=steps * (1 + two_step))[0])(start)


@pytest.mark.parametrize("two_step", [False, True])
@pytest.mark.parametrize(("rho", "adaptive"), [(0.05, False), (0.5, True), (0.0, False)])
def test_it_is_the_rule_in_float64(rho, adaptive, two_step):
    tx = ox.sam(ox.sgd(0.05, momentum=0.9), rho, adaptive=adaptive, two_step=two_step)
    params, state = train(tx, 50, two_step)
    want = exact(rho, adaptive, 50)
    jax.tree.map(lambda p, w: np.testing.assert_allclose(p, w, atol=2e-6), params, want)
    assert not state.perturbed
    plain = exact(0.0, False, 50)
    if rho:  # It is not plain descent.
        assert np.abs(plain["w"] - want["w"]).max() > 1e-3


@pytest.mark.parametrize("two_step", [False, True])
def test_both_forms_are_those_of_optax(two_step):
    optax = pytest.importorskip("optax")
    with jax.numpy_dtype_promotion("standard"):  # Optax does not run under a strict one.
        ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
        theirs = optax.contrib.sam(
            optax.sgd(0.05, momentum=0.9), ascent, opaque_mode=not two_step
        )
        grad = grad_fn if two_step else (lambda params, _=0: grad_fn(params))
        want, _ = train(theirs, 30, two_step, grad_fn=grad)
        got, _ = train(ox.sam(ox.sgd(0.05, 0.9), 0.1, two_step=two_step), 30, two_step)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)


def test_the_first_half_leaves_inner_alone_and_the_second_goes_back():
    tx, params = ox.sam(ox.adam(0.1), 0.3, two_step=True), tree()
    inner = ox.adam(0.1)
    start = tx.init(params)
    e, state = tx.update(grad_fn(params), start, params)
    np.testing.assert_allclose(ox.tree.norm(e), 0.3, rtol=1e-6)
    assert state.perturbed
    jax.tree.map(np.testing.assert_array_equal, state.inner_state, start.inner_state)
    jax.tree.map(np.testing.assert_array_equal, state.original, params)
    there = ox.apply_updates(params, e)
    updates, state = tx.update(grad_fn(there), state, there)
    step, want = inner.update(grad_fn(there), inner.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, state.inner_state, want)
    assert not state.perturbed
    jax.tree.map(
        np.testing.assert_array_equal,
        ox.apply_updates(there, updates),
        ox.apply_updates(params, step),
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_way_back_is_exact_in_low_precision(dtype, rng):
    params = jnp.asarray(rng.uniform(1, 2, size=1000), dtype)
    g = jnp.asarray(rng.normal(size=1000), dtype)
    tx = ox.sam(ox.scale(-(2.0**-7)), 4.0, two_step=True)  # None is halved.
    e, state = tx.update(g, tx.init(params), params)
    there = ox.apply_updates(params, e)
    assert (there != params).sum() > 900
    updates, _ = tx.update(g, state, there)
    want = ox.apply_updates(params, -(2.0**-7) * g.astype(jnp.float32))
    np.testing.assert_array_equal(ox.apply_updates(there, updates), want)


def test_grad_fn_sees_params_in_their_own_dtype():
    seen = []

    def watched(params):
        seen.append(jax.tree.map(lambda p: p.dtype, params))
        return jax.tree.map(jnp.ones_like, params)

    params = {"h": jnp.ones(2, jnp.bfloat16), "s": jnp.ones(2)}
    tx = ox.sam(ox.sgd(0.1))
    grads = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    updates, _ = tx.update(grads, tx.init(params), params, grad_fn=watched)
    assert seen == [{"h": jnp.bfloat16, "s": jnp.float32}]
    assert updates["h"].dtype == jnp.float32


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_perturbation_of_large_and_small_gradients_is_as_long(size, adaptive):
    g, p = jnp.array([3.0, -4.0]) * size, jnp.array([1.0, 2.0])
    tx = ox.sam(ox.sgd(0.1), 0.5, adaptive=adaptive, two_step=True)
    e, _ = tx.update(g, tx.init(p), p)
    want = np.array([3.0, -16.0]) / np.sqrt(73) if adaptive else [0.6, -0.8]
    np.testing.assert_allclose(e, 0.5 * np.asarray(want), rtol=1e-6)


def test_a_gradient_of_zero_perturbs_nothing_and_has_a_derivative():
    def after(g):
        tx = ox.sam(ox.sgd(0.1), 0.5)
        p = jnp.ones(3)
        u, _ = tx.update(g, tx.init(p), p, grad_fn=lambda p: p)
        return jnp.sum(u)

    np.testing.assert_allclose(after(jnp.zeros(3)), -0.3, rtol=1e-6)
    assert np.isfinite(jax.grad(after)(jnp.zeros(3))).all()


def test_all_places_of_the_gradient_hold_the_perturbed_one():
    taken = {}

    @ox.transformation
    def spy():
        def update(updates, state, params=None, *, gradient, grad, **extra):
            taken.update(updates=updates, gradient=gradient, grad=grad, params=params)
            return updates, state

        return ox.GradientTransformation(lambda params: ox.EmptyState(), update)

    p, g = jnp.array([3.0, 4.0]), jnp.array([0.6, 0.8])
    for tx in (ox.sam(spy(), 1.0), ox.chain(ox.scale(5.0), ox.sam(spy(), 1.0))):
        tx.update(g, tx.init(p), p, grad_fn=lambda p: 2 * p)
        for name in ("updates", "gradient", "grad"):
            np.testing.assert_allclose(taken[name], [7.2, 9.6], rtol=1e-6)
        np.testing.assert_array_equal(taken["params"], p)


def test_leaves_without_gradients_are_left_out_wherever_grad_fn_has_one():
    params = {"a": {"x": jnp.ones(2)}, "b": jnp.ones(2)}
    grads = {"a": None, "b": jnp.ones(2)}
    tx = ox.sam(ox.sgd(0.1))
    u, _ = tx.update(grads, tx.init(params), params, grad_fn=lambda p: p)
    assert u["a"] is None
    two = ox.sam(ox.sgd(0.1), two_step=True)
    u, state = two.update(grads, two.init(params), params)
    assert u["a"] is None
    assert state.perturbed
    moved = {"a": {"x": 5 * jnp.ones(2)}, "b": params["b"] + u["b"]}
    u, _ = two.update(jax.tree.map(jnp.ones_like, params), state, moved)
    np.testing.assert_allclose(u["a"]["x"], -4.1, rtol=1e-6)  # Back to 1, and the step.
    assert two.update(grads, state, moved)[0]["a"] is None


def test_what_is_wrong_is_said_by_name():
    p, tx = {"w": jnp.ones(2)}, ox.sam(ox.sgd(0.1))
    state = tx.init(p)
    with pytest.raises(
        TypeError, match=r"`sam` takes transformations, but argument 0 is 0\.1"
    ):
        ox.sam(0.1)
    with pytest.raises(ValueError, match="`sam` needs the current parameters"):
        tx.update(p, state)
    for extra in ({}, {"grad_fn": None}, {"grad_fn": 1.0}):
        with pytest.raises(TypeError, match="`sam` needs the argument `grad_fn`"):
            tx.update(p, state, p, **extra)
    with pytest.raises(ValueError, match=r"`sam` got updates of .*what `grad_fn` returned"):
        tx.update(p, state, p, grad_fn=lambda p: {"w": jnp.ones(3)})
    with pytest.raises(TypeError, match=r"`sam` got complex updates .*\['w'\]"):
        tx.update(p, state, p, grad_fn=lambda p: {"w": jnp.ones(2, jnp.complex64)})
    with pytest.raises(TypeError, match="`sam` needs a state of its own kind, `SamState`"):
        tx.update(p, ox.EmptyState(), p, grad_fn=lambda p: p)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_one_call_form_keeps_the_laws(adaptive):
    params = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": (jnp.ones(2), None)}
    tx = ox.sam(ox.sgd(0.1, 0.9), adaptive=adaptive)
    check_transformation(tx, params, grad_fn=lambda p: jax.tree.map(jnp.sin, p))
