"""Estimates of the curvature of a loss, one number for each parameter.

What second-order rules divide by: the diagonal of the Hessian (`hutchinson_diagonal`), or
that of its positive part, the Gauss-Newton matrix (`gauss_newton_bartlett_diagonal`). They
are functions, for a step of training that hands the result on by
`update(..., hessian_diagonal=...)`; `hutchinson_estimator_diag_hessian` and
`gauss_newton_bartlett_estimator` are the same as transformations, which keep the key.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import _dtypes, numerics
from ._checks import Refusal, checked
from .base import Params
from .tree import random_like


@checked
def hutchinson_diagonal(
    fun: Callable[[Params], Any], params: Params, key: jax.Array
) -> Any:
    r"""Estimates the diagonal of a Hessian from its product with one random vector.

    $$ \hat h = v \odot \nabla^2 f(p)\, v, \qquad v_i = \pm 1 \text{ at random}: $$

    each number is the second derivative plus those of its row with random signs. So it is
    right in the mean, and exact where the Hessian is diagonal. It costs about as much as
    two gradients.

    A complex parameter counts as the two real ones that it is, with $v = \pm 1 \pm i$; the
    estimate is real, the mean of the curvatures along the two.

    Args:
        fun: $f$, from the params to a real number, such as the loss of a batch.
        params: $p$, a tree of arrays.
        key: A key of `jax.random.key`: another one at every step.

    Returns:
        A tree with the structure and shapes of `params`, real, float32 or wider.

    Raises:
        TypeError: If `fun` is no function, or does not return one real number; if a leaf of
            `params` is no floating or complex array, by key path.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> def loss(p):
        ...     return 3.0 * p[0] ** 2 - p[1] ** 2
        >>> print(ox.hutchinson_diagonal(loss, jnp.ones(2), jax.random.key(0)))
        [ 6. -2.]

    References:
        C. Bekas, E. Kokiopoulou and Y. Saad, [An estimator for the diagonal of a
        matrix](https://doi.org/10.1016/j.apnum.2007.01.003), 2007.
    """
    _check_function("fun", fun)
    _dtypes.check_inexact(params, "the params")
    signs = random_like(key, params, _signs)
    _, products = jax.jvp(jax.grad(_as_number(fun)), (params,), (signs,))

    def along(v: jax.Array, product: jax.Array) -> jax.Array:
        v, product = _dtypes.wide(v), _dtypes.wide(product)
        # JAX's gradient is conjugate to the direction in which the loss grows.
        return jnp.real(v * product) / numerics.abs_sq(v)

    return jax.tree.map(along, signs, products)


@checked
def gauss_newton_bartlett_diagonal(
    logits_fn: Callable[[Params], Any], params: Params, key: jax.Array
) -> Any:
    r"""Estimates the diagonal of the Gauss-Newton matrix of a cross-entropy.

    With logits $z_b(p)$ for each of $n$ examples, and labels drawn from what the model
    itself believes,

    $$ \hat y_b \sim \mathrm{softmax}(z_b), \qquad
       \hat g = \nabla_p \frac1n \sum_b \mathrm{CE}(z_b(p), \hat y_b), \qquad
       \hat h = n\, \hat g \odot \hat g. $$

    In the mean that is the diagonal of
    $\frac1n \sum_b J_b^\top (\mathrm{diag}\, \pi_b - \pi_b \pi_b^\top) J_b$, the Hessian of
    the mean cross-entropy less the curvature of the logits themselves, and it is never
    negative. The labels of the data do not come into it. It costs one gradient.

    Args:
        logits_fn: From the params to the logits of a batch: an array whose last axis counts
            the classes, and whose others count examples (the positions of a text are $n$
            in all). The loss that is trained is the mean over these; for a sum, multiply by
            $n$.
        params: $p$, a tree of arrays. A complex one has half of $n\, |\hat g|^2$, the mean
            of the curvatures along its two parts.
        key: A key of `jax.random.key`: another one at every step.

    Returns:
        A tree with the structure and shapes of `params`, real, float32 or wider.

    Raises:
        TypeError: If `logits_fn` is no function; if a leaf of `params` is no floating or
            complex array, by key path.
        ValueError: If `logits_fn` returns an array without axes.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> def logits(p):  # Two classes, two examples.
        ...     return jnp.array([[1.0, 0.0], [-1.0, 0.0]]) * p
        >>> keys = jax.random.split(jax.random.key(0), 40_000)
        >>> estimate = jax.vmap(
        ...     lambda key: ox.gauss_newton_bartlett_diagonal(logits, 0.0, key))
        >>> print(f"{estimate(keys).mean():.2f}")  # 1/2 (1 - 1/2)
        0.25

    References:
        H. Liu et al., [Sophia](https://arxiv.org/abs/2305.14342), 2023, algorithm 2.
    """
    _check_function("logits_fn", logits_fn)
    _dtypes.check_inexact(params, "the params")

    def loss(params: Params) -> tuple[jax.Array, int]:
        logits = logits_fn(params)
        if jnp.ndim(logits) == 0:
            raise Refusal(
                ValueError,
                "needs logits with an axis of classes, but `logits_fn` returned a number.",
            )
        logits = _dtypes.wide(logits)
        labels = jax.random.categorical(key, jax.lax.stop_gradient(logits))
        chosen = jnp.take_along_axis(
            jax.nn.log_softmax(logits), jnp.expand_dims(labels, -1), axis=-1
        )
        return -jnp.mean(chosen), labels.size

    grads, count = jax.grad(loss, has_aux=True)(params)

    def squared(g: jax.Array) -> jax.Array:
        square = numerics.weighted_square(_dtypes.wide(g), count)
        return square / 2 if jnp.iscomplexobj(g) else square

    return jax.tree.map(squared, grads)


def _check_function(argument: str, function: Any) -> None:
    if not callable(function):
        raise Refusal(
            TypeError, f"needs a function for its `{argument}`, but got {function!r}."
        )


def _as_number(fun: Callable[[Params], Any]) -> Callable[[Params], jax.Array]:
    def number(params: Params) -> jax.Array:
        value: Any = fun(params)
        _dtypes.check_real(value, "a value of the function")
        return value

    return number


def _signs(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        real = jnp.finfo(dtype).dtype
        return jax.lax.complex(*(_signs(k, shape, real) for k in jax.random.split(key)))
    return jax.random.rademacher(key, shape, dtype)
