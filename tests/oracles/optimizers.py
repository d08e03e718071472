"""Optimizers: gradients and the initial parameters in, those after each step out."""

import math

import numpy as np

from .shared import (
    abs2,
    at,
    double,
    nadam_mu,
    norm,
    ratio,
    rectification,
    rms,
    sign,
    trust_ratio,
)
from .stages import (
    clip_by_block_rms,
    ema,
    scale_by_acprop,
    scale_by_adan,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_belief,
    scale_by_factored_rms,
    scale_by_lion,
    scale_by_optimistic_gradient,
    scale_by_polyak,
    scale_by_rprop,
    scale_by_simplified_ademamix,
    scale_by_sm3,
    scale_by_yogi,
)

# Optimizers: momentum.


def sgd(grads, params, *, learning_rate, momentum=None, nesterov=False):
    """Descend by the gradient or by its heavy ball, lr outside: TF1, Optax."""
    p, m, out = double(params), 0.0, []
    for t, g in enumerate(double(grads)):
        u = g
        if momentum is not None:
            m = momentum * m + g
            u = g + momentum * m if nesterov else m
        p = p - at(learning_rate, t) * u
        out.append(p)
    return np.stack(out)


def momentum(grads, params, *, learning_rate, decay=0.9, dampening=0.0, nesterov=False):
    """m = b m + (1 - d) g, p = p - lr m: a running mean at d = b."""
    p, m, out = double(params), 0.0, []
    for t, g in enumerate(double(grads)):
        damped = (1 - dampening) * g
        m = decay * m + damped
        u = damped + decay * m if nesterov else m
        p = p - at(learning_rate, t) * u
        out.append(p)
    return np.stack(out)


def polyak(grads, params, *, learning_rate, momentum):
    """p = p - lr g + b (p - p_previous): Polyak 1964, at rest before the start."""
    p = before = double(params)
    out = []
    for t, g in enumerate(double(grads)):
        after = p - at(learning_rate, t) * g + momentum * (p - before)
        before, p = p, after
        out.append(p)
    return np.stack(out)


def momentum_rate_inside(grads, params, *, learning_rate, momentum, nesterov=False):
    """v = b v + lr g, p = p - v: Keras's SGD."""
    p, v, out = double(params), 0.0, []
    for t, g in enumerate(double(grads)):
        step = at(learning_rate, t) * g
        v = momentum * v + step
        p = p - (momentum * v + step) if nesterov else p - v
        out.append(p)
    return np.stack(out)


# Optimizers: second moments.


def adagrad(
    grads,
    params,
    *,
    learning_rate,
    initial_accumulator_value=0.1,
    eps=1e-7,
    eps_in_sqrt=True,
):
    """AdaGrad: Duchi 2011; defaults of Optax and Keras."""
    p = double(params)
    s, out = initial_accumulator_value, []
    for t, g in enumerate(double(grads)):
        s = s + abs2(g)
        root = np.sqrt(s + eps) if eps_in_sqrt else np.sqrt(s) + eps
        p = p - at(learning_rate, t) * ratio(g, root)
        out.append(p)
    return np.stack(out)


def rmsprop(
    grads,
    params,
    *,
    learning_rate,
    decay=0.9,
    eps=1e-8,
    initial_scale=0.0,
    eps_in_sqrt=True,
    centered=False,
    momentum=None,
    nesterov=False,
    bias_correction=False,
):
    """RMSprop: Hinton 2012, Graves 2013; lr before the momentum: Optax, Keras, TF1."""
    p = double(params)
    v, a, m, out = initial_scale, 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        v = decay * v + (1 - decay) * abs2(g)
        a = decay * a + (1 - decay) * g
        v_hat, a_hat = v, a
        if bias_correction:
            v_hat = v / (1 - decay**t)
            a_hat = a / (1 - decay**t)
        if centered:
            v_hat = np.maximum(v_hat - abs2(a_hat), 0.0)
        root = np.sqrt(v_hat + eps) if eps_in_sqrt else np.sqrt(v_hat) + eps
        u = at(learning_rate, t - 1) * ratio(g, root)
        if momentum is not None:
            m = momentum * m + u
            u = u + momentum * m if nesterov else m
        p = p - u
        out.append(p)
    return np.stack(out)


