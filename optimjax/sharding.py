"""How the state of a transformation lies on many devices, derived from how the params do.

Where a dimension of a state comes from is found out, not looked up: `init` is evaluated in
the abstract, for params whose divided dimensions have other lengths, and what has become
longer or shorter with a dimension comes from it. So it holds for any transformation.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.core
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from . import _dtypes, base
from ._checks import Refusal, named
from .base import GradientTransformation, OptState, Params
from .tree import broadcast_prefix

# The axes of the mesh that a dimension is divided over, the outermost first.
Axes: TypeAlias = tuple[str, ...]
Layout: TypeAlias = tuple[Axes, ...]  # Of an array: the axes of each dimension.


def state_sharding(
    tx: GradientTransformation, params: Params, param_shardings: Any = None
) -> Any:
    r"""The sharding of every leaf of a state, derived from those of the params.

    A dimension of the state that comes from a dimension of a parameter is divided as that
    one is: moments lie as their parameter does, the statistics of rows as the rows. What
    comes from no divided dimension (counts, a memory's slots) is whole on every device, and
    of two dimensions that come from one (a Gram matrix), the first is divided. Several
    dimensions made one by a `reshape` are divided if the outermost of them is, and no
    other. What `init` itself puts under `jax.lax.with_sharding_constraint` stays so.

    It knows no transformation by name: `init` is evaluated by `jax.eval_shape`, which
    allocates nothing, for the params and for others whose divided dimensions are a little
    longer, or shorter, each by another number. Two such evaluations must agree; where they
    do not, as where `init` asks which dimension is longer, or refuses odd shapes, others
    are asked (multiples; and symbols that compare as the true lengths do, see
    `jax.export.symbolic_shape`). What no two of them agree on is not guessed: it is whole
    on every device, and there is a warning that names it. (None of them shows an `init`
    that treats squares in a way of their own how it does, if the shapes do not tell.)

    Args:
        tx: Any transformation, of this library or of another.
        params: A tree of arrays, or of `jax.ShapeDtypeStruct`.
        param_shardings: A tree of `NamedSharding`, or a prefix of one, on one mesh; `None`
            for those that the params have. A parameter that has none is whole everywhere.

    Returns:
        A tree like the state, with a `NamedSharding` in the place of each array: for
        `out_shardings` of `jax.jit`, for `jax.device_put`, and for checkpoints.

    Warns:
        UserWarning: If a part of the state is left whole because nothing could be derived,
            by the key paths and shapes.

    Raises:
        ValueError: If no parameter has a `NamedSharding`, if they are on different meshes,
            or if one has more dimensions than its parameter.
        TypeError: If `tx` is no transformation, or a sharding is no `NamedSharding`.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> from jax.sharding import Mesh, NamedSharding, PartitionSpec
        >>> mesh = Mesh(jax.devices()[:1], ("model",))
        >>> rows = NamedSharding(mesh, PartitionSpec("model"))
        >>> params = {"w": jax.ShapeDtypeStruct((512, 256), jnp.float32, sharding=rows)}
        >>> shardings = ox.state_sharding(ox.scale_by_factored_rms(), params)
        >>> print(tuple(shardings.nu["w"].row.spec), tuple(shardings.nu["w"].col.spec))
        () ('model',)
    """
    base.check_stages("state_sharding", [tx], "`tx`")
    with named("state_sharding"):
        given = _given(params, param_shardings)
    _, shardings, missed = derived(tx, given)
    if missed:
        _warn(missed)
    return shardings


def sharded_init(
    tx: GradientTransformation, params: Params, param_shardings: Any = None
) -> OptState:
    """A fresh state that lies on the devices as `state_sharding` says, from the start.

    It is one compiled program, in which every device makes its own part; the whole of it is
    nowhere.

    Args:
        tx: Any transformation, of this library or of another.
        params: A tree of arrays. Those that do not lie as they should are put there.
        param_shardings: As in `state_sharding`.

    Returns:
        The state, as `tx.init(params)` would give it.

    Warns:
        UserWarning: As `state_sharding` does.

    Raises:
        ValueError: As `state_sharding` does.
        TypeError: Likewise; and if the params are shapes without numbers.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> from jax.sharding import Mesh, NamedSharding, PartitionSpec
        >>> mesh = Mesh(jax.devices()[:1], ("model",))
        >>> rows = NamedSharding(mesh, PartitionSpec("model"))
        >>> params = jax.device_put({"w": jnp.ones((4, 2))}, rows)
        >>> state = ox.sharded_init(ox.sgd(0.1, momentum=0.9), params)
        >>> print(tuple(state["scale_by_momentum"].momentum["w"].sharding.spec))
        ('model',)
    """
    base.check_stages("sharded_init", [tx], "`tx`")
    with named("sharded_init"):
        given = _given(params, param_shardings)
        if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(params)):
            raise Refusal(
                TypeError,
                "needs arrays, but got shapes. For the shardings alone, see "
                "`state_sharding`.",
            )
    _, shardings, missed = derived(tx, given)
    if missed:
        _warn(missed)
    lying = given.treedef.unflatten(sharding_of(given.mesh, x) for x in given.layouts)
    return jax.jit(tx.init, out_shardings=shardings)(jax.device_put(params, lying))


def _warn(missed: list[str], most: int = 10) -> None:
    more = f" and {len(missed) - most} more" if len(missed) > most else ""
    warnings.warn(
        "`state_sharding` leaves whole on every device what it cannot derive, dimensions "
        f"of {', '.join(missed[:most])}{more}.",
        stacklevel=3,
    )


class Given(NamedTuple):
    """Params as `derived` sees them: their shapes, and how they lie."""

    treedef: Any
    leaves: list[jax.ShapeDtypeStruct]
    layouts: list[Layout]
    mesh: Any

    @property
    def kinds(self) -> list["Kind"]:
        """Of each leaf. Those of one kind are always shown with one shape."""
        pairs = zip(self.leaves, self.layouts, strict=True)
        return [Kind(leaf.shape, layout) for leaf, layout in pairs]


class Kind(NamedTuple):
    """What parameters have in common that lie alike."""

    shape: tuple[int, ...]
    layout: Layout


def _given(params: Params, param_shardings: Any) -> Given:
    paths, treedef = jax.tree.flatten_with_path(params)
    if param_shardings is None:
        shardings = [_sharding_on(path, leaf) for path, leaf in paths]
    else:
        spread = broadcast_prefix(param_shardings, params, "tree of shardings")
        shardings = jax.tree.leaves(spread)
        for (path, _), sharding in zip(paths, shardings, strict=True):
            if not isinstance(sharding, NamedSharding):
                raise Refusal(
                    TypeError,
                    "needs a `NamedSharding` for every parameter, but got "
                    f"{sharding!r} for the leaf {_dtypes.name_of(path)}.",
                )
    meshes = list(dict.fromkeys(s.mesh for s in shardings if s is not None))
    if not meshes:
        raise Refusal(
            ValueError,
            "needs to know how the params lie on the devices, but none has a "
            "`NamedSharding`: give `param_shardings`.",
        )
    if len(meshes) > 1:
        raise Refusal(
            ValueError, f"needs params on one mesh, but got {meshes[0]} and {meshes[1]}."
        )
    leaves = [shape_of(leaf) for _, leaf in paths]
    layouts = []
    for (path, _), leaf, sharding in zip(paths, leaves, shardings, strict=True):
        spec = () if sharding is None else sharding.spec
        layouts.append(layout_of(spec, leaf.ndim, path))
    return Given(treedef, leaves, layouts, meshes[0])


def _sharding_on(path: Any, leaf: Any) -> NamedSharding | None:
    if isinstance(leaf, jax.core.Tracer):
        return None
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding):
        return sharding
    if sharding is not None and len(sharding.device_set) > 1:
        raise Refusal(
            TypeError,
            "needs a `NamedSharding` for every parameter, but the leaf "
            f"{_dtypes.name_of(path)} has {sharding}.",
        )
    return None


def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype alone."""
    shape = leaf.shape if hasattr(leaf, "shape") else np.shape(leaf)
    weak = getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct(shape, _dtypes.dtype_of(leaf), weak_type=weak)


def layout_of(spec: Iterable[Any], ndim: int, path: Any) -> Layout:
    """The axes for each of `ndim` dimensions, from a `PartitionSpec`."""
    axes: list[Axes] = []
    for entry in spec:
        if entry is None or entry is PartitionSpec.UNCONSTRAINED:
            axes.append(())
        else:
            axes.append((entry,) if isinstance(entry, str) else tuple(entry))
    if len(axes) > ndim:
        raise Refusal(
            ValueError,
            f"got a sharding of {len(axes)} dimensions for the leaf "
            f"{_dtypes.name_of(path)}, which has {ndim}.",
        )
    return (*axes, *[()] * (ndim - len(axes)))


def sharding_of(mesh: Any, layout: Layout) -> NamedSharding:
    """The sharding that divides each dimension over its axes."""
    entries = [axes[0] if len(axes) == 1 else axes or None for axes in layout]
    while entries and entries[-1] is None:
        entries.pop()
    return NamedSharding(mesh, PartitionSpec(*entries))


def parts(mesh: Any, axes: Axes) -> int:
    """Into how many parts these axes divide a dimension."""
    return math.prod(mesh.shape[axis] for axis in axes)


class _Shown(NamedTuple):
    """Params with other lengths, and how to read a state that was made of them."""

    shapes: dict[Kind, tuple[Any, ...]]
    # By the true length and that shown, how what has them may be divided; `None` is not
    # at all: several dimensions in one that is not divided as any of them is.
    found: dict[tuple[int, Any], set[Axes | None]]
    exact: bool = False  # Whether all lengths compare as the true ones do.


class _Read(NamedTuple):
    """The shapes in a state that was made of such params."""

    shown: _Shown
    shapes: list[tuple[Any, ...]]

    def of(self, leaf: int, true: tuple[int, ...], axis: int) -> set[Axes | None]:
        """How a dimension may be divided, as far as this tells; if not at all, empty."""
        shape = self.shapes[leaf]
        if len(shape) != len(true):
            return set()
        length = shape[axis]
        if isinstance(length, int) and length == true[axis]:
            return {()}
        return self.shown.found.get((true[axis], length), set())


class Derived(NamedTuple):
    """What `derived` finds."""

    state: Any  # A tree of `jax.ShapeDtypeStruct`.
    shardings: Any  # Likewise, of `NamedSharding`.
    missed: list[str]  # The leaves for which not all of it could be derived.


def derived(tx: GradientTransformation, given: Given) -> Derived:
    """The shardings of the state of params."""
    tree = given.treedef.unflatten(given.leaves)
    program, state = jax.make_jaxpr(tx.init, return_shape=True)(tree)
    paths, treedef = jax.tree.flatten_with_path(state)
    true = [leaf.shape for _, leaf in paths]
    shardings: list[Any] = _constrained(program.jaxpr)
    pending = [i for i, s in enumerate(shardings) if s is None and true[i]]
    divided = any(map(any, given.layouts))
    layouts = _layouts(tx, given, treedef, true, pending) if divided else {}
    made: dict[Layout, NamedSharding] = {}
    missed = []
    for i, (path, leaf) in enumerate(paths):
        if shardings[i] is not None:
            continue
        layout, complete = layouts.get(i, ((), True))
        if not complete:
            missed.append(f"{_dtypes.name_of(path)} of shape {leaf.shape}")
        if layout not in made:
            made[layout] = sharding_of(given.mesh, layout)
        shardings[i] = made[layout]
    return Derived(state, treedef.unflatten(shardings), missed)


def _constrained(jaxpr: Any) -> list[NamedSharding | None]:
    """Of each result of a program, the sharding that the program itself gives it."""
    makers = {id(v): (eqn, i) for eqn in jaxpr.eqns for i, v in enumerate(eqn.outvars)}
    found = []
    for var in jaxpr.outvars:
        eqn, i = makers.get(id(var), (None, 0))
        sharding = None
        if eqn is None:
            pass
        elif eqn.primitive.name in ("sharding_constraint", "reshard"):
            sharding = eqn.params.get("sharding", eqn.params.get("dst_sharding"))
        elif eqn.primitive.name in ("jit", "pjit"):
            sharding = _constrained(eqn.params["jaxpr"].jaxpr)[i]
        concrete = isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh)
        found.append(sharding if concrete else None)
    return found


