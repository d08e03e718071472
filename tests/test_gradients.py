"""Gradients of batches in parts, and of single examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

import optimjax as ox

# Batches in parts.

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 3), "b": jnp.float32(0.5), "frozen": None}


def batch_of(n, rng, dtype=jnp.float32):
    return {"x": jnp.asarray(rng.normal(size=(n, 3)), dtype)}, jnp.arange(n) % 3


def loss(params, inputs, labels, *, power=2):
    """A mean over examples, and what else is known of them."""
    error = inputs["x"] @ params["w"] + params["b"] - labels.astype(inputs["x"].dtype)
    aux = {"error": jnp.mean(error), "twos": jnp.sum(labels == 2), "any": labels[0] >= 0}
    return jnp.mean(error**power), aux


@pytest.mark.parametrize("parts", [1, 2, 4, 12])
def test_parts_give_what_the_whole_batch_gives(parts, rng):
    batch = batch_of(12, rng)
    f = jax.value_and_grad(loss, has_aux=True)
    (value, aux), grads = f(PARAMS, *batch, power=4)
    in_parts = ox.microbatched(f, parts)
    for run in (lambda f: f, jax.jit):
        got = run(lambda params, *batch: in_parts(params, *batch, power=4))(PARAMS, *batch)
        np.testing.assert_allclose(got[0][0], value, rtol=1e-5)
        np.testing.assert_allclose(got[0][1]["error"], aux["error"], rtol=1e-5)
        assert got[1]["frozen"] is None
        for name in ("w", "b"):
            np.testing.assert_allclose(got[1][name], grads[name], rtol=1e-5)
        # Counts and flags are no means: they become the mean of those of the parts.
        np.testing.assert_allclose(got[0][1]["twos"], 4 / parts, rtol=1e-6)
        assert got[0][1]["any"] == 1.0
    plain = ox.microbatched(jax.grad(lambda *args: loss(*args)[0]), parts)
    want = jax.grad(lambda *args: loss(*args)[0])(PARAMS, *batch)
    np.testing.assert_allclose(plain(PARAMS, *batch)["w"], want["w"], rtol=1e-5)


def test_sums_of_integers_stay_integers():
    def count(params, x):
        return {
            "sum": jnp.sum(x),
            "n": jnp.int8(100),
            "all": x[0] > 3,
            "z": jax.lax.complex(0.0, x[0]),
        }

    got = ox.microbatched(count, 4, reduce="sum")(None, jnp.arange(8.0))
    assert (got["n"].dtype, got["all"].dtype) == (jnp.int32, jnp.int32)
    assert (got["sum"], got["n"], got["all"], got["z"]) == (28, 400, 0, 6j)
    mean = ox.microbatched(count, 4)(None, jnp.arange(8.0))
    assert (mean["sum"], mean["n"], mean["z"]) == (7, 100, 1.5j)
    assert mean["n"].dtype == jnp.float32


def test_auxiliary_output_may_be_python_numbers():
    def loss(w, x):
        return jnp.mean((w - x) ** 2), {"count": len(x), "weight": 0.5}

    in_parts = ox.microbatched(jax.value_and_grad(loss, has_aux=True), 2, reduce="sum")
    (_, aux), _ = in_parts(1.0, jnp.arange(4.0))
    assert (aux["count"], aux["weight"]) == (4, 1.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_added_up_in_float32(dtype):
    # One after the other in bfloat16, 512 ones come to 256; in float16, 2^17 are too many.
    ones = jnp.ones(512, dtype)
    for reduce, f, want in (
        ("sum", lambda p, x: x[0], 512),
        ("mean", lambda p, x: 256 * x[0], 256),
    ):
        got = ox.microbatched(f, 512, reduce=reduce)(None, ones)
        assert got.dtype == dtype
        assert got == want
    with enable_x64():
        assert ox.microbatched(f, 2)(None, jnp.ones(2, jnp.float64)).dtype == jnp.float64


def test_every_example_is_seen_once_and_neighbours_in_different_parts():
    seen = []

    def look(params, x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return jnp.sum(x)

    assert ox.microbatched(look, 3, reduce="sum")(None, jnp.arange(6)) == 15
    jax.effects_barrier()
    np.testing.assert_array_equal(np.stack(seen), [[0, 3], [1, 4], [2, 5]])


def test_only_one_part_and_one_sum_are_in_memory():
    def bytes_of(parts):
        def f(w, x):
            return jnp.mean(jnp.tanh(jnp.tanh(x @ w) @ w))

        step = jax.jit(ox.microbatched(jax.grad(f), parts))
        shapes = jnp.zeros((64, 64)), jnp.zeros((4096, 64))
        return step.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(16) < bytes_of(1) / 4


def test_random_keys_go_into_the_batch(rng):
    def noisy(params, x, keys):
        return jnp.mean(x + jax.vmap(jax.random.normal)(keys))

    x, keys = jnp.zeros(6), jax.random.split(jax.random.key(0), 6)
    got = ox.microbatched(noisy, 3)(None, x, keys)
    np.testing.assert_allclose(got, noisy(None, x, keys), rtol=1e-6)


def test_parts_may_be_batched_and_differentiated(rng):
    x = jnp.float32(rng.normal(size=(6, 3)))
    f = ox.microbatched(lambda w, x: jnp.mean(jnp.tanh(x @ w)), 3)
    w = jnp.float32(rng.normal(size=(2, 3)))
    got = jax.vmap(jax.grad(f), (0, None))(w, x)
    want = jax.vmap(jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w))))(w)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_batch_that_cannot_be_cut_is_refused_by_argument_and_key_path():
    f = ox.microbatched(lambda params, *batch: 0.0, 4)
    name = "^`microbatched` "
    with pytest.raises(
        ValueError, match=name + r"cannot cut.*\['x'\] of argument 1.* 6, .*4"
    ):
        f(None, {"x": jnp.ones((6, 4))})
    with pytest.raises(
        ValueError, match=name + r"got 8 examples.*argument 1, but 4 .*ment 2"
    ):
        f(None, jnp.ones(8), jnp.ones(4))
    with pytest.raises(
        ValueError, match=name + r"cuts.* of argument 2 has no axis.* by name"
    ):
        f(None, jnp.ones(8), 0.1)
    with pytest.raises(ValueError, match=name + r"needs a batch"):
        f(jnp.ones(8), batch=jnp.ones(8))


def test_what_is_no_way_to_cut_is_refused():
    with pytest.raises(
        TypeError, match=r"`microbatched\(grad_fn=...\)` must be a function"
    ):
        ox.microbatched(3, 2)
    with pytest.raises(
        ValueError, match=r"`microbatched\(microbatches=...\)` must be at le"
    ):
        ox.microbatched(loss, 0)
    with pytest.raises(ValueError, match=r"must be one of 'mean', 'sum', but got 'max'"):
        ox.microbatched(loss, 2, reduce="max")


# Gradients of single examples.

PER_EXAMPLE = {
    "w": np.array([[[3.0, 0.0]], [[0.5, 0.0]], [[0.0, 0.0]], [[-6.0, 8.0]]]),
    "b": np.array([[4.0], [0.0], [0.0], [0.0]]),
    "none": None,
}
BOTH = [ox.per_example_global_norm_clip, ox.per_example_layer_norm_clip]


def norms_of(*leaves):
    return np.sqrt(sum(np.square(x).reshape(len(x), -1).sum(1) for x in leaves))


def sum_clipped(x, norms, bound):
    factors = np.minimum(1, bound / np.where(norms == 0, 1, norms))
    return np.tensordot(factors, x, 1), np.sum(norms > bound)


@pytest.mark.parametrize("bound", [0.0, 0.75, 5.0, np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_every_example_is_held_to_the_bound(dtype, bound):
    grads = jax.tree.map(lambda x: jnp.asarray(x, dtype), PER_EXAMPLE)
    w, b = PER_EXAMPLE["w"], PER_EXAMPLE["b"]
    for run in (lambda f: f, jax.jit):
        total, clipped = run(ox.per_example_global_norm_clip)(grads, bound)
        norms = norms_of(w, b)
        assert total["none"] is None
        assert clipped.dtype == jnp.int32
        for name, x in (("w", w), ("b", b)):
            want, count = sum_clipped(x, norms, bound)
            assert total[name].dtype == dtype
            np.testing.assert_allclose(
                np.float64(total[name]), want, rtol=jnp.finfo(dtype).eps
            )
            assert clipped == count


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("bound", [0.0, 0.75, 5.0, np.inf])
def test_every_layer_of_an_example_is_held_to_its_share(uniform, bound):
    grads = jax.tree.map(jnp.float32, PER_EXAMPLE)
    total, clipped = ox.per_example_layer_norm_clip(grads, bound, uniform)
    assert total["none"] is None
    assert clipped["none"] is None
    for name, share in (
        ("w", 1 / 2 if uniform else 2 / 3),
        ("b", 1 / 2 if uniform else 1 / 3),
    ):
        x = PER_EXAMPLE[name]
        want, count = sum_clipped(x, norms_of(x), bound * np.sqrt(share))
        np.testing.assert_allclose(total[name], want, rtol=1e-6)
        assert clipped[name] == count


def test_one_layer_alone_has_the_whole_bound():
    grads = [jnp.float32(PER_EXAMPLE["w"])]
    for uniform in (True, False):
        got = ox.per_example_layer_norm_clip(grads, 0.75, uniform)
        total, clipped = ox.per_example_global_norm_clip(grads, 0.75)
        np.testing.assert_array_equal(got[0][0], total[0])
        assert got[1] == [clipped]


def test_the_sum_of_one_example_is_what_the_transformation_makes_of_it():
    grads = {"a": jnp.array([3.0, 4j]), "b": jnp.array([12.0])}
    one = jax.tree.map(lambda x: x[None], grads)
    total, count = ox.per_example_global_norm_clip(one, 6.5)
    tx = ox.clip_by_global_norm(6.5)
    want, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose(total["a"], want["a"], rtol=1e-6)
    np.testing.assert_allclose(total["b"], want["b"], rtol=1e-6)
    assert count == 1


def test_an_example_with_nan_counts_as_clipped_and_shows_in_every_number():
    grads = {"a": jnp.array([[1.0], [jnp.nan]]), "b": jnp.array([[0.1], [100.0]])}
    total, count = ox.per_example_global_norm_clip(grads, 10.0)
    assert count == 1
    assert jnp.isnan(total["a"]).all()
    assert jnp.isnan(total["b"]).all()  # Never 100.1: that would be over the bound.
    total, count = ox.per_example_layer_norm_clip(grads, 10.0)
    assert count == {"a": 1, "b": 1}
    assert jnp.isnan(total["a"]).all()
    np.testing.assert_allclose(total["b"], 0.1 + 10 / np.sqrt(2), rtol=1e-6)


def test_low_precision_examples_have_the_right_norms_and_sums():
    # The norm is 20, not 16; and of 400 ones, added in bfloat16, 256 would be left.
    leaves = [jnp.ones((400, 1), jnp.bfloat16)] * 400
    for bound, want in ((19.9, 400), (20.0, 0)):
        total, count = ox.per_example_global_norm_clip(leaves, bound)
        assert count == want
        np.testing.assert_allclose(np.float64(total[0]), 20 * bound, rtol=2**-8)


def test_many_examples_lose_nothing():
    # One after the other, 10^6 tenths come to 100,958. (By XLA's blocks, to 100,001.6.)
    total, _ = ox.per_example_global_norm_clip(jnp.full((10**6, 2), 0.1), 1.0)
    np.testing.assert_allclose(total, 1e5, rtol=3e-5)


@pytest.mark.parametrize("clip", BOTH)
def test_integers_are_clipped_as_floats(clip):
    total, _ = clip([jnp.array([[0, 0, 0], [0, 3, 4], [4, 0, 3], [3, 4, 0]])], 1.25)
    np.testing.assert_array_equal(total[0], jnp.full(3, 1.75))


@pytest.mark.parametrize("clip", BOTH)
def test_no_examples_and_no_leaves(clip):
    total, _ = clip({"a": jnp.zeros((0, 2))}, 1.0)
    np.testing.assert_array_equal(total["a"], jnp.zeros(2))
    assert clip({}, 1.0)[0] == {}
    total, count = ox.per_example_layer_norm_clip(
        {"a": jnp.zeros((3, 0)), "b": jnp.ones((3, 1))}, np.inf, uniform=False
    )
    assert count == {"a": 0, "b": 0}
    np.testing.assert_array_equal(total["b"], [3.0])


@pytest.mark.parametrize("clip", BOTH)
def test_examples_along_no_axis_or_an_unequal_one_are_refused_by_key_path(clip):
    name = rf"^`{clip.__name__}`"
    with pytest.raises(ValueError, match=rf"{name} needs.*\['b'\] has no axis"):
        clip({"a": jnp.ones(3), "b": jnp.ones(())}, 1.0)
    with pytest.raises(ValueError, match=rf"{name} got.* 3 .*\['a'\], but of 4 .*\['b'\]"):
        clip({"a": jnp.ones(3), "b": jnp.ones((4, 3))}, 1.0)


@pytest.mark.parametrize("clip", BOTH)
def test_a_bound_on_examples_is_not_negative(clip):
    for bound in (-1.0, float("nan")):
        with pytest.raises(
            ValueError, match=rf"^`{clip.__name__}\(.*must lie in \[0, inf\]"
        ):
            clip(jnp.ones((2, 3)), bound)


@pytest.mark.parametrize("clip", BOTH)
def test_clipped_sums_have_finite_derivatives_at_zero_and_may_be_batched(clip):
    slope = jax.grad(lambda x, c: jnp.sum(clip(x, c)[0]), (0, 1))(jnp.zeros((2, 3)), 1.0)
    np.testing.assert_array_equal(slope[0], 1.0)
    assert slope[1] == 0
    bounds = jnp.array([0.5, 2.0])
    grads = jnp.array([[3.0, 4.0], [0.0, 1.0]])
    total, _ = jax.vmap(lambda c: clip(grads, c))(bounds)
    np.testing.assert_allclose(total, [[0.3, 0.9], [1.2, 2.6]], rtol=1e-6)


# Privacy.

KEY = jax.random.key(3)


def test_without_noise_it_is_the_mean_of_clipped_gradients():
    grads = jax.tree.map(jnp.float32, PER_EXAMPLE)
    w, b = PER_EXAMPLE["w"], PER_EXAMPLE["b"]
    for run in (lambda f: f, jax.jit):
        got = run(ox.private_gradients)(grads, 0.75, 0.0, KEY)
        assert got["none"] is None
        for name, x in (("w", w), ("b", b)):
            total, _ = sum_clipped(x, norms_of(w, b), 0.75)
            np.testing.assert_allclose(got[name], total / 4, rtol=1e-6)


def test_noise_in_the_sum_has_the_deviation_that_was_asked_for():
    # Gradients of zero: all that there is, is the noise.
    grads = {"a": jnp.zeros((10, 200, 200)), "b": jnp.zeros((10, 40_000))}
    noise = ox.private_gradients(grads, 3.0, 2.0, KEY)
    both = np.stack([np.ravel(noise["a"]), noise["b"]])
    # The deviation of a deviation of n numbers is 1 / sqrt(2 n): four of them.
    np.testing.assert_allclose(both.std(axis=1), 3 * 2 / 10, rtol=4 / np.sqrt(80_000))
    np.testing.assert_allclose(both.mean(axis=1), 0, atol=4 * 0.6 / np.sqrt(40_000))
    assert abs(np.corrcoef(both)[0, 1]) < 4 / np.sqrt(40_000)  # Not one draw for both.
    again = ox.private_gradients(grads, 3.0, 2.0, KEY)
    np.testing.assert_array_equal(noise["b"], again["b"])
    other = ox.private_gradients(grads, 3.0, 2.0, jax.random.key(4))
    assert not np.allclose(noise["b"], other["b"])


def test_complex_numbers_get_noise_in_both_parts():
    noise = ox.private_mean(jnp.zeros(40_000, jnp.complex64), 2, 3.0, 2.0, KEY)
    parts = np.stack([noise.real, noise.imag])
    np.testing.assert_allclose(parts.std(axis=1), 3.0, rtol=4 / np.sqrt(80_000))
    assert abs(np.corrcoef(parts)[0, 1]) < 4 / np.sqrt(40_000)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_rounded_once(dtype, rng):
    low = jnp.asarray(rng.normal(size=(300, 50)), dtype)
    for f in (
        lambda g: ox.private_gradients(g, 1.0, 0.5, KEY),
        lambda g: ox.private_mean(g[0], 3.0, 1.0, 0.5, KEY),
    ):
        got, want = f(low), f(low.astype(jnp.float32))
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want.astype(dtype))


def test_parts_of_a_batch_give_the_same_as_the_whole_of_it(rng):
    w, x = jnp.float32(rng.normal(size=3)), jnp.float32(rng.normal(size=(12, 3)))

    def examples(w, x):
        return jax.vmap(jax.grad(lambda w, x: jnp.sin(w @ x)), (None, 0))(w, x)

    def clipped_sum(w, x):
        return ox.per_example_global_norm_clip(examples(w, x), 1.0)

    total, count = ox.microbatched(clipped_sum, 4, reduce="sum")(w, x)
    whole, clipped = clipped_sum(w, x)
    assert count == clipped
    assert 0 < clipped < 12
    np.testing.assert_allclose(total, whole, rtol=1e-5)
    got = ox.private_mean(total, 12, 1.0, 1.5, KEY)
    want = ox.private_gradients(examples(w, x), 1.0, 1.5, KEY)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_privacy_works_traced_and_of_nothing():
    f = jax.jit(jax.vmap(lambda c, k: ox.private_gradients(jnp.ones((2, 1)), c, 0.0, k)))
    got = f(jnp.array([0.5, 2.0]), jax.random.split(KEY, 2))
    np.testing.assert_array_equal(got, [[0.5], [1.0]])
    assert ox.private_gradients({}, 1.0, 1.0, KEY) == {}
    assert ox.private_mean({}, 1.0, 1.0, 1.0, KEY) == {}
    old = jax.random.PRNGKey(3)
    np.testing.assert_array_equal(
        ox.private_mean(jnp.zeros(3), 1, 1.0, 1.0, old),
        ox.private_mean(jnp.zeros(3), 1, 1.0, 1.0, KEY),
    )


def test_keys_and_numbers_that_cannot_be_are_refused():
    grads = jnp.ones((2, 3))
    for key in (0, None, jax.random.split(KEY, 2), jnp.zeros(2)):
        with pytest.raises(TypeError, match=r"^`private_gradients\(key=...\)` must be one"):
            ox.private_gradients(grads, 1.0, 1.0, key)
        with pytest.raises(TypeError, match=r"^`private_mean\(key=...\)` must be one"):
            ox.private_mean(grads, 2, 1.0, 1.0, key)
    with pytest.raises(ValueError, match=r"`private_gradients\(l2_norm_clip=.*\[0, inf\)"):
        ox.private_gradients(grads, jnp.inf, 1.0, KEY)
    with pytest.raises(
        ValueError, match=r"`private_gradients\(noise_multiplier=.*\[0, inf"
    ):
        ox.private_gradients(grads, 1.0, -1.0, KEY)
    with pytest.raises(ValueError, match=r"`private_mean\(batch_size=...\)`.*\(0, inf\)"):
        ox.private_mean(grads, 0, 1.0, 1.0, KEY)
    with pytest.raises(ValueError, match=r"^`private_gradients` needs.*has no axis"):
        ox.private_gradients({"a": jnp.ones(())}, 1.0, 1.0, KEY)
