"""Stages: gradients of shape (T, *shape) in, one for each step, and T updates out."""

import math

import numpy as np

from .shared import (
    abs2,
    at,
    double,
    factored_axes,
    nadam_mu,
    norm,
    ratio,
    rectification,
    rms,
    sign,
    trust_ratio,
)

# Stages: size.


def identity(grads, params=None):
    """u = g."""
    return double(grads)


def scale(grads, params=None, *, step_size):
    """u = c g."""
    return step_size * double(grads)


def scale_by_learning_rate(grads, params=None, *, learning_rate, flip_sign=True):
    """u = -lr g: gradient descent (Cauchy 1847); + where the sign is kept."""
    out = []
    for t, g in enumerate(double(grads)):
        lr = at(learning_rate, t)
        out.append(-lr * g if flip_sign else lr * g)
    return np.stack(out)


def scale_by_schedule(grads, params=None, *, step_size_fn):
    """u = f(t) g with t = 0 at the first step."""
    return np.stack([at(step_size_fn, t) * g for t, g in enumerate(double(grads))])


def scale_by_sign(grads, params=None):
    """u = g / |g|: signSGD (Bernstein 2018)."""
    return sign(double(grads))


def sam(grads, params, *, step_size, rho=0.05, adaptive=False, two_step=True):
    """In turn, e = rho T^2 g / |T g| and p0 + c g - p: SAM (Foret 2020), ASAM (Kwon 2021).

    T is |p| where it is adaptive, and else 1; p0 is the parameter at the last e.
    """
    assert two_step
    out, p0 = [], None
    for g, p in zip(double(grads), double(params), strict=True):
        if p0 is None:
            t = np.abs(p) if adaptive else 1.0
            out.append(rho * ratio(t * t * g, norm(t * g)))
            p0 = p
        else:
            out.append(p0 + step_size * g - p)
            p0 = None
    return np.stack(out)


def scale_by_trust_ratio(
    grads, params=None, *, min_norm=0.0, trust_coefficient=1.0, eps=0.0
):
    """u = g c |p| / |g|: LARS (You 2017), the norms not below a least one."""
    pairs = zip(double(grads), double(params), strict=True)
    ratios = (min_norm, trust_coefficient, eps)
    return np.stack([trust_ratio(p, g, *ratios) * g for g, p in pairs])


def scale_by_param_block_norm(grads, params=None, *, min_scale=1e-3):
    """u = g max(|p|, c)."""
    pairs = zip(double(grads), double(params), strict=True)
    return np.stack([g * max(norm(p), min_scale) for g, p in pairs])


def scale_by_param_block_rms(grads, params=None, *, min_scale=1e-3):
    """u = g max(RMS(p), c): Adafactor (Shazeer and Stern 2018, section 8)."""
    pairs = zip(double(grads), double(params), strict=True)
    return np.stack([g * max(rms(p), min_scale) for g, p in pairs])


def normalize_by_update_norm(grads, params=None, *, scale_factor=1.0, eps=1e-6):
    """u = c g / (|g| + eps), one array here."""
    return np.stack([scale_factor * ratio(g, norm(g) + eps) for g in double(grads)])


def scale_by_polyak(
    grads,
    params=None,
    *,
    f_min=0.0,
    max_learning_rate=1.0,
    eps=0.0,
    variant="sps",
    value,
):
    """u = g min((f - f*) / |g|^2, c): Polyak 1987, SPS_max (Loizou 2021).

    "sps+" takes a step of 0 where f < f* (Garrigos 2023).
    """
    g = double(grads)
    values = np.broadcast_to(double(value), len(g))
    out = []
    for g_t, f in zip(g, values, strict=True):
        gap = f - f_min
        if variant == "sps+":
            gap = max(gap, 0.0)
        below = norm(g_t) ** 2 + eps
        step = min(gap / below, max_learning_rate) if below > 0 else 0.0
        out.append(step * g_t)
    return np.stack(out)


