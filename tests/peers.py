"""How to spell what other frameworks do: their classes, with their own arguments.

The tables of `docs/coming_from.md`, as code that the recorded trajectories hold to
account (`test_replay.py`). Argument names and defaults are the peers'; each function
returns the chain that does the same.
"""

import functools
import itertools
import math
import operator

import jax.numpy as jnp

import optimjax as ox
from optimjax._pytorch import (
    CLASSES as TORCH,
    at_most_inverse_sqrt as _at_most_inverse_sqrt,
    given as _given,
    whole,
)

identity = ox.identity()

# PyTorch. All that the library itself knows, for states that are brought over.


def torch_sparse_adam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, maximize=False):
    return ox.sparsely(whole(tf1_adam(lr, *betas, eps), maximize=maximize))


def torch_lbfgs(lr=1.0, history_size=100):
    """One iteration, without a line search; torch's `step` makes up to `max_iter`.

    Its first direction is no longer than 1 in the 1-norm, where ours is in the 2-norm.
    """
    shorter = ox.clip_by_global_norm(1.0, ord=1)
    return ox.chain(
        ox.scale_by_lbfgs(history_size),
        ox.conditionally_transform(shorter, lambda step: step == 0),
        ox.scale_by_learning_rate(lr),
    )


# Keras 3: any optimizer can clip, and decays weights decoupled.


def _keras(
    lr,
    *stages,
    clipnorm=None,
    global_clipnorm=None,
    clipvalue=None,
    weight_decay=None,
    use_ema=False,
    ema_momentum=0.99,
):
    """Stages that take the gradient to the step; the decay is a step before it."""
    if use_ema:
        tx = _keras(
            lr,
            *stages,
            clipnorm=clipnorm,
            global_clipnorm=global_clipnorm,
            clipvalue=clipvalue,
            weight_decay=weight_decay,
        )
        return ox.average_params(tx, ema_momentum, start=1)
    step = ox.chain(
        _given(clipnorm, ox.clip_by_norm),
        _given(global_clipnorm, ox.clip_by_global_norm),
        _given(clipvalue, ox.clip),
        *stages,
    )
    if not weight_decay:
        return step

    def shrinkage(t):
        return -weight_decay * (lr(t) if callable(lr) else lr)

    # Only a rule that reads the parameters can tell this from `add_decayed_weights` last.
    return ox.in_turn(ox.chain(ox.set_to_zero(), ox.add_decayed_weights(shrinkage)), step)


def keras_sgd(learning_rate=0.01, momentum=0.0, nesterov=False, **rest):
    stage = functools.partial(ox.scale_by_momentum, nesterov=nesterov)
    rate = ox.scale_by_learning_rate(learning_rate)
    return _keras(learning_rate, rate, _given(momentum, stage), **rest)


def keras_rmsprop(
    learning_rate=1e-3, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False, **rest
):
    return _keras(
        learning_rate,
        ox.rmsprop(
            learning_rate, rho, epsilon, centered=centered, momentum=momentum or None
        ),
        **rest,
    )


def keras_adagrad(learning_rate=1e-3, initial_accumulator_value=0.1, epsilon=1e-7, **rest):
    rule = ox.adagrad(learning_rate, initial_accumulator_value, epsilon)
    return _keras(learning_rate, rule, **rest)


def keras_adam(
    learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False, **rest
):
    return _keras(
        learning_rate,
        ox.scale_by_momentum(beta_1, dampening=beta_1),
        ox.scale_by_rms(beta_2, epsilon, amsgrad="raw" if amsgrad else None),
        ox.add_bias_correction(beta_1, rms_decay=beta_2),
        ox.scale_by_learning_rate(learning_rate),
        **rest,
    )


def keras_adamw(weight_decay=4e-3, **rest):
    return keras_adam(weight_decay=weight_decay, **rest)


def keras_adamax(learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-7, **rest):
    return _keras(
        learning_rate,
        ox.scale_by_momentum(beta_1, dampening=beta_1),
        ox.add_bias_correction(beta_1),
        ox.scale_by_infinity_moment(beta_2, epsilon, eps_in_max=False),
        ox.scale_by_learning_rate(learning_rate),
        **rest,
    )


def keras_nadam(learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-7, **rest):
    rule = ox.nadam(learning_rate, beta_1, beta_2, epsilon, momentum_decay=1.0)
    return _keras(learning_rate, rule, **rest)


