"""Which transformation updates which parameters.

The parameters are told apart once, by `init` (see `optimjax.selection` for the ways to say
which), and the state remembers it: in nested dicts with a `None` for each leaf of a part.
What a part's transformation sees, and keeps in its state, are nested dicts of its own
leaves and nothing else, so that all parts together are as large as the params.
"""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax

from .. import _dtypes, _reports, _spread, base, matrices, selection, states as inside
from .._checks import Refusal
from ..base import GradientTransformation, Mask, OptState, Params, Updates, transformation
from ..matrices import Axes
from ..selection import Path, by_path, listed, nested, part
from ..transforms.scaling import set_to_zero


class _Routed:
    """A call of `update`, taken apart by path and put together again."""

    def __init__(
        self, updates: Updates, gradient: Updates, params: Params | None, extra: Any
    ):
        self.treedef = jax.tree.structure(updates, is_leaf=_dtypes.is_none)
        self.whole = jax.tree.structure(params, is_leaf=_dtypes.is_none)
        self.updates, self.gradient = by_path(updates), by_path(gradient)
        self.params = None if params is None else by_path(params)
        shapes = {self.treedef, self.whole}
        shapes -= {jax.tree.structure(0)}  # Any value is like a tree of one leaf.
        self.trees, self.rest = {}, {}
        for name, value in extra.items():
            if jax.tree.structure(value, is_leaf=_dtypes.is_none) in shapes:
                self.trees[name] = by_path(value)
            else:
                self.rest[name] = value

    def advance(
        self, inner: GradientTransformation, state: OptState, paths: list[Path]
    ) -> OptState:
        """Lets `inner` update the leaves at `paths`, and returns its new state."""
        if not paths:  # A single array may be an extra argument that is not for `inner`.
            return state
        out, lane, state = base.advance(
            inner,
            part(self.updates, paths),
            part(self.gradient, paths),
            state,
            None if self.params is None else part(self.params, paths),
            {name: part(leaves, paths) for name, leaves in self.trees.items()}
            | self.rest
            | self.functions(),
        )
        out, lane = by_path(out), by_path(lane)
        for path in paths:
            if path in self.updates:  # Else there is no gradient for all that is there.
                self.updates[path], self.gradient[path] = out.get(path), lane.get(path)
        return state

    def functions(self) -> dict[str, Any]:
        """`value_fn`, if there is one, as a function of a part, the rest as it is."""
        value_fn = self.rest.get("value_fn")
        if not callable(value_fn) or self.params is None:
            return {}
        leaves = self.params

        @functools.wraps(value_fn)  # What else it takes is seen through this.
        def of_part(params: Params, *args: Any, **kwargs: Any) -> Any:
            moved = self.whole.unflatten((leaves | by_path(params)).values())
            return value_fn(moved, *args, **kwargs)

        return {"value_fn": of_part}

    def joined(self) -> tuple[Updates, Updates]:
        lanes = self.updates, self.gradient
        updates, gradient = (self.treedef.unflatten(lane.values()) for lane in lanes)
        return updates, gradient


def _present(params: Params) -> dict[Path, Any]:
    return {path: leaf for path, leaf in by_path(params).items() if leaf is not None}


def _marked(paths: list[Path]) -> Any:
    return nested(dict.fromkeys(paths))


def _evaluated(
    states: dict[str, OptState], members: dict[str, Any], params: Params
) -> Params | None:
    """The params with what is averaged in `states`; None if nothing is."""
    leaves, answered = by_path(params), False
    for label, state in states.items():
        paths = list(by_path(members[label]))
        answer = inside.evaluated(state, part(leaves, paths))
        if answer is not None:
            answered = True
            leaves.update(by_path(answer))
    treedef = jax.tree.structure(params, is_leaf=_dtypes.is_none)
    return treedef.unflatten(leaves.values()) if answered else None


