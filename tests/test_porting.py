"""States that come from elsewhere, and the steps that follow: those of the original."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recordings
from trajectories import trajectory

import optimjax as ox
from optimjax import porting

FILE = recordings.FOLDER / "ported_torch.npz"
TORCH = json.loads(FILE.with_suffix(".json").read_text())
ARRAYS = dict(np.load(FILE))
BEFORE = TORCH["before"]
NAMES = {"w": "net.0.weight", "b": "net.0.bias", "s": "scale", "t": "net.1.weight"}
PLACES = {name: leaf for leaf, name in NAMES.items()}
# A recorded step is rounded a few times, and relative to the parameter; so is ours.
TOLERANCE = 20 * 2**-23


def saved(case):
    """The recorded `state_dict()`, its arrays as NumPy's."""
    state, start = {}, f"{case}/state/"
    for key, x in ARRAYS.items():
        if key.startswith(start):
            i, slot = key.removeprefix(start).split("/")
            state.setdefault(int(i), {})[slot] = x
    meta = TORCH["cases"][case]
    return {"state": state, "param_groups": meta["param_groups"]}


def recorded(case):
    """The parameters that go with it, the next gradients, and the path that followed."""
    leaves = TORCH["cases"][case]["leaves"]
    path = {leaf: ARRAYS[f"{case}/{leaf}"] for leaf in leaves}
    grads = recordings.gradients("plain", leaves)
    return (
        {leaf: jnp.asarray(path[leaf][0]) for leaf in leaves},
        {leaf: jnp.asarray(g[BEFORE:], jnp.float32) for leaf, g in grads.items()},
        path,
    )


def ported(case, wrap=lambda tx: tx, places=PLACES, **kwargs):
    kind, leaves = TORCH["cases"][case]["cls"], TORCH["cases"][case]["leaves"]
    names = [NAMES[leaf] for leaf in leaves]
    params, _, _ = recorded(case)
    tx = wrap(porting.like_torch(kind, saved(case)))
    step = BEFORE if kind in ("SGD", "Muon") else None
    state = porting.from_torch(tx, params, saved(case), names, places, step=step, **kwargs)
    return tx, state, params


def followed(tx, state, params, grads):
    """The parameters after each of the steps along `grads`."""
    going_on = ox.GradientTransformation(lambda params: state, tx.update)
    return trajectory(going_on, params, grads)


@pytest.mark.parametrize("case", TORCH["cases"])
def test_the_next_ten_steps_are_those_of_torch(case):
    tx, state, params = ported(case)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    _, grads, path = recorded(case)
    got = followed(tx, state, params, grads)
    for leaf, want in path.items():
        if case == "Muon":  # It rounds to bfloat16: in units of the way (`test_replay.py`).
            way = np.abs(want - want[0]).max()
            assert np.abs(got[leaf] - want[1:]).max() <= 0.03 * way
        else:
            assert recordings.error(got[leaf], want[1:]) <= TOLERANCE, leaf


def test_of_the_gradient_before_rprop_keeps_the_sign():
    previous = ported("Rprop")[1]["rprop"]["scale_by_rprop"].previous
    assert set(np.unique(previous["w"])) <= {-1.0, 0.0, 1.0}


def in_two_groups(case="AdamW"):
    """That state, with the biases in a group of their own: another decay, fewer steps."""
    both = saved(case)
    (group,) = both["param_groups"]
    both["param_groups"] = [
        {**group, "params": [0, 2]},
        {**group, "weight_decay": 0.0, "params": [1], "lr": 0.5},
    ]
    both["state"][1]["step"] = np.float32(7.0)
    return both


def test_each_group_has_its_hyperparameters_and_its_count():
    both, names = in_two_groups(), [["net.0.weight", "scale"], ["net.0.bias"]]
    params, grads, path = recorded("AdamW")
    tx = porting.like_torch("AdamW", both, names, PLACES)
    state = porting.from_torch(tx, params, both, names, PLACES)
    got = followed(tx, state, params, grads)
    for leaf in ("w", "s"):
        assert recordings.error(got[leaf], path[leaf][1:]) <= TOLERANCE
    assert state.inner_states["1"]["scale_by_rms"].count == 7
    step = got["b"][0] - params["b"]
    slots = both["state"][1]
    g = np.float64(grads["b"][0])
    m = 0.9 * slots["exp_avg"] + 0.1 * g
    v = 0.95 * slots["exp_avg_sq"] + 0.05 * g * g
    want = -0.5 * (m / (1 - 0.9**8)) / (np.sqrt(v / (1 - 0.95**8)) + 1e-8)
    np.testing.assert_allclose(step, want, rtol=1e-5)
    one = ox.adamw(1e-3)
    with pytest.raises(ValueError, match=r"bias` has taken 7 .*`scale` 20.*partition"):
        porting.from_torch(one, params, both, names, PLACES)


