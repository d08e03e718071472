"""Functions that make gradients: of a batch in parts, and of single examples.

What comes before an optimizer, and is no transformation, because what goes in is shaped
otherwise than what comes out: a batch that is too large for the memory (`microbatched`);
one gradient for each example, as `jax.vmap(jax.grad(loss), (None, 0))` gives them, from
which one for all is made (`per_example_*`, `private_gradients`).
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from . import _dtypes, numerics
from ._checks import Refusal, checked, typed_key
from .base import Params, Updates
from .tree import global_norm, random_like
from .typing import NonNegative, Positive, PositiveCount, Threshold


@checked
def microbatched(
    grad_fn: Callable[..., Any],
    microbatches: PositiveCount,
    *,
    reduce: Literal["mean", "sum"] = "mean",
) -> Callable[..., Any]:
    r"""Evaluates a function on one part of a batch after another, in the memory of one.

    $$ f(p, B) = \frac1k \sum_{i=1}^{k} f(p, B_i), $$

    which holds for the loss and the gradient wherever the loss of a batch is the mean over
    its examples; with `reduce="sum"`, the sum, without $1/k$. It is one `lax.scan`: one
    part is in memory at a time, and one sum, in float32 at least. The parts are of one
    size. Part $i$ has the examples $i, i + k, i + 2k, \dots$, so that a batch that is
    spread over devices stays spread.

    All that the function returns is treated alike, auxiliary output included: let it return
    means (or sums) there, and nothing of single examples. Batch statistics, as of batch
    normalisation, are those of a part.

    Args:
        grad_fn: A function `grad_fn(params, *batch, **kwargs)`, such as `jax.grad(loss)` or
            `jax.value_and_grad(loss, has_aux=True)`, that returns a tree of arrays.
        microbatches: $k \ge 1$, the number of parts; it divides the number of examples.
        reduce: Whether to take the mean or the sum of what the parts give.

    Returns:
        A function like `grad_fn`, to be called inside of a `jit`. All arguments but the
        first that are not named are trees of arrays whose first axis counts the examples;
        named ones are given to every part as they are. So random keys go into the batch,
        one for each example. Arrays come back in their dtypes, but means of integers are
        float32, and sums of them int32 at least.

    Raises:
        TypeError: If `grad_fn` is not a function.
        ValueError: If `microbatches` is less than 1; in a call, if there is no batch, or if
            the first axis of an array in it does not divide into so many parts or is of
            another length than the others, by key path.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> def loss(w, x):
        ...     return jnp.mean((w - x) ** 2)
        >>> grad_fn = ox.microbatched(jax.value_and_grad(loss), 2)
        >>> value, grad = grad_fn(1.0, jnp.array([1.0, 2.0, 3.0, 4.0]))
        >>> print(value, grad)
        3.5 -3.0
    """
    if not callable(grad_fn):
        raise TypeError(
            f"`microbatched(grad_fn=...)` must be a function, but got {grad_fn!r}."
        )

    def in_parts(params: Params, *batch: Any, **kwargs: Any) -> Any:
        parts = _cut(batch, microbatches)

        def part(i: Any) -> Any:
            def of(x: jax.Array) -> jax.Array:
                return jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False)

            return grad_fn(params, *jax.tree.map(of, parts), **kwargs)

        def add(total: Any, i: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(
                lambda s, x: s + _dtypes.cast(x, s.dtype), total, part(i)
            ), None

        steps = jnp.arange(microbatches)
        shapes = jax.eval_shape(part, steps[0])
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, _sum_dtype(x)), shapes)
        total, _ = jax.lax.scan(add, start, steps)
        if reduce == "mean":
            total = jax.tree.map(lambda s: s / microbatches, total)
        return _rounded(total, shapes)

    return in_parts


def _sum_dtype(x: Any) -> np.dtype:
    """The dtype in which to add up what is like `x`."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return _wide_dtype(x, _dtypes.real_dtype(x))
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(x.dtype, jnp.int32)


