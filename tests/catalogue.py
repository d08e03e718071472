"""Every public transformation and optimizer, as data.

`test_laws.py` runs each entry through every law of the library and `test_oracles.py` holds
it against its oracle; `test_public_api.py` fails while a public factory has no entry. So a
new transformation costs a rule, an oracle, an entry here, and tests for what is its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

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
        extra: What `update` needs besides.
        chained: Whether it stands in a chain, which tells it the gradient.
        matrix: Whether it refuses params without a matrix among them.
        bare: Whether it refuses all but matrices, so that others have to pass by it.
        amplifies: By how much it multiplies roundings, as what takes small singular values
            to large ones does.
        searching: Whether it evaluates a loss, and needs one that it can lower.
        alike: Whether its oracle takes gradients of one size, since squares of matrices
            lose what is small beside the rest.
    """

    make: Callable[..., ox.GradientTransformation]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    args: tuple[Any, ...] = ()
    oracle: Callable[..., Any] | None = None
    whole: bool = False
    supports_complex: bool = True
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    chained: bool = False
    matrix: bool = False
    bare: bool = False
    amplifies: float = 1.0
    searching: bool = False
    alike: bool = False

    def __str__(self):
        return repr(self.make(*self.args, **self.kwargs) if self.searching else self())

    def __call__(self):
        return self.around(self.make(*self.args, **self.kwargs))

    def around(self, made):
        """What was made, with what it needs around it."""
        if self.bare:
            made = ox.on_matrices(made, ox.identity())
        if self.searching:
            return downhill(made)
        return ox.chain(made) if self.chained else made

    def expected(self, grads, params, **extra):
        assert self.oracle is not None
        kwargs = {k: fading_exactly if v is fading else v for k, v in self.kwargs.items()}
        return self.oracle(grads, params, **kwargs, **extra)


def downhill(search):
    """`search`, told that its direction leads down, and the first step far enough."""

    def update(updates, state, params=None, **extra):
        down = jax.tree.map(lambda u: -u, updates)
        far = {"value": 2.0, "grad": down, "value_fn": lambda params: jnp.float32(-1e6)}
        return search.update(updates, state, params, **{**extra, **far})

    return ox.GradientTransformation(search.init, update)


# What the pair needs besides its own arguments, for those that need it.
NEEDS = {
    make: {"value": 2.0}
    for make in (
        ox.scale_by_polyak,
        ox.polyak_sgd,
        ox.reduce_on_plateau,
        ox.momo,
        ox.momo_adam,
    )
} | {
    make: {"hessian_diagonal": 2.0}
    for make in (
        ox.scale_by_curvature,
        ox.scale_by_curvature_rms,
        ox.sophia,
        ox.adahessian,
    )
}
NEEDS[ox.scale_by_staleness] = {"staleness": 2.0}
REAL = {
    ox.compress,
    ox.keep_params_nonnegative,
    ox.clip,
    ox.scale_by_adopt,
    ox.adopt,
    ox.scale_by_rprop,
    ox.rprop,
    ox.scale_by_sm3,
    ox.sm3,
    ox.sophia,
}
# What is random, and has no oracle.
NOISY = {ox.add_noise, ox.add_langevin_noise, ox.noisy_sgd, ox.sgld}
ESTIMATING = {ox.hutchinson_estimator_diag_hessian, ox.gauss_newton_bartlett_estimator}
BARE = {
    ox.orthogonalize,
    ox.normalize_units,
    ox.scale_by_matrix_shape,
    ox.scale_by_unit_rms,
}
# Five steps of the standard quintic multiply the smallest singular values by 3.4445^5.
AMPLIFIES = dict.fromkeys((ox.orthogonalize, ox.muon, ox.normuon, ox.scion), 3.4445**5)


def entry(make, oracle, whole, kwargs):
    oracle = oracle or getattr(oracles, make.__name__)
    needs, chained = NEEDS.get(make, {}), make is ox.cautious
    case = Case(make, kwargs, (), oracle, whole, make not in REAL, needs, chained)
    bare, by = make in BARE, AMPLIFIES.get(make, 1.0)
    return dataclasses.replace(case, matrix=bare or by > 1, bare=bare, amplifies=by)


def stage(make, oracle=None, **kwargs):
    return entry(make, oracle, False, kwargs)


def optimizer(make, oracle=None, **kwargs):
    return entry(make, oracle, True, kwargs)


