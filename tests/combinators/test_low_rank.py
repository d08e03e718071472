"""Subspaces of low rank: which, for how long, and what is seen in them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from precision import enable_x64
from stepping import nbytes, primitives
from trajectories import run, trajectory

import optimjax as ox
from optimjax.combinators import low_rank

PARAMS = {"w": jnp.ones((6, 9)), "v": jnp.ones((8, 5)), "b": jnp.ones(4)}


def gradients(steps=9, like=PARAMS, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=(steps, *p.shape)), p.dtype), like
    )


@pytest.mark.parametrize("side", ["smaller", "larger"])
@pytest.mark.parametrize("shape", [(3, 5), (6, 4), (4, 4)])
def test_it_is_the_oracle_through_several_renewals(side, shape):
    rng = np.random.default_rng(1)
    grads = rng.normal(size=(12, *shape))
    how = {"rank": 2, "update_proj_gap": 5, "scale": 0.25, "side": side}
    want = oracles.galore(grads, np.ones(shape), learning_rate=0.1, weight_decay=0.1, **how)
    with enable_x64():
        tx = ox.galore(0.1, weight_decay=0.1, **how)
        got = trajectory(tx, jnp.ones(shape), jnp.asarray(grads))
    np.testing.assert_allclose(got, want, rtol=1e-11)


def test_with_full_rank_it_is_what_is_inside_to_the_bit():
    grads = gradients()
    for rank in (5, 100):
        tx = ox.in_low_rank(ox.sgd(0.1, momentum=0.9), rank, scale=0.25)
        params = {k: PARAMS[k] for k in ("v", "b")} | {"w": jnp.ones((6, 3))}
        some = {**grads, "w": grads["w"][..., :3]}
        got, want = (trajectory(t, params, some) for t in (tx, ox.sgd(0.1, momentum=0.9)))
        jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("side", ["smaller", "larger"])
def test_gradients_of_low_rank_lose_nothing(side):
    """Those in the subspace of the first: descent is what it is without."""
    rng = np.random.default_rng(2)
    left, middle, right = (rng.normal(size=s) for s in [(6, 2), (7, 2, 2), (2, 9)])
    grads = jnp.asarray(left @ middle @ right, jnp.float32)
    got = run(ox.in_low_rank(ox.sgd(0.1), 2, side=side), grads, grads[0])[0]
    np.testing.assert_allclose(got, -0.1 * grads, rtol=2e-5, atol=1e-6)
    less, _ = run(ox.in_low_rank(ox.sgd(0.1), 1, side=side), grads, grads[0])
    assert np.linalg.matrix_rank(less[0]) == 1


def test_between_renewals_no_sign_of_a_singular_vector_matters():
    grads = gradients()
    tx = ox.in_low_rank(ox.adam(0.1), 3)
    state = tx.init(PARAMS)
    _, state = tx.update(jax.tree.map(lambda g: g[0], grads), state)
    turned = [-1.0, 1.0, -1.0]
    other = state._replace(projectors=jax.tree.map(lambda p: p * 1.0, state.projectors))
    moments = state.inner_state["scale_by_momentum"].momentum
    other.projectors["w"] = (state.projectors["w"][0] * jnp.array([[turned]]),)
    moments = {**moments, "w": moments["w"] * jnp.array(turned)[:, None]}
    momentum = state.inner_state["scale_by_momentum"]._replace(momentum=moments)
    other = other._replace(inner_state={**state.inner_state, "scale_by_momentum": momentum})
    for t in (1, 2):
        g = jax.tree.map(lambda g, t=t: g[t], grads)
        u, state = tx.update(g, state)
        v, other = tx.update(g, other)
        np.testing.assert_allclose(u["w"], v["w"], rtol=1e-5, atol=1e-7)


def test_a_renewal_turns_no_vector_round():
    """However LAPACK signs them: each goes on as it was."""
    g = {"w": gradients()["w"][0]}
    tx = ox.in_low_rank(ox.sgd(0.1), 3, update_proj_gap=1)
    _, state = tx.update(g, tx.init(g))
    [p] = state.projectors["w"]
    p = p * jnp.array([[[1.0, -1.0, -1.0]]])
    _, new = tx.update(g, state._replace(projectors={"w": (p,)}))
    np.testing.assert_allclose(new.projectors["w"][0], p, atol=1e-6)


def test_the_subspace_is_renewed_at_every_kth_step_and_else_not_computed():
    tx = ox.in_low_rank(ox.sgd(0.1), 2, update_proj_gap=3)
    _, states = run(tx, gradients(8), PARAMS)
    for name in ("w", "v"):
        [p] = states.projectors[name]
        same = np.all(p[1:] == p[:-1], axis=(1, 2, 3))
        np.testing.assert_array_equal(same, [True, True, False, True, True, False, True])
    jaxpr = jax.make_jaxpr(tx.update)(PARAMS, tx.init(PARAMS)).jaxpr
    assert {inside for name, inside in primitives(jaxpr) if name == "svd"} == {True}


def test_on_the_larger_side_it_is_that_of_optax():
    """Signs remember nothing, so that it does not matter which way a vector is turned."""
    theirs = optax.contrib.scale_by_galore(3, 4, 0.5, optax.scale_by_sign())
    grads = gradients(9)
    ours = ox.in_low_rank(ox.scale_by_sign(), 3, 4, 0.5, side="larger")
    got, _ = run(ours, grads, PARAMS)
    want, _ = run(theirs, grads, PARAMS)
    for name in ("w", "v"):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)


def test_the_state_is_as_small_as_is_said():
    params = {"w": jnp.ones((32, 48), jnp.bfloat16), "b": jnp.ones(10)}
    r, m, n = 8, 32, 48
    for side, (p, seen) in {"smaller": (m, n), "larger": (n, m)}.items():
        tx = ox.galore(0.1, rank=r, side=side)
        states = ox.states.states_in(tx.init(params), ox.InLowRankState)
        [state] = states.values()
        assert nbytes(state.projectors) == 4 * r * p
        assert nbytes(state.inner_state) == 4 * 2 * (r * seen + 10)
    tx = ox.galore(0.1, rank=r)
    assert nbytes(tx.init({"w": params["w"]})) == 4 * r * (m + 2 * n)


def test_stacks_and_matrices_side_by_side_have_subspaces_of_their_own():
    axes = {"qkv": "i(4+1+1o)", "heads": "ibo"}
    params = {"qkv": jnp.ones((6, 24)), "heads": jnp.ones((5, 3, 7)), "b": jnp.ones(2)}
    grads = jax.tree.map(lambda g: g[0], gradients(1, params))
    tx = ox.in_low_rank(ox.sgd(1.0), 4, axes=axes)
    state = tx.init(params)
    assert jax.tree.map(jnp.shape, state.projectors) == {
        "qkv": ((1, 6, 4), ()),  # Of keys and values, 6 x 4, there is nothing to gain.
        "heads": ((3, 5, 4),),
        "b": (),
    }
    updates, _ = tx.update(grads, state)
    qkv, heads = grads["qkv"], grads["heads"]
    parts = [(updates["qkv"][:, :16], qkv[:, :16])]
    parts += [(updates["heads"][:, i], heads[:, i]) for i in range(3)]
    for u, g in parts:
        left, s, right = np.linalg.svd(np.asarray(g, float), full_matrices=False)
        want = -(left[:, :4] * s[:4]) @ right[:4]
        np.testing.assert_allclose(u, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(updates["qkv"][:, 16:], -qkv[:, 16:])


def test_combinators_and_low_precision_around_it():
    params = {"w": jnp.ones((6, 9), jnp.bfloat16), "b": jnp.ones(4, jnp.bfloat16)}
    tx = ox.chain(
        ox.clip_by_global_norm(1.0),
        ox.accumulate(ox.masked(ox.galore(0.1, rank=2, update_proj_gap=2), "**"), 2),
    )
    updates, states = run(tx, gradients(6, params), params)
    assert updates["w"].dtype == jnp.bfloat16
    [galore] = ox.states.states_in(states, ox.InLowRankState).values()
    assert galore.projectors["w"][0].dtype == jnp.float32
    np.testing.assert_array_equal(galore.count, [0, 1, 1, 2, 2, 3])
    assert np.linalg.matrix_rank(np.asarray(updates["w"][1], np.float32), tol=1e-2) == 2


def test_the_gradient_lane_is_projected_too():
    """Momentum before it, and Adam's second moment of the gradient inside."""
    grads = gradients(6)
    outside = ox.chain(
        ox.scale_by_momentum(0.9, dampening=0.9), ox.in_low_rank(ox.scale_by_rms(), 2)
    )
    _, states = run(outside, grads, PARAMS)
    [p] = states["in_low_rank"].projectors["w"]
    seen = np.einsum("tmr,tmn->trn", np.asarray(p[:, 0]), np.asarray(grads["w"]))
    nu = 0.0
    for t, r in enumerate(seen):
        nu = 0.9 * nu + 0.1 * r**2
        got = states["in_low_rank"].inner_state.nu["w"][t]
        np.testing.assert_allclose(got, nu, rtol=1e-5)


