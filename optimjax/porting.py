"""Bringing a running training over: the states of PyTorch's optimizers, and of Optax's.

Numbers are moved and nothing else: a moment of theirs is the moment of ours that is defined
by the same equation, so that the next step is the one that they would have taken. Tables
say which that is. What has no place on either side is listed and refused, unless the caller
lets it go by name; a state that cannot be carried exactly is refused with the reason.

The optimizer `tx` has to be the same rule: `like_torch` makes it of the `state_dict`, and
`docs/coming_from.md` has how to write it. What a state shows of the rule is checked
(whether a momentum is a sum or a mean, which maximum AMSGrad keeps); what it does not
show, such as the learning rate, is not.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks, _pytorch, base, selection
from ._checks import Refusal
from .base import GradientTransformation, OptState, Params
from .combinators.averaging import AverageParamsState
from .combinators.guarding import ApplyIfFiniteState
from .combinators.knobs import InjectHyperparamsState
from .combinators.monitoring import MeasureState
from .combinators.pacing import AccumulateState
from .combinators.precision import KahanSummationState, MasterWeightsState
from .combinators.routing import partition
from .selection import Path, by_path, path_of, text
from .transforms import factored
from .transforms.averaging import AsgdState
from .transforms.factored import FactoredMoment, ScaleByFactoredRmsState
from .transforms.momentum import AddNadamCorrectionState, ScaleByMomentumState
from .transforms.rms import (
    ScaleByAdadeltaState,
    ScaleByInfinityMomentState,
    ScaleByRectifiedRmsState,
    ScaleByRmsState,
    ScaleByRssState,
)
from .transforms.sign import ScaleByRpropState

Turn = Sequence[int] | Callable[[np.ndarray], Any] | None
Place = str | tuple[str, Turn] | None
Places = Callable[[str], Place] | Mapping[str, Place] | None

# Fields of our states that count the steps of the transformation itself.
_COUNTS = ("count", "gradient_step", "step")
# States that may begin anew between two steps: nothing of the past is in them but what the
# peer has in its parameters, or counts that only tell.
_ANEW = (
    AccumulateState,
    ApplyIfFiniteState,
    InjectHyperparamsState,
    KahanSummationState,
    MasterWeightsState,
    MeasureState,
)


# What both directions share: our states, and what goes where in them.


class _Node(NamedTuple):
    """A state of ours, and the transformation that it is of."""

    name: str  # Of the factory.
    arguments: dict[str, Any]  # Of its call, defaults included.
    shapes: dict[Path, tuple[int, ...]]  # Of the params that it was made for.
    state: Any


def _started(tx: GradientTransformation, params: Params) -> tuple[OptState, list[_Node]]:
    """A fresh state, and what it is made of, in the order of the stages."""
    base.check_stages("porting", [tx], "`tx`")
    with base.starts() as starts:
        state = tx.init(params)
    nodes = [
        _Node(
            start.update.name,
            start.update.made_by().arguments,
            {p: jnp.shape(x) for p, x in by_path(start.params).items() if x is not None},
            start.state,
        )
        for start in starts
        if hasattr(start.state, "_fields") and start.state != ()
    ]
    return state, nodes


class _Missing(NamedTuple):
    """In place of an array that they do not have."""

    why: str


class _Theirs:
    """The other side, as our states ask it."""

    def value(self, node: _Node, field: str, path: Path, like: Any) -> Any:
        """What belongs into one leaf of a field: an array, or a `_Missing`."""
        raise NotImplementedError

    def count(self, node: _Node) -> Any:
        """The steps that this transformation has taken."""
        raise NotImplementedError


def _filled(
    state: OptState, nodes: list[_Node], theirs: _Theirs, fresh: str | Sequence[str]
) -> OptState:
    """`state`, with what they have in it; refuses what they do not have."""
    known = {id(node.state): node for node in nodes}
    patterns = [fresh] if isinstance(fresh, str) else list(fresh)
    missing: dict[str, list[str]] = {}

    def leaf(node: _Node | None, field: str, here: Path, path: Path, old: Any) -> Any:
        if node is not None and field in _COUNTS:
            new = theirs.count(node)
        elif node is not None:
            new = theirs.value(node, field, path, old)
        else:
            new = _Missing("nothing of theirs is known to be the same")
        if not isinstance(new, _Missing):
            return jax.tree.map(_like, old, new)
        anew = node is not None and isinstance(node.state, _ANEW)
        if not anew and not any(selection.matches(p, here) for p in patterns):
            missing.setdefault(new.why, []).append(text(here))
        return old

    def visit(node: _Node | None, root: Path, field: str, tree: Any) -> Any:
        """The new subtree of a state in a field of `node`, or outside of all nodes."""

        def at(keys: Any, x: Any) -> Any:
            path = path_of(keys)
            here = root + path
            if id(x) not in known:
                return leaf(node, field, here, path, x)
            fields = {
                name: visit(known[id(x)], (*here, name), name, value)
                for name, value in x._asdict().items()
            }
            return type(x)(**fields)

        def stops(x: Any) -> bool:
            return id(x) in known or isinstance(x, FactoredMoment)

        return jax.tree_util.tree_map_with_path(at, tree, is_leaf=stops)

    new = visit(None, (), "", state)
    if missing:
        listed = "; ".join(f"{_several(paths)}: {why}" for why, paths in missing.items())
        raise Refusal(
            ValueError,
            f"has nothing for this in the state of ours: {listed}. Let it begin anew by "
            "`fresh=[...]`, patterns of these paths, if that is what you mean.",
        )
    return new


def _like(old: Any, new: Any) -> jax.Array:
    """A number or array in the dtype, and on the devices, of the one that it replaces."""
    array = np.asarray(new).astype(old.dtype)
    if len(getattr(old.sharding, "device_set", ())) > 1:
        return jax.device_put(array, old.sharding)
    return jnp.asarray(array)


def _several(names: Iterable[str], most: int = 8) -> str:
    names = list(dict.fromkeys(name or "(the whole tree)" for name in names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in names[:most]) + more


def _check_momentum(node: _Node, dampening: Any, whose: str) -> None:
    """Refuses to take a sum for a mean; `dampening` is theirs, None that of a mean."""
    ours, decay = node.arguments["dampening"], node.arguments["decay"]
    theirs = decay if dampening is None else dampening
    if not all(isinstance(x, float | int) for x in (ours, theirs)):
        return  # A schedule, or traced: it cannot be told.
    if not math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-9):
        raise Refusal(
            ValueError,
            f"would take {whose}, in which a gradient weighs {1 - theirs:.4g}, for a "
            f"momentum in which it weighs {1 - ours:.4g}. Make `tx` with "
            f"`scale_by_momentum({decay:g}, dampening={theirs:g})`.",
        )


# PyTorch.

# Our slot, and what PyTorch's classes call it.
_PYTORCH: dict[type, dict[str, tuple[str, ...]]] = {
    ScaleByMomentumState: {"momentum": ("exp_avg", "momentum_buffer")},
    AddNadamCorrectionState: {"product": ("mu_product",)},
    ScaleByRmsState: {
        "nu": ("exp_avg_sq", "square_avg"),
        "mean": ("grad_avg",),
        "nu_max": ("max_exp_avg_sq",),
    },
    ScaleByRectifiedRmsState: {"nu": ("exp_avg_sq",)},
    ScaleByInfinityMomentState: {"nu": ("exp_inf",)},
    ScaleByRssState: {"sum_of_squares": ("sum",)},
    ScaleByAdadeltaState: {"e_g": ("square_avg",), "e_x": ("acc_delta",)},
    ScaleByRpropState: {"step_size": ("step_size",), "previous": ("prev",)},
    ScaleByFactoredRmsState: {"nu": ("variance", "row_var", "col_var")},
    AverageParamsState: {"average": ("ax",)},
    AsgdState: {"average": ("ax",)},
}
# What follows from the step alone: ASGD's rate and weight are our schedules.
_DERIVED = ("step", "eta", "mu")
# Of a group, what says nothing about the rule: how it runs, and what schedulers note down.
_NO_RULE = (
    "params",
    "param_names",
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "initial_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "swa_lr",
)


class _Source(NamedTuple):
    """A parameter of theirs that has a place among ours."""

    name: str
    turn: Turn
    group: dict[str, Any]
    slots: dict[str, Any]


def _as_numpy(x: Any) -> np.ndarray:
    """A copy of a tensor, without its library: a later step of theirs is in place."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        if str(x.dtype) in ("torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2"):
            x = x.float()  # NumPy has no such dtype.
        x = x.numpy()
    return np.array(x)