class MaskedState(NamedTuple):
    """State of `masked`."""

    inner_state: OptState  # That of `inner`, for the chosen leaves alone.
    chosen: Any  # Which these are: nested dicts by their paths, with None for each.

    def eval_params(self, params: Params) -> Params | None:
        """What is averaged of the chosen leaves, among the others as they are."""
        return _evaluated({"": self.inner_state}, {"": self.chosen}, params)


@transformation(state=MaskedState)
def masked(inner: GradientTransformation, mask: Mask) -> GradientTransformation:
    """Lets a transformation have a part of the leaves; the others pass as they are.

    `inner` sees the chosen leaves and nothing else: of the updates, of the gradient of a
    `chain`, of the params, and of every extra argument that is a tree like these. It sees
    them as nested dicts by their paths, whatever the params are made of. A `value_fn`, for
    a line search, it may call with these: the other leaves are put to them as they are.

    Args:
        inner: Any transformation.
        mask: Which leaves it has: a tree of booleans or a prefix of one, a pattern of paths
            such as `"**/bias"` or a list of them, a function of path (a text,
            `"encoder/0/bias"`) and leaf, or of the params to a tree of booleans (see
            `optimjax.selection`). It is asked once, by `init`. `False` by itself chooses
            nothing.

    Returns:
        A `GradientTransformation` with a `MaskedState`.

    Raises:
        TypeError: If `inner` is no transformation; by `init`, if the mask is none.
        ValueError: By `init`, if the mask does not match the params, if a pattern matches
            nothing, or if any mask but `False` chooses nothing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.ones(2), "bias": jnp.ones(1)}
        >>> t = ox.masked(ox.add_decayed_weights(0.5), "!**/bias")
        >>> updates, _ = t.update(params, t.init(params), params)
        >>> print(updates["w"], updates["bias"])
        [1.5 1.5] [1.]
    """
    base.check_stages("masked", [inner])
    return _masked(inner, mask, idle=mask is False)


def _masked(inner: GradientTransformation, mask: Mask, *, idle: bool) -> Any:
    """The plain pair of `masked`; `idle`: whether `inner` may be without any leaf."""

    def init(params: Params) -> MaskedState:
        leaves = _present(params)
        chosen = by_path(selection.chosen_by(mask, params))
        paths = [path for path in leaves if chosen[path]]
        if leaves and not paths and not idle:
            raise Refusal(
                ValueError,
                f"got a mask that chooses no parameter. There are: {listed(leaves)}.",
            )
        return MaskedState(inner.init(part(leaves, paths)), _marked(paths))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: MaskedState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, MaskedState]:
        routed = _Routed(updates, gradient, params, extra)
        paths = list(by_path(state.chosen))
        inner_state = routed.advance(inner, state.inner_state, paths)
        return *routed.joined(), MaskedState(inner_state, state.chosen)

    return base.combinator(init, advance, (inner,))


@transformation(state=MaskedState)
def freeze(mask: Mask) -> GradientTransformation:
    """Keeps a part of the parameters as they are: their updates become zero.

    As the last stage of a chain it holds back whatever came before, weight decay included.
    What came before still keeps state for these parameters; so that none is kept, give them
    a transformation of their own: `partition({"encoder/**": set_to_zero(), "**": ...})`.

    Args:
        mask: Which parameters to freeze; as in `masked`, but a mask may choose nothing.

    Returns:
        The transformation `masked(set_to_zero(), mask)`.

    Raises:
        TypeError: By `init`, if the mask is none.
        ValueError: By `init`, if the mask does not match the params, or a pattern matches
            nothing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"encoder": jnp.ones(2), "head": jnp.ones(1)}
        >>> t = ox.chain(ox.sgd(0.5), ox.freeze("encoder"))
        >>> updates, _ = t.update(params, t.init(params), params)
        >>> print(updates["encoder"], updates["head"])
        [0. 0.] [-0.5]
    """
    return _masked(set_to_zero(), mask, idle=True)


