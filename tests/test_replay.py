"""The real peers, replayed: same parameters, same gradients, 30 steps.

Where a peer's own bias correction is off in float32, ours need not follow; both are then
held against the oracle in float64, and ours has to be the nearer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import peers
import pytest
import recordings
from precision import enable_x64
from trajectories import trajectory

import optimjax as ox

# A rounding is 2^-24; 20 of them, at twice that, in 30 steps of some five operations.
TOLERANCE = 20 * 2**-23


def inputs(which, leaves):
    """The recorded initial parameters and gradients, as JAX's arrays."""
    params, grads = recordings.initial(leaves), recordings.gradients(which, leaves)
    return jax.tree.map(jnp.asarray, (params, grads))


def replay(tx, which, leaves, sparse=False):
    """The trajectory that `tx` takes, recorded as the peers' are."""
    params, grads = inputs(which, leaves)
    extra = {}
    if sparse:
        extra["present"] = {k: recordings.INPUTS[f"sparse_mask/{k}"] for k in leaves}
    path = trajectory(tx, params, grads, **extra)
    return {k: np.concatenate([np.asarray(params[k])[None], path[k]]) for k in leaves}


def ours(peer, case):
    """Our spelling of a recorded case, or None if the library has no such class yet."""
    meta = recordings.cases(peer)[case]
    if meta["cls"] == "expr":
        return peers.OPTAX_EXPRESSIONS[case]()
    make = peers.CLASSES[peer].get(meta["cls"])
    if make is None:
        return None
    tx = make(**meta["kwargs"])
    clip, average = meta["opts"].get("clip"), meta["opts"].get("average")
    tx = tx if clip is None else peers.clipped(clip, tx)
    return tx if average is None else peers.averaged(average, tx)


CASES = [
    (peer, case)
    for peer in peers.CLASSES
    for case, meta in recordings.cases(peer).items()
    if meta["cls"] not in peers.NOT_YET[peer].split()
]
# Their float32 bias corrections are off by up to 2e-5; see the tests below.
INEXACT = {
    "optax": "adam adamw nadam amsgrad adamax nadamw adamaxw lamb adabelief yogi adan "
    "contrib.ademamix contrib.muon contrib.schedule_free_adamw optimistic_adam_v2 "
    "contrib.prodigy",
    "keras_jax": "Adam AdamW Nadam Adamax Lamb",
    "tfkeras2": "Adam AdamW Nadam Adamax",
    "tf1": "Adam",
    "torch": "",
}


def tolerance(peer, case):
    cls = recordings.cases(peer)[case]["cls"]
    if cls == "radam":
        return 2e-3  # Its rho is a small difference of large numbers.
    if cls == "contrib.dadapt_adamw":
        # The error of the bias correction is in the rate, and in what it finds.
        return 4e-5
    if (peer, cls) == ("torch", "Muon"):
        return 5e-2  # It rounds to bfloat16 at every operation; see the test below.
    # PyTorch multiplies an entry without gradient by float32(1 - 3e-5) thirty times, and
    # drifts by 12 units; we drift by 10 the other way, each step rounded to nearest.
    others = ("expr.clip_global_adam", "AdamW.lm", "rmsprop.bias_correction")
    return 2e-5 if cls in INEXACT[peer].split() or case in others else TOLERANCE


def test_every_recorded_class_is_replayed_or_known_to_be_missing():
    for peer in peers.CLASSES:
        recorded = {m["cls"] for m in recordings.cases(peer).values()} - {"expr"}
        missing = set(peers.NOT_YET[peer].split())
        assert recorded == set(peers.CLASSES[peer]) | missing
        assert not missing & set(peers.CLASSES[peer])


@pytest.mark.parametrize("which", recordings.SETS)
@pytest.mark.parametrize(("peer", "case"), CASES)
def test_follows_the_recorded_trajectory(peer, case, which):
    tx = ours(peer, case)
    leaves = recordings.cases(peer)[case]["leaves"]
    sparse = recordings.cases(peer)[case]["opts"].get("sparse", False)
    got = replay(tx, which, leaves, sparse)
    want = recordings.trajectory(peer, case, which)
    for leaf in leaves:
        assert recordings.error(got[leaf], want[leaf]) <= tolerance(peer, case), leaf