def _turned(array: np.ndarray, turn: Turn, name: str) -> np.ndarray:
    if turn is None:
        return array
    if callable(turn):
        return np.asarray(turn(array))
    if sorted(turn) != list(range(array.ndim)):
        raise Refusal(
            ValueError,
            f"cannot turn `{name}`, of shape {array.shape}, by the axes {tuple(turn)}.",
        )
    return np.transpose(array, turn)


def _fitting(
    array: np.ndarray, shape: tuple[int, ...], name: str, path: Path
) -> np.ndarray:
    if array.shape == shape:
        return array
    raise Refusal(
        ValueError,
        f"cannot put `{name}`, of shape {array.shape}, into {_several([text(path)])}, of "
        f"shape {shape}. A place may be `(path, axes)`, with the axes for a transpose.",
    )


def _placed(
    names: Iterable[str], places: Places, ours: Iterable[Path]
) -> dict[Path, tuple[str, Turn]]:
    """For each of our paths the name of theirs that goes there, and how to turn it."""
    written = {text(path): path for path in ours}
    found: dict[Path, tuple[str, Turn]] = {}
    unplaced, nowhere = [], []
    for name in names:
        if isinstance(places, Mapping):
            if name not in places:
                unplaced.append(name)
                continue
            place = places[name]
        else:
            place = name.replace(".", "/") if places is None else places(name)
        if place is None:
            continue
        there, turn = (place, None) if isinstance(place, str) else place
        if there not in written:
            nowhere.append(f"{name} -> {there}")
        elif written[there] in found:
            before = found[written[there]][0]
            raise Refusal(
                ValueError, f"has two for {_several([there])}: `{before}` and `{name}`."
            )
        else:
            found[written[there]] = name, turn
    if unplaced:
        raise Refusal(
            ValueError,
            f"is told no place for {_several(unplaced)}; give None to leave out what has "
            "none.",
        )
    if nowhere:
        raise Refusal(
            ValueError,
            f"has no such parameters: {_several(nowhere)}. There are "
            f"{_several(written)}; say which by `places`, and None to leave one out.",
        )
    return found


