"""Composable gradient transformations in JAX.

    import optimjax as ox

    optimizer = ox.chain(ox.clip_by_global_norm(1.0), ox.adam(1e-3))
    state = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params)
    params = ox.apply_updates(params, updates)

Optimizers: sgd, momentum, adagrad, rmsprop, adadelta, adam, adamw, nadam, nadamw, radam,
amsgrad, adamax, adamaxw, adabelief, yogi, adan, ademamix, simplified_ademamix, adopt,
acprop, laprop, lion, sign_sgd, signum, rprop, lamb, lars, fromage, novograd, adafactor,
sm3, madgrad, asgd, ftrl, adagrad_dual_averaging, proximal_adagrad,
proximal_gradient_descent, polyak_sgd, dog, dowg, cocob, dadapt_adamw, prodigy, momo,
momo_adam, sophia, adahessian,
optimistic_gradient_descent, optimistic_adam, noisy_sgd, sgld, schedule_free_sgd,
schedule_free_adamw; for matrices muon, normuon, scion, shampoo, soap, psgd_kron, galore;
lbfgs (minimize runs it, or any other, to the end).

Stages: scale, scale_by_*, add_*, ema, clip, clip_by_*, adaptive_grad_clip, centralize,
normalize_by_update_norm, cautious, soft_threshold, shrink_step, project,
keep_params_nonnegative, reduce_on_plateau, set_to_zero, zero_nans, identity, stateless; for
matrices orthogonalize, normalize_units; for slow links compress, delay, compensate_delay.

Combinators: chain, in_turn; masked, partition, freeze, sparsely; accumulate,
conditionally_transform, conditionally_mask; apply_if_finite, skip_spikes,
dynamic_loss_scaling; average_params, lookahead, schedule_free (eval_params asks them);
mechanize; graft, in_eigenbasis, in_low_rank; sam; master_weights, kahan_summation;
pack_small_leaves; zero1, spread_matrices; local_updates; delay_updates, predict_params
(predicted_params asks them);
inject_hyperparams (get_hyperparams, set_hyperparams); measure (get_measures).

Schedules: *_schedule, exponential_decay, inverse_time_decay. For gradients of large batches
and of single examples: microbatched, per_example_global_norm_clip,
per_example_layer_norm_clip, private_gradients, private_mean. For curvature:
hutchinson_diagonal, gauss_newton_bartlett_diagonal, and *_estimator*, which are stages.

Update and apply as one program: compiled_step. On many devices: state_sharding,
sharded_init, and zero1. For another number of devices, or of workers: change_devices,
change_workers. What an optimizer is made of and keeps, as a table: describe. For files:
state_to_dict, state_from_dict. Pictures: plot_schedule, plot_trajectories on the module
surfaces.

For choosing: sweep, with log_uniform and uniform.

For rules of your own: transformation, and the modules tree, projections, compressors,
numerics, typing and testing.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING, Any as _Any

# Foundations: what a transformation is, and how its result is applied.
from . import (
    compressors as compressors,
    matrices as matrices,
    numerics as numerics,
    porting as porting,
    projections as projections,
    schedules as schedules,
    selection as selection,
    states as states,
    surfaces as surfaces,
    tree as tree,
    typing as typing,
)
from .base import (
    EmptyState as EmptyState,
    GradientTransformation as GradientTransformation,
    apply_updates as apply_updates,
    identity as identity,
    stateless as stateless,
    transformation as transformation,
)

# What `sweep` (below) tries.
from .candidates import log_uniform as log_uniform, uniform as uniform

# Combinators: transformations in, one transformation out.
from .combinators.averaging import (
    AverageParamsState as AverageParamsState,
    LookaheadState as LookaheadState,
    ScheduleFreeState as ScheduleFreeState,
    average_params as average_params,
    eval_params as eval_params,
    lookahead as lookahead,
    schedule_free as schedule_free,
)
from .combinators.chaining import chain as chain, in_turn as in_turn
from .combinators.delaying import (
    DelayUpdatesState as DelayUpdatesState,
    PredictParamsState as PredictParamsState,
    delay_updates as delay_updates,
    predict_params as predict_params,
    predicted_params as predicted_params,
)
from .combinators.eigenbasis import (
    InEigenbasisState as InEigenbasisState,
    in_eigenbasis as in_eigenbasis,
)
from .combinators.grafting import GraftState as GraftState, graft as graft
from .combinators.guarding import (
    ApplyIfFiniteState as ApplyIfFiniteState,
    DynamicLossScalingState as DynamicLossScalingState,
    SkipSpikesState as SkipSpikesState,
    apply_if_finite as apply_if_finite,
    beyond_quantile as beyond_quantile,
    beyond_z_score as beyond_z_score,
    dynamic_loss_scaling as dynamic_loss_scaling,
    loss_scale as loss_scale,
    skip_spikes as skip_spikes,
)
from .combinators.knobs import (
    InjectHyperparamsState as InjectHyperparamsState,
    get_hyperparams as get_hyperparams,
    inject_hyperparams as inject_hyperparams,
    set_hyperparams as set_hyperparams,
)
from .combinators.local import (
    LocalUpdatesState as LocalUpdatesState,
    local_updates as local_updates,
)
from .combinators.low_rank import (
    InLowRankState as InLowRankState,
    in_low_rank as in_low_rank,
)
from .combinators.mechanic import MechanicState as MechanicState, mechanize as mechanize
from .combinators.momo import MomoState as MomoState, momo as momo
from .combinators.monitoring import (
    MeasureState as MeasureState,
    get_measures as get_measures,
    measure as measure,
)
from .combinators.pacing import (
    AccumulateState as AccumulateState,
    ConditionallyMaskState as ConditionallyMaskState,
    ConditionallyTransformState as ConditionallyTransformState,
    accumulate as accumulate,
    conditionally_mask as conditionally_mask,
    conditionally_transform as conditionally_transform,
)
from .combinators.packing import (
    PackSmallLeavesState as PackSmallLeavesState,
    pack_small_leaves as pack_small_leaves,
)
from .combinators.perturbing import SamState as SamState, sam as sam
from .combinators.precision import (
    KahanSummationState as KahanSummationState,
    MasterWeightsState as MasterWeightsState,
    kahan_summation as kahan_summation,
    master_weights as master_weights,
)
from .combinators.preconditioning import (
    ScaleByCurvatureRmsState as ScaleByCurvatureRmsState,
    ScaleByCurvatureState as ScaleByCurvatureState,
    scale_by_curvature as scale_by_curvature,
    scale_by_curvature_rms as scale_by_curvature_rms,
)
from .combinators.routing import (
    MaskedState as MaskedState,
    PartitionState as PartitionState,
    freeze as freeze,
    masked as masked,
    on_matrices as on_matrices,
    partition as partition,
)
from .combinators.sparse import sparsely as sparsely
from .combinators.spreading import (
    SpreadMatricesState as SpreadMatricesState,
    spread_matrices as spread_matrices,
)
from .combinators.zero import (
    Padded as Padded,
    Zero1State as Zero1State,
    change_devices as change_devices,
    zero1 as zero1,
)

# Functions that make gradients, and those that estimate curvature.
from .compiling import (
    CompiledStep as CompiledStep,
    compiled_step as compiled_step,
)
from .curvature import (
    gauss_newton_bartlett_diagonal as gauss_newton_bartlett_diagonal,
    hutchinson_diagonal as hutchinson_diagonal,
)
from .describing import (
    Description as Description,
    describe as describe,
)
from .gradients import (
    microbatched as microbatched,
    per_example_global_norm_clip as per_example_global_norm_clip,
    per_example_layer_norm_clip as per_example_layer_norm_clip,
    private_gradients as private_gradients,
    private_mean as private_mean,
)

# The loop around an optimizer.
from .minimizing import (
    MinimizeResult as MinimizeResult,
    StopReason as StopReason,
    minimize as minimize,
)

# Optimizers: each is one expression of the rest.
from .optimizers import (
    acprop as acprop,
    adabelief as adabelief,
    adadelta as adadelta,
    adafactor as adafactor,
    adagrad as adagrad,
    adahessian as adahessian,
    adam as adam,
    adamax as adamax,
    adamaxw as adamaxw,
    adamw as adamw,
    adan as adan,
    ademamix as ademamix,
    adopt as adopt,
    amsgrad as amsgrad,
    cocob as cocob,
    dog as dog,
    dowg as dowg,
    fromage as fromage,
    galore as galore,
    lamb as lamb,
    laprop as laprop,
    lars as lars,
    lbfgs as lbfgs,
    lion as lion,
    madgrad as madgrad,
    momentum as momentum,
    momo_adam as momo_adam,
    muon as muon,
    nadam as nadam,
    nadamw as nadamw,
    noisy_sgd as noisy_sgd,
    normuon as normuon,
    novograd as novograd,
    optimistic_adam as optimistic_adam,
    optimistic_gradient_descent as optimistic_gradient_descent,
    polyak_sgd as polyak_sgd,
    psgd_kron as psgd_kron,
    radam as radam,
    rmsprop as rmsprop,
    rprop as rprop,
    scale_by_adam as scale_by_adam,
    schedule_free_adamw as schedule_free_adamw,
    schedule_free_sgd as schedule_free_sgd,
    scion as scion,
    sgd as sgd,
    sgld as sgld,
    shampoo as shampoo,
    sign_sgd as sign_sgd,
    signum as signum,
    simplified_ademamix as simplified_ademamix,
    sm3 as sm3,
    soap as soap,
    sophia as sophia,
    yogi as yogi,
)

# Pictures of optimizers and schedules.
from .plotting import (
    plot_schedule as plot_schedule,
    plot_trajectories as plot_trajectories,
)

# What `sweep` (below) finds.
from .results import Candidate as Candidate, SweepResult as SweepResult

# Schedules: the step in, a value out.
from .schedules import (
    constant_schedule as constant_schedule,
    cosine_decay_schedule as cosine_decay_schedule,
    cosine_onecycle_schedule as cosine_onecycle_schedule,
    cosine_restarts_schedule as cosine_restarts_schedule,
    cyclic_schedule as cyclic_schedule,
    every as every,
    exponential_decay as exponential_decay,
    inverse_sqrt_schedule as inverse_sqrt_schedule,
    inverse_time_decay as inverse_time_decay,
    join_schedules as join_schedules,
    linear_onecycle_schedule as linear_onecycle_schedule,
    linear_schedule as linear_schedule,
    piecewise_constant_schedule as piecewise_constant_schedule,
    piecewise_interpolate_schedule as piecewise_interpolate_schedule,
    polynomial_schedule as polynomial_schedule,
    rex_schedule as rex_schedule,
    sgdr_schedule as sgdr_schedule,
    warmup_constant_schedule as warmup_constant_schedule,
    warmup_cosine_decay_schedule as warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule as warmup_exponential_decay_schedule,
    warmup_schedule as warmup_schedule,
    warmup_stable_decay_schedule as warmup_stable_decay_schedule,
)

# How a state lies on many devices.
from .sharding import sharded_init as sharded_init, state_sharding as state_sharding

# States in files.
from .states import state_from_dict as state_from_dict, state_to_dict as state_to_dict

# Choosing between optimizers.
from .sweeping import sweep as sweep

# Transforms: the rules themselves.
from .transforms.adaptive import (
    ReduceOnPlateauState as ReduceOnPlateauState,
    reduce_on_plateau as reduce_on_plateau,
    scale_by_polyak as scale_by_polyak,
)
from .transforms.adding import (
    AddCautiousWeightDecayState as AddCautiousWeightDecayState,
    AddDecayedWeightsState as AddDecayedWeightsState,
    AddL1DecayState as AddL1DecayState,
    AddLangevinNoiseState as AddLangevinNoiseState,
    AddNoiseState as AddNoiseState,
    add_cautious_weight_decay as add_cautious_weight_decay,
    add_decayed_weights as add_decayed_weights,
    add_l1_decay as add_l1_decay,
    add_langevin_noise as add_langevin_noise,
    add_noise as add_noise,
)
from .transforms.averaging import (
    AsgdState as AsgdState,
    asgd as asgd,
)
from .transforms.clipping import (
    ZeroNansState as ZeroNansState,
    centralize as centralize,
    clip as clip,
    clip_by_global_norm as clip_by_global_norm,
    clip_by_norm as clip_by_norm,
    zero_nans as zero_nans,
)
from .transforms.compressing import (
    CompressState as CompressState,
    change_workers as change_workers,
    compress as compress,
)
from .transforms.constraining import (
    keep_params_nonnegative as keep_params_nonnegative,
    project as project,
)
from .transforms.delaying import (
    CompensateDelayState as CompensateDelayState,
    DelayState as DelayState,
    compensate_delay as compensate_delay,
    delay as delay,
    scale_by_staleness as scale_by_staleness,
)
from .transforms.factored import (
    FactoredMoment as FactoredMoment,
    ScaleByFactoredRmsState as ScaleByFactoredRmsState,
    ScaleBySm3State as ScaleBySm3State,
    scale_by_factored_rms as scale_by_factored_rms,
    scale_by_sm3 as scale_by_sm3,
)
from .transforms.hessian import (
    GaussNewtonBartlettState as GaussNewtonBartlettState,
    HutchinsonState as HutchinsonState,
    gauss_newton_bartlett_estimator as gauss_newton_bartlett_estimator,
    hutchinson_estimator_diag_hessian as hutchinson_estimator_diag_hessian,
)
from .transforms.kronecker import (
    ScaleByShampooState as ScaleByShampooState,
    Sides as Sides,
    scale_by_shampoo as scale_by_shampoo,
)
from .transforms.layerwise import (
    ScaleByNovogradState as ScaleByNovogradState,
    ShrinkStepState as ShrinkStepState,
    adaptive_grad_clip as adaptive_grad_clip,
    clip_by_average_norm as clip_by_average_norm,
    clip_by_block_rms as clip_by_block_rms,
    normalize_by_update_norm as normalize_by_update_norm,
    scale_by_novograd as scale_by_novograd,
    scale_by_param_block_norm as scale_by_param_block_norm,
    scale_by_param_block_rms as scale_by_param_block_rms,
    scale_by_trust_ratio as scale_by_trust_ratio,
    shrink_step as shrink_step,
)
from .transforms.moments import (
    ScaleByAcpropState as ScaleByAcpropState,
    ScaleByAdanState as ScaleByAdanState,
    ScaleByAdemamixState as ScaleByAdemamixState,
    ScaleByAdoptState as ScaleByAdoptState,
    ScaleByBeliefState as ScaleByBeliefState,
    ScaleByYogiState as ScaleByYogiState,
    scale_by_acprop as scale_by_acprop,
    scale_by_adan as scale_by_adan,
    scale_by_ademamix as scale_by_ademamix,
    scale_by_adopt as scale_by_adopt,
    scale_by_belief as scale_by_belief,
    scale_by_yogi as scale_by_yogi,
)
from .transforms.momentum import (
    AddBiasCorrectionState as AddBiasCorrectionState,
    AddGradientState as AddGradientState,
    AddNadamCorrectionState as AddNadamCorrectionState,
    EmaState as EmaState,
    ScaleByMomentumState as ScaleByMomentumState,
    ScaleByOptimisticGradientState as ScaleByOptimisticGradientState,
    add_bias_correction as add_bias_correction,
    add_gradient as add_gradient,
    add_nadam_correction as add_nadam_correction,
    ema as ema,
    scale_by_momentum as scale_by_momentum,
    scale_by_optimistic_gradient as scale_by_optimistic_gradient,
)
from .transforms.orthogonal import (
    ScaleByUnitRmsState as ScaleByUnitRmsState,
    normalize_units as normalize_units,
    orthogonalize as orthogonalize,
    scale_by_matrix_shape as scale_by_matrix_shape,
    scale_by_unit_rms as scale_by_unit_rms,
)
from .transforms.proximal import (
    AdagradDualAveragingState as AdagradDualAveragingState,
    FtrlState as FtrlState,
    ProximalAdagradState as ProximalAdagradState,
    ProximalGradientDescentState as ProximalGradientDescentState,
    ScaleByMadgradState as ScaleByMadgradState,
    SoftThresholdState as SoftThresholdState,
    adagrad_dual_averaging as adagrad_dual_averaging,
    ftrl as ftrl,
    proximal_adagrad as proximal_adagrad,
    proximal_gradient_descent as proximal_gradient_descent,
    scale_by_madgrad as scale_by_madgrad,
    soft_threshold as soft_threshold,
)
from .transforms.psgd import (
    PsgdFactors as PsgdFactors,
    ScaleByPsgdKronState as ScaleByPsgdKronState,
    scale_by_psgd_kron as scale_by_psgd_kron,
)
from .transforms.quasi_newton import (
    ScaleByLbfgsState as ScaleByLbfgsState,
    scale_by_lbfgs as scale_by_lbfgs,
)
from .transforms.rms import (
    ScaleByAdadeltaState as ScaleByAdadeltaState,
    ScaleByInfinityMomentState as ScaleByInfinityMomentState,
    ScaleByRectifiedRmsState as ScaleByRectifiedRmsState,
    ScaleByRmsState as ScaleByRmsState,
    ScaleByRssState as ScaleByRssState,
    scale_by_adadelta as scale_by_adadelta,
    scale_by_infinity_moment as scale_by_infinity_moment,
    scale_by_rectified_rms as scale_by_rectified_rms,
    scale_by_rms as scale_by_rms,
    scale_by_rss as scale_by_rss,
)
from .transforms.scaling import (
    ScaleByLearningRateState as ScaleByLearningRateState,
    ScaleByScheduleState as ScaleByScheduleState,
    scale as scale,
    scale_by_learning_rate as scale_by_learning_rate,
    scale_by_schedule as scale_by_schedule,
    set_to_zero as set_to_zero,
)
from .transforms.searching import (
    LinesearchInfo as LinesearchInfo,
    LinesearchOutcome as LinesearchOutcome,
    ScaleByBacktrackingLinesearchState as ScaleByBacktrackingLinesearchState,
    ScaleByZoomLinesearchState as ScaleByZoomLinesearchState,
    scale_by_backtracking_linesearch as scale_by_backtracking_linesearch,
    scale_by_zoom_linesearch as scale_by_zoom_linesearch,
    value_and_grad_from_state as value_and_grad_from_state,
)
from .transforms.sign import (
    ScaleByLionState as ScaleByLionState,
    ScaleByRpropState as ScaleByRpropState,
    cautious as cautious,
    scale_by_lion as scale_by_lion,
    scale_by_rprop as scale_by_rprop,
    scale_by_sign as scale_by_sign,
)
from .transforms.tuning import (
    DadaptAdamwState as DadaptAdamwState,
    ProdigyState as ProdigyState,
    ScaleByCocobState as ScaleByCocobState,
    ScaleByDogState as ScaleByDogState,
    ScaleByDowgState as ScaleByDowgState,
    dadapt_adamw as dadapt_adamw,
    prodigy as prodigy,
    scale_by_cocob as scale_by_cocob,
    scale_by_dog as scale_by_dog,
    scale_by_dowg as scale_by_dowg,
)

__version__ = "0.1.0"

if _TYPE_CHECKING:
    from . import strategies as strategies, testing as testing


def __getattr__(name: str) -> _Any:
    """The modules that training does not need, and that take time to import."""
    if name in ("strategies", "testing"):
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
