"""Training steps as a careful user writes them without a library of optimizers.

Each is a pair: `init(params) -> state`, and `step(params, state, grads) -> (params,
state)`, plain `jnp` over the leaves of a dict.
"""

import jax
import jax.numpy as jnp

RATE = 1e-3


def zeros(params):
    return {name: jnp.zeros_like(p) for name, p in params.items()}


def sgd():
    def step(params, state, grads):
        return {k: p - RATE * grads[k] for k, p in params.items()}, state

    return lambda params: (), step


def momentum(decay=0.9):
    def step(params, trace, grads):
        trace = {k: decay * m + grads[k] for k, m in trace.items()}
        return {k: p - RATE * trace[k] for k, p in params.items()}, trace

    return zeros, step


def rmsprop(decay=0.9, eps=1e-8):
    def step(params, nu, grads):
        nu = {k: decay * v + (1 - decay) * grads[k] ** 2 for k, v in nu.items()}
        new = {k: p - RATE * grads[k] / jnp.sqrt(nu[k] + eps) for k, p in params.items()}
        return new, nu

    return zeros, step


def adam(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip=None):
    def init(params):
        return jnp.zeros((), jnp.int32), zeros(params), zeros(params)

    def step(params, state, grads):
        count, mu, nu = state
        count = count + 1
        t = count.astype(jnp.float32)
        unbias1, unbias2 = 1 / (1 - b1**t), 1 / (1 - b2**t)
        if clip is not None:
            norm = jnp.sqrt(sum(jnp.sum(g**2) for g in grads.values()))
            scale = jnp.minimum(1.0, clip / norm)
            grads = {k: scale * g for k, g in grads.items()}
        mu = {k: b1 * m + (1 - b1) * grads[k] for k, m in mu.items()}
        nu = {k: b2 * v + (1 - b2) * grads[k] ** 2 for k, v in nu.items()}
        new = {}
        for k, p in params.items():
            u = unbias1 * mu[k] / (jnp.sqrt(unbias2 * nu[k]) + eps)
            new[k] = p - RATE * (u + weight_decay * p if weight_decay else u)
        return new, (count, mu, nu)

    return init, step


def clip_adamw():
    return adam(weight_decay=1e-4, clip=1.0)


def lion(b1=0.9, b2=0.99, weight_decay=1e-3):
    def step(params, mu, grads):
        new = {}
        for k, p in params.items():
            u = jnp.sign(b1 * mu[k] + (1 - b1) * grads[k])
            new[k] = p - RATE * (u + weight_decay * p)
        return new, {k: b2 * m + (1 - b2) * grads[k] for k, m in mu.items()}

    return zeros, step


# For matrices only: a loop over them, one after another.


def muon(decay=0.95):
    a, b, c = 3.4445, -4.7750, 2.0315

    def orthogonalized(x):
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (jnp.sqrt(jnp.sum(x**2)) + 1e-8)
        for _ in range(5):
            square = x @ x.T
            x = a * x + (b * square + c * square @ square) @ x
        return x.T if tall else x

    def step(params, trace, grads):
        trace = {k: decay * m + grads[k] for k, m in trace.items()}
        new = {}
        for k, p in params.items():
            scale = max(1.0, p.shape[1] / p.shape[0]) ** 0.5
            new[k] = p - RATE * scale * orthogonalized(decay * trace[k] + grads[k])
        return new, trace

    return zeros, step


def soap(b1=0.95, b2=0.95, decay=0.95, eps=1e-8, weight_decay=0.01, every=10):
    """As its authors write it: the axes by one step of iteration, by QR."""

    def init(params):
        def pair(make):
            return {k: tuple(make(n) for n in p.shape) for k, p in params.items()}

        factors = pair(lambda n: jnp.zeros((n, n)))
        return (jnp.zeros((), jnp.int32), zeros(params), zeros(params), factors,
                pair(jnp.eye))  # fmt: skip

    def step(params, state, grads):
        count, mu, nu, factors, bases = state
        count = count + 1
        t = count.astype(jnp.float32)
        unbias1, unbias2 = 1 / (1 - b1**t), 1 / (1 - b2**t)
        new, mu, nu, factors, bases = {}, dict(mu), dict(nu), dict(factors), dict(bases)
        for k, p in params.items():
            g, (left, right) = grads[k], bases[k]
            mu[k] = b1 * mu[k] + (1 - b1) * g
            nu[k] = b2 * nu[k] + (1 - b2) * (left.T @ g @ right) ** 2
            u = unbias1 * (left.T @ mu[k] @ right) / (jnp.sqrt(unbias2 * nu[k]) + eps)
            new[k] = p - RATE * (left @ u @ right.T + weight_decay * p)
            factors[k] = tuple(
                decay * x + (1 - decay) * y
                for x, y in zip(factors[k], (g @ g.T, g.T @ g), strict=True)
            )
            bases[k] = jax.lax.cond(
                count % every == 1,
                lambda f, q: tuple(
                    jnp.linalg.qr(x @ y)[0] for x, y in zip(f, q, strict=True)
                ),
                lambda f, q: q,
                factors[k],
                bases[k],
            )
        return new, (count, mu, nu, factors, bases)

    return init, step


LOOPS = {
    "sgd": sgd,
    "momentum": momentum,
    "rmsprop": rmsprop,
    "adam": adam,
    "clip_adamw": clip_adamw,
    "lion": lion,
}
LOOPS_OF_MATRICES = {"muon": muon, "soap": soap}