@pytest.mark.parametrize("case", ["Adam", "RMSprop.centered", "Adafactor"])
def test_an_array_that_is_turned_has_its_moments_turned(case):
    turned = {**PLACES, "net.0.weight": ("w", (1, 0))}
    leaves = {leaf: x for leaf, x in PLACES.items() if leaf != "net.1.weight"}
    params, grads, path = recorded(case)
    tensors = {NAMES[leaf]: x[0] for leaf, x in path.items()}
    across = {**params, "w": params["w"].T}
    begin = porting.params_from_torch(across, tensors, turned)
    np.testing.assert_array_equal(begin["w"], params["w"].T)
    kind = TORCH["cases"][case]["cls"]
    tx = porting.like_torch(kind, saved(case))
    state = porting.from_torch(tx, begin, saved(case), list(leaves), turned)
    got = followed(tx, state, begin, {**grads, "w": jnp.swapaxes(grads["w"], 1, 2)})
    assert recordings.error(np.swapaxes(got["w"], 1, 2), path["w"][1:]) <= TOLERANCE
    # The same by a function, but for the rows and columns of Adafactor.
    by_function = {**turned, "net.0.weight": ("w", np.transpose)}
    if case == "Adafactor":
        with pytest.raises(ValueError, match="cannot turn the rows and columns"):
            porting.from_torch(tx, begin, saved(case), list(leaves), by_function)
    else:
        again = porting.from_torch(tx, begin, saved(case), list(leaves), by_function)
        jax.tree.map(np.testing.assert_array_equal, again, state)


def test_what_stands_around_the_optimizer_begins_anew():
    def around(tx):
        tx = ox.chain(ox.clip_by_global_norm(100.0), ox.master_weights(tx))
        return ox.accumulate(ox.apply_if_finite(tx, 3), 2)

    tx, state, params = ported("AdamW", around)
    _, grads, path = recorded("AdamW")
    assert state.gradient_step == BEFORE
    twice = jax.tree.map(lambda g: jnp.repeat(g, 2, axis=0), grads)
    got = followed(tx, state, params, twice)
    for leaf, want in path.items():
        assert recordings.error(got[leaf][1::2], want[1:]) <= TOLERANCE


class Tensor:
    """What a tensor of bfloat16 is to those who may not import its library."""

    dtype = "torch.bfloat16"

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    cpu = detach

    def float(self):
        whole = Tensor(self.array)
        whole.dtype = "torch.float32"
        return whole

    def numpy(self):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def test_tensors_are_copied_and_bfloat16_is_widened():
    state_dict = saved("SGD.momentum")
    buffer = np.full((3, 4), 1.5, np.float32)
    state_dict["state"][0]["momentum_buffer"] = Tensor(buffer)
    params, _, _ = recorded("SGD.momentum")
    tx = porting.like_torch("SGD", state_dict)
    names = list(PLACES)[:3]
    state = porting.from_torch(tx, params, state_dict, names, PLACES, step=3)
    buffer[:] = 0.0  # As a step of torch's would.
    np.testing.assert_array_equal(state["scale_by_momentum"].momentum["w"], 1.5)


def refused(match, tx=None, state_dict=None, names=None, places=PLACES, **kwargs):
    state_dict = state_dict or saved("Adam.amsgrad")
    tx = tx or porting.like_torch("Adam", state_dict)
    params = kwargs.pop("params", recorded("Adam")[0])
    names = list(PLACES)[:3] if names is None else names
    with pytest.raises(ValueError, match=match):
        porting.from_torch(tx, params, state_dict, names, places, **kwargs)


