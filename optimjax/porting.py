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
from .combinators.guarding import ApplyIfFiniteState, DynamicLossScalingState
from .combinators.knobs import InjectHyperparamsState
from .combinators.monitoring import MeasureState
from .combinators.pacing import AccumulateState
from .combinators.precision import KahanSummationState, MasterWeightsState
from .combinators.routing import partition
from .selection import Path, by_path, path_of, text
from .transforms import factored
from .transforms.averaging import AsgdState
from .transforms.factored import FactoredMoment, ScaleByFactoredRmsState
from .transforms.moments import ScaleByBeliefState, ScaleByYogiState
from .transforms.momentum import AddNadamCorrectionState, EmaState, ScaleByMomentumState
from .transforms.rms import (
    ScaleByAdadeltaState,
    ScaleByInfinityMomentState,
    ScaleByRectifiedRmsState,
    ScaleByRmsState,
    ScaleByRssState,
)
from .transforms.scaling import ScaleByLearningRateState, ScaleByScheduleState
from .transforms.sign import ScaleByLionState, ScaleByRpropState

# How an array is turned on its way: the order of its axes, or a function of it.
Turn = Sequence[int] | Callable[[np.ndarray], Any] | None
# Where a parameter goes: its path here, with a turn or without; None for nowhere.
Place = str | tuple[str, Turn] | None
# Where all of them go, by their names there; None: to the same, with `/` for `.`.
Places = Callable[[str], Place] | Mapping[str, Place] | None

# Fields of our states that count the steps of the transformation itself.
_COUNTS = ("count", "gradient_step", "step")
# States that may begin anew between two steps: nothing of the past is in them but what the
# peer has in its parameters, or counts that only tell.
_ANEW = (
    AccumulateState,
    ApplyIfFiniteState,
    DynamicLossScalingState,
    InjectHyperparamsState,
    KahanSummationState,
    MasterWeightsState,
    MeasureState,
)
# Of these, the ones that are not missed where there is no such thing.
_TELLING = (ApplyIfFiniteState, InjectHyperparamsState, MeasureState)


# What both directions share: our states, and what goes where in them.


class _Node(NamedTuple):
    """A state of ours, and the transformation that it is of."""

    name: str  # Of the factory.
    arguments: dict[str, Any]  # Of its call, defaults included.
    shapes: dict[Path, tuple[int, ...]]  # Of the params that it was made for.
    state: Any


def _started(
    who: str, tx: GradientTransformation, params: Params
) -> tuple[OptState, list[_Node]]:
    """A fresh state, and what it is made of, in the order of the stages."""
    base.check_stages(who, [tx], "`tx`")
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

    kinds: tuple[type, ...]  # Those of our states that it knows.

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
        if (
            node is not None
            and field in _COUNTS
            and (
                isinstance(node.state, (*theirs.kinds, *_ANEW))
                # Else what is counted goes with the rest of it, which they may not have.
                or not any(
                    name not in _COUNTS and _is_slot(x, known)
                    for name, x in node.state._asdict().items()
                )
            )
        ):
            new = theirs.count(node)
        elif node is not None:
            new = theirs.value(node, field, _unboxed(path, node.shapes), old)
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


def _is_slot(x: Any, known: Mapping[int, Any]) -> bool:
    """Whether there is something in a field of ours, and no state of another's."""
    leaves = jax.tree.leaves(x, is_leaf=lambda y: id(y) in known)
    return bool(leaves) and not any(id(leaf) in known for leaf in leaves)


def _unboxed(path: Path, known: Mapping[Path, Any]) -> Path:
    """A path among the known ones, which do not say that an array is in a box (NNX)."""
    return path[:-1] if path not in known and path[:-1] in known else path