@pytest.mark.parametrize("which", recordings.SETS)
def test_muon_of_torch_goes_the_same_way_but_for_its_roundings(which):
    """In units of the way, not of the parameters: a wrong factor would be 0.15 of it."""
    got = replay(ours("torch", "Muon.default"), which, ["w", "t"])
    want = recordings.trajectory("torch", "Muon.default", which)
    for leaf in want:
        way = np.abs(want[leaf] - want[leaf][0]).max()
        assert np.abs(got[leaf] - want[leaf]).max() <= 0.03 * way, leaf


AVERAGED = [
    (peer, case)
    for peer in peers.CLASSES
    for case, meta in recordings.cases(peer).items()
    if "average" in meta["opts"]
]


@pytest.mark.parametrize("which", recordings.SETS)
@pytest.mark.parametrize(("peer", "case"), AVERAGED)
def test_follows_the_recorded_average(peer, case, which):
    tx, leaves = ours(peer, case), recordings.cases(peer)[case]["leaves"]

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = ox.apply_updates(params, updates)
        return (params, state), ox.eval_params(state, params)

    params, grads = inputs(which, leaves)
    got = jax.lax.scan(step, (params, tx.init(params)), grads)[1]
    for leaf in leaves:
        want = recordings.arrays(peer)[f"{case}/{which}/avg.{leaf}"]
        assert recordings.error(got[leaf], want) <= TOLERANCE, leaf


def in_turns_of(sign, step):
    """What Optax 0.2.8 makes of a step of Rprop: the one before, unless it just turned."""
    late = np.concatenate([np.zeros_like(step[:1]), step[:-1]])
    return np.where(sign < 0, 0, late)


@pytest.mark.parametrize("which", recordings.SETS)
def test_rprop_of_optax_is_ours_one_step_late(which):
    leaves = recordings.cases("optax")["rprop.lr0.01"]["leaves"]
    path = replay(ox.rprop(0.01), which, leaves)
    want = recordings.trajectory("optax", "rprop.lr0.01", which)
    grads = recordings.gradients(which, leaves)
    for leaf in leaves:
        step = np.diff(path[leaf].astype(np.float64), axis=0)
        # A step of zero with a gradient: it has just turned.
        turned = np.where((step == 0) & (grads[leaf] != 0), -1.0, 1.0)
        late = np.cumsum(in_turns_of(turned, step), axis=0)
        start = np.float64(path[leaf][0])
        got = np.concatenate([start[None], start + late])
        assert recordings.error(got, want[leaf]) <= TOLERANCE, leaf


def exact(name, **kwargs):
    return lambda grads, params: getattr(oracles, name)(grads, params, **kwargs)