def on_a_matrix(make, whole=False, **kwargs):
    return dataclasses.replace(entry(make, None, whole, kwargs), matrix=True)


def by_sides(make, *args, **kwargs):
    """A rule with a factor for each side of a matrix, and so exposed to its condition.

    The fourth root of Shampoo multiplies what is beside the first gradient by 1e-6^-1/4.
    """
    whole, bare = make in (ox.shampoo, ox.soap), make is ox.scale_by_shampoo
    case = Case(make, kwargs, args, getattr(oracles, make.__name__), whole, matrix=True)
    return dataclasses.replace(case, bare=bare, amplifies=1e-6**-0.25, alike=True)


fading = ox.inverse_time_decay(0.1, 1, 0.5)
ONE_DEVICE = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))


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


def zeros(grads, params=None):
    del params
    return 0 * grads


def cycling(step):
    return step % 4


def descent(grads, params):
    return oracles.sgd(grads, params, learning_rate=0.1)


def sam_of_twice(grads, params, *, inner, **kwargs):
    del inner
    return oracles.sam(grads, params, step_size=2.0, **kwargs)


def with_gradient(grads, params=None, *, factor):
    """Alone, the gradient is the update."""
    del params
    return np.stack([(1 + oracles.at(factor, t)) * g for t, g in enumerate(grads)])


def shrunk_step(grads, params, *, learning_rate):
    """What Fromage does last: p + u, divided by sqrt(1 + eta^2)."""
    # In more than double precision: the two terms nearly cancel.
    grads, params = grads * np.longdouble(1), params * np.longdouble(1)
    rates = np.array([oracles.at(learning_rate, t) for t in range(len(grads))])
    rates = rates.astype(np.longdouble)
    length = np.sqrt(1 + rates**2).reshape(-1, *[1] * (grads.ndim - 1))
    return (params + grads) / length - params


def adam_directions(grads, params, **kwargs):
    return oracles.adam_directions(grads, **kwargs)


def total(tree):
    """The sum of all numbers in a tree, of the real parts where they are complex."""
    sums = map(jnp.sum, jax.tree.leaves(ox.tree.real(tree)))
    return sum(map(ox.numerics.as_scalar, sums), ox.numerics.as_scalar(0.0))


def loss_of(params):
    """A loss of any tree."""
    return total(ox.tree.mul(params, ox.tree.conj(params))) ** 2


def logits_of(params):
    """The logits of any tree: two examples, three classes."""
    return total(params) * jnp.arange(6.0).reshape(2, 3) / 10.0


def compressed(compressor, oracle, **settings):
    """With error feedback; in the power iteration, roundings grow from step to step."""
    expected = functools.partial(oracle, **settings)
    by_products = "rank" in settings
    return Case(
        ox.compress,
        {},
        (compressor,),
        expected,
        supports_complex=False,
        alike=by_products,
        amplifies=300.0 if by_products else 1.0,
    )


def into_unit_ball(grads, params=None):
    """The stage that takes one step into the ball of the 2-norm."""
    return oracles.project(grads, params, lambda x: x / max(1.0, np.linalg.norm(x)))