def _cut(batch: tuple[Any, ...], parts: int) -> Any:
    """The batch with a second axis, along which its `parts` lie."""
    length = None
    for n, argument in enumerate(batch, 1):
        for path, x in jax.tree.leaves_with_path(argument):
            place = f"{_dtypes.name_of(path)} of argument {n}"
            shape = jnp.shape(x)
            if not shape:
                raise ValueError(
                    "`microbatched` cuts what it is given along the first axis, but the "
                    f"leaf {place} has no axis. Give what is the same for all examples by "
                    "name."
                )
            length = length or (place, shape[0])
            if shape[0] != length[1]:
                raise ValueError(
                    f"`microbatched` got {length[1]} examples at the leaf {length[0]}, but "
                    f"{shape[0]} at the leaf {place}."
                )
            if shape[0] % parts:
                raise ValueError(
                    f"`microbatched` cannot cut the first axis of the leaf {place}, of "
                    f"length {shape[0]}, into {parts} equal parts."
                )
    if length is None:
        raise ValueError(
            "`microbatched` needs a batch: arrays behind the first argument, not by name."
        )
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), batch
    )


@checked
def per_example_global_norm_clip(
    grads: Updates, l2_norm_clip: Threshold
) -> tuple[Updates, jax.Array]:
    r"""Sums the gradients of single examples, each scaled down if its norm is too large.

    $$ u = \sum_n g_n \cdot \min(1, c / \lVert g_n \rVert), \qquad
       \lVert g_n \rVert = \sqrt{\textstyle\sum_i |g_{n,i}|^2} \text{ over all leaves}. $$

    So no example moves the sum by more than $c$: the step of differentially private
    training that comes before the noise. It is a function, no transformation, since what
    comes out has one axis less.

    Norms and sums are in float32 at least, and rounded once, to the dtype of the leaf. An
    example of norm zero adds zero. One with a NaN has no norm to be held to: it counts as
    clipped, and makes the whole sum NaN (Optax counts it as whole, and adds the rest of it
    unclipped). One whose norm is infinite adds zero from its finite numbers, NaN from the
    infinite ones.

    Args:
        grads: A tree of arrays whose first axis counts the examples.
        l2_norm_clip: $c$, in $[0, \infty]$. May be traced.

    Returns:
        The sum over the examples, a tree with the structure of `grads`, without that axis
        (sums of integers are float32); and the number of examples whose gradient was
        changed, an int32 scalar.

    Raises:
        ValueError: If `l2_norm_clip` is negative, or if a leaf has no first axis, or one
            of another length than the others, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> grads = {"w": jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.5]])}
        >>> total, clipped = ox.per_example_global_norm_clip(grads, 1.0)
        >>> print(total["w"], clipped)
        [0.6 1.3] 1

    References:
        M. Abadi et al., [Deep learning with differential
        privacy](https://arxiv.org/abs/1607.00133), 2016.
    """
    _check_examples(grads)
    total, clipped = _clipped_sum(grads, l2_norm_clip)
    return _rounded(total, grads), clipped


@checked
def per_example_layer_norm_clip(
    grads: Updates, global_l2_norm_clip: Threshold, uniform: bool = True
) -> tuple[Updates, Any]:
    r"""Sums the gradients of single examples, each leaf scaled down by its own norm.

    For every leaf $k$ of $K$, by itself,

    $$ u_k = \sum_n g_{n,k} \cdot \min(1, c_k / \lVert g_{n,k} \rVert), \qquad
       c_k = c / \sqrt K \;\text{ or }\; c_k = c \sqrt{D_k / D}, $$

    where $D_k$ of $D$ numbers of an example are in leaf $k$. In both, the squares of $c_k$
    add up to that of $c$, so that no example moves the whole sum by more than $c$, as in
    `per_example_global_norm_clip`. What is said there of zeros, NaN and dtypes holds here
    for each leaf: a NaN in one says nothing of the others.

    Args:
        grads: A tree of arrays whose first axis counts the examples.
        global_l2_norm_clip: $c$, in $[0, \infty]$. May be traced.
        uniform: Whether each leaf has the same share of $c$; otherwise, one by its size.

    Returns:
        The sum over the examples, a tree with the structure of `grads`, without that axis;
        and a tree of that structure with the number of examples whose gradient was changed
        in this leaf, int32 scalars.

    Raises:
        ValueError: If `global_l2_norm_clip` is negative, or if a leaf has no first axis, or
            one of another length than the others, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> grads = [jnp.array([[0.5], [3.0]]), jnp.array([[3.0, 4.0], [0.0, 0.0]])]
        >>> total, clipped = ox.per_example_layer_norm_clip(grads, 2**0.5)
        >>> print(*total, *clipped)
        [1.5] [0.6 0.8] 1 1

    References:
        H. B. McMahan et al., [Learning differentially private recurrent language
        models](https://arxiv.org/abs/1710.06963), 2017.
    """
    _check_examples(grads)
    leaves, treedef = jax.tree.flatten(grads)
    if uniform:
        shares = [1 / len(leaves) for _ in leaves]
    else:
        # One at least: of an empty leaf, the bound is to be no matter.
        sizes = [max(1, math.prod(jnp.shape(g)[1:])) for g in leaves]
        shares = [size / sum(sizes) for size in sizes]
    bounds = [global_l2_norm_clip * math.sqrt(share) for share in shares]
    pairs = [_clipped_sum(g, c) for g, c in zip(leaves, bounds, strict=True)]
    total, clipped = (treedef.unflatten(pair[i] for pair in pairs) for i in (0, 1))
    return _rounded(total, grads), clipped


