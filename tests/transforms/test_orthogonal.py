"""Matrices made semi-orthogonal, and what stands around that."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from optax.contrib import _muon
from precision import enable_x64
from trajectories import trajectory

import optimjax as ox
from optimjax.testing import check_transformation
from optimjax.transforms import orthogonal


def normal(*shape):
    """Random numbers, the same for the same shape."""
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), jnp.float32)


def bases(m, n):
    """U and V^T of a random m x n matrix."""
    k, rng = min(m, n), np.random.default_rng([m, n])
    u, _ = np.linalg.qr(rng.normal(size=(m, k)))
    v, _ = np.linalg.qr(rng.normal(size=(n, k)))
    return u, v.T


def applied(tx, grads):
    return tx.update(grads, tx.init(grads))[0]


def polar(x):
    u, _, vh = np.linalg.svd(np.asarray(x), full_matrices=False)
    return u @ vh


def steps_of(name, count):
    triples = orthogonal._NAMED[name]
    return [triples[min(k, len(triples) - 1)] for k in range(count)]


# What singular values from each interval become: published, or in the docstring.
BOUNDS = [
    ("standard", 5, 0.01, (0.68, 1.14)),
    ("standard", 5, 0.001, (0.47, 1.21)),
    ("standard", 12, 0.001, (0.68, 1.14)),  # No nearer, however many.
    ("dion", 5, 0.01, (0.97, 1.04)),
    ("dion", 5, 0.001, (0.47, 1.15)),
    ("dion", 12, 0.001, (0.98, 1.0)),
    ("polar_express", 5, 0.01, (0.87, 1.13)),
    ("polar_express", 5, 0.001, (0.84, 1.13)),
    ("polar_express", 7, 0.001, (1 - 1e-4, 1 + 1e-4)),
    ("cubic", 5, 0.01, (0.07, 1.0)),
    ("cubic", 8, 0.1, (0.99, 1.0)),
]


@pytest.mark.parametrize(("name", "count", "least", "bounds"), BOUNDS)
def test_singular_values_come_as_near_to_one_as_is_said(name, count, least, bounds):
    s = oracles.through_steps(np.geomspace(least, 1.0, 10_001), steps_of(name, count))
    assert bounds[0] <= s.min()
    assert s.max() <= bounds[1] + 1e-9
    if count > 8:
        return  # Within its bounds the standard quintic spreads: roundings grow on.
    # And the matrix has them, in float32, its largest singular value not being one.
    u, vh = bases(6, 9)
    s = np.geomspace(max(least, 0.003), 1.0, 6)
    got = applied(ox.orthogonalize(name, count), jnp.asarray(u * s @ vh, jnp.float32))
    s = oracles.through_steps(s / np.linalg.norm(s), steps_of(name, count))
    np.testing.assert_allclose(got, u * s @ vh, atol=2e-4)


def test_polar_express_is_the_best_at_each_step():
    """Of all odd quintics, the one whose error takes four ends, with signs in turn."""
    low, high = 1e-3, 1.0
    used = orthogonal._NAMED["polar_express"]
    for a, b, c in orthogonal._MINIMAX:
        # Those used are the same a hundredth further on, for what rounding has enlarged.
        wide = np.linspace(0, 1.01 * high, 100)
        p = oracles.through_steps(wide / 1.01, [(a, b, c)])
        np.testing.assert_allclose(oracles.through_steps(wide, used[:1]), p, atol=1e-9)
        used = used[1:]
        # Below this fraction of the highest, the authors let singular values be.
        x = np.linspace(max(low, 0.02407327424182761 * high), high, 200_001)
        p = a * x + b * x**3 + c * x**5
        middle = (p.min() + p.max()) / 2
        error = (p.max() - p.min()) / 2
        inner = np.flatnonzero(np.diff(np.sign(np.diff(p)))) + 1
        ends = (p[[0, *inner, -1]] - middle) / max(error, 1e-9)
        if error > 1e-6:
            np.testing.assert_allclose(ends, [-1, 1, -1, 1], atol=1e-3)
        low = a * low + b * low**3 + c * low**5
        high = 2 - low  # What the polynomials are scaled for.
        assert abs(p.max() - high) < 1e-6
    assert low > 1 - 1e-4
    assert used == ((1.875, -1.25, 0.375),)  # Of slope and curvature zero at one.


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (4, 7), (1, 6)])
def test_svd_gives_the_nearest_semi_orthogonal_matrix(shape):
    x = normal(*shape)
    np.testing.assert_allclose(applied(ox.orthogonalize("svd"), x), polar(x), atol=2e-5)
    slow = applied(ox.orthogonalize("polar_express", 10), x)
    np.testing.assert_allclose(slow, polar(x), atol=3e-4)  # Its first steps amplify.


@pytest.mark.parametrize("how", ["svd", "standard", "polar_express"])
def test_what_has_no_gradient_direction_does_not_move(how):
    """A matrix of rank two: the rest stays zero, whatever rounding makes of it."""
    u, vh = bases(8, 5)
    x = jnp.asarray(3.0 * u[:, :1] @ vh[:1] + u[:, 1:2] @ vh[1:2], jnp.float32)
    s = np.linalg.svd(applied(ox.orthogonalize(how), x))[1]
    assert (s[:2] > 0.6).all()
    assert (s[2:] < 1e-3).all()


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (6, 4)])
def test_derivatives_of_the_svd_are_those_of_the_limit(shape):
    with enable_x64():
        x, dx = jnp.float64(normal(2, *shape))
        if shape == (6, 4):  # Of rank two, and it stays so.
            keep = jnp.diag(jnp.array([1.0, 1.0, 0.0, 0.0]))
            x, dx = x @ keep, x @ keep @ dx[:4] + dx @ keep
        if shape == (4, 4):  # Equal singular values, for which those of U and V are not.
            x = jnp.asarray(polar(x))
        exact, limit = ox.orthogonalize("svd"), ox.orthogonalize("polar_express", 12)
        for tx in (exact, limit):
            assert tx.init(x) == ox.EmptyState()
        want = jax.jvp(lambda x: applied(limit, x), (x,), (dx,))
        got = jax.jvp(lambda x: applied(exact, x), (x,), (dx,))
        np.testing.assert_allclose(got[0], want[0], atol=1e-12)
        np.testing.assert_allclose(got[1], want[1], atol=1e-9)


PRECONDITIONINGS = ["frobenius", "schatten", "spectral", "aol"]


@pytest.mark.parametrize(
    "tx",
    [ox.orthogonalize("svd")]
    + [ox.orthogonalize(preconditioning=how) for how in PRECONDITIONINGS],
    ids=str,
)
def test_zero_and_tiny_and_huge_matrices_are_no_exception(tx):
    x = normal(3, 5)
    want = applied(tx, x)
    for size in (1e-30, 1e30):
        np.testing.assert_allclose(applied(tx, size * x), want, atol=1e-4)
    slope = jax.grad(lambda x: jnp.sum(applied(tx, x) ** 2 + applied(tx, x)))
    assert (applied(tx, 0 * x) == 0).all()
    assert jnp.isfinite(slope(0 * x)).all()
    # A derivative of what does not depend on the size is the larger, the smaller it is.
    np.testing.assert_allclose(1e-10 * slope(1e-10 * x), slope(x), rtol=1e-2, atol=1e-3)


def test_eps_is_a_size_below_which_matrices_are_let_be():
    x = normal(3, 5)
    tx = ox.orthogonalize(eps=1e-3)
    assert jnp.abs(applied(tx, 1e-9 * x)).max() < 1e-2
    np.testing.assert_allclose(
        applied(tx, 1e3 * x), applied(ox.orthogonalize(), x), atol=1e-4
    )


@pytest.mark.parametrize("how", ["svd", "standard", "dion"])
def test_turning_the_matrix_turns_the_result(how):
    x, (left, _), (right, _) = normal(4, 6), bases(4, 4), bases(6, 6)
    left, right = jnp.float32(left), jnp.float32(right)
    tx = ox.orthogonalize(how)
    turned = applied(tx, left @ x @ right)
    np.testing.assert_allclose(turned, left @ applied(tx, x) @ right, atol=2e-4)
    np.testing.assert_allclose(applied(tx, x.T).T, applied(tx, x), atol=2e-4)


ROLES = [
    ("bio", (3, 4, 5), lambda f, x: [f(m) for m in x]),
    ("ibo", (4, 3, 5), lambda f, x: jnp.stack([f(x[:, h]) for h in range(3)], 1)),
    ("ioo", (4, 3, 5), lambda f, x: f(x.reshape(4, 15)).reshape(4, 3, 5)),
    ("iio", (2, 3, 5), lambda f, x: f(x.reshape(6, 5)).reshape(2, 3, 5)),
    ("i(3o)", (4, 15), lambda f, x: jnp.hstack([f(x[:, k : k + 5]) for k in (0, 5, 10)])),
    ("oi", (4, 5), lambda f, x: f(x.T).T),
]
STAGES = {
    "orthogonalize": lambda axes=None: ox.orthogonalize(adaptive=True, axes=axes),
    "shape": lambda axes=None: ox.scale_by_matrix_shape("spectral", axes=axes),
    "units": lambda axes=None: ox.normalize_units(axes=axes),
    "unit_rms": lambda axes=None: ox.scale_by_unit_rms(0.5, axes=axes),
}


@pytest.mark.parametrize(
    ("stage", "role", "shape", "by_hand"),
    [("orthogonalize", *role) for role in ROLES]
    + [(stage, *ROLES[k]) for stage in list(STAGES)[1:] for k in (0, 4)],
)
def test_each_matrix_of_an_array_is_treated_as_if_it_were_alone(
    stage, role, shape, by_hand
):
    x, make = normal(*shape), STAGES[stage]
    want = by_hand(lambda m: applied(make(), m), x)
    np.testing.assert_allclose(applied(make(role), x), want, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_of_the_factors_alone():
    x = normal(48, 64)
    fine, coarse = (applied(ox.orthogonalize(dtype=d), x) for d in (None, "bfloat16"))
    assert fine.dtype == coarse.dtype == jnp.float32
    error = float(jnp.linalg.norm(coarse - fine) / jnp.linalg.norm(fine))
    assert 1e-3 < error < 4e-2  # A rounding is 2^-9, of polynomials of about four.
    text = str(jax.make_jaxpr(lambda x: applied(ox.orthogonalize(dtype="bfloat16"), x))(x))
    assert text.count("preferred_element_type=float32") == 3  # Of a step, in a loop.
    assert "length=5" in text


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
def test_preconditionings_are_those_of_optax(preconditioning):
    x = normal(20, 10)
    triples = jnp.asarray(orthogonal._NAMED["dion"])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        want = _muon.orthogonalize_via_newton_schulz(x, triples, 5, preconditioning)
    got = applied(ox.orthogonalize("dion", preconditioning=preconditioning), x)
    np.testing.assert_allclose(got, want, atol=1e-3)
    s = np.linalg.svd(got)[1]
    assert 0.1 < s.min() <= s.max() < 1.3


def test_preconditionings_bring_singular_values_below_one_and_near_to_it():
    x = normal(6, 9)
    first = {}
    for how in PRECONDITIONINGS:
        # No polynomial: the matrix after division.
        tx = ox.orthogonalize((1.0, 0.0, 0.0), 1, preconditioning=how)
        first[how] = np.linalg.svd(applied(tx, x))[1]
    for s in first.values():
        assert s.max() < 1 + 1e-6
    assert first["spectral"].max() > 1 - 1e-6
    assert first["schatten"].max() > 1.2 * first["frobenius"].max()
    # Rows by numbers of their own: of these, it is the nearest semi-orthogonal matrix.
    gram = np.abs(np.asarray(x @ x.T)).sum(axis=1)
    got = applied(ox.orthogonalize("polar_express", 9, preconditioning="aol"), x)
    np.testing.assert_allclose(got, polar(x / np.sqrt(gram)[:, None]), atol=2e-4)


def test_adaptive_multiplies_by_the_sum_of_singular_values():
    x = normal(4, 6)
    got = applied(ox.orthogonalize("svd", adaptive=True), x)
    np.testing.assert_allclose(got, np.linalg.svd(x)[1].sum() * polar(x), rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_enough_steps_make_it_orthonormal(dtype):
    """Optax's test of its iteration, for each way to do it."""
    x = jax.random.normal(jax.random.key(0), (4, 3), dtype)
    for tx in (ox.orthogonalize((2.0, -1.5, 0.5), 10), ox.orthogonalize("svd")):
        q = applied(tx, x)
        np.testing.assert_allclose(q.conj().T @ q, np.eye(3), atol=1e-5)


