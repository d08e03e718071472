"""Slow links and late gradients, of one worker; in float64, from the papers."""

import jax
import numpy as np

from .shared import abs2, double


def delay(grads, params=None, *, steps, at=None):
    """The gradient of `steps` steps ago, or of as many as the schedule says."""
    grads, out = double(grads), []
    for t in range(len(grads)):
        source = t - (steps if at is None else at(t))
        out.append(grads[source] if source >= 0 else 0 * grads[0])
    return np.stack(out)


def compensate_delay(grads, params, *, strength, steps, at=None, decay=None, eps=1e-7):
    """g + lambda g g (w - w_then): Zheng 2017, equation 10 and, with a decay, DC-ASGD-a."""
    grads, params, square, out = double(grads), double(params), 0.0, []
    for t, g in enumerate(grads):
        then = params[max(t - (steps if at is None else at(t)), 0)]
        rate = strength
        if decay is not None:
            square = decay * square + (1 - decay) * abs2(g)
            rate = strength / np.sqrt(square + eps)
        out.append(g + rate * abs2(g) * (params[t] - then))
    return np.stack(out)


def scale_by_staleness(grads, params=None, *, staleness):
    """Divide by tau, where that is above one: Zhang 2015."""
    del params
    return np.stack([g / max(tau, 1.0) for g, tau in zip(grads, staleness, strict=True)])


def with_feedback(grads, send):
    """Seide 2014: what `send(t, total)` leaves out is added to the next gradient."""
    missing, out = np.zeros(grads.shape[1:]), []
    for t, g in enumerate(double(grads)):
        total = missing + g
        sent = send(t, total)
        missing = total - sent
        out.append(sent)
    return np.stack(out)


def compress_sign(grads, params=None):
    """Mean of moduli times the signs; that of zero is positive: Karimireddy 2019."""
    del params
    return with_feedback(
        grads, lambda t, x: np.abs(x).sum() / x.size * np.copysign(1.0, x + 0.0)
    )


def compress_top_k(grads, params=None, *, k):
    """The k largest: Stich 2018, definition 2.1."""
    del params

    def send(t, x):
        chosen = sorted(np.ndindex(x.shape), key=lambda i: -abs(x[i]))[:k]
        return np.array([x[i] if i in chosen else 0.0 for i in np.ndindex(x.shape)])

    return with_feedback(grads, lambda t, x: send(t, x).reshape(x.shape))


def compress_int8(grads, params=None, *, block_size):
    """Multiples of a 127th of the largest of each block."""
    del params

    def send(t, x):
        flat = x.ravel().copy()
        for start in range(0, flat.size, block_size):
            block = flat[start : start + block_size]
            unit = abs(block).max() / 127
            if unit > 0:
                block[:] = np.rint(block / unit) * unit
        return flat.reshape(x.shape)

    return with_feedback(grads, send)


def compress_low_rank(grads, params=None, *, rank):
    """The projection on the columns of M Q: Vogels 2019, algorithm 1, by least squares."""
    del params
    columns = grads.shape[-1]
    q = double(jax.random.normal(jax.random.key(0), (columns, rank), np.float32))

    def send(t, m):
        nonlocal q
        p = m @ q
        factor = np.linalg.lstsq(p, m, rcond=None)[0]
        q = factor.T @ np.linalg.inv(np.linalg.cholesky(factor @ factor.T)).T
        return p @ factor

    return with_feedback(grads, send)


def _heavy_ball(grads, rate, momentum):
    m, steps = 0.0, []
    for g in grads:
        m = momentum * m + g
        steps.append(-rate * m)
    return steps


def delay_updates_sgd(grads, params, *, steps, learning_rate, momentum):
    """Stich 2020, section 3: x <- x + v of `steps` steps ago."""
    updates = _heavy_ball(double(grads), learning_rate, momentum)
    p, out = double(params), []
    for t in range(len(updates)):
        if t >= steps:
            p = p + updates[t - steps]
        out.append(p)
    return np.stack(out)


def local_updates_sgd(grads, params, *, every, lr=0.1, momentum=0.9, outer_lr=0.7):
    """Douillard 2023, algorithm 1, for one worker: SGD inside, Nesterov's outside."""
    steps = _heavy_ball(double(grads), lr, momentum)
    shared = p = double(params)
    m, out = 0.0, []
    for t, u in enumerate(steps, start=1):
        p = p + u
        if t % every == 0:
            outer = shared - p
            m = 0.9 * m + outer
            shared = p = shared - outer_lr * (outer + 0.9 * m)
        out.append(p)
    return np.stack(out)
