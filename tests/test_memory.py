"""What a compiled step reads, writes and holds. Nothing here is timed.

The program is that of `compiled_step`: update and apply, with params and state donated, on
three leaves of about 10,000 numbers. Asked of it is that

1. all params and all of the state are written over in place;
2. temporaries are some copies of the largest leaf, not of all leaves, unless it is said
   why more are needed;
3. it reads and writes no more bytes than the table says, so that a pass over memory that
   is added is found;
4. nothing of a leaf's size is copied, unless it is said why it has to be.

The figures are those of XLA's compiler for CPUs, which makes a loop for every result: what
two loops need, both read. Gradient descent is one loop, which reads gradient and parameter
and writes the parameter, 12 bytes; Adam is three, of 12, 12 and 16 bytes.
"""

import dataclasses
import math
import os
import re

import catalogue
import jax
import jax.numpy as jnp
import pytest

import optimjax as ox

SHAPES = {"w": (96, 112), "b": (10_000,), "k": (4, 50, 52)}
PARAMS = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in SHAPES.items()}
SIZES = [math.prod(shape) for shape in SHAPES.values()]
# By default XLA orders the loops so that many can run at once, and what one leaf needs for
# a moment is held for all of them. In this order a temporary that stays is one that must.
OPTIONS: dict[str, str | bool] = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
}
# And as users compile, not as the other tests do (see `conftest.py`): `zero_nans` differs.
if "fusion_emitters" in os.environ.get("XLA_FLAGS", ""):
    OPTIONS["xla_cpu_use_fusion_emitters"] = True

