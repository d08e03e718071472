"""Rules for matrices on many devices: each matrix is the work of one of them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import _dtypes, _spread, base, matrices
from .._spread import STACKS, Over
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..matrices import Axes

# Of the stages that look at leaves, those that look at matrices.
_FOR_MATRICES = {
    "in_eigenbasis",
    "on_matrices",
    "orthogonalize",
    "scale_by_matrix_shape",
    "scale_by_shampoo",
    "scale_by_unit_rms",
}


class SpreadMatricesState(NamedTuple):
    """State of `spread_matrices`."""

    # Of the transformation inside, for a tree `{"others": ..., "stacks": {...}}`: `others`
    # is like the params, with None for matrices, and `stacks` has an array for each size,
    # (matrices, inputs, outputs), filled up with zeros to a multiple of the devices.
    inner_state: OptState


class _Member(NamedTuple):
    """Some matrices of a stack."""

    leaf: int  # Where they are from, and
    part: int  # in which of its stacks they were.
    count: int


class _Layout:
    """How the matrices of a tree are laid together."""

    def __init__(self, devices: Over, axes: Axes, params: Params):
        mesh, axis = devices
        self.size = mesh.shape[axis]
        self.divided = NamedSharding(mesh, PartitionSpec(axis))
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        self.leaves, self.treedef = jax.tree.flatten(params, is_leaf=_dtypes.is_none)
        self.roles = list(matrices.some_matrix(axes, params).values())
        self.members: dict[str, list[_Member]] = {}  # By the name of a stack.
        for leaf, (x, role) in enumerate(zip(self.leaves, self.roles, strict=True)):
            for part, (count, m, n) in enumerate(matrices.shapes(x, role) if role else ()):
                member = _Member(leaf, part, count)
                self.members.setdefault(f"{m} x {n}", []).append(member)

    def joined(self, tree: Any) -> dict[str, Any]:
        """A tree like the params, in stacks; zeros where there is no gradient."""
        leaves = self.treedef.flatten_up_to(tree)
        parts = {}
        for leaf, (p, role) in enumerate(zip(self.leaves, self.roles, strict=True)):
            if role is not None:
                x, leaves[leaf] = leaves[leaf], None
                parts[leaf] = matrices.split(jnp.zeros_like(p) if x is None else x, role)
        stacks = {}
        for name, members in self.members.items():
            mine = [parts[x.leaf][x.part] for x in members]
            wide = functools.reduce(_dtypes.promote, {_dtypes.dtype_of(x) for x in mine})
            stack = jax.lax.concatenate([_dtypes.cast(x, wide) for x in mine], 0)
            more = -len(stack) % self.size
            stack = jax.lax.pad(stack, jnp.zeros((), stack.dtype), [(0, more, 0), *_ALL])
            # First whole, then cut: or XLA cuts what goes in, and sends the pieces around.
            whole = _spread.put(stack, self.everywhere)
            stacks[name] = _spread.put(whole, self.divided)
        return {"others": self.treedef.unflatten(leaves), STACKS: stacks}

    def apart(self, tree: dict[str, Any], like: Any) -> Any:
        """The tree again, gathered, with None where `like` has it."""
        leaves = self.treedef.flatten_up_to(tree["others"])
        parts: dict[int, dict[int, jax.Array]] = {}
        for name, members in self.members.items():
            stack = _spread.put(tree[STACKS][name], self.everywhere)
            counts = [x.count for x in members]
            cut = jax.lax.split(stack[: sum(counts)], counts)
            for x, matrix in zip(members, cut, strict=True):
                parts.setdefault(x.leaf, {})[x.part] = matrix
        for leaf, x in enumerate(self.treedef.flatten_up_to(like)):
            role = self.roles[leaf]
            if role is not None and x is not None:
                mine = (parts[leaf][part] for part in range(len(parts[leaf])))
                leaves[leaf] = matrices.join(tuple(mine), role, x)
        return self.treedef.unflatten(leaves)

    def placed(self, state: OptState) -> OptState:
        """The state, with what belongs to stacks divided as they are."""

        def put(path: Any, x: Any) -> Any:
            mine = _stack_of(path) is not None and jnp.ndim(x) > 0
            return _spread.put(x, self.divided) if mine else x

        return jax.tree_util.tree_map_with_path(put, state)

    def kept(self, state: OptState, before: OptState, updates: Updates) -> OptState:
        """The state, but as it was for matrices without a gradient."""
        given = [x is not None for x in self.treedef.flatten_up_to(updates)]
        if all(given):
            return state

        def keep(path: Any, x: Any, old: Any) -> Any:
            name = _stack_of(path)
            if name is None or jnp.ndim(x) == 0:
                return x
            present = [given[m.leaf] for m in self.members[name] for _ in range(m.count)]
            present += [True] * (-len(present) % self.size)
            # Of a matrix there may be several blocks.
            rows = np.repeat(present, len(x) // len(present))
            return jnp.where(rows.reshape(-1, *[1] * (x.ndim - 1)), x, old)

        return jax.tree_util.tree_map_with_path(keep, state, before)


_ALL = [(0, 0, 0)] * 2  # Of the other axes.


def _stack_of(path: Any) -> str | None:
    """The name of the stack that a leaf of a state belongs to."""
    keys = [getattr(key, "key", None) for key in path]
    return keys[keys.index(STACKS) + 1] if STACKS in keys else None


@transformation(state=SpreadMatricesState)
def spread_matrices(
    inner: GradientTransformation, mesh: Mesh, axis: str, axes: Axes = None
) -> GradientTransformation:
    r"""Gives each matrix to one of many devices: `inner` works on it there, and only there.

    Where parameters are replicated, as in data parallel training, a rule for matrices would
    do the same work on each device. Here all matrices of a size are laid together in a
    stack, which is divided among the devices of an axis of the mesh, with all that `inner`
    keeps of it: momentum, Kronecker factors, eigenbases. Each device cuts its matrices out
    of the gradients, and the finished updates are gathered: one all-gather for each size is
    all that is sent. The numbers are those of `inner` itself.

    With D devices and L matrices of a size, each works on ceil(L / D), and holds as many in
    its state. Leaves that are no matrices are what they are to `inner`, on every device.

    Args:
        inner: A transformation for matrices, such as `muon`, `normuon`, `scion`, `soap`, or
            a chain of `scale_by_shampoo`, with what stands beside it. What looks at leaves
            otherwise, at their norms (`graft`) or their paths (masks), is refused by name.
            Its own `axes` are not asked: in a stack they are known.
        mesh: The devices.
        axis: The name of the axis of `mesh` that matrices are divided along.
        axes: What the axes of a parameter are: a role such as `"io"`, a dict of patterns of
            paths and roles, a function of path and leaf, or None for what has two axes (see
            `optimjax.matrices`).

    Returns:
        A `GradientTransformation` with a `SpreadMatricesState`, whose stacks are divided
        among the devices. It needs the params.

    Raises:
        TypeError: If `inner` is no transformation, or looks at leaves; if `mesh` is no
            mesh.
        ValueError: If `mesh` has no such axis; by `init`, if there is no matrix, or a role
            does not fit its parameter; by `update`, if params are missing.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
        >>> t = ox.spread_matrices(ox.muon(0.1), mesh, "data")
        >>> params = {"w": jnp.eye(2, 3), "v": jnp.eye(2, 3), "b": jnp.ones(3)}
        >>> state = t.init(params)
        >>> updates, state = t.update(params, state, params)
        >>> print(jax.tree.map(jnp.shape, updates))
        {'b': (3,), 'v': (2, 3), 'w': (2, 3)}
    """
    base.check_stages("spread_matrices", [inner])
    base.check_packable("spread_matrices", inner, but=_FOR_MATRICES)
    if not isinstance(mesh, Mesh):
        raise TypeError(f"`spread_matrices(mesh=...)` takes a `Mesh`, but got {mesh!r}.")
    if axis not in mesh.axis_names:
        raise ValueError(
            f"`spread_matrices(axis=...)` must be one of {list(mesh.axis_names)}, the axes "
            f"of the mesh, but got {axis!r}."
        )
    devices = Over(mesh, axis)

    def init(params: Params) -> SpreadMatricesState:
        layout = _Layout(devices, axes, params)
        inside = layout.joined(params)
        with _spread.stacked(devices):
            return SpreadMatricesState(layout.placed(inner.init(inside)))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: SpreadMatricesState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, SpreadMatricesState]:
        params = base.needs(params)
        layout = _Layout(devices, axes, params)
        inside = layout.joined(updates)
        lane = inside if gradient is updates else layout.joined(gradient)
        if "grad" in extra:
            extra = {**extra, "grad": layout.joined(extra["grad"])}
        before = state.inner_state
        with _spread.stacked(devices):
            out, after, inner_state = base.advance(
                inner, inside, lane, before, layout.joined(params), extra
            )
        inner_state = layout.kept(inner_state, before, updates)
        new = layout.apart(out, updates)
        if after is out:
            gradient = new
        elif after is not lane:
            gradient = layout.apart(after, gradient)
        return new, gradient, SpreadMatricesState(layout.placed(inner_state))

    return base.combinator(init, advance, (inner,))