def _like(old: Any, new: Any) -> jax.Array:
    """A number or array in the dtype, and on the devices, of the one that it replaces."""
    array = np.asarray(new).astype(old.dtype)  # A copy: later steps of theirs are in place.
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
    """The numbers of a tensor, without its library."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        if str(x.dtype) in ("torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2"):
            x = x.float()  # NumPy has no such dtype.
        x = x.numpy()
    return np.asarray(x)


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
    kinds = tuple(_PYTORCH)

    def __init__(self, sources: dict[Path, _Source], step: int | None):
        self.sources, self.step = sources, step
        self.used: set[tuple[str, str]] = set()

    def count(self, node: _Node) -> Any:
        if node.shapes and not any(path in self.sources for path in node.shapes):
            return _Missing("what it is given are no parameters of theirs")
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
            nothing: `"**/bias"`, of a bias that had no gradient yet. It shares the count of
            the others, and what the count corrects (a bias, or SGD's first gradient, which
            is not damped).
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
        state, nodes = _started("from_torch", tx, params)
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
            path = _unboxed(path_of(keys), placed)
            name, turn = placed[path]
            array = _turned(_as_numpy(tensors[name]), turn, name)
            return _like(old, _fitting(array, jnp.shape(old), name, path))

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
        chain(scale_by_momentum(0.9, dampening=0.0, nesterov=False, undamped_start=True),
        scale_by_learning_rate(0.1))
    """
    with _checks.named("like_torch"):
        if kind not in _pytorch.CLASSES:
            known = ", ".join(_pytorch.CLASSES)
            raise Refusal(ValueError, f"knows {known}, but not {kind!r}.")
        several = len(state_dict["param_groups"]) > 1
        turned = kind == "Muon" and places is not None
        if several or names is not None or turned:
            groups = _groups(state_dict, names)
        else:
            groups = [(dict(state_dict["param_groups"][0]), {})]

        def made(group: Mapping[str, Any], named: Mapping[Any, str]) -> Any:
            own = [state_dict["state"].get(i, {}) for i in group["params"]]
            found = {**_told(kind, group, own, instead), **instead}
            if turned:
                found["axes"] = _axes([_place(name, places) for name in named.values()])
            return _of_group(kind, group, found)

        if not several:
            return made(*groups[0])
        # Where a name has its place shows without the params: it is said in `places`.
        labels: dict[str, str] = {}
        for label, (_, named) in enumerate(groups):
            for name in named.values():
                place = _place(name, places)
                if place is not None:
                    labels[place if isinstance(place, str) else place[0]] = str(label)
        used = set(labels.values())
        makes = {str(i): made(*both) for i, both in enumerate(groups)}
        return partition(
            {label: tx for label, tx in makes.items() if label in used},
            lambda path, leaf: labels.get(path, "of no group"),
        )


def _place(name: str, places: Places) -> Place:
    if isinstance(places, Mapping):
        return places.get(name)
    return name.replace(".", "/") if places is None else places(name)


def _told(
    kind: str, group: Mapping[str, Any], own: list[Any], instead: Mapping[str, Any]
) -> dict[str, Any]:
    """What the slots of a group say of its rule, beside what the group says."""
    if kind == "Adafactor" and "eps" not in instead and group["eps"][0] is None:
        slots = _PYTORCH[ScaleByFactoredRmsState]["nu"]
        dtypes = {str(s[x].dtype) for s in own for x in slots if x in s}
        if len(dtypes) > 1:
            raise Refusal(
                ValueError,
                f"got parameters of {sorted(dtypes)}, and an `eps` of None, which is "
                "another one for each. Say it: `eps=(1e-7, 1e-3)`.",
            )
        if dtypes:
            least = float(jnp.finfo(dtypes.pop().removeprefix("torch.")).eps)
            return {"eps": (least, group["eps"][1])}
    if kind == "ASGD" and "lr" not in instead:
        rule = {k: _plain(group[k]) for k in ("lr", "lambd", "alpha")}
        for slots in own:
            step = _plain(slots.get("step", 0))
            next_rate = (
                rule["lr"] / (1 + rule["lambd"] * rule["lr"] * step) ** rule["alpha"]
            )
            eta = _plain(slots.get("eta", next_rate))
            if not math.isclose(eta, next_rate, rel_tol=1e-5):
                raise Refusal(
                    ValueError,
                    f"cannot go on with `eta` = {eta:g}, found a step ahead, where the "
                    f"group means {next_rate:g}: its `lr` was changed in between. Save "
                    "before that, or after another step.",
                )
    return {}


def _axes(places: list[Place]) -> str:
    """Which axis of a weight is that of its inputs, by how it is turned on its way."""
    turns = [
        None if place is None or isinstance(place, str) else place[1] for place in places
    ]
    kinds = {turn if turn is None or callable(turn) else tuple(turn) for turn in turns}
    known = {None: "oi", (0, 1): "oi", (1, 0): "io", (-1, -2): "io"}
    axes = {known.get(kind, "") for kind in kinds}
    if len(axes) != 1 or "" in axes:
        raise Refusal(
            ValueError,
            "has to know for Muon which axis is that of the inputs, but `places` turns "
            "some weights and others not, or by a function: make it by "
            "`orthogonalize(axes=...)` and `scale_by_matrix_shape(axes=...)`.",
        )
    return axes.pop()