STAGES = [
    Case(ox.identity, oracle=unchanged),
    Case(ox.chain, oracle=unchanged),
    Case(ox.in_turn, oracle=zeros),
    Case(ox.sparsely, args=(ox.scale(2.0),), oracle=twice),
    Case(ox.stateless, args=(doubled,), oracle=twice),
    Case(ox.average_params, args=(ox.scale(2.0),), oracle=twice),
    Case(
        ox.average_params,
        {"start": 2, "every": 2, "debias": True},
        (ox.scale(2.0), 0.9),
        lambda grads, params, **kwargs: twice(grads),
    ),
    # In one call it needs a function: see combinators/test_perturbing.py.
    stage(ox.sam, sam_of_twice, inner=ox.scale(2.0), two_step=True),
    stage(ox.sam, sam_of_twice, inner=ox.scale(2.0), rho=0.7, adaptive=True, two_step=True),
    Case(ox.master_weights, args=(ox.scale(2.0),), oracle=twice),
    Case(ox.pack_small_leaves, args=(ox.sgd(0.1),), oracle=descent, whole=True),
    Case(
        ox.spread_matrices,
        args=(ox.on_matrices(ox.sgd(0.1), ox.sgd(0.1)), ONE_DEVICE, "data"),
        oracle=descent,
        whole=True,
        matrix=True,
    ),
    Case(ox.zero1, args=(ox.sgd(0.1), ONE_DEVICE), oracle=descent, whole=True),
    Case(ox.kahan_summation, args=(ox.sgd(0.1),), oracle=descent, whole=True),
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
    stage(ox.scale_by_momentum, decay=fading, dampening=fading, nesterov=True),
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
    stage(ox.add_bias_correction, decay=fading),
    stage(ox.add_nadam_correction),
    stage(ox.add_nadam_correction, decay=0.8, momentum_decay=1.0),
    stage(ox.add_decayed_weights, weight_decay=0.1),
    stage(ox.add_decayed_weights, weight_decay=fading),
    stage(ox.add_l1_decay, strength=0.1),
    stage(ox.soft_threshold, threshold=0.5),
    stage(ox.soft_threshold, threshold=fading, shrinkage=0.2),
    Case(ox.project, args=(ox.projections.projection_l2_ball,), oracle=into_unit_ball),
    stage(ox.keep_params_nonnegative),
    stage(ox.set_to_zero, oracle=zeros),
    stage(ox.add_gradient, oracle=with_gradient, factor=0.5),
    stage(ox.add_gradient, oracle=with_gradient, factor=fading),
    stage(ox.scale_by_optimistic_gradient),
    stage(ox.scale_by_optimistic_gradient, alpha=0.5, beta=0.3),
    stage(ox.scale_by_adadelta),
    stage(ox.scale_by_adadelta, rho=0.5, eps=1e-2),
    stage(ox.scale_by_rectified_rms, decay=0.9),
    stage(ox.scale_by_rectified_rms, decay=0.999, eps=1e-2, eps_root=1e-3, threshold=4.0),
    stage(ox.scale_by_rectified_rms, decay=0.99, eps=0.1, eps_hat=True),
    stage(ox.scale_by_rectified_rms, decay=0.6, eps=0.0),
    stage(ox.scale_by_belief, eps=1e-3),
    stage(ox.scale_by_belief, b1=0.5, b2=0.9, eps=0.0, eps_root=1e-2, nesterov=True),
    stage(ox.scale_by_acprop, eps=1e-3),
    stage(ox.scale_by_acprop, b1=0.5, b2=0.9, eps=0.1, eps_root=1e-2),
    stage(ox.scale_by_yogi),
    stage(ox.scale_by_yogi, b1=0.8, b2=0.9, eps_root=0.1, initial_accumulator_value=0.1),
    stage(ox.scale_by_adan),
    stage(ox.scale_by_adan, eps=1e-2, eps_root=1e-2, difference_weight=0.08),
    stage(ox.scale_by_ademamix),
    stage(ox.scale_by_ademamix, b3=0.9, alpha=fading, eps=1e-2, eps_root=1e-2),
    stage(ox.scale_by_adopt),
    stage(ox.scale_by_adopt, b2=0.9, eps=1e-2, nesterov=True, use_clipping=False),
    stage(ox.scale_by_lion),
    stage(ox.scale_by_lion, b1=0.95, b2=0.5, mode="smooth", smooth_beta=2.0),
    stage(ox.scale_by_lion, mode="refined"),
    stage(ox.scale_by_rprop, learning_rate=0.01),
    stage(ox.scale_by_rprop, learning_rate=2.0, eta_minus=0.3, max_step_size=1.0),
    stage(ox.cautious, flip_sign=False),
    stage(ox.cautious, flip_sign=True, rescale=False),
    stage(ox.scale_by_novograd, b2=0.9, weight_decay=0.1),
    stage(ox.scale_by_novograd, eps=0.1, eps_root=1e-2),
    stage(ox.scale_by_trust_ratio),
    stage(ox.scale_by_trust_ratio, min_norm=1.5, trust_coefficient=0.5, eps=0.1),
    stage(ox.scale_by_param_block_norm),
    stage(ox.scale_by_param_block_rms, min_scale=0.9),
    stage(ox.shrink_step, oracle=shrunk_step, learning_rate=fading),
    stage(ox.scale_by_factored_rms, min_dim_size_to_factor=2),
    stage(ox.scale_by_factored_rms, decay_rate=0.5, epsilon=1e-3, step_offset=0.0),
    stage(
        ox.scale_by_factored_rms,
        min_dim_size_to_factor=1,
        epsilon=1e-3,
        factored_dims="last",
        clamp=True,
    ),
    stage(ox.scale_by_sm3),
    stage(ox.scale_by_sm3, b1=0.5, b2=0.9, eps=1e-2),
    stage(ox.scale_by_madgrad, learning_rate=fading),
    stage(ox.scale_by_polyak),
    stage(ox.scale_by_polyak, f_min=3.0, eps=0.1, variant="sps+"),
    # Where the first step will do; for others, see transforms/test_searching.py.
    Case(
        ox.scale_by_backtracking_linesearch,
        {"store_grad": True},
        (3,),
        lambda grads, params, **kwargs: grads,
        searching=True,
    ),
    Case(ox.scale_by_zoom_linesearch, oracle=unchanged, searching=True),
    stage(ox.scale_by_lbfgs, memory_size=3),
    stage(ox.reduce_on_plateau, patience=2, factor=0.5, cooldown=1, min_scale=0.2),
    stage(ox.scale_by_curvature, gamma=1.0, decay=0.5, hessian_diagonal_fn=None),
    stage(ox.scale_by_curvature_rms, hessian_diagonal_fn=None),
    stage(ox.scale_by_curvature_rms, hessian_diagonal_fn=None, eps=0.0, hessian_power=0.5),
    # Random: see test_hessian.py.
    Case(ox.hutchinson_estimator_diag_hessian, extra={"obj_fn": loss_of}),
    Case(ox.gauss_newton_bartlett_estimator, extra={"logits_fn": logits_of}),
    stage(ox.add_cautious_weight_decay, weight_decay=0.1),
    stage(ox.add_cautious_weight_decay, weight_decay=fading),
    # Random: see test_adding.py.
    Case(ox.add_noise, {"eta": 0.1, "gamma": 0.55, "key": 0}),
    Case(ox.add_langevin_noise, {"learning_rate": 0.1, "key": 0}),
    stage(ox.clip, max_delta=0.5),
    stage(ox.clip_by_global_norm, max_norm=1.0),
    stage(ox.clip_by_global_norm, max_norm=0.0),
    stage(ox.clip_by_global_norm, max_norm=0.5, ord=3, eps=0.1),
    stage(ox.clip_by_global_norm, max_norm=0.5, ord=float("inf")),
    stage(ox.clip_by_norm, oracle=oracles.clip_by_global_norm, max_norm=1.0),
    stage(ox.zero_nans),
    stage(ox.centralize),
    stage(ox.centralize, output_axis=-1),
    stage(ox.clip_by_average_norm, max_norm=0.2),
    stage(ox.clip_by_block_rms, threshold=0.5),
    stage(ox.adaptive_grad_clip, clipping=0.1),
    stage(ox.adaptive_grad_clip, clipping=0.5, eps=0.5),
    stage(ox.normalize_by_update_norm),
    stage(ox.normalize_by_update_norm, scale_factor=2.0, eps=0.1),
    stage(ox.scale_by_dog),
    stage(ox.scale_by_dog, init_step=("learning_rate", 0.1), eps=0.0, layerwise=True),
    stage(ox.scale_by_dowg),
    stage(ox.scale_by_cocob),
    stage(ox.orthogonalize),
    stage(ox.scale_by_matrix_shape, rule="match_rms", factor=0.2),
    stage(ox.normalize_units),
    stage(ox.normalize_units, units="inputs", eps=0.1),
    stage(ox.scale_by_unit_rms, b2=0.9, eps=1e-2),
    on_a_matrix(ox.scale_by_psgd_kron),
    on_a_matrix(
        ox.scale_by_psgd_kron,
        precond_lr=0.3,
        preconditioner_update_probability=0.5,
        precond_init_scale=0.1,
        max_size_triangular=3,
    ),
    stage(ox.delay, steps=3),
    stage(ox.delay, steps=3, at=cycling),
    stage(ox.compensate_delay, strength=0.1, steps=4, decay=0.9),
    stage(ox.compensate_delay, strength=0.1, steps=3, at=cycling),
    stage(ox.scale_by_staleness),
    compressed(ox.compressors.int8(5), oracles.compress_int8, block_size=5),
    compressed(ox.compressors.sign(), oracles.compress_sign),
    compressed(ox.compressors.top_k(0.3), oracles.compress_top_k, k=4),
    compressed(ox.compressors.low_rank(1), oracles.compress_low_rank, rank=1),
    by_sides(ox.scale_by_shampoo, decay=0.9, every=3),
    by_sides(ox.scale_by_shampoo, decay=1.0, eps=1e-3, exponent=0.5),
]


