"""PSGD with the Kronecker product multiplied out: Li 2018, Pooladzandi and Li 2024."""

import math

import jax
import numpy as np

from .optimizers import descend
from .shared import abs2, at, double, rms
from .stages import ema


def annealed(t):
    """Return the chance of a renewal at step t, from 0: 1 for 500 steps, then falling."""
    return min(1.0, max(math.exp(-0.001 * (t - 500)), 0.03))


def largest_eigenvalue(h):
    """Return the bound below: |h x| / |x| with x = h h_j, h_j the longest column."""
    x = h @ h[:, np.argmax(np.sum(abs2(h), axis=0))]
    return np.linalg.norm(h @ x) / np.linalg.norm(x)


def scale_by_psgd_kron(
    grads,
    params=None,
    *,
    precond_lr=0.1,
    preconditioner_update_probability=annealed,
    precond_init_scale=1.0,
    max_size_triangular=8192,
    max_rms=1.1,
    key=0,
    grads_of_q=None,
):
    """u = Q* Q g, no longer than an RMS of 1.1; Q = Ql x Qr moves down its criterion."""
    grads = double(grads)
    learn_from = grads if grads_of_q is None else double(grads_of_q)
    key = jax.random.key(key)
    rows, columns = grads.shape[1:]
    sides = [
        precond_init_scale**0.5 * np.eye(n, dtype=grads.dtype) for n in (rows, columns)
    ]
    out = []
    for t, (u, g) in enumerate(zip(grads, learn_from, strict=True)):
        key, choice, probes = jax.random.split(key, 3)
        kind = np.complex64 if np.iscomplexobj(g) else np.float32
        v = jax.random.normal(jax.random.split(probes, 1)[0], g.shape, kind)
        v = np.asarray(v).astype(g.dtype)
        chance = np.float32(at(preconditioner_update_probability, t))
        if np.asarray(jax.random.uniform(choice, (), np.float32)) < chance and g.any():
            q = np.kron(*sides)
            a = (q @ g.ravel()).reshape(g.shape)
            b = np.linalg.solve(q.conj().T, v.ravel()).reshape(g.shape)
            for side, (x, y) in enumerate([(a, b), (a.T, b.T)]):
                ours, wanted = x @ x.conj().T, y @ y.conj().T
                if 1 < len(x) <= max_size_triangular:
                    step = np.triu(ours - wanted) / largest_eigenvalue(ours + wanted)
                else:
                    total = np.diag(ours + wanted).real
                    step = np.diag(np.diag(ours - wanted).real) / total.max()
                sides[side] = sides[side] - precond_lr * step @ sides[side]
        q = np.kron(*sides)
        white = (q.conj().T @ (q @ u.ravel())).reshape(u.shape)
        out.append(white * min(1.0, max_rms / rms(white)) if white.any() else white)
    return np.stack(out)


def psgd_kron(grads, params, *, learning_rate, b1=0.9, weight_decay=0.0, **kwargs):
    """p - lr (u + w p), u as above of the mean of gradients less its bias."""
    u = scale_by_psgd_kron(ema(grads, decay=b1), **kwargs)
    return descend(u, params, learning_rate, weight_decay)