def test_what_has_no_place_on_either_side_is_listed():
    refused(r"for `max_exp_avg_sq of net.0.weight`, .*`dropped", ox.adam(1e-3))
    refused(r"nothing .*: `scale_by_factored_rms/nu/b`, ", ox.adafactor(1e-3))
    refused(r"`average/b`, `average/s`", ox.average_params(ported("Adam.amsgrad")[0]))
    refused(
        r"`scale -> other`. There are `b`, `s`, `w`", places=PLACES | {"scale": "other"}
    )
    refused(r"no place for `scale`", places={k: PLACES[k] for k in list(PLACES)[:2]})
    refused(r"two for `w`: ", places=PLACES | {"scale": "w"})
    refused(
        r"nothing .*: `scale_by_momentum/momentum/s`, `scale_by_rms/nu/s`, .*: no par",
        places=PLACES | {"scale": None},
    )
    packed = ox.pack_small_leaves(ox.adam(1e-3))
    refused(r"`inner_state/scale_by_rms/count`: .* no parameters of theirs", packed)
    params = recorded("Adam")[0]
    state_dict, names, slots = saved("Adam"), list(PLACES)[:3], ["exp_avg", "exp_avg_sq"]
    anew = porting.from_torch(
        ox.lbfgs(), params, state_dict, names, PLACES, fresh="**", dropped=slots
    )
    jax.tree.map(np.testing.assert_array_equal, anew, ox.lbfgs().init(params))
    dropped = ox.chain(ox.adam(1e-3))
    state = porting.from_torch(
        dropped,
        params,
        saved("Adam.amsgrad"),
        list(PLACES)[:3],
        PLACES | {"scale": None},
        fresh="**/s",
        dropped="max_exp_avg_sq",
    )
    assert state["adam"]["scale_by_rms"].nu["s"] == 0
    assert state["adam"]["scale_by_rms"].nu["b"].all()


def test_what_does_not_fit_is_refused_by_both_names():
    params = recorded("Adam")[0]
    refused(
        r"`net.0.weight`, of shape \(3, 4\), into `w`, of shape \(4, 3\)",
        params=params | {"w": params["w"].T},
    )
    refused(r"by the axes \(2, 0\)", places=PLACES | {"net.0.weight": ("w", (2, 0))})
    refused(r"got \[2\] names for groups of \[3\]", names=["a", "b"])
    refused("got .4. names", names=list(PLACES))
    state_dict = saved("Adam")
    with pytest.raises(ValueError, match="needs the `names`"):
        porting.from_torch(ox.adam(1.0), params, state_dict)
    state_dict["param_groups"][0]["param_names"] = list(PLACES)[:3]
    porting.from_torch(ox.adam(1.0), params, state_dict, places=PLACES)
    with pytest.raises(TypeError, match="`from_torch` takes the `state_dict"):
        porting.from_torch(ox.adam(1.0), params, {"w": 1})
    with pytest.raises(TypeError, match="`from_torch` takes transformations, but `tx` is"):
        porting.from_torch(state_dict, ox.adam(1.0), params)


def test_what_cannot_be_carried_exactly_is_refused_with_the_way_out():
    refused('amsgrad="raw"', ox.amsgrad(1e-3))
    kwargs = {"state_dict": saved("SGD.dampening"), "step": 20}
    refused("weighs 0.5, .* weighs 1. Make .*dampening=0.5", ox.sgd(0.1, 0.9), **kwargs)
    mean = ox.chain(ox.scale_by_momentum(0.9), ox.scale_by_rms(0.999), ox.scale(-0.1))
    refused("weighs 0.1, .*dampening=0.9", mean)
    kwargs = {"state_dict": saved("SGD.momentum")}
    refused("needs `step`", ox.sgd(0.1, 0.9), **kwargs)
    refused("`step=19`, but the state has taken 20", step=19)
    complex_state = saved("Adam")
    slots = complex_state["state"][0]
    slots |= {k: slots[k] + 1j for k in ("exp_avg", "exp_avg_sq")}
    params = recorded("Adam")[0] | {"w": jnp.ones((3, 4), jnp.complex64)}
    refused("squares of both parts", ox.adam(1.0), state_dict=complex_state, params=params)


