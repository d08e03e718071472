"""What the oracles share."""

import decimal
import math

import numpy as np

# What the rules share.


def double(x):
    """Return x in complex128 if it is complex, else in float64."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def at(value, t):
    """Return a hyperparameter, a number or a function of the step, at step t."""
    return float(value(t)) if callable(value) else value


def abs2(g):
    """Return |g|^2, which is real for complex g as well."""
    return np.real(g) ** 2 + np.imag(g) ** 2


def ratio(a, b):
    """Return a / b, and 0 where b is 0."""
    return np.where(b == 0, 0.0, a / np.where(b == 0, 1.0, b))


def sign(g):
    """Return g / |g|, and 0 at 0."""
    return ratio(g, np.abs(g))


def nadam_mu(t, decay, momentum_decay):
    """Return the momentum of step t in Dozat's warm-up, written as PyTorch does."""
    return decay * (1 - 0.5 * 0.96 ** (t * momentum_decay))


def inner(x, y):
    """Return the real inner product of two arrays."""
    return np.sum(np.real(np.conj(x) * y))


def norm(x):
    """Return the Euclidean norm of an array."""
    return math.sqrt(np.sum(abs2(x)))


def rms(x):
    """Return the root of the mean of |x|^2."""
    return math.sqrt(np.mean(abs2(x)))


def trust_ratio(p, u, min_norm=0.0, trust_coefficient=1.0, eps=0.0):
    """Return c |p| / |u|, the norms not below a least one, and 1 where one is 0."""
    p_norm = max(norm(p), min_norm)
    u_norm = max(norm(u), min_norm)
    if p_norm == 0 or u_norm == 0:
        return 1.0
    return trust_coefficient * p_norm / (u_norm + eps)


def factored_axes(shape, factored, min_dim_size_to_factor, factored_dims):
    """Return the two axes along which v is factored, or None where it is not."""
    if not factored or len(shape) < 2:
        return None
    axes = range(len(shape))
    if factored_dims == "largest":
        axes = sorted(axes, key=lambda axis: shape[axis])
    axes = tuple(axes)[-2:]
    if min(shape[axis] for axis in axes) < min_dim_size_to_factor:
        return None
    return axes


def rectification(t, decay):
    """Return rho_t and a function that gives r_t: equations 5 and 6 of Liu 2020.

    In 50 digits, since rho_t is a small difference of large numbers.
    """
    with decimal.localcontext(decimal.Context(prec=50)):
        b = decimal.Decimal(float(decay))
        exact = 2 / (1 - b) - 1
        rho_inf, rho = float(exact), float(exact - 2 * t * b**t / (1 - b**t))

    def r():
        above = (rho - 4) * (rho - 2) * rho_inf
        below = (rho_inf - 4) * (rho_inf - 2) * rho
        return math.sqrt(above / below)

    return rho, r