def reduce_on_plateau(
    grads,
    params=None,
    *,
    factor=0.1,
    patience=10,
    rtol=1e-4,
    atol=0.0,
    cooldown=0,
    accumulation_size=1,
    min_scale=0.0,
    value,
):
    """u = c g, c lowered after every `patience` means of f that were not better.

    As Optax, but better is f < best - rtol |best| - atol, whatever the sign of best.
    """
    g = double(grads)
    values = np.broadcast_to(double(value), len(g))
    scale, best, bad, rest, seen, out = 1.0, None, 0, 0, [], []
    for g_t, f in zip(g, values, strict=True):
        seen.append(f)
        if len(seen) == accumulation_size:
            mean = sum(seen) / len(seen)
            seen = []
            better = best is None or mean < best - rtol * abs(best) - atol
            if better:
                best = mean
            bad = 0 if better else bad + 1
            if rest > 0:
                bad = 0
                rest = rest - 1
            elif not better and bad >= patience:
                bad = 0
                rest = cooldown
                scale = scale * factor
            scale = max(scale, min_scale)
        out.append(scale * g_t)
    return np.stack(out)


# Stages: first moments.


def scale_by_momentum(
    grads,
    params=None,
    *,
    decay=0.9,
    dampening=0.0,
    nesterov=False,
    undamped_start=False,
):
    """m = b m + (1 - d) g: Polyak 1964; the look-ahead: Sutskever 2013, as PyTorch."""
    m, out = 0.0, []
    for t, g in enumerate(double(grads), start=1):
        b, d = at(decay, t - 1), at(dampening, t - 1)
        m = b * m + (1 - d) * g
        if undamped_start and t == 1:
            m = g
        u = (1 - d) * g + b * m if nesterov else m
        out.append(u)
    return np.stack(out)


def ema(grads, params=None, *, decay, debias=True):
    """m = b m + (1 - b) g, over 1 - b^t: section 3 of Kingma and Ba 2015."""
    m, out = 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = decay * m + (1 - decay) * g
        out.append(m / (1 - decay**t) if debias else m)
    return np.stack(out)


def add_bias_correction(grads, params=None, *, decay, rms_decay=None, nesterov=False):
    """u = m / (1 - b1^t), times sqrt(1 - b2^t): Kingma and Ba 2015, end of section 2.

    Nesterov's form is Dozat's 2016 with a constant momentum. Alone, m is g.
    """
    out = []
    for t, g in enumerate(double(grads), start=1):
        b = at(decay, t - 1)
        u = g / (1 - b**t)
        if nesterov:
            u = b * g / (1 - b ** (t + 1)) + (1 - b) * g / (1 - b**t)
        if rms_decay is not None:
            u = u * math.sqrt(1 - rms_decay**t)
        out.append(u)
    return np.stack(out)


def add_nadam_correction(grads, params=None, *, decay=0.9, momentum_decay=0.004):
    """NAdam's mean of g and m (Dozat 2016; PyTorch). Alone, m is g."""
    product, out = 1.0, []
    for t, g in enumerate(double(grads), start=1):
        mu = nadam_mu(t, decay, momentum_decay)
        mu_next = nadam_mu(t + 1, decay, momentum_decay)
        product = product * mu
        u = (1 - mu) * g / (1 - product) + mu_next * g / (1 - product * mu_next)
        out.append(u)
    return np.stack(out)


def scale_by_optimistic_gradient(grads, params=None, *, alpha=1.0, beta=1.0):
    """u = (a + b) g - b g_previous, at first a g: Mokhtari 2019."""
    before, out = None, []
    for g in double(grads):
        before = g if before is None else before
        out.append((alpha + beta) * g - beta * before)
        before = g
    return np.stack(out)


def scale_by_lion(grads, params=None, *, b1=0.9, b2=0.99, mode="hard", smooth_beta=1.0):
    """u = sign(b1 m + (1 - b1) g), m = b2 m + (1 - b2) g: Lion (Chen 2023).

    Or instead of the sign a tanh ("smooth") or what is held within 1 ("refined").
    """
    size_of = {
        "hard": lambda size: np.where(size > 0, 1.0, 0.0),
        "smooth": lambda size: np.tanh(smooth_beta * size),
        "refined": lambda size: np.minimum(size, 1.0),
    }[mode]
    m, out = 0.0, []
    for g in double(grads):
        c = b1 * m + (1 - b1) * g
        m = b2 * m + (1 - b2) * g
        out.append(sign(c) * size_of(np.abs(c)))
    return np.stack(out)


# Stages: second moments.