def test_like_torch_takes_what_is_there_and_refuses_what_it_does_not_know():
    state_dict = saved("Adam")
    known = porting.like_torch("Adam", state_dict, lr=lambda t: 0.1 / (t + 1))
    assert "0.01" in repr(known)  # The decay, of the group.
    with pytest.raises(ValueError, match=r"knows SGD, .* but not 'LBFGS'"):
        porting.like_torch("LBFGS", state_dict)
    state_dict["param_groups"][0]["decoupled_weight_decay"] = True  # So Adam may be told.
    assert (
        "add_decayed_weights"
        in repr(porting.like_torch("Adam", state_dict)).split("rms")[1]
    )
    state_dict["param_groups"][0]["decoupled_weight_decay"] = False
    with pytest.raises(ValueError, match="told 'AdamW', but this state is of 'Adam'"):
        porting.like_torch("AdamW", state_dict)
    state_dict["param_groups"][0]["warp"] = 9
    with pytest.raises(ValueError, match=r"does not know all of .*'warp'"):
        porting.like_torch("Adam", state_dict)


def test_a_run_of_the_real_torch_goes_on_here():
    torch = pytest.importorskip("torch")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
        )
    x, y = torch.linspace(-1, 1, 15).reshape(5, 3), torch.ones(5, 2)
    named = dict(model.named_parameters())
    groups = [
        {"params": [(n, p) for n, p in named.items() if n.endswith("weight")]},
        {"params": [(n, p) for n, p in named.items() if n.endswith("bias")], "lr": 0.05},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    def step(freeze):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        if freeze:  # It has had no gradient, and has no state.
            named["2.bias"].grad = None
        optimizer.step()
        scheduler.step()

    def place(name):
        layer, kind = name.split(".")
        weight = kind == "weight"
        return (f"layers/{layer}/kernel", (1, 0)) if weight else f"layers/{layer}/bias"

    for _ in range(5):
        step(freeze=True)
    like = {
        "layers": {
            "0": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)},
            "2": {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(2)},
        }
    }
    params = porting.params_from_torch(like, model.state_dict(), place)
    saved_state = optimizer.state_dict()

    def rate(base):
        return ox.exponential_decay(base, 1, 0.9)

    parts = {"**/kernel": (0.01, "0"), "**/bias": (0.05, "1")}
    tx = ox.partition(
        {p: ox.adamw(rate(lr), weight_decay=0.1) for p, (lr, _) in parts.items()}
    )
    state = porting.from_torch(tx, params, saved_state, None, place, fresh="**/2/bias")
    tx_of_groups = porting.like_torch("AdamW", saved_state, None, place)
    porting.from_torch(tx_of_groups, params, saved_state, None, place, fresh="**/2/bias")

    def loss(params):
        h = jnp.asarray(x.numpy())
        first, last = params["layers"]["0"], params["layers"]["2"]
        h = jnp.tanh(h @ first["kernel"] + first["bias"][None])
        out = h @ last["kernel"] + last["bias"][None]
        return jnp.mean((out - jnp.asarray(y.numpy())) ** 2)

    for _ in range(10):
        step(freeze=True)
        grads = jax.grad(loss)(params)
        grads["layers"]["2"]["bias"] = None
        updates, state = tx.update(grads, state, params)
        params = ox.apply_updates(params, updates)
    want = porting.params_from_torch(like, model.state_dict(), place)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), params, want)


# Optax, which is here.

PARAMS = {
    "w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4),
    "b": jnp.ones(3),
    "s": jnp.float32(0.3),
}
GRADS = {
    leaf: np.random.default_rng(1).normal(size=(20, *p.shape)).astype(np.float32)
    for leaf, p in PARAMS.items()
}
BACK, ON = ({k: g[part] for k, g in GRADS.items()} for part in (slice(10), slice(10, 20)))


def schedule(t):
    return 0.1 / (1 + t)