def adadelta(grads, params, *, learning_rate=1.0, rho=0.9, eps=1e-6, weight_decay=0.0):
    """Adadelta: Zeiler 2012, Algorithm 1; wd p into the gradient."""
    p = double(params)
    v, x, out = 0.0, 0.0, []
    for t, g_t in enumerate(double(grads)):
        g = g_t + at(weight_decay, t) * p
        v = rho * v + (1 - rho) * abs2(g)
        u = ratio(np.sqrt(x + eps) * g, np.sqrt(v + eps))
        x = rho * x + (1 - rho) * abs2(u)
        p = p - at(learning_rate, t) * u
        out.append(p)
    return np.stack(out)


def sm3(grads, params, *, learning_rate, momentum=0.9):
    """SM3-II: Anil 2019."""
    return descend(scale_by_sm3(grads, b1=momentum), params, learning_rate)


def madgrad(grads, params, *, learning_rate, momentum=0.9, weight_decay=0.0, eps=1e-6):
    """MADGRAD: Defazio and Jelassi 2021, Algorithm 1; eps as their code and Optax.

    z = p_0 - s / (cbrt(v) + eps), s and v sums weighted by (lr + eps) sqrt(t).
    """
    p = start = double(params)
    s, v, out = 0.0, 0.0, []
    for t, g_t in enumerate(double(grads), start=1):
        g = g_t + weight_decay * p
        weight = (at(learning_rate, t - 1) + eps) * math.sqrt(t)
        s = s + weight * g
        v = v + weight * abs2(g)
        z = start - ratio(s, np.cbrt(v) + eps)
        p = momentum * p + (1 - momentum) * z
        out.append(p)
    return np.stack(out)


def adafactor(
    grads,
    params,
    *,
    learning_rate=None,
    min_dim_size_to_factor=128,
    decay_rate=0.8,
    decay_offset=0,
    multiply_by_parameter_scale=True,
    clipping_threshold=1.0,
    momentum=None,
    weight_decay_rate=None,
    eps=1e-30,
    factored=True,
):
    """Adafactor: Shazeer and Stern 2018, Algorithms 4 and 5, as Optax.

    The decay is not times the rate; the mean of the steps is not corrected.
    """
    directions = scale_by_factored_rms(
        grads,
        factored=factored,
        decay_rate=decay_rate,
        step_offset=decay_offset,
        min_dim_size_to_factor=min_dim_size_to_factor,
        epsilon=eps,
    )
    if clipping_threshold is not None:
        directions = clip_by_block_rms(directions, threshold=clipping_threshold)
    p, m, out = double(params), 0.0, []
    for t, d in enumerate(directions):
        u = d if learning_rate is None else at(learning_rate, t) * d
        if multiply_by_parameter_scale:
            u = max(rms(p), 1e-3) * u
        if momentum is not None:
            m = momentum * m + (1 - momentum) * u
            u = m
        if weight_decay_rate is not None:
            u = u + at(weight_decay_rate, t) * p
        p = p - u
        out.append(p)
    return np.stack(out)


def torch_adafactor(
    grads,
    params,
    *,
    learning_rate=1e-2,
    beta2_decay=-0.8,
    eps1=2.0**-52,
    eps2=1e-3,
    d=1.0,
    weight_decay=0.0,
):
    """Adafactor as PyTorch: eps1 two floors, RMS(p) from before the decay."""
    directions = scale_by_factored_rms(
        grads,
        decay_rate=-beta2_decay,
        min_dim_size_to_factor=0,
        epsilon=eps1,
        factored_dims="last",
        clamp=True,
    )
    p, out = double(params), []
    for t, u in enumerate(clip_by_block_rms(directions, threshold=d), start=1):
        lr = at(learning_rate, t - 1)
        rate = max(eps2, rms(p)) * min(lr, 1 / math.sqrt(t))
        p = p - lr * weight_decay * p
        p = p - rate * u
        out.append(p)
    return np.stack(out)


def keras_adafactor(
    grads,
    params,
    *,
    learning_rate=1e-3,
    beta_2_decay=-0.8,
    epsilon_1=1e-30,
    epsilon_2=1e-3,
    clip_threshold=1.0,
    weight_decay=0.0,
):
    """Adafactor as Keras: epsilon_1 added to g^2, RMS(p) from after the decay."""
    directions = scale_by_factored_rms(
        grads,
        decay_rate=-beta_2_decay,
        min_dim_size_to_factor=0,
        epsilon=epsilon_1,
        factored_dims="last",
    )
    directions = clip_by_block_rms(directions, threshold=clip_threshold)
    p, out = double(params), []
    for t, u in enumerate(directions, start=1):
        lr = at(learning_rate, t - 1)
        p = p - lr * weight_decay * p
        rate = max(epsilon_2, rms(p)) * min(lr, 1 / math.sqrt(t))
        p = p - rate * u
        out.append(p)
    return np.stack(out)


