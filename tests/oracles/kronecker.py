"""Rules with a Kronecker factor for each side of a matrix."""

import numpy as np

from .optimizers import adam_directions, descend
from .shared import double, norm
from .stages import ema


def herm(x):
    """Return the conjugate transpose."""
    return np.conj(x.T)


def _power(rows, size, exponent, eps):
    """Return (B B* / size)^-exponent from the singular values of B, without the square."""
    u, values, _ = np.linalg.svd(rows)
    squares = np.zeros(len(u))
    squares[: len(values)] = values**2 / size
    return u * np.maximum(squares, eps * squares[0]) ** -exponent @ herm(u)


def scale_by_shampoo(
    grads,
    params=None,
    *,
    decay=0.999,
    eps=1e-6,
    exponent=0.25,
    every=10,
    directions=None,
):
    """Shampoo (Gupta 2018) with means for sums, and for H = L x R / tr."""
    grads = double(grads)
    directions = grads if directions is None else directions
    out = []
    for t, d in enumerate(directions):
        if t % every == 0:
            ages = np.arange(t, -1, -1)
            weights = decay**ages
            if decay < 1:
                weights = weights / weights.sum()
            scaled = np.sqrt(weights)[:, None, None] * grads[: t + 1]
            size = norm(scaled) ** 2
            of_left = _power(np.concatenate(scaled, axis=1), size, exponent, eps)
            adjoints = np.concatenate([herm(g) for g in scaled], axis=1)
            of_right = _power(adjoints, size, exponent, eps)
        out.append(of_left @ d @ of_right / np.sqrt(size))
    return np.stack(out)


def shampoo(
    grads,
    params,
    *,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    shampoo_beta=0.999,
    matrix_eps=1e-6,
    precondition_frequency=10,
    **kwargs,
):
    """Shampoo's direction for Adam's first moment, and the length of Adam's step."""
    directions = scale_by_shampoo(
        grads,
        decay=shampoo_beta,
        eps=matrix_eps,
        every=precondition_frequency,
        directions=ema(grads, decay=b1),
        **kwargs,
    )
    of_adam = adam_directions(grads, b1, b2, eps)
    pairs = zip(directions, of_adam, strict=True)
    grafted = [d / norm(d) * norm(u) for d, u in pairs]
    return descend(grafted, params, learning_rate, weight_decay)


def soap_directions(grads, *, b1, b2, eps, decay, every, method="qr", max_dim=10_000):
    """Algorithm 3 of Vyas 2024, with the eigenvectors sorted as in its code.

    The first moment is kept in the axes of the parameters; the second is sorted with the
    eigenvectors. The first gradient makes the axes.
    """
    grads = double(grads)
    rows, columns = grads.shape[1:]
    factors = [np.zeros((n, n)) for n in (rows, columns)]
    bases = [np.eye(rows), np.eye(columns)]
    m, v = 0 * grads[0], np.zeros((rows, columns))
    out = []
    for t, g in enumerate(grads):
        if t == 0:
            out.append(0 * g)
        else:
            left, right = bases
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * np.abs(herm(left) @ g @ right) ** 2
            first = herm(left) @ m @ right / (1 - b1**t)
            turned = first / (np.sqrt(v / (1 - b2**t)) + eps)
            out.append(left @ turned @ herm(right))
        squares = g @ herm(g), herm(g) @ g
        factors = [
            decay * f + (1 - decay) * s for f, s in zip(factors, squares, strict=True)
        ]
        if t % every:
            continue
        for side in (0, 1):
            if len(factors[side]) > max_dim:
                continue
            # The second moments as they would be sorted, whichever way the axes come.
            sizes = np.diag(herm(bases[side]) @ factors[side] @ bases[side]).real
            order = np.argsort(-sizes, kind="stable")
            v = np.take(v, order, axis=side)
            if t == 0 or method == "eigh":
                bases[side] = np.linalg.eigh(factors[side])[1][:, ::-1]
            else:
                bases[side] = np.linalg.qr(factors[side] @ bases[side][:, order])[0]
    return np.stack(out)


def soap(
    grads,
    params,
    *,
    learning_rate,
    b1=0.95,
    b2=0.95,
    shampoo_beta=0.95,
    eps=1e-8,
    weight_decay=0.01,
    precondition_frequency=10,
    max_precond_dim=10_000,
):
    """SOAP, with decoupled weight decay."""
    directions = soap_directions(
        grads,
        b1=b1,
        b2=b2,
        eps=eps,
        decay=shampoo_beta,
        every=precondition_frequency,
        max_dim=max_precond_dim,
    )
    return descend(directions, params, learning_rate, weight_decay)


def in_eigenbasis(grads, params=None, *, inner=None, decay=0.95, every=10, **kwargs):
    """The direction of SOAP with the decays of Adam."""
    del inner
    return soap_directions(
        grads, b1=0.9, b2=0.999, eps=1e-8, decay=decay, every=every, **kwargs
    )


def graft(grads, params=None):
    """The direction of the gradient with the length of its sign."""
    grads = double(grads)
    signs = [np.sqrt(np.count_nonzero(g)) for g in grads]
    return np.stack([g / norm(g) * s for g, s in zip(grads, signs, strict=True)])
