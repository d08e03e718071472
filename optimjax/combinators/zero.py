"""Each device keeps a part of the state, where params are whole on all of them."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from .. import _dtypes, base, states
from .._checks import Refusal, checked
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..sharding import Given, Layout, derived, layout_of, parts, shape_of, sharding_of
from ..tree import broadcast_prefix
from ..typing import PositiveCount

# How much a device may keep besides its part, as a fraction of that: of the leaves as they
# are shown to `inner`, which decide on most of its state, and then of the state.
_SLACK_OF_LEAVES, _SLACK = 0.03, 0.04


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Padded:
    """An array that does not divide, cut into a row for each device, zeros at the end."""

    # (devices, ceil(size / devices)); where a transformation keeps several for each
    # parameter, with axes in front.
    rows: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def whole(self) -> jax.Array:
        """The array."""
        front, size = self.rows.shape[:-2], math.prod(self.shape)
        flat = self.rows.reshape(*front, -1)[..., :size]
        return jax.lax.reshape(flat, (*front, *self.shape))


def _padded(x: jax.Array, devices: int) -> Padded:
    size = math.prod(x.shape)
    row = -(-size // devices)
    flat = jnp.pad(jax.lax.reshape(x, (size,)), (0, devices * row - size))
    return Padded(flat.reshape(devices, row), x.shape)


def _is_padded(x: Any) -> bool:
    return isinstance(x, Padded)


class Zero1State(NamedTuple):
    """State of `zero1`."""

    # Of the transformation inside, in which a `Padded` is in the place of an array, or of a
    # parameter, that has no dimension to divide.
    inner_state: OptState

    def eval_params(self, params: Params) -> Params | None:
        """The average inside, if there is one."""
        whole = jax.tree.map(
            lambda x: x.whole() if _is_padded(x) else x,
            self.inner_state,
            is_leaf=_is_padded,
        )
        return states.evaluated(whole, params)


class _Place(NamedTuple):
    """Where an array lies: divided as `layout` says, or padded."""

    layout: Layout
    padded: bool = False


class _Plan(NamedTuple):
    """Where everything lies, for params of given shapes."""

    treedef: Any  # Of the params, `None` among the leaves.
    params: list[Layout]  # Of each, outside,
    inside: list[_Place]  # and as `inner` sees it.
    state_treedef: Any  # Of the state of `inner`.
    as_derived: list[Layout]  # Of each leaf, while it is worked with,
    state: list[_Place]  # and between steps.


def _divide(shape: tuple[int, ...], layout: Layout, mesh: Any, axis: str) -> Layout | None:
    """`layout` with the axis in it, at the longest free dimension; `None` if at no one."""
    if any(axis in axes for axes in layout):
        return layout
    best = None
    for i, (n, axes) in enumerate(zip(shape, layout, strict=True)):
        if n == 0 or n % parts(mesh, (*axes, axis)):
            continue
        # A dimension of which a device has all is the better one.
        rank = (not axes, n)
        if best is None or rank > best[0]:
            best = rank, i
    if best is None:
        return None
    _, i = best
    return (*layout[:i], (*layout[i], axis), *layout[i + 1 :])


def _places(
    leaves: list[Any],
    layouts: list[Layout],
    mesh: Any,
    axis: str,
    *,
    shown: bool = False,
    pad: bool = True,
) -> list[_Place]:
    """Where arrays lie so that no device keeps more than its part, but for some slack.

    `shown` are the params as `inner` sees them: they are divided wherever they can be. What
    is kept between steps need not be, if it is small.
    """
    devices = mesh.shape[axis]
    nbytes = [
        x.size * _dtypes.dtype_of(x).itemsize / parts(mesh, sum(layout, ()))
        for x, layout in zip(leaves, layouts, strict=True)
    ]
    slack = (_SLACK_OF_LEAVES if shown else _SLACK) * sum(nbytes)  # Of all devices.
    places = [_Place(layout) for layout in layouts]
    for i in sorted(range(len(leaves)), key=lambda i: (nbytes[i], i)):
        x, layout = leaves[i], layouts[i]
        if any(axis in axes for axes in layout) or x.size <= 1:
            continue
        if not jnp.issubdtype(x.dtype, np.generic):  # Random keys.
            continue
        divided = _divide(x.shape, layout, mesh, axis)
        extra = nbytes[i] * (devices - 1)
        if shown and divided is not None:
            places[i] = _Place(divided)
        elif extra <= slack:
            slack -= extra
        elif divided is not None:
            places[i] = _Place(divided)
        elif pad and not any(layout):
            places[i] = _Place(((axis,), ()), padded=True)
    return places


class _Planner:
    """Where everything lies, inside of one `zero1`."""

    def __init__(
        self,
        inner: GradientTransformation,
        mesh: Mesh,
        axis: str,
        shardings: Any,
        devices: int | None,
    ):
        self.inner, self.mesh, self.axis, self.given = inner, mesh, axis, shardings
        self.devices = mesh.shape[axis] if devices is None else devices
        sizes = {**mesh.shape, axis: self.devices}
        # That for which shapes are made.
        self.planned = AbstractMesh((*sizes.values(),), (*sizes,))
        self.plans: dict[Any, _Plan] = {}

    def __call__(self, params: Params) -> _Plan:
        leaves, treedef = jax.tree.flatten(params, is_leaf=_dtypes.is_none)
        shapes = [None if x is None else shape_of(x) for x in leaves]
        key = treedef, *shapes
        if key not in self.plans:
            self.plans[key] = self._plan(shapes, treedef)
        return self.plans[key]

    def _plan(self, shapes: list[Any], treedef: Any) -> _Plan:
        before = self._layouts(treedef.unflatten(shapes), treedef)
        there = [i for i, x in enumerate(shapes) if x is not None]
        places = _places(
            [shapes[i] for i in there],
            [before[i] for i in there],
            self.planned,
            self.axis,
            shown=True,
            pad=base.is_packable(self.inner),
        )
        inside = [_Place(()) for _ in shapes]
        for i, place in zip(there, places, strict=True):
            inside[i] = place

        def cut(x: Any) -> Any:
            return jax.eval_shape(functools.partial(_padded, devices=self.devices), x)

        seen = treedef.unflatten(
            cut(x) if place.padded else x for x, place in zip(shapes, inside, strict=True)
        )
        leaves, seen_treedef = jax.tree.flatten(seen)
        layouts = [place.layout for place in places]
        found = derived(self.inner, Given(seen_treedef, leaves, layouts, self.planned))
        kept, state_treedef = jax.tree.flatten(found.state)
        as_derived = [
            layout_of(s.spec, x.ndim, ())
            for s, x in zip(jax.tree.leaves(found.shardings), kept, strict=True)
        ]
        stored = _places(kept, as_derived, self.planned, self.axis)
        if self.devices % self.mesh.shape[self.axis]:
            for i, x in zip(there, leaves, strict=True):
                inside[i] = self._fitted(inside[i], x.shape)
            pairs = [*zip(kept, stored, as_derived, strict=True)]
            as_derived = [self._fitted(_Place(y), x.shape).layout for x, _, y in pairs]
            stored = [
                self._fitted(place, cut(x).rows.shape if place.padded else x.shape)
                for x, place, _ in pairs
            ]
        return _Plan(treedef, before, inside, state_treedef, as_derived, stored)

    def _fitted(self, place: _Place, shape: tuple[int, ...]) -> _Place:
        """The place, for devices that do not divide what those planned for do."""
        layout = place.layout
        if all(
            n % parts(self.mesh, axes) == 0 for n, axes in zip(shape, layout, strict=True)
        ):
            return place
        rest = tuple(tuple(a for a in axes if a != self.axis) for axes in layout)
        divided = _divide(shape, rest, self.mesh, self.axis)
        return place._replace(layout=rest if divided is None else divided)

    def _layouts(self, params: Params, treedef: Any) -> list[Layout]:
        """How the params lie outside."""
        given = PartitionSpec() if self.given is None else self.given
        spread = treedef.flatten_up_to(broadcast_prefix(given, params, "tree of shardings"))
        layouts = []
        paths = jax.tree.leaves_with_path(params, is_leaf=_dtypes.is_none)
        for sharding, (path, x) in zip(spread, paths, strict=True):
            if x is None:
                layouts.append(())
                continue
            if isinstance(sharding, NamedSharding):
                same, spec = sharding.mesh == self.mesh, sharding.spec
            else:
                same, spec = isinstance(sharding, PartitionSpec), sharding
            if not same:
                raise Refusal(
                    ValueError,
                    "needs a `PartitionSpec` for every parameter, or a `NamedSharding` on "
                    f"its mesh, but got {sharding!r} for the leaf {_dtypes.name_of(path)}.",
                )
            layouts.append(layout_of(spec, x.ndim, path))
        return layouts

    def laid(self, x: Any, layout: Layout) -> Any:
        """`x`, divided as `layout` says from here on."""
        return jax.lax.with_sharding_constraint(x, sharding_of(self.mesh, layout))

    def put(self, x: Any, place: _Place) -> Any:
        """An array into its place."""
        if x is None:
            return None
        if not place.padded:
            return self.laid(x, place.layout)
        cut = _padded(x, self.devices)
        return dataclasses.replace(cut, rows=self.laid(cut.rows, place.layout))

    def taken(self, x: Any, layout: Layout) -> Any:
        """An array out of its place."""
        if isinstance(x, Padded):
            return dataclasses.replace(x, rows=self.laid(x.rows, ())).whole()
        return None if x is None else self.laid(x, layout)


@transformation(state=Zero1State)
def zero1(
    inner: GradientTransformation,
    mesh: Mesh,
    axis: str = "data",
    param_shardings: Any = None,
    *,
    devices: PositiveCount | None = None,
) -> GradientTransformation:
    r"""Divides the state, and the work of the step, among devices that all have the params.

    ZeRO's first stage. Of $n$ devices along `axis`, each keeps $1/n$ of the state, takes
    its part of the gradients and the parameters, steps there, and all gather the updates.
    The numbers are those of `inner`; those of sums over all leaves, such as a global norm,
    up to rounding.

    A parameter is divided along its longest dimension that $n$ divides and that is not
    divided otherwise. One without such a dimension is padded by zeros and cut into $n$
    rows, if `inner` treats all numbers alike (what `pack_small_leaves` takes); else `inner`
    sees it whole. What of its state then is not divided is so between steps: along any
    dimension that $n$ divides, or padded, and gathered when the step needs it. A little of
    it (4 percent of what a device keeps) stays whole, the smallest leaves.

    Gradients may come whole, and then each device takes its part of them, or as a sum over
    `axis` that XLA has yet to take: a reduce-scatter, where it has one. All is said by
    sharding constraints, so the step has to be compiled as one program for all devices, by
    `jax.jit` or `compiled_step`, not inside of `shard_map`.

    What is padded, and so the shapes in the state, depends on $n$. To go on with other
    devices than before, there are two ways. `devices`, a number that all the numbers of
    devices divide on which a run may be, keeps the shapes what they are on all of them, so
    that nothing has to be changed. Else read the old state with `devices` as it was then,
    and give it to `change_devices`.

    Args:
        inner: Any transformation.
        mesh: The mesh of the devices. Its axes are of the type `AxisType.Auto`, which
            `jax.make_mesh` has to be told.
        axis: The axis along which the params are copies of one another: that of data
            parallelism.
        param_shardings: How the params are divided along other axes: a tree, or a prefix of
            one, of `PartitionSpec`, or of `NamedSharding` on this mesh. `None` means not
            at all.
        devices: For how many devices the state is shaped; `None` means those there are.
            Where they do not divide the number, some of the state may be whole on all of
            them: that is to read it, rather than to go on.

    Returns:
        A `GradientTransformation` with a `Zero1State`, which `init` makes in its place,
        under `jit` or not. It needs the params.

    Raises:
        TypeError: If `inner` is no transformation, or `mesh` no mesh.
        ValueError: If the mesh has no such axis, or one of another type; in
            `init`, if params are divided and `param_shardings` does not say so, or do not
            match them; in `update`, if params are missing.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> mesh = jax.sharding.Mesh(jax.devices(), ("data",))
        >>> t = ox.zero1(ox.sgd(0.1, momentum=0.9), mesh)
        >>> params = {"w": jnp.ones((8 * len(jax.devices()), 3)), "b": jnp.ones(5)}
        >>> state = t.init(params)
        >>> momentum = state.inner_state["scale_by_momentum"].momentum
        >>> print(momentum["w"].addressable_shards[0].data.shape)
        (8, 3)
        >>> updates, state = t.update(params, state, params)
        >>> print(updates["b"])
        [-0.1 -0.1 -0.1 -0.1 -0.1]

    References:
        S. Rajbhandari et al., [ZeRO: memory optimizations toward training trillion
        parameter models](https://arxiv.org/abs/1910.02054), 2019.
    """
    base.check_stages("zero1", [inner])
    _check_mesh(mesh, axis)
    plan_of = _Planner(inner, mesh, axis, param_shardings, devices)

    def stored(state: OptState, plan: _Plan) -> Zero1State:
        leaves = plan.state_treedef.flatten_up_to(state)
        put = map(plan_of.put, leaves, plan.state)
        return Zero1State(plan.state_treedef.unflatten(put))

    def shown(tree: Any, plan: _Plan) -> Any:
        leaves = plan.treedef.flatten_up_to(tree)
        return plan.treedef.unflatten(map(plan_of.put, leaves, plan.inside))

    def init(params: Params) -> Zero1State:
        if param_shardings is None:
            _check_whole(params)
        plan = plan_of(params)

        def fresh(params: Params) -> Zero1State:
            return stored(inner.init(shown(params, plan)), plan)

        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(params)):
            return fresh(params)
        return jax.jit(fresh)(params)  # No device makes the whole of it.

    def advance(
        updates: Updates,
        gradient: Updates,
        state: Zero1State,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, Zero1State]:
        params = base.needs(params)
        plan = plan_of(params)

        def whole(tree: Any) -> Any:
            leaves = plan.treedef.flatten_up_to(tree)
            return plan.treedef.unflatten(map(plan_of.taken, leaves, plan.params))

        inside = shown(updates, plan)
        lane = inside if gradient is updates else shown(gradient, plan)
        if "grad" in extra:
            extra = {**extra, "grad": shown(extra["grad"], plan)}
        kept = plan.state_treedef.flatten_up_to(state.inner_state)
        inner_state = plan.state_treedef.unflatten(
            map(plan_of.taken, kept, plan.as_derived)
        )
        out, after, inner_state = base.advance(
            inner, inside, lane, inner_state, shown(params, plan), extra
        )
        new = whole(out)
        if after is out:
            gradient = new
        elif after is not lane:
            gradient = whole(after)
        return new, gradient, stored(inner_state, plan)

    return base.combinator(init, advance, (inner,))


@checked
def change_devices(state: Any, like: Any) -> Any:
    """What `zero1` keeps on some devices, for another number of them.

    Nothing is lost, and nothing is computed: what is padded is taken out of its rows and
    cut into as many as there shall be; the rest is divided otherwise. New padding is what
    `like` has there. Around `zero1` there may be other transformations, as there may be
    inside, but for `pack_small_leaves` with leaves that are padded.

    It is one compiled program on the new devices. An array whose rows change may be whole
    on each of them while it runs; so is all of the old state, if it comes from elsewhere
    than the mesh of `like`.

    Args:
        state: The state of any transformation with `zero1` in it, or a tree with such
            states: arrays on the old devices, on the new, or on none (of NumPy). From a
            checkpoint it is read in the place of what `zero1(..., devices=n)` makes on the
            new devices, where it was written on $n$.
        like: The same for the devices to go on with: what `init` gives there.

    Returns:
        The numbers of `state`, in the shapes of `like`, and where that lies.

    Raises:
        ValueError: If the trees do not match, or the arrays in them (by the key path).

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
        >>> params = {"w": jnp.ones(5)}
        >>> def optimizer(devices=None):
        ...     return ox.zero1(ox.sgd(0.1, momentum=0.9), mesh, devices=devices)
        >>> state = optimizer(4).init(params)
        >>> _, state = optimizer(4).update(params, state, params)
        >>> print(state.inner_state["scale_by_momentum"].momentum["w"].rows.shape)
        (4, 2)
        >>> state = ox.change_devices(state, optimizer().init(params))
        >>> print(state.inner_state["scale_by_momentum"].momentum["w"])
        [1. 1. 1. 1. 1.]
    """
    pairs, old_treedef = jax.tree.flatten_with_path(state, is_leaf=_is_padded)
    like_pairs, treedef = jax.tree.flatten_with_path(like, is_leaf=_is_padded)
    _check_alike(pairs, like_pairs, same=old_treedef == treedef)
    old, new = [x for _, x in pairs], [y for _, y in like_pairs]
    mesh = next((s.mesh for s in map(_lying, jax.tree.leaves(new)) if s is not None), None)
    if mesh is None:  # Nothing lies on many devices.
        return treedef.unflatten(map(_reshaped, old, new))
    everywhere = NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda y: _lying(y) or everywhere, new)

    def brought(x: Any) -> Any:
        lying = _lying(x)
        here = lying is not None and lying.mesh == mesh
        return x if here else jax.device_put(x, everywhere)

    program = jax.jit(lambda old, new: [*map(_reshaped, old, new)], out_shardings=shardings)
    return treedef.unflatten(program(*jax.tree.map(brought, (old, new))))


def _lying(x: Any) -> NamedSharding | None:
    sharding = getattr(x, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None


def _check_alike(old: list[Any], new: list[Any], *, same: bool) -> None:
    """Refuses arrays, by key path, that are not the same but for how they are cut."""
    for path, x in (*old, *new):
        if _is_padded(x) and x.rows is None:
            raise Refusal(
                ValueError,
                "cannot tell where `pack_small_leaves` has put the leaf "
                f"{_dtypes.name_of(path)}, which is padded.",
            )
    if not same:
        only = {path for path, _ in old} ^ {path for path, _ in new}
        names = sorted(map(_dtypes.name_of, only))
        raise Refusal(
            ValueError,
            "needs states of one structure, but "
            + (f"only one has the leaf {names[0]}." if names else "they are of two kinds."),
        )
    for (path, x), (_, y) in zip(old, new, strict=True):
        was, is_now = (jax.eval_shape(_natural, z) for z in (x, y))
        if (was.shape, was.dtype) != (is_now.shape, is_now.dtype):
            raise Refusal(
                ValueError,
                f"needs the same arrays, but got {was.dtype}{[*was.shape]} and "
                f"{is_now.dtype}{[*is_now.shape]} for the leaf {_dtypes.name_of(path)}.",
            )


def _natural(x: Any) -> Any:
    """An array without its padding."""
    return dataclasses.replace(x, rows=_natural(x.rows)).whole() if _is_padded(x) else x


def _reshaped(x: Any, like: Any) -> Any:
    """An array, padded or not, as another is."""
    x = _natural(x)
    if not _is_padded(like):
        return x
    rows = _natural(like.rows)
    front = rows.shape[:-2]
    size = math.prod(like.shape)
    flat = x.reshape(*front, size)
    padding = rows.reshape(*front, -1)[..., size:]
    new = jnp.concatenate([flat, padding], axis=-1).reshape(rows.shape)
    return dataclasses.replace(like, rows=_reshaped(new, like.rows))


def _check_mesh(mesh: Any, axis: str) -> None:
    if not isinstance(mesh, Mesh):
        raise TypeError(f"`zero1(mesh=...)` must be a `Mesh`, but got {mesh!r}.")
    if axis not in mesh.axis_names:
        raise ValueError(
            f"`zero1(axis=...)` must be an axis of the mesh, one of {mesh.axis_names}, but "
            f"got {axis!r}."
        )
    if set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(
            "`zero1(mesh=...)` must have axes of the type `AxisType.Auto`, but got "
            f"{mesh.axis_types}. Say `axis_types` where it is made."
        )


def _check_whole(params: Params) -> None:
    """Refuses params that are divided, as far as that can be seen."""
    for path, x in jax.tree.leaves_with_path(params):
        sharding = None if isinstance(x, jax.core.Tracer) else getattr(x, "sharding", None)
        if sharding is not None and not sharding.is_fully_replicated:
            raise Refusal(
                ValueError,
                f"would gather the leaf {_dtypes.name_of(path)}, which is divided among "
                f"devices ({sharding}). Say so by `param_shardings`.",
            )