# What each inexact case is in float64: exactly the peer's rule and settings.
EXACT = {
    ("optax", "adam.lr0.01"): exact("adam", learning_rate=0.01),
    ("optax", "adam.lr1e-3"): exact("adam", learning_rate=1e-3),
    ("optax", "adamw.lr1e-3"): exact("adamw", learning_rate=1e-3),
    ("optax", "adamw.wd0.1"): exact("adamw", learning_rate=3e-4, b2=0.95, weight_decay=0.1),
    ("optax", "adamax.lr2e-3"): exact("adamax", learning_rate=2e-3),
    ("optax", "amsgrad.lr1e-3"): exact("amsgrad", learning_rate=1e-3),
    ("optax", "nadam.lr2e-3"): exact("nadam", learning_rate=2e-3),
    ("optax", "rmsprop.bias_correction"): exact(
        "rmsprop", learning_rate=1e-3, bias_correction=True
    ),
    ("optax", "radam.lr1e-3"): exact("radam", learning_rate=1e-3),
    ("optax", "nadamw.lr2e-3"): exact("nadamw", learning_rate=2e-3),
    ("optax", "adamaxw.lr2e-3"): exact("adamaxw", learning_rate=2e-3),
    ("optax", "lamb.lr1e-3"): exact("lamb", learning_rate=1e-3),
    ("optax", "adabelief.lr1e-3"): exact("adabelief", learning_rate=1e-3),
    ("optax", "yogi.lr0.01"): exact("yogi", learning_rate=0.01),
    ("optax", "adan.lr1e-3"): exact("adan", learning_rate=1e-3, difference_weight=0.08),
    ("optax", "contrib.ademamix.lr1e-3"): exact("ademamix", learning_rate=1e-3),
    ("optax", "optimistic_adam_v2.lr0.01"): exact("optimistic_adam", learning_rate=0.01),
    ("optax", "contrib.schedule_free_adamw.default"): exact("schedule_free_adamw"),
    ("keras_jax", "ScheduleFreeAdamW.default"): exact("schedule_free_adamw"),
    ("keras_jax", "Lamb.default"): exact("keras_lamb", learning_rate=1e-3),
    ("keras_jax", "Adam.default"): exact("adam_eps_hat", learning_rate=1e-3),
    ("keras_jax", "Adam.lr0.01"): exact("adam_eps_hat", learning_rate=0.01),
    ("keras_jax", "Nadam.default"): exact(
        "nadam", learning_rate=1e-3, eps=1e-7, momentum_decay=1.0
    ),
    ("tfkeras2", "Adam.default"): exact("adam_eps_hat", learning_rate=1e-3),
    ("tfkeras2", "Nadam.default"): exact(
        "nadam", learning_rate=1e-3, eps=1e-7, momentum_decay=0.004
    ),
    ("tf1", "Adam.default"): exact("adam_eps_hat", learning_rate=1e-3, eps=1e-8),
    ("tf1", "Adam.eps1e-7"): exact("adam_eps_hat", learning_rate=0.01),
    ("torch", "Adam.default"): exact("adam", learning_rate=1e-3),
    ("torch", "AdamW.lm"): exact("adamw", learning_rate=3e-4, b2=0.95, weight_decay=0.1),
}


@pytest.mark.parametrize("which", recordings.SETS)
@pytest.mark.parametrize(("peer", "case"), EXACT)
def test_is_nearer_to_the_exact_rule_than_the_peer(peer, case, which):
    leaves = recordings.cases(peer)[case]["leaves"]
    got = replay(ours(peer, case), which, leaves)
    peer_path = recordings.trajectory(peer, case, which)
    params = recordings.initial(leaves)
    grads = recordings.gradients(which, leaves)
    our_error = peer_error = 0.0
    for leaf in leaves:
        want = EXACT[peer, case](np.float64(grads[leaf]), np.float64(params[leaf]))
        our_error = max(our_error, recordings.error(got[leaf][1:], want))
        peer_error = max(peer_error, recordings.error(peer_path[leaf][1:], want))
    assert our_error <= TOLERANCE
    # Where the peer is itself as good as rounding allows, rounding decides which is nearer.
    assert our_error <= peer_error or peer_error <= TOLERANCE
    print(f"ours {our_error:.1e}, {peer} {peer_error:.1e}")


# Rules with one distance for all leaves: their oracle is given these as one array. A step
# of Prodigy's is so small at first that what float32 makes of the parameters decides how
# far they have come: without rounding them, both are off by 7e-3.
JOINT = {
    ("optax", "contrib.dadapt_adamw.default"): exact("dadapt_adamw"),
    ("optax", "contrib.prodigy.default"): exact("prodigy", stored=np.float32),
}