def _of_group(
    kind: str, group: Mapping[str, Any], instead: Mapping[str, Any]
) -> GradientTransformation:
    rule = {k: _plain(v) for k, v in group.items() if k not in _NO_RULE} | dict(instead)
    if kind in ("Adam", "AdamW"):
        decoupled = rule.pop("decoupled_weight_decay", kind == "AdamW")
        if kind == "AdamW" and not decoupled:
            raise Refusal(ValueError, "was told 'AdamW', but this state is of 'Adam'.")
        kind = "AdamW" if decoupled else "Adam"  # `Adam` can be told to decouple it, too.
    try:
        return _pytorch.CLASSES[kind](**rule)
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise Refusal(
            ValueError, f"does not know all of {sorted(rule)} for `{kind}`: {error}."
        ) from None


def _plain(x: Any) -> Any:
    """A hyperparameter without its tensor, or those of a tuple."""
    if isinstance(x, tuple | list):
        return type(x)(map(_plain, x))
    return _as_numpy(x).item() if hasattr(x, "detach") else x


# Optax.

_MOMENTS = {"mu": "mu", "nu": "nu"}
# Our state; for each class of Optax that has its slots, our field and theirs.
_OPTAX: dict[type, dict[str, dict[str, str]]] = {
    ScaleByMomentumState: {
        "TraceState": {"momentum": "trace"},
        "ScaleByAdamState": {"momentum": "mu"},
        "ScaleByAmsgradState": {"momentum": "mu"},
    },
    EmaState: {"EmaState": {"ema": "ema"}},
    ScaleByRmsState: {
        "ScaleByAdamState": {"nu": "nu"},
        "ScaleByAmsgradState": {"nu": "nu", "nu_max": "nu_max"},
        "ScaleByRmsState": {"nu": "nu"},
        "ScaleByRmsWithCountState": {"nu": "nu"},
        "ScaleByRStdDevState": {"nu": "nu", "mean": "mu"},
        "ScaleByRStdDevWithCountState": {"nu": "nu", "mean": "mu"},
    },
    ScaleByRectifiedRmsState: {"ScaleByAdamState": {"nu": "nu"}},
    ScaleByInfinityMomentState: {"ScaleByAdamState": {"nu": "nu"}},
    ScaleByRssState: {"ScaleByRssState": {"sum_of_squares": "sum_of_squares"}},
    ScaleByAdadeltaState: {"ScaleByAdaDeltaState": {"e_g": "e_g", "e_x": "e_x"}},
    ScaleByBeliefState: {"ScaleByBeliefState": _MOMENTS},
    ScaleByYogiState: {"ScaleByAdamState": _MOMENTS},
    ScaleByLionState: {"ScaleByLionState": {"mu": "mu"}},
    # What is not factored is in `v`, and has a single zero in the others.
    ScaleByFactoredRmsState: {"FactoredState": {"nu": "v"}},
    AccumulateState: {"MultiStepsState": {"total": "acc_grads", "mini_step": "mini_step"}},
    ApplyIfFiniteState: {
        "ApplyIfFiniteState": {
            "notfinite_count": "notfinite_count",
            "total_notfinite": "total_notfinite",
            "last_finite": "last_finite",
        }
    },
}
_FACTORED = {"row": "v_row", "col": "v_col"}
_RATES = (ScaleByLearningRateState, ScaleByScheduleState)


class _Foreign(NamedTuple):
    """A state of Optax that may have slots."""

    name: str  # Of its class.
    paths: frozenset[Path] | None  # Of the params that it was made for, if it shows.
    state: Any

    def slots(self) -> list[str]:
        """The fields in which there is more than counts and other states."""
        if self.name == "FactoredState":
            return ["v", *_FACTORED.values()]
        known = {f for row in _OPTAX.values() for f in row.get(self.name, {}).values()}
        others = (
            field
            for field, x in self.state._asdict().items()
            if field not in known
            and not any(map(_is_foreign, jax.tree.leaves(x, is_leaf=_is_foreign)))
            and any(jnp.ndim(leaf) for leaf in jax.tree.leaves(x))
        )
        return [*(f for f in self.state._fields if f in known), *others]


