"""Rules that divide by curvature, that read the loss, and that learn a scale."""

import numpy as np

from .optimizers import descend
from .shared import abs2, at, double, inner, norm, ratio
from .stages import ema


def scale_by_curvature(
    grads,
    params=None,
    *,
    decay=0.99,
    gamma=0.01,
    eps=1e-8,
    hessian_diagonal_fn=None,
    hessian_diagonal,
):
    """u = g / max(gamma h, eps), h a running mean: Liu 2023, Algorithm 3, lines 6 to 13."""
    h, out = 0.0, []
    for g, estimate in zip(double(grads), double(hessian_diagonal), strict=True):
        h = decay * h + (1 - decay) * estimate
        out.append(g / np.maximum(gamma * h, eps))
    return np.stack(out)


def scale_by_curvature_rms(
    grads,
    params=None,
    *,
    decay=0.999,
    eps=1e-4,
    hessian_power=1.0,
    hessian_diagonal_fn=None,
    hessian_diagonal,
):
    """u = g / (sqrt(v)^k + eps), v of squared curvatures, corrected: Yao 2021, eq. 11."""
    v, out = 0.0, []
    given = zip(double(grads), double(hessian_diagonal), strict=True)
    for t, (g, estimate) in enumerate(given, start=1):
        v = decay * v + (1 - decay) * estimate**2
        root = np.sqrt(v / (1 - decay**t)) ** hessian_power
        out.append(ratio(g, root + eps))
    return np.stack(out)


def sophia(
    grads,
    params,
    *,
    learning_rate,
    b1=0.965,
    b2=0.99,
    eps=1e-8,
    weight_decay=1e-4,
    gamma=0.01,
    clip_threshold=1.0,
    bias_correction=True,
    hessian_diagonal_fn=None,
    hessian_diagonal,
):
    """Liu 2023, Algorithm 3, with an estimate at every step; the correction as Optax."""
    u = scale_by_curvature(
        ema(grads, decay=b1, debias=bias_correction),
        decay=b2,
        gamma=gamma,
        eps=eps,
        hessian_diagonal=hessian_diagonal,
    )
    if clip_threshold is not None:
        u = np.clip(u, -clip_threshold, clip_threshold)
    return descend(u, params, learning_rate, weight_decay)


def adahessian(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-4,
    weight_decay=0.0,
    hessian_power=1.0,
    hessian_diagonal_fn=None,
    hessian_diagonal,
):
    """Yao 2021, Algorithm 1, with the decay of the authors' code."""
    u = scale_by_curvature_rms(
        ema(grads, decay=b1),
        decay=b2,
        eps=eps,
        hessian_power=hessian_power,
        hessian_diagonal=hessian_diagonal,
    )
    return descend(u, params, learning_rate, weight_decay)


def momo(
    grads,
    params,
    *,
    learning_rate=1.0,
    beta=0.9,
    lower_bound=0.0,
    weight_decay=0.0,
    adapt_lower_bound=False,
    bias_correction=False,
    below=None,
    value,
):
    """Schaipp 2023, Algorithms 1 and 4: the step to f* of the mean of linear models.

    `below`, a function of the gradients so far, is the diagonal of the preconditioner.
    """
    x, grads = double(params), double(grads)
    values = np.broadcast_to(double(value), len(grads))
    f_mean = gamma = d = 0.0
    bound, out = lower_bound, []
    for t, (g, f) in enumerate(zip(grads, values, strict=True), start=1):
        b, rho = beta, 1.0
        if bias_correction:
            rho = 1 - beta**t
        elif t == 1:
            b = 0.0
        f_mean = b * f_mean + (1 - b) * f
        gamma = b * gamma + (1 - b) * inner(g, x)
        d = b * d + (1 - b) * g
        direction = d if below is None else ratio(d, below(grads[:t]))
        square = inner(d, direction)
        rate = at(learning_rate, t - 1)
        shrink = 1 + rate * weight_decay
        most = shrink * (f_mean - gamma) + inner(d, x)
        if adapt_lower_bound and most < shrink * rho * bound:
            bound = max(most / (2 * shrink * rho), lower_bound)
        gap = max(most - shrink * rho * bound, 0.0)
        tau = min(rate / rho, gap / square) if square > 0 else 0.0
        if adapt_lower_bound:
            landed = f_mean + inner(d, x) - gamma - tau * square / 2
            bound = max(landed / rho, lower_bound)
        x = (x - tau * direction) / shrink
        out.append(x)
    return np.stack(out)


def momo_adam(grads, params, *, b1=0.9, b2=0.999, eps=1e-8, learning_rate=1e-2, **kwargs):
    """Schaipp 2023, Algorithm 3."""

    def below(grads):
        return np.sqrt(ema(abs2(grads), decay=b2)[-1]) + eps

    return momo(
        grads,
        params,
        learning_rate=learning_rate,
        beta=b1,
        bias_correction=True,
        below=below,
        **kwargs,
    )


def mechanize_sgd(
    grads,
    params,
    *,
    learning_rate,
    weight_decay=1e-2,
    eps=1e-8,
    s_init=1e-6,
    num_betas=6,
):
    """Cutkosky 2023, Algorithm 1 around descent, with the clipping of the JAX code."""
    x = start = double(params)
    betas = np.array([1 - 0.1**i for i in range(1, num_betas + 1)])
    s = np.full(num_betas, s_init)
    r, m, v = np.zeros((3, num_betas))
    way, out = np.zeros_like(start), []
    for g in double(grads):
        pull = weight_decay * s.sum() * norm(g) / (norm(x) + eps)
        h = -inner(way, g + pull * x)
        r = betas * r + np.clip(h, -m, m) * s
        m = np.maximum(betas * m, abs(h) + eps)
        v = betas**2 * v + h**2
        s = (s_init / num_betas * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        way = way - learning_rate * g
        x = start + s.sum() * way
        out.append(x)
    return np.stack(out)
