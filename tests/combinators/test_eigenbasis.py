"""Element-wise rules in the axes of Shampoo: SOAP, and what nobody has named."""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping import gradients, run

import optimjax as ox

pytestmark = pytest.mark.slow  # Loops and decompositions take long to compile.

ADAM = ox.scale_by_adam(0.9, 0.95)


def mean(b=0.9):
    return ox.chain(ox.scale_by_momentum(b, dampening=b), ox.add_bias_correction(b))


def after_the_first(tx, grads, params=None):
    """What a rule gives that is not shown the first gradient."""
    rest = run(tx, jax.tree.map(lambda g: g[1:], grads), params)
    return jax.tree.map(lambda g, u: np.concatenate([0 * g[:1], u]), grads, rest)


def check(got, want, atol=2e-5):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, atol=atol)


def test_with_identity_bases_it_is_adam():
    grads = {"w": gradients(6, 4, 3), "b": gradients(6, 3)}
    plain = ox.in_eigenbasis(ADAM, max_dim=1)  # Too short for either side.
    check(run(plain, grads), after_the_first(ADAM, grads), 0)
    plain = ox.in_eigenbasis(ADAM, max_dim=1, skip_first=False)
    check(run(plain, grads), run(ADAM, grads), 0)
    # Gradients along the axes have the identity for eigenvectors, up to order and signs.
    grads = np.float32(gradients(6, 3, 1) * np.eye(3))
    for method in ("qr", "eigh"):
        tx = ox.in_eigenbasis(ADAM, method=method, every=2)
        check(run(tx, grads), after_the_first(ADAM, grads))


def test_other_leaves_have_the_inner_as_it_is():
    grads = {"w": gradients(6, 4, 3), "b": gradients(6, 3)}
    got = run(ox.in_eigenbasis(ADAM), grads)
    check(got["b"], after_the_first(ADAM, grads["b"]), 0)
    assert np.abs(got["w"] - after_the_first(ADAM, grads["w"])).max() > 0.1


def test_without_skipping_the_first_step_is_one_in_the_axes_of_the_parameters():
    grads = gradients(6, 4, 3)
    got = run(ox.in_eigenbasis(ADAM, skip_first=False), grads)
    check(got[0], run(ADAM, grads)[0], 0)
    assert np.abs(got[1] - run(ADAM, grads)[1]).max() > 0.1


@pytest.mark.parametrize("method", ["qr", "eigh"])
def test_momentum_inside_is_momentum_outside(method):
    """Bases come and go, but what points somewhere goes on to point there."""
    grads, how = gradients(9, 4, 3), {"every": 2, "method": method, "skip_first": False}
    rms = ox.scale_by_rms(0.95, bias_correction=True)
    outside = ox.chain(mean(), ox.in_eigenbasis(rms, **how))
    check(run(ox.in_eigenbasis(ADAM, **how), grads), run(outside, grads))


