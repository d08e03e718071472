"""Many small leaves, worked on as a few large ones."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, base, selection
from .._checks import Refusal
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..typing import PositiveCount
from .sparse import where_present


class PackSmallLeavesState(NamedTuple):
    """State of `pack_small_leaves`. Its trees are `{"apart": ..., "packed": ...}`.

    `apart` is like the params, with `None` in the place of what is packed; `packed` has a
    flat buffer for each dtype, by its name.
    """

    # Where the blocks of each buffer begin, (), int32, by dtype. They never change, and are
    # here to be numbers that the compiler does not know: then one program cuts all blocks.
    starts: dict[str, tuple[jax.Array, ...]]
    inner_state: OptState  # Of the transformation inside, for the packed tree.


class _Block(NamedTuple):
    """Some leaves of one shape, next to each other in a buffer."""

    start: int
    shape: tuple[int, ...]
    places: tuple[int, ...]  # Among the leaves of the params.


def _layout(leaves: list[Any], most: int) -> dict[str, list[_Block]]:
    """The blocks of each buffer, by dtype; what is in none stays apart."""
    small: dict[str, list[int]] = {}
    for place, x in enumerate(leaves):
        if x is not None and x.size <= most:
            small.setdefault(_dtypes.dtype_of(x).name, []).append(place)
    return {k: [*_blocks(leaves, places)] for k, places in small.items() if len(places) > 1}


def _places(layout: dict[str, list[_Block]]) -> list[int]:
    return [place for blocks in layout.values() for b in blocks for place in b.places]


def _blocks(leaves: list[Any], places: list[int]) -> Iterator[_Block]:
    """Of n leaves of one shape, about as many blocks as a block has leaves.

    The programs that cut the blocks are the same, and so is that of a leaf, but for its
    place in its block: there are about sqrt(n) of each to compile, not n.
    """
    start = 0
    for shape, run in itertools.groupby(
        sorted(places, key=lambda place: leaves[place].shape),
        key=lambda place: leaves[place].shape,
    ):
        alike = list(run)
        length = math.isqrt(len(alike) - 1) + 1
        for first in range(0, len(alike), length):
            block = _Block(start, shape, tuple(alike[first : first + length]))
            yield block
            start += len(block.places) * math.prod(shape)


def _packed(
    tree: Any,
    treedef: Any,
    layout: dict[str, list[_Block]],
    given: list[bool] | None = None,
) -> Any:
    """A tree like the params, as the transformation inside sees it.

    Where `given` says that there is no gradient, a buffer has zeros.
    """
    leaves = treedef.flatten_up_to(tree)
    buffers = {}
    for dtype, blocks in layout.items():
        parts = []
        for block in blocks:
            size = math.prod(block.shape)
            for place in block.places:
                x, leaves[place] = leaves[place], None
                if given is None or given[place]:
                    parts.append(jax.lax.reshape(x, (size,)))
                else:
                    parts.append(jnp.zeros(size, dtype))
        # All of one dtype, but where gradients of some are wider than their parameters.
        wide = functools.reduce(_dtypes.promote, {_dtypes.dtype_of(x) for x in parts})
        buffers[dtype] = jax.lax.concatenate([_dtypes.cast(x, wide) for x in parts], 0)
    return {"apart": treedef.unflatten(leaves), "packed": buffers}


@functools.partial(jax.jit, static_argnums=(2, 3))  # Traced once for each kind of block.
def _cut(
    buffer: jax.Array, start: jax.Array, shape: tuple[int, ...], count: int
) -> list[jax.Array]:
    size = math.prod(shape)
    return [
        jax.lax.dynamic_slice(buffer, (start + i * size,), (size,)).reshape(shape)
        for i in range(count)
    ]


def _unpacked(
    tree: Any,
    treedef: Any,
    layout: dict[str, list[_Block]],
    starts: dict[str, tuple[jax.Array, ...]],
    given: list[bool],
) -> Any:
    leaves = treedef.flatten_up_to(tree["apart"])
    for dtype, blocks in layout.items():
        buffer = tree["packed"][dtype]
        for block, start in zip(blocks, starts[dtype], strict=True):
            parts = _cut(buffer, start, block.shape, len(block.places))
            for place, part in zip(block.places, parts, strict=True):
                leaves[place] = part if given[place] else None
    return treedef.unflatten(leaves)


@transformation(state=PackSmallLeavesState, packable=True)
def pack_small_leaves(
    inner: GradientTransformation, max_size: PositiveCount = 4096
) -> GradientTransformation:
    r"""Works on all small leaves of a dtype as on one: fewer buffers, fewer programs.

    What a step costs beyond its arithmetic grows with the number of arrays that it reads
    and writes, and what compiling it costs with the number of leaves. Here gradients (and
    parameters, if a rule reads them) are put side by side, `inner` sees one flat leaf for
    each dtype and keeps its state so, and the updates are cut out of what it returns. The
    numbers are the same; those of sums over all leaves, such as a global norm, up to
    rounding.

    At a thousand leaves of a hundred numbers it makes compiling and stepping several times
    cheaper; at ten large ones it is of no use, and reads and writes the gradients once
    more. So it is for models of many small parameters, and something to be asked for.

    Args:
        inner: A transformation that treats all numbers alike, whichever leaf they are in:
            arithmetic on single numbers and on what is gathered over all leaves, as in
            `adamw` behind `clip_by_global_norm`. What looks at leaves, at their shapes
            (trust ratios, factored moments, matrices) or at their paths (masks), is
            refused by name, and so is what is not of this library.
        max_size: The largest number of entries of a leaf that is packed. Larger leaves,
            and one that is alone of its dtype, are what they are to `inner`.

    Returns:
        A `GradientTransformation` with a `PackSmallLeavesState`. It needs the params. Where
        a packed leaf has no gradient (None), its numbers in the state stay what they are.

    Raises:
        TypeError: If `inner` is no transformation, or one that looks at leaves.
        ValueError: If `max_size` is not positive; in `init`, if a small leaf is divided
            among devices: packing would gather it; in `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3), "scale": jnp.ones(())}
        >>> t = ox.pack_small_leaves(ox.sgd(0.1, momentum=0.9))
        >>> state = t.init(params)
        >>> momentum = state.inner_state["scale_by_momentum"].momentum
        >>> print(momentum["packed"]["float32"].shape)
        (10,)
        >>> updates, state = t.update(params, state, params)
        >>> print(updates["w"].shape, updates["b"])
        (2, 3) [-0.1 -0.1 -0.1]
    """
    base.check_stages("pack_small_leaves", [inner])
    base.check_packable("pack_small_leaves", inner)

    def init(params: Params) -> PackSmallLeavesState:
        leaves, treedef = jax.tree.flatten(params, is_leaf=_dtypes.is_none)
        layout = _layout(leaves, max_size)
        _check_whole(params, leaves, layout)
        starts = {
            dtype: tuple(jnp.full((), block.start, jnp.int32) for block in blocks)
            for dtype, blocks in layout.items()
        }
        inside = _packed(params, treedef, layout)
        return PackSmallLeavesState(starts, inner.init(inside))

    def advance(
        updates: Updates,
        gradient: Updates,
        state: PackSmallLeavesState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, PackSmallLeavesState]:
        params = base.needs(params)
        leaves, treedef = jax.tree.flatten(params, is_leaf=_dtypes.is_none)
        layout = _layout(leaves, max_size)
        if {dtype: len(blocks) for dtype, blocks in layout.items()} != {
            dtype: len(starts) for dtype, starts in state.starts.items()
        }:
            raise Refusal(
                ValueError,
                f"got params with small leaves of {sorted(layout) or 'no dtype'}, where "
                f"`init` was given {sorted(state.starts) or 'none'}, or others in number. "
                "What widens the params, such as `in_turn`, goes inside: "
                "`pack_small_leaves(in_turn(...))`.",
            )

        given = [u is not None for u in treedef.flatten_up_to(updates)]

        def packed(tree: Any) -> Any:
            return _packed(tree, treedef, layout, given)

        def unpacked(tree: Any) -> Any:
            return _unpacked(tree, treedef, layout, state.starts, given)

        inside = packed(updates)
        lane = inside if gradient is updates else packed(gradient)
        if "grad" in extra:
            extra = {**extra, "grad": packed(extra["grad"])}
        out, after, inner_state = base.advance(
            inner, inside, lane, state.inner_state, packed(params), extra
        )
        if not all(given[place] for place in _places(layout)):
            ones = [None if p is None else jnp.ones_like(p) for p in leaves]
            present = packed(treedef.unflatten(ones))
            inner_state = where_present(inner_state, state.inner_state, present)
        new = unpacked(out)
        if after is out:
            gradient = new
        elif after is not lane:
            gradient = unpacked(after)
        return new, gradient, PackSmallLeavesState(state.starts, inner_state)

    return base.combinator(init, advance, (inner,))


def _check_whole(params: Params, leaves: list[Any], layout: dict[str, Any]) -> None:
    """Refuses leaves that are divided among devices, as far as that can be seen."""
    for place in _places(layout):
        sharding = getattr(leaves[place], "sharding", None)
        if sharding is not None and not sharding.is_fully_replicated:
            path = list(selection.by_path(params))[place]
            raise Refusal(
                ValueError,
                f"would gather the leaf {selection.text(path)}, which is divided among "
                f"devices ({sharding}). Leave it out: `masked(..., patterns)`, or make "
                "`max_size` smaller.",
            )