def _layouts(
    tx: GradientTransformation,
    given: Given,
    treedef: Any,
    true: list[tuple[int, ...]],
    pending: list[int],
) -> dict[int, tuple[Layout, bool]]:
    """Of each pending leaf, how it is divided, and whether all of that was derived."""
    kinds = given.kinds
    readings: list[_Read] = []
    decided: dict[int, tuple[Layout, bool]] = {}
    for ways in _ways(list(dict.fromkeys(kinds)), given.mesh):
        for shown in ways:
            shapes = _state_shapes(tx, given, kinds, shown, treedef)
            if shapes is not None and _possible(shown, shapes, true):
                readings.append(_Read(shown, shapes))
        known: dict[Any, tuple[Layout, bool]] = {}  # Most leaves are like others.
        for i in pending:
            like = (true[i], *(tuple(r.shapes[i]) for r in readings))
            if like not in known:
                known[like] = _layout(given.mesh, true[i], i, readings)
            decided[i] = known[like]
        pending = [i for i in pending if not decided[i][1]]
        if not pending:
            break
    return decided


def _possible(
    shown: _Shown, shapes: list[tuple[Any, ...]], true: list[tuple[int, ...]]
) -> bool:
    """Whether symbols have the true lengths, where this is with symbols.

    They compare as these do, but that two of one length are not said to be equal. Where
    `init` has asked for that, it has perhaps made another state.
    """
    if not shown.exact:
        return True
    value_of = {symbol: n for n, symbol in shown.found}
    return all(
        len(shape) == len(truly)
        and all(
            (length if isinstance(length, int) else value_of.get(length, n)) == n
            for length, n in zip(shape, truly, strict=True)
        )
        for shape, truly in zip(shapes, true, strict=True)
    )


