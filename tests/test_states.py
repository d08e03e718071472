"""What is in a state: found, replaced, named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax import selection, states

PARAMS = {"encoder": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "bias": jnp.ones(1)}


def test_states_are_found_and_replaced_wherever_they_are():
    tx = ox.partition(
        {"**/bias": ox.adam(0.1), "**": ox.masked(ox.chain(ox.adam(0.1)), "**")}
    )
    state = tx.init(PARAMS)
    found = states.states_in(state, ox.ScaleByRmsState)
    assert [selection.text(p) for p in found] == [
        "inner_states/**/inner_state/adam/scale_by_rms",
        "inner_states/**/bias/scale_by_rms",
    ]
    seen = []

    def forget(path, s):
        seen.append(path)
        return s._replace(count=s.count + 7)

    new = states.map_states(forget, state, ox.ScaleByRmsState)
    assert seen == list(found)
    counts = [s.count for s in states.states_in(new, ox.ScaleByRmsState).values()]
    assert counts == [7, 7]
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_states_inside_of_states_of_the_same_kind_are_found_too():
    tx = ox.measure(ox.chain(ox.measure(ox.sgd(0.1), "cosine")), "update_norm")
    found = states.states_in(tx.init(PARAMS), ox.MeasureState)
    assert {selection.text(p) for p in found} == {"", "inner_state/measure"}


def test_names_are_as_short_as_they_may_be():
    inner = {("s", "a", "t", "rate"): 1, ("s", "b", "t", "rate"): 2, ("rate",): 3}
    assert states.shortest_names(inner) == {"a/t/rate": 1, "b/t/rate": 2, "rate": 3}
    values = {("a", "rate"): 1, ("b", "rate"): 2, ("b", "decay"): 3}
    assert states.shortest_names(values) == {"a/rate": 1, "b/rate": 2, "decay": 3}


def test_bits_of_bfloat16_are_taken_for_nothing_else(tmp_path):
    params = {"w": jnp.ones(2)}
    saved, other = (ox.adam(0.1, mu_dtype=d) for d in (jnp.bfloat16, jnp.float16))
    _, state = saved.update({"w": jnp.float32([15, -30])}, saved.init(params), params)
    np.savez(tmp_path / "state.npz", **ox.state_to_dict(state))
    with np.load(tmp_path / "state.npz") as stored:
        same = ox.state_from_dict(stored, saved.init(params))
        np.testing.assert_array_equal(same["scale_by_momentum"].momentum["w"], [1.5, -3])
        with pytest.raises(ValueError, match=r"momentum/w is \|V2\[2\] where float16"):
            ox.state_from_dict(stored, other.init(params))
