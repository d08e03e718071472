"""Arithmetic with care: what happens at zero, near one, and at the end of the integers.

For rules, those of users included: the functions of one array say what they give where
the plain operation has no answer, and have finite derivatives there; the numbers that
all leaves share (counts, bias corrections, hyperparameters in force) are computed in the
widest dtype there is, once a step.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks, _dtypes, _reports


def abs_sq(x: jax.Array) -> jax.Array:
    """The square of the modulus, real also for complex `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.abs_sq(jnp.array([3 + 4j])))
        [25.]
    """
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(x)


def weighted_square(x: jax.Array, weight: Any) -> jax.Array:
    """`weight * |x|**2`, in the order that overflows later than the square alone.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.weighted_square(jnp.array([1e19, 2e19]), 1e-3))
        [1.e+35 4.e+35]
    """
    if jnp.iscomplexobj(x):
        return weight * x.real * x.real + weight * x.imag * x.imag
    return weight * x * x


def modulus(x: jax.Array) -> jax.Array:
    """The absolute value, with derivative zero at zero (for complex `x`, too)."""
    if not jnp.iscomplexobj(x):
        return x * jnp.sign(x)  # The derivative of `jnp.abs` at zero is one.
    nonzero = x != 0
    return jnp.where(nonzero, jnp.abs(jnp.where(nonzero, x, 1)), 0)


@jax.custom_jvp
def sqrt(x: Any) -> jax.Array:
    """The square root of `x >= 0`, with derivative zero, not infinity, at zero.

    Negative `x`, which only rounding can bring about, count as zero. NaN stays NaN.

    Example:
        >>> import jax
        >>> from optimjax import numerics
        >>> print(jax.grad(numerics.sqrt)(0.0))
        0.0
    """
    # The root stands bare, and its derivative apart: behind a `where`, XLA would repeat
    # all that leads to a shared norm in the kernel of every leaf.
    return jnp.sqrt(jnp.maximum(x, 0))


@sqrt.defjvp
def _(primals: Any, tangents: Any) -> Any:
    root = sqrt(*primals)
    dead = root == 0
    return root, jnp.where(dead, 0, 0.5 / jnp.where(dead, 1, root)) * tangents[0]


def over(x: Any, y: Any) -> Any:
    """`x / y` for real `y`, part by part where `x` is complex.

    As complex numbers they would be divided by way of `y * y`, which underflows.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.over(jnp.complex64(2e-30 + 4e-30j), jnp.float32(2e-30)))
        (1+2j)
    """
    if jnp.iscomplexobj(x):
        return jax.lax.complex(x.real / y, x.imag / y)
    return x / y


def divide(x: jax.Array, y: jax.Array) -> jax.Array:
    """`x / y` for real `y`, and zero, with finite derivatives, where `y` is zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.divide(jnp.array([1.0, 0.0]), jnp.array([2.0, 0.0])))
        [0.5 0. ]
    """
    dead = y == 0
    return jnp.where(dead, 0, over(x, jnp.where(dead, 1, y)))


def unitwise_norm(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """The 2-norm of each unit of `x`, with axes of length one where it was summed.

    A unit is what feeds one output of a layer: by default the whole of an array with at
    most one axis longer than one, axis 0 of a matrix or of an array of three axes, and all
    axes but the last of convolution kernels, (..., in, out). Optax's function of this name
    stretches the result to the shape of `x`; this one broadcasts against it. It is real,
    float32 at least, and has derivative zero where it is zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.unitwise_norm(jnp.array([[3.0, 0.0], [4.0, 1.0]])))
        [[5. 1.]]
    """
    if axis is None and sum(n != 1 for n in x.shape) > 1:
        axis = 0 if x.ndim < 4 else tuple(range(x.ndim - 1))
    x = _dtypes.wide(x)
    return sqrt(jnp.sum(abs_sq(x), axis=axis, keepdims=True))


def down_to(norm: Any, bound: Any) -> Any:
    """What to multiply by, to bring `norm` down to `bound`; one where it is no larger.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.down_to(jnp.array([0.0, 1.0, 5.0]), 2.0))
        [1.  1.  0.4]
    """
    # Not `norm > bound`: a norm of NaN must not pass for a small one.
    small = norm <= bound
    return jnp.where(small, 1.0, bound / jnp.where(small, 1.0, norm))


class Split(NamedTuple):
    """A number as a sum of two, for more digits than the dtype has: see `times`."""

    head: Any  # The number, rounded towards zero, so that both parts have one sign.
    rest: Any  # What that leaves; never zero, so that infinity times it is infinity, too.


def times(number: Any, x: Any) -> Any:
    """`number * x`, where `number` may have digits that float32 has no room for.

    Those of a Python number, or of a `Split`. As a float32, a learning rate of 0.001 is
    4.7e-8 too large, relatively: most of a rounding, and the same at every step. It costs
    a multiplication, and no memory.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.times(0.001, jnp.array([2.0, -1.0])))
        [ 0.002 -0.001]
    """
    if isinstance(number, float) and _dtypes.real_dtype(x) == np.float32:
        head = np.float32(number)
        if abs(float(head)) > abs(number):
            head = np.nextafter(head, np.float32(0))
        rest = number - float(head)
        number = Split(float(head), rest) if rest else number
    if isinstance(number, Split):
        # One rounding, where sum and product are fused: the first product is the large one.
        return number.head * x + number.rest * x
    return number * x


def decay_and_add(x: Any, term: Any, decay: Any) -> Any:
    """`decay * x + term`, for `0 <= decay < 1`, without a bias for decays near one.

    A step of a decaying sum, or of a running mean where `term` is `(1 - decay) * new`. From
    a decay of one half on it is computed as `x + (term - (1 - decay) * x)`. In the plain
    form 0.999 and 0.001, each rounded to float32, sum to 1 + 1.3e-8, and a long-run mean of
    ones with noise comes out 1.3e-5 too large; here it is right to 6e-7. Infinity stays
    what it is.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.decay_and_add(jnp.array([1.0, 4.0]), 3.0, 0.5))
        [3.5 5. ]
    """
    if isinstance(decay, float | int) and decay < 0.5:
        return decay * x + term
    # Not a choice between two sums: programs are compiled by the instruction.
    fine = x + jnp.where(jnp.isinf(x), term, term - (1 - decay) * x)
    if isinstance(decay, float | int):
        return fine
    return jnp.where(decay < 0.5, decay * x + term, fine)


def mix(x: Any, new: Any, weight: Any) -> Any:
    """`(1 - weight) * x + weight * new`, from whichever end is nearer.

    A step of a running mean whose weight changes; exact where it is 0 or 1. Infinity stays
    what it is.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.mix(jnp.array([1.0, 4.0]), 3.0, 0.5))
        [2.  3.5]
    """
    near = weight < 0.5
    step = new - x
    fine = jnp.where(near, x + weight * step, new - (1 - weight) * step)
    plain = jnp.where(weight < 1, x, 0) + weight * new
    return jnp.where(jnp.isinf(x) | jnp.isinf(new), plain, fine)


def increment(count: jax.Array) -> jax.Array:
    """`count + 1`, which stays at the largest integer once there.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.increment(jnp.int32(2**31 - 1)))
        2147483647
    """
    if not (hasattr(count, "dtype") and jnp.issubdtype(count.dtype, jnp.integer)):
        got = count.dtype if hasattr(count, "dtype") else type(count).__name__
        raise _checks.Refusal(
            TypeError, f"needs a state whose count is an int32, but it is a {got}."
        )
    largest = jnp.iinfo(count.dtype).max
    return jnp.where(count < largest, count + 1, largest)


def as_scalar(x: Any) -> jax.Array:
    """`x` in the widest real dtype there is (float64 if enabled, else float32)."""
    return _dtypes.cast(x, _dtypes.scalar_dtype())


def at_step(hyperparameter: Any, count: jax.Array) -> Any:
    """The value in force: that of a schedule at `count`, or the number itself."""
    if not callable(hyperparameter):
        return hyperparameter
    try:
        value: Any = hyperparameter(count)
    except jax.errors.TracerBoolConversionError:
        raise _checks.Refusal(
            TypeError,
            f"cannot compile the schedule {hyperparameter!r}: it decides by an `if` of "
            "Python about a step that is traced. Say it with `jnp.where`.",
        ) from None
    if callable(value):
        name = _checks.shown(hyperparameter)
        raise _checks.Refusal(
            TypeError,
            f"got a function from the schedule {name}. Did you mean `{name}(...)`?",
        )
    one = jax.tree_util.all_leaves([value]) and not isinstance(value, str)
    if not (one and getattr(value, "shape", ()) == ()):
        raise _checks.Refusal(
            TypeError,
            f"got {value!r} from the schedule {hyperparameter!r}; it must give a number at "
            "each step.",
        )
    return as_scalar(value)


def rate_at(learning_rate: Any, count: jax.Array) -> Any:
    """The learning rate in force, as `at_step`, made known to `measure`."""
    rate = at_step(learning_rate, count)
    _reports.report("learning_rate", rate)
    return rate


def one_minus_power(decay: Any, exponent: Any) -> jax.Array:
    """`1 - decay**exponent` for `0 <= decay < 1`, to the last digits.

    Computed as `-expm1(exponent * log(decay))`, with the logarithm in double precision
    for a Python `decay`. Taken literally in float32, a decay of 0.999 gives `1.29e-5`
    too much, relatively, at the first step, and one of 0.99999 `1.4e-3`.

    Example:
        >>> from optimjax import numerics
        >>> print(numerics.one_minus_power(0.999, 1))
        0.001
    """
    return -jnp.expm1(as_scalar(exponent) * log_of_decay(decay))


def log_of_decay(decay: Any) -> Any:
    """The logarithm of `0 <= decay < 1`, in double precision for a Python `decay`.

    Example:
        >>> from optimjax import numerics
        >>> print(numerics.log_of_decay(0.0))
        -inf
    """
    if isinstance(decay, float | int):
        return math.log(decay) if decay > 0 else -math.inf
    # The largest of: a traced decay of 0 is a value like others.
    decay = as_scalar(decay)
    return jnp.log(jnp.maximum(decay, jnp.finfo(decay.dtype).tiny))


def debiasing(decay: Any, count: Any) -> Any:
    """`1 / (1 - decay**count)`, to be multiplied by `times`: what makes a mean of a sum.

    Rounded to float32 it would be off by as much, and in the same direction, for every
    parameter; as a `Split` it is exact to a tenth of that.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> gain = numerics.debiasing(0.999, 1)
        >>> print(numerics.times(gain, jnp.array([0.001, 0.002])))
        [1. 2.]
    """
    count = as_scalar(count)
    if not isinstance(decay, float) or decay == 0 or count.dtype != jnp.float32:
        return 1 / one_minus_power(decay, count)
    return _debiasing(decay, count)


@functools.partial(jax.jit, static_argnums=0)  # Traced once, however many need it.
def _debiasing(decay: float, count: jax.Array) -> Split:
    divisor, low = _one_minus_exp(*_fine_product(count, -math.log(decay)))
    head = 1 / (divisor * (1 + 2**-23))  # A little too small, so that what is left is not.
    (a, b), (c, d) = _halves(divisor), _halves(head)
    remainder = ((1 - a * c) - a * d - b * c) - b * d - low * head
    # Both end in a division: XLA takes that for expensive, and does not repeat all that
    # leads to it in the kernel of every leaf.
    return Split(head, jnp.maximum(remainder, jnp.finfo(head.dtype).tiny) / divisor)


def _fine_product(t: jax.Array, number: float) -> tuple[jax.Array, jax.Array]:
    """`t * number` for whole `t` as the sum of two float32, the second a correction."""
    unit = math.ldexp(1.0, math.frexp(number)[1] - 12)
    coarse = round(number / unit) * unit  # 12 digits, as have both parts of t:
    high = jnp.floor(t / 4096) * 4096
    a, b = high * coarse, (t - high) * coarse  # so these are exact.
    c = t * (number - coarse)
    ab = a + b
    abc = ab + c
    return abc, (b - (ab - a)) + (c - (abc - ab))


def _one_minus_exp(x: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`1 - exp(-(x + low))` for `x >= 0`, as the sum of two float32."""
    power, small = jnp.exp(-x), jnp.minimum(x, 1)
    series = jnp.zeros_like(x)  # 1/2! - x/3! + x^2/4! - ...
    for k in range(12, 1, -1):
        series = 1 / math.factorial(k) - small * series
    rest = jnp.where(x < 1, small * small * series, power) - low * power
    result = small - rest  # x or 1, whichever is less, and what it is too much by.
    return result, (small - result) - rest


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The upper and the lower twelve digits: products of such are exact."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) & ~0xFFF
    upper = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return upper, x - upper


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """`x` rounded to the nearest number that `dtype` holds, but still in its own dtype.

    Casting there and back does not do it: inside of one program a compiler may leave both
    casts out. Complex numbers are rounded part by part. The derivative is one.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> print(numerics.rounded(jnp.array([1.001, 1.005]), jnp.bfloat16))
        [1.        1.0078125]
    """
    if jnp.iscomplexobj(x):
        return jax.lax.complex(rounded(x.real, dtype), rounded(x.imag, dtype))
    own, coarse = jnp.finfo(x.dtype), jnp.finfo(dtype)
    if coarse.nmant >= own.nmant:
        return x
    near = jax.lax.reduce_precision(x, coarse.nexp, coarse.nmant)
    if coarse.nexp == own.nexp:
        return near
    # `reduce_precision` takes subnormal numbers for zero.
    unit = float(coarse.smallest_subnormal)
    small = jnp.abs(x) < float(coarse.smallest_normal)
    return jnp.where(small, jnp.round(x * (1 / unit)) * unit, near)


@rounded.defjvp
def _(dtype: Any, primals: Any, tangents: Any) -> Any:
    return rounded(*primals, dtype), tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def rounded_at_random(x: jax.Array, dtype: Any, uniform: jax.Array) -> jax.Array:
    """`x` rounded to one of its two neighbours in `dtype`, the nearer one more often.

    `uniform` are random numbers in [0, 1) of the shape and dtype of `x`. The mean is `x`:
    exactly so for normal numbers of half the digits of `x`, and to the digits of `uniform`
    else. Numbers of `dtype` stay what they are, and beyond the largest it is as in
    `rounded`. Complex numbers are rounded part by part. The derivative is one.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax import numerics
        >>> x, uniform = jnp.full(3, 1.001), jnp.array([0.1, 0.2, 0.9])
        >>> print(numerics.rounded_at_random(x, jnp.bfloat16, uniform))
        [1.0078125 1.        1.       ]
    """
    if jnp.iscomplexobj(x):
        real = rounded_at_random(x.real, dtype, uniform.real)
        return jax.lax.complex(real, rounded_at_random(x.imag, dtype, uniform.imag))
    near = rounded(x, dtype)
    error = x - near
    dtype = jnp.finfo(dtype).dtype
    end = jnp.where(error > 0, jnp.inf, -jnp.inf).astype(dtype)
    other = _dtypes.cast(jax.lax.nextafter(_dtypes.cast(near, dtype), end), x.dtype)
    # False beyond the largest number, where the gap is infinite, and for NaN.
    return jnp.where(uniform * jnp.abs(other - near) < jnp.abs(error), other, near)


@rounded_at_random.defjvp
def _(dtype: Any, primals: Any, tangents: Any) -> Any:
    x, uniform = primals
    return rounded_at_random(x, dtype, uniform), tangents[0]