def optax_cases():
    optax = pytest.importorskip("optax")
    factored = {"min_dim_size_to_factor": 2, "learning_rate": 0.01}
    labels = {"w": "1", "b": "0", "s": "0"}
    return {
        name: [getattr(module, name)(*args, **kwargs) for module in (ox, optax)]
        for name, args, kwargs in [
            ("sgd", (schedule, 0.9, True), {}),
            ("amsgrad", (0.1,), {}),
            ("nadamw", (0.1,), {}),
            ("radam", (0.1, 0.9, 0.9), {}),
            ("adamaxw", (0.1,), {}),
            ("adabelief", (0.1,), {}),
            ("yogi", (0.1,), {}),
            ("adagrad", (schedule,), {}),
            ("adadelta", (1.0,), {}),
            ("lion", (0.1,), {}),
            ("rmsprop", (schedule,), {"momentum": 0.9, "centered": True}),
            ("adafactor", (), factored | {"momentum": 0.9, "weight_decay_rate": 0.1}),
        ]
    } | {
        "clipped": [
            m.chain(m.clip_by_global_norm(1.0), m.adam(schedule)) for m in (ox, optax)
        ],
        "twice": [
            m.chain(m.scale_by_rms(), m.adam(schedule), m.sgd(1.0, 0.9))
            for m in (ox, optax)
        ],
        "mean of 4": [
            ox.accumulate(ox.chain(ox.clip(1.0), ox.adam(schedule)), 4),
            optax.MultiSteps(optax.chain(optax.clip(1.0), optax.adam(schedule)), 4),
        ],
        "sum of 3": [
            ox.accumulate(ox.lion(0.1), 3, reduce="sum"),
            optax.MultiSteps(optax.lion(0.1), 3, use_grad_mean=False),
        ],
        "parts": [
            ox.partition({"1": ox.adam(schedule), "0": ox.adam(0.1)}, labels),
            optax.multi_transform(
                {"1": optax.adam(schedule), "0": optax.adam(0.1)}, labels
            ),
        ],
        "masked, finite": [
            ox.apply_if_finite(ox.masked(ox.sgd(schedule, 0.9), "w"), 3),
            optax.apply_if_finite(
                optax.masked(optax.sgd(schedule, 0.9), {"w": True, "b": False, "s": False}),
                3,
            ),
        ],
    }


@functools.partial(jax.jit, static_argnums=0)
def trained(tx, state, params, grads):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, state), params

    (params, state), path = jax.lax.scan(step, (params, state), grads)
    return params, state, path


CASES = optax_cases()
# Optax's bias corrections are off by as much, relative to a step.
OFF = 2e-5


def assert_same_way(got, want, start):
    """Two paths are one, in units of how far the one has gone."""
    for leaf, p in start.items():
        far = np.abs(np.asarray(want[leaf]) - np.asarray(p)).max()
        off = np.abs(np.asarray(got[leaf]) - np.asarray(want[leaf])).max()
        assert off <= OFF * far, leaf


@pytest.mark.parametrize("case", CASES)
def test_the_next_ten_steps_are_those_of_optax_and_back(case):
    ours, theirs = CASES[case]
    with jax.numpy_dtype_promotion("standard"):
        params, saved_state, _ = trained(theirs, theirs.init(PARAMS), PARAMS, BACK)
        _, _, want = trained(theirs, saved_state, params, ON)
        step = 10 if case in ("lion", "adadelta") else None
        state = porting.from_optax(ours, params, saved_state, step=step)
        blank = ours.init(params)
        assert jax.tree.structure(state) == jax.tree.structure(blank)
        dtypes = jax.tree.map(lambda x: (x.shape, x.dtype), (state, blank))
        assert dtypes[0] == dtypes[1]
        _, _, got = trained(ours, state, params, ON)
        assert_same_way(got, want, params)
        # And back: what Optax had, it has again.
        again = porting.to_optax(ours, params, state, theirs)
        assert jax.tree.structure(again) == jax.tree.structure(saved_state)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-6), again, saved_state
        )
        # From a state that ours has come to, under `jit`, which sorts its dicts.
        params, state, _ = trained(ours, ours.init(PARAMS), PARAMS, BACK)
        _, _, want = trained(ours, state, params, ON)
        moved = porting.to_optax(ours, params, state, theirs)
        _, _, got = trained(theirs, moved, params, ON)
        assert_same_way(got, want, params)
        back = porting.from_optax(ours, params, moved, step=step)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), back, state)


