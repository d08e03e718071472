"""Rules for matrices (inputs, outputs), by the singular value decomposition.

Where the library multiplies matrices, here only singular values are taken through scalar
polynomials.
"""

import math

import numpy as np

from .optimizers import descend
from .shared import abs2, double, norm, ratio
from .stages import ema

QUINTIC = (3.4445, -4.7750, 2.0315)


def through_steps(s, triples):
    """Take numbers through s -> a s + b s^3 + c s^5, once for each triple."""
    for a, b, c in triples:
        s = a * s + b * s**3 + c * s**5
    return s


def with_values(x, f):
    """Give a matrix the singular values f(s) in the place of s."""
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    return (u * f(s)) @ vh


def orthogonalize(grads, params=None, *, ns_coeffs="standard", ns_steps=5, eps=0.0):
    """Newton-Schulz from x / |x|_F (Jordan 2024); exactly U V^H where it is "svd"."""
    triples = [QUINTIC if isinstance(ns_coeffs, str) else ns_coeffs] * ns_steps

    def new(s):
        if ns_coeffs == "svd":
            return np.where(s > 1e-12 * s[0], 1.0, 0.0)
        return through_steps(ratio(s, np.linalg.norm(s) + eps), triples)

    return np.stack([with_values(g, new) for g in double(grads)])


def shape_factor(shape, consistent_rms=None):
    """Return sqrt(max(1, n / m)), or c sqrt(max(m, n))."""
    m, n = shape
    if consistent_rms is None:
        return math.sqrt(n / m) if n > m else 1.0
    return consistent_rms * math.sqrt(max(m, n))


def scale_by_matrix_shape(grads, params=None, *, rule="original", factor=1.0):
    """c sqrt(max(1, n / m)), c sqrt(max(m, n)) or c sqrt(n / m) times x."""
    m, n = grads.shape[1:]
    if rule == "spectral":
        return factor * math.sqrt(n / m) * double(grads)
    by = shape_factor((m, n), 1.0 if rule == "match_rms" else None)
    return factor * by * double(grads)


def normalize_units(grads, params=None, *, units="outputs", eps=0.0):
    """Each column of (inputs, outputs), or each row, over its length."""
    out = []
    for g in double(grads):
        columns = g.T if units == "outputs" else g
        new = np.stack([ratio(c, np.float64(norm(c) + eps)) for c in columns])
        out.append(new.T if units == "outputs" else new)
    return np.stack(out)


def scale_by_unit_rms(grads, params=None, *, b2=0.95, eps=1e-10):
    """NorMuon's second moments of outputs (Li 2025), the length of the whole kept."""
    v, out = 0.0, []
    for g in double(grads):
        v = b2 * v + (1 - b2) * abs2(g).mean(axis=0)
        new = ratio(g, np.sqrt(v) + eps + 0 * abs2(g))
        out.append(new * ratio(np.float64(norm(g)), np.float64(norm(new))))
    return np.stack(out)


def looking_ahead(grads, beta):
    """Nadam's mean of the gradients: that of the next step, as far as it is known."""
    m, out = 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = beta * m + (1 - beta) * g
        out.append(beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t))
    return np.stack(out)


def muon(
    grads,
    params,
    *,
    learning_rate,
    ns_coeffs="standard",
    beta=0.95,
    eps=1e-8,
    weight_decay=0.0,
    nesterov=True,
    consistent_rms=None,
):
    """Muon as Optax has it, of one matrix."""
    m = looking_ahead(grads, beta) if nesterov else ema(grads, decay=beta)
    x = orthogonalize(m, ns_coeffs=ns_coeffs, eps=eps)
    x = shape_factor(params.shape, consistent_rms) * x
    return descend(x, params, learning_rate, weight_decay)


def normuon(
    grads,
    params,
    *,
    learning_rate,
    ns_coeffs="standard",
    beta=0.95,
    b2=0.95,
    eps=1e-8,
    consistent_rms=0.2,
):
    """Muon with the second moments of outputs, of one matrix."""
    x = orthogonalize(looking_ahead(grads, beta), ns_coeffs=ns_coeffs, eps=eps)
    x = shape_factor(params.shape, consistent_rms) * scale_by_unit_rms(x, b2=b2)
    return descend(x, params, learning_rate, 0.0)


def scion(grads, params, *, learning_rate, beta=0.9, radius=1.0, constrained=True):
    """p = p - lr (r sqrt(n / m) U S V^H + p) of the mean (Pethick 2025), one matrix."""
    inputs, outputs = params.shape
    x = orthogonalize(ema(grads, decay=beta, debias=False))
    x = radius * math.sqrt(outputs / inputs) * x
    return descend(x, params, learning_rate, 1.0 if constrained else 0.0)
