"""Random trees, dtypes, hyperparameters and chains, by Hypothesis; judged by chex."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import optimjax as ox
from optimjax import strategies

# Every example compiles something, so that few examples already take seconds.
SETTINGS = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)

TREES = strategies.trees()
DECAYS = st.floats(0, 1, exclude_max=True, width=32)
STAGES = st.one_of(
    st.builds(ox.identity),
    st.builds(ox.scale, st.floats(-2, 2)),
    st.builds(ox.scale_by_momentum, DECAYS, nesterov=st.booleans(), dampening=DECAYS),
    st.builds(ox.ema, DECAYS, debias=st.booleans()),
    st.builds(ox.add_bias_correction, st.floats(0, 0.99), nesterov=st.booleans()),
    st.builds(
        ox.scale_by_rms,
        DECAYS,
        st.floats(1e-6, 1.0),
        centered=st.booleans(),
        bias_correction=st.booleans(),
        eps_in_sqrt=st.booleans(),
        amsgrad=st.sampled_from([None, "raw", "corrected"]),
    ),
    st.builds(ox.scale_by_rss, st.floats(0, 1), st.floats(1e-6, 1.0)),
    st.builds(ox.scale_by_infinity_moment, DECAYS, st.floats(1e-6, 1.0)),
    st.builds(ox.clip, st.floats(0, 10)),
    st.builds(ox.clip_by_global_norm, st.floats(0, 10)),
    st.builds(ox.add_decayed_weights, st.floats(0, 0.1)),
    st.builds(ox.scale_by_sign),
    st.builds(ox.zero_nans),
)


@SETTINGS
@hypothesis.given(TREES, st.lists(STAGES, max_size=4))
def test_a_chain_keeps_trees_and_states_and_stays_finite(params, stages):
    tx = ox.chain(*stages)
    state = tx.init(params)
    before = jax.tree.map(np.array, params)
    for _ in range(2):
        updates, new_state = tx.update(params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        # In float32: a float16 result may overflow by its nature.
        chex.assert_tree_all_finite([x for x in jax.tree.leaves(new_state) if x.size])
        state = new_state
    chex.assert_trees_all_equal(before, jax.tree.map(np.array, params))


@SETTINGS
@hypothesis.given(TREES, st.lists(STAGES, max_size=5), st.data())
def test_a_chain_is_associative(params, stages, data):
    cut = data.draw(st.integers(0, len(stages)))
    flat = ox.chain(*stages)
    nested = ox.chain(ox.chain(*stages[:cut]), ox.chain(*stages[cut:]))
    u, _ = flat.update(params, flat.init(params), params)
    v, _ = nested.update(params, nested.init(params), params)
    chex.assert_trees_all_close(
        *(jax.tree.map(lambda x: x.astype(jnp.float32), t) for t in (u, v)), rtol=1e-5
    )


@SETTINGS
@hypothesis.given(TREES, st.floats(0, 5))
def test_the_global_norm_is_that_of_the_concatenation(tree, scale):
    tree = jax.tree.map(lambda x: x * jnp.asarray(scale, x.dtype), tree)
    flat = [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
    want = np.linalg.norm(np.concatenate([np.zeros(1), *flat]))
    np.testing.assert_allclose(ox.tree.global_norm(tree), want, rtol=1e-6, atol=1e-30)


@SETTINGS
@hypothesis.given(TREES, st.floats(1, 8) | st.sampled_from([1, 2, np.inf]))
def test_reductions_of_trees_are_those_of_the_concatenation(tree, ord):
    flat = [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
    flat = np.concatenate([np.zeros(0), *flat])
    near = {"rtol": 2e-6, "atol": 1e-6}  # Sums may cancel.
    np.testing.assert_allclose(ox.tree.sum(tree), flat.sum(), **near)
    np.testing.assert_allclose(ox.tree.vdot(tree, tree), flat @ flat, **near)
    want = np.linalg.norm(flat, ord) if flat.size else 0
    np.testing.assert_allclose(ox.tree.norm(tree, ord), want, **near)
    assert ox.tree.size(tree) == flat.size
    if flat.size:
        assert float(ox.tree.max(tree)) == flat.max()
        assert float(ox.tree.min(tree)) == flat.min()


@SETTINGS
@hypothesis.given(TREES, st.floats(-2, 2, width=16))
def test_trees_are_a_vector_space(tree, scalar):
    zero = ox.tree.zeros_like(tree)
    chex.assert_trees_all_equal(ox.tree.add(tree, zero), tree)
    chex.assert_trees_all_equal(ox.tree.sub(tree, tree), zero)
    chex.assert_trees_all_equal(
        ox.tree.add_scale(zero, scalar, tree),
        ox.tree.add(ox.tree.scale(scalar, tree), zero),
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(ox.tree.scale(scalar, tree), tree)
    twice = ox.tree.add(tree, tree)
    chex.assert_trees_all_equal(twice, ox.tree.scale(2, tree))
    assert ox.tree.allclose(twice, ox.tree.scale(2.0, tree))


@SETTINGS
@hypothesis.given(
    st.lists(st.lists(st.floats(-8, 8, width=16), min_size=3, max_size=3), min_size=1),
    st.floats(0, 16),
)
def test_no_example_moves_a_clipped_sum_by_more_than_the_bound(rows, bound):
    grads = np.float32(rows)
    for clip in (ox.per_example_global_norm_clip, ox.per_example_layer_norm_clip):
        halves = {"a": jnp.asarray(grads[:, :1]), "b": jnp.asarray(grads[:, 1:])}
        whole, _ = clip(halves, bound)
        rest, _ = clip(jax.tree.map(lambda x: x[1:], halves), bound)
        moved = ox.tree.norm(ox.tree.sub(whole, rest))
        assert moved <= bound + 1e-4 * (1 + len(rows))


@SETTINGS
@hypothesis.given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_decay_is_taken_exactly_if_it_is_in_its_interval(decay):
    if 0 <= decay < 1:
        ox.ema(decay)
    else:
        with np.testing.assert_raises_regex(ValueError, r"must lie in \[0, 1\)"):
            ox.ema(decay)


@SETTINGS
@hypothesis.given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 50), st.integers(1, 50))
def test_a_linear_schedule_stays_between_its_ends(start, end, begin, steps):
    values = ox.linear_schedule(start, end, steps, begin)(jnp.arange(120))
    low, high = min(start, end), max(start, end)
    assert (values >= low - 1e-6).all()
    assert (values <= high + 1e-6).all()
    assert (jnp.diff(values) * np.sign(end - start) >= -1e-6).all()


class Variants(chex.TestCase):
    """The same numbers with `jit`, without it, and on the device, as chex varies them."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    @parameterized.parameters("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamax")
    def test_a_step_is_the_same_however_it_is_run(self, name):
        tx = getattr(ox, name)(0.1)
        params = {"w": jnp.asarray([[1.0, -2.0]]), "b": jnp.asarray([0.5])}
        state = tx.init(params)
        updates, new_state = self.variant(tx.update)(params, state, params)
        want, _ = jax.jit(tx.update)(params, state, params)
        chex.assert_trees_all_close(updates, want, rtol=1e-6)
        chex.assert_trees_all_equal_structs(new_state, state)