def test_between_two_steps_multi_steps_has_nothing_gathered():
    optax = pytest.importorskip("optax")
    ours, theirs = ox.accumulate(ox.lion(0.1), 5), optax.MultiSteps(optax.lion(0.1), 5)
    with jax.numpy_dtype_promotion("standard"):
        params, saved_state, _ = trained(theirs, theirs.init(PARAMS), PARAMS, BACK)
        state = porting.from_optax(ours, params, saved_state)
        assert state.emitted
        assert state.gradient_step == 2
        _, state, _ = trained(ours, ours.init(PARAMS), PARAMS, BACK)
        again = porting.to_optax(ours, params, state, theirs)
        assert not any(x.any() for x in jax.tree.leaves(again.acc_grads))


def test_what_optax_has_and_ours_has_not_is_refused_and_the_other_way_round():
    optax = pytest.importorskip("optax")
    adam, theirs = ox.adam(0.1), optax.adam(0.1)
    with_nadam = ox.nadam(0.1, momentum_decay=0.004)

    def refuses(match, function, *args, error=ValueError, **kwargs):
        with pytest.raises(error, match=match):
            function(*args, **kwargs)

    def from_(tx, optax_tx, **kwargs):
        return porting.from_optax(tx, PARAMS, optax_tx.init(PARAMS), **kwargs)

    def to(tx, optax_tx):
        return porting.to_optax(tx, PARAMS, tx.init(PARAMS), optax_tx)

    sgd = ox.sgd(0.1, 0.9)
    refuses("needs `step`", from_, sgd, optax.sgd(0.1, momentum=0.9))
    assert from_(sgd, optax.sgd(0.1, momentum=0.9), step=4)["scale_by_momentum"].count == 4
    mean = ox.scale_by_momentum(0.9, dampening=0.9)
    refuses(r"for `ScaleByAdamState.nu`. Is `tx`", from_, mean, theirs)
    assert from_(mean, theirs, dropped="ScaleByAdamState.nu").count == 0
    refuses("takes a state of Optax", porting.from_optax, adam, PARAMS, {}, error=TypeError)
    refuses("`scale_by_rms/nu/b`.*: no ScaleByA", from_, adam, optax.sgd(0.1), step=1)
    refuses("no AddNadam|it is not known in Optax", from_, with_nadam, optax.nadam(0.1))
    refuses("weighs 1, .* weighs 0.1", from_, ox.chain(ox.scale_by_momentum(
        dampening=0.9)), optax.sgd(0.1, 0.9), step=1)  # fmt: skip
    raw = ox.chain(ox.scale_by_momentum(dampening=0.9), ox.scale_by_rms(amsgrad="raw"))
    refuses("before the correction", from_, raw, optax.amsgrad(0.1))
    named = optax.named_chain(("b", theirs), ("a", theirs))
    refuses("which of the", from_, ox.chain(adam, adam), named)
    refuses("`add_nadam_correction.product`", to, with_nadam, optax.nadam(0.1))
    refuses("has no place .*`scale_by_momentum.momentum`", to, adam, optax.rmsprop(0.1))
    refuses("has nothing for TraceState.trace", to, ox.sgd(0.1), optax.sgd(0.1, 0.9))
    refuses("`accumulate.mini_step`", to, ox.accumulate(adam, 2), theirs)
    state = ox.sgd(0.1).init(PARAMS)
    refuses("not of `tx`", porting.to_optax, adam, PARAMS, state, theirs)


# What is in no slot, and has to come along all the same.


def test_hyperparameters_that_were_set_by_hand_come_along_both_ways():
    optax = pytest.importorskip("optax")
    params = {"w": jnp.ones(2)}
    theirs = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
    ours = ox.inject_hyperparams(ox.sgd)(0.1, 0.9)
    _, saved_state = theirs.update(params, theirs.init(params), params)
    saved_state.hyperparams["learning_rate"] = jnp.float32(0.001)
    state = porting.from_optax(ours, params, saved_state)
    step, _ = ours.update(params, state, params)
    np.testing.assert_allclose(
        step["w"], theirs.update(params, saved_state, params)[0]["w"]
    )
    np.testing.assert_allclose(step["w"], -0.0019, rtol=1e-6)

    state = ox.set_hyperparams(state, learning_rate=0.01)
    back = porting.to_optax(ours, params, state, theirs)
    np.testing.assert_allclose(
        theirs.update(params, back, params)[0]["w"], -0.019, rtol=1e-6
    )

    plain = ox.sgd(0.1, 0.9)
    with pytest.raises(ValueError, match=r"HyperparamsState\.learning_rate`.*dropped"):
        porting.from_optax(plain, params, saved_state)
    name = f"{type(saved_state).__name__}.hyperparams"
    porting.from_optax(plain, params, saved_state, dropped=[name])
    with pytest.raises(ValueError, match=r"`sgd\.learning_rate`, which were set by hand"):
        porting.to_optax(ours, params, state, optax.sgd(0.1, 0.9))