def _groups(state_dict: Any, names: Any) -> list[tuple[dict[str, Any], dict[Any, str]]]:
    """The groups, and the names of the parameters of each by their ids."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(
        state_dict
    ):
        raise Refusal(
            TypeError, "takes the `state_dict()` of an optimizer: `state`, `param_groups`."
        )
    groups = [dict(group) for group in state_dict["param_groups"]]
    ids = [list(group["params"]) for group in groups]
    if names is None:
        if all(isinstance(i, str) for group in ids for i in group):
            named = ids  # As `torch.distributed.checkpoint` writes them.
        elif all("param_names" in group for group in groups):
            named = [list(group["param_names"]) for group in groups]
        else:
            raise Refusal(
                ValueError,
                "needs the `names` of the parameters, since this `state_dict` numbers "
                "them: `[name for name, _ in model.named_parameters()]`, if the optimizer "
                "was made of `model.parameters()`; else a list for each group.",
            )
    elif names and not isinstance(names[0], str):
        named = [list(group) for group in names]
    else:
        ends = np.cumsum([0, *map(len, ids)])
        named = [list(names[a:b]) for a, b in itertools.pairwise(ends)]
        named[-1] += list(names[ends[-1] :])
    sizes, told = [len(group) for group in ids], [len(group) for group in named]
    if sizes != told:
        raise Refusal(
            ValueError,
            f"got {told} names for groups of {sizes} parameters. They are wanted in the "
            "order in which the optimizer was given its parameters, those without a "
            "gradient included.",
        )
    return [
        (group, dict(zip(i, n, strict=True)))
        for group, i, n in zip(groups, ids, named, strict=True)
    ]


def _sources(
    state_dict: Any, names: Any, places: Places, ours: Iterable[Path]
) -> dict[Path, _Source]:
    groups = _groups(state_dict, names)
    of = {
        name: (group, state_dict["state"].get(i, {}))
        for group, named in groups
        for i, name in named.items()
    }
    placed = _placed(of, places, ours)
    return {path: _Source(name, turn, *of[name]) for path, (name, turn) in placed.items()}


class _Torch(_Theirs):
    def __init__(self, sources: dict[Path, _Source], step: int | None):
        self.sources, self.step = sources, step
        self.used: set[tuple[str, str]] = set()

    def count(self, node: _Node) -> Any:
        steps: dict[int, str] = {}
        for path in node.shapes:
            source = self.sources.get(path)
            if source is not None and source.slots.get("step") is not None:
                steps.setdefault(int(_as_numpy(source.slots["step"])), source.name)
        if len(steps) > 1:
            (n, one), (m, other), *_ = steps.items()
            raise Refusal(
                ValueError,
                f"cannot count for `{node.name}`: `{one}` has taken {n} steps, and "
                f"`{other}` {m}. PyTorch counts for each parameter, ours for all that a "
                "transformation is given: let `partition` give them to two.",
            )
        (found,) = steps or (self.step,)
        if found is None:
            raise Refusal(
                ValueError,
                "needs `step`, the steps taken so far: this class of PyTorch does not "
                "count them, and schedules of ours do.",
            )
        if self.step is not None and found != self.step:
            raise Refusal(
                ValueError,
                f"is told `step={self.step}`, but the state has taken {found} steps.",
            )
        return found

    def value(self, node: _Node, field: str, path: Path, like: Any) -> Any:
        slots = _PYTORCH.get(type(node.state), {}).get(field)
        if slots is None:
            return _Missing("PyTorch keeps no such thing")
        if field == "product":
            return self._common(node, slots[0])
        source = self.sources.get(path)
        if source is None:
            return _Missing("no parameter of theirs has its place there")
        there = [slot for slot in slots if source.slots.get(slot) is not None]
        if not there:
            return _Missing(f"no {' or '.join(slots)} is there")
        self.used.update((source.name, slot) for slot in there)
        if isinstance(node.state, ScaleByMomentumState):
            dampening = None if there[0] == "exp_avg" else source.group.get("dampening", 0)
            if "ns_coefficients" in source.group:  # Muon's buffer is a mean.
                dampening = None
            _check_momentum(node, dampening, f"`{there[0]}` of `{source.name}`")
        if field == "nu_max" and node.arguments["amsgrad"] != "raw":
            raise Refusal(
                ValueError,
                "cannot make the largest corrected moment of PyTorch's, which is of those "
                'before the correction. Make `tx` with `scale_by_rms(amsgrad="raw")`.',
            )
        if field == "nu" and isinstance(node.state, ScaleByFactoredRmsState):
            return self._moment(node, source, path, like)
        array = _as_numpy(source.slots[there[0]])
        if np.iscomplexobj(array) and not jnp.iscomplexobj(like):
            raise Refusal(
                ValueError,
                f"cannot carry `{there[0]}` of `{source.name}`: PyTorch takes the squares "
                "of both parts of a complex number by themselves, ours of its modulus.",
            )
        if there[0] == "prev":  # Of which only the sign counts.
            array = np.sign(array)
        array = _turned(array, source.turn, source.name)
        return _fitting(array, node.shapes[path], source.name, path)

    def _common(self, node: _Node, slot: str) -> Any:
        """A number that is the same for all parameters of a transformation."""
        sources = [self.sources[path] for path in node.shapes if path in self.sources]
        sources = [source for source in sources if source.slots.get(slot) is not None]
        if not sources:
            return _Missing(f"no {slot} is there")
        self.used.update((source.name, slot) for source in sources)
        return _as_numpy(sources[0].slots[slot])  # One step, one product: see `count`.

    def _moment(self, node: _Node, source: _Source, path: Path, like: Any) -> Any:
        """Adafactor's, whose rows and columns may change places with the axes."""
        shape, rank = node.shapes[path], len(node.shapes[path])
        if not isinstance(like, FactoredMoment):
            if source.slots.get("variance") is None:
                raise Refusal(
                    ValueError,
                    f"cannot make a whole moment for {_several([text(path)])} of the "
                    f"rows and columns of `{source.name}`: `min_dim_size_to_factor=1`.",
                )
            array = _turned(_as_numpy(source.slots["variance"]), source.turn, source.name)
            return _fitting(array, shape, source.name, path)
        turn = tuple(range(rank)) if source.turn is None else source.turn
        axes = factored._factored_axes(
            shape,
            node.arguments["factored"],
            node.arguments["min_dim_size_to_factor"],
            node.arguments["factored_dims"],
        )
        if axes is None or callable(turn):
            where = None
        else:
            # Each of theirs is a mean over one axis: where that is among ours.
            over = {
                list(turn).index(axis): _turned(_as_numpy(x), turn, source.name)
                for axis, x in (
                    (rank - 1, source.slots["row_var"]),
                    (rank - 2, source.slots["col_var"]),
                )
            }
            where = over if set(over) == set(axes) else None
        if where is None or axes is None:
            raise Refusal(
                ValueError,
                f"cannot turn the rows and columns of `{source.name}` into those of "
                f"{_several([text(path)])}: PyTorch keeps those of the last two axes. Make "
                '`tx` with `factored_dims="last"`, and turn by axes, these two alone.',
            )
        row, col = axes
        moment: Any = where[col].squeeze(col), where[row].squeeze(row)
        for mine, other in zip(moment, like, strict=True):
            _fitting(mine, other.shape, source.name, path)
        return FactoredMoment(*moment)

    def check_used(self, dropped: str | Sequence[str]) -> None:
        let_go = [dropped] if isinstance(dropped, str) else list(dropped)
        left = [
            f"{slot} of {source.name}"
            for source in self.sources.values()
            for slot, value in source.slots.items()
            if value is not None
            and slot not in (*_DERIVED, *let_go)
            and (source.name, slot) not in self.used
        ]
        if left:
            raise Refusal(
                ValueError,
                f"has no place in the state of ours for {_several(left)}. Is `tx` the same "
                "optimizer? Let it go by `dropped=[...]`, the names of such slots.",
            )


