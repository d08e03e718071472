"""Second moments of matrices as Kronecker products, one factor for each side: Shampoo."""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _branches, _dtypes, numerics
from .._checks import Number
from .._linalg import adjoint, each, product
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..matrices import Axes, all_matrices, matrixwise, slot_for
from ..typing import Fraction, PositiveCount


class Sides(NamedTuple):
    """What belongs to the two sides of a stack of matrices."""

    left: Any  # For the inputs, (batch, inputs, inputs); () where there is none.
    right: Any  # For the outputs, (batch, outputs, outputs), likewise.


def gathered(g: jax.Array, factors: Sides, *, decay: Any, weight: Any) -> Sides:
    """The factors with a new gradient in them: of `g g*` on the left, `g* g` right.

    A finite gradient whose square is not is left out: there are no axes of infinity.
    """
    largest = jnp.max(numerics.modulus(g), axis=(-2, -1), keepdims=True, initial=0)
    most = float(jnp.finfo(largest.dtype).max) / (2 * max(g.shape))
    taken = (largest <= math.sqrt(most)) | ~jnp.isfinite(largest)

    def more(factor: Any, square: Any) -> Any:
        if isinstance(factor, tuple):
            return factor
        new = numerics.decay_and_add(factor, weight * square(), decay)
        return jnp.where(taken, new, factor)

    return Sides(
        more(factors.left, lambda: product(g, adjoint(g))),
        more(factors.right, lambda: product(adjoint(g), g)),
    )


def inverse_root(
    matrix: jax.Array, exponent: float, eps: Any, gain: Any = 1.0
) -> jax.Array:
    r"""Of every matrix A of a stack, times `gain`: $\tau^{-1/4} (A / \tau)^{-e}$.

    $\tau$ is the trace. Eigenvalues below `eps` of the largest count as that much. Zero
    where A is zero. A constant to derivatives: that of an eigenvector is infinite where two
    eigenvalues meet.
    """
    with jax.numpy_dtype_promotion("standard"):
        real = jnp.finfo(matrix.dtype).dtype
        eps = _dtypes.cast(numerics.as_scalar(eps), real)
        gain = _dtypes.cast(numerics.as_scalar(gain), real)
        matrix = jax.lax.stop_gradient(matrix)
        trace = jnp.trace(matrix, axis1=-2, axis2=-1).real[:, None, None]
        values, vectors = jnp.linalg.eigh(numerics.divide(matrix, trace))
        # Not a sum: of eigenvalues that are rounding alone, nothing should be left.
        values = jnp.maximum(values, eps * values[:, -1:])
        dead = values <= 0
        powers = jnp.where(dead, 0, jnp.where(dead, 1, values) ** -exponent)
        root = product(vectors * powers[:, None, :], adjoint(vectors))
        size = numerics.sqrt(numerics.sqrt(gain * trace))
        return jax.lax.stop_gradient(numerics.divide(root, size))