def scale_by_rss(
    grads, params=None, *, initial_accumulator_value=0.1, eps=1e-7, eps_in_sqrt=True
):
    """u = g / sqrt(sum of |g|^2): AdaGrad (Duchi 2011); eps outside as PyTorch."""
    s, out = initial_accumulator_value, []
    for g in double(grads):
        s = s + abs2(g)
        root = np.sqrt(s + eps) if eps_in_sqrt else np.sqrt(s) + eps
        out.append(np.where(s == 0, 0.0, ratio(g, root)))
    return np.stack(out)


def scale_by_rms(
    grads,
    params=None,
    *,
    decay=0.9,
    eps=1e-8,
    eps_in_sqrt=False,
    eps_root=0.0,
    initial_scale=0.0,
    centered=False,
    bias_correction=False,
    amsgrad=None,
):
    """u = g / sqrt(v): RMSprop (Hinton 2012), centred (Graves 2013), Adam's v.

    The maximum is taken of v as it is ("raw": PyTorch, Keras) or of the corrected v
    ("corrected": Optax), of v alone where it is centred too.
    """
    v, a, v_max, out = initial_scale, 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        v = decay * v + (1 - decay) * abs2(g)
        a = decay * a + (1 - decay) * g
        correction = 1 - decay**t if bias_correction else 1.0
        v_hat = v / correction
        a_hat = a / correction
        if amsgrad == "raw":
            v_max = np.maximum(v_max, v)
            v_hat = v_max / correction
        if amsgrad == "corrected":
            v_max = np.maximum(v_max, v_hat)
            v_hat = v_max
        if centered:
            v_hat = np.maximum(v_hat - abs2(a_hat), 0.0)
        if eps_in_sqrt:
            root = np.sqrt(v_hat + eps_root + eps)
        else:
            root = np.sqrt(v_hat + eps_root) + eps
        out.append(ratio(g, root))
    return np.stack(out)


def scale_by_infinity_moment(grads, params=None, *, decay=0.999, eps=1e-8, eps_in_max=True):
    """u = g / max(b w, |g|): Adamax (Kingma and Ba 2015, section 7.1).

    The paper has no eps: PyTorch and Optax put it in the maximum, Keras after it.
    """
    w, out = 0.0, []
    for g in double(grads):
        if eps_in_max:
            w = np.maximum(decay * w, np.abs(g) + eps)
            u = ratio(g, w)
        else:
            w = np.maximum(decay * w, np.abs(g))
            u = ratio(g, w + eps)
        out.append(u)
    return np.stack(out)


def scale_by_adadelta(grads, params=None, *, rho=0.9, eps=1e-6):
    """u = g RMS(u) / RMS(g): Adadelta (Zeiler 2012, Algorithm 1)."""
    v, x, out = 0.0, 0.0, []
    for g in double(grads):
        v = rho * v + (1 - rho) * abs2(g)
        u = ratio(np.sqrt(x + eps) * g, np.sqrt(v + eps))
        x = rho * x + (1 - rho) * abs2(u)
        out.append(u)
    return np.stack(out)


def scale_by_rectified_rms(
    grads,
    params=None,
    *,
    decay=0.999,
    eps=1e-8,
    eps_root=0.0,
    threshold=5.0,
    eps_hat=False,
):
    """u = r g / sqrt(v) once v is sure enough, g before: RAdam (Liu 2020).

    The paper's threshold is 4. The eps is beside the corrected root, as Optax, or
    beside the raw one, as PyTorch. Alone, the direction is g.
    """
    v, out = 0.0, []
    for t, g in enumerate(double(grads), start=1):
        v = decay * v + (1 - decay) * abs2(g)
        rho, r = rectification(t, decay)
        u = g
        if rho >= threshold:
            if eps_hat:
                root = np.sqrt(v + eps_root) + eps
                u = ratio(r() * math.sqrt(1 - decay**t) * g, root)
            else:
                u = ratio(r() * g, np.sqrt(v / (1 - decay**t) + eps_root) + eps)
        out.append(u)
    return np.stack(out)