def keras_adadelta(learning_rate=1e-3, rho=0.95, epsilon=1e-7, **rest):
    return _keras(learning_rate, ox.adadelta(learning_rate, rho, epsilon), **rest)


def keras_adafactor(
    learning_rate=1e-3,
    beta_2_decay=-0.8,
    epsilon_1=1e-30,
    epsilon_2=1e-3,
    clip_threshold=1.0,
    relative_step=True,
    **rest,
):
    del relative_step  # It has no effect there.
    return _keras(
        learning_rate,
        ox.scale_by_factored_rms(
            decay_rate=-beta_2_decay,
            min_dim_size_to_factor=1,
            epsilon=epsilon_1,
            factored_dims="last",
        ),
        ox.clip_by_block_rms(clip_threshold),
        ox.scale_by_learning_rate(_at_most_inverse_sqrt(learning_rate)),
        ox.scale_by_param_block_rms(epsilon_2),
        **rest,
    )


def keras_ftrl(
    learning_rate=1e-3,
    learning_rate_power=-0.5,
    initial_accumulator_value=0.1,
    l1_regularization_strength=0.0,
    l2_regularization_strength=0.0,
    l2_shrinkage_regularization_strength=0.0,
    beta=0.0,
    **rest,
):
    rule = ox.ftrl(
        learning_rate,
        learning_rate_power,
        initial_accumulator_value,
        l1=l1_regularization_strength,
        l2=l2_regularization_strength,
        l2_shrinkage=l2_shrinkage_regularization_strength,
        beta=beta,
    )
    return _keras(learning_rate, rule, **rest)


def keras_lamb(learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-7, **rest):
    rule = ox.lamb(learning_rate, beta_1, beta_2, epsilon)
    return _keras(learning_rate, rule, **rest)


def keras_lion(learning_rate=1e-3, beta_1=0.9, beta_2=0.99, **rest):
    rule = ox.lion(learning_rate, beta_1, beta_2, weight_decay=0.0)
    return _keras(learning_rate, rule, **rest)


def keras_schedule_free_adamw(
    learning_rate=2.5e-3,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-8,
    warmup_steps=0,
    **rest,
):
    rate = learning_rate
    if warmup_steps:  # Its first step has a rate already.
        rate = lambda t: learning_rate * jnp.minimum((t + 1) / warmup_steps, 1)
    step = ox.chain(
        ox.scale_by_rms(beta_2, epsilon, bias_correction=True),
        ox.scale_by_learning_rate(rate),
    )
    rule = ox.schedule_free(step, rate, beta_1, weight_lr_power=0.0)
    return _keras(learning_rate, rule, **rest)


def keras_muon(
    learning_rate=1e-3,
    adam_beta_1=0.9,
    adam_beta_2=0.999,
    adam_weight_decay=4e-3,
    epsilon=1e-7,
    weight_decay=4e-3,
    muon_a=3.4445,
    muon_b=-4.7750,
    muon_c=2.0315,
    adam_lr_ratio=1.0,
    momentum=0.95,
    ns_steps=5,
    nesterov=True,
    rms_rate=0.2,
    axes=None,
):
    rate = learning_rate * adam_lr_ratio
    matrices = _keras(
        learning_rate,
        ox.scale_by_momentum(momentum, nesterov=nesterov),
        ox.orthogonalize((muon_a, muon_b, muon_c), ns_steps, 1e-7, axes=axes),
        ox.scale_by_matrix_shape("match_rms", rms_rate, axes=axes),
        ox.scale_by_learning_rate(learning_rate),
        weight_decay=weight_decay,
    )
    decay = (adam_weight_decay or 0.0) / adam_lr_ratio  # By the rate of the matrices.
    others = keras_adam(rate, adam_beta_1, adam_beta_2, epsilon, weight_decay=decay)
    return ox.on_matrices(matrices, others, axes)


# Keras 2 (TensorFlow 2.0 to 2.10), where it is not Keras 3.


def keras2_rmsprop(learning_rate=1e-3, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False):
    return ox.rmsprop(
        learning_rate,
        rho,
        epsilon,
        eps_in_sqrt=momentum > 0,
        centered=centered,
        momentum=momentum or None,
    )


def keras2_adagrad(learning_rate=1e-3, initial_accumulator_value=0.1, epsilon=1e-7):
    return ox.adagrad(learning_rate, initial_accumulator_value, epsilon, eps_in_sqrt=False)


