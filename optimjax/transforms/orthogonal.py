"""Rules for matrices that change their singular values, or the lengths of their parts.

All of them are for matrices and nothing else (see `optimjax.matrices` for what is one);
`on_matrices` gives the other parameters to another transformation.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

from .. import _dtypes, matrices, numerics
from .._checks import Checked
from .._linalg import adjoint, in_units, product
from ..base import (
    EmptyState,
    GradientTransformation,
    OptState,
    Params,
    Updates,
    memoryless,
    transformation,
)
from ..matrices import Axes
from ..typing import Decay, NonNegative, PositiveCount, Scalar, StorageDtype

Triple: TypeAlias = tuple[float, float, float]
Preconditioning: TypeAlias = Literal["frobenius", "schatten", "spectral", "aol"]

# What a step makes of a singular value s is a s + b s^3 + c s^5. The last triple of a list
# is repeated. The best for a lowest singular value of 0.001, step by step:
_MINIMAX = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_SAFETY = 1.01  # Rounding may have brought a singular value above one.
_NAMED: dict[str, tuple[Triple, ...]] = {
    "standard": ((3.4445, -4.7750, 2.0315),),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "polar_express": (
        *((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _MINIMAX),
        (1.875, -1.25, 0.375),
    ),
    "cubic": ((1.5, -0.5, 0.0),),
}


def _triples(ns_coeffs: Any) -> tuple[Triple, ...] | None:
    """The triples that an argument gives; `None` if it gives none."""
    try:
        numbers = np.asarray(ns_coeffs, np.float64)
    except (TypeError, ValueError):
        return None
    numbers = numbers[None] if numbers.ndim == 1 else numbers
    if numbers.ndim != 2 or numbers.shape[1] != 3 or not numbers.size:
        return None
    if not np.isfinite(numbers).all():
        return None
    return tuple((float(a), float(b), float(c)) for a, b, c in numbers)


def _check_coefficients(value: Any, where: str) -> Any:
    known = value in (*_NAMED, "svd") if isinstance(value, str) else _triples(value)
    if not known:
        raise ValueError(
            f"{where} must be one of {[*_NAMED, 'svd']}, or three finite numbers, or a "
            f"list of such, but got {value!r}."
        )
    return value


Coefficients: TypeAlias = Annotated[str | Sequence[Any], Checked(_check_coefficients)]


def _sum_sq(x: jax.Array, axis: Any) -> jax.Array:
    return jnp.sum(numerics.abs_sq(x), axis=axis, keepdims=True)


def _product(x: jax.Array, y: jax.Array, low: str | None = None) -> jax.Array:
    """A product of matrices with sums in the dtype of `x`, whatever their factors."""
    dtype = x.dtype
    if low is None or jnp.iscomplexobj(x):
        return product(x, y)
    x, y = _dtypes.cast(x, low), _dtypes.cast(y, low)
    return jnp.matmul(x, y, preferred_element_type=dtype)


def _preconditioned(
    x: jax.Array, how: str, eps: Any, low: str | None
) -> tuple[jax.Array, jax.Array | None]:
    """`x` with no singular value above one, and its `x x^H` if that was of use."""
    matrix = (-2, -1)
    if how == "frobenius":
        return numerics.divide(x, numerics.sqrt(_sum_sq(x, matrix)) + eps), None
    if how == "spectral":
        norm = jnp.linalg.norm(x, 2, axis=matrix, keepdims=True)
        return numerics.divide(x, norm + eps), None
    gram = _product(x, adjoint(x), low)
    if how == "schatten":
        square = numerics.sqrt(_sum_sq(gram, matrix))
    else:
        square = jnp.sum(jnp.abs(gram), axis=-1, keepdims=True)
    length = numerics.sqrt(square) + eps
    gram = numerics.divide(numerics.divide(gram, length), jnp.swapaxes(length, -1, -2))
    return numerics.divide(x, length), gram


def _newton_schulz(
    x: jax.Array, triples: tuple[Triple, ...], how: str, eps: Any, low: str | None
) -> jax.Array:
    x, gram = _preconditioned(x, how, eps, low)
    if gram is not None:
        x, triples = _stepped(x, gram, *triples[0], low=low), triples[1:]
    if not triples:
        return x
    table = jnp.asarray(triples, _dtypes.real_dtype(x))
    odd = not any(c for _, _, c in triples)  # No term of fifth order: a product less.

    def one(x: jax.Array, abc: jax.Array) -> tuple[jax.Array, None]:
        a, b, c = abc[0], abc[1], 0.0 if odd else abc[2]
        return _stepped(x, _product(x, adjoint(x), low), a, b, c, low=low), None

    def each(x: jax.Array) -> jax.Array:
        # A loop, not a row of steps: compiled once, it is a third of the program, and on a
        # CPU it steps faster, since products do not wait for each other's threads.
        return jax.lax.scan(one, x, table)[0]

    if x.shape[0] == 1:
        return each(x[0])[None]
    by_turns = functools.partial(jax.lax.map, each)
    return jax.lax.platform_dependent(x, cpu=by_turns, default=each)


def _stepped(
    x: jax.Array, gram: jax.Array, a: Any, b: Any, c: Any, *, low: str | None
) -> jax.Array:
    polynomial = b * gram
    if not isinstance(c, float) or c:
        polynomial = polynomial + c * _product(gram, gram, low)
    return a * x + _product(polynomial, x, low)


def _inverse_where(kept: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(kept, 1 / jnp.where(kept, x, 1), 0)


def _decomposed(x: jax.Array) -> tuple[jax.Array, ...]:
    """U, s, V^H and which of `s` are more than rounding."""
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    least = jnp.finfo(x.dtype).eps * max(x.shape[-2:]) * s[..., :1]
    return u, s, vh, s > least


@jax.custom_jvp
def _isometry(x: jax.Array) -> jax.Array:
    """The partial isometry of the polar decomposition: U V^H, without the null space."""
    u, _, vh, kept = _decomposed(x)
    return _product(u * kept[..., None, :], vh)


@_isometry.defjvp
@jax.numpy_dtype_promotion("standard")  # JAX calls it outside of the rule.
def _(primals: Any, tangents: Any) -> Any:
    # That of U V^H by the derivative of the SVD is not defined where two singular values
    # are equal; this one is, and depends on their sums alone.
    (x,), (dx,) = primals, tangents
    u, s, vh, kept = _decomposed(x)
    u, vh = u * kept[..., None, :], vh * kept[..., :, None]
    uh, v = adjoint(u), adjoint(vh)
    inner = _product(_product(uh, dx), v)
    both = kept[..., :, None] & kept[..., None, :]
    sums = s[..., :, None] + s[..., None, :]
    turned = (inner - adjoint(inner)) * _inverse_where(both, sums)
    inverse = _inverse_where(kept, s)
    left = _product(u * inverse[..., None, :], _product(uh, dx))
    right = _product(_product(dx, v) * inverse[..., None, :], vh)
    out = (
        _product(_product(u, turned), vh)
        + (left - _product(_product(left, v), vh))
        + (right - _product(u, _product(uh, right)))
    )
    return _product(u, vh), out


def _orthogonalized(
    g: jax.Array,
    *,
    coeffs: Any,
    steps: int,
    eps: Any,
    preconditioning: str,
    low: str | None,
    adaptive: bool,
) -> jax.Array:
    x, unit = in_units(g)
    tall = x.shape[-2] > x.shape[-1]
    x = jnp.swapaxes(x, -1, -2) if tall else x
    if coeffs == "svd":
        x = _isometry(x)
    else:
        triples = _NAMED[coeffs] if isinstance(coeffs, str) else coeffs
        triples = (triples + triples[-1:] * steps)[:steps]
        x = _newton_schulz(x, triples, preconditioning, eps / unit, low)
    x = jnp.swapaxes(x, -1, -2) if tall else x
    if adaptive:
        x = x * jnp.sum(jnp.real(jnp.conj(g) * x), axis=(-2, -1), keepdims=True)
    return x


def _for_matrices(
    rule: Callable[..., jax.Array], axes: Axes, **how: Any
) -> GradientTransformation:
    """The plain pair of a rule for stacks, for matrices and nothing else, without state."""

    def init(params: Params) -> EmptyState:
        matrices.all_matrices(axes, params)
        return EmptyState()

    rest = memoryless(lambda updates: matrices.matrixwise(rule, updates, axes, **how))
    return rest._replace(init=init)


@transformation
def orthogonalize(
    ns_coeffs: Coefficients = "standard",
    ns_steps: PositiveCount | None = None,
    eps: NonNegative = 0.0,
    *,
    preconditioning: Preconditioning = "frobenius",
    adaptive: bool = False,
    dtype: StorageDtype | None = None,
    axes: Axes = None,
) -> GradientTransformation:
    r"""Replaces each matrix by the nearest semi-orthogonal one: all singular values one.

    With the singular value decomposition $G = U \Sigma V^H$ that is $U V^H$, found without
    a decomposition by the Newton-Schulz iteration: from $X_0 = G / \lVert G \rVert_F$,

    $$ A = X_k X_k^H, \qquad X_{k+1} = (a_k I + b_k A + c_k A^2)\, X_k, $$

    which takes every singular value $s$ to $a_k s + b_k s^3 + c_k s^5$ and leaves the
    singular vectors alone. The products are of the smaller side. How near to one singular
    values come is a matter of the coefficients, and of how small they were:

    | `ns_coeffs` | 5 steps from $[0.01, 1]$ | from $[0.001, 1]$ | |
    | --- | --- | --- | --- |
    | `"standard"` | 0.68 to 1.14 | 0.47 to 1.21 | Jordan's, of all peers; no nearer |
    | `"dion"` | 0.97 to 1.04 | 0.47 to 1.15 | of Dion, modded-nanogpt, Optax; then 0.99 |
    | `"polar_express"` | 0.87 to 1.13 | 0.84 to 1.13 | in 7 steps within $10^{-4}$ of 1 |
    | `"cubic"` | 0.07 to 1.00 | 0.00 to 1.00 | Newton-Schulz as of old; then to 1 |
    | `"svd"` | 1 | 1 | exact, and much slower on accelerators |

    Where the singular value is zero, it stays so, also in `"svd"` (the partial isometry of
    the polar decomposition): a gradient of low rank moves nothing else, and one of zero
    gives zero. The size of the matrix does not matter, were it $10^{-30}$, apart from
    `eps`. Derivatives are finite at zero.

    Args:
        ns_coeffs: One of these names; or three numbers, for every step; or a list of such,
            one for each step, of which the last is repeated.
        ns_steps: The number of steps; `None`: as many as a list has that you gave, else 5.
        eps: Added to the norm that the matrix is divided by, so that a matrix well below it
            is not made a large one. `"svd"` does not use it.
        preconditioning: What to divide by before the first step, for singular values of at
            most one: the `"frobenius"` norm; the Schatten-4 norm (`"schatten"`), which is
            smaller, so that they start nearer to one, and costs nothing; the largest
            singular value itself (`"spectral"`), by a decomposition; or each row of the
            smaller side by a number of its own (`"aol"`), whose result is semi-orthogonal
            too, but not the nearest to $G$, only to $G$ rescaled so.
        adaptive: Whether to multiply by the inner product of input and output, which is the
            sum of singular values if they become one: the step of steepest descent in the
            spectral norm, in place of one of its length.
        dtype: The dtype of the factors in matrix products, such as `"bfloat16"`; sums are
            in float32. `None`: that of the updates, in full precision, float32 at least.
            It is not for `"svd"`, and complex matrices do not use it.
        axes: What the axes of a parameter are; see `optimjax.matrices`.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if a parameter is
            no matrix.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.orthogonalize("svd")
        >>> g = jnp.array([[3.0, 0.0], [4.0, 0.0], [0.0, -7.0]])
        >>> updates, _ = t.update(g, t.init(g))
        >>> print(jnp.round(updates, 3))
        [[ 0.6  0. ]
         [ 0.8  0. ]
         [ 0.  -1. ]]

    References:
        K. Jordan et al., [Muon](https://kellerjordan.github.io/posts/muon/), 2024.
        N. Amsel et al., [The Polar Express](https://arxiv.org/abs/2505.16932), 2025, whose
        matrix is divided by 1.01 once more.
        E. Grishina et al., [Accelerating Newton-Schulz iteration for orthogonalization via
        Chebyshev-type polynomials](https://arxiv.org/abs/2506.10935), 2025, for
        `"schatten"`.
        T. Boissin et al., [Turbo-Muon](https://arxiv.org/abs/2512.04632), 2025, for
        `"aol"`.
        J. Bernstein and L. Newhouse, [Old optimizer, new
        norm](https://arxiv.org/abs/2409.20325), 2024, for `adaptive`.
    """
    named = isinstance(ns_coeffs, str)
    coeffs: Any = ns_coeffs if named else _triples(ns_coeffs)
    if dtype is not None and coeffs == "svd":
        raise ValueError(
            "`orthogonalize(dtype=...)` is of the steps of Newton-Schulz; 'svd' has none."
        )
    one_each = not named and np.ndim(cast(Any, ns_coeffs)) == 2
    return _for_matrices(
        _orthogonalized,
        axes,
        coeffs=coeffs,
        steps=ns_steps or (len(coeffs) if one_each else 5),
        eps=eps,
        preconditioning=preconditioning,
        low=None if dtype is None else dtype.name,
        adaptive=adaptive,
    )


_RULES: dict[str, Callable[[int, int], float]] = {
    "original": lambda inputs, outputs: math.sqrt(max(1.0, outputs / inputs)),
    "match_rms": lambda inputs, outputs: math.sqrt(max(inputs, outputs)),
    "spectral": lambda inputs, outputs: math.sqrt(outputs / inputs),
}


def _scaled(u: jax.Array, *, by: Any, factor: Any) -> jax.Array:
    _, inputs, outputs = u.shape
    by = _RULES[by] if isinstance(by, str) else by
    return numerics.times(factor * by(inputs, outputs), u)


@transformation
def scale_by_matrix_shape(
    rule: str | Callable[[int, int], float] = "original",
    factor: Scalar = 1.0,
    *,
    axes: Axes = None,
) -> GradientTransformation:
    r"""Multiplies each matrix by what its numbers of inputs and outputs say.

    With $m$ inputs and $n$ outputs:

    | `rule` | multiplies by | for |
    | --- | --- | --- |
    | `"original"` | $c \sqrt{\max(1, n / m)}$ | Jordan's Muon, PyTorch, Optax |
    | `"match_rms"` | $c \sqrt{\max(m, n)}$ | Moonlight, Keras; `consistent_rms` of Optax |
    | `"spectral"` | $c \sqrt{n / m}$ | Scion, and what $\mu$P asks for |

    Entries of a semi-orthogonal matrix have the root mean square $1 / \sqrt{\max(m, n)}$,
    so that `"match_rms"` makes it $c$: 0.2 is about what Adam's steps have, whose rates and
    decays then fit. `"spectral"` makes the root mean square of outputs change by $c$, if
    that of inputs is one.

    Args:
        rule: One of these names, or a function of inputs and outputs to a number.
        factor: $c$. May be traced.
        axes: What the axes of a parameter are; see `optimjax.matrices`. PyTorch's weights
            are `"oi"`.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if a parameter is
            no matrix.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_matrix_shape("match_rms", 0.2)
        >>> g = jnp.ones((1, 4))
        >>> print(t.update(g, t.init(g))[0])
        [[0.4 0.4 0.4 0.4]]

    References:
        J. Liu et al., [Muon is scalable for LLM
        training](https://arxiv.org/abs/2502.16982), 2025 (Moonlight).
        G. Yang, J. B. Simon and J. Bernstein, [A spectral condition for feature
        learning](https://arxiv.org/abs/2310.17813), 2023.
    """
    if not callable(rule) and rule not in _RULES:
        raise ValueError(
            f"`scale_by_matrix_shape(rule=...)` must be one of {list(_RULES)}, or a "
            f"function, but got {rule!r}."
        )
    return _for_matrices(_scaled, axes, by=rule, factor=factor)


def _unit_lengths(u: jax.Array, *, axis: int, eps: Any) -> jax.Array:
    u, unit = in_units(u, axis)
    return numerics.divide(u, numerics.sqrt(_sum_sq(u, axis)) + eps / unit)


@transformation
def normalize_units(
    units: Literal["outputs", "inputs"] = "outputs",
    eps: NonNegative = 0.0,
    *,
    axes: Axes = None,
) -> GradientTransformation:
    r"""Gives the weights of each unit of a matrix the length one.

    $$ u_{ij} = g_{ij} / (\lVert g_{\cdot j} \rVert + \epsilon), $$

    for all weights into output $j$, which is to normalise columns of a kernel (inputs,
    outputs) and rows of a weight (outputs, inputs); or, for all weights out of input $i$,
    such as the embedding of a token, $g_{ij} / (\lVert g_{i \cdot} \rVert + \epsilon)$.

    These are steps of steepest descent in norms of operators, as `orthogonalize` is one in
    the spectral norm. Scion takes the largest change of any output for output layers
    (`normalize_units("outputs"), scale_by_matrix_shape(lambda m, n: m**-0.5)`), and the
    largest of all outputs together for input layers (`normalize_units("inputs"),
    scale_by_matrix_shape(lambda m, n: n**0.5)`).

    Args:
        units: Whose weights belong together.
        eps: $\epsilon \ge 0$: units well below it are not made large ones. A unit of zero
            stays zero.
        axes: What the axes of a parameter are; see `optimjax.matrices`.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if a parameter is
            no matrix.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.normalize_units()
        >>> g = jnp.array([[3.0, 0.0], [4.0, 5.0]])
        >>> print(t.update(g, t.init(g))[0])
        [[0.6 0. ]
         [0.8 1. ]]

    References:
        T. Pethick et al., [Training deep learning models with norm-constrained
        LMOs](https://arxiv.org/abs/2502.07529), 2025.
    """
    axis = -2 if units == "outputs" else -1
    return _for_matrices(_unit_lengths, axes, axis=axis, eps=eps)


class ScaleByUnitRmsState(NamedTuple):
    """State of `scale_by_unit_rms`."""

    nu: Params  # v, for each parameter a tuple of stacks, (batch, outputs); real.


def _unit_rms(
    u: jax.Array, v: jax.Array, *, b2: Any, eps: Any
) -> tuple[jax.Array, jax.Array]:
    mean = jnp.mean(numerics.abs_sq(u), axis=-2)
    v = numerics.decay_and_add(v, (1 - b2) * mean, b2)
    new = numerics.divide(u, (numerics.sqrt(v) + eps)[..., None, :])
    before, after = (numerics.sqrt(_sum_sq(x, (-2, -1))) for x in (u, new))
    return new * numerics.divide(before, after), v


@transformation(state=ScaleByUnitRmsState)
def scale_by_unit_rms(
    b2: Decay = 0.95, eps: NonNegative = 1e-10, *, axes: Axes = None
) -> GradientTransformation:
    r"""Divides the weights into each output by how large their updates have been: NorMuon.

    For an update $o$ of $m$ inputs and for output $j$,

    $$ v_j \leftarrow \beta_2 v_j + (1 - \beta_2) \tfrac1m \sum_i |o_{ij}|^2, \qquad
       \hat o_{ij} = \frac{o_{ij}}{\sqrt{v_j} + \epsilon}, \qquad
       u = \hat o\, \frac{\lVert o \rVert_F}{\lVert \hat o \rVert_F}. $$

    It stands behind `orthogonalize`, which leaves the outputs of a matrix with more outputs
    than inputs with steps of different lengths. The length of the whole stays what it was,
    so that there is no bias of a mean that starts at zero.

    Args:
        b2: $\beta_2$, in $[0, 1)$. May be traced.
        eps: $\epsilon \ge 0$.
        axes: What the axes of a parameter are; see `optimjax.matrices`.

    Returns:
        A `GradientTransformation` with a `ScaleByUnitRmsState`: a number for each output.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if a parameter is
            no matrix.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_unit_rms()
        >>> g = jnp.array([[1.0, 0.0], [1.0, 4.0], [1.0, 3.0]])
        >>> updates, _ = t.update(g, t.init(g))
        >>> print(jnp.round(jnp.linalg.norm(updates, axis=0), 3))
        [3.742 3.742]

    References:
        Z. Li et al., [NorMuon](https://arxiv.org/abs/2510.05491), 2025; the length is that
        of the authors' code, which keeps it. Algorithm 1 of the paper makes the root mean
        square 0.2, as `scale_by_matrix_shape("match_rms", 0.2)` behind this stage does
        where singular values have become one.
    """

    def init(params: Params) -> OptState:
        matrices.all_matrices(axes, params)

        def fresh(shape: tuple[int, int, int], dtype: Any) -> jax.Array:
            batch, _, outputs = shape
            return jnp.zeros((batch, outputs), jnp.finfo(dtype).dtype)

        return ScaleByUnitRmsState(matrices.slot_for(params, axes, fresh))

    def update(
        updates: Updates, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        del params, extra
        updates, nu = matrices.matrixwise(
            _unit_rms, updates, axes, state.nu, b2=b2, eps=eps
        )
        return updates, ScaleByUnitRmsState(nu)

    return GradientTransformation(init, update)