def _is_foreign(x: Any) -> bool:
    kind = type(x)
    return (
        hasattr(kind, "_fields")
        and kind.__module__.split(".")[0] == "optax"
        and kind.__name__ != "MaskedNode"
    )


def _foreign(state: Any) -> list[_Foreign]:
    """The states of Optax in one, in the order of the stages."""
    found: list[_Foreign] = []

    def visit(x: Any) -> None:
        if _is_foreign(x):
            found.append(_Foreign(type(x).__name__, _paths_in(x), x))
        elif isinstance(x, dict):
            names = [{node.name for node in _foreign_in(y)} for y in x.values()]
            twice = {n for n in set().union(*names) if sum(n in s for s in names) > 1}
            if twice & {name for row in _OPTAX.values() for name in row}:
                raise Refusal(
                    ValueError,
                    f"cannot tell which of the {sorted(twice)} in a dict of states comes "
                    "first: `jit` has sorted their names. Take a `chain` of Optax.",
                )
        if isinstance(x, dict):
            children: Iterable[Any] = x.values()
        else:
            children = x if isinstance(x, tuple | list) else ()
        for child in children:
            if _is_foreign(x) and type(x).__name__ == "PartitionState":
                for part in child.values():  # They are told apart by their params.
                    visit(part)
            else:
                visit(child)

    visit(state)
    return found


def _foreign_in(state: Any) -> list[_Foreign]:
    inside = jax.tree.leaves(state, is_leaf=_is_foreign)
    return [_Foreign(type(x).__name__, None, x) for x in inside if _is_foreign(x)]


def _paths_in(state: Any) -> frozenset[Path] | None:
    name = type(state).__name__
    fields = (f for row in _OPTAX.values() for f in row.get(name, {}).values())
    field = next(fields, None)
    if field is None or name == "ApplyIfFiniteState":
        return None
    leaves = by_path(getattr(state, field))
    return frozenset(path for path, leaf in leaves.items() if leaf is not None)


def _assigned(nodes: list[_Node], theirs: list[_Foreign]) -> dict[int, _Foreign]:
    """For each state of ours, by its id, that of theirs with its slots."""
    found: dict[int, _Foreign] = {}
    for kind, classes in _OPTAX.items():
        left = [other for other in theirs if other.name in classes]
        for node in nodes:
            if type(node.state) is not kind:
                continue
            fits = (None, frozenset(node.shapes))
            other = next((other for other in left if other.paths in fits), None)
            if other is not None:
                found[id(node.state)] = other
                left = [x for x in left if x is not other]
    return found


def _fixed(state: Any) -> dict[str, Any]:
    """The hyperparameters in a state of Optax that no schedule writes over."""
    scheduled = getattr(state, "hyperparams_states", {})
    found = getattr(state, "hyperparams", {})
    return {name: x for name, x in found.items() if name not in scheduled}


def _injections(nodes: list[_Node], theirs: list[_Foreign]) -> dict[int, Any]:
    """For each `inject_hyperparams` of ours, by its id, that of theirs: in their order."""
    ours = [n for n in nodes if isinstance(n.state, InjectHyperparamsState)]
    others = [other.state for other in theirs if hasattr(other.state, "hyperparams")]
    return {id(n.state): other for n, other in zip(ours, others, strict=False)}


