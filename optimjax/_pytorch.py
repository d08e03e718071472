"""PyTorch's optimizers, by their own names and arguments, as chains of ours.

The table of `docs/coming_from.md` as code: argument names and defaults are PyTorch's, and
each function returns the chain that does the same. The recorded runs of the real ones hold
it to account (`tests/test_replay.py`).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from .base import GradientTransformation, identity, stage_name
from .combinators.chaining import chain
from .optimizers import adadelta, adamax, nadamw, rprop
from .schedules import constant_schedule, inverse_sqrt_schedule, inverse_time_decay
from .transforms.adding import add_decayed_weights
from .transforms.averaging import asgd
from .transforms.factored import scale_by_factored_rms
from .transforms.layerwise import clip_by_block_rms, scale_by_param_block_rms
from .transforms.momentum import add_bias_correction, scale_by_momentum
from .transforms.orthogonal import orthogonalize, scale_by_matrix_shape
from .transforms.rms import scale_by_rectified_rms, scale_by_rms, scale_by_rss
from .transforms.scaling import scale, scale_by_learning_rate


def given(value: Any, stage: Callable[[Any], GradientTransformation]) -> Any:
    """`stage(value)`, or nothing where the peer's argument switches it off."""
    return stage(value) if value else identity()


def _chained(*stages: GradientTransformation) -> GradientTransformation:
    """The `chain`, without what does nothing: it reads better."""
    return chain(*(stage for stage in stages if stage_name(stage) != "identity"))


# Everything sees the L2 penalty, except where the decay is decoupled.


def _coupled(
    *stages: GradientTransformation,
    lr: Any,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> GradientTransformation:
    return _chained(
        scale(-1.0) if maximize else identity(),
        given(weight_decay, add_decayed_weights),
        *stages,
        scale_by_learning_rate(lr),
    )


def whole(
    tx: GradientTransformation, weight_decay: float = 0.0, maximize: bool = False
) -> GradientTransformation:
    """An optimizer that brings its learning rate along."""
    return _chained(
        scale(-1.0) if maximize else identity(),
        given(weight_decay, add_decayed_weights),
        tx,
    )


def _decayed(
    make: Callable[[float], GradientTransformation],
    decoupled: bool,
    weight_decay: float,
    **rest: Any,
) -> GradientTransformation:
    """`make(wd)`, with the decay decoupled inside of it, or coupled before it."""
    inner, outer = (weight_decay, 0.0) if decoupled else (0.0, weight_decay)
    return whole(make(inner), outer, **rest)


def _sgd(
    lr: Any = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    **rest: Any,
) -> GradientTransformation:
    stage = functools.partial(
        scale_by_momentum, dampening=dampening, nesterov=nesterov, undamped_start=True
    )
    return _coupled(given(momentum, stage), lr=lr, **rest)


def _adagrad(
    lr: Any = 1e-2,
    lr_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    **rest: Any,
) -> GradientTransformation:
    return _coupled(
        scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=False),
        lr=inverse_time_decay(lr, 1, lr_decay) if lr_decay else lr,
        **rest,
    )


def _rmsprop(
    lr: Any = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    **rest: Any,
) -> GradientTransformation:
    return _coupled(
        scale_by_rms(alpha, eps, centered=centered),
        given(momentum, scale_by_momentum),
        lr=lr,
        **rest,
    )


def _adam_stages(betas: Any, eps: float, amsgrad: bool) -> Any:
    b1, b2 = betas
    return (
        scale_by_momentum(b1, dampening=b1),
        add_bias_correction(b1),
        scale_by_rms(b2, eps, bias_correction=True, amsgrad="raw" if amsgrad else None),
    )


def _adam(
    lr: Any = 1e-3,
    betas: Any = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
    **rest: Any,
) -> GradientTransformation:
    return _coupled(*_adam_stages(betas, eps, amsgrad), lr=lr, **rest)


def _adamw(
    lr: Any = 1e-3,
    betas: Any = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    **rest: Any,
) -> GradientTransformation:
    decay = add_decayed_weights(weight_decay)
    return _coupled(*_adam_stages(betas, eps, amsgrad), decay, lr=lr, **rest)