class PartitionState(NamedTuple):
    """State of `partition`."""

    inner_states: dict[str, OptState]  # By label, of those that have a state.
    members: dict[str, Any]  # By label, its leaves: nested dicts with None for each.

    def eval_params(self, params: Params) -> Params | None:
        """What the parts average, among the leaves of the others as they are."""
        return _evaluated(self.inner_states, self.members, params)


@transformation(state=PartitionState)
def partition(
    transforms: Mapping[Hashable, GradientTransformation], param_labels: Any = None
) -> GradientTransformation:
    """Gives every parameter to one of several transformations.

    Without `param_labels`, the keys of `transforms` are patterns of paths, and a parameter
    belongs to the first that matches it:

        partition({"**/bias": sgd(0.1), "encoder/**": adamw(1e-4), "**": adamw(1e-3)})

    Each transformation sees its own leaves and nothing else, as in `masked`; a global norm
    inside of one is that of its leaves.

    Args:
        transforms: From label to transformation.
        param_labels: The label of each parameter: a tree of labels or a prefix of one, a
            function of path (a text, `"encoder/0/bias"`) and leaf to a label, or of the
            params to a tree of labels (see `optimjax.selection`). It is asked once, by
            `init`.

    Returns:
        A `GradientTransformation` with a `PartitionState`.

    Raises:
        TypeError: If one of `transforms` is no transformation.
        ValueError: If two labels have the same text; by `init`, if a parameter has no
            label, if there is no transformation for a label, and if a transformation gets
            no parameter, all of which would go wrong in silence.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.ones((2, 2)), "bias": jnp.ones(1)}
        >>> t = ox.partition({"**/bias": ox.sgd(1.0), "**": ox.adam(0.1)})
        >>> state = t.init(params)
        >>> updates, state = t.update(params, state, params)
        >>> print(updates["bias"], updates["w"][0])
        [-1.] [-0.1 -0.1]
        >>> print(state.inner_states["**"]["scale_by_rms"].nu["w"].shape)
        (2, 2)
    """
    if not isinstance(transforms, Mapping):
        raise TypeError(
            f"`partition(transforms=...)` must be a dict from labels to transformations, "
            f"but got {transforms!r}."
        )
    for label, inner in transforms.items():
        base.check_stages("partition", [inner], f"that under {label!r}")
    inners = {str(label): inner for label, inner in transforms.items()}
    if len(inners) < len(transforms):
        raise ValueError("`partition` got two labels with the same text.")
    by_pattern = param_labels is None
    if by_pattern and not all(isinstance(label, str) for label in transforms):
        raise TypeError(
            "`partition` without `param_labels` takes patterns of paths for the keys of "
            f"`transforms`, but got {list(transforms)}."
        )

    def labels(params: Params) -> dict[Path, str]:
        if by_pattern:
            return selection.first_match(list(inners), params)
        found = selection.labelled_by(param_labels, params)
        return {path: str(label) for path, label in found.items()}

    hint = " The first pattern that matches counts." if by_pattern else ""
    return _partition(inners, labels, hint)


def _partition(
    inners: Mapping[str, GradientTransformation],
    labels: Callable[[Params], dict[Path, str]],
    hint: str = "",
    *,
    idle: bool = False,
) -> GradientTransformation:
    """The plain pair of `partition`; `idle`: whether one may be without any leaf."""

    def init(params: Params) -> PartitionState:
        leaves = _present(params)
        parts = _parts(leaves, labels(params), inners, hint, idle)
        states = {
            label: inner.init(part(leaves, parts[label])) for label, inner in inners.items()
        }
        states = {k: s for k, s in states.items() if not base.is_stateless(inners[k])}
        return PartitionState(states, {k: _marked(paths) for k, paths in parts.items()})

    def advance(
        updates: Updates,
        gradient: Updates,
        state: PartitionState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, PartitionState]:
        if set(state.members) != set(inners):
            raise Refusal(
                TypeError,
                f"needs a state with the labels {sorted(inners)}, but got "
                f"{sorted(state.members)}. Was it made by the `init` of another optimizer?",
            )
        routed, states = _Routed(updates, gradient, params, extra), {}
        parts = {k: list(by_path(marked)) for k, marked in state.members.items()}
        known = {path for paths in parts.values() for path in paths}
        lost = [p for p, u in routed.updates.items() if u is not None and p not in known]
        if lost:
            raise Refusal(
                ValueError,
                f"got updates for what was not among the params of `init`: {listed(lost)}.",
            )
        for label, inner in inners.items():
            before = state.inner_states.get(label, base.EmptyState())
            with _reports.within(label):
                after = routed.advance(inner, before, parts[label])
            if label in state.inner_states:
                states[label] = after
        return *routed.joined(), PartitionState(states, state.members)

    return base.combinator(init, advance, tuple(inners.values()))