class _Optax(_Theirs):
    kinds = tuple(_OPTAX)

    def __init__(self, nodes: list[_Node], theirs: list[_Foreign], step: int | None):
        self.theirs, self.step = theirs, step
        self.assigned = _assigned(nodes, theirs)
        self.used: set[tuple[int, str]] = set()
        self.injected = _injections(nodes, theirs)

    def count(self, node: _Node) -> Any:
        own = self.assigned.get(id(node.state))
        counts = set() if own is None else _counts([own.state])
        if not counts:
            fits = (None, frozenset(node.shapes))
            near = [other for other in self.theirs if other.paths in fits]
            rate = "ScaleByScheduleState"
            of_rates = _counts(other.state for other in near if other.name == rate)
            is_rate = isinstance(node.state, _RATES)
            of_others = _counts(other.state for other in near if other.name != rate)
            counts = (of_rates if is_rate else of_others) or of_rates | of_others
        return _the_one(counts or {self.step}, node.name)

    def value(self, node: _Node, field: str, path: Path, like: Any) -> Any:
        classes = _OPTAX.get(type(node.state), {})
        other = self.assigned.get(id(node.state))
        if isinstance(node.state, InjectHyperparamsState) and field == "hyperparams":
            return self._injected(node, str(path[-1]))
        if other is None:
            names = " or ".join(classes)
            return _Missing(f"no {names} is left" if names else "it is not known in Optax")
        if isinstance(node.state, AccumulateState) and field == "emitted":
            return (other.state.mini_step == 0) & (other.state.gradient_step > 0)
        theirs = classes[other.name].get(field)
        if theirs is None:
            return _Missing(f"{other.name} has no such thing")
        _check_meaning(node, field, other.name)
        if isinstance(like, FactoredMoment):
            self.used.add((id(other.state), theirs))
            parts: Any = [self._leaf(other, name, path) for name in _FACTORED.values()]
            new: Any = FactoredMoment(*parts)
        else:
            new = self._leaf(other, theirs, path)
        if field == "total" and node.arguments["reduce"] == "mean":
            new = new * np.asarray(other.state.mini_step, new.dtype)
        for part, old in zip(jax.tree.leaves(new), jax.tree.leaves(like), strict=True):
            _fitting(part, old.shape, f"{theirs} of {other.name}", path)
        return new

    def _injected(self, node: _Node, name: str) -> Any:
        """A hyperparameter that is in their state, but for those of schedules."""
        theirs = self.injected.get(id(node.state))
        if theirs is None or name in node.state.scheduled or name not in _fixed(theirs):
            return _Missing("it is not in theirs")
        self.used.add((id(theirs), name))
        return np.asarray(theirs.hyperparams[name])

    def _leaf(self, other: _Foreign, field: str, path: Path) -> np.ndarray:
        self.used.add((id(other.state), field))
        return np.asarray(by_path(getattr(other.state, field))[path])

    def check_used(self, dropped: str | Sequence[str]) -> None:
        let_go = [dropped] if isinstance(dropped, str) else list(dropped)
        left = [
            f"{other.name}.{field}"
            for other in self.theirs
            for field in other.slots()
            if f"{other.name}.{field}" not in let_go
            and (id(other.state), field) not in self.used
            and not (other.name == "FactoredState" and field != "v")
        ]
        left += [
            f"{other.name}.{name}"
            for other in self.theirs
            for name in _fixed(other.state)
            if not {f"{other.name}.{name}", f"{other.name}.hyperparams"} & set(let_go)
            and (id(other.state), name) not in self.used
        ]
        if left:
            raise Refusal(
                ValueError,
                f"has no place in the state of ours for {_several(left)}. Is `tx` the same "
                "optimizer? Let it go by `dropped=[...]`, such names.",
            )


def _check_meaning(node: _Node, field: str, name: str) -> None:
    if isinstance(node.state, ScaleByMomentumState):
        _check_momentum(node, 0.0 if name == "TraceState" else None, f"that of {name}")
    if field == "nu_max" and node.arguments["amsgrad"] != "corrected":
        raise Refusal(
            ValueError,
            "cannot make the largest moment before the correction of Optax's, which is of "
            'those after it. Make `tx` with `scale_by_rms(amsgrad="corrected")`.',
        )


def _counts(states: Iterable[Any]) -> set[int]:
    names = ("count", "gradient_step")
    found = (getattr(state, name, None) for state in states for name in names)
    return {int(count) for count in found if not callable(count) and count is not None}


def _the_one(counts: Iterable[int | None], who: str) -> int:
    known = sorted(n for n in counts if n is not None)
    if not known:
        raise Refusal(
            ValueError,
            "needs `step`, the steps taken so far: nothing in that state counts them, and "
            "schedules of ours do.",
        )
    if len(known) > 1:
        raise Refusal(
            ValueError, f"cannot tell the steps of `{who}`: there are counts of {known}."
        )
    return known[0]


