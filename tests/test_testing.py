"""The laws as a tool: run on Optax, they find by themselves what is known of it."""

import jax
import jax.numpy as jnp
import pytest

import optimjax as ox
from optimjax.testing import check_transformation

optax = pytest.importorskip("optax")

PARAMS = {"w": jnp.ones((3, 2)), "b": (jnp.ones(2), jnp.ones(()))}


@pytest.fixture(autouse=True)
def usual_promotion():
    """Optax does not run under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def verdict(tx, **kwargs):
    with pytest.raises(AssertionError) as caught:
        check_transformation(tx, PARAMS, **kwargs)
    return str(caught.value)


def test_it_finds_dtypes_that_drift_and_gradients_that_are_missing():
    said = verdict(optax.adam(1e-3))
    assert said.startswith("<chain of optax> breaks 3 laws:")
    assert "- dtypes_hold_whatever_the_precisions: " in said
    assert (
        "mu['w']: ((3, 2), dtype('float32'), False), where ((3, 2), dtype(bfloat16)" in said
    )
    assert "- missing_gradients_are_left_out: " in said
    assert "- derivatives_at_zero_are_finite: " in said


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (optax.contrib.dowg, "the state shares a buffer with the params"),
        (lambda: optax.contrib.mechanize(optax.sgd(0.1)), "with the params"),
        (optax.contrib.cocob, "two leaves of the state share one buffer"),
    ],
    ids=["dowg", "mechanize", "cocob"],
)
def test_it_finds_fresh_states_that_share_buffers(make, what):
    assert what in verdict(make(), laws=["a_fresh_state_can_be_donated"])


def test_it_finds_nan_of_zero_gradients():
    said = verdict(optax.contrib.prodigy(), laws=["zero_gradients_give_finite_updates"])
    assert said.startswith("<prodigy of optax> breaks 1 law:")


def test_it_has_nothing_to_say_of_what_keeps_the_laws():
    """Clipping in Optax, where all leaves are there and of one dtype."""
    laws = ["updates_keep_structure_shapes_and_dtypes", "nothing_given_is_changed"]
    check_transformation(optax.clip(1.0), PARAMS, laws=laws)


def afraid(shape, dtype="float32"):
    """A rule that turns everything to NaN as soon as there is a leaf like this."""

    def update(updates, state, params=None, **extra):
        bad = any(u.shape == shape and u.dtype == dtype for u in jax.tree.leaves(updates))
        return jax.tree.map(lambda u: u * (jnp.nan if bad else 1.0), updates), state

    return ox.GradientTransformation(lambda params: (), update)


@pytest.mark.parametrize(
    ("shape", "smallest"),
    [((3, 2), "{w: float32[3, 2]}"), ((2,), "{b/0: float32[2]}")],
)
def test_the_example_is_as_small_as_the_fault_allows(shape, smallest):
    said = verdict(afraid(shape), laws=["zero_gradients_give_finite_updates"])
    assert f"The same with params {smallest}." in said


def test_an_example_is_cut_to_a_number_where_any_leaf_shows_the_fault():
    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda u: u / 0.0, updates), state

    said = verdict(
        ox.GradientTransformation(lambda params: (), update),
        laws=["zero_gradients_give_finite_updates"],
    )
    assert "The same with params {b/0: float32[]}." in said