def test_triples_may_be_given_for_each_step():
    x = normal(3, 5)
    dion = orthogonal._NAMED["dion"]
    want = applied(ox.orthogonalize("dion"), x)
    for again in (dion, np.array(dion), [list(t) for t in dion]):
        np.testing.assert_array_equal(applied(ox.orthogonalize(again), x), want)
    # As many steps as triples; asked for more, the last is repeated.
    np.testing.assert_array_equal(
        applied(ox.orthogonalize(dion[:2]), x), applied(ox.orthogonalize("dion", 2), x)
    )
    np.testing.assert_array_equal(
        applied(ox.orthogonalize(dion[:2], 4), x),
        applied(ox.orthogonalize([*dion[:2], dion[1], dion[1]]), x),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ox.orthogonalize("quintic"), r"one of \['standard', .*'svd'\], or three"),
        (lambda: ox.orthogonalize((1.5, -0.5)), "or three finite numbers"),
        (lambda: ox.orthogonalize([]), "or three finite numbers"),
        (lambda: ox.orthogonalize((1.5, jnp.nan, 0.0)), "or three finite numbers"),
        (lambda: ox.orthogonalize("svd", dtype="bfloat16"), "'svd' has none"),
        (lambda: ox.scale_by_matrix_shape("rms"), r"one of \['original', 'match_rms'"),
        (lambda: ox.muon(0.1, ns_coeffs="muon"), "but got 'muon'"),
        *[
            (
                lambda make=make: make(0.1, ns_coeffs="x"),
                rf"^`{name}\(ns_coeffs=...\)` must",
            )
            for name, make in (
                ("muon", ox.muon),
                ("normuon", ox.normuon),
                ("scion", ox.scion),
            )
        ],
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_for_matrices_refuses_what_is_none(stage):
    params = {"w": jnp.ones((2, 3)), "norm": {"b": jnp.ones(3)}, "none": jnp.ones((0, 3))}
    with pytest.raises(ValueError, match=r"` is for matrices alone, .* at norm/b\. Give"):
        STAGES[stage]().init(params)
    STAGES[stage]().init({"w": params["w"], "none": params["none"], "gone": None})