def from_optax(
    tx: GradientTransformation,
    params: Params,
    optax_state: Any,
    *,
    step: int | None = None,
    fresh: str | Sequence[str] = (),
    dropped: str | Sequence[str] = (),
) -> OptState:
    """The state of `tx` that goes on where an optimizer of Optax stopped.

    Known are the states of sgd, adam and those made like it (adamw, amsgrad, nadam, nadamw,
    radam, adamax, adamaxw, lamb), adagrad, rmsprop, adadelta, adabelief, yogi, lion and
    adafactor, in chains, `MultiSteps`, `apply_if_finite`, `masked` and `multi_transform`
    (which is our `partition`). Stages meet in their order: the first Adam in the one is the
    first in the other.

    Args:
        tx: The same optimizer of ours; see `docs/coming_from.md`.
        params: The parameters.
        optax_state: The state, in Optax's own classes. Optax itself is not imported.
        step: The steps taken so far, where nothing counts them, as in
            `optax.sgd(0.1, momentum=0.9)`.
        fresh: Patterns of paths of our state that may begin anew, where Optax has nothing.
        dropped: Slots of theirs that may be left behind, such as `"ScaleByAdamState.nu"`.

    Returns:
        The state, like that of `tx.init(params)`.

    Raises:
        ValueError: If there is no place for something, on either side; if something cannot
            be carried exactly, with the reason.
        TypeError: If there is no state of Optax in it.

    Example:
        >>> import jax.numpy as jnp, optax, optimjax as ox
        >>> params = {"w": jnp.ones(2)}
        >>> theirs = optax.lion(0.1)
        >>> _, saved = theirs.update(params, theirs.init(params), params)
        >>> state = ox.porting.from_optax(ox.lion(0.1), params, saved)
        >>> print(state["scale_by_lion"].mu, state["scale_by_learning_rate"].count)
        {'w': Array([0.01, 0.01], dtype=float32)} 1
    """
    with _checks.named("from_optax"):
        found = _foreign(optax_state)
        if not found:
            raise Refusal(
                TypeError,
                f"takes a state of Optax, of its own classes, but got {type(optax_state)}. "
                "A checkpoint is restored into `optax_tx.init(params)` first.",
            )
        state, nodes = _started("from_optax", tx, params)
        theirs = _Optax(nodes, found, step)
        state = _filled(state, nodes, theirs, fresh)
        theirs.check_used(dropped)
        return state


def to_optax(
    tx: GradientTransformation, params: Params, state: OptState, optax_tx: Any
) -> Any:
    """The state of an optimizer of Optax that goes on where ours stopped.

    The other way of `from_optax`, for the same optimizers.

    Args:
        tx: Our optimizer.
        params: The parameters.
        state: Its state.
        optax_tx: The same optimizer of Optax.

    Returns:
        A state like `optax_tx.init(params)`, in its dtypes: it may round what we keep in
        float32.

    Raises:
        ValueError: If there is no place for something, on either side; if something cannot
            be carried exactly, with the reason.

    Example:
        >>> import jax.numpy as jnp, optax, optimjax as ox
        >>> params = {"w": jnp.ones(2)}
        >>> ours = ox.sgd(0.1, momentum=0.9)
        >>> _, state = ours.update(params, ours.init(params), params)
        >>> theirs = optax.sgd(0.1, momentum=0.9)
        >>> print(ox.porting.to_optax(ours, params, state, theirs)[0])
        TraceState(trace={'w': Array([1., 1.], dtype=float32)})
    """
    with _checks.named("to_optax"):
        blank, nodes = _started("to_optax", tx, params)
        now = _now(blank, nodes, state)
        target = optax_tx.init(params)
        others = _foreign(target)
        assigned = _assigned(nodes, others)
        sources = {
            id(other.state): [n for n in nodes if assigned.get(id(n.state)) is other]
            for other in others
        }
        lost = [
            f"{node.name}.{field}"
            for node in nodes
            if id(node.state) not in assigned and not isinstance(node.state, _TELLING)
            for field, x in node.state._asdict().items()
            if field not in _COUNTS and _is_slot(x, now)
        ]
        if lost:
            raise Refusal(
                ValueError, f"has no place in that of Optax for {_several(lost)}."
            )
        whose = {id(other.state): other for other in others}
        injections = _injections(nodes, others)
        injected = {id(theirs): now[ours] for ours, theirs in injections.items()}
        unsaid = [
            f"{node.name}.{name}"
            for node in nodes
            if isinstance(node.state, InjectHyperparamsState)
            for name, x in now[id(node.state)].hyperparams.items()
            if name not in _fixed(injections.get(id(node.state)))
            and name not in node.state.scheduled
            and not np.array_equal(x, node.state.hyperparams[name])
        ]
        if unsaid:
            raise Refusal(
                ValueError,
                f"has no place in that of Optax for {_several(unsaid)}, which were set "
                "by hand: make `optax_tx` by `optax.inject_hyperparams`, or anew.",
            )

        def visit(x: Any) -> Any:
            if id(x) not in whose:
                return x
            other, mine = whose[id(x)], sources[id(x)]
            fields = {
                name: _written(other, name, value, mine, now)
                if name in other.slots()
                else jax.tree.map(visit, value, is_leaf=lambda y: id(y) in whose)
                for name, value in x._asdict().items()
            }
            if id(x) in injected:
                mine_now = injected[id(x)].hyperparams
                fields["hyperparams"] = {
                    name: _like(jnp.asarray(value), mine_now[name])
                    if name in mine_now and name in _fixed(x)
                    else value
                    for name, value in x.hyperparams.items()
                }
            counted = mine or [n for n in nodes if _sees(other, n)]
            for name in ("count", "gradient_step"):
                if name in fields and not callable(fields[name]):
                    rates = [n for n in counted if isinstance(n.state, _RATES)]
                    if other.name == "ScaleByScheduleState" and rates:
                        counted = rates
                    steps = _counts(now[id(n.state)] for n in counted)
                    if not steps:
                        steps = _counts(now[id(n.state)] for n in nodes)
                    fields[name] = _like(x._asdict()[name], _the_one(steps, other.name))
            return type(x)(**fields)

        return jax.tree.map(visit, target, is_leaf=lambda x: id(x) in whose)