def _layout(
    mesh: Any, true: tuple[int, ...], leaf: int, readings: list[_Read]
) -> tuple[Layout, bool]:
    layout: list[Axes] = []
    complete = True
    for axis, length in enumerate(true):
        axes = _agreed([(r.shown.exact, r.of(leaf, true, axis)) for r in readings])
        if axes is None or length % parts(mesh, axes):
            axes, complete = (), False
        # An axis of the mesh divides one dimension of an array.
        taken = {a for before in layout for a in before}
        layout.append(() if taken & {*axes} else axes)
    return tuple(layout), complete


def _agreed(said: list[tuple[bool, set[Axes | None]]]) -> Axes | None:
    """What two readings agree on, and no third denies, if it may; else `None`."""
    said = [(exact, axes) for exact, axes in said if axes]
    exact = [axes for is_exact, axes in said if is_exact]
    if exact:
        # The others may have turned an order around.
        [truth] = exact
        shared = [truth & axes for is_exact, axes in said if not is_exact]
        common = next((axes for axes in shared if len(axes) == 1), set())
    else:
        common = set.intersection(*(axes for _, axes in said)) if len(said) > 1 else set()
    return next(iter(common)) if len(common) == 1 else None


def _state_shapes(
    tx: GradientTransformation,
    given: Given,
    kinds: list[Kind],
    shown: _Shown,
    treedef: Any,
) -> list[tuple[Any, ...]] | None:
    """The shapes in the state of the params as shown; `None` if there is no such state."""
    leaves = [
        jax.ShapeDtypeStruct(shown.shapes[kind], leaf.dtype, weak_type=leaf.weak_type)
        for leaf, kind in zip(given.leaves, kinds, strict=True)
    ]
    try:
        state = jax.eval_shape(tx.init, given.treedef.unflatten(leaves))
    except Exception:  # Whatever it says to shapes that are not those of the params.
        return None
    found, structure = jax.tree.flatten(state)
    return [x.shape for x in found] if structure == treedef else None