# Optimizers: both moments.


def adam(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    nesterov=False,
):
    """Adam: Kingma and Ba 2015, Algorithm 1; Nesterov's form as Optax."""
    p = double(params)
    m, v, out = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs2(g)
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        u = ratio(m_hat, np.sqrt(v_hat + eps_root) + eps)
        p = p - at(learning_rate, t - 1) * u
        out.append(p)
    return np.stack(out)


def adamw(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    nesterov=False,
    weight_decay=1e-4,
):
    """AdamW: Loshchilov and Hutter 2019, the decay times the whole lr as PyTorch."""
    p = double(params)
    m, v, out = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs2(g)
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        u = ratio(m_hat, np.sqrt(v_hat + eps_root) + eps)
        u = u + at(weight_decay, t - 1) * p
        p = p - at(learning_rate, t - 1) * u
        out.append(p)
    return np.stack(out)


def nadam(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    nesterov=True,
    momentum_decay=None,
):
    """NAdam: Dozat 2016, b1 constant as Optax or, given a decay, rising as PyTorch."""
    p = double(params)
    m, v, product, out = 0.0, 0.0, 1.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs2(g)
        if momentum_decay is not None:
            mu = nadam_mu(t, b1, momentum_decay)
            mu_next = nadam_mu(t + 1, b1, momentum_decay)
            product = product * mu
            m_hat = mu_next * m / (1 - product * mu_next)
            m_hat = m_hat + (1 - mu) * g / (1 - product)
        elif nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        else:
            m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        u = ratio(m_hat, np.sqrt(v_hat + eps_root) + eps)
        p = p - at(learning_rate, t - 1) * u
        out.append(p)
    return np.stack(out)


def amsgrad(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    bias_correction_mu=True,
    bias_correction_nu=True,
):
    """AMSGrad: Reddi 2018, who corrects nothing; the maximum of the corrected v."""
    p = double(params)
    m, v, v_max, out = 0.0, 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs2(g)
        m_hat = m / (1 - b1**t) if bias_correction_mu else m
        v_hat = v / (1 - b2**t) if bias_correction_nu else v
        v_max = np.maximum(v_max, v_hat)
        u = ratio(m_hat, np.sqrt(v_max + eps_root) + eps)
        p = p - at(learning_rate, t - 1) * u
        out.append(p)
    return np.stack(out)