def keras2_nadam(learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    return ox.nadam(learning_rate, beta_1, beta_2, epsilon, momentum_decay=0.004)


# TensorFlow 1, tf.train.*Optimizer.


def tf1_gradient_descent(learning_rate):
    return ox.sgd(learning_rate)


def tf1_momentum(learning_rate, momentum, use_nesterov=False):
    return ox.sgd(learning_rate, momentum, use_nesterov)


def tf1_adagrad(learning_rate, initial_accumulator_value=0.1):
    return ox.adagrad(learning_rate, initial_accumulator_value, eps=0.0)


def tf1_rmsprop(learning_rate, decay=0.9, momentum=0.0, epsilon=1e-10, centered=False):
    return ox.rmsprop(
        learning_rate,
        decay,
        epsilon,
        initial_scale=1.0,
        centered=centered,
        momentum=momentum or None,
    )


def tf1_adam(learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
    return keras_adam(learning_rate, beta1, beta2, epsilon)


def tf1_adadelta(learning_rate=1e-3, rho=0.95, epsilon=1e-8):
    return ox.adadelta(learning_rate, rho, epsilon)


def tf1_ftrl(
    learning_rate,
    learning_rate_power=-0.5,
    initial_accumulator_value=0.1,
    l1_regularization_strength=0.0,
    l2_regularization_strength=0.0,
    l2_shrinkage_regularization_strength=0.0,
    beta=0.0,
):
    return keras_ftrl(
        learning_rate,
        learning_rate_power,
        initial_accumulator_value,
        l1_regularization_strength,
        l2_regularization_strength,
        l2_shrinkage_regularization_strength,
        beta,
    )


def _regularised(make):
    def tf1(
        learning_rate,
        l1_regularization_strength=0.0,
        l2_regularization_strength=0.0,
        **rest,
    ):
        l1, l2 = l1_regularization_strength, l2_regularization_strength
        return make(learning_rate, l1=l1, l2=l2, **rest)

    return tf1


def tf1_adagrad_da(initial_gradient_squared_accumulator_value=0.1, **rest):
    start = initial_gradient_squared_accumulator_value
    make = _regularised(ox.adagrad_dual_averaging)
    return make(initial_accumulator_value=start, **rest)


tf1_proximal_adagrad = _regularised(ox.proximal_adagrad)
tf1_proximal_gradient_descent = _regularised(ox.proximal_gradient_descent)


# Optax, where a name here means something else.


def optax_adan(learning_rate, b2=0.92, **rest):
    return ox.adan(learning_rate, b2=b2, difference_weight=1 - b2, **rest)


# Each peer's class names.
CLASSES = {
    "torch": {**TORCH, "SparseAdam": torch_sparse_adam},
    "keras_jax": {
        "SGD": keras_sgd,
        "RMSprop": keras_rmsprop,
        "Adagrad": keras_adagrad,
        "Adam": keras_adam,
        "AdamW": keras_adamw,
        "Adamax": keras_adamax,
        "Nadam": keras_nadam,
        "Adadelta": keras_adadelta,
        "Adafactor": keras_adafactor,
        "Ftrl": keras_ftrl,
        "Lamb": keras_lamb,
        "Lion": keras_lion,
        "ScheduleFreeAdamW": keras_schedule_free_adamw,
        "Muon": keras_muon,
    },
    "tfkeras2": {
        "SGD": keras_sgd,
        "RMSprop": keras2_rmsprop,
        "Adagrad": keras2_adagrad,
        "Adam": keras_adam,
        "Adamax": keras_adamax,
        "Nadam": keras2_nadam,
        "Adadelta": keras_adadelta,
        "Ftrl": keras_ftrl,
    },
    "tf1": {
        "GradientDescent": tf1_gradient_descent,
        "Momentum": tf1_momentum,
        "Adagrad": tf1_adagrad,
        "RMSProp": tf1_rmsprop,
        "Adam": tf1_adam,
        "ProximalGradientDescent": tf1_proximal_gradient_descent,
        "Adadelta": tf1_adadelta,
        "AdagradDA": tf1_adagrad_da,
        "Ftrl": tf1_ftrl,
        "ProximalAdagrad": tf1_proximal_adagrad,
    },
    "optax": {
        name: getattr(ox, name.removeprefix("contrib.").removesuffix("_v2"))
        for name in [
            "sgd",
            "adagrad",
            "rmsprop",
            "adam",
            "adamw",
            "nadam",
            "amsgrad",
            "adamax",
            "adabelief",
            "adadelta",
            "adafactor",
            "adamaxw",
            "contrib.ademamix",
            "contrib.adopt",
            "contrib.cocob",
            "contrib.dadapt_adamw",
            "contrib.dog",
            "contrib.madgrad",
            "contrib.prodigy",
            "contrib.muon",
            "contrib.schedule_free_adamw",
            "contrib.schedule_free_sgd",
            "fromage",
            "lamb",
            "lars",
            "lion",
            "nadamw",
            "novograd",
            "optimistic_adam_v2",
            "optimistic_gradient_descent",
            "radam",
            "sign_sgd",
            "signum",
            "sm3",
            "yogi",
        ]
    }
    | {"adan": optax_adan},
}

# Chains of Optax's, as they were recorded.
OPTAX_EXPRESSIONS = {
    "expr.adagrad_eps_outside": lambda: ox.chain(
        ox.scale_by_rss(0.0, 1e-8), ox.scale(-0.01)
    ),
    "expr.clip_global_adam": lambda: ox.chain(ox.clip_by_global_norm(1.0), ox.adam(1e-3)),
    "expr.clip_sgd": lambda: ox.chain(ox.clip(0.5), ox.sgd(0.1)),
    "expr.ema_momentum": lambda: ox.chain(ox.ema(0.9, debias=False), ox.scale(-0.01)),
    "expr.l2_sgd": lambda: ox.chain(
        ox.add_decayed_weights(0.01), ox.sgd(0.01, momentum=0.9)
    ),
    "expr.lr_in_velocity": lambda: ox.chain(
        ox.scale(0.01), ox.scale_by_momentum(0.9), ox.scale(-1.0)
    ),
}

# Classes of the peers that the library does not have yet.
NOT_YET = {
    # `LBFGS` is there, but was recorded on an objective: see test_replay.py.
    "torch": "LBFGS",
    "keras_jax": "",
    "tfkeras2": "",
    "tf1": "",
    # `rprop` is there, but Optax's is late by a step: see test_replay.py.
    "optax": "rprop",
}


def clipped(clip, tx):
    """`tx` behind the clipping that a recording names: `["norm", 1.0]`, `["value", v]`."""
    kind, bound, *order = clip
    if kind == "norm":
        return ox.chain(ox.clip_by_global_norm(bound, ord=(*order, 2)[0], eps=1e-6), tx)
    return ox.chain(ox.clip(bound), tx)


def averaged(average, tx):
    """`tx` with the average of its parameters that a recording names.

    Keras' is an argument of its optimizers, and TF1's has one of the same name as ours.
    """
    if average == "keras":
        return tx
    if average == "swa":
        return ox.average_params(tx, start=1)
    if isinstance(average, dict):
        return tf1_averaged(tx, **average)
    return ox.average_params(tx, float(average.removeprefix("ema")), start=1)


def tf1_averaged(tx, decay, num_updates=False):
    """`ExponentialMovingAverage`, told the number of updates or not."""
    if num_updates:
        return ox.average_params(tx, lambda n: jnp.minimum(decay, (1 + n) / (10 + n)))
    return ox.average_params(tx, decay)


# Schedules. Those of PyTorch scale `base_lr`, the rate of the optimizer, or replace it.


def torch_multi_step_lr(base_lr, milestones, gamma=0.1):
    scales = {m: gamma ** milestones.count(m) for m in milestones}
    return ox.piecewise_constant_schedule(base_lr, scales)


def torch_constant_lr(base_lr, factor=1 / 3, total_iters=5):
    return ox.join_schedules([base_lr * factor, base_lr], [total_iters])


def torch_linear_lr(base_lr, start_factor=1 / 3, end_factor=1.0, total_iters=5):
    return ox.linear_schedule(base_lr * start_factor, base_lr * end_factor, total_iters)


def torch_multiplicative_lr(base_lr, lr_lambda, steps):
    # Of a factor that changes, the products are a table, up to a last step.
    factors = [base_lr, *(lr_lambda(t) for t in range(1, steps))]
    table = jnp.asarray(list(itertools.accumulate(factors, operator.mul)))
    return lambda t: table[t]


def torch_cosine_annealing_lr(base_lr, T_max, eta_min=0.0):
    return ox.cosine_decay_schedule(base_lr, T_max, eta_min / base_lr, periodic=True)


def torch_cosine_annealing_warm_restarts(base_lr, T_0, T_mult=1, eta_min=0.0):
    return ox.cosine_restarts_schedule(base_lr, T_0, T_mult, alpha=eta_min / base_lr)


def torch_cyclic_lr(
    base_lr,
    max_lr,
    step_size_up=2000,
    step_size_down=None,
    mode="triangular",
    gamma=1.0,
    scale_fn=None,
    scale_mode="cycle",
):
    cycle = step_size_up + (step_size_up if step_size_down is None else step_size_down)
    amplitude = {
        "triangular": 1.0,
        "triangular2": ox.exponential_decay(1.0, cycle, 0.5, staircase=True),
        "exp_range": ox.exponential_decay(1.0, 1, gamma),
    }[mode]
    if scale_fn is not None and scale_mode == "cycle":
        amplitude = lambda t: scale_fn(1 + t // cycle)
    elif scale_fn is not None:
        amplitude = scale_fn
    return ox.cyclic_schedule(
        base_lr, max_lr, step_size_up, step_size_down, amplitude=amplitude
    )


def torch_one_cycle_lr(
    max_lr,
    total_steps,
    pct_start=0.3,
    anneal_strategy="cos",
    div_factor=25.0,
    final_div_factor=1e4,
    three_phase=False,
):
    turn, last = pct_start * total_steps - 1, total_steps - 1
    if three_phase:
        scales = {
            turn: div_factor,
            2 * turn: 1 / div_factor,
            last: 1 / final_div_factor,
        }
    else:
        scales = {turn: div_factor, last: 1 / (div_factor * final_div_factor)}
    shape = {"cos": "cosine", "linear": "linear"}[anneal_strategy]
    return ox.piecewise_interpolate_schedule(shape, max_lr / div_factor, scales)


def torch_one_cycle_momentum(
    total_steps,
    pct_start=0.3,
    anneal_strategy="cos",
    base_momentum=0.85,
    max_momentum=0.95,
    three_phase=False,
):
    turn = pct_start * total_steps - 1
    back = 2 * turn if three_phase else total_steps - 1
    low = base_momentum / max_momentum
    shape = {"cos": "cosine", "linear": "linear"}[anneal_strategy]
    return ox.piecewise_interpolate_schedule(
        shape, max_momentum, {turn: low, back: 1 / low}
    )


def torch_swalr(lr, swa_lr, anneal_epochs=10, anneal_strategy="cos"):
    if anneal_epochs == 0:
        return ox.constant_schedule(swa_lr)
    if anneal_strategy == "linear":
        return ox.linear_schedule(lr, swa_lr, anneal_epochs)
    return ox.warmup_cosine_decay_schedule(lr, lr, 0, anneal_epochs, swa_lr)


def torch_chained_scheduler(base_lr, *schedules_of_one):
    # Each is that of a `base_lr` of 1: a factor.
    return lambda t: base_lr * math.prod(f(t) for f in schedules_of_one)


def keras_polynomial_decay(
    initial_learning_rate, decay_steps, end_learning_rate=1e-4, power=1.0, cycle=False
):
    return ox.polynomial_schedule(
        initial_learning_rate, end_learning_rate, power, decay_steps, cycle=cycle
    )


def keras_piecewise_constant_decay(boundaries, values):
    return ox.join_schedules(values, [math.floor(b) + 1 for b in boundaries])


def keras_cosine_decay(
    initial_learning_rate, decay_steps, alpha=0.0, warmup_target=None, warmup_steps=0
):
    if warmup_target is None:
        return ox.cosine_decay_schedule(initial_learning_rate, decay_steps, alpha)
    after = ox.cosine_decay_schedule(warmup_target, decay_steps, alpha)
    return ox.warmup_schedule(after, warmup_steps, initial_learning_rate)


def tf1_natural_exp_decay(learning_rate, decay_steps, decay_rate, staircase=False):
    return ox.exponential_decay(
        learning_rate, decay_steps, math.exp(-decay_rate), staircase=staircase
    )


def tf1_linear_cosine_decay(
    learning_rate, decay_steps, num_periods=0.5, alpha=0.0, beta=0.001
):
    line = ox.linear_schedule(alpha + 1, alpha, decay_steps)
    wave = ox.cosine_decay_schedule(1.0, decay_steps, num_periods=num_periods)
    return lambda t: learning_rate * (line(t) * wave(t) + beta)


# Each recorded case to ours.

SCHEDULES = {
    "torch": {
        "ConstantLR.default": torch_constant_lr,
        "CosineAnnealingLR.T50": lambda b: torch_cosine_annealing_lr(b, 50),
        "CyclicLR.tri": lambda b: torch_cyclic_lr(1e-3, 0.1, 20),
        "CyclicLR.tri2": lambda b: torch_cyclic_lr(1e-3, 0.1, 20, mode="triangular2"),
        "ExponentialLR.g0.95": lambda b: ox.exponential_decay(b, 1, 0.95),
        "LambdaLR.0.95**t": lambda b: lambda t: b * jnp.power(0.95, jnp.float32(t)),
        "LinearLR.default": torch_linear_lr,
        "MultiStepLR.m30_80": lambda b: torch_multi_step_lr(b, [30, 80]),
        "MultiplicativeLR.0.95": lambda b: torch_multiplicative_lr(b, lambda t: 0.95, 200),
        "PolynomialLR.default": lambda b: ox.polynomial_schedule(b, 0.0, 1, 5),
        "PolynomialLR.n100_p2": lambda b: ox.polynomial_schedule(b, 0.0, 2, 100),
        "StepLR.s30": lambda b: ox.exponential_decay(b, 30, 0.1, staircase=True),
        "CosineAnnealingWarmRestarts.T10_m2": (
            lambda b: torch_cosine_annealing_warm_restarts(b, 10, 2)
        ),
        "OneCycleLR.n200": lambda b: torch_one_cycle_lr(b, 200),
        "SWALR.default": lambda b: torch_swalr(b, 0.05),
        "SequentialLR.warm_cos": lambda b: ox.join_schedules(
            [torch_linear_lr(b, 0.1, 1.0, 20), torch_cosine_annealing_lr(b, 180)], [20]
        ),
    },
    "keras_jax": {
        "CosineDecay.d100": lambda b: ox.cosine_decay_schedule(0.1, 100),
        "CosineDecay.warm": lambda b: keras_cosine_decay(
            0.0, 100, warmup_target=0.1, warmup_steps=20
        ),
        "CosineDecayRestarts.d20": lambda b: ox.cosine_restarts_schedule(0.1, 20),
        "ExponentialDecay.d20_r.9": lambda b: ox.exponential_decay(0.1, 20, 0.9),
        "ExponentialDecay.stair": lambda b: ox.exponential_decay(
            0.1, 20, 0.9, staircase=True
        ),
        "InverseTimeDecay.d10_r.5": lambda b: ox.inverse_time_decay(0.1, 10, 0.5),
        "PiecewiseConstantDecay.b50_120": lambda b: keras_piecewise_constant_decay(
            [50, 120], [0.1, 0.01, 0.001]
        ),
        "PolynomialDecay.d100": lambda b: keras_polynomial_decay(0.1, 100),
    },
    "tf1": {
        "cosine_decay.d100": lambda b: ox.cosine_decay_schedule(0.1, 100),
        "cosine_decay_restarts.d20": lambda b: ox.cosine_restarts_schedule(0.1, 20),
        "exponential_decay.d20_r.9": lambda b: ox.exponential_decay(0.1, 20, 0.9),
        "exponential_decay.stair": lambda b: ox.exponential_decay(
            0.1, 20, 0.9, staircase=True
        ),
        "inverse_time_decay.d10_r.5": lambda b: ox.inverse_time_decay(0.1, 10, 0.5),
        "linear_cosine_decay.d100": lambda b: tf1_linear_cosine_decay(0.1, 100),
        "natural_exp_decay.d10_r.5": lambda b: tf1_natural_exp_decay(0.1, 10, 0.5),
        "piecewise_constant.b50_120": lambda b: keras_piecewise_constant_decay(
            [50, 120], [0.1, 0.01, 0.001]
        ),
        "polynomial_decay.d100": lambda b: keras_polynomial_decay(0.1, 100),
    },
}
# The momentum that some schedules of PyTorch change along with the rate.
MOMENTA = {
    "CyclicLR.tri": lambda: torch_cyclic_lr(0.9, 0.8, 20),
    "CyclicLR.tri2": lambda: torch_cyclic_lr(0.9, 0.8, 20, mode="triangular2"),
    "OneCycleLR.n200": lambda: torch_one_cycle_momentum(200),
}
# Schedules that read the loss: transformations, not functions of the step.
SCHEDULES_NOT_YET = {
    "torch": "ReduceLROnPlateau.default",
    "keras_jax": "ReduceLROnPlateau.default",
    "tf1": "",
    "optax": "contrib.reduce_on_plateau.default",
}