def of_momentum(**kwargs):
    inner = ox.sgd(0.1, momentum=0.9)
    return Case(ox.lookahead, kwargs, (inner,), oracles.lookahead_sgd, whole=True)


def of_descent(rate, **kwargs):
    return Case(
        ox.schedule_free,
        {"learning_rate": rate, **kwargs},
        (ox.sgd(rate),),
        oracles.schedule_free_sgd,
        whole=True,
    )


def late(steps):
    return Case(
        ox.delay_updates,
        {"steps": steps},
        (ox.sgd(0.1, momentum=0.9),),
        functools.partial(oracles.delay_updates_sgd, learning_rate=0.1, momentum=0.9),
        whole=True,
    )


# DiLoCo around momentum.
LOCAL = ox.sgd(0.1, momentum=0.9), ox.sgd(0.7, momentum=0.9, nesterov=True)

OPTIMIZERS = [
    Case(ox.local_updates, {"every": 3}, LOCAL, oracles.local_updates_sgd, whole=True),
    late(3),
    late(0),
    of_momentum(sync_period=3, slow_step_size=0.5),
    of_momentum(sync_period=2, slow_step_size=0.8, on_sync="reset"),
    of_momentum(sync_period=5, slow_step_size=0.3, on_sync="pull_back"),
    of_descent(0.1),
    of_descent(fading, b1=0.6, weight_lr_power=0.5),
    of_descent(0.1, b1=0.0),
    optimizer(ox.schedule_free_sgd, learning_rate=0.1),
    optimizer(ox.schedule_free_sgd, learning_rate=0.1, warmup_steps=10, weight_decay=0.1),
    optimizer(ox.schedule_free_adamw),
    optimizer(ox.schedule_free_adamw, warmup_steps=10, b1=0.95, weight_decay=0.1, eps=1e-2),
    # Its steps along random gradients shrink below rounding: see test_minimizing.py.
    Case(ox.lbfgs, {"memory_size": 3, "linesearch": None}),
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
    stage(ox.scale_by_adam, adam_directions, b2=0.95),
    optimizer(ox.nadamw, learning_rate=0.01, weight_decay=0.1),
    optimizer(ox.nadamw, learning_rate=fading, momentum_decay=0.004),
    optimizer(ox.adamaxw, learning_rate=0.01, weight_decay=0.1),
    optimizer(ox.radam, learning_rate=0.01),
    optimizer(ox.radam, learning_rate=fading, b2=0.9, eps=1e-3, nesterov=True),
    optimizer(ox.laprop, learning_rate=fading, eps=1e-8, weight_decay=0.1),
    optimizer(ox.lamb, learning_rate=0.01, weight_decay=0.1),
    optimizer(ox.lars, learning_rate=0.1, weight_decay=0.01),
    optimizer(ox.lars, learning_rate=fading, trust_coefficient=0.1, eps=0.1, nesterov=True),
    optimizer(ox.fromage, learning_rate=fading),
    optimizer(ox.novograd, learning_rate=fading, weight_decay=0.1),
    optimizer(ox.adabelief, learning_rate=0.01, eps=1e-3),
    optimizer(ox.adabelief, learning_rate=fading, eps=1e-3, nesterov=True),
    optimizer(ox.acprop, learning_rate=0.01, eps=1e-3, weight_decay=0.1),
    optimizer(ox.yogi, learning_rate=0.01),
    optimizer(ox.adan, learning_rate=0.01, weight_decay=0.1),
    optimizer(ox.adan, learning_rate=fading, difference_weight=0.08),
    optimizer(ox.ademamix, learning_rate=0.01, weight_decay=0.1),
    optimizer(ox.simplified_ademamix, learning_rate=0.01, alpha=2.0, weight_decay=0.1),
    optimizer(ox.adopt, learning_rate=0.01),
    optimizer(ox.adadelta),
    optimizer(ox.adadelta, learning_rate=fading, rho=0.95, eps=1e-3, weight_decay=0.1),
    optimizer(ox.adafactor),
    optimizer(ox.adafactor, learning_rate=0.01, min_dim_size_to_factor=2, momentum=0.9),
    optimizer(
        ox.adafactor,
        learning_rate=fading,
        multiply_by_parameter_scale=False,
        clipping_threshold=None,
        weight_decay_rate=0.01,
        eps=1e-3,
    ),
    optimizer(ox.sm3, learning_rate=0.1),
    optimizer(ox.madgrad, learning_rate=0.1, weight_decay=0.1),
    optimizer(ox.lion, learning_rate=0.01),
    optimizer(ox.rprop, learning_rate=0.01),
    optimizer(ox.sign_sgd, learning_rate=0.1),
    optimizer(ox.signum, learning_rate=fading, beta=0.8),
    optimizer(ox.optimistic_gradient_descent, learning_rate=0.1, beta=0.5),
    optimizer(ox.optimistic_adam, learning_rate=0.01),
    optimizer(ox.optimistic_adam, learning_rate=fading, alpha=0.8, nesterov=False),
    optimizer(ox.polyak_sgd, max_learning_rate=0.1),
    optimizer(ox.polyak_sgd, scaling=fading, f_min=0.5, eps=0.1, variant="sps+"),
    optimizer(ox.momo, learning_rate=0.1, weight_decay=0.1),
    optimizer(ox.momo, learning_rate=fading, lower_bound=-9.0, adapt_lower_bound=True),
    optimizer(ox.momo_adam),
    optimizer(ox.momo_adam, lower_bound=3.0, adapt_lower_bound=True),
    optimizer(ox.sophia, learning_rate=0.01, hessian_diagonal_fn=None),
    optimizer(ox.adahessian, learning_rate=0.01, hessian_diagonal_fn=None),
    Case(
        ox.mechanize,
        {"s_init": 1e-3},
        (ox.sgd(0.1),),
        lambda *args, **kwargs: oracles.mechanize_sgd(*args, learning_rate=0.1, **kwargs),
        whole=True,
    ),
    optimizer(ox.asgd, lambd=0.1),
    optimizer(ox.ftrl, learning_rate=0.1),
    optimizer(
        ox.ftrl,
        learning_rate=fading,
        learning_rate_power=-0.3,
        l1=0.1,
        l2=0.2,
        l2_shrinkage=0.1,
        beta=0.3,
    ),
    optimizer(ox.adagrad_dual_averaging, learning_rate=0.1),
    optimizer(ox.adagrad_dual_averaging, learning_rate=fading, l1=0.01, l2=0.1),
    optimizer(ox.proximal_gradient_descent, learning_rate=fading, l1=0.5, l2=0.1),
    optimizer(ox.proximal_adagrad, learning_rate=0.1),
    optimizer(ox.proximal_adagrad, learning_rate=fading, l1=0.1, l2=0.1),
    optimizer(ox.dog, init_step=("distance", 0.1), eps=10.0, weight_decay=0.1),
    optimizer(ox.dowg, learning_rate=fading, init_estim_sq_dist=0.01, eps=0.0),
    optimizer(ox.cocob, learning_rate=fading, alpha=10.0, weight_decay=0.1),
    optimizer(ox.dadapt_adamw, estim_lr0=1e-3, weight_decay=0.1),
    optimizer(
        ox.dadapt_adamw, learning_rate=fading, bias_correction=False, variant="paper"
    ),
    optimizer(ox.prodigy, estim_lr0=1e-3, weight_decay=0.1),
    optimizer(
        ox.prodigy,
        learning_rate=fading,
        beta3=0.9,
        eps=0.1,
        estim_lr_coef=2.0,
        safeguard_warmup=True,
        bias_correction=False,
        variant="paper",
    ),
    optimizer(ox.muon, learning_rate=fading, weight_decay=0.1),
    optimizer(ox.normuon, learning_rate=0.01, b2=0.9),
    optimizer(ox.scion, learning_rate=0.1, radius=2.0),
    by_sides(ox.shampoo, learning_rate=fading, precondition_frequency=3, weight_decay=0.1),
    by_sides(ox.soap, learning_rate=fading, precondition_frequency=3),
    Case(ox.noisy_sgd, {"learning_rate": 0.1}),
    Case(ox.sgld, {"learning_rate": 0.1, "key": 0}),
    on_a_matrix(
        ox.psgd_kron,
        whole=True,
        learning_rate=0.01,
        weight_decay=0.1,
        max_size_triangular=0,
    ),
    on_a_matrix(ox.galore, True, learning_rate=0.01, rank=1, weight_decay=0.1),
]