def _cuts(length: int, size: int) -> tuple[int, int]:
    """How many blocks of at most `size`, and how long they are."""
    number = -(-length // size)
    return number, -(-length // number)


def _cut(x: jax.Array, size: int) -> jax.Array:
    """The blocks of a stack of matrices, as a stack; zeros where they reach beyond."""
    batch, rows, columns = x.shape
    (k, m), (h, n) = _cuts(rows, size), _cuts(columns, size)
    x = jnp.pad(x, ((0, 0), (0, k * m - rows), (0, h * n - columns)))
    return x.reshape(batch, k, m, h, n).swapaxes(2, 3).reshape(batch * k * h, m, n)


def _joined(blocks: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
    batch, rows, columns = shape
    (k, m), (h, n) = _cuts(rows, size), _cuts(columns, size)
    x = blocks.reshape(batch, k, h, m, n).swapaxes(2, 3).reshape(batch, k * m, h * n)
    return x[:, :rows, :columns]


class ScaleByShampooState(NamedTuple):
    """State of `scale_by_shampoo`."""

    count: jax.Array  # t, (), int32: the steps taken.
    factors: Params  # L and R: for each parameter, a tuple of `Sides`, one for each stack.
    roots: Params  # Their inverse roots as of the last renewal, likewise.


def _gather(
    g: jax.Array, factors: Sides, *, size: int, **how: Any
) -> tuple[jax.Array, Sides]:
    return g, gathered(_cut(g, size), factors, **how)


def _precondition(u: jax.Array, roots: Sides, *, size: int) -> tuple[jax.Array, Sides]:
    blocks = product(product(roots.left, _cut(u, size)), roots.right)
    return _joined(blocks, u.shape, size), roots


@transformation(state=ScaleByShampooState)
def scale_by_shampoo(
    decay: Fraction = 0.999,
    eps: Annotated[float | jax.Array, Number("(0, 1]")] = 1e-6,
    *,
    exponent: Annotated[float, Number("(0, 1]", plain=True)] = 0.25,
    every: PositiveCount = 10,
    block_size: PositiveCount = 1024,
    axes: Axes = None,
) -> GradientTransformation:
    r"""Divides a matrix from both sides by roots of its second moments: Shampoo.

    For the gradients $G_t$ of an m x n matrix, and the direction $D_t$ (see `chain`; alone
    they are the same), with $w = 1 - \beta$, or 1 if $\beta = 1$,

    $$ L_t = \beta\, L_{t-1} + w\, G_t G_t^*, \qquad
       R_t = \beta\, R_{t-1} + w\, G_t^* G_t, $$
    $$ U_t = \frac{1}{\sqrt\tau} \Big(\frac{\hat L}{\tau}\Big)^{-e} D_t
       \Big(\frac{\hat R}{\tau}\Big)^{-e}, \qquad \tau = \mathrm{tr}\, \hat L
       = \mathrm{tr}\, \hat R, $$

    where the hats divide by $1 - \beta^t$, the bias towards zero (not if $\beta = 1$), and
    eigenvalues below $\epsilon\, \lambda_{\max}$ count as that much in the powers.

    With $e = 1/4$ the traces cancel: $L^{-1/4} D\, R^{-1/4}$, as in the paper. With
    $e = 1/2$ it is AdaGrad's $H^{-1/2}$ for the nearest Kronecker product to the second
    moment, $H = L \otimes R / \tau$. For any exponent the updates do not depend on the
    scale of the loss (in float32 for gradients from 1e-10 to 1e18), and turn with the
    gradients, $G \mapsto P\, G\, Q$ for orthogonal P and Q. At the first step, that of a
    gradient $\sum_i \sigma_i u_i v_i^*$ is $\sum_i u_i
    v_i^*$ if $e = 1/4$.

    What they do depend on is how many gradients agree: `graft` gives them the length of a
    step that is known to be right, as in `shampoo`.

    Each step costs two products for L and R and two for U, $4 mn(m + n)$ flops; each
    renewal two eigendecompositions, some $10 (m^3 + n^3)$, in a branch that the steps
    between do not run. (Under a `vmap` over states there are no branches: there every step
    pays for it.)

    In float32, eigenvalues are right to some $3 \cdot 10^{-7} \lambda_{\max}$: with the
    default $\epsilon$, those that are rounding alone count as equals. Less makes noise of
    them; and with $e = 1/2$, what rounding leaves of G beside its own axes grows by $1 /
    \epsilon$, so that $10^{-4}$ is a better choice there. Eigenvectors are no smooth
    functions of the factors: to derivatives, the roots are constants.

    Args:
        decay: $\beta$, in $[0, 1]$; 1 for sums, as in the paper. May be traced, as may
            `eps`.
        eps: $\epsilon$, in $(0, 1]$. At 1, all eigenvalues count as equal.
        exponent: $e$, in $(0, 1]$: 0.25 as in the paper, or 0.5.
        every: From one renewal of the roots to the next, in steps; the first step is one.
            A matrix whose gradients were all zero at a renewal rests until the next.
        block_size: How long the sides of a matrix may be. A larger one is cut into equal
            blocks, padded with zeros, each of which is a matrix of its own here.
        axes: What the axes of a parameter are: a role such as `"io"`, a dict of patterns of
            paths and roles, a function of path and leaf, or None for what has two axes (see
            `optimjax.matrices`).

    Returns:
        A `GradientTransformation` with a `ScaleByShampooState`: $8 (m^2 + n^2)$ bytes for a
        matrix, 16 a parameter if it is square.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if a parameter is
            no matrix (see `on_matrices`), or if a role does not fit it.
        TypeError: By `init`, if `axes` is none of what it may be.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_shampoo()
        >>> grads = jnp.array([[0.0, 3.0], [-0.1, 0.0]])
        >>> updates, _ = t.update(grads, t.init(grads))
        >>> print(jnp.round(updates, 2))
        [[ 0.  1.]
         [-1.  0.]]

    References:
        V. Gupta, T. Koren and Y. Singer, [Shampoo: preconditioned stochastic tensor
        optimization](https://arxiv.org/abs/1802.09568), 2018; with $\epsilon I$ added to
        the factors, as in all code, in place of a least eigenvalue.
        R. Anil et al., [Scalable second order optimization for deep
        learning](https://arxiv.org/abs/2002.09018), 2020, for blocks, grafting, and roots
        that are renewed now and then.
        H.-J. M. Shi et al., [A distributed data-parallel PyTorch implementation of the
        distributed Shampoo optimizer](https://arxiv.org/abs/2309.06497), 2023.
        D. Morwani et al., [A new perspective on Shampoo's
        preconditioner](https://arxiv.org/abs/2406.17748), 2024, for $e = 1/2$.
    """

    def init(params: Params) -> ScaleByShampooState:
        all_matrices(axes, params)

        def sides(shape: tuple[int, int, int], dtype: Any) -> Sides:
            batch, *lengths = shape
            (k, m), (h, n) = (_cuts(length, block_size) for length in lengths)
            return Sides(*(jnp.zeros((batch * k * h, s, s), dtype) for s in (m, n)))

        return ScaleByShampooState(
            jnp.zeros((), jnp.int32),
            slot_for(params, axes, sides),
            slot_for(params, axes, sides),
        )

    def update(
        updates: Updates,
        state: ScaleByShampooState,
        params: Params | None = None,
        *,
        gradient: Updates,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        count = numerics.increment(state.count)
        sums = decay == 1
        weight = jnp.where(sums, 1.0, 1 - decay)
        of_all = numerics.one_minus_power(decay, count)
        gain = numerics.divide(jnp.ones_like(of_all), jnp.where(sums, 1.0, of_all))
        how = {"decay": decay, "weight": weight, "size": block_size}
        _, factors = matrixwise(_gather, gradient, axes, state.factors, **how)
        how = {"exponent": exponent, "eps": eps, "gain": gain}
        roots = _branches.cond(
            state.count % every == 0,
            lambda: each(inverse_root, factors, unknown=state.count == 0, **how),
            lambda: state.roots,
        )
        updates, _ = matrixwise(_precondition, updates, axes, roots, size=block_size)
        return updates, ScaleByShampooState(count, factors, roots)

    return GradientTransformation(init, update)