def from_torch(
    tx: GradientTransformation,
    params: Params,
    state_dict: Mapping[str, Any],
    names: Sequence[Any] | None = None,
    places: Places = None,
    *,
    step: int | None = None,
    fresh: str | Sequence[str] = (),
    dropped: str | Sequence[str] = (),
) -> OptState:
    """The state of `tx` that goes on where an optimizer of PyTorch stopped.

    SGD, Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, Adadelta, RMSprop, Rprop, ASGD,
    Adafactor and Muon are known, with all their options. PyTorch need not be there: what
    has `detach`, `cpu` and `numpy` is taken for a tensor, and arrays are taken as they are.

    Args:
        tx: The same optimizer: see `like_torch`. It may have more around it, such as
            clipping, `accumulate` or `apply_if_finite`.
        params: The parameters that it will train, or any of their shapes.
        state_dict: `optimizer.state_dict()`.
        names: Those of the parameters, in the order in which the optimizer was given them,
            `[name for name, _ in model.named_parameters()]`, or such a list for each group.
            None where the groups have `param_names` (PyTorch 2.6, made of
            `model.named_parameters()`), or names for ids.
        places: Where each goes, as a function of its name or a dict: the path of a
            parameter of ours, `"encoder/0/kernel"`; a pair of it and the axes of a
            transpose, `("encoder/0/kernel", (1, 0))`, or a function of arrays that only
            rearranges, which holds for the moments as well; None to leave it out. By
            default the name, with `/` for `.`.
        step: The steps taken so far, where PyTorch does not count: SGD, Muon.
        fresh: Patterns of paths of our state that may begin anew, where PyTorch has
            nothing: `"**/bias"`, of a bias that had no gradient yet.
        dropped: Slots of theirs that may be left behind, such as `"max_exp_avg_sq"`.

    Returns:
        The state, like that of `tx.init(params)`. The arrays are copies.

    Raises:
        ValueError: If names, shapes or slots do not fit, by name and path; if something
            cannot be carried exactly, with the reason; if one transformation is given
            parameters that have taken different numbers of steps.
        TypeError: If `state_dict` is none.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optimjax as ox
        >>> weight = np.ones((3, 2), np.float32)
        >>> saved = {
        ...     "state": {0: {"step": 7.0, "exp_avg": weight, "exp_avg_sq": weight}},
        ...     "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}],
        ... }
        >>> params = {"kernel": jnp.zeros((2, 3))}
        >>> state = ox.porting.from_torch(
        ...     ox.adam(0.1, b2=0.99), params, saved, ["weight"],
        ...     {"weight": ("kernel", (1, 0))},
        ... )
        >>> print(state["scale_by_rms"].nu["kernel"].shape, state["scale_by_rms"].count)
        (2, 3) 7
    """
    with _checks.named("from_torch"):
        state, nodes = _started(tx, params)
        theirs = _Torch(_sources(state_dict, names, places, by_path(params)), step)
        state = _filled(state, nodes, theirs, fresh)
        theirs.check_used(dropped)
        return state


