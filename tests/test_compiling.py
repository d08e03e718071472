"""A step as one compiled program, in the memory of what it replaces."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimjax as ox

SHAPES = {"a": (40, 30), "b": (200,), "c": (3, 50)}


def fresh():
    return {k: jnp.ones(shape, jnp.float32) for k, shape in SHAPES.items()}


@pytest.mark.parametrize("tx", [ox.adamw(0.1), optax.adamw(0.1)], ids=["ours", "Optax's"])
def test_it_is_update_and_apply(tx):
    step, params, state = ox.compiled_step(tx), fresh(), tx.init(fresh())
    want, want_state = fresh(), tx.init(fresh())
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            grads = jax.tree.map(jnp.sin, want)
            params, state = step(grads, state, params)
            updates, want_state = tx.update(grads, want_state, want)
            want = ox.apply_updates(want, updates)
    for got, expected in zip(
        jax.tree.leaves((params, state)), jax.tree.leaves((want, want_state)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "tx", [ox.sgd(0.1, 0.9), ox.adam(0.1), ox.pack_small_leaves(ox.adam(0.1))], ids=repr
)
def test_params_and_state_are_written_over(tx):
    params, grads = fresh(), fresh()
    state = tx.init(params)
    compiled = ox.compiled_step(tx).lower(grads, state, params).compile()
    nbytes = sum(x.nbytes for x in jax.tree.leaves((params, state)))
    assert compiled.memory_analysis().alias_size_in_bytes == nbytes
    ox.compiled_step(tx)(grads, state, params)
    assert all(x.is_deleted() for x in jax.tree.leaves((params, state)))
    assert not any(x.is_deleted() for x in jax.tree.leaves(grads))


def test_no_result_falls_on_what_is_still_to_be_read():
    tx, params = ox.adam(0.1), fresh()
    text = ox.compiled_step(tx).lower(params, tx.init(params), params).compile().as_text()
    copies = [
        line for line in text.splitlines() if " copy(" in line and "f32[40,30]" in line
    ]
    assert copies == []


def test_it_is_compiled_once():
    tx = ox.polyak_sgd()
    traces = []

    def counted(updates, state, params=None, **extra):
        traces.append(1)
        return tx.update(updates, state, params, **extra)

    step = ox.compiled_step(ox.GradientTransformation(tx.init, counted))
    params, state = fresh(), tx.init(fresh())
    for value in (3.0, 2.0, 1.0):
        params, state = step(fresh(), state, params, value=jnp.float32(value))
    assert len(traces) == 1


def test_functions_among_the_extra_arguments_are_compiled_in():
    tx, params = ox.lbfgs(), jnp.array([3.0, -2.0])
    loss = lambda p: jnp.sum(jnp.array([1.0, 10.0]) * p * p)
    step, state = ox.compiled_step(tx), tx.init(params)
    for _ in range(8):
        value, grads = jax.value_and_grad(loss)(params)
        params, state = step(grads, state, params, value=value, grad=grads, value_fn=loss)
    assert loss(params) < 1e-8


def test_it_shows_what_it_steps():
    assert repr(ox.compiled_step(ox.adam(0.1))) == "compiled_step(adam(0.1))"


def test_what_is_wrong_is_named():
    with pytest.raises(TypeError, match=r"`compiled_step` takes transf.*`tx` is .*`adam\("):
        ox.compiled_step(ox.adam)
    tx = ox.sgd(0.1)
    params = {"w": jnp.ones(2), "f": jnp.tanh}
    with pytest.raises(TypeError, match=r"^`compiled_step` needs arrays, .*\['f'\]"):
        ox.compiled_step(tx)({"w": jnp.ones(2), "f": None}, tx.init(jnp.ones(2)), params)


@pytest.mark.parametrize("tx", [ox.soap(0.1), ox.shampoo(0.1)], ids=str)
def test_decompositions_are_compiled_once_for_each_size(tx):
    def decompositions(count):
        params = {f"w{i}": jax.ShapeDtypeStruct((4, 6), jnp.float32) for i in range(count)}
        state = jax.eval_shape(tx.init, params)
        program = ox.compiled_step(tx).lower(params, state, params).as_text()
        return len(re.findall(r"custom_call.*(geqrf|syevd)", program))

    assert decompositions(2) == decompositions(5) > 0