def scale_by_sm3(grads, params=None, *, b1=0.9, b2=1.0, eps=1e-8):
    """SM3-II (Anil 2019): one sum of |g|^2 for each index of each axis.

    An entry takes the least of its sums, a sum the greatest of its entries. At
    b2 < 1 they are means. A scalar has one sum of its own.
    """
    g = double(grads)
    shape = g.shape[1:]
    axes = range(len(shape))
    sums = [np.zeros([n if i == axis else 1 for i, n in enumerate(shape)]) for axis in axes]
    sums = sums or [np.zeros(())]
    weight = 1.0 if b2 == 1 else 1 - b2
    m, out = 0.0, []
    for g_t in g:
        least = sums[0]
        for s in sums[1:]:
            least = np.minimum(least, s)
        v = weight * abs2(g_t) + b2 * least
        for axis in axes:
            others = tuple(set(axes) - {axis})
            sums[axis] = np.max(v, axis=others, keepdims=True)
        if not shape:
            sums = [v]
        u = np.where(v == 0, 0.0, ratio(g_t, np.sqrt(v + eps)))
        m = b1 * m + (1 - b1) * u
        out.append(m)
    return np.stack(out)


def scale_by_factored_rms(
    grads,
    params=None,
    *,
    factored=True,
    decay_rate=0.8,
    step_offset=0,
    min_dim_size_to_factor=128,
    epsilon=1e-30,
    factored_dims="largest",
    clamp=False,
):
    """u = g / sqrt(v), v = r c / mean(r): Adafactor (Shazeer and Stern 2018).

    The axes of r and c are the two longest, the last of equals, or the last two.
    epsilon is added to |g|^2 or, clamped, a floor as in PyTorch.
    """
    g = double(grads)
    axes = factored_axes(g.shape[1:], factored, min_dim_size_to_factor, factored_dims)
    r, c, v, out = 0.0, 0.0, 0.0, []
    for t, g_t in enumerate(g, start=1):
        decay = 1 - float(t - step_offset) ** -decay_rate
        square = abs2(g_t) + (0.0 if clamp else epsilon)
        if axes is None:
            v = decay * v + (1 - decay) * square
        else:
            r = decay * r + (1 - decay) * np.mean(square, axis=axes[0], keepdims=True)
            c = decay * c + (1 - decay) * np.mean(square, axis=axes[1], keepdims=True)
            mean = np.mean(r, axis=axes[1], keepdims=True)
            v = ratio(r * c, np.maximum(mean, epsilon) if clamp else mean)
        out.append(ratio(g_t, np.sqrt(np.maximum(v, epsilon**2) if clamp else v)))
    return np.stack(out)


# Stages: parameters.


def add_decayed_weights(grads, params=None, *, weight_decay=0.0):
    """u = g + wd p: the gradient of wd |p|^2 / 2, or Loshchilov and Hutter's 2019."""
    out = []
    for t, (g, p) in enumerate(zip(double(grads), double(params), strict=True)):
        out.append(g + at(weight_decay, t) * p)
    return np.stack(out)


def add_l1_decay(grads, params=None, *, strength=0.0):
    """u = g + c sign(p): the subgradient of c |p|_1 that is 0 at 0."""
    out = []
    for t, (g, p) in enumerate(zip(double(grads), double(params), strict=True)):
        out.append(g + at(strength, t) * sign(p))
    return np.stack(out)


def soft_threshold(grads, params=None, *, threshold=0.0, shrinkage=0.0):
    """p + u = prox(p + g): ISTA (Daubechies 2004), FOBOS (Duchi and Singer 2009)."""
    out = []
    for t, (g, p) in enumerate(zip(double(grads), double(params), strict=True)):
        w = p + g
        size = np.maximum(np.abs(w) - at(threshold, t), 0.0)
        new = sign(w) * size / (1 + at(shrinkage, t))
        out.append(new - p)
    return np.stack(out)


def keep_params_nonnegative(grads, params=None):
    """u = max(g, -p), so that p + u is not negative."""
    return np.maximum(double(grads), -double(params))


def project(grads, params, projection):
    """p + u = P(p + g): projected gradients (Levitin and Polyak 1966)."""
    pairs = zip(double(grads), double(params), strict=True)
    return np.stack([projection(p + g) - p for g, p in pairs])


def add_cautious_weight_decay(grads, params=None, *, weight_decay=0.0):
    """u = g + wd p where p g >= 0, else g: Cautious Weight Decay (Chen 2025)."""
    out = []
    for t, (g, p) in enumerate(zip(double(grads), double(params), strict=True)):
        agree = np.real(np.conj(p) * g) >= 0
        out.append(g + np.where(agree, at(weight_decay, t) * p, 0.0))
    return np.stack(out)