@pytest.mark.parametrize("make", [ox.muon, ox.normuon, ox.scion])
def test_an_optimizer_without_any_matrix_says_what_there_is(make):
    with pytest.raises(ValueError, match=r"has no matrix .*: b \(3,\), c \(2, 2, 2\)"):
        make(0.1).init({"b": jnp.ones(3), "c": jnp.ones((2, 2, 2))})


def test_laws_hold_for_the_svd_as_well():
    params = {"w": jnp.ones((2, 3)), "v": jnp.eye(3)}
    laws = ["derivatives_at_zero_are_finite", "zero_gradients_give_finite_updates"]
    check_transformation(ox.orthogonalize("svd"), params, laws=laws)


@pytest.mark.parametrize(
    ("rule", "of_4_to_9", "of_9_to_4"),
    [
        ("original", 1.5, 1.0),
        ("match_rms", 3.0, 3.0),
        ("spectral", 1.5, 2 / 3),
        (lambda inputs, outputs: inputs + 10 * outputs, 94.0, 49.0),
    ],
)
def test_shapes_scale_by_inputs_and_outputs(rule, of_4_to_9, of_9_to_4):
    tx = ox.scale_by_matrix_shape(rule, 2.0)
    np.testing.assert_allclose(applied(tx, jnp.ones((4, 9))), 2 * of_4_to_9, rtol=1e-7)
    np.testing.assert_allclose(applied(tx, jnp.ones((9, 4))), 2 * of_9_to_4, rtol=1e-7)


