"""The lift: what a rule is given, what becomes of what it returns, how often it runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax._checks import Refusal
from optimjax.tree import broadcast_prefix, leafwise, slot_like


def scaled(u, *, factor):
    return u * factor


def counted(u, s, *, weight):
    return u + s, s + weight * u


def test_a_rule_sees_one_real_dtype_and_slots_keep_theirs():
    seen = []

    def rule(u, s, p):
        seen.append((u.dtype, s.dtype, p.dtype))
        return u, s + u

    u, s = leafwise(
        rule,
        jnp.ones(2, jnp.bfloat16),
        jnp.zeros(2, jnp.bfloat16),
        reads=(jnp.ones(2, jnp.float16),),
    )
    assert seen == [(jnp.float32,) * 3]
    assert (u.dtype, s.dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_a_leaf_without_a_gradient_keeps_its_slots():
    updates, state = (
        {"a": jnp.ones(1), "b": None},
        {"a": jnp.ones(1), "b": jnp.full(1, 7.0)},
    )
    u, s = leafwise(counted, updates, state, weight=2.0)
    assert u["b"] is None
    assert s["b"] is state["b"]
    np.testing.assert_array_equal(s["a"], [3.0])


def test_a_slot_that_is_not_in_use_stays_none():
    u, s = leafwise(lambda u, s: (u if s is None else s, s), {"a": jnp.ones(1)}, None)
    assert s is None
    np.testing.assert_array_equal(u["a"], [1.0])


def test_scalars_are_cast_to_the_dtype_of_each_leaf():
    tree = {"a": jnp.ones(1), "b": jnp.ones(1, jnp.bfloat16)}
    got = leafwise(scaled, tree, factor=jnp.float32(1 + 2.0**-10))
    np.testing.assert_array_equal(got["a"], [1 + 2.0**-10])
    assert got["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("first", "second"),
    [(0.0, -0.0), (2.0, 3.0), (1.0, True), (jnp.sin, jnp.cos)],
    ids=["zeros", "numbers", "kinds", "functions"],
)
def test_kernels_are_not_mixed_up_by_arguments_that_compare_equal(first, second):
    def divided(x):
        if callable(x):
            return x(1.0)
        return np.divide(1.0, float(x)) if isinstance(x, float) else float("nan")

    def apply(x):
        return leafwise(inverse, jnp.ones(1), x=x)[0]

    with np.errstate(divide="ignore"):
        for x in (first, second, first):
            np.testing.assert_allclose(apply(x), divided(x), rtol=1e-6)


def inverse(u, *, x):
    if callable(x):
        return x(u)
    return u / x if isinstance(x, float) else u * jnp.nan


def test_a_closure_is_never_taken_for_another():
    for k in (2.0, 3.0):
        got = leafwise(lambda u, k=k: u * k, jnp.ones(1))
        np.testing.assert_array_equal(got, [k])

    def times(k):
        return lambda u: u * k

    for k in (2.0, 3.0):
        np.testing.assert_array_equal(leafwise(times(k), jnp.ones(1)), [k])


class Bound:
    factor = 1.0

    def rule(self, u):
        return self.factor * u


def test_methods_and_defaults_are_not_cached_with_what_they_hold():
    bound = Bound()
    for factor in (2.0, 3.0):
        bound.factor = factor
        np.testing.assert_array_equal(leafwise(bound.rule, jnp.ones(1)), [factor])

    def total(k):
        return jnp.sum(leafwise(lambda u, k=k: k * u, jnp.ones(1)))

    with jax.checking_leaks():
        assert jax.jit(total)(2.0) == 2.0


def test_a_rule_that_changes_a_shape_is_refused():
    with pytest.raises(Refusal, match=r"returned shape \(\) for an array of shape \(2,\)"):
        leafwise(jnp.sum, jnp.ones(2))


def test_a_rule_may_close_over_a_traced_number():
    def total(k):
        return jnp.sum(leafwise(lambda u: u * k, {"a": jnp.ones(3)})["a"])

    with jax.checking_leaks():
        np.testing.assert_allclose(jax.vmap(total)(jnp.arange(3.0)), [0.0, 3.0, 6.0])
        assert jax.jit(jax.grad(total))(2.0) == 3.0


def test_a_slot_of_another_structure_or_shape_is_refused_by_key_path():
    with pytest.raises(Refusal, match=r"lack leaf \['b'\]"):
        leafwise(
            counted, {"a": jnp.ones(1)}, {"a": jnp.ones(1), "b": jnp.ones(1)}, weight=1.0
        )
    with pytest.raises(Refusal, match=r"\(2,\) at the leaf \['a'\].*\(1,\)"):
        leafwise(counted, {"a": jnp.ones(2)}, {"a": jnp.ones(1)}, weight=1.0)
    # A slot is never stretched, though a number that is read may stand for a whole leaf.
    with pytest.raises(Refusal, match=r"\(2,\)"):
        leafwise(counted, jnp.ones(2), jnp.ones(()), weight=1.0)


@pytest.mark.parametrize(
    ("params", "dtype", "real", "want"),
    [
        (jnp.float32, None, False, jnp.float32),
        (jnp.bfloat16, None, False, jnp.float32),
        (jnp.float16, None, True, jnp.float32),
        (jnp.float32, jnp.bfloat16, False, jnp.bfloat16),
        (jnp.complex64, None, False, jnp.complex64),
        (jnp.complex64, None, True, jnp.float32),
        (jnp.complex64, jnp.float32, False, jnp.complex64),
    ],
    ids=str,
)
def test_a_fresh_slot_has_the_dtype_of_the_rule(params, dtype, real, want):
    p = {"w": jnp.ones((2, 3), params), "none": None}
    slot = slot_like(p, 0.5, dtype=dtype, real=real)
    assert slot["w"].dtype == want
    assert not slot["w"].weak_type
    assert slot["none"] is None
    np.testing.assert_array_equal(slot["w"], 0.5)


def test_a_prefix_reaches_every_leaf_below_and_passes_none_over():
    tree = {"a": [1.0, None, (2.0,)], "b": 3.0}
    got = broadcast_prefix({"a": True, "b": False}, tree, "mask")
    assert got == {"a": [True, None, (True,)], "b": False}
    assert broadcast_prefix(True, tree, "mask")["b"] is True
    with pytest.raises(Refusal, match="mask that does not match"):
        broadcast_prefix({"a": True}, tree, "mask")


def test_the_chain_says_who_refused():
    tx = ox.chain(ox.scale(1.0), ox.scale_by_momentum(0.9))
    with pytest.raises(ValueError, match=r"^`scale_by_momentum` got updates"):
        tx.update({"a": jnp.ones(2)}, tx.init({"a": jnp.ones(3)}))