def scale_by_madgrad(grads, params, *, learning_rate, momentum=0.9, eps=1e-6):
    """u = (1 - b) (z - p), z as `madgrad` has it; the first parameters are p_0."""
    params = double(params)
    s, v, out = 0.0, 0.0, []
    for t, (g, p) in enumerate(zip(double(grads), params, strict=True), start=1):
        weight = (at(learning_rate, t - 1) + eps) * math.sqrt(t)
        s, v = s + weight * g, v + weight * abs2(g)
        z = params[0] - ratio(s, np.cbrt(v) + eps)
        out.append((1 - momentum) * (z - p))
    return np.stack(out)


# Stages: taming.


def clip(grads, params=None, *, max_delta):
    """u = g, held within -c and c; real g only."""
    if np.iscomplexobj(grads):
        raise TypeError("complex numbers have no order to clip in.")
    return np.minimum(np.maximum(double(grads), -max_delta), max_delta)


def zero_nans(grads, params=None):
    """u = g, 0 where it is not a number."""
    g = double(grads)
    return np.where(np.isnan(g), 0.0, g)


def centralize(grads, params=None, *, output_axis=0):
    """u = g minus its mean for each output: gradient centralization (Yong 2020)."""
    out = []
    for g in double(grads):
        mean = 0.0
        if g.ndim >= 2:
            axes = set(range(g.ndim)) - {output_axis % g.ndim}
            mean = np.mean(g, axis=tuple(axes), keepdims=True)
        out.append(g - mean)
    return np.stack(out)


def clip_by_global_norm(grads, params=None, *, max_norm, ord=2.0, eps=0.0):
    """u = g min(1, c / (|g| + eps)), one array here: Pascanu 2013, PyTorch's eps."""
    out = []
    for g in double(grads):
        size = np.abs(g)
        if ord == math.inf:
            total = np.max(size) + eps
        else:
            total = np.sum(size**ord) ** (1 / ord) + eps
        out.append(g / total * max_norm if total > max_norm else g)
    return np.stack(out)


def clip_by_block_rms(grads, params=None, *, threshold):
    """u = g / max(1, RMS(g) / c): Adafactor (Shazeer and Stern 2018, section 6)."""
    return np.stack([g / max(1.0, rms(g) / threshold) for g in double(grads)])


def clip_by_average_norm(grads, params=None, *, max_norm):
    """u = g c / max(|g| / n, c) for n entries: TF1."""
    g = double(grads)
    return np.stack([g_t * max_norm / max(norm(g_t) / g_t.size, max_norm) for g_t in g])


def unit_norm(x, axis=None):
    """Return the norm over each unit's axes: an output's, of kernels (in, out)."""
    if axis is None and np.squeeze(x).ndim > 1:
        axis = {2: 0, 3: 0, 4: (0, 1, 2), 5: (0, 1, 2, 3)}[x.ndim]
    return np.sqrt(np.sum(abs2(x), axis=axis, keepdims=True))


def adaptive_grad_clip(grads, params=None, *, clipping, eps=1e-3, axis=None):
    """u = g min(1, c max(|p|, eps) / |g|) by units: NFNet's AGC (Brock 2021)."""
    out = []
    for g, p in zip(double(grads), double(params), strict=True):
        g_norm = unit_norm(g, axis)
        most = clipping * np.maximum(unit_norm(p, axis), eps)
        out.append(g * np.where(g_norm > most, ratio(most, g_norm), 1.0))
    return np.stack(out)


# Stages: both moments.


def scale_by_belief(
    grads, params=None, *, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, nesterov=False
):
    """u = m / sqrt(s), s the mean of |g - m|^2: AdaBelief (Zhuang 2020, Algorithm 2).

    eps_root is added to s itself, at every step.
    """
    m, s, out = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * abs2(g - m) + eps_root
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        out.append(ratio(m_hat, np.sqrt(s / (1 - b2**t)) + eps))
    return np.stack(out)