def _ways(kinds: list[Kind], mesh: Any) -> Iterator[Iterable[_Shown]]:
    """Params with other lengths; what one step settles, the next is not asked."""
    of_length: dict[int, list[tuple[Kind, int]]] = {}
    for kind in kinds:
        for axis, axes in enumerate(kind.layout):
            if axes:
                of_length.setdefault(kind.shape[axis], []).append((kind, axis))

    def other(length: Callable[[int, int, int], int]) -> _Shown:
        """With `length(n, i, m)` for the i-th of m divided dimensions of length n."""
        shapes = {kind: list(kind.shape) for kind in kinds}
        for n, places in of_length.items():
            for i, (kind, axis) in enumerate(places, 1):
                shapes[kind][axis] = length(n, i, len(places))
        return _shown(shapes, mesh)

    yield (
        # Dimensions of one length once in this order, and once in the other.
        other(lambda n, i, m: n + i),
        other(lambda n, i, m: n - i if n > m else n + 2 * m + 1 - i),
    )
    yield _symbolic(kinds, of_length, mesh)
    # Thirds stay thirds.
    yield (other(lambda n, i, m: n * (1 + i)), other(lambda n, i, m: n * (2 * m + 3 - i)))
    # What is equal stays equal.
    yield (
        _shown({kind: [by * n for n in kind.shape] for kind in kinds}, mesh)
        for by in (2, 3)
    )