def test_matched_steps_have_the_root_mean_square_that_was_asked_for():
    tx = ox.chain(ox.orthogonalize("svd"), ox.scale_by_matrix_shape("match_rms", 0.2))
    u = applied(tx, normal(5, 8))
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(u**2)), 0.2, rtol=1e-5)


def test_units_of_every_size_get_the_length_one():
    x = normal(4, 3) * jnp.array([[1e-30, 1.0, 1e30]])
    x = x.at[:, 1].set(0.0)
    got = applied(ox.normalize_units(), x)
    np.testing.assert_allclose(jnp.linalg.norm(got, axis=0), [1, 0, 1], rtol=1e-6)


def test_the_second_moment_of_units_evens_out_their_steps():
    x = normal(3, 6) * jnp.arange(1.0, 7.0)[None]
    tx = ox.scale_by_unit_rms(0.9)
    state = tx.init(x)
    assert state.nu[0].shape == (1, 6)
    u, state = tx.update(x, state)
    lengths = jnp.linalg.norm(u, axis=0)
    np.testing.assert_allclose(lengths, lengths.mean(), rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(u), jnp.linalg.norm(x), rtol=1e-6)
    # A unit that was still until now makes a longer step than the others.
    u, _ = tx.update(x.at[:, 0].multiply(10.0), state)
    longest = jnp.linalg.norm(u, axis=0)
    assert longest[0] > 1.3 * longest[1:].max()