@transformation(state=PartitionState)
def on_matrices(
    transform: GradientTransformation, others: GradientTransformation, axes: Axes = None
) -> GradientTransformation:
    """Gives the parameters that are matrices to one transformation, the others to another.

    Args:
        transform: For the matrices: a chain with `orthogonalize`, say, whose own `axes`
            should be the same.
        others: For all else, such as biases, gains and embeddings: an optimizer that works
            on each number by itself, such as `adamw`.
        axes: Which parameters are matrices, and what their axes are: a role such as `"io"`,
            a dict of patterns of paths and roles, a function of path and leaf, or None for
            what has two axes (see `optimjax.matrices`). `matrices.assignment(params, axes)`
            shows what becomes of it. It is asked once, by `init`.

    Returns:
        A `GradientTransformation` with a `PartitionState`, of the labels `"matrices"` and
        `"others"`.

    Raises:
        TypeError: If one of the first two is no transformation; by `init`, if `axes` is
            none of what it may be.
        ValueError: By `init`, if there is no matrix, if a pattern matches nothing, and if a
            role does not fit its parameter.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.ones((2, 2)), "embed": jnp.ones((3, 2)), "b": jnp.ones(2)}
        >>> t = ox.on_matrices(ox.sgd(0.1), ox.sgd(1.0), {"embed": None})
        >>> updates, _ = t.update(params, t.init(params), params)
        >>> print(updates["w"][0], updates["embed"][0], updates["b"])
        [-0.1 -0.1] [-1. -1.] [-1. -1.]
    """
    base.check_stages("on_matrices", [transform, others])

    def labels(params: Params) -> dict[Path, str]:
        found = matrices.some_matrix(axes, params)
        if isinstance(axes, Mapping) and _spread.over() is None:
            # Here, all there is can be seen.
            for pattern in axes:
                selection.first_match([pattern], params)
        return {path: "matrices" if role else "others" for path, role in found.items()}

    inners = {"matrices": transform, "others": others}
    return _partition(inners, labels, idle=True)


def _parts(
    leaves: dict[Path, Any],
    labels: dict[Path, str],
    inners: Mapping[str, Any],
    hint: str,
    idle: bool,
) -> dict[str, list[Path]]:
    """The leaves of each label, all of which are there and have some, if none is `idle`."""
    parts: dict[str, list[Path]] = {label: [] for label in inners}
    without, strange = [], {}
    for path in leaves:
        if path not in labels:
            without.append(path)
        elif labels[path] in parts:
            parts[labels[path]].append(path)
        else:
            strange.setdefault(labels[path], []).append(path)
    there = f"there are {list(inners)}"
    if without:
        raise Refusal(
            ValueError, f"got no label for {listed(without)}; {there}. '**' takes the rest."
        )
    for label, paths in strange.items():
        raise Refusal(
            ValueError,
            f"has no transformation for the label {label!r}, which {listed(paths)} got; "
            f"{there}.",
        )
    empty = [label for label, paths in parts.items() if not paths]
    if empty and leaves and not idle:
        raise Refusal(
            ValueError,
            f"has no parameter for {empty}. The labels are: "
            + "; ".join(f"{k!r}: {listed(v, 5)}" for k, v in parts.items() if v)
            + f".{hint}",
        )
    return parts