def _symbolic(
    kinds: list[Kind], of_length: dict[int, list[tuple[Kind, int]]], mesh: Any
) -> Iterator[_Shown]:
    """With symbols for lengths: they multiply as such, and compare as numbers."""
    from jax import export  # Which takes a while, and is seldom needed.

    names, bounds, places = [], [], []
    for n, some in of_length.items():
        for place in some:
            name = f"n{len(names)}"
            names.append(name)
            bounds += [f"{name} >= {n}", f"{name} <= {n}"]
            places.append(place)
    if len(names) > 64:  # Each is compared with all the others.
        return
    shapes: dict[Kind, list[Any]] = {kind: list(kind.shape) for kind in kinds}
    try:
        symbols = export.symbolic_shape(", ".join(names), constraints=bounds)
    except (ValueError, NotImplementedError):
        return
    for (kind, axis), symbol in zip(places, symbols, strict=True):
        shapes[kind][axis] = symbol
    yield _shown(shapes, mesh)._replace(exact=True)


def _shown(shapes: dict[Kind, list[Any]], mesh: Any) -> _Shown:
    found: dict[tuple[int, Any], set[Axes | None]] = {}
    for kind, shape in shapes.items():
        for start in range(len(shape)):
            for end in range(start + 1, len(shape) + 1):
                run = slice(start, end)
                true, other = math.prod(kind.shape[run]), math.prod(shape[run])
                if isinstance(other, int) and other == true:
                    continue  # Nothing in it is divided.
                axes = _joined(kind.shape[run], kind.layout[run], mesh)
                found.setdefault((true, other), set()).add(axes)
    return _Shown({kind: tuple(shape) for kind, shape in shapes.items()}, found)


def _joined(shape: tuple[int, ...], layout: Layout, mesh: Any) -> Axes | None:
    """How dimensions made one are divided, if every number stays where it is."""
    joined: Axes = ()
    outermost = True  # Whether a part has but one entry of what came before.
    for n, axes in zip(shape, layout, strict=True):
        if axes and not outermost:
            return None
        joined += axes
        outermost = outermost and n == parts(mesh, axes)
    return joined
