"""Projections: nearest points, held to their definition and to solutions by sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

from optimjax import projections as pr

SHAPES = {"w": (2, 3), "b": (None, (), (4,)), "nothing": (0, 2)}
LENGTH = 11


def tree_of(x, dtype=jnp.float32):
    """The vector `x` as a tree of many shapes."""
    x = np.asarray(x)
    rest = (None, jnp.asarray(x[6], dtype), jnp.asarray(x[7:], dtype))
    empty = jnp.zeros((0, 2), dtype)
    return {"w": jnp.asarray(x[:6].reshape(2, 3), dtype), "b": rest, "nothing": empty}


def vector_of(tree):
    wide = np.complex128 if np.iscomplexobj(tree["w"]) else np.float64
    parts = [tree["w"], tree["b"][1], tree["b"][2]]
    assert tree["b"][0] is None
    return np.concatenate([np.ravel(np.asarray(x, wide)) for x in parts])


A = np.linspace(-1.0, 2.0, LENGTH)
LOW, HIGH = np.linspace(-1.0, 0.5, LENGTH), np.linspace(0.5, 0.75, LENGTH)


def by_sorting(x, scale):
    """The projection onto the simplex, as Held, Wolfe and Crowder give it (1974)."""
    u = np.sort(x)[::-1]
    taus = (np.cumsum(u) - scale) / np.arange(1, len(x) + 1)
    return np.maximum(x - taus[np.flatnonzero(u > taus)[-1]], 0)


def l1_ball(x, scale):
    if np.abs(x).sum() <= scale:
        return x
    return np.where(x == 0, 1, np.sign(x)) * by_sorting(np.abs(x), scale)


# Each set: the projection of a tree; the same in NumPy; points of the set, made of others.
CONVEX = {
    "non_negative": (
        pr.projection_non_negative,
        lambda x: np.maximum(x, 0),
        np.abs,
    ),
    "box": (
        lambda t: pr.projection_box(t, tree_of(LOW), tree_of(HIGH)),
        lambda x: np.minimum(np.maximum(x, LOW), HIGH),
        lambda y: LOW + (HIGH - LOW) / (1 + np.exp(-y)),
    ),
    "hypercube": (
        lambda t: pr.projection_hypercube(t, 0.7),
        lambda x: np.clip(x, 0, 0.7),
        lambda y: 0.7 / (1 + np.exp(-y)),
    ),
    "simplex": (
        lambda t: pr.projection_simplex(t, 1.5),
        lambda x: by_sorting(x, 1.5),
        lambda y: 1.5 * np.exp(y) / np.exp(y).sum(),
    ),
    "l1_ball": (
        lambda t: pr.projection_l1_ball(t, 1.5),
        lambda x: l1_ball(x, 1.5),
        lambda y: 1.5 * y / max(1.5, np.abs(y).sum()),
    ),
    "l2_ball": (
        lambda t: pr.projection_l2_ball(t, 1.5),
        lambda x: x * min(1, 1.5 / np.linalg.norm(x)),
        lambda y: 1.5 * y / max(1.5, np.linalg.norm(y)),
    ),
    "linf_ball": (
        lambda t: pr.projection_linf_ball(t, 0.7),
        lambda x: np.clip(x, -0.7, 0.7),
        lambda y: 0.7 * np.tanh(y),
    ),
    "hyperplane": (
        lambda t: pr.projection_hyperplane(t, tree_of(A), 0.5),
        lambda x: x - A * (A @ x - 0.5) / (A @ A),
        lambda y: y - A * (A @ y - 0.5) / (A @ A),
    ),
    "halfspace": (
        lambda t: pr.projection_halfspace(t, tree_of(A), 0.5),
        lambda x: x - A * max(A @ x - 0.5, 0) / (A @ A),
        lambda y: y - A * abs(A @ y - 0.5) / (A @ A),
    ),
    "vector": (
        lambda t: pr.projection_vector(t, tree_of(A)),
        lambda x: A * (A @ x) / (A @ A),
        lambda y: A * y[0],
    ),
}
SPHERES = {
    "l1_sphere": (
        lambda t: pr.projection_l1_sphere(t, 1.5),
        lambda x: np.where(x == 0, 1, np.sign(x)) * by_sorting(np.abs(x), 1.5),
        lambda y: 1.5 * y / np.abs(y).sum(),
    ),
    "l2_sphere": (
        lambda t: pr.projection_l2_sphere(t, 1.5),
        lambda x: 1.5 * x / np.linalg.norm(x),
        lambda y: 1.5 * y / np.linalg.norm(y),
    ),
}
ALL = CONVEX | SPHERES


def points(rng, count=12):
    """Some far outside, some near to zero, some with numbers alike."""
    xs = rng.normal(size=(count, LENGTH)) * 10.0 ** np.linspace(-2, 2, count)[:, None]
    xs[::3, :4] = np.abs(xs[::3, :1])
    xs[1::3, 5] = 0.0
    return xs.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("name", ALL)
def test_a_projection_is_the_one_by_sorting_in_float64(name, rng):
    project, want, _ = ALL[name]
    for x in points(rng):
        got = vector_of(project(tree_of(x)))
        np.testing.assert_allclose(got, want(x), rtol=1e-6, atol=1e-6 * np.abs(x).max())


@pytest.mark.parametrize("name", CONVEX)
def test_no_point_of_the_set_lies_on_the_far_side(name, rng):
    """<x - P(x), y - P(x)> <= 0 for every y of a convex set says that P(x) is nearest."""
    with enable_x64():
        project, _, inside = CONVEX[name]
        for x in points(rng):
            p = vector_of(project(tree_of(x, jnp.float64)))
            tiny = 1e-6 * (1 + x @ x)  # `tree_of(A)` and the bounds are float32.
            for y in [inside(p), *map(inside, rng.normal(size=(20, LENGTH)))]:
                assert (x - p) @ (y - p) <= tiny


@pytest.mark.parametrize("name", SPHERES)
def test_no_point_of_a_sphere_is_nearer(name, rng):
    project, _, onto = SPHERES[name]
    for x in points(rng):
        p = vector_of(project(tree_of(x)))
        nearest = np.linalg.norm(x - p)
        for y in map(onto, p + 0.1 * rng.normal(size=(40, LENGTH))):
            assert np.linalg.norm(x - y) >= nearest - 1e-6 * np.abs(x).max()


@pytest.mark.parametrize("name", CONVEX)
def test_what_is_in_the_set_stays(name, rng):
    project, _, inside = CONVEX[name]
    for y in map(inside, 0.01 * rng.normal(size=(5, LENGTH))):
        t = tree_of(y)
        got = project(t)
        if name in ("simplex", "hyperplane", "vector"):  # Thin: rounding leads out of it.
            np.testing.assert_allclose(vector_of(got), vector_of(t), rtol=0, atol=3e-7)
        else:
            np.testing.assert_array_equal(vector_of(got), vector_of(t))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_the_float32_result_rounded(name, dtype, rng):
    project = ALL[name][0]
    low = tree_of(points(rng)[5], dtype)
    got = project(low)
    want = project(jax.tree.map(lambda x: x.astype(jnp.float32), low))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.dtype == dtype
        np.testing.assert_array_equal(g, w.astype(dtype))


@pytest.mark.parametrize("name", ALL)
def test_leaves_keep_their_dtypes_and_trees_may_be_empty(name):
    project = ALL[name][0]
    if name not in ("box", "hyperplane", "halfspace", "vector"):  # These read other trees.
        mixed = {"a": jnp.ones(3), "b": jnp.ones(2, jnp.bfloat16), "c": 1.0, "d": None}
        got = project(mixed)
        assert (got["a"].dtype, got["b"].dtype) == (jnp.float32, jnp.bfloat16)
        assert (got["c"].dtype, got["c"].weak_type) == (jnp.float32, False)
        assert got["d"] is None
        assert project({}) == {}
        assert project(jnp.zeros((0, 2))).shape == (0, 2)
    assert project(tree_of(np.ones(LENGTH)))["nothing"].shape == (0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_projections_compile_batch_and_have_the_derivatives_of_the_oracle(name, rng):
    project, want, _ = ALL[name]
    xs = points(rng)[[2, 8]]  # Away from edges, where two-sided differences agree.
    trees = [tree_of(x) for x in xs]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    together = jax.jit(jax.vmap(project))(stacked)
    for i, x in enumerate(xs):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        np.testing.assert_allclose(vector_of(alone), want(x), rtol=1e-6, atol=1e-5)
        v, ct = rng.normal(size=(2, LENGTH))
        _, pushed = jax.jvp(project, (trees[i],), (tree_of(v),))
        slope = (want(x + 1e-6 * v) - want(x - 1e-6 * v)) / 2e-6
        np.testing.assert_allclose(vector_of(pushed), slope, rtol=1e-4, atol=1e-4)
        (pulled,) = jax.vjp(project, trees[i])[1](tree_of(ct))
        np.testing.assert_allclose(vector_of(pulled) @ v, ct @ slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_derivatives_are_finite_at_zero_and_on_the_edge(name, rng):
    project = ALL[name][0]
    edge = vector_of(project(tree_of(rng.normal(size=LENGTH))))
    for x in (np.zeros(LENGTH), edge):
        slope = jax.grad(lambda t: sum(jnp.sum(y) for y in jax.tree.leaves(project(t))))
        assert np.isfinite(vector_of(slope(tree_of(x)))).all()


def test_radii_have_derivatives_and_may_be_traced():
    x = jnp.array([3.0, -4.0, 0.1])
    for f, want in (
        (pr.projection_simplex, 1.0),
        (pr.projection_l1_ball, 0.0),  # 1/2 and -1/2.
        (pr.projection_l2_ball, -0.9 / np.sqrt(25.01)),
        (pr.projection_linf_ball, 0.0),
    ):
        slope = jax.jit(jax.grad(lambda s, f=f: jnp.sum(f(x, s))))(2.0)
        np.testing.assert_allclose(slope, want, atol=1e-6)
    assert jax.grad(lambda s: jnp.sum(pr.projection_l2_ball(x, s)))(9.0) == 0


def test_sums_are_right_for_many_numbers_and_for_large_ones(rng):
    # By a running sum in float32, 10^6 numbers near 1000 are off by tenths.
    x = 1000 + rng.uniform(size=10**6).astype(np.float32)
    got = np.float64(pr.projection_simplex(jnp.asarray(x), 1e5))
    np.testing.assert_allclose(got.sum(), 1e5, rtol=1e-6)
    np.testing.assert_allclose(got, by_sorting(np.float64(x), 1e5), atol=2e-6)
    far = pr.projection_simplex(jnp.array([1e10, 1e10, -1e30, -jnp.inf]))
    np.testing.assert_array_equal(far, [0.5, 0.5, 0, 0])


def test_a_geometric_series_takes_few_steps_and_comes_out_right():
    # Each step of the search could leave out one number only; it does not.
    x = 2.0 ** -np.arange(100)
    got = pr.projection_simplex(jnp.asarray(x, jnp.float32), 0.9)
    np.testing.assert_allclose(got, by_sorting(x, 0.9), atol=1e-7)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norms_neither_overflow_nor_underflow(size):
    x = {"a": jnp.array([3 * size]), "b": jnp.array([4 * size])}
    on = pr.projection_l2_sphere(x, 10.0)
    np.testing.assert_allclose([on["a"][0], on["b"][0]], [6, 8], rtol=1e-6)
    within = pr.projection_l2_ball(x, size)
    np.testing.assert_allclose(within["a"][0], 0.6 * size, rtol=1e-6)
    a = {"a": jnp.array([size]), "b": jnp.array([0.0])}
    onto = pr.projection_hyperplane({"a": jnp.ones(1), "b": jnp.ones(1)}, a, 2 * size)
    np.testing.assert_allclose([onto["a"][0], onto["b"][0]], [2, 1], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_numbers_near_the_largest_are_brought_to_small_radii(dtype):
    # One over 3e38 is less than the smallest normal number.
    x = jnp.array([3e38, -3e38, 1.0], dtype)
    root = 0.5**0.5
    for f in (pr.projection_l2_sphere, pr.projection_l2_ball):
        np.testing.assert_allclose(f(x), [root, -root, 0], rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(pr.projection_linf_ball(x), [1, -1, 1], rtol=1e-6)


def test_float16_norms_do_not_overflow():
    # 300^2 is more than float16 holds.
    got = pr.projection_l2_ball(jnp.full(4, 300.0, jnp.float16), 60.0)
    np.testing.assert_array_equal(got, jnp.full(4, 30.0, jnp.float16))


def test_zero_goes_to_a_point_of_the_sphere():
    zero = {"a": jnp.zeros(3), "b": jnp.zeros(())}
    for f, want in ((pr.projection_l1_sphere, 0.5), (pr.projection_l2_sphere, 1.0)):
        assert {float(x) for leaf in f(zero, 2.0).values() for x in leaf.ravel()} == {want}
    # From within, zeros have to move, too.
    np.testing.assert_allclose(
        pr.projection_l1_sphere(jnp.array([-0.1, 0.0])), [-0.55, 0.45]
    )


def test_radii_of_nothing_and_of_infinity():
    x = jnp.array([3.0, -4.0])
    for f in (pr.projection_l1_ball, pr.projection_l2_ball, pr.projection_linf_ball):
        np.testing.assert_array_equal(f(x, 0), 0)
        np.testing.assert_array_equal(f(x, jnp.inf), x)
        np.testing.assert_array_equal(jax.jacobian(f)(x, jnp.inf), jnp.eye(2))
    for f in (pr.projection_simplex, pr.projection_l1_sphere, pr.projection_l2_sphere):
        np.testing.assert_array_equal(f(x, 0.0), 0)


def test_a_normal_vector_of_zero_asks_for_nothing():
    x, zero = jnp.array([3.0, -4.0]), jnp.zeros(2)
    for b in (-1.0, 0.0, 1.0):
        np.testing.assert_array_equal(pr.projection_hyperplane(x, zero, b), x)
        np.testing.assert_array_equal(pr.projection_halfspace(x, zero, b), x)
    np.testing.assert_array_equal(pr.projection_vector(x, zero), zero)


def test_nan_is_not_hidden():
    x = jnp.array([jnp.nan, 1.0])
    for f in (
        pr.projection_simplex,
        pr.projection_l1_ball,
        pr.projection_l1_sphere,
        pr.projection_l2_ball,
        pr.projection_l2_sphere,
        lambda t: pr.projection_hyperplane(t, jnp.ones(2), 0.0),
        lambda t: pr.projection_halfspace(t, jnp.ones(2), 5.0),
        lambda t: pr.projection_vector(t, jnp.ones(2)),
    ):
        assert jnp.isnan(f(x)).all()
    for f in (
        pr.projection_non_negative,
        pr.projection_hypercube,
        pr.projection_linf_ball,
    ):
        np.testing.assert_array_equal(f(x), x)


# Complex numbers.

Z = np.array([3 + 4j, -1j, 0, 0.5])
BALLS = {
    pr.projection_l1_ball: lambda r: l1_ball(r, 1.5),
    pr.projection_l1_sphere: lambda r: by_sorting(r, 1.5),
    pr.projection_l2_ball: lambda r: r * min(1, 1.5 / np.linalg.norm(r)),
    pr.projection_l2_sphere: lambda r: r * 1.5 / np.linalg.norm(r),
    pr.projection_linf_ball: lambda r: np.minimum(r, 1.5),
}


@pytest.mark.parametrize("f", BALLS)
@pytest.mark.parametrize("size", [1.0, 0.01, 1e-25])
def test_complex_numbers_keep_their_phases(f, size):
    z = size * Z
    phase = np.where(z == 0, 1, z / np.where(z == 0, 1, np.abs(z)))
    got = f(jnp.asarray(z, jnp.complex64), 1.5)
    assert got.dtype == jnp.complex64
    np.testing.assert_allclose(got, phase * BALLS[f](np.abs(z)), rtol=2e-6, atol=1e-7)
    slope = jax.grad(lambda x: jnp.sum(f({"x": x}, 1.5)["x"].real))
    ball = not f.__name__.endswith("sphere")
    for point in [np.zeros(4)] + [z] * ball:  # A sphere is steep around its centre.
        assert np.isfinite(slope(jnp.asarray(point, jnp.complex64))).all()


def test_complex_planes_and_lines():
    a = np.array([1 + 1j, 2, -1j, 0.5])
    x, n = jnp.asarray(Z, jnp.complex64), jnp.asarray(a, jnp.complex64)
    product, square = np.vdot(a, Z), np.vdot(a, a)
    plane = pr.projection_hyperplane(x, n, 2.0)
    np.testing.assert_allclose(plane, Z + a * (2 - product) / square, rtol=1e-6)
    np.testing.assert_allclose(np.vdot(a, plane), 2, atol=1e-6)
    line = pr.projection_vector(x, n)
    np.testing.assert_allclose(line, a * product / square, rtol=1e-6)


# What is refused.

REAL = {
    "projection_non_negative": pr.projection_non_negative,
    "projection_box": lambda t: pr.projection_box(t, 0.0, 1.0),
    "projection_hypercube": pr.projection_hypercube,
    "projection_simplex": pr.projection_simplex,
    "projection_halfspace": lambda t: pr.projection_halfspace(t, t, 1.0),
}


@pytest.mark.parametrize("name", REAL)
def test_complex_leaves_are_refused_by_key_path_where_there_is_no_order(name):
    tree = {"w": jnp.ones(2), "z": jnp.ones(2, jnp.complex64)}
    with pytest.raises(TypeError, match=rf"^`{name}` cannot take complex.*\['z'\]"):
        REAL[name](tree)


@pytest.mark.parametrize(
    "f",
    [
        pr.projection_simplex,
        pr.projection_l1_sphere,
        pr.projection_l1_ball,
        pr.projection_l2_sphere,
        pr.projection_l2_ball,
        pr.projection_linf_ball,
    ],
)
def test_a_radius_is_a_number_that_is_not_negative(f):
    for scale in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"^`{f.__name__}\(scale=...\)` must lie in"):
            f(jnp.ones(2), scale)
    with pytest.raises(TypeError, match=rf"^`{f.__name__}\(scale=...\)` must be a number"):
        f(jnp.ones(2), jnp.ones(2))


def test_bounds_that_do_not_fit_are_refused_by_key_path():
    tree = {"a": jnp.ones(2), "b": jnp.ones((2, 3)), "none": None}
    box = pr.projection_box
    with pytest.raises(ValueError, match=r"^`projection_box` needs .*\['b'\]"):
        box(tree, 0.0, {"a": 1.0, "b": -1.0, "none": None})
    with pytest.raises(ValueError, match=r"^`projection_box` needs .*\['a'\]"):
        box(tree, jnp.nan, 1.0)
    with pytest.raises(ValueError, match=r"shape \(2,\) for the leaf \['b'\].* \(2, 3\)"):
        box(tree, 0.0, {"a": 1.0, "b": jnp.ones(2), "none": None})
    with pytest.raises(ValueError, match=r"^`projection_box` got a `lower` that does not"):
        box(tree, {"a": 1.0}, 1.0)
    with pytest.raises(TypeError, match=r"complex numbers in the `upper`.*\['a'\]"):
        box(tree, 0.0, 1j)
    with pytest.raises(ValueError, match=r"^`projection_hypercube` needs 0 <= `scale`"):
        pr.projection_hypercube(tree, -1.0)
    assert jax.jit(box)(tree, 1.0, 0.0)["a"].shape == (2,)  # Nobody knows.


def test_bounds_may_be_prefixes_and_broadcast():
    tree = {"a": [jnp.full(2, 5.0), jnp.full((2, 3), -5.0)], "b": jnp.ones(2), "n": None}
    low = {"a": -1, "b": -jnp.inf, "n": None}
    high = {"a": [2.0, jnp.array([1.0, 2.0, 3.0])], "b": 0.5, "n": None}
    got = pr.projection_box(tree, low, high)
    np.testing.assert_array_equal(got["a"][0], [2, 2])
    np.testing.assert_array_equal(got["a"][1], np.full((2, 3), -1))
    np.testing.assert_array_equal(got["b"], [0.5, 0.5])


@pytest.mark.parametrize("f", [pr.projection_hyperplane, pr.projection_halfspace])
def test_normal_vectors_that_do_not_match_are_refused_by_key_path(f):
    x = {"w": jnp.ones(2), "b": jnp.ones(3)}
    name = rf"^`{f.__name__}`"
    with pytest.raises(ValueError, match=rf"{name} got arrays .*\['b'\].*`a` is \(2,\)"):
        f(x, {"w": jnp.ones(2), "b": jnp.ones(2)}, 0.0)
    with pytest.raises(ValueError, match=rf"{name} got arrays .*\['b'\].*`a` is \(\)"):
        f(x, {"w": jnp.ones(2), "b": 1.0}, 0.0)
    with pytest.raises(ValueError, match=rf"{name} got arrays whose structure.*\['b'\]"):
        f(x, {"w": jnp.ones(2)}, 0.0)
    with pytest.raises(TypeError, match=rf"{name} cannot take complex.*\['b'\]"):
        f(x, {"w": jnp.ones(2), "b": jnp.ones(3, jnp.complex64)}, 0.0)
    with pytest.raises(ValueError, match=rf"^`{f.__name__}\(b=...\)` must lie in"):
        f(x, x, jnp.inf)


def test_what_is_no_array_is_refused_by_key_path():
    with pytest.raises(TypeError, match=r"^`projection_l2_ball` needs.*\['n'\].*int32"):
        pr.projection_l2_ball({"w": jnp.ones(2), "n": jnp.arange(2)})
    with pytest.raises(TypeError, match=r"has no argument `radius`"):
        pr.projection_l2_ball(jnp.ones(2), radius=1.0)


def test_a_second_call_does_not_compile():
    before = pr._computed._cache_size()
    for scale in (1.0, 2.0):
        pr.projection_l1_ball({"seen nowhere else": jnp.ones((3, 1, 7))}, scale)
        assert pr._computed._cache_size() == before + 1