def _check_examples(grads: Updates) -> None:
    """Refuses leaves that do not have one first axis in common."""
    first = None
    for path, g in jax.tree.leaves_with_path(grads):
        place, shape = _dtypes.name_of(path), getattr(g, "shape", ())
        if not shape:
            raise Refusal(
                ValueError,
                f"needs the gradients of single examples, along the first axis of "
                f"every leaf, but the leaf {place} has no axis. `jax.vmap(jax.grad(...))` "
                "gives them.",
            )
        first = first or (place, shape[0])
        if shape[0] != first[1]:
            raise Refusal(
                ValueError,
                f"got gradients of {first[1]} examples at the leaf {first[0]}, "
                f"but of {shape[0]} at the leaf {place}.",
            )


@jax.jit
def _clipped_sum(grads: Updates, bound: Any) -> tuple[Updates, jax.Array]:
    """The sum in float32 at least, not rounded yet, and how many were clipped."""
    if not jax.tree.leaves(grads):
        return grads, jnp.zeros((), jnp.int32)
    norms = jax.vmap(global_norm)(grads)
    bound = _dtypes.cast(bound, norms.dtype)
    factors = numerics.down_to(norms, bound)

    def total(g: jax.Array) -> jax.Array:
        wide = _dtypes.cast(g, _wide_dtype(g, factors.dtype))
        spread = jnp.expand_dims(factors, range(1, g.ndim))
        with jax.numpy_dtype_promotion("standard"):  # Of real factors and complex arrays.
            # Not `tensordot`: it adds one example after the other, perhaps in fewer bits.
            return jnp.sum(wide * spread, axis=0)

    # NaN is no norm within the bound.
    return jax.tree.map(total, grads), jnp.sum(~(norms <= bound), dtype=jnp.int32)


def _wide_dtype(x: Any, real: Any) -> np.dtype:
    """`real`, or the complex dtype over it where `x` is complex."""
    return _dtypes.with_real(_dtypes.dtype_of(x), real)


def _rounded(wide: Any, like: Any) -> Any:
    """Each array in the dtype of the matching one; not made an integer again."""

    def rounded(x: jax.Array, y: Any) -> jax.Array:
        dtype = _dtypes.dtype_of(y)
        return _dtypes.cast(x, dtype) if jnp.issubdtype(dtype, jnp.inexact) else x

    return jax.tree.map(rounded, wide, like)