@pytest.mark.parametrize("which", recordings.SETS)
@pytest.mark.parametrize(("peer", "case"), JOINT)
def test_is_nearer_to_the_exact_joint_rule_than_the_peer(peer, case, which):
    leaves = recordings.cases(peer)[case]["leaves"]

    def flat(tree):
        return np.concatenate([np.float64(tree[k]).reshape(30, -1) for k in leaves], axis=1)

    params = recordings.initial(leaves)
    start = np.concatenate([np.float64(params[k]).ravel() for k in leaves])
    want = JOINT[peer, case](flat(recordings.gradients(which, leaves)), start)
    paths = (
        replay(ours(peer, case), which, leaves),
        recordings.trajectory(peer, case, which),
    )
    our_error, peer_error = (
        recordings.error(flat({k: x[1:] for k, x in path.items()}), want) for path in paths
    )
    assert our_error <= TOLERANCE
    assert our_error <= peer_error
    print(f"ours {our_error:.1e}, {peer} {peer_error:.1e}")


SCHEDULE_CASES = [
    (peer, case) for peer, known in peers.SCHEDULES.items() for case in known
] + [
    ("optax", case)
    for case in recordings.cases("schedules_optax")
    if case not in peers.SCHEDULES_NOT_YET["optax"].split()
]


def test_every_recorded_schedule_is_replayed_or_known_to_be_missing():
    for peer, missing in peers.SCHEDULES_NOT_YET.items():
        recorded = set(recordings.cases(f"schedules_{peer}"))
        replayed = {case for p, case in SCHEDULE_CASES if p == peer}
        assert recorded == replayed | set(missing.split())


@pytest.mark.parametrize(("peer", "case"), SCHEDULE_CASES)
def test_follows_the_recorded_schedule(peer, case):
    meta = recordings.cases(f"schedules_{peer}")[case]
    if peer == "optax":
        kwargs = dict(meta["kwargs"])
        scales = kwargs.pop("boundaries_and_scales", None)
        if scales is not None:  # JSON has no integer keys.
            kwargs["boundaries_and_scales"] = {int(k): v for k, v in scales.items()}
        schedule = getattr(ox, meta["cls"])(**kwargs)
    else:
        schedule = peers.SCHEDULES[peer][case](meta.get("base_lr", 0.1))
    want = recordings.arrays(f"schedules_{peer}")[f"{case}/value"]
    got = jax.jit(jax.vmap(schedule))(jnp.arange(len(want), dtype=jnp.int32))
    # A cosine near pi is 1 - 1 to rounding, so: relative to the largest value.
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-7 * np.abs(want).max())


@pytest.mark.parametrize("case", peers.MOMENTA)
def test_follows_the_recorded_momentum(case):
    want = recordings.arrays("schedules_torch")[f"{case}/momentum"]
    got = peers.MOMENTA[case]()(jnp.arange(len(want)))
    np.testing.assert_allclose(got, want, rtol=2e-6)


# What a metric does to a rate: `(peer, case)` to the transformation, and whether the peer
# takes the metric after the update that it belongs to, and so before the next.
PLATEAUS = {
    ("torch", "ReduceLROnPlateau.default"): (
        ox.reduce_on_plateau(patience=11, min_change=1e-8 / 0.1),
        True,
    ),
    ("keras_jax", "ReduceLROnPlateau.default"): (
        ox.reduce_on_plateau(rtol=0.0, atol=1e-4),
        True,
    ),
    ("optax", "contrib.reduce_on_plateau.default"): (ox.reduce_on_plateau(), False),
}


@pytest.mark.parametrize(("peer", "case"), PLATEAUS)
def test_follows_the_recorded_plateau(peer, case):
    tx, later = PLATEAUS[peer, case]
    metric = recordings.INPUTS["plateau_metric"].astype(np.float32)
    if later:
        metric = np.concatenate([[np.inf], metric[:-1]]).astype(np.float32)

    def step(state, value):
        u, state = tx.update(jnp.ones(()), state, value=value)
        return state, u

    _, got = jax.lax.scan(step, tx.init(jnp.ones(())), metric)
    want = recordings.arrays(f"schedules_{peer}")[f"{case}/value"]
    np.testing.assert_allclose(got, want / want[0], rtol=1e-6)
    assert len(np.unique(want)) > 1


