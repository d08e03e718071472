r"""What an array becomes before it crosses a slow link, for `compress`.

A `Compressor` is a pair of functions of one array: what it remembers of an array from step
to step, and how an array is sent. These are there:

| compressor | what crosses the link, for $n$ numbers in float32 ($4n$ bytes) |
| --- | --- |
| `sign()` | the signs, eight to a byte, and a scale: $n/8 + 4$ bytes |
| `int8(block_size)` | a byte for each, and a scale for each block: $n + 4n/b$ bytes |
| `top_k(fraction)` | the largest ones and their places: $8k$ bytes |
| `low_rank(rank)` | two thin factors of an $m \times n$ matrix: $4r(m + n)$ bytes |

One of your own is mostly `coded(encode, decode)`: a function from an array to a tree of
smaller ones, and the way back. What comes out need not be like what went in: what is
missing is kept by `compress`, and sent later.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from . import _dtypes, _workers, numerics
from ._checks import Refusal, checked
from ._linalg import in_units, product
from .typing import Number, PositiveCount


class Link(NamedTuple):
    """What a compressor may do with the other workers."""

    axis_name: str | tuple[str, ...] | None  # None: there are no others.

    def mean(self, x: Any) -> Any:
        """The mean over all workers, of the arrays in a tree."""
        return _workers.mean(x, self.axis_name)

    def gather(self, x: Any) -> Any:
        """The arrays in the trees of all workers, stacked along a new first axis."""
        return _workers.gathered(x, self.axis_name)


class Compressor(NamedTuple):
    """How an array is sent. Its functions see one real array, float32 or wider.

    Attributes:
        init: `init(x) -> memory`: what to remember of an array such as `x`, a tuple of
            arrays; `()` for nothing. It must be the same on all workers.
        send: `send(x, memory, link) -> (sent, mean, memory)`: what of `x` has reached the
            others, the mean of that over all workers, and the new memory.
        expression: What made it, for the `repr`.
    """

    init: Callable[[jax.Array], Any]
    send: Callable[[jax.Array, Any, Link], tuple[jax.Array, jax.Array, Any]]
    expression: str = "Compressor(...)"

    def __repr__(self) -> str:
        return self.expression


def coded(
    encode: Callable[[jax.Array], Any],
    decode: Callable[[Any, Any], jax.Array],
    expression: str = "coded(...)",
) -> Compressor:
    """A compressor that remembers nothing, from a code and the way back.

    All workers get the codes of all, and take the mean of what they stand for, one after
    another, in the same order: in the memory of two arrays, to the same bits.

    Args:
        encode: `encode(x) -> code`, a tree of arrays, at least one.
        decode: `decode(code, like) -> x`, an array of the shape and dtype of `like`.
        expression: What to show for it.

    Returns:
        A `Compressor`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> half = ox.compressors.coded(
        ...     lambda x: x.astype(jnp.bfloat16),
        ...     lambda code, like: code.astype(like.dtype))
        >>> t = ox.compress(half)
        >>> sent, state = t.update(jnp.array([1.001]), t.init(jnp.zeros(1)))
        >>> print(sent, state.residual)
        [1.] [0.001]
    """

    def send(x: jax.Array, memory: Any, link: Link) -> tuple[jax.Array, jax.Array, Any]:
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        code = encode(x)
        sent = decode(code, like)
        if link.axis_name is None:
            return sent, sent, memory
        codes = link.gather(code)
        first = decode(jax.tree.map(lambda c: c[0], codes), like)
        total, _ = jax.lax.scan(
            lambda total, code: (total + decode(code, like), None),
            first,
            jax.tree.map(lambda c: c[1:], codes),
        )
        workers = jax.tree.leaves(codes)[0].shape[0]
        return sent, total / workers, memory

    return Compressor(lambda x: (), send, expression)


def sign() -> Compressor:
    r"""One bit for each number: $\frac{\lVert x \rVert_1}{n} \operatorname{sign}(x)$.

    Zero counts as positive, since a bit has no third value. Without error feedback it need
    not converge at all.

    Returns:
        A `Compressor`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.compress(ox.compressors.sign())
        >>> print(t.update(jnp.array([3.0, -1.0, 2.0]), t.init(jnp.zeros(3)))[0])
        [ 2. -2.  2.]

    References:
        S. P. Karimireddy et al., [Error feedback fixes SignSGD and other gradient
        compression schemes](https://arxiv.org/abs/1901.09847), 2019.
    """

    def encode(x: jax.Array) -> Any:
        return jnp.packbits((x >= 0).reshape(-1)), jnp.mean(numerics.modulus(x))

    def decode(code: Any, like: Any) -> jax.Array:
        bits, size = code
        positive = jnp.unpackbits(bits, count=math.prod(like.shape)) != 0
        return jnp.where(positive, size, -size).reshape(like.shape)

    return coded(encode, decode, "compressors.sign()")


@checked
def int8(block_size: PositiveCount = 256) -> Compressor:
    r"""Eight bits for each number: whole multiples of the largest in its block over 127.

    Rounded to nearest. What is not finite makes its block NaN. The last block is filled up
    with zeros, which cross the link, too.

    Args:
        block_size: $b \ge 1$: how many numbers share a scale.

    Returns:
        A `Compressor`.

    Raises:
        ValueError: If `block_size` is less than 1.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.compress(ox.compressors.int8())
        >>> print(t.update(jnp.array([127.0, 0.4, -2.6]), t.init(jnp.zeros(3)))[0])
        [127.   0.  -3.]

    References:
        T. Dettmers, [8-bit approximations for parallelism in deep
        learning](https://arxiv.org/abs/1511.04561), 2015.
    """

    def encode(x: jax.Array) -> Any:
        size = min(block_size, x.size)
        blocks = jnp.pad(x.reshape(-1), (0, -x.size % size)).reshape(-1, size)
        largest = jnp.max(jnp.abs(blocks), axis=1, keepdims=True)
        scale = largest / 127
        # Where it has underflowed, nothing is sent, and all is kept.
        whole = jnp.round(numerics.divide(blocks, scale))
        # What is not finite shows in the scale.
        whole = jnp.where(jnp.isfinite(whole), jnp.clip(whole, -127, 127), 0)
        return whole.astype(jnp.int8), jnp.where(jnp.isfinite(scale), scale, jnp.nan)

    def decode(code: Any, like: Any) -> jax.Array:
        whole, scale = code
        numbers = whole.astype(scale.dtype) * scale
        return numbers.reshape(-1)[: math.prod(like.shape)].reshape(like.shape)

    return coded(encode, decode, f"compressors.int8({block_size})")


@checked
def top_k(fraction: Annotated[float, Number("(0, 1]", plain=True)] = 0.01) -> Compressor:
    r"""The $k$ numbers with the largest moduli, as they are; zero for the rest.

    Args:
        fraction: $k / n$, in $(0, 1]$, of each array; $k$ is rounded up.

    Returns:
        A `Compressor`.

    Raises:
        ValueError: If `fraction` lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.compress(ox.compressors.top_k(0.5))
        >>> sent, state = t.update(jnp.array([3.0, -1.0, 2.0, -4.0]), t.init(jnp.zeros(4)))
        >>> print(sent, state.residual)
        [ 3.  0.  0. -4.] [ 0. -1.  2.  0.]

    References:
        S. U. Stich, J.-B. Cordonnier and M. Jaggi, [Sparsified SGD with
        memory](https://arxiv.org/abs/1809.07599), 2018.
    """

    def encode(x: jax.Array) -> Any:
        k = math.ceil(fraction * x.size - 1e-9)  # 0.07 of 100 is 7, and no float.
        flat = x.reshape(-1)
        _, places = jax.lax.top_k(jnp.abs(jax.lax.stop_gradient(flat)), max(k, 1))
        return flat[places], places

    def decode(code: Any, like: Any) -> jax.Array:
        values, places = code
        empty = jnp.zeros(math.prod(like.shape), like.dtype)
        return empty.at[places].set(values, unique_indices=True).reshape(like.shape)

    return coded(encode, decode, f"compressors.top_k({fraction})")


@checked
def low_rank(rank: PositiveCount = 2) -> Compressor:
    r"""A product of two thin matrices, by a step of the power iteration: PowerSGD.

    For a matrix $M_w$ of worker $w$, and the factor $Q$ of the last step,

    $$ P = \operatorname{orthonormal}\Bigl(\frac1W \sum_w M_w Q\Bigr), \qquad
       Q_w = M_w^\top P, \qquad Q = \frac1W \sum_w Q_w. $$

    What worker $w$ has sent is $P Q_w^\top$, and the mean is $P Q^\top$. Only $M_w Q$ and
    $Q_w$ cross the link. Columns of $Q$ that are all zero stay what they were.

    An array of more than two axes is a matrix whose columns are those along the last axis.
    What is no matrix, or too small for it to pay ($r(m + n) \ge mn$), is sent as it is. To
    derivatives, $P$ is a constant.

    Args:
        rank: $r \ge 1$.

    Returns:
        A `Compressor`. It remembers $Q$: $4rn$ bytes.

    Raises:
        ValueError: If `rank` is less than 1.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.compress(ox.compressors.low_rank(1))
        >>> g = jnp.outer(jnp.array([1.0, 2.0, 2.0]), jnp.array([3.0, 5.0, 4.0]))
        >>> sent, state = t.update(g, t.init(g))
        >>> print(sent.round(4)[0], state.memory[0].shape)
        [3. 5. 4.] (3, 1)

    References:
        T. Vogels, S. P. Karimireddy and M. Jaggi, [PowerSGD: practical low-rank gradient
        compression for distributed optimization](https://arxiv.org/abs/1905.13727), 2019.
    """

    def shape_of(x: Any) -> tuple[int, int] | None:
        """The shape of the matrix; None if the array is to be sent as it is."""
        if x.ndim < 2 or x.size == 0:
            return None
        m, n = math.prod(x.shape[:-1]), x.shape[-1]
        return (m, n) if rank * (m + n) < m * n else None

    def init(x: jax.Array) -> Any:
        shape = shape_of(x)
        if shape is None:
            return ()
        # The same on all workers, and, float32 or not, the same numbers.
        start = jax.random.normal(jax.random.key(0), (shape[1], rank), jnp.float32)
        return (_dtypes.cast(start, _dtypes.real_dtype(x)),)

    def send(x: jax.Array, memory: Any, link: Link) -> tuple[jax.Array, jax.Array, Any]:
        shape = shape_of(x)
        if shape is None:
            return x, link.mean(x), memory
        found = jax.tree.map(jnp.shape, memory)
        if found != ((shape[1], rank),):
            raise Refusal(
                ValueError,
                f"got a state made with another compressor: low_rank({rank}) remembers an "
                f"array of shape {(shape[1], rank)} here, but there is {found or 'none'}.",
            )
        (before,) = memory
        matrix, (q, _) = x.reshape(shape), in_units(before, axis=-2)
        p, _ = in_units(link.mean(product(matrix, q)), axis=-2)
        # The derivative of a QR decomposition has no value where columns depend.
        p = jnp.linalg.qr(jax.lax.stop_gradient(p))[0]
        own = product(matrix.T, p)
        both = link.mean(own)
        sent, mean = (product(p, f.T).reshape(x.shape) for f in (own, both))
        some = jnp.any(both != 0, axis=0, keepdims=True)
        return sent, mean, (jnp.where(some, both, before),)

    return Compressor(init, send, f"compressors.low_rank({rank})")