LINEAR = {
    "momentum": ox.scale_by_momentum(0.9, nesterov=True),
    "ema": ox.ema(0.9),
    "optimistic": ox.scale_by_optimistic_gradient(),
    "decay": ox.chain(ox.add_decayed_weights(0.1), ox.scale_by_momentum(0.9)),
    "by length": ox.chain(ox.clip_by_global_norm(1.0), ox.scale_by_trust_ratio(), mean()),
    "some of them": ox.partition({"w": mean(), "**": ox.sgd(0.1, momentum=0.5)}),
    "accumulation": ox.accumulate(mean(), 3),
    "now and then": ox.chain(ox.conditionally_mask(mean(), ox.every(2)), ox.scale(-1.0)),
    "way so far": ox.mechanize(ox.sgd(0.1)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_around_what_is_the_same_in_all_axes_it_changes_nothing(name):
    inner = LINEAR[name]
    grads = {"w": gradients(9, 4, 3), "b": gradients(9, 3)}
    params = {"w": gradients(4, 3, seed=1), "b": gradients(3, seed=1)}
    tx = ox.in_eigenbasis(inner, every=2)
    check(run(tx, grads, params), after_the_first(inner, grads, params))


@pytest.mark.parametrize(
    "inner", [ox.scale_by_dog(("distance", 0.1)), ox.scale_by_dowg(0.01)], ids=str
)
def test_ways_from_the_start_are_as_long_in_all_axes(inner):
    grads, params = gradients(6, 4, 3), gradients(4, 3, seed=1)

    def steps(tx):
        def step(carry, g):
            updates, state = tx.update(g, carry[1], carry[0])
            return (carry[0] - updates, state), updates

        return jax.lax.scan(step, (params, tx.init(params)), grads)[1]

    check(steps(ox.in_eigenbasis(inner, every=2, skip_first=False)), steps(inner))


def test_later_stages_take_the_gradient_that_the_inner_hands_on():
    """That before what only smooths, and behind what does more."""
    grads, rms = gradients(6, 4, 3), ox.scale_by_rms(0.9)
    for inner in (ox.scale_by_momentum(0.9), ox.chain(ox.scale(2.0), mean()), ADAM):
        tx = ox.chain(ox.in_eigenbasis(inner, max_dim=1 if inner is ADAM else 9), rms)
        check(run(tx, grads)[1:], run(ox.chain(inner, rms), grads[1:]))


@pytest.mark.parametrize("inner", [ADAM, ox.scale_by_lion(), ox.scale_by_adan()], ids=str)
def test_updates_turn_with_the_gradients(inner):
    grads = gradients(9, 4, 3)
    p, q = (np.linalg.qr(gradients(n, n, seed=n))[0] for n in (4, 3))
    tx = ox.in_eigenbasis(inner, every=2)
    check(run(tx, p @ grads @ q), p @ run(tx, grads) @ q, 1e-4)


def nodes(state):
    """All states in a state."""
    if hasattr(state, "_fields"):
        yield state
    inside = state.values() if isinstance(state, dict) else state
    if isinstance(state, dict | tuple | list):
        for node in inside:
            yield from nodes(node)


def looks_like_params(x):
    return getattr(x, "shape", None) == (2, 3)


def slots_of(node):
    return {f: x for f, x in node._asdict().items() if looks_like_params(x)}


# What keeps the parameters themselves, or what rounding has kept back of them; and what
# calls the loss, or has axes of its own before those of the parameters.
AROUND = (
    ox.KahanSummationState,
    ox.MasterWeightsState,
    ox.ScaleByBacktrackingLinesearchState,
    ox.ScaleByZoomLinesearchState,
    ox.ScaleByLbfgsState,
)


def test_states_say_of_all_their_directions_that_they_are():
    """What changes its sign with the gradients and the params, and what does not."""
    params, grads = gradients(2, 3), gradients(3, 2, 3, seed=1)
    cases = {}
    for case in [*catalogue.ONE_EACH, catalogue.stage(ox.scale_by_rms, centered=True)]:
        for node in nodes(jax.eval_shape(case().init, params)):
            asked = not hasattr(node, "eval_params") and not isinstance(node, AROUND)
            if asked and slots_of(node):
                cases.setdefault((type(node), *slots_of(node)), case)
    assert len(cases) > 20

    @jax.jit
    @jax.vmap
    def states_of(sign):
        def last(case):
            tx = case()

            def step(state, g):
                return tx.update(sign * g, state, sign * params, **case.extra)[1], None

            return jax.lax.scan(step, tx.init(sign * params), grads)[0]

        return [last(case) for case in cases.values()]

    both = states_of(jnp.array([1.0, -1.0]))
    plus, minus = (jax.tree.map(lambda x, i=i: x[i], both) for i in (0, 1))
    for (kind, *slots), a, b in zip(cases, plus, minus, strict=True):
        [x], [y] = ([n for n in nodes(s) if type(n) is kind][:1] for s in (a, b))
        for name in slots:
            odd = name in getattr(kind, "directions", ())
            slot = getattr(x, name)
            turned = -getattr(y, name) if odd else getattr(y, name)
            # Yogi's mean starts from a small number.
            np.testing.assert_allclose(slot, turned, atol=2e-6, err_msg=kind.__name__)
            assert np.abs(slot).max() > 0 or not odd, f"nothing seen of {kind.__name__}"


def test_the_extra_argument_grad_is_turned_like_the_gradient():
    @ox.transformation
    def shown():
        def update(updates, state, params=None, *, grad, **extra):
            return grad, state

        return ox.GradientTransformation(lambda params: ox.EmptyState(), update)

    grads = gradients(3, 4, 3)
    tx = ox.chain(ox.scale(2.0), ox.in_eigenbasis(shown(), every=1))
    check(run(tx, grads)[1:], grads[1:], 1e-5)


def test_what_makes_no_sense_inside_is_refused():
    with pytest.raises(ValueError, match="`in_eigenbasis` cannot have an average"):
        ox.in_eigenbasis(ox.schedule_free(ox.sgd(0.1), 0.1)).init(jnp.ones((2, 3)))
    for inner in (ox.lbfgs(), ox.lbfgs(linesearch=None), ox.scale_by_zoom_linesearch()):
        with pytest.raises(ValueError, match="`in_eigenbasis` cannot have L-BFGS inside"):
            ox.in_eigenbasis(inner).init(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"`in_eigenbasis` has no matrix .*: b"):
        ox.in_eigenbasis(ADAM).init({"b": jnp.ones(3)})


def test_a_chain_that_no_paper_has_trains():
    """Schedule-free around SOAP behind clipping, with accumulation, on digits."""
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    x, y = jnp.asarray(x[:1408] / 16, jnp.float32), jnp.asarray(y[:1408])
    rate, params = 0.03, {"a": gradients(64, 32) / 8, "b": gradients(32, 10) / 6}

    def loss(params, rows):
        logits = jax.nn.relu(x[rows] @ params["a"]) @ params["b"]
        return -jax.nn.log_softmax(logits)[jnp.arange(len(rows)), y[rows]].mean()

    def trained(inner):
        descent = ox.schedule_free(ox.chain(inner, ox.scale_by_learning_rate(rate)), rate)
        tx = ox.accumulate(ox.chain(ox.clip_by_global_norm(1.0), descent), every=2)

        def step(carry, rows):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, rows), state, params)
            return (ox.apply_updates(params, updates), state), None

        batches = jnp.tile(jnp.arange(1408).reshape(44, 32), (4, 1))
        (after, state), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
        return loss(ox.eval_params(state, after), jnp.arange(1408))

    rms = ox.scale_by_rms(0.99, bias_correction=True)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        params = jax.tree.map(jnp.asarray, params)
        soap = trained(ox.in_eigenbasis(rms, every=5))
        assert soap < 0.08
        assert soap < 0.8 * trained(rms)


@pytest.mark.parametrize(
    "inner",
    [ox.in_low_rank(ox.sgd(0.1, momentum=0.9), 1), ox.in_eigenbasis(ox.scale_by_adam())],
    ids=["in_low_rank", "in_eigenbasis"],
)
def test_what_has_axes_of_its_own_is_refused_inside(inner):
    """Their momentum would be turned by axes that it is not in."""
    with pytest.raises(ValueError, match=r"^`in_eigenbasis` cannot have another.*Put"):
        ox.in_eigenbasis(ox.chain(inner)).init({"w": jnp.ones((4, 3))})