# Why a step holds more than a few numbers. The first five let XLA copy leaves.
OLD = (
    "Its step is found from what the state was, or the state from what the params were, "
    "which another loop writes over: no data says which loop is first, so XLA copies."
)
KEPT = "The gradient itself is kept, in a buffer that it was not given in: a copy."
BRANCH = "A branch has results of its own. The bytes of both branches are counted."
RANDOM = "The counter and the bits of random numbers are arrays."
MATRIX = "Matrices are multiplied or decomposed, and what comes of it is an array."
COPYING = {OLD, KEPT, BRANCH, RANDOM, MATRIX}
NORM = "It is reduced to some numbers of a leaf, before it is used."
SHARED = "A root or a quotient that two loops need is held, not computed twice."
LEAVES = "It is reduced to one number of all leaves, before the first may be written."


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a step of one transformation may cost.

    Attributes:
        moved: The bytes that are read and written for each parameter of float32.
        held: The temporaries, in copies of the largest leaf.
        why: Why any are held.
        unread: The bytes of the state that cannot be written in place, since no step reads
            them: the program has no such argument.
    """

    moved: float
    held: float = 0
    why: str = ""
    unread: int = 0


COSTS = {
    ox.identity: Cost(12),
    ox.chain: Cost(12),
    ox.in_turn: Cost(0),
    ox.sparsely: Cost(12),
    ox.stateless: Cost(12),
    ox.average_params: Cost(24),
    ox.sam: Cost(52, 5.8, BRANCH),
    ox.master_weights: Cost(12),
    ox.pack_small_leaves: Cost(12),
    ox.spread_matrices: Cost(12),
    ox.kahan_summation: Cost(64, 2, OLD),
    ox.local_updates: Cost(88, 4, BRANCH),
    ox.delay: Cost(20),
    ox.delay_updates: Cost(32),
    ox.compensate_delay: Cost(40),
    ox.predict_params: Cost(76, 2.1, SHARED, unread=4),
    ox.scale_by_staleness: Cost(12),
    ox.compress: Cost(49, 1.5, NORM),
    ox.scale: Cost(12),
    ox.scale_by_learning_rate: Cost(12),
    ox.scale_by_schedule: Cost(12),
    ox.scale_by_sign: Cost(12),
    ox.scale_by_momentum: Cost(24),
    ox.ema: Cost(24),
    ox.scale_by_rss: Cost(28),
    ox.scale_by_rms: Cost(28),
    ox.scale_by_infinity_moment: Cost(28),
    ox.add_bias_correction: Cost(12),
    ox.add_nadam_correction: Cost(12),
    ox.add_decayed_weights: Cost(12),
    ox.add_l1_decay: Cost(12),
    ox.soft_threshold: Cost(12),
    ox.project: Cost(44, 5.8, LEAVES),
    ox.keep_params_nonnegative: Cost(12),
    ox.set_to_zero: Cost(0),
    ox.add_gradient: Cost(12),
    ox.scale_by_optimistic_gradient: Cost(32, 1, KEPT),
    ox.scale_by_adadelta: Cost(68, 2, SHARED),
    ox.scale_by_rectified_rms: Cost(28),
    ox.scale_by_belief: Cost(56, 2.9, OLD),
    ox.scale_by_acprop: Cost(60, 3.9, OLD),
    ox.scale_by_yogi: Cost(40),
    ox.scale_by_adan: Cost(80, 1, KEPT),
    ox.scale_by_ademamix: Cost(56),
    ox.scale_by_adopt: Cost(48, 2.9, OLD),
    ox.scale_by_lion: Cost(36, 1, OLD),
    ox.scale_by_rprop: Cost(68, 5.8, OLD),
    ox.cautious: Cost(24, 1, NORM),
    ox.scale_by_novograd: Cost(32),
    ox.scale_by_trust_ratio: Cost(20),
    ox.scale_by_param_block_norm: Cost(16),
    ox.scale_by_param_block_rms: Cost(16),
    ox.shrink_step: Cost(12),
    ox.scale_by_factored_rms: Cost(28.6, 1, NORM),
    ox.scale_by_sm3: Cost(46.8, 2, OLD),
    ox.scale_by_madgrad: Cost(44),
    ox.scale_by_polyak: Cost(16),
    ox.scale_by_lbfgs: Cost(236, 5.9, OLD),
    ox.reduce_on_plateau: Cost(12),
    ox.scale_by_curvature: Cost(24),
    ox.scale_by_curvature_rms: Cost(24),
    ox.add_cautious_weight_decay: Cost(12),
    ox.add_noise: Cost(68, 4, RANDOM),
    ox.add_langevin_noise: Cost(68, 4, RANDOM),
    ox.clip: Cost(12),
    ox.clip_by_global_norm: Cost(16),
    ox.clip_by_norm: Cost(16),
    ox.zero_nans: Cost(18, 0.3, NORM, unread=3),
    ox.centralize: Cost(14.7),
    ox.clip_by_average_norm: Cost(16),
    ox.clip_by_block_rms: Cost(16),
    ox.adaptive_grad_clip: Cost(24, 0.7, NORM),
    ox.normalize_by_update_norm: Cost(16),
    ox.scale_by_dog: Cost(24),
    ox.scale_by_dowg: Cost(24),
    ox.scale_by_cocob: Cost(104, 4.8, OLD),
    ox.orthogonalize: Cost(37, 2.9, MATRIX),
    ox.scale_by_matrix_shape: Cost(12),
    ox.normalize_units: Cost(17.8, 1, NORM),
    ox.scale_by_unit_rms: Cost(22, 2, NORM),
    ox.scale_by_psgd_kron: Cost(338.5, 11.6, MATRIX),
    ox.scale_by_shampoo: Cost(86, 3.5, MATRIX),
    ox.lookahead: Cost(52, 1, SHARED),
    ox.schedule_free: Cost(28),
    ox.schedule_free_sgd: Cost(28),
    ox.schedule_free_adamw: Cost(68, 2, SHARED),
    ox.lbfgs: Cost(236, 5.9, OLD),
    ox.sgd: Cost(12),
    ox.momentum: Cost(24),
    ox.adagrad: Cost(28),
    ox.rmsprop: Cost(28),
    ox.adam: Cost(40),
    ox.adamw: Cost(40),
    ox.nadam: Cost(44),
    ox.amsgrad: Cost(52),
    ox.adamax: Cost(40),
    ox.scale_by_adam: Cost(40),
    ox.nadamw: Cost(44),
    ox.adamaxw: Cost(40),
    ox.radam: Cost(40),
    ox.laprop: Cost(40),
    ox.lamb: Cost(60, 1, NORM),
    ox.lars: Cost(44, 1, NORM),
    ox.fromage: Cost(20),
    ox.novograd: Cost(32),
    ox.adabelief: Cost(56, 2.9, OLD),
    ox.acprop: Cost(60, 3.9, OLD),
    ox.yogi: Cost(40),
    ox.adan: Cost(80, 1, KEPT),
    ox.ademamix: Cost(56),
    ox.simplified_ademamix: Cost(44),
    ox.adopt: Cost(48, 2.9, OLD),
    ox.adadelta: Cost(68, 2, SHARED),
    ox.adafactor: Cost(44, 1, NORM),
    ox.sm3: Cost(46.8, 2, OLD),
    ox.madgrad: Cost(52),
    ox.lion: Cost(36, 1, OLD),
    ox.rprop: Cost(68, 5.8, OLD),
    ox.sign_sgd: Cost(12),
    ox.signum: Cost(24),
    ox.optimistic_gradient_descent: Cost(32, 1, KEPT),
    ox.optimistic_adam: Cost(72, 2.9, KEPT),
    ox.polyak_sgd: Cost(16),
    ox.momo: Cost(44, unread=4),
    ox.momo_adam: Cost(72, 2.9, LEAVES, unread=4),
    ox.sophia: Cost(36),
    ox.adahessian: Cost(36),
    ox.mechanize: Cost(60, 2.9, OLD),
    ox.asgd: Cost(24),
    ox.ftrl: Cost(68, 2, OLD),
    ox.adagrad_dual_averaging: Cost(40),
    ox.proximal_gradient_descent: Cost(12),
    ox.proximal_adagrad: Cost(28),
    ox.dog: Cost(36, 2.9, LEAVES),
    ox.dowg: Cost(24),
    ox.cocob: Cost(116, 5.8, OLD),
    ox.dadapt_adamw: Cost(92, 3.8, OLD),
    ox.prodigy: Cost(68),
    ox.muon: Cost(66, 2.9, MATRIX),
    ox.normuon: Cost(76, 3, MATRIX),
    ox.scion: Cost(49, 2.9, MATRIX),
    ox.shampoo: Cost(130.6, 4.5, MATRIX),
    ox.soap: Cost(216.2, 13.4, MATRIX),
    ox.noisy_sgd: Cost(68, 4, RANDOM),
    ox.sgld: Cost(68, 4, RANDOM),
    ox.psgd_kron: Cost(239.4, 7.9, MATRIX),
    ox.galore: Cost(35.8, 2.9, MATRIX),
    ox.masked: Cost(40),
    ox.freeze: Cost(0),
    ox.partition: Cost(40),
    ox.on_matrices: Cost(40),
    ox.in_low_rank: Cost(25, 2.9, MATRIX),
    ox.in_eigenbasis: Cost(216.2, 13.4, MATRIX),
    ox.graft: Cost(56, 2, LEAVES),
    ox.accumulate: Cost(68, 2.9, BRANCH, unread=1),
    ox.conditionally_transform: Cost(28, 2.9, BRANCH),
    ox.conditionally_mask: Cost(20, 2.9, BRANCH),
    ox.apply_if_finite: Cost(54, 2.9, BRANCH, unread=2),
    ox.skip_spikes: Cost(52.3, 2.9, BRANCH, unread=2),
    ox.dynamic_loss_scaling: Cost(62, 2.9, BRANCH, unread=1),
    ox.measure: Cost(92, 5.8, OLD, unread=20),
}
# These run the loss itself; and the last is for many devices.
LEFT_OUT = {
    ox.scale_by_backtracking_linesearch,
    ox.scale_by_zoom_linesearch,
    ox.hutchinson_estimator_diag_hessian,
    ox.gauss_newton_bartlett_estimator,
    ox.zero1,
}
SLOW = catalogue.NOISY


def compiled(tx, params=PARAMS, **extra):
    state = jax.eval_shape(tx.init, params)
    program = ox.compiled_step(tx).lower(params, state, params, **extra).compile(OPTIONS)
    return program, nbytes(params), nbytes(state)


def nbytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def copies(program):
    """The copies of arrays that are as large as a leaf."""
    made = re.finditer(r"= \w+\[([\d,]+)\]\S* copy(?:-start)?\(.*?\)", program.as_text())
    large = lambda m: math.prod(map(int, m[1].split(","))) >= min(SIZES)
    return [m[0] for m in made if large(m)]


def excess(cost, program, of_params, of_state):
    """In which of the four ways a program costs more than it may, with the figures."""
    memory, count = program.memory_analysis(), sum(SIZES)
    in_place = of_params + of_state - cost.unread
    most = {
        "not in place": (in_place - memory.alias_size_in_bytes, 0),
        # A few numbers beside: norms, counts, and the parts of sums.
        "held": (memory.temp_size_in_bytes / 4 / max(SIZES), cost.held + 0.1),
        # Scalars, and in larger leaves less.
        "moved": (program.cost_analysis()["bytes accessed"] / count, cost.moved + 0.5),
        "copied": (len(copies(program)), math.inf if cost.why in COPYING else 0),
    }
    return {what: figures for what, figures in most.items() if figures[0] > figures[1]}


# What `inject_hyperparams` gives has the name of what it is given.
CASES = [
    case
    for case in catalogue.ONE_EACH
    if getattr(ox, case.make.__name__) is case.make and case.make not in LEFT_OUT
]


def test_the_table_is_complete():
    assert {case.make for case in CASES} == COSTS.keys()
    for cost in COSTS.values():
        assert (cost.held > 0) == bool(cost.why)


# Of optimizers stages are parts.
QUICK = [
    c
    for c in CASES
    if not catalogue.is_stage(c) and c not in catalogue.HEAVY and c.make not in SLOW
]


@pytest.mark.parametrize("case", catalogue.quick_for(QUICK, CASES))
def test_a_step_costs_no_more_than_the_table_says(case):
    assert not excess(COSTS[case.make], *compiled(case(), **case.extra))


def together(tx, cost, dtype="float32"):
    return pytest.param(tx, cost, dtype, id=f"{tx}, {dtype}")


TOGETHER = [
    # A norm of the gradient: one pass, and none for clipping by it.
    together(ox.chain(ox.clip_by_global_norm(1.0), ox.sgd(0.1)), Cost(16)),
    together(ox.chain(ox.clip_by_global_norm(1.0), ox.adamw(0.1)), Cost(44)),
    # A loop for the average, which reads the new parameter.
    together(ox.average_params(ox.adamw(0.1), 0.999), Cost(52)),
    together(ox.accumulate(ox.adamw(0.1), 4), Cost(72, 3, BRANCH, unread=1)),
    # Of 2 bytes: gradient and parameter.
    together(ox.adamw(0.1), Cost(32), "bfloat16"),
    together(ox.master_weights(ox.adamw(0.1)), Cost(44), "bfloat16"),
    together(ox.kahan_summation(ox.adamw(0.1)), Cost(76, 3, OLD), "bfloat16"),
    # Given hyperparameters cost no pass.
    together(ox.inject_hyperparams(ox.adamw)(learning_rate=0.1), Cost(40)),
    # A norm of what is there costs one pass.
    together(ox.measure(ox.adamw(0.1), "gradient_norm"), Cost(44, unread=4)),
]


@pytest.mark.parametrize(("tx", "cost", "dtype"), TOGETHER)
def test_what_stands_around_an_optimizer_is_fused_with_it(tx, cost, dtype):
    params = {k: jax.ShapeDtypeStruct(p.shape, dtype) for k, p in PARAMS.items()}
    assert not excess(cost, *compiled(tx, params))


def zeros(params):
    return jax.tree.map(jnp.zeros_like, params)


def wasteful(f, init=zeros):
    """The pair of `f(updates, state) -> (updates, state)`."""
    return ox.GradientTransformation(init, lambda u, s, p=None, **extra: f(u, s))


def through_a_norm(updates, state):
    return ox.tree.scale(ox.tree.norm(updates), updates), state


def sorted_first(updates, state):
    return jax.tree.map(lambda u: jnp.sort(u.ravel()).reshape(u.shape), updates), state


WASTEFUL = {
    "not in place": wasteful(lambda u, s: (u, zeros(s))),
    "held": wasteful(sorted_first),
    "moved": wasteful(through_a_norm),
    "copied": wasteful(lambda u, s: (u, u)),
}


@pytest.mark.parametrize("what", WASTEFUL)
def test_what_is_wasted_is_found(what):
    frugal = wasteful(lambda u, s: (u, jax.tree.map(jnp.add, s, u)))
    assert not excess(Cost(24), *compiled(frugal))
    assert what in excess(Cost(24 if what != "moved" else 12), *compiled(WASTEFUL[what]))