def _nadam(
    lr: Any = 2e-3,
    betas: Any = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    **rest: Any,
) -> GradientTransformation:
    b1, b2 = betas

    def make(decay: float) -> GradientTransformation:
        return nadamw(lr, b1, b2, eps, weight_decay=decay, momentum_decay=momentum_decay)

    return _decayed(make, decoupled_weight_decay, weight_decay, **rest)


def _radam(
    lr: Any = 1e-3,
    betas: Any = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    **rest: Any,
) -> GradientTransformation:
    b1, b2 = betas

    def make(decay: float) -> GradientTransformation:
        return _chained(
            scale_by_momentum(b1, dampening=b1),
            add_bias_correction(b1),
            scale_by_rectified_rms(b2, eps, eps_hat=True),
            given(decay, add_decayed_weights),
            scale_by_learning_rate(lr),
        )

    return _decayed(make, decoupled_weight_decay, weight_decay, **rest)


def _adamax(
    lr: Any = 2e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, **rest: Any
) -> GradientTransformation:
    b1, b2 = betas
    return whole(adamax(lr, b1, b2, eps), **rest)


def _adadelta(
    lr: Any = 1.0, rho: float = 0.9, eps: float = 1e-6, **rest: Any
) -> GradientTransformation:
    return whole(adadelta(lr, rho, eps), **rest)


def _asgd(
    lr: Any = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    **rest: Any,
) -> GradientTransformation:
    return whole(asgd(lr, lambd, alpha, t0), **rest)


def _rprop(
    lr: Any = 1e-2, etas: Any = (0.5, 1.2), step_sizes: Any = (1e-6, 50), **rest: Any
) -> GradientTransformation:
    return whole(rprop(lr, *etas, *step_sizes), **rest)


def at_most_inverse_sqrt(lr: Any) -> Any:
    """min(lr, 1 / sqrt(t)) at the step t = 1, 2, ..."""
    if callable(lr) or lr == 0:  # No plain number to make the schedule of.
        rate: Any = lr if callable(lr) else constant_schedule(lr)
        one = inverse_sqrt_schedule(1.0, 1.0, offset=1)
        return lambda t: jnp.minimum(rate(t), one(t))
    return inverse_sqrt_schedule(lr, 1 / lr**2, offset=1)


def _adafactor(
    lr: Any = 1e-2,
    beta2_decay: float = -0.8,
    eps: Any = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> GradientTransformation:
    eps1, eps2 = eps

    def shrinkage(decay: float) -> GradientTransformation:
        if callable(lr):
            return add_decayed_weights(lambda t: -lr(t) * decay)
        return add_decayed_weights(-lr * decay)

    return _chained(
        scale(-1.0) if maximize else identity(),
        scale_by_factored_rms(
            decay_rate=-beta2_decay,
            min_dim_size_to_factor=1,
            epsilon=float(jnp.finfo(jnp.float32).eps) if eps1 is None else eps1,
            factored_dims="last",
            clamp=True,
        ),
        clip_by_block_rms(d),
        scale_by_learning_rate(at_most_inverse_sqrt(lr)),
        scale_by_param_block_rms(eps2),
        given(weight_decay, shrinkage),
    )


def _muon(
    lr: Any = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: Any = (3.4445, -4.7750, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    axes: str = "oi",  # Not PyTorch's: "io" for weights that are turned on their way.
) -> GradientTransformation:
    rule = (adjust_lr_fn or "original").removesuffix("_adamw")
    factor = 0.2 if rule == "match_rms" else 1.0
    return _chained(
        scale_by_momentum(momentum, dampening=momentum, nesterov=nesterov),
        orthogonalize(ns_coefficients, ns_steps, eps, dtype="bfloat16", axes=axes),
        scale_by_matrix_shape(rule, factor, axes=axes),
        given(weight_decay, add_decayed_weights),
        scale_by_learning_rate(lr),
    )


CLASSES: dict[str, Callable[..., GradientTransformation]] = {
    "SGD": _sgd,
    "Adagrad": _adagrad,
    "RMSprop": _rmsprop,
    "Adam": _adam,
    "AdamW": _adamw,
    "NAdam": _nadam,
    "Adamax": _adamax,
    "ASGD": _asgd,
    "Adadelta": _adadelta,
    "Adafactor": _adafactor,
    "RAdam": _radam,
    "Rprop": _rprop,
    "Muon": _muon,
}
