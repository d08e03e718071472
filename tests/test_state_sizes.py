"""The table of what optimizers keep is true of this version."""

import jax
import jax.numpy as jnp

import optimjax as ox
from tests.benchmarks import state_sizes


def test_the_document_holds_what_is_measured():
    document = state_sizes.DOCUMENT.read_text()
    renew = "renew it: python -m tests.benchmarks.state_sizes --write"
    assert document == state_sizes.renewed(document), renew


def test_sizes_are_those_of_the_arrays():
    """Adam keeps two moments and a few counts, and so say its buffers."""
    params = {"w": jnp.ones((30, 20))}
    shapes = jax.eval_shape(ox.adam(0.1).init, params)
    buffers = sum(x.nbytes for x in jax.tree.leaves(ox.adam(0.1).init(params)))
    assert state_sizes.bytes_of(shapes) == buffers
    assert 2 * 4 * 600 <= buffers < 2 * 4 * 600 + 32
