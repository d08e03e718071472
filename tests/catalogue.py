"""Every public transformation and optimizer, as data.

`test_laws.py` runs each entry through every law of the library and `test_oracles.py` holds
it against its oracle; `test_public_api.py` fails while a public factory has no entry. So a
new transformation costs a rule, an oracle, an entry here, and tests for what is its own.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import oracles

import optimjax as ox


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to make one transformation.

    Attributes:
        make: The factory, and `args` and `kwargs` what it is called with.
        oracle: The same rule in NumPy and float64, called as
            `oracle(grads, params, **kwargs)`.
        whole: Whether the oracle is of an optimizer, and gives trajectories of parameters,
            rather than of a stage, and gives updates.
        supports_complex: Whether it takes complex leaves.
    """

    make: Callable[..., ox.GradientTransformation]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    args: tuple[Any, ...] = ()
    oracle: Callable[..., Any] | None = None
    whole: bool = False
    supports_complex: bool = True

    def __str__(self):
        return repr(self())

    def __call__(self):
        return self.make(*self.args, **self.kwargs)

    def expected(self, grads, params):
        assert self.oracle is not None
        kwargs = {k: fading_exactly if v is fading else v for k, v in self.kwargs.items()}
        return self.oracle(grads, params, **kwargs)


def stage(make, oracle=None, supports_complex=True, **kwargs):
    oracle = oracle or getattr(oracles, make.__name__)
    return Case(make, kwargs, oracle=oracle, supports_complex=supports_complex)


def optimizer(make, **kwargs):
    oracle = getattr(oracles, make.__name__)
    return Case(make, kwargs, oracle=oracle, whole=True)


fading = ox.inverse_time_decay(0.1, 1, 0.5)


def fading_exactly(step):
    return 0.1 / (1.0 + 0.5 * step)


def doubled(updates, params):
    del params
    return jax.tree.map(lambda u: u * jnp.asarray(2, u.dtype), updates)


def twice(grads, params=None, **kwargs):
    del params, kwargs
    return 2 * grads


def unchanged(grads, params=None):
    del params
    return grads


STAGES = [
    Case(ox.identity, oracle=unchanged),
    Case(ox.chain, oracle=unchanged),
    Case(ox.stateless, args=(doubled,), oracle=twice),
    stage(ox.scale, step_size=-0.3),
    stage(ox.scale_by_learning_rate, learning_rate=0.1),
    stage(ox.scale_by_learning_rate, learning_rate=fading),
    stage(ox.scale_by_learning_rate, learning_rate=0.1, flip_sign=False),
    stage(ox.scale_by_schedule, step_size_fn=fading),
    stage(ox.scale_by_sign),
    stage(ox.scale_by_momentum),
    stage(ox.scale_by_momentum, decay=0.0),
    stage(ox.scale_by_momentum, decay=0.99, dampening=0.99),
    stage(ox.scale_by_momentum, decay=0.8, dampening=0.3, nesterov=True),
    stage(ox.scale_by_momentum, decay=0.8, dampening=0.5, undamped_start=True),
    stage(ox.ema, decay=0.9),
    stage(ox.ema, decay=0.999, debias=False),
    stage(ox.scale_by_rss),
    stage(ox.scale_by_rss, initial_accumulator_value=0.0, eps=1e-3, eps_in_sqrt=False),
    stage(ox.scale_by_rss, initial_accumulator_value=0.0, eps=0.0),
    stage(ox.scale_by_rms),
    stage(ox.scale_by_rms, decay=0.999, bias_correction=True),
    stage(ox.scale_by_rms, decay=0.5, eps=0.1, eps_in_sqrt=True, initial_scale=1.0),
    stage(ox.scale_by_rms, eps=0.0),
    stage(ox.scale_by_rms, decay=0.9, eps=1e-2, eps_root=1e-3, centered=True),
    stage(ox.scale_by_rms, centered=True, bias_correction=True, eps=1e-2, eps_in_sqrt=True),
    stage(ox.scale_by_rms, decay=0.6, amsgrad="raw", bias_correction=True),
    stage(ox.scale_by_rms, decay=0.6, amsgrad="corrected", bias_correction=True),
    stage(ox.scale_by_infinity_moment),
    stage(ox.scale_by_infinity_moment, decay=0.5, eps=0.1, eps_in_max=False),
    stage(ox.scale_by_infinity_moment, eps=0.0),
    stage(ox.add_bias_correction, decay=0.9),
    stage(ox.add_bias_correction, decay=0.0),
    stage(ox.add_bias_correction, decay=0.9, rms_decay=0.999),
    stage(ox.add_bias_correction, decay=0.9, nesterov=True),
    stage(ox.add_nadam_correction),
    stage(ox.add_nadam_correction, decay=0.8, momentum_decay=1.0),
    stage(ox.add_decayed_weights, weight_decay=0.1),
    stage(ox.add_decayed_weights, weight_decay=fading),
    stage(ox.add_l1_decay, strength=0.1),
    stage(ox.soft_threshold, threshold=0.5),
    stage(ox.soft_threshold, threshold=fading, shrinkage=0.2),
    Case(ox.add_noise, {"eta": 0.1, "gamma": 0.55, "key": 0}),  # See test_adding.py.
    stage(ox.clip, max_delta=0.5, supports_complex=False),
    stage(ox.clip_by_global_norm, max_norm=1.0),
    stage(ox.clip_by_global_norm, max_norm=0.0),
    stage(ox.clip_by_norm, oracle=oracles.clip_by_global_norm, max_norm=1.0),
    stage(ox.zero_nans),
    stage(ox.centralize),
    stage(ox.centralize, output_axis=-1),
]

OPTIMIZERS = [
    optimizer(ox.sgd, learning_rate=0.1),
    optimizer(ox.sgd, learning_rate=fading, momentum=0.9),
    optimizer(ox.sgd, learning_rate=0.1, momentum=0.9, nesterov=True),
    optimizer(ox.momentum, learning_rate=0.1),
    optimizer(ox.momentum, learning_rate=fading, decay=0.8, dampening=0.8),
    optimizer(ox.adagrad, learning_rate=0.1),
    optimizer(ox.adagrad, learning_rate=0.1, eps=1e-3, eps_in_sqrt=False),
    optimizer(ox.rmsprop, learning_rate=0.01),
    optimizer(ox.rmsprop, learning_rate=fading, eps_in_sqrt=False, bias_correction=True),
    optimizer(ox.rmsprop, learning_rate=fading, momentum=0.9, nesterov=True),
    optimizer(ox.rmsprop, learning_rate=0.01, centered=True, initial_scale=1.0, eps=0.1),
    optimizer(ox.adam, learning_rate=0.01),
    optimizer(ox.adam, learning_rate=fading, b1=0.8, b2=0.9, eps=1e-3, eps_root=1e-4),
    optimizer(ox.adam, learning_rate=0.01, nesterov=True),
    optimizer(ox.adamw, learning_rate=0.01, weight_decay=0.1),
    optimizer(ox.nadam, learning_rate=0.01),
    optimizer(ox.nadam, learning_rate=0.01, momentum_decay=0.004),
    optimizer(ox.amsgrad, learning_rate=0.01, b2=0.7),
    optimizer(
        ox.amsgrad,
        learning_rate=0.01,
        b2=0.7,
        bias_correction_mu=False,
        bias_correction_nu=False,
    ),
    optimizer(ox.adamax, learning_rate=0.01, b2=0.9),
]

CASES = STAGES + OPTIMIZERS