def params_from_torch(
    params: Params, tensors: Mapping[str, Any], places: Places = None
) -> Params:
    """Parameters in the places, and turned as, `from_torch` puts their moments.

    Args:
        params: A tree of arrays; its structure, shapes and dtypes are those of the result.
        tensors: `model.state_dict()`, or `dict(model.named_parameters())`.
        places: As in `from_torch`. Buffers that are no parameters of ours go to None.

    Returns:
        The new params.

    Raises:
        ValueError: If there is nothing for a parameter, nowhere for a tensor, or if the
            shapes do not fit.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optimjax as ox
        >>> params = {"kernel": jnp.zeros((2, 3))}
        >>> tensors = {"weight": np.ones((3, 2)), "mask": np.zeros(5)}
        >>> places = {"weight": ("kernel", (1, 0)), "mask": None}
        >>> print(ox.porting.params_from_torch(params, tensors, places))
        {'kernel': Array([[1., 1., 1.],
               [1., 1., 1.]], dtype=float32)}
    """
    with _checks.named("params_from_torch"):
        placed = _placed(tensors, places, by_path(params))
        missing = [
            text(p) for p, x in by_path(params).items() if p not in placed and x is not None
        ]
        if missing:
            raise Refusal(ValueError, f"has nothing for {_several(missing)}.")

        def moved(keys: Any, old: Any) -> jax.Array:
            name, turn = placed[path_of(keys)]
            array = _turned(_as_numpy(tensors[name]), turn, name)
            return _like(old, _fitting(array, jnp.shape(old), name, path_of(keys)))

        return jax.tree_util.tree_map_with_path(moved, params)


