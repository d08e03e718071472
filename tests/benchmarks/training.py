"""Two small networks in plain JAX, to train as people do: what the optimizer's share is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np


def normal(rng, *shape, scale=None):
    scale = np.prod(shape[:-1]) ** -0.5 if scale is None else scale
    return jnp.array(scale * rng.standard_normal(shape, np.float32))


def norm(x, scale, bias):
    x = x - jnp.mean(x, -1, keepdims=True)
    return scale * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) + bias


def cross_entropy(logits, labels):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
    return -jnp.mean(chosen)


def transformer(layers=4, width=128, heads=4, length=64, batch=8, tokens=512):
    """A decoder: params, a batch, and the loss of both."""
    rng = np.random.default_rng(0)
    params = {
        "embedding": normal(rng, tokens, width, scale=0.02),
        "positions": normal(rng, length, width, scale=0.02),
        "norm_scale": jnp.ones(width),
        "norm_bias": jnp.zeros(width),
    }
    for i in range(layers):
        for name, rows, columns in (
            ("qkv", width, 3 * width),
            ("out", width, width),
            ("up", width, 4 * width),
            ("down", 4 * width, width),
        ):
            params[f"{name}{i}"] = normal(rng, rows, columns)
            params[f"{name}_bias{i}"] = jnp.zeros(columns)
        for name in ("first", "second"):
            params[f"{name}_scale{i}"] = jnp.ones(width)
            params[f"{name}_bias{i}"] = jnp.zeros(width)
    text = jnp.array(rng.integers(tokens, size=(batch, length + 1)))
    hidden = jnp.tril(jnp.ones((length, length), bool))

    def loss(params, text):
        p = params
        x = p["embedding"][text[:, :-1]] + p["positions"][None]
        for i in range(layers):
            y = norm(x, p[f"first_scale{i}"], p[f"first_bias{i}"])
            y = y @ p[f"qkv{i}"] + p[f"qkv_bias{i}"]
            q, k, v = jnp.split(y.reshape(batch, length, heads, -1), 3, axis=-1)
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
            weights = jax.nn.softmax(jnp.where(hidden[None, None], scores, -1e9))
            y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
            x = x + y @ p[f"out{i}"] + p[f"out_bias{i}"]
            y = norm(x, p[f"second_scale{i}"], p[f"second_bias{i}"])
            y = jax.nn.gelu(y @ p[f"up{i}"] + p[f"up_bias{i}"])
            x = x + y @ p[f"down{i}"] + p[f"down_bias{i}"]
        x = norm(x, p["norm_scale"], p["norm_bias"])
        return cross_entropy(x @ p["embedding"].T, text[:, 1:])

    return params, text, loss


def convnet(widths=(3, 32, 64, 128), side=16, batch=32, classes=10):
    """Convolutions of stride two, each with a norm, and a dense layer."""
    rng = np.random.default_rng(0)
    params = {
        "dense": normal(rng, widths[-1], classes),
        "dense_bias": jnp.zeros(classes),
    }
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        params[f"kernel{i}"] = normal(rng, 3, 3, inputs, outputs)
        params[f"scale{i}"], params[f"bias{i}"] = jnp.ones(outputs), jnp.zeros(outputs)
    images = normal(rng, batch, side, side, widths[0], scale=1.0)
    labels = jnp.array(rng.integers(classes, size=batch))

    def loss(params, data):
        x, labels = data
        for i in range(len(widths) - 1):
            x = jax.lax.conv_general_dilated(
                x, params[f"kernel{i}"], (2, 2), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
            x = jax.nn.relu(norm(x, params[f"scale{i}"], params[f"bias{i}"]))
        x = jnp.mean(x, (1, 2)) @ params["dense"] + params["dense_bias"]
        return cross_entropy(x, labels)

    return params, (images, labels), loss


MODELS = {"transformer": transformer, "convnet": convnet}