@checked
def private_gradients(
    grads: Updates, l2_norm_clip: NonNegative, noise_multiplier: NonNegative, key: jax.Array
) -> Updates:
    r"""Makes one gradient of those of single examples that tells little of any of them.

    $$ u = \frac1n \Bigl( \sum_{i=1}^n g_i \min(1, c / \lVert g_i \rVert)
           + \mathcal N(0, \sigma^2 c^2) \Bigr): $$

    the gradient of differentially private training, DP-SGD. It goes into any optimizer.
    What privacy it gives is for an accountant to say, from $\sigma$, the number of steps
    and how batches are drawn. No care is taken of what the last digits of floating-point
    noise may tell.

    It is `per_example_global_norm_clip` and then `private_mean`; where the gradients of all
    examples do not fit into memory, or the size of the batch is itself random, call them
    one by one (see there).

    Args:
        grads: A tree of real or complex arrays whose first axis counts the examples.
        l2_norm_clip: $c \ge 0$, the largest norm an example may have. May be traced.
        noise_multiplier: $\sigma \ge 0$, how many times $c$ the standard deviation of the
            noise in the sum is. May be traced.
        key: A key of `jax.random.key`: another one at every step.

    Returns:
        A tree with the structure of `grads`, without the first axis. Norms, sums and noise
        are in float32 at least, and rounded once.

    Raises:
        ValueError: If a number is negative or not finite, or if a leaf has no first axis,
            or one of another length than the others, by key path.
        TypeError: If `key` is no key.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> def loss(w, x):  # Of one example.
        ...     return 0.5 * (w - x) ** 2
        >>> optimizer = ox.sgd(0.1)
        >>> @jax.jit
        ... def step(w, state, batch, key):
        ...     grads = jax.vmap(jax.grad(loss), (None, 0))(w, batch)
        ...     grad = ox.private_gradients(grads, 1.0, 1.5, key)
        ...     updates, state = optimizer.update(grad, state, w)
        ...     return ox.apply_updates(w, updates), state
        >>> w, batch = jnp.array(0.0), jnp.linspace(0.9, 1.1, 1000)
        >>> state = optimizer.init(w)
        >>> for key in jax.random.split(jax.random.key(0), 100):
        ...     w, state = step(w, state, batch, key)
        >>> print(f"{w:.2f}")
        1.00

    References:
        M. Abadi et al., [Deep learning with differential
        privacy](https://arxiv.org/abs/1607.00133), 2016.
    """
    key = typed_key(key, "`private_gradients(key=...)`", seeds=False)
    _check_examples(grads)
    leaves = jax.tree.leaves(grads)
    if not leaves:
        return grads
    total, _ = _clipped_sum(grads, l2_norm_clip)
    deviation = noise_multiplier * l2_norm_clip
    return _rounded(_noisy_mean(total, len(leaves[0]), deviation, key), grads)


@checked
def private_mean(
    total: Updates,
    batch_size: Positive,
    l2_norm_clip: NonNegative,
    noise_multiplier: NonNegative,
    key: jax.Array,
) -> Updates:
    r"""Adds noise to a sum of clipped gradients, and makes a mean of it.

    $u = (s + \mathcal N(0, \sigma^2 c^2)) / n$: the second half of `private_gradients`.
    The noise goes in once, whatever the number of parts that the sum was made of.

    Args:
        total: $s$, a sum of gradients no one of which is longer than $c$, as
            `per_example_global_norm_clip` and `per_example_layer_norm_clip` make it.
        batch_size: $n > 0$, the number of examples; where they are drawn each by itself, as
            accountants assume, their expected number. May be traced.
        l2_norm_clip: $c \ge 0$. May be traced.
        noise_multiplier: $\sigma \ge 0$. May be traced.
        key: A key of `jax.random.key`: another one at every step.

    Returns:
        A tree like `total`. Complex numbers get noise of that deviation in both parts, as
        the two real numbers that they are.

    Raises:
        ValueError: If a number lies outside of its range.
        TypeError: If `key` is no key.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> def loss(w, x):  # Of one example.
        ...     return 0.5 * (w - x) ** 2
        >>> def clipped_sum(w, batch):
        ...     grads = jax.vmap(jax.grad(loss), (None, 0))(w, batch)
        ...     return ox.per_example_global_norm_clip(grads, 1.0)
        >>> batch = jnp.linspace(0.4, 1.6, 1000)
        >>> in_parts = ox.microbatched(clipped_sum, 10, reduce="sum")
        >>> total, clipped = in_parts(0.0, batch)
        >>> grad = ox.private_mean(total, 1000, 1.0, 1.5, jax.random.key(0))
        >>> print(clipped, f"{total:.1f} {grad:.1f}")
        500 -849.7 -0.8
    """
    key = typed_key(key, "`private_mean(key=...)`", seeds=False)
    wide = jax.tree.map(
        lambda x: _dtypes.cast(x, _wide_dtype(x, _dtypes.real_dtype(x))), total
    )
    deviation = noise_multiplier * l2_norm_clip
    return _rounded(_noisy_mean(wide, batch_size, deviation, key), total)


@jax.jit
def _noisy_mean(total: Updates, count: Any, deviation: Any, key: jax.Array) -> Updates:
    def noisy(x: jax.Array, noise: jax.Array) -> jax.Array:
        size, number = (_dtypes.cast(s, noise.real.dtype) for s in (deviation, count))
        with jax.numpy_dtype_promotion("standard"):  # Of real numbers and complex arrays.
            return numerics.over(x + size * noise, number)

    return jax.tree.map(noisy, total, random_like(key, total, _gaussian))


def _gaussian(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Noise of variance one in every real number, and in both parts of a complex one."""
    noise = jax.random.normal(key, shape, dtype)
    return noise * math.sqrt(2) if jnp.iscomplexobj(noise) else noise
