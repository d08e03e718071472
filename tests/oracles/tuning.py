"""Rates that tune themselves, from the papers' pseudo-code, for one array."""

import math

import numpy as np

from .shared import abs2, at, double, inner, norm, ratio


def first_distance(init_step, x0):
    """r_epsilon (Ivgi 2023, section 2), or 0 where the first rate is given."""
    kind, value = init_step
    return {
        "distance": value,
        "heuristic": value * (1 + norm(x0)),
        "learning_rate": 0.0,
    }[kind]


def scale_by_dog(
    grads, params, *, init_step=("heuristic", 1e-6), eps=1e-8, layerwise=False
):
    """eta_t = max_i |x_i - x_0| / sqrt(sum_i |g_i|^2 + eps): Ivgi 2023, equation 2.

    Of one array, a layer is the whole.
    """
    g, x = double(grads), double(params)
    out = []
    for t in range(len(g)):
        ways = [norm(x_i - x[0]) for x_i in x[: t + 1]]
        longest = max(first_distance(init_step, x[0]), *ways, 0.0)
        below = math.sqrt(sum(norm(g_i) ** 2 for g_i in g[: t + 1]) + eps)
        rate = longest / below if below else 0.0
        out.append((rate if longest else init_step[1]) * g[t])
    return np.stack(out)


def scale_by_dowg(grads, params, *, init_estim_sq_dist=None, eps=1e-4):
    """eta_t = r_t^2 / (sqrt(sum_i r_i^2 |g_i|^2) + eps): Khaled 2023, algorithm 1.

    The paper has no eps; its author's code, and Optax, have it.
    """
    g, x = double(grads), double(params)
    r2, v, out = eps if init_estim_sq_dist is None else init_estim_sq_dist, 0.0, []
    for g_t, x_t in zip(g, x, strict=True):
        r2 = max(r2, norm(x_t - x[0]) ** 2)
        v += r2 * norm(g_t) ** 2
        below = math.sqrt(v) + eps
        out.append(r2 / below * g_t if below else 0 * g_t)
    return np.stack(out)


def descent_by(stage, grads, params, *, learning_rate, weight_decay, **kwargs):
    """Follow `stage`, called anew with all that has been, behind an L2 penalty."""
    p, out, path, penalised = double(params), [], [], []
    for t, g in enumerate(double(grads)):
        path.append(p)
        penalised.append(g + (weight_decay or 0.0) * p)
        u = stage(np.stack(penalised), np.stack(path), **kwargs)[-1]
        p = p - at(learning_rate, t) * u
        out.append(p)
    return np.stack(out)


def dog(grads, params, *, learning_rate=1.0, weight_decay=None, **kwargs):
    """x = x - c eta_t g_t, g with the penalty in it, as in the authors' code."""
    how = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    return descent_by(scale_by_dog, grads, params, **how, **kwargs)


def dowg(grads, params, *, learning_rate=1.0, weight_decay=None, **kwargs):
    """x = x - c eta_t g_t."""
    how = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    return descent_by(scale_by_dowg, grads, params, **how, **kwargs)


def scale_by_cocob(grads, params, *, alpha=100.0, eps=1e-8):
    """COCOB-Backprop: Orabona 2017, algorithm 2, in its c_t = -g_t."""
    c, w = -double(grads), double(params)
    shape = c.shape[1:]
    big, gone, won = np.full(shape, eps), np.zeros(shape), np.zeros(shape)
    theta = np.zeros(shape, c.dtype)
    out = []
    for c_t, w_t in zip(c, w, strict=True):
        big = np.maximum(big, np.abs(c_t))
        gone = gone + np.abs(c_t)
        won = np.maximum(won + np.real(np.conj(w_t - w[0]) * c_t), 0)
        theta = theta + c_t
        bet = ratio(theta, big * np.maximum(gone + big, alpha * big)) * (big + won)
        out.append(w[0] + bet - w_t)
    return np.stack(out)


def cocob(grads, params, *, learning_rate=1.0, alpha=100.0, eps=1e-8, weight_decay=0.0):
    """The same, as Optax chains it: the rate weighs the gradient, decay and all."""
    p, out, path, weighed = double(params), [], [], []
    for t, g in enumerate(double(grads)):
        path.append(p)
        weighed.append(at(learning_rate, t) * (g + weight_decay * p))
        p = p + scale_by_cocob(np.stack(weighed), np.stack(path), alpha=alpha, eps=eps)[-1]
        out.append(p)
    return np.stack(out)


def corrected(t, b1, b2, on):
    """Return the root of 1 - b2^t, over 1 - b1^t: as Adam has it, at t = 1, 2, ..."""
    if not on:
        return 1.0
    return math.sqrt(-math.expm1(t * math.log(b2))) / -math.expm1(t * math.log(b1))


def dadapt_adamw(
    grads,
    params,
    *,
    learning_rate=1.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    estim_lr0=1e-6,
    weight_decay=0.0,
    bias_correction=True,
    variant="code",
):
    """Adam with D-Adaptation: Defazio 2023, algorithm 4; the decay as the code has it."""
    b1, b2 = betas
    b3 = math.sqrt(b2)
    x, m, v, s, r, d, out = double(params), 0.0, 0.0, 0.0, 0.0, estim_lr0, []
    for k, g in enumerate(double(grads)):
        step = d * at(learning_rate, k) * corrected(k + 1, b1, b2, bias_correction)
        m = b1 * m + (1 - b1) * step * g
        v_old, v = v, b2 * v + (1 - b2) * abs2(g)
        metric = np.sqrt(v if variant == "paper" else v_old) + eps
        r = b3 * r + (1 - b3) * step * inner(g, ratio(s, metric * np.ones(g.shape)))
        s = b3 * s + (1 - b3) * step * g
        x = x - weight_decay * step * x - ratio(m, np.sqrt(v) + eps)
        size = np.sum(np.abs(s))
        d = max(d, r / ((1 - b3) * size) if size else 0.0)
        out.append(x)
    return np.stack(out)


def prodigy(
    grads,
    params,
    *,
    learning_rate=1.0,
    betas=(0.9, 0.999),
    beta3=None,
    eps=1e-8,
    estim_lr0=1e-6,
    estim_lr_coef=1.0,
    weight_decay=0.0,
    safeguard_warmup=False,
    bias_correction=True,
    variant="code",
    stored=None,
):
    """Prodigy, Adam version: Mishchenko 2023, algorithm 4; decay etc. as the code.

    With the parameters rounded to the dtype `stored` after each step, if there is one.
    """
    b1, b2 = betas
    b3 = math.sqrt(b2) if beta3 is None else beta3
    x = start = double(params)
    m, v, s, r, d, out = 0.0, 0.0, 0.0, 0.0, estim_lr0, []
    for k, g in enumerate(double(grads)):
        step = d * at(learning_rate, k) * corrected(k + 1, b1, b2, bias_correction)
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d**2 * abs2(g)
        r = b3 * r + (1 - b3) * d * step * inner(g, start - x)
        s = b3 * s + (1 - b3) * d * (d if safeguard_warmup else step) * g
        size = np.sum(np.abs(s))
        d_old, d = d, max(d, estim_lr_coef * r / size if size else 0.0)
        metric = np.sqrt(v) + (d_old if variant == "paper" else d) * eps
        x = x - step * (weight_decay * x + ratio(m, metric))
        x = x if stored is None else x.astype(stored)
        out.append(x)
    return np.stack(out)