def test_init_asks_for_shapes_alone():
    tx = ox.galore(0.1, rank=2, axes={"w": "i(2+1o)"})
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    made, want = tx.init(shapes), tx.init(PARAMS)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, want)


def test_what_needs_params_belongs_outside():
    tx = ox.in_low_rank(ox.adamw(0.1), 2)
    grads = jax.tree.map(lambda g: g[0], gradients())
    with pytest.raises(ValueError, match=r"^`in_low_rank` gives adamw\(0.1\) no .*out"):
        tx.update(grads, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=r"^`in_low_rank` has no matrix among the param"):
        tx.init({"b": jnp.ones(3)})
    with pytest.raises(TypeError, match=r"^`in_low_rank` takes transformations"):
        ox.in_low_rank(0.1)
    with pytest.raises(TypeError, match=r"^`galore` .* but `base_optimizer` is 'adam'"):
        ox.galore(0.1, base_optimizer="adam")


def test_matrices_of_one_shape_are_traced_once(monkeypatch):
    traces = []

    def counted(shape):
        traces.append(shape)
        return own(shape)

    own = low_rank._shape_of
    monkeypatch.setattr(low_rank, "_shape_of", counted)
    # A shape that no other test has: kernels are kept for good.
    params = {f"w{i}": jnp.ones((7, 11)) for i in range(5)} | {"v": jnp.ones((11, 7))}
    tx = ox.in_low_rank(ox.sgd(0.1), 2)
    jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params))
    assert sorted(traces) == [(1, 2, 11), (1, 11, 2)]


def test_updates_of_another_structure_are_refused_by_name():
    tx = ox.in_low_rank(ox.scale_by_rms(), 1)
    state = tx.init({"w": jnp.ones((4, 3))})
    with pytest.raises(ValueError, match=r"^`in_low_rank` got updates whose structure"):
        tx.update({"v": jnp.ones((4, 3))}, state)
