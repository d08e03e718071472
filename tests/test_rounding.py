"""Rounding: to nearest where a compiler might not, and at random."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

import optimjax as ox
from optimjax import numerics

LOW = [jnp.bfloat16, jnp.float16]
KEY = jax.random.key(3)


def all_finite(dtype):
    """Every finite number of a dtype of 16 bits, in order, in float32."""
    every = np.arange(2**16, dtype=np.uint16).view(jnp.dtype(dtype)).astype(np.float32)
    every = np.unique(every[np.isfinite(every)])
    # The CPU takes float32 numbers below the normal ones for zero.
    return every[(np.abs(every) >= np.finfo(np.float32).tiny) | (every == 0)]


def sums(dtype, rng, n=20_000):
    """Numbers of float32 between those of a dtype, and the pair around each."""
    every = all_finite(dtype)
    i = rng.integers(len(every) - 1, size=n)
    low, high = every[i], every[i + 1]
    x = (low + (high - low) * rng.random(n)).astype(np.float32)
    inside = (low < x) & (x < high)
    return x[inside], low[inside], high[inside]


def rounded_at_random(x, dtype, key):
    """By `apply_updates`: the whole of `x` is the update, of a parameter of zero."""
    return ox.apply_updates(jnp.zeros(x.shape, dtype), jnp.asarray(x), key=key)


@pytest.mark.parametrize("dtype", LOW)
def test_rounded_is_what_a_cast_gives_but_not_what_a_compiler_leaves_out(dtype, rng):
    x, _, _ = sums(dtype, rng)
    ends = [0.0, -0.0, 65519.9, 65520.0, 3.4e38, -3.4e38, np.inf, np.nan]
    x = np.concatenate([x, all_finite(dtype), np.float32(ends)])
    with np.errstate(over="ignore"):
        want = x.astype(jnp.dtype(dtype)).astype(np.float32)
    got = jax.jit(numerics.rounded, static_argnums=1)(x, dtype)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))
    twice = numerics.rounded(jax.lax.complex(jnp.asarray(x), jnp.asarray(x)), dtype)
    np.testing.assert_array_equal(twice.imag, want)


def test_rounding_has_the_derivative_of_what_it_rounds():
    p, u = jnp.ones((), jnp.bfloat16), jnp.float32(0.001)
    for key in (None, KEY):
        new = jax.grad(
            lambda u, k=key: ox.apply_updates(p, u, key=k).astype(jnp.float32) * 3
        )
        assert new(u) == 3.0
    assert jax.grad(lambda x: numerics.rounded(x, jnp.float16))(jnp.float32(1e-7)) == 1


@pytest.mark.parametrize("dtype", LOW)
def test_at_random_it_is_one_of_the_two_neighbours(dtype, rng):
    x, low, high = sums(dtype, rng)
    got = np.asarray(rounded_at_random(x, dtype, KEY), np.float32)
    assert ((got == low) | (got == high)).all()
    assert (got == low).any()
    assert (got == high).any()


@pytest.mark.parametrize(
    ("p", "u", "dtype"),
    [
        (1.0, 1e-4, jnp.bfloat16),
        (-1.0, 3e-3, jnp.bfloat16),  # The numbers below 1 are nearer to it.
        (1.0, -1e-3, jnp.bfloat16),
        (3e-30, 1e-33, jnp.bfloat16),
        (1.0, 1e-5, jnp.float16),
        (0.0, 2e-8, jnp.float16),  # The smallest is 6e-8.
        (0.0, -2e-9, jnp.float16),
        (3e-6, 1e-8, jnp.float16),
    ],
)
def test_the_mean_is_the_sum(p, u, dtype):
    n = 400_000
    p, u = jnp.full(n, p, dtype), jnp.full(n, u, jnp.float32)
    total = np.float64(np.float32(p[0]) + np.float32(u[0]))
    got = np.asarray(ox.apply_updates(p, u, key=KEY), np.float64)
    low, high = got.min(), got.max()
    assert low < total < high
    # A number of this kind has the standard deviation of a biased coin.
    chance = (total - low) / (high - low)
    deviation = (high - low) * np.sqrt(chance * (1 - chance) / n)
    assert abs(got.mean() - total) < 3 * deviation


def test_low_precision_updates_are_summed_in_float32():
    p, u = jnp.ones(100_000, jnp.bfloat16), jnp.full(100_000, 1e-3, jnp.bfloat16)
    got = np.asarray(ox.apply_updates(p, u, key=KEY), np.float64) - 1
    assert abs(got.mean() - float(u[0])) < 3 * np.sqrt(1e-3 * 2**-7 / 100_000)


@pytest.mark.parametrize("dtype", LOW)
def test_what_needs_no_rounding_and_what_overflows_is_as_ever(dtype):
    largest = float(jnp.finfo(dtype).max)
    half = float(jnp.nextafter(jnp.asarray(largest, dtype), jnp.asarray(0, dtype)))
    half = (largest - half) / 2
    u = [0.0, -0.0, 0.5, largest, -largest, np.inf, -np.inf, np.nan]
    u += [largest + 0.99 * half, largest + half, -largest - 1.5 * half, 3.4e38]
    u = jnp.tile(jnp.float32(u), (50, 1))
    want = ox.apply_updates(jnp.zeros(u.shape, dtype), u)
    got = rounded_at_random(u, dtype, KEY)
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


def test_leaves_as_wide_as_the_sum_are_the_same_bit_for_bit(rng):
    params = {"w": jnp.float32(rng.normal(size=100)), "z": jnp.ones(2, jnp.complex64)}
    updates = {"w": jnp.float32(rng.normal(size=100)), "z": jnp.full(2, 1e-9 + 1e-9j)}
    updates["z"] = updates["z"].astype(jnp.complex64)
    got = ox.apply_updates(params, updates, key=KEY)
    want = ox.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_float32_with_float64_updates_and_complex_parts_are_rounded_apart():
    with enable_x64():
        n = 100_000
        p = jnp.zeros(n, jnp.complex64)
        part = 1 + 2.0**-25  # A quarter of the way to the next.
        u = jnp.full(n, part + 1j * part)
        got = np.asarray(ox.apply_updates(p, u, key=KEY))
        assert got.dtype == np.complex64
        real, imag = got.real > 1, got.imag > 1
        for share, want in ((real, 1 / 4), (imag, 1 / 4), (real & imag, 1 / 16)):
            assert abs(share.mean() - want) < 3 * np.sqrt(want * (1 - want) / n)


def test_a_leaf_does_not_care_which_others_have_updates():
    half = jnp.ones(99, jnp.bfloat16)
    params = {"a": {"x": half, "y": half}, "b": half}
    u = jnp.full(99, 1e-3)
    both = ox.apply_updates(params, {"a": {"x": u, "y": u}, "b": u}, key=KEY)
    for missing in (None, {"x": None, "y": None}):
        alone = ox.apply_updates(params, {"a": missing, "b": u}, key=KEY)
        np.testing.assert_array_equal(alone["b"], both["b"])
        assert alone["a"]["x"] is params["a"]["x"]
    same = ox.apply_updates([params["b"]] * 2, [u] * 2, key=KEY)
    assert (same[0] != same[1]).any()


def test_keys_are_new_or_old_and_one_and_under_jit_vmap_and_scan_the_same():
    p, u = jnp.ones(50, jnp.bfloat16), jnp.full(50, 1e-3)
    want = ox.apply_updates(p, u, key=jax.random.key(7))
    again = ox.apply_updates(p, u, key=jax.random.PRNGKey(7))
    np.testing.assert_array_equal(again, want)
    keys = jax.random.split(jax.random.key(7), 4)
    each = jnp.stack([ox.apply_updates(p, u, key=k) for k in keys])
    step = jax.jit(lambda k: ox.apply_updates(p, u, key=k))
    np.testing.assert_array_equal(jax.vmap(step)(keys), each)
    scanned = jax.lax.scan(lambda c, k: (c, step(k)), 0, keys)[1]
    np.testing.assert_array_equal(scanned, each)
    for wrong in (7, keys, jnp.ones(2), "key"):
        with pytest.raises(TypeError, match=r"`apply_updates\(key=...\)` must be one key"):
            ox.apply_updates(p, u, key=wrong)
    assert ox.apply_updates({}, {}, key=KEY) == {}


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import optimjax as ox

assert len(jax.devices()) == 8
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
rng = np.random.default_rng(0)
params = {"w": jnp.ones((16, 8), jnp.bfloat16), "b": jnp.ones(16, jnp.float16)}
updates = jax.tree.map(lambda p: jnp.float32(1e-3 * rng.normal(size=p.shape)), params)
step = jax.jit(lambda p, u, k: ox.apply_updates(p, u, key=k))
want = step(params, updates, jax.random.key(0))
assert (want["w"] != 1).any()
for w, b in ((P("x"), P()), (P(None, "y"), P("y")), (P("y", "x"), P(("x", "y")))):
    shardings = {"w": NamedSharding(mesh, w), "b": NamedSharding(mesh, b)}
    p, u = (jax.device_put(t, shardings) for t in (params, updates))
    got = step(p, u, jax.random.key(0))
    assert got["w"].sharding.is_equivalent_to(shardings["w"], 2)
    jax.tree.map(np.testing.assert_array_equal, got, want)
print("the same")
"""


def test_the_same_numbers_however_arrays_are_sharded():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "the same\n", done.stderr