def adam_here(grads, params, **settings):
    return oracles.adam(grads, params, learning_rate=0.01, **settings)


def windowed(grads, params):
    """Adam on the means of three gradients each, and nothing between."""
    whole = len(grads) // 3
    means = grads[: 3 * whole].reshape(whole, 3, *grads.shape[1:]).mean(axis=1)
    path = np.concatenate([params[None], adam_here(means, params)])
    return path[(np.arange(len(grads)) + 1) // 3]


def every_second(grads, params, *, otherwise):
    """Twice the gradients, at every second step."""
    even = np.arange(len(grads)).reshape(-1, *[1] * (grads.ndim - 1)) % 2 == 0
    return np.where(even, 2 * grads, otherwise * grads)


def unscaled(grads, params):
    return adam_here(grads / 4.0, params)


def around_adam(make, *args, oracle=adam_here, **kwargs):
    """A combinator that leaves Adam what it is, unless `oracle` says more."""

    def expected(grads, params, **kwargs):
        return oracle(grads, params)

    return Case(make, kwargs, (ox.adam(0.01), *args), expected, True)


def around_double(make, *args, **oracle_kwargs):
    expected = functools.partial(every_second, **oracle_kwargs)
    return Case(make, {}, (ox.scale(2.0), *args), expected)


# Numbers that float32 holds exactly, as the state of the combinator does.
EXACT = {"learning_rate": 2.0**-7, "b1": 0.875, "b2": 0.96875, "eps": 2.0**-20}

COMBINATORS = [
    around_adam(ox.masked, "**"),
    Case(ox.freeze, args=("**",), oracle=zeros),
    Case(ox.partition, args=({"**": ox.adam(0.01)},), oracle=adam_here, whole=True),
    Case(
        ox.on_matrices, args=(ox.adam(0.01),) * 2, oracle=adam_here, whole=True, matrix=True
    ),
    Case(
        ox.in_low_rank,
        {"rank": 1, "scale": 0.5},
        (ox.sgd(1e-3, momentum=0.9),),
        functools.partial(
            oracles.galore, learning_rate=1e-3, inner=oracles.scale_by_momentum
        ),
        whole=True,
        matrix=True,
    ),
    by_sides(ox.in_eigenbasis, ox.scale_by_adam(), every=3),
    by_sides(
        ox.in_eigenbasis, ox.scale_by_adam(), decay=0.5, every=3, method="eigh", max_dim=3
    ),
    Case(ox.graft, {}, (ox.identity(), ox.scale_by_sign()), oracles.graft),
    around_adam(ox.accumulate, 3, oracle=windowed),
    around_double(ox.conditionally_transform, ox.every(2), otherwise=1.0),
    around_double(ox.conditionally_mask, ox.every(2), otherwise=0.0),
    around_adam(ox.apply_if_finite, 3),
    around_adam(ox.skip_spikes, ox.beyond_z_score(1e9), warmup=2),
    around_adam(ox.dynamic_loss_scaling, 4.0, oracle=unscaled),
    around_adam(ox.measure),
    around_adam(ox.predict_params, 3.0, decay=0.5),
    Case(ox.inject_hyperparams(ox.adam), EXACT, (), oracles.adam, True),
    Case(ox.inject_hyperparams(ox.sgd), {"learning_rate": fading}, (), oracles.sgd, True),
]

CASES = STAGES + OPTIMIZERS + COMBINATORS


def heavy(make):
    return make in (
        ox.scale_by_psgd_kron,
        ox.psgd_kron,
        ox.lbfgs,
        ox.in_low_rank,
        ox.galore,
    )


def is_stage(case):
    return case.make.__module__.startswith("optimjax.transforms")


def quick_for(quick, cases):
    """Parameters of a test that takes long for all cases that are not `quick`."""
    return [
        pytest.param(c, marks=[] if c in quick else [pytest.mark.slow], id=str(c))
        for c in cases
    ]


def timed(case):
    """A parameter of a test that takes long for some."""
    return pytest.param(
        case, marks=[pytest.mark.slow] if case in HEAVY else [], id=str(case)
    )


# One case of each factory: what is tested of it whatever its settings.
ONE_EACH = list({case.make: case for case in reversed(CASES)}.values())[::-1]
# And of those that are no aliases: an alias is an expression of these, and has no
# arithmetic of its own (see `test_public_api.py`).
PARTS = [case for case in ONE_EACH if case.make.__module__ != "optimjax.optimizers"]
# Decompositions and loops take long to compile.
HEAVY = [case for case in CASES if case.searching or case.alike or heavy(case.make)]