def scale_by_acprop(grads, params=None, *, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16):
    """u = g / sqrt(s_previous): ACProp (Zhuang 2021), as Optax.

    s is the mean of |g - m_previous|^2, eps_root added to it at every step; at
    first u = g.
    """
    m, s, out = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        s_hat = 1.0 if t == 1 else s / (1 - b2 ** (t - 1))
        out.append(ratio(g, np.sqrt(s_hat) + eps))
        s = b2 * s + (1 - b2) * abs2(g - m) + eps_root
        m = b1 * m + (1 - b1) * g
    return np.stack(out)


def scale_by_yogi(
    grads,
    params=None,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-3,
    eps_root=0.0,
    initial_accumulator_value=1e-6,
):
    """v = v - (1 - b2) sign(v - |g|^2) |g|^2: Yogi (Zaheer 2018, Algorithm 2).

    m and v start at the same value and both are corrected, as Optax; but for complex
    numbers m starts at 0.
    """
    m, v, out = initial_accumulator_value, initial_accumulator_value, []
    m = 0.0 if np.iscomplexobj(grads) else m
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - abs2(g)) * abs2(g)
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        out.append(ratio(m_hat, np.sqrt(v_hat + eps_root) + eps))
    return np.stack(out)


def scale_by_adan(
    grads,
    params=None,
    *,
    b1=0.98,
    b2=0.92,
    b3=0.99,
    eps=1e-8,
    eps_root=0.0,
    difference_weight=None,
):
    """u = (m + c d) / sqrt(n), d the mean of the differences of g: Adan (Xie 2022).

    c is b2, as in the paper and its authors' code, unless given; Optax takes 1 - b2.
    """
    c = b2 if difference_weight is None else difference_weight
    m, d, n, before, out = 0.0, 0.0, 0.0, None, []
    for t, g in enumerate(double(grads), start=1):
        difference = np.zeros_like(g) if before is None else g - before
        before = g
        m = b1 * m + (1 - b1) * g
        d = b2 * d + (1 - b2) * difference
        n = b3 * n + (1 - b3) * abs2(g + c * difference)
        m_hat = m / (1 - b1**t)
        d_hat = d / (1 - b2**t)
        n_hat = n / (1 - b3**t)
        out.append(ratio(m_hat + c * d_hat, np.sqrt(n_hat + eps_root) + eps))
    return np.stack(out)


def scale_by_ademamix(
    grads,
    params=None,
    *,
    b1=0.9,
    b2=0.999,
    b3=0.9999,
    alpha=6.0,
    eps=1e-8,
    eps_root=0.0,
):
    """u = (m1 + a m2) / sqrt(v), m2 a slow mean, not corrected: Pagliardini 2024."""
    m1, m2, v, out = 0.0, 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        slow = at(b3, t - 1)
        m1 = b1 * m1 + (1 - b1) * g
        m2 = slow * m2 + (1 - slow) * g
        v = b2 * v + (1 - b2) * abs2(g)
        m1_hat = m1 / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        u = m1_hat + at(alpha, t - 1) * m2
        out.append(ratio(u, np.sqrt(v_hat + eps_root) + eps))
    return np.stack(out)


def scale_by_simplified_ademamix(
    grads, params=None, *, b1=0.99, b2=0.95, alpha=0.0, eps=1e-8, eps_root=0.0
):
    """u = (m + a g) / sqrt(v), m = b1 m + g, not corrected: Morwani 2025."""
    m, v, out = 0.0, 0.0, []
    for t, g in enumerate(double(grads), start=1):
        m = b1 * m + g
        v = b2 * v + (1 - b2) * abs2(g)
        u = m + at(alpha, t - 1) * g
        out.append(ratio(u, np.sqrt(v / (1 - b2**t) + eps_root) + eps))
    return np.stack(out)


def scale_by_adopt(
    grads,
    params=None,
    *,
    b1=0.9,
    b2=0.9999,
    eps=1e-6,
    nesterov=False,
    use_clipping=True,
):
    """m = mean of g / max(sqrt(v_previous), eps): ADOPT (Taniguchi 2024, Algorithm 2).

    The first step only sets v = |g|^2. What enters m is held within (t - 1)^(1/4), in
    its size where it is complex.
    """
    m, v, out = 0.0, None, []
    for t, g in enumerate(double(grads), start=1):
        if t == 1:
            m, v = np.zeros_like(g), abs2(g)
            out.append(m)
            continue
        x = ratio(g, np.maximum(np.sqrt(v), eps))
        if use_clipping:
            x = sign(x) * np.minimum(np.abs(x), (t - 1) ** 0.25)
        m = b1 * m + (1 - b1) * x
        v = b2 * v + (1 - b2) * abs2(g)
        out.append(b1 * m + (1 - b1) * x if nesterov else m)
    return np.stack(out)