CLIPS = {
    ("optax", "clip.v.3"): lambda: ox.clip(0.3),
    ("optax", "adaptive_grad_clip.c.1"): lambda: ox.adaptive_grad_clip(0.1),
    ("optax", "clip_by_block_rms.t.5"): lambda: ox.clip_by_block_rms(0.5),
    ("optax", "clip_by_global_norm.n1"): lambda: ox.clip_by_global_norm(1.0),
    ("tf1", "clip_by_value.v.3"): lambda: ox.clip(0.3),
    ("tf1", "clip_by_global_norm.n1"): lambda: ox.clip_by_global_norm(1.0),
    ("tf1", "clip_by_norm.n.7"): lambda: ox.clip_by_norm(0.7),
    ("tf1", "clip_by_average_norm.n.2"): lambda: ox.clip_by_average_norm(0.2),
    ("torch", "clip_grad_value_.v.3"): lambda: ox.clip(0.3),
    ("torch", "clip_grad_norm_.n1"): lambda: ox.clip_by_global_norm(1.0, eps=1e-6),
    ("torch", "clip_grad_norm_.n3_L1"): lambda: ox.clip_by_global_norm(
        3.0, ord=1, eps=1e-6
    ),
    ("torch", "clip_grad_norm_.n.5_inf"): lambda: ox.clip_by_global_norm(
        0.5, ord=float("inf"), eps=1e-6
    ),
}


@pytest.mark.parametrize("which", recordings.SETS)
@pytest.mark.parametrize(("peer", "case"), CLIPS)
def test_follows_the_recorded_clipping(peer, case, which):
    leaves = ("w", "b", "s")
    tx = CLIPS[peer, case]()
    grads = recordings.gradients(which, leaves)
    recorded = recordings.arrays(f"clip_{peer}")
    params = jax.tree.map(jnp.asarray, recordings.initial(leaves))
    state = tx.init({k: v[0] for k, v in grads.items()})
    for t in range(30):
        now = {k: jnp.asarray(v[t]) for k, v in grads.items()}
        got, _ = tx.update(now, state, params)
        for leaf in leaves:
            want = recorded[f"{case}/{which}/{leaf}"][t]
            np.testing.assert_allclose(got[leaf], want, rtol=1e-6, atol=1e-12)


# An objective in the place of gradients, in float64.

QUARTIC = [recordings.INPUTS[f"obj_{name}"] for name in ("H", "c", "x0")]


def quartic(x):
    h, c, _ = QUARTIC
    return 0.5 * x @ jnp.asarray(h) @ x - jnp.asarray(c) @ x + 0.1 * jnp.sum(x**4)


def descended(tx, steps, **extra):
    """The params after each step on the recorded objective."""

    def step(carry, _):
        x, state = carry
        value, grad = jax.value_and_grad(quartic)(x)
        updates, state = tx.update(grad, state, x, value=value, **extra)
        x = ox.apply_updates(x, updates)
        return (x, state), x

    start = jnp.asarray(QUARTIC[2])
    path = jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=steps)[1])(start)
    return np.concatenate([QUARTIC[2][None], path])


# Of these, torch makes 20 in the first call of `step` and 13 in the second, where its own
# tests stop it.
LBFGS = {
    ("optax_objective", "lbfgs.default"): (ox.lbfgs, {}, range(16)),
    ("torch", "LBFGS.maxiter1"): (peers.torch_lbfgs, {"lr": 0.1}, range(31)),
    ("torch", "LBFGS.default"): (peers.torch_lbfgs, {}, [0, 20, *[33] * 9]),
}


@pytest.mark.parametrize(("peer", "case"), LBFGS)
def test_follows_the_recorded_minimization(peer, case):
    make, kwargs, rows = LBFGS[peer, case]
    with enable_x64():
        path = descended(make(**kwargs), max(rows), value_fn=quartic)
    want = recordings.arrays(peer)[f"{case}/obj/x"]
    np.testing.assert_allclose(path[list(rows)], want, rtol=1e-11, atol=1e-12)