def test_a_rate_of_a_schedule_is_not_taken_for_one_set_by_hand():
    optax = pytest.importorskip("optax")
    params, rate = {"w": jnp.ones(2)}, ox.polynomial_schedule(0.1, 0.0, 1, 10)
    with jax.numpy_dtype_promotion("standard"):  # Optax counts on it here.
        theirs = optax.inject_hyperparams(optax.adam)(learning_rate=rate)
        ours = ox.inject_hyperparams(ox.adam)(rate)
        state = theirs.init(params)
        for _ in range(3):
            _, state = theirs.update(params, state, params)
        mine = porting.from_optax(ours, params, state)
        for _ in range(3):
            want, state = theirs.update(params, state, params)
            got, mine = ours.update(params, mine, params)
            np.testing.assert_allclose(got["w"], want["w"], rtol=1e-5)


def test_weights_of_muon_may_be_turned_on_their_way():
    group = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "nesterov": True}
    group |= {"ns_coefficients": (3.4445, -4.775, 2.0315), "eps": 1e-7, "ns_steps": 5}
    group |= {"adjust_lr_fn": None, "params": [0]}
    rng = np.random.default_rng(0)
    buffer, weight, grad = (np.float32(rng.normal(size=(8, 2))) for _ in range(3))
    state_dict = {"state": {0: {"momentum_buffer": buffer}}, "param_groups": [group]}

    def step(places, turned):
        params, grads = ({"w": jnp.asarray(x.T if turned else x)} for x in (weight, grad))
        tx = porting.like_torch("Muon", state_dict, ["w"], places)
        state = porting.from_torch(tx, params, state_dict, ["w"], places, step=1)
        return np.asarray(tx.update(grads, state, params)[0]["w"])

    plain = step(None, False)
    np.testing.assert_allclose(step({"w": ("w", (1, 0))}, True).T, plain, rtol=0.02)
    with pytest.raises(ValueError, match=r"Muon which axis is that of the inputs"):
        porting.like_torch("Muon", state_dict, ["w"], {"w": ("w", np.transpose)})


def test_the_epsilon_of_adafactor_is_that_of_the_dtype():
    group = {"lr": 0.1, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0}
    group |= {"weight_decay": 0.0, "maximize": False, "params": [0, 1]}

    class Tensor:
        def __init__(self, dtype):
            self.dtype = dtype

    def told(*dtypes, **instead):
        slots = {i: {"variance": Tensor(f"torch.{d}")} for i, d in enumerate(dtypes)}
        state_dict = {"state": slots, "param_groups": [group]}
        return porting.like_torch("Adafactor", state_dict, **instead)

    assert "0.0078125" in repr(told("bfloat16", "bfloat16"))
    assert "1.1920928955078125e-07" in repr(told("float32", "float32"))
    with pytest.raises(ValueError, match=r"float16.*float32.*an `eps` of None"):
        told("float16", "float32")
    assert "0.015625" in repr(told("float16", "float32", eps=(0.015625, 1e-3)))


def test_a_rate_of_asgd_that_was_changed_since_is_refused():
    group = {"lr": 0.1, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0.0}
    group |= {"maximize": False, "params": [0]}
    slots = {"step": 3.0, "eta": 0.1 / (1 + 1e-4 * 0.1 * 3) ** 0.75, "mu": 1.0}
    slots["ax"] = np.zeros(2, np.float32)
    state_dict = {"state": {0: slots}, "param_groups": [group]}
    porting.like_torch("ASGD", state_dict)
    group["lr"] = 1.0
    with pytest.raises(ValueError, match=r"`eta` = 0\.09.*means 0\.99.*`lr` was changed"):
        porting.like_torch("ASGD", state_dict)
    porting.like_torch("ASGD", state_dict, lr=0.1)