def _sees(other: _Foreign, node: _Node) -> bool:
    return other.paths is None or other.paths == frozenset(node.shapes)


def _now(blank: OptState, nodes: list[_Node], state: OptState) -> dict[int, Any]:
    """For each node of a fresh state, by its id, the one in its place in `state`."""
    known = {id(node.state) for node in nodes}
    found: dict[int, Any] = {}

    def pair(x: Any, y: Any) -> None:
        if id(x) not in known:
            return
        if type(x) is not type(y):
            raise ValueError
        found[id(x)] = y
        for a, b in zip(x, y, strict=True):
            jax.tree.map(pair, a, b, is_leaf=lambda z: id(z) in known)

    try:
        jax.tree.map(pair, blank, state, is_leaf=lambda z: id(z) in known)
    except ValueError:
        raise Refusal(
            ValueError, "got a state that is not of `tx`: `tx.init(params)` is another."
        ) from None
    return found


def _written(
    other: _Foreign, name: str, blank: Any, sources: list[_Node], now: dict[int, Any]
) -> Any:
    """A field of theirs, from the one of ours that is the same."""
    part = {theirs: part for part, theirs in _FACTORED.items()}.get(name)
    for node in sources:
        row = _OPTAX[type(node.state)][other.name]
        if other.name == "FactoredState":
            (ours,) = row
        else:
            ours = {theirs: ours for ours, theirs in row.items()}.get(name)
        if ours is not None:
            break
    else:
        raise Refusal(ValueError, f"has nothing for {other.name}.{name} of Optax.")
    _check_meaning(node, ours, other.name)
    state = now[id(node.state)]
    leaves, divisor = _by_path(getattr(state, ours)), 1
    if name == "acc_grads":  # Of a step that has been taken, there is still the sum.
        leaves = leaves if state.mini_step > 0 else {}
        divisor = int(state.mini_step) if node.arguments["reduce"] == "mean" else 1

    def new(keys: Any, old: Any) -> Any:
        x = leaves.get(path_of(keys))  # Both as `init` saw the params: boxes and all.
        if isinstance(x, FactoredMoment) != (part is not None) or x is None:
            return old  # Zero, in the place of what there is not.
        x = np.asarray(x if part is None else getattr(x, part))
        x = x / np.asarray(divisor, x.dtype) if divisor > 1 else x
        return _like(old, _fitting(x, old.shape, f"{node.name}.{ours}", path_of(keys)))

    return jax.tree_util.tree_map_with_path(new, blank)


def _by_path(tree: Any) -> dict[Path, Any]:
    pairs = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda x: isinstance(x, FactoredMoment)
    )[0]
    return {path_of(keys): leaf for keys, leaf in pairs}