def scale_by_novograd(
    grads,
    params=None,
    *,
    b1=0.9,
    b2=0.25,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=0.0,
):
    """m = b1 m + g / sqrt(v) + wd p, v one mean of the array's |g|^2: Ginsburg 2019.

    The mean starts at the first |g|^2.
    """
    m, v, out = 0.0, None, []
    for t, (g, p) in enumerate(zip(double(grads), double(params), strict=True)):
        square = norm(g) ** 2
        v = square if v is None else b2 * v + (1 - b2) * square
        root = math.sqrt(v + eps_root) + eps
        m = b1 * m + ratio(g, root) + at(weight_decay, t) * p
        out.append(m)
    return np.stack(out)


# Stages: signs.


def scale_by_rprop(
    grads,
    params=None,
    *,
    learning_rate,
    eta_minus=0.5,
    eta_plus=1.2,
    min_step_size=1e-6,
    max_step_size=50.0,
):
    """u = step sign(g): iRprop- (Igel and Huesken 2000), as PyTorch.

    The step grows where g keeps its sign, is held within its bounds at every step,
    and where g turned it shrinks and this g counts as 0.
    """
    before, step, out = 0.0, learning_rate, []
    for g in double(grads):
        same = np.real(np.conj(before) * g)
        factor = np.where(same > 0, eta_plus, np.where(same < 0, eta_minus, 1.0))
        step = np.minimum(np.maximum(step * factor, min_step_size), max_step_size)
        before = np.where(same < 0, 0.0, g)
        out.append(step * sign(before))
    return np.stack(out)


def cautious(grads, params=None, *, flip_sign=True, rescale=True, updates=None):
    """u where it does not turn against g, times n / (kept + 1): Liang 2024.

    The update descends where u g < 0, or u g > 0 where its sign is not yet flipped.
    Alone, the update is g.
    """
    g = double(grads)
    updates = g if updates is None else double(updates)
    out = []
    for g_t, u in zip(g, updates, strict=True):
        agreement = np.real(np.conj(u) * g_t)
        kept = agreement < 0 if flip_sign else agreement > 0
        factor = kept.size / (np.sum(kept) + 1) if rescale else 1.0
        out.append(np.where(kept, factor * u, 0.0))
    return np.stack(out)


class DenseInverseHessian:
    """The inverse Hessian of BFGS, built by its products from the last few pairs."""

    def __init__(self, memory_size=10, scale_init_precond=True):
        self.size, self.scaled = memory_size, scale_init_precond
        self.last, self.pairs = None, []

    def times(self, g, p):
        """Return H g at p; complex numbers count as pairs of real ones."""
        shape, is_complex = g.shape, np.iscomplexobj(g)
        g, p = (np.stack([x.real, x.imag]).ravel() for x in (double(g), double(p)))
        if self.last is not None:
            s, y = p - self.last[0], g - self.last[1]
            if not s.any():
                self.pairs = []
            elif s @ y > 2.3e-16 * norm(s) * norm(y):
                self.pairs = [*self.pairs, (s, y)][-self.size :]
        self.last = p, g
        h = np.eye(g.size)
        if self.scaled and self.pairs:
            s, y = self.pairs[-1]
            h *= (s @ y) / (y @ y)
        elif self.scaled:
            h *= min(1.0, 1.0 / norm(g)) if g.any() else 1.0
        for s, y in self.pairs:
            v = np.eye(g.size) - np.outer(y, s) / (s @ y)
            h = v.T @ h @ v + np.outer(s, s) / (s @ y)
        real, imag = (h @ g).reshape(2, *shape)
        return real + 1j * imag if is_complex else real


def scale_by_lbfgs(grads, params, **settings):
    """Return H g: equation 7.19 of Nocedal and Wright, 2006."""
    hessian = DenseInverseHessian(**settings)
    return np.stack([hessian.times(g, p) for g, p in zip(grads, params, strict=True)])