def like_torch(
    kind: str,
    state_dict: Mapping[str, Any],
    names: Sequence[Any] | None = None,
    places: Places = None,
    **instead: Any,
) -> GradientTransformation:
    """The optimizer whose state this is, with the hyperparameters of its groups.

    Args:
        kind: The name of the class, which a `state_dict` does not say: `"AdamW"`.
        state_dict: `optimizer.state_dict()`.
        names: As in `from_torch`; needed for several groups.
        places: As in `from_torch`; needed for several groups.
        **instead: Hyperparameters, by PyTorch's names, in place of those of all groups:
            `lr=schedule`, where a scheduler has changed the rate. The schedule is asked
            with the steps taken, which go on.

    Returns:
        For one group the chain of `docs/coming_from.md`; for several a `partition`, of the
        labels `"0"`, `"1"`, ..., to which the parameters belong by their paths.

    Raises:
        ValueError: If the class is not known, or has no such hyperparameter.

    Example:
        >>> import optimjax as ox
        >>> group = {"lr": 0.1, "momentum": 0.9, "foreach": None, "params": [0]}
        >>> ox.porting.like_torch("SGD", {"state": {}, "param_groups": [group]}, ["w"])
        chain(identity(), identity(), scale_by_momentum(0.9, dampening=0.0,
        nesterov=False, undamped_start=True), scale_by_learning_rate(0.1))
    """
    with _checks.named("like_torch"):
        if kind not in _pytorch.CLASSES:
            known = ", ".join(_pytorch.CLASSES)
            raise Refusal(ValueError, f"knows {known}, but not {kind!r}.")
        several = len(state_dict["param_groups"]) > 1
        if not several and names is None:
            return _of_group(kind, state_dict["param_groups"][0], instead)
        groups = _groups(state_dict, names)
        if not several:
            return _of_group(kind, groups[0][0], instead)
        # Where a name has its place shows without the params: it is said in `places`.
        labels: dict[str, str] = {}
        for label, (_, named) in enumerate(groups):
            for name in named.values():
                place = _place(name, places)
                if place is not None:
                    labels[place if isinstance(place, str) else place[0]] = str(label)
        used = set(labels.values())
        makes = {
            str(i): _of_group(kind, group, instead) for i, (group, _) in enumerate(groups)
        }
        return partition(
            {label: tx for label, tx in makes.items() if label in used},
            lambda path, leaf: labels.get(path, "of no group"),
        )


def _place(name: str, places: Places) -> Place:
    if isinstance(places, Mapping):
        return places.get(name)
    return name.replace(".", "/") if places is None else places(name)


def _of_group(
    kind: str, group: Mapping[str, Any], instead: Mapping[str, Any]
) -> GradientTransformation:
    rule = {k: _plain(v) for k, v in group.items() if k not in _NO_RULE} | dict(instead)
    if kind in ("Adam", "AdamW"):
        decoupled = rule.pop("decoupled_weight_decay", kind == "AdamW")
        if decoupled != (kind == "AdamW"):
            other = "AdamW" if decoupled else "Adam"
            raise Refusal(ValueError, f"was told {kind!r}, but this state is of {other!r}.")
    try:
        return _pytorch.CLASSES[kind](**rule)
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise Refusal(
            ValueError, f"does not know all of {sorted(rule)} for `{kind}`: {error}."
        ) from None


def _plain(x: Any) -> Any:
    """A hyperparameter without its tensor."""
    return _as_numpy(x).item() if hasattr(x, "detach") else x