# Whole optimizers.

OPTAX_SETTINGS = [
    {},
    {"nesterov": False, "adaptive": True, "weight_decay": 0.1, "beta": 0.5},
    {"consistent_rms": 0.2, "ns_coeffs": "dion", "preconditioning": "schatten"},
    {"adam_learning_rate": 0.1, "adam_b1": 0.5, "adam_weight_decay": 0.3, "ns_steps": 2},
]


@pytest.mark.parametrize("settings", OPTAX_SETTINGS, ids=str)
def test_muon_is_that_of_optax(settings):
    params = {"w": normal(4, 6), "tall": normal(6, 3), "b": normal(4)}
    grads = {k: normal(6, *p.shape) for k, p in params.items()}
    got = trajectory(ox.muon(0.02, **settings), params, grads)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        want = trajectory(optax.contrib.muon(0.02, **settings), params, grads)
    for leaf in params:
        # Roundings grow by 3.4445^5; Optax's bias corrections are off by 2e-5.
        np.testing.assert_allclose(got[leaf], want[leaf], rtol=1e-4, atol=1e-4)


def test_axes_say_what_dimension_numbers_say_in_optax():
    """Optax's tests of its reshaping: an array turned around is the matrix that it was."""
    w = normal(10, 12)
    want = applied(ox.muon(0.1), w)
    turns = {
        "obio": lambda x: x.reshape(10, 3, 1, 4).transpose(3, 2, 0, 1),
        "ioii": lambda x: x.reshape(2, 1, 5, 12).transpose(2, 3, 1, 0),
        "oi": lambda x: x.T,
    }
    for role, turn in turns.items():
        got = ox.muon(0.1, axes=role)
        updates, _ = got.update(turn(w), got.init(turn(w)), turn(w))
        np.testing.assert_allclose(updates, turn(want), atol=1e-5)


def test_who_is_a_matrix_is_said_for_each_parameter():
    params = {"w": jnp.ones((2, 3)), "stack": jnp.ones((2, 3, 4)), "head": jnp.ones((3, 2))}
    axes = {"head": None, "stack": "bio"}
    state = ox.muon(0.1, axes=axes).init(params)
    momenta = state.inner_states["matrices"]["scale_by_momentum"].momentum
    assert set(momenta) == {"w", "stack"}
    assert set(ox.matrices.assignment(params, axes).roles.items()) == {
        ("w", "io"),
        ("stack", "bio"),
        ("head", None),
    }


@pytest.mark.parametrize("adaptive", [True, False])
def test_complex_parameters_reach_a_complex_target(adaptive):
    """Optax's test, whose gradients of JAX have to be conjugated."""
    target = jnp.array([[1 + 2j, 0], [-1 + 1j, 1 - 3j]], jnp.complex64)
    tx = ox.muon(1e-2, adaptive=adaptive)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(2 * (params - target), state, params)
        return (ox.apply_updates(params, updates), state), None

    start = jnp.zeros_like(target)
    (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=1000)
    np.testing.assert_allclose(params, target, atol=3e-2)


def test_scion_stays_in_its_balls_and_unconstrained_scion_does_not():
    params = {"w": jnp.zeros((5, 3)), "b": jnp.zeros(4)}
    grads = {k: normal(200, *p.shape) + 2.0 for k, p in params.items()}
    settings = {"ns_coeffs": "svd", "radius": 2.0, "others_radius": 3.0}
    inside = trajectory(ox.scion(0.1, **settings), params, grads)
    outside = trajectory(ox.scion(0.1, constrained=False, **settings), params, grads)
    radius = 2.0 * np.sqrt(3 / 5)
    assert np.linalg.norm(inside["w"], 2, axis=(1, 2)).max() <= radius * (1 + 1e-5)
    assert np.abs(inside["b"]).max() <= 3.0 * (1 + 1e-5)
    assert np.linalg.norm(inside["w"][-1], 2) > 0.9 * radius  # They go to the far end.
    assert np.linalg.norm(outside["w"][-1], 2) > 2 * radius
    np.testing.assert_allclose(np.abs(np.diff(outside["b"], axis=0)), 0.3, rtol=1e-4)