def adamax(grads, params, *, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """Adamax: Kingma and Ba 2015, Algorithm 2; eps in the maximum as PyTorch, Optax."""
    p = double(params)
    m, w, out = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        w = np.maximum(b2 * w, np.abs(g) + eps)
        m_hat = m / (1 - b1**t)
        p = p - at(learning_rate, t - 1) * ratio(m_hat, w)
        out.append(p)
    return np.stack(out)


def adam_eps_hat(grads, params, *, learning_rate, b1=0.9, b2=0.999, eps=1e-7):
    """Adam, eps beside the raw root: Kingma and Ba 2015, section 2; Keras, TF1."""
    p = double(params)
    m, v, out = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs2(g)
        rate = at(learning_rate, t - 1) * math.sqrt(1 - b2**t) / (1 - b1**t)
        p = p - rate * ratio(m, np.sqrt(v) + eps)
        out.append(p)
    return np.stack(out)


def nadamw(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=1e-4,
    momentum_decay=None,
):
    """NAdam (Dozat 2016) and decoupled decay: b1 constant, or rising as PyTorch."""
    if momentum_decay is None:
        u = adam_directions(grads, b1, b2, eps, eps_root, nesterov=True)
        return descend(u, params, learning_rate, weight_decay)
    m, v, product, directions = 0.0, 0.0, 1.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs2(g)
        mu = nadam_mu(t, b1, momentum_decay)
        mu_next = nadam_mu(t + 1, b1, momentum_decay)
        product = product * mu
        m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
        v_hat = v / (1 - b2**t)
        directions.append(ratio(m_hat, np.sqrt(v_hat + eps_root) + eps))
    return descend(directions, params, learning_rate, weight_decay)


def adamaxw(grads, params, *, learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4):
    """Adamax (Kingma and Ba 2015, Algorithm 2) and decoupled decay: Optax."""
    m, w, directions = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        w = np.maximum(b2 * w, np.abs(g) + eps)
        directions.append(ratio(m / (1 - b1**t), w))
    return descend(directions, params, learning_rate, weight_decay)


def radam(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    threshold=5.0,
    nesterov=False,
):
    """RAdam: Liu 2020, Algorithm 2, where rho > 4; rho >= 5 and eps as Optax."""
    m, v, directions = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs2(g)
        u = m / (1 - b1**t)
        if nesterov:
            u = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        rho, r = rectification(t, b2)
        if rho >= threshold:
            v_hat = v / (1 - b2**t)
            u = ratio(r() * u, np.sqrt(v_hat + eps_root) + eps)
        directions.append(u)
    return descend(directions, params, learning_rate)


def torch_radam(grads, params, *, learning_rate=1e-3, betas=(0.9, 0.999), eps=1e-8):
    """RAdam as PyTorch: rho > 5, and eps beside the raw root."""
    b1, b2 = betas
    m, v, directions = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs2(g)
        u = m / (1 - b1**t)
        rho, r = rectification(t, b2)
        if rho > 5:
            u = ratio(r() * math.sqrt(1 - b2**t) * u, np.sqrt(v) + eps)
        directions.append(u)
    return descend(directions, params, learning_rate)


def yogi(grads, params, *, learning_rate, b1=0.9, b2=0.999, eps=1e-3):
    """Yogi: Zaheer 2018, Algorithm 2, both moments corrected as Optax."""
    u = scale_by_yogi(grads, b1=b1, b2=b2, eps=eps)
    return descend(u, params, learning_rate)


def adabelief(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-16,
    eps_root=1e-16,
    nesterov=False,
):
    """AdaBelief: Zhuang 2020, Algorithm 2."""
    u = scale_by_belief(grads, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov)
    return descend(u, params, learning_rate)


def acprop(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-16,
    eps_root=1e-16,
    weight_decay=0.0,
):
    """ACProp: Zhuang 2021, as Optax."""
    u = scale_by_acprop(grads, b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return descend(u, params, learning_rate, weight_decay)


def adan(
    grads,
    params,
    *,
    learning_rate,
    b1=0.98,
    b2=0.92,
    b3=0.99,
    eps=1e-8,
    eps_root=1e-8,
    weight_decay=0.0,
    difference_weight=None,
):
    """Adan: Xie 2022, the differences' weight 1 - b2 and the decay as Optax."""
    u = scale_by_adan(
        grads,
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        eps_root=eps_root,
        difference_weight=difference_weight,
    )
    return descend(u, params, learning_rate, weight_decay)


def ademamix(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    b3=0.9999,
    alpha=5.0,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=0.0,
):
    """AdEMAMix: Pagliardini 2024, Algorithm 1."""
    u = scale_by_ademamix(
        grads, b1=b1, b2=b2, b3=b3, alpha=alpha, eps=eps, eps_root=eps_root
    )
    return descend(u, params, learning_rate, weight_decay)


def simplified_ademamix(
    grads,
    params,
    *,
    learning_rate,
    b1=0.99,
    b2=0.95,
    alpha=0.0,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=0.0,
):
    """Simplified AdEMAMix: Morwani 2025."""
    u = scale_by_simplified_ademamix(
        grads, b1=b1, b2=b2, alpha=alpha, eps=eps, eps_root=eps_root
    )
    return descend(u, params, learning_rate, weight_decay)


def adopt(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.9999,
    eps=1e-6,
    nesterov=False,
    use_clipping=True,
):
    """ADOPT: Taniguchi 2024, Algorithm 2."""
    u = scale_by_adopt(
        grads, b1=b1, b2=b2, eps=eps, nesterov=nesterov, use_clipping=use_clipping
    )
    return descend(u, params, learning_rate)


def laprop(grads, params, *, learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
    """LaProp: Ziyin 2020, Algorithm 1, the mean of the divided gradients."""
    m, v, directions = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        v = b2 * v + (1 - b2) * abs2(g)
        v_hat = v / (1 - b2**t)
        m = b1 * m + (1 - b1) * ratio(g, np.sqrt(v_hat) + eps)
        directions.append(m / (1 - b1**t))
    return descend(directions, params, learning_rate, weight_decay)


# What the optimizers share.


def descend(directions, params, learning_rate, weight_decay=0.0):
    """p = p - lr (u + wd p), where no direction depends on the parameters."""
    p, out = double(params), []
    for t, u in enumerate(directions):
        p = p - at(learning_rate, t) * (u + at(weight_decay, t) * p)
        out.append(p)
    return np.stack(out)


def adam_directions(grads, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, nesterov=False):
    """m / (sqrt(v) + eps), both corrected: Kingma and Ba 2015, Algorithm 1."""
    m, v, out = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs2(g)
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        out.append(ratio(m_hat, np.sqrt(v_hat + eps_root) + eps))
    return np.stack(out)


# Optimizers: signs.


def sign_sgd(grads, params, *, learning_rate):
    """signSGD: Bernstein 2018, Algorithm 1."""
    return descend(sign(double(grads)), params, learning_rate)


def signum(grads, params, *, learning_rate, beta=0.9):
    """The sign of the mean gradient: Bernstein 2018, Algorithm 2."""
    m = ema(grads, decay=beta, debias=False)
    return descend(sign(m), params, learning_rate)


def lion(grads, params, *, learning_rate, b1=0.9, b2=0.99, weight_decay=1e-3):
    """Lion: Chen 2023, Algorithm 2."""
    u = scale_by_lion(grads, b1=b1, b2=b2)
    return descend(u, params, learning_rate, weight_decay)


def rprop(
    grads,
    params,
    *,
    learning_rate,
    eta_minus=0.5,
    eta_plus=1.2,
    min_step_size=1e-6,
    max_step_size=50.0,
):
    """iRprop-: Igel and Huesken 2000, as PyTorch; learning_rate is the first step."""
    u = scale_by_rprop(
        grads,
        learning_rate=learning_rate,
        eta_minus=eta_minus,
        eta_plus=eta_plus,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
    )
    return descend(u, params, 1.0)


# Optimizers: one norm for the array.


def fromage(grads, params, *, learning_rate, min_norm=1e-6):
    """p = (p - lr g |p| / |g|) / sqrt(1 + lr^2): Bernstein 2020, Algorithm 1."""
    p, out = double(params), []
    for t, g in enumerate(double(grads)):
        lr = at(learning_rate, t)
        p = (p - lr * trust_ratio(p, g, min_norm) * g) / math.sqrt(1 + lr**2)
        out.append(p)
    return np.stack(out)


def lars(
    grads,
    params,
    *,
    learning_rate,
    weight_decay=0.0,
    trust_coefficient=1e-3,
    eps=0.0,
    momentum=0.9,
    nesterov=False,
):
    """LARS: You 2017, Algorithm 1; the decay in the norm below, as Optax."""
    p, m, out = double(params), 0.0, []
    for t, g in enumerate(double(grads)):
        u = g + at(weight_decay, t) * p
        ratio_t = trust_ratio(p, u, trust_coefficient=trust_coefficient, eps=eps)
        u = at(learning_rate, t) * ratio_t * u
        m = momentum * m + u
        p = p - (u + momentum * m if nesterov else m)
        out.append(p)
    return np.stack(out)


def lamb(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    eps_root=0.0,
    weight_decay=0.0,
):
    """LAMB: You 2020, Algorithm 2, the norm of p as it is."""
    p, out = double(params), []
    for t, d in enumerate(adam_directions(grads, b1, b2, eps, eps_root)):
        u = d + at(weight_decay, t) * p
        p = p - at(learning_rate, t) * trust_ratio(p, u) * u
        out.append(p)
    return np.stack(out)


def keras_lamb(
    grads,
    params,
    *,
    learning_rate=1e-3,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-7,
    weight_decay=0.0,
):
    """LAMB as Keras: the decay comes first and stays out of the ratio."""
    p, out = double(params), []
    for t, u in enumerate(adam_directions(grads, beta_1, beta_2, epsilon)):
        lr = at(learning_rate, t)
        p = p - lr * weight_decay * p
        p = p - lr * trust_ratio(p, u) * u
        out.append(p)
    return np.stack(out)


def novograd(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.25,
    eps=1e-6,
    eps_root=0.0,
    weight_decay=0.0,
):
    """NovoGrad: Ginsburg 2019, Algorithm 1, one array here."""
    p = double(params)
    m, v, out = 0.0, None, []
    for t, g in enumerate(double(grads)):
        square = norm(g) ** 2
        v = square if v is None else b2 * v + (1 - b2) * square
        root = math.sqrt(v + eps_root) + eps
        m = b1 * m + ratio(g, root) + at(weight_decay, t) * p
        p = p - at(learning_rate, t) * m
        out.append(p)
    return np.stack(out)


def polyak_sgd(
    grads,
    params,
    *,
    max_learning_rate=1.0,
    scaling=1.0,
    f_min=0.0,
    eps=0.0,
    variant="sps",
    value,
):
    """p = p - s (Polyak's step): Loizou 2021; s has no part in the step itself."""
    u = scale_by_polyak(
        grads,
        f_min=f_min,
        max_learning_rate=max_learning_rate,
        eps=eps,
        variant=variant,
        value=value,
    )
    return descend(u, params, scaling)


# Optimizers: optimism.


def optimistic_gradient_descent(grads, params, *, learning_rate, alpha=1.0, beta=1.0):
    """p = p - lr ((a + b) g - b g_previous): Mokhtari 2019."""
    u = scale_by_optimistic_gradient(grads, alpha=alpha, beta=beta)
    return descend(u, params, learning_rate)


def optimistic_adam(
    grads,
    params,
    *,
    learning_rate,
    alpha=1.0,
    beta=1.0,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    nesterov=True,
):
    """Optimism about Adam's direction: Daskalakis 2018; Optax's optimistic_adam_v2."""
    u = adam_directions(grads, b1, b2, eps, eps_root, nesterov)
    u = scale_by_optimistic_gradient(u, alpha=alpha, beta=beta)
    return descend(u, params, learning_rate)


# Optimizers: averages and dual averages.


def asgd(grads, params, *, learning_rate=1e-2, lambd=1e-4, alpha=0.75):
    """p = p - eta (g + l p), eta_t = lr / (1 + l lr (t - 1))^a: PyTorch's ASGD.

    Bottou 2012; the parameters themselves, not their average.
    """
    p, out = double(params), []
    for t, g in enumerate(double(grads)):
        lr = at(learning_rate, t)
        eta = lr / (1 + lambd * lr * t) ** alpha
        p = p - eta * (g + lambd * p)
        out.append(p)
    return np.stack(out)


def ftrl(
    grads,
    params,
    *,
    learning_rate=1e-3,
    learning_rate_power=-0.5,
    initial_accumulator_value=0.1,
    l1=0.0,
    l2=0.0,
    l2_shrinkage=0.0,
    beta=0.0,
):
    """FTRL-Proximal: McMahan 2013, Algorithm 1, as Keras and TF1."""
    p = double(params)
    s, z, out = initial_accumulator_value, 0.0, []
    for t, g in enumerate(double(grads)):
        lr = at(learning_rate, t)
        s_new = s + abs2(g)
        root = s**-learning_rate_power
        root_new = s_new**-learning_rate_power
        z = z + g + 2 * l2_shrinkage * p - (root_new - root) / lr * p
        s = s_new
        below = (beta + root_new) / lr + 2 * l2
        p = -ratio(sign(z) * np.maximum(np.abs(z) - l1, 0.0), below)
        out.append(p)
    return np.stack(out)


def adagrad_dual_averaging(
    grads,
    params,
    *,
    learning_rate,
    initial_accumulator_value=0.1,
    l1=0.0,
    l2=0.0,
):
    """AdaGrad by dual averages: Duchi 2011, as TF1; the start is forgotten."""
    s, total, out = initial_accumulator_value, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        lr = at(learning_rate, t - 1)
        total = total + g
        s = s + abs2(g)
        size = np.maximum(np.abs(total) - l1 * t, 0.0)
        out.append(-lr * ratio(sign(total) * size, l2 * t * lr + np.sqrt(s)))
    return np.stack(out)


def proximal_adagrad(
    grads,
    params,
    *,
    learning_rate,
    initial_accumulator_value=0.1,
    l1=0.0,
    l2=0.0,
):
    """AdaGrad and a proximal step: Duchi 2011, Duchi and Singer 2009, as TF1."""
    p = double(params)
    s, out = initial_accumulator_value, []
    for t, g in enumerate(double(grads)):
        s = s + abs2(g)
        rate = ratio(at(learning_rate, t), np.sqrt(s))
        w = p - rate * g
        p = sign(w) * np.maximum(np.abs(w) - rate * l1, 0.0) / (1 + rate * l2)
        out.append(p)
    return np.stack(out)


def proximal_gradient_descent(grads, params, *, learning_rate, l1=0.0, l2=0.0):
    """ISTA (Beck and Teboulle 2009): a step, then the proximal map of the penalty."""
    p, out = double(params), []
    for t, g in enumerate(double(grads)):
        lr = at(learning_rate, t)
        w = p - lr * g
        p = sign(w) * np.maximum(np.abs(w) - lr * l1, 0) / (1 + lr * l2)
        out.append(p)
    return np.stack(out)


# Averages of the parameters.


def average(path, start, *, decay=None, first=0, every=1, debias=False):
    """The average after each step of a path of parameters, each from all its samples."""
    path, out = [double(start), *double(path)], []
    for t in range(1, len(path)):
        samples = path[first : t + 1 : every] or [path[t]]
        if decay is None:
            out.append(np.mean(samples, axis=0))
            continue
        weights = [1.0]
        for n in range(1, len(samples)):
            d = at(decay, n)
            weights = [d * w for w in weights] + [1 - d]
        if debias:  # Of a constant decay: as if there had been a zero before.
            weights[0] *= 1 - decay
        out.append(sum(w * p for w, p in zip(weights, samples, strict=True)) / sum(weights))
    return np.stack(out)


def lookahead_sgd(
    grads, params, *, sync_period, slow_step_size, on_sync="keep", lr=0.1, momentum=0.9
):
    """Zhang 2019, Algorithm 1 around SGD with momentum, with section 3's states."""
    slow, slow_m, m, out = double(params), 0.0, 0.0, []
    fast = slow
    for t, g in enumerate(double(grads), start=1):
        m = momentum * m + g
        fast = fast - lr * m
        if t % sync_period == 0:
            fast = slow = slow + slow_step_size * (fast - slow)
            if on_sync == "reset":
                m = 0.0
            elif on_sync == "pull_back":
                m = slow_m = slow_m + slow_step_size * (m - slow_m)
        out.append(fast)
    return np.stack(out)


def _schedule_free(grads, params, steps, learning_rate, b1, power, averages=False):
    """Defazio 2024, Algorithm 1, with the weights of section 3; x, y and z all kept.

    `steps(t, g, y)` is what the base optimizer adds to z.
    """
    x = y = z = double(params)
    largest, total, out = 0.0, 0.0, []
    for t, g in enumerate(double(grads)):
        z = z + steps(t, g, y)
        largest = max(largest, at(learning_rate, t + 1))
        weight = largest**power
        total = total + weight
        x = x + (weight / total if total else 0.0) * (z - x)
        y = b1 * x + (1 - b1) * z
        out.append(x if averages else y)
    return np.stack(out)


def _warmed_up(learning_rate, steps):
    if not steps:
        return learning_rate
    return lambda t: learning_rate * min(t / steps, 1.0)


def schedule_free_sgd(
    grads,
    params,
    *,
    learning_rate=1.0,
    warmup_steps=None,
    b1=0.9,
    weight_decay=0.0,
    weight_lr_power=2.0,
    averages=False,
):
    """Schedule-Free SGD; with `averages`, x in place of y."""
    rate = _warmed_up(learning_rate, warmup_steps)

    def step(t, g, y):
        return -at(rate, t) * (g + weight_decay * y)

    return _schedule_free(grads, params, step, rate, b1, weight_lr_power, averages)


def schedule_free_adamw(
    grads,
    params,
    *,
    learning_rate=0.0025,
    warmup_steps=None,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    weight_lr_power=2.0,
):
    """Schedule-Free AdamW, with the corrected second moment."""
    rate = _warmed_up(learning_rate, warmup_steps)
    v = 0.0

    def step(t, g, y):
        nonlocal v
        v = b2 * v + (1 - b2) * abs2(g)
        root = np.sqrt(v / (1 - b2 ** (t + 1)))
        return -at(rate, t) * (g / (root + eps) + weight_decay * y)

    return _schedule_free(grads, params, step, rate, b1, weight_lr_power)
