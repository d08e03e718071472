"""Optimizers, each taken apart in one expression.

No arithmetic here: what a stage computes is documented where the stage is. Names,
arguments, defaults and results are those of Optax where it has the name.
"""

from typing import Annotated, Literal

import jax

from ._checks import Number
from .base import GradientTransformation, check_stages, identity, transformation
from .combinators.averaging import schedule_free
from .combinators.chaining import chain
from .combinators.eigenbasis import in_eigenbasis
from .combinators.grafting import graft
from .combinators.low_rank import in_low_rank
from .combinators.momo import momo
from .combinators.preconditioning import (
    SpatialAxes,
    scale_by_curvature,
    scale_by_curvature_rms,
)
from .combinators.routing import on_matrices
from .matrices import Axes
from .schedules import warmup_schedule
from .transforms.adaptive import scale_by_polyak
from .transforms.adding import (
    Key,
    add_decayed_weights,
    add_langevin_noise,
    add_noise,
)
from .transforms.clipping import clip
from .transforms.factored import scale_by_factored_rms, scale_by_sm3
from .transforms.hessian import HUTCHINSON
from .transforms.kronecker import scale_by_shampoo
from .transforms.layerwise import (
    clip_by_block_rms,
    scale_by_novograd,
    scale_by_param_block_rms,
    scale_by_trust_ratio,
    shrink_step,
)
from .transforms.moments import (
    fourth_root,
    scale_by_acprop,
    scale_by_adan,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_belief,
    scale_by_yogi,
)
from .transforms.momentum import (
    add_bias_correction,
    add_gradient,
    add_nadam_correction,
    ema,
    scale_by_momentum,
    scale_by_optimistic_gradient,
)
from .transforms.orthogonal import (
    Coefficients,
    Preconditioning,
    orthogonalize,
    scale_by_matrix_shape,
    scale_by_unit_rms,
)
from .transforms.proximal import scale_by_madgrad
from .transforms.psgd import ANNEALED, scale_by_psgd_kron
from .transforms.quasi_newton import scale_by_lbfgs
from .transforms.rms import (
    scale_by_adadelta,
    scale_by_infinity_moment,
    scale_by_rectified_rms,
    scale_by_rms,
    scale_by_rss,
)
from .transforms.scaling import scale, scale_by_learning_rate
from .transforms.searching import scale_by_zoom_linesearch
from .transforms.sign import scale_by_lion, scale_by_rprop, scale_by_sign
from .transforms.tuning import InitStep, scale_by_cocob, scale_by_dog, scale_by_dowg
from .typing import (
    AtLeastOne,
    Count,
    Decay,
    DecayOrSchedule,
    Fraction,
    FractionOrSchedule,
    Mask,
    NonNegative,
    NonNegativeOrSchedule,
    Positive,
    PositiveCount,
    Scalar,
    ScalarOrSchedule,
    StorageDtype,
    Threshold,
)


@transformation
def sgd(
    learning_rate: NonNegativeOrSchedule,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    accumulator_dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Gradient descent, and stochastic gradient descent: $p - \eta g$.

    With `momentum`, `scale_by_momentum` stands before the learning rate: the heavy ball
    of PyTorch and TensorFlow 1.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        momentum: The `decay` of `scale_by_momentum`; `None` keeps no momentum.
        nesterov: As in `scale_by_momentum`; without `momentum` it has no effect.
        accumulator_dtype: The dtype in which the momentum is stored.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter with momentum, else none.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.sgd(0.1, momentum=0.9)
        sgd(0.1, momentum=0.9)
    """
    return chain(
        identity()
        if momentum is None
        else scale_by_momentum(momentum, nesterov=nesterov, dtype=accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def momentum(
    learning_rate: NonNegativeOrSchedule,
    decay: Fraction = 0.9,
    *,
    dampening: Fraction = 0.0,
    nesterov: bool = False,
    dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Gradient descent with momentum: the heavy ball, or a running mean.

    `dampening=decay` gives the running mean $v = \beta v + (1 - \beta) g$. For the rate
    inside the velocity, as in Keras, put `scale_by_learning_rate` before
    `scale_by_momentum` in a `chain`.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        decay: As in `scale_by_momentum`, as is the rest.
        dampening: How much of each gradient is left out.
        nesterov: Whether to look one step ahead.
        dtype: The dtype in which the momentum is stored.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.momentum(0.1, nesterov=True)
        momentum(0.1, nesterov=True)
    """
    return chain(
        scale_by_momentum(decay, dampening=dampening, nesterov=nesterov, dtype=dtype),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adagrad(
    learning_rate: NonNegativeOrSchedule,
    initial_accumulator_value: NonNegative = 0.1,
    eps: NonNegative = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> GradientTransformation:
    r"""AdaGrad: rates that fall where gradients have been large.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        initial_accumulator_value: As in `scale_by_rss`, as is the rest.
        eps: Added to the sum of squares, or to its root.
        eps_in_sqrt: `False` for PyTorch, Keras 2 and the paper.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.adagrad(0.01)
        adagrad(0.01)
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def rmsprop(
    learning_rate: NonNegativeOrSchedule,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    r"""RMSprop: rates that fall where recent gradients are large.

    The momentum stands behind the learning rate, as in Optax, Keras and TensorFlow 1; in
    PyTorch it stands before. While the rate is constant, the two are one.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        decay: As in `scale_by_rms`, as are `eps`, `initial_scale`, `centered` and
            `bias_correction`.
        eps: Added to the mean square, or to its root.
        initial_scale: 1 for TensorFlow 1.
        eps_in_sqrt: `False` for PyTorch, and for Keras 2 without momentum.
        centered: Whether to divide by the standard deviation.
        momentum: The `decay` of `scale_by_momentum`; `None` keeps no momentum.
        nesterov: As in `scale_by_momentum`; without `momentum` it has no effect.
        bias_correction: Whether to divide out the bias towards zero.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter, 4 more with `momentum`, and 4
        more if `centered`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.rmsprop(1e-3, momentum=0.9)
        rmsprop(0.001, momentum=0.9)
    """
    return chain(
        scale_by_rms(
            decay,
            eps,
            initial_scale,
            eps_in_sqrt=eps_in_sqrt,
            centered=centered,
            bias_correction=bias_correction,
        ),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else scale_by_momentum(momentum, nesterov=nesterov),
    )


@transformation
def adam(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Adam, Algorithm 1 of the paper, as in PyTorch and Optax.

    For TensorFlow's and Keras' Adam (epsilon hat), see `add_bias_correction`.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        mu_dtype: The dtype in which the first moment is stored.
        nesterov: Whether to look one step ahead (Nadam).

    Returns:
        The `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> optimizer = ox.adam(0.1)
        >>> state = optimizer.init(jnp.zeros(2))
        >>> updates, state = optimizer.update(jnp.array([10.0, -0.1]), state)
        >>> print(updates)
        [-0.1  0.1]

    References:
        D. P. Kingma and J. Ba, [Adam: a method for stochastic
        optimization](https://arxiv.org/abs/1412.6980), 2015.
    """
    return chain(
        scale_by_momentum(b1, dampening=b1, dtype=mu_dtype),
        add_bias_correction(b1, nesterov=nesterov),
        scale_by_rms(b2, eps, eps_root=eps_root, bias_correction=True),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adamw(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Adam with decoupled weight decay: $p - \eta\,(\mathrm{adam} + \lambda p)$.

    Args:
        learning_rate: As in `adam`, as are `b1` to `mu_dtype` and `nesterov`.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        mu_dtype: The dtype in which the first moment is stored.
        weight_decay: $\lambda$: 1e-4 here and in Optax, 1e-2 in PyTorch, 4e-3 in Keras.
        mask: Which parameters decay; as in `add_decayed_weights`.
        nesterov: Whether to look one step ahead.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> optimizer = ox.adamw(3e-4, weight_decay=0.1, mask=["!**/bias", "!**/norm/*"])

    References:
        I. Loshchilov and F. Hutter, [Decoupled weight decay
        regularization](https://arxiv.org/abs/1711.05101), 2019; there the decay is
        multiplied by the schedule alone, not by the whole rate.
    """
    return chain(
        scale_by_momentum(b1, dampening=b1, dtype=mu_dtype),
        add_bias_correction(b1, nesterov=nesterov),
        scale_by_rms(b2, eps, eps_root=eps_root, bias_correction=True),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def nadam(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
    *,
    nesterov: bool = True,
    momentum_decay: NonNegative | None = None,
) -> GradientTransformation:
    """Adam that looks one step ahead.

    Args:
        learning_rate: As in `adam`, as are `b1` to `mu_dtype`.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        mu_dtype: The dtype in which the first moment is stored.
        nesterov: `False` gives `adam`.
        momentum_decay: `None` for a constant decay, as in Optax; 0.004 for the paper's
            warmup of it, as in PyTorch and Keras 2 (`add_nadam_correction`); 1 for Keras 3.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.nadam(2e-3, momentum_decay=0.004)
        nadam(0.002, momentum_decay=0.004)

    References:
        T. Dozat, [Incorporating Nesterov momentum into
        Adam](https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ), 2016.
    """
    if momentum_decay is None:
        return adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return chain(
        scale_by_momentum(b1, dampening=b1, dtype=mu_dtype),
        add_nadam_correction(b1, momentum_decay),
        scale_by_rms(b2, eps, eps_root=eps_root, bias_correction=True),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def amsgrad(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> GradientTransformation:
    """Adam whose second moment never falls.

    The maximum is taken of the corrected second moment, as in Optax; for that of PyTorch
    and Keras, taken before the correction, put `scale_by_rms(..., amsgrad="raw")` into
    Adam's chain.

    Args:
        learning_rate: As in `adam`, as are `b1` to `mu_dtype`.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        mu_dtype: The dtype in which the first moment is stored.
        bias_correction_mu: Whether to correct the first moment; the paper does not.
        bias_correction_nu: Whether to correct the second; the paper does not.

    Returns:
        The `chain`. Its state holds 12 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.amsgrad(1e-3)
        amsgrad(0.001)

    References:
        S. J. Reddi, S. Kale and S. Kumar, [On the convergence of Adam and
        beyond](https://arxiv.org/abs/1904.09237), 2018.
    """
    return chain(
        scale_by_momentum(b1, dampening=b1, dtype=mu_dtype),
        add_bias_correction(b1) if bias_correction_mu else identity(),
        scale_by_rms(
            b2,
            eps,
            eps_root=eps_root,
            bias_correction=bias_correction_nu,
            amsgrad="corrected",
        ),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adamax(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
) -> GradientTransformation:
    r"""Adam with a decaying maximum in place of the second moment.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the maximum, in [0, 1).
        eps: Added inside of the maximum (PyTorch, Optax); for Keras, see
            `scale_by_infinity_moment`.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.adamax(2e-3)
        adamax(0.002)

    References:
        D. P. Kingma and J. Ba, [Adam](https://arxiv.org/abs/1412.6980), 2015, section 7.
    """
    return chain(
        scale_by_momentum(b1, dampening=b1),
        add_bias_correction(b1),
        scale_by_infinity_moment(b2, eps),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def scale_by_adam(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""The direction of Adam, without its learning rate.

    Args:
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        mu_dtype: The dtype in which the first moment is stored.
        nesterov: Whether to look one step ahead (Nadam).

    Returns:
        The `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.scale_by_adam(b2=0.95)
        scale_by_adam(b2=0.95)

    References:
        D. P. Kingma and J. Ba, [Adam: a method for stochastic
        optimization](https://arxiv.org/abs/1412.6980), 2015.
    """
    return chain(
        scale_by_momentum(b1, dampening=b1, dtype=mu_dtype),
        add_bias_correction(b1, nesterov=nesterov),
        scale_by_rms(b2, eps, eps_root=eps_root, bias_correction=True),
    )


@transformation
def nadamw(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = True,
    momentum_decay: NonNegative | None = None,
) -> GradientTransformation:
    r"""Adam that looks one step ahead, with decoupled weight decay.

    Args:
        learning_rate: As in `adam`, as are `b1` to `mu_dtype`.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        mu_dtype: The dtype in which the first moment is stored.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.
        nesterov: `False` gives `adamw`.
        momentum_decay: As in `nadam`.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.nadamw(2e-3, momentum_decay=0.004)
        nadamw(0.002, momentum_decay=0.004)

    References:
        T. Dozat, [Incorporating Nesterov momentum into
        Adam](https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ), 2016.
    """
    return chain(
        scale_by_momentum(b1, dampening=b1, dtype=mu_dtype),
        add_bias_correction(b1, nesterov=nesterov)
        if momentum_decay is None
        else add_nadam_correction(b1, momentum_decay),
        scale_by_rms(b2, eps, eps_root=eps_root, bias_correction=True),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adamaxw(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""Adamax with decoupled weight decay.

    Args:
        learning_rate: As in `adamax`, as are `b1`, `b2` and `eps`.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the maximum, in [0, 1).
        eps: Added inside of the maximum.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.adamaxw(2e-3)
        adamaxw(0.002)

    References:
        D. P. Kingma and J. Ba, [Adam](https://arxiv.org/abs/1412.6980), 2015, section 7.
    """
    return chain(
        scale_by_momentum(b1, dampening=b1),
        add_bias_correction(b1),
        scale_by_infinity_moment(b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def radam(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: NonNegative = 5.0,
    *,
    nesterov: bool = False,
    eps_hat: bool = False,
) -> GradientTransformation:
    r"""Adam that divides by the second moment once it is known well enough: RAdam.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: As in `scale_by_rectified_rms`, as are `eps_root`, `threshold` and `eps_hat`.
        eps_root: Added to the second moment, inside of the root.
        threshold: How many gradients the second moment has to be worth.
        nesterov: Whether to look one step ahead.
        eps_hat: `True` for PyTorch.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.radam(0.001)
        radam(0.001)

    References:
        L. Liu et al., [On the variance of the adaptive learning rate and
        beyond](https://arxiv.org/abs/1908.03265), 2020.
    """
    return chain(
        scale_by_momentum(b1, dampening=b1),
        add_bias_correction(b1, nesterov=nesterov),
        scale_by_rectified_rms(b2, eps, eps_root, threshold, eps_hat=eps_hat),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def laprop(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-15,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""Adam with its two halves exchanged: gradients are divided first, then averaged.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the mean, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.laprop(0.0004)
        laprop(0.0004)

    References:
        L. Ziyin, Z. T. Wang and M. Ueda, [LaProp: separating momentum and adaptivity in
        Adam](https://arxiv.org/abs/2002.04839), 2020.
    """
    return chain(
        scale_by_rms(b2, eps, bias_correction=True),
        scale_by_momentum(b1, dampening=b1),
        add_bias_correction(b1),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def lamb(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""AdamW whose step is, in each leaf, as long as the leaf: for large batches.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.lamb(0.001)
        lamb(0.001)

    References:
        Y. You et al., [Large batch optimization for deep
        learning](https://arxiv.org/abs/1904.00962), 2020.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def lars(
    learning_rate: NonNegativeOrSchedule,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = True,
    trust_coefficient: NonNegative = 0.001,
    eps: NonNegative = 0.0,
    trust_ratio_mask: Mask | None = True,
    momentum: Fraction = 0.9,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Momentum whose step is, in each leaf, a fraction of the leaf: for large batches.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        weight_decay: The L2 penalty.
        weight_decay_mask: Which parameters it counts for; as in `add_decayed_weights`.
        trust_coefficient: The fraction, as in `scale_by_trust_ratio`, as is `eps`.
        eps: Added to the norm of the update.
        trust_ratio_mask: Which parameters the ratio is for.
        momentum: The `decay` of `scale_by_momentum`; the learning rate stands before it.
        nesterov: As in `scale_by_momentum`.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.lars(0.1, weight_decay=0.0001)
        lars(0.1, weight_decay=0.0001)

    References:
        Y. You, I. Gitman and B. Ginsburg, [Large batch training of convolutional
        networks](https://arxiv.org/abs/1708.03888), 2017.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_trust_ratio(
            trust_coefficient=trust_coefficient, eps=eps, mask=trust_ratio_mask
        ),
        scale_by_learning_rate(learning_rate),
        scale_by_momentum(momentum, nesterov=nesterov),
    )


@transformation
def fromage(
    learning_rate: NonNegativeOrSchedule,
    min_norm: NonNegative = 1e-6,
) -> GradientTransformation:
    r"""Gradient descent by a fraction of each leaf, on the sphere: Fromage.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule: the fraction.
        min_norm: As in `scale_by_trust_ratio`.

    Returns:
        The `chain`. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.fromage(0.01)
        fromage(0.01)

    References:
        J. Bernstein et al., [On the distance between two neural networks and the stability
        of learning](https://arxiv.org/abs/2002.03432), 2020.
    """
    return chain(
        scale_by_trust_ratio(min_norm),
        scale_by_learning_rate(learning_rate),
        shrink_step(learning_rate),
    )


@transformation
def novograd(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: Scalar = 0.0,
) -> GradientTransformation:
    r"""Momentum of gradients that are divided by the norm of their leaf: NovoGrad.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: As in `scale_by_novograd`, as is the rest.
        b2: The decay of the second moment, one number a leaf.
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        weight_decay: How much of the parameters is added to what is summed.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.novograd(0.01)
        novograd(0.01)

    References:
        B. Ginsburg et al., [Stochastic gradient methods with layer-wise adaptive moments
        for training of deep networks](https://arxiv.org/abs/1905.11286), 2019.
    """
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adabelief(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Adam that divides by how far gradients are from their mean: AdaBelief.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        nesterov: Whether to look one step ahead.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.adabelief(0.001)
        adabelief(0.001)

    References:
        J. Zhuang et al., [AdaBelief optimizer: adapting stepsizes by the belief in observed
        gradients](https://arxiv.org/abs/2010.07468), 2020.
    """
    return chain(
        scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def acprop(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""Divides gradients by how far those before were from their mean: ACProp.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.acprop(0.001)
        acprop(0.001)

    References:
        J. Zhuang et al., [Momentum centering and asynchronous update for adaptive gradient
        methods](https://arxiv.org/abs/2110.05454), 2021.
    """
    return chain(
        scale_by_acprop(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def yogi(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
) -> GradientTransformation:
    r"""Adam with a second moment that falls slowly: Yogi.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.yogi(0.01)
        yogi(0.01)

    References:
        M. Zaheer et al., [Adaptive methods for nonconvex optimization](
        https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization),
        2018.
    """
    return chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate))


@transformation
def adan(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    *,
    difference_weight: Fraction | None = None,
) -> GradientTransformation:
    r"""Adam with Nesterov's momentum from differences of gradients: Adan.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the mean of gradients, in [0, 1).
        b2: The decay of the mean of their differences, in [0, 1).
        b3: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.
        difference_weight: As in `scale_by_adan`: `1 - b2` for Optax.

    Returns:
        The `chain`. Its state holds 16 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.adan(0.001)
        adan(0.001)

    References:
        X. Xie et al., [Adan: adaptive Nesterov momentum algorithm for faster optimizing
        deep models](https://arxiv.org/abs/2208.06677), 2022; there the decay is implicit,
        $p \leftarrow (p - \eta u) / (1 + \lambda \eta)$.
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root, difference_weight=difference_weight),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def ademamix(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: DecayOrSchedule = 0.9999,
    alpha: NonNegativeOrSchedule = 5.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""Adam with a second, slower mean of gradients beside the first: AdEMAMix.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        b3: As in `scale_by_ademamix`, as is `alpha`.
        alpha: The weight of the slow mean.
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        mu_dtype: The dtype in which the two means are stored.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds 12 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.ademamix(0.001)
        ademamix(0.001)

    References:
        M. Pagliardini, P. Ablin and D. Grangier, [The AdEMAMix optimizer: better, faster,
        older](https://arxiv.org/abs/2409.03137), 2024.
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def simplified_ademamix(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.99,
    b2: Decay = 0.95,
    alpha: ScalarOrSchedule = 0.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""A heavy ball with a weight of its own on the newest gradient, over Adam's root.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the sum of gradients, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        alpha: The weight of the newest gradient, as in `add_gradient`.
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.simplified_ademamix(0.001, alpha=10.0)
        simplified_ademamix(0.001, alpha=10.0)

    References:
        D. Morwani et al., [Connections between schedule-free optimizers, AdEMAMix, and
        accelerated SGD variants](https://arxiv.org/abs/2502.02431), 2025.
    """
    return chain(
        scale_by_momentum(b1),
        add_gradient(alpha),
        scale_by_rms(b2, eps, eps_root=eps_root, bias_correction=True),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adopt(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: StorageDtype | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: NonNegativeOrSchedule = fourth_root,
) -> GradientTransformation:
    r"""Adam that divides by the gradients before the newest, then averages: ADOPT.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: A floor under the root of the second moment.
        mu_dtype: The dtype in which the first moment is stored.
        nesterov: As in `scale_by_adopt`, as is the rest.
        use_clipping: Whether to clip the divided gradients.
        clip_value_fn: Where to, a function of the step, which counts from 0, or a number.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.adopt(0.001)
        adopt(0.001)

    References:
        S. Taniguchi et al., [ADOPT: modified Adam can converge with any $\beta_2$ with the
        optimal rate](https://arxiv.org/abs/2411.02853), 2024.
    """
    return chain(
        scale_by_adopt(
            b1,
            b2,
            eps,
            mu_dtype,
            nesterov=nesterov,
            use_clipping=use_clipping,
            clip_value_fn=clip_value_fn,
        ),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adadelta(
    learning_rate: NonNegativeOrSchedule = 1.0,
    rho: Decay = 0.9,
    eps: NonNegative = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = None,
) -> GradientTransformation:
    r"""Steps as long as past steps, over the size of past gradients: Adadelta.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule; 1 in the
            paper, PyTorch and here, 1e-3 in Keras and TensorFlow.
        rho: As in `scale_by_adadelta`, as is `eps`.
        eps: Added to both mean squares.
        weight_decay: The L2 penalty.
        weight_decay_mask: Which parameters it counts for; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.adadelta(rho=0.95)
        adadelta(rho=0.95)

    References:
        M. D. Zeiler, [ADADELTA: an adaptive learning rate
        method](https://arxiv.org/abs/1212.5701), 2012.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adafactor(
    learning_rate: NonNegativeOrSchedule | None = None,
    min_dim_size_to_factor: PositiveCount = 128,
    decay_rate: Fraction = 0.8,
    decay_offset: NonNegative = 0.0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Positive | None = 1.0,
    momentum: Decay | None = None,
    dtype_momentum: StorageDtype | None = None,
    weight_decay_rate: ScalarOrSchedule | None = None,
    eps: NonNegative = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask | None = None,
) -> GradientTransformation:
    r"""RMSprop with a second moment of rows and columns, by a fraction of each leaf.

    As in Optax. PyTorch's and Keras' rate is at most one over the root of the step
    (`inverse_sqrt_schedule`), and they factor every leaf of two axes or more.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule; `None` for 1.
        min_dim_size_to_factor: As in `scale_by_factored_rms`, as are `decay_rate`,
            `decay_offset` (`step_offset` there), `eps` and `factored`.
        decay_rate: How fast the second moment forgets less.
        decay_offset: How many steps to count less.
        multiply_by_parameter_scale: Whether `scale_by_param_block_rms` follows.
        clipping_threshold: For `clip_by_block_rms`; `None` for no clipping.
        momentum: The decay of a running mean of steps; `None` for none.
        dtype_momentum: The dtype in which that is stored; as in `ema`.
        weight_decay_rate: How much the parameters decay at each step, whatever the learning
            rate; `None` for none.
        eps: Added to squared gradients.
        factored: Whether to factor at all.
        weight_decay_mask: Which parameters decay; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds m + n numbers for an m x n matrix. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.adafactor(0.001)
        adafactor(0.001)

    References:
        N. Shazeer and M. Stern, [Adafactor: adaptive learning rates with sublinear memory
        cost](https://arxiv.org/abs/1804.04235), 2018.
    """
    return chain(
        scale_by_factored_rms(
            factored, decay_rate, decay_offset, min_dim_size_to_factor, eps
        ),
        identity() if clipping_threshold is None else clip_by_block_rms(clipping_threshold),
        identity()
        if learning_rate is None
        else scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_param_block_rms() if multiply_by_parameter_scale else identity(),
        identity()
        if momentum is None
        else ema(momentum, debias=False, dtype=dtype_momentum),
        identity()
        if weight_decay_rate is None
        else add_decayed_weights(weight_decay_rate, weight_decay_mask),
        scale(-1.0),
    )


@transformation
def sm3(
    learning_rate: NonNegativeOrSchedule,
    momentum: Decay = 0.9,
) -> GradientTransformation:
    r"""AdaGrad with sums for rows and columns only: SM3.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        momentum: The `b1` of `scale_by_sm3`.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter, and as much for each row and
        column.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.sm3(0.1)
        sm3(0.1)

    References:
        R. Anil et al., [Memory efficient adaptive
        optimization](https://arxiv.org/abs/1901.11150), 2019.
    """
    return chain(scale_by_sm3(momentum), scale_by_learning_rate(learning_rate))


@transformation
def madgrad(
    learning_rate: NonNegativeOrSchedule,
    momentum: Decay = 0.9,
    weight_decay: ScalarOrSchedule = 0.0,
    eps: NonNegative = 1e-6,
) -> GradientTransformation:
    r"""Dual averaging over a cube root, with momentum: MADGRAD.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        momentum: As in `scale_by_madgrad`, as is `eps`.
        weight_decay: The L2 penalty.
        eps: Added to the cube root.

    Returns:
        The `chain`. Its state holds 12 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.madgrad(0.01)
        madgrad(0.01)

    References:
        A. Defazio and S. Jelassi, [Adaptivity without
        compromise](https://arxiv.org/abs/2101.11075), 2021.
    """
    return chain(
        add_decayed_weights(weight_decay), scale_by_madgrad(learning_rate, momentum, eps)
    )


@transformation
def lion(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    mu_dtype: StorageDtype | None = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: Mask | None = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: Positive = 1.0,
) -> GradientTransformation:
    r"""Signs of a mean of gradients, with decoupled weight decay: Lion.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: As in `scale_by_lion`, as are `b2`, `mu_dtype`, `mode` and `smooth_beta`.
        b2: The decay of the mean that is kept.
        mu_dtype: The dtype in which it is stored.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.
        mode: `"hard"` for the sign itself.
        smooth_beta: How steep `"smooth"` is.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.lion(0.0001)
        lion(0.0001)

    References:
        X. Chen et al., [Symbolic discovery of optimization
        algorithms](https://arxiv.org/abs/2302.06675), 2023.
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype, mode=mode, smooth_beta=smooth_beta),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def rprop(
    learning_rate: NonNegative,
    eta_minus: Fraction = 0.5,
    eta_plus: AtLeastOne = 1.2,
    min_step_size: NonNegative = 1e-6,
    max_step_size: NonNegative = 50.0,
) -> GradientTransformation:
    r"""Steps by sign, longer and longer until the gradient turns: Rprop, for full batches.

    Args:
        learning_rate: The first step $\ge 0$, a number.
        eta_minus: As in `scale_by_rprop`, as is the rest.
        eta_plus: What a step is multiplied by while the sign stays.
        min_step_size: The smallest step.
        max_step_size: The largest step.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.rprop(0.01)
        rprop(0.01)

    References:
        M. Riedmiller and H. Braun, [A direct adaptive method for faster backpropagation
        learning](https://doi.org/10.1109/ICNN.1993.298623), 1993.
    """
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size),
        scale(-1.0),
    )


@transformation
def sign_sgd(
    learning_rate: NonNegativeOrSchedule,
) -> GradientTransformation:
    r"""Gradient descent by signs.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.

    Returns:
        The `chain`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.sign_sgd(0.01)
        sign_sgd(0.01)

    References:
        J. Bernstein et al., [signSGD: compressed optimisation for non-convex
        problems](https://arxiv.org/abs/1802.04434), 2018.
    """
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@transformation
def signum(
    learning_rate: NonNegativeOrSchedule,
    beta: Decay = 0.9,
    accumulator_dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Descent by the signs of a running mean of gradients.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        beta: The decay of the mean, in [0, 1).
        accumulator_dtype: The dtype in which it is stored.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.signum(0.01)
        signum(0.01)

    References:
        J. Bernstein et al., [signSGD: compressed optimisation for non-convex
        problems](https://arxiv.org/abs/1802.04434), 2018.
    """
    return chain(
        ema(beta, debias=False, dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def optimistic_gradient_descent(
    learning_rate: NonNegativeOrSchedule,
    alpha: ScalarOrSchedule = 1.0,
    beta: ScalarOrSchedule = 1.0,
) -> GradientTransformation:
    r"""Gradient descent that expects the last change of the gradient once more: for games.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        alpha: As in `scale_by_optimistic_gradient`, as is `beta`.
        beta: The weight of the change.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.optimistic_gradient_descent(0.1)
        optimistic_gradient_descent(0.1)

    References:
        A. Mokhtari, A. Ozdaglar and S. Pattathil, [A unified analysis of extra-gradient and
        optimistic gradient methods](https://arxiv.org/abs/1901.08511), 2019.
    """
    return chain(
        scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate)
    )


@transformation
def optimistic_adam(
    learning_rate: NonNegativeOrSchedule,
    *,
    alpha: ScalarOrSchedule = 1.0,
    beta: ScalarOrSchedule = 1.0,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
    nesterov: bool = True,
) -> GradientTransformation:
    r"""Adam that expects the last change of its direction once more: for games.

    Optax's `optimistic_adam_v2`.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        alpha: As in `scale_by_optimistic_gradient`, as is `beta`.
        beta: The weight of the change.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        eps_root: Added to the second moment, inside of the root.
        mu_dtype: The dtype in which the first moment is stored.
        nesterov: Whether to look one step ahead; `False` in the paper.

    Returns:
        The `chain`. Its state holds 12 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.optimistic_adam(0.01)
        optimistic_adam(0.01)

    References:
        C. Daskalakis et al., [Training GANs with
        optimism](https://arxiv.org/abs/1711.00141), 2018.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def polyak_sgd(
    max_learning_rate: Positive = 1.0,
    scaling: NonNegativeOrSchedule = 1.0,
    f_min: Scalar = 0.0,
    eps: NonNegative = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> GradientTransformation:
    r"""Gradient descent whose rate follows from how far the loss is from its minimum.

    `update` needs the loss, `value=f`.

    Args:
        max_learning_rate: As in `scale_by_polyak`, as are `f_min`, `eps` and `variant`.
        scaling: What the step is multiplied by: a number, a traced scalar, or a schedule.
        f_min: The smallest value of the loss.
        eps: Added to the squared norm of the gradient.
        variant: `"sps+"` never climbs.

    Returns:
        The `chain`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.polyak_sgd(f_min=0.5)
        polyak_sgd(f_min=0.5)

    References:
        N. Loizou et al., [Stochastic Polyak step-size for
        SGD](https://arxiv.org/abs/2002.10542), 2021.
    """
    return chain(
        scale_by_polyak(f_min, max_learning_rate, eps, variant),
        scale_by_learning_rate(scaling),
    )


@transformation
def dog(
    learning_rate: NonNegativeOrSchedule = 1.0,
    init_step: InitStep = ("heuristic", 1e-6),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
    *,
    layerwise: bool = False,
) -> GradientTransformation:
    r"""Gradient descent that finds its rate: distance over gradients.

    The authors take an average of the parameters for the result, with weights that grow:
    `average_params(dog(), lambda n: n / (n + 9), start=1)`.

    Args:
        learning_rate: $\eta \ge 0$, a factor of the rate that is found: a number, a traced
            scalar, or a schedule.
        init_step: As in `scale_by_dog`, as are `eps` and `layerwise`.
        eps: Added to the sum of squares.
        weight_decay: The strength of an L2 penalty; `None` for none.
        mask: Which parameters it is for; as in `add_decayed_weights`.
        layerwise: Whether each leaf finds a rate of its own: L-DoG.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: If `init_step` is no pair of a word and a number.

    Example:
        >>> import optimjax as ox
        >>> ox.dog(init_step=("distance", 0.001))
        dog(init_step=('distance', 0.001))

    References:
        M. Ivgi, O. Hinder and Y. Carmon, [DoG is SGD's best friend: a parameter-free
        dynamic step size schedule](https://arxiv.org/abs/2302.12022), 2023.
    """
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dog(init_step, eps, layerwise=layerwise),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def dowg(
    learning_rate: NonNegativeOrSchedule = 1.0,
    init_estim_sq_dist: Positive | None = None,
    eps: NonNegative = 1e-4,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""Gradient descent that finds its rate: distance over weighted gradients.

    Args:
        learning_rate: $\eta \ge 0$, a factor of the rate that is found: a number, a traced
            scalar, or a schedule.
        init_estim_sq_dist: As in `scale_by_dowg`, as is `eps`.
        eps: Added to the root of the weighted sum of squares.
        weight_decay: The strength of an L2 penalty; `None` for none.
        mask: Which parameters it is for; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.dowg(init_estim_sq_dist=1e-6, eps=0.0)
        dowg(init_estim_sq_dist=1e-06, eps=0.0)

    References:
        A. Khaled, K. Mishchenko and C. Jin, [DoWG unleashed: an efficient universal
        parameter-free gradient descent method](https://arxiv.org/abs/2305.16284), 2023.
    """
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dowg(init_estim_sq_dist, eps),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def cocob(
    learning_rate: NonNegativeOrSchedule = 1.0,
    alpha: NonNegative = 100.0,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""Descent without a rate, by betting on coins: COCOB.

    Args:
        learning_rate: $\eta \ge 0$, what *gradients* are multiplied by, as in Optax: a
            schedule says how much each step counts, and a number changes nothing, since
            bets do not depend on the unit of the coins. To scale the steps, put a
            `scale_by_schedule` behind.
        alpha: As in `scale_by_cocob`, as is `eps`.
        eps: A gradient too small to matter.
        weight_decay: The strength of an L2 penalty.
        mask: Which parameters it is for; as in `add_decayed_weights`.

    Returns:
        The `chain`. Its state holds 20 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.cocob(alpha=50.0)
        cocob(alpha=50.0)

    References:
        F. Orabona and T. Tommasi, [Training deep networks without learning rates through
        coin betting](https://arxiv.org/abs/1705.07795), 2017.
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )


@transformation
def noisy_sgd(
    learning_rate: NonNegativeOrSchedule,
    eta: NonNegative = 0.01,
    gamma: NonNegative = 0.55,
    key: Key = 0,
) -> GradientTransformation:
    r"""Gradient descent with noise that fades.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        eta: As in `add_noise`, as is the rest.
        gamma: How fast the noise fades.
        key: A random key, or an integer seed for one.

    Returns:
        The `chain`.

    Raises:
        ValueError: If a number lies outside of its range.
        TypeError: If `key` is neither a key nor an integer.

    Example:
        >>> import optimjax as ox
        >>> ox.noisy_sgd(0.1, key=3)
        noisy_sgd(0.1, key=3)

    References:
        A. Neelakantan et al., [Adding gradient noise improves learning for very deep
        networks](https://arxiv.org/abs/1511.06807), 2015.
    """
    return chain(add_noise(eta, gamma, key), scale_by_learning_rate(learning_rate))


@transformation
def sgld(
    learning_rate: NonNegativeOrSchedule,
    temperature: NonNegative = 1.0,
    *,
    key: Key,
) -> GradientTransformation:
    r"""Stochastic gradient Langevin dynamics: descent with noise that makes it a sampler.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        temperature: As in `add_langevin_noise`, as is `key`.
        key: A random key, or an integer seed for one.

    Returns:
        The `chain`.

    Raises:
        ValueError: If a number lies outside of its range.
        TypeError: If `key` is neither a key nor an integer.

    Example:
        >>> import optimjax as ox
        >>> ox.sgld(0.0001, key=0)
        sgld(0.0001, key=0)

    References:
        M. Welling and Y. W. Teh, [Bayesian learning via stochastic gradient Langevin
        dynamics](https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf), 2011.
    """
    return chain(
        scale_by_learning_rate(learning_rate),
        add_langevin_noise(learning_rate, temperature, key=key),
    )


@transformation
def schedule_free_sgd(
    learning_rate: NonNegativeOrSchedule = 1.0,
    warmup_steps: Count | None = None,
    b1: Decay = 0.9,
    weight_decay: ScalarOrSchedule | None = None,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Gradient descent that averages instead of lowering the rate.

    Evaluate with `eval_params(state, params)`, not with the parameters.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule, which should
            not fall.
        warmup_steps: The length of a linear rise from 0 to `learning_rate`, or `None`.
        b1: As in `schedule_free`, as are `weight_lr_power` and `state_dtype`.
        weight_decay: A multiple of the parameters, those that gradients are taken at, which
            is added to the gradients. `None` adds nothing.
        weight_lr_power: The power of the rate by which a step weighs in the average.
        state_dtype: The dtype to store the path of descent in.

    Returns:
        The `schedule_free` of a `chain`. Its state holds 4 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import optimjax as ox
        >>> ox.schedule_free_sgd(0.1)
        schedule_free_sgd(0.1)

    References:
        A. Defazio et al., [The road less
        scheduled](https://arxiv.org/abs/2405.15682), 2024.
    """
    rate = warmup_schedule(learning_rate, warmup_steps) if warmup_steps else learning_rate
    descent = chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay), sgd(rate)
    )
    return schedule_free(descent, rate, b1, weight_lr_power, state_dtype)


@transformation
def schedule_free_adamw(
    learning_rate: NonNegativeOrSchedule = 0.0025,
    warmup_steps: Count | None = None,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""AdamW with an average in place of its momentum, and of a rate that falls.

    Evaluate with `eval_params(state, params)`, not with the parameters.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule, which should
            not fall.
        warmup_steps: The length of a linear rise from 0 to `learning_rate`, or `None`.
        b1: As in `schedule_free`, as are `weight_lr_power` and `state_dtype`.
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: Decoupled, of the parameters that gradients are taken at, and times
            the learning rate.
        weight_lr_power: The power of the rate by which a step weighs in the average.
        state_dtype: The dtype to store the path of descent in.

    Returns:
        The `schedule_free` of a `chain`. Its state holds 8 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import optimjax as ox
        >>> ox.schedule_free_adamw(0.0025)
        schedule_free_adamw(0.0025)

    References:
        A. Defazio et al., [The road less
        scheduled](https://arxiv.org/abs/2405.15682), 2024.
    """
    rate = warmup_schedule(learning_rate, warmup_steps) if warmup_steps else learning_rate
    descent = chain(
        scale_by_rms(b2, eps, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(rate),
    )
    return schedule_free(descent, rate, b1, weight_lr_power, state_dtype)


@transformation
def sophia(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.965,
    b2: Decay = 0.99,
    eps: Positive = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    weight_decay_mask: Mask | None = None,
    gamma: NonNegative = 0.01,
    clip_threshold: NonNegative | None = 1.0,
    update_interval: PositiveCount = 10,
    hessian_diagonal_fn: GradientTransformation | None = HUTCHINSON,
    mu_dtype: StorageDtype | None = None,
    *,
    bias_correction: bool = True,
) -> GradientTransformation:
    r"""Momentum over the curvature, clipped: a second-order rule for language models.

    `update` needs what its estimator reads: with the default, Sophia-H, the loss as a
    function of the params, `obj_fn=lambda p: loss(p, batch)`; with
    `gauss_newton_bartlett_estimator()`, Sophia-G, the logits, `logits_fn=...`. It is called
    at one of `update_interval` steps.

    The estimate of a step counts at that step, as in the paper, and is made at its params;
    Optax lets it count one step later, so that its first step is taken without any.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the mean of gradients, in [0, 1): 0.96 in the paper.
        b2: The decay of the mean of the curvature, in [0, 1), from estimate to estimate.
        eps: The least curvature to divide by, > 0 (the authors' code adds 1e-15 instead).
        weight_decay: How much of the parameters is added to the direction, before the rate:
            0.1 to 0.2 in the paper.
        weight_decay_mask: Which parameters decay; as in `add_decayed_weights`.
        gamma: What the curvature is multiplied by; as in `scale_by_curvature`.
        clip_threshold: The largest modulus of a number before the rate; `None` for none.
        update_interval: From how many steps to the next an estimate is made.
        hessian_diagonal_fn: Where estimates come from; as in `scale_by_curvature`, where
            `None` is explained, too.
        mu_dtype: The dtype in which the mean of gradients is stored.
        bias_correction: Whether the bias towards zero is divided out of the mean of
            gradients: in Optax and in the authors' Sophia-H, but not in the paper.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: If `hessian_diagonal_fn` is no transformation; in `update`, if what it
            reads is missing.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t, p = ox.sophia(0.1, gamma=0.5, weight_decay=0.0), jnp.array([1.0, 1.0])
        >>> def loss(p):  # A saddle: it leaves where the curvature is negative.
        ...     return 500.0 * p[0] ** 2 - 0.001 * p[1] ** 2
        >>> state = t.init(p)
        >>> updates, state = t.update(jax.grad(loss)(p), state, p, obj_fn=loss)
        >>> print(updates)
        [-0.1  0.1]

    References:
        H. Liu et al., [Sophia: a scalable stochastic second-order optimizer for language
        model pre-training](https://arxiv.org/abs/2305.14342), 2023, algorithm 3.
    """
    return chain(
        ema(b1, debias=bias_correction, dtype=mu_dtype),
        scale_by_curvature(b2, gamma, eps, update_interval, hessian_diagonal_fn),
        identity() if clip_threshold is None else clip(clip_threshold),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adahessian(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-4,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    update_interval: PositiveCount = 1,
    hessian_diagonal_fn: GradientTransformation | None = HUTCHINSON,
    mu_dtype: StorageDtype | None = None,
    *,
    hessian_power: Fraction = 1.0,
    spatial_axes: SpatialAxes = (0, 1),
) -> GradientTransformation:
    r"""Adam that divides by the diagonal of the Hessian in place of the gradient.

    `update` needs what its estimator reads: with the default, the loss as a function of the
    params, `obj_fn=lambda p: loss(p, batch)`.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule: about 0.15.
        b1: The decay of the mean of gradients, in [0, 1).
        b2: The decay of the mean of squared curvatures, in [0, 1).
        eps: Added to the root of that mean.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.
        update_interval: As in `scale_by_curvature_rms`, as is the rest.
        hessian_diagonal_fn: Where estimates come from; `None`: from `hessian_diagonal=...`.
        mu_dtype: The dtype in which the mean of gradients is stored.
        hessian_power: The power of the root to divide by, in [0, 1].
        spatial_axes: The axes of a convolution's window in an array of four.

    Returns:
        The `chain`. Its state holds 8 bytes a parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: If `hessian_diagonal_fn` is no transformation; in `update`, if what it
            reads is missing.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t, p = ox.adahessian(0.5), jnp.array([1.0, 2.0])
        >>> def loss(p):
        ...     return 500.0 * p[0] ** 2 + p[1] ** 2
        >>> updates, _ = t.update(jax.grad(loss)(p), t.init(p), p, obj_fn=loss)
        >>> print(updates)  # Half of Newton's step.
        [-0.5      -0.99995]

    References:
        Z. Yao et al., [AdaHessian: an adaptive second order optimizer for machine
        learning](https://arxiv.org/abs/2006.00719), 2021.
    """
    return chain(
        ema(b1, dtype=mu_dtype),
        scale_by_curvature_rms(
            b2,
            eps,
            update_interval,
            hessian_diagonal_fn,
            hessian_power=hessian_power,
            spatial_axes=spatial_axes,
        ),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def momo_adam(
    learning_rate: NonNegativeOrSchedule = 1e-2,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    lower_bound: Scalar = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformation:
    r"""Adam with a rate that follows from how far the loss is above a bound: MoMo-Adam.

    `update` needs the loss, `value=f`.

    Args:
        learning_rate: The largest rate; better too large than too small. As in `momo`, as
            are `lower_bound` to `adapt_lower_bound`.
        b1: The decay of the mean of gradients, in [0, 1), and of that of losses.
        b2: The decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        lower_bound: A bound of the loss from below.
        weight_decay: The strength of a decoupled decay.
        adapt_lower_bound: Whether the bound is found on the way.

    Returns:
        `momo` with `scale_by_rms` for its preconditioner. Its state holds 8 bytes a
        parameter. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> ox.momo_adam(0.1, lower_bound=1.5)
        momo_adam(0.1, lower_bound=1.5)

    References:
        F. Schaipp et al., [MoMo: momentum models for adaptive learning
        rates](https://arxiv.org/abs/2305.07583), 2023.
    """
    return momo(
        learning_rate,
        b1,
        lower_bound,
        weight_decay,
        adapt_lower_bound,
        preconditioner=scale_by_rms(b2, eps, bias_correction=True),
        bias_correction=True,
    )


# A quasi-Newton direction brings its own length: 1 is the step to try first.
_ZOOM = scale_by_zoom_linesearch(20, initial_guess_strategy="one")


@transformation
def lbfgs(
    learning_rate: NonNegativeOrSchedule | None = None,
    memory_size: PositiveCount = 10,
    scale_init_precond: bool = True,
    linesearch: GradientTransformation | None = _ZOOM,
) -> GradientTransformation:
    r"""L-BFGS: steps by the curvature that the last ones tell, as long as a search says.

    `minimize` runs it to the end. In a loop of one's own, `update` takes `value=` the loss
    and `value_fn=` its function besides, and `value_and_grad_from_state` saves evaluations.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule: what the
            search takes for the whole step; `None` means 1.
        memory_size: The pairs to keep, an integer from 1.
        scale_init_precond: As in `scale_by_lbfgs`.
        linesearch: The search, any transformation that takes the whole step; `None` takes
            the step as it is, and needs neither `value` nor `value_fn`.

    Returns:
        A `chain`. Its state holds `2 * memory_size + 4` arrays for each parameter.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.
        TypeError: If `linesearch` is no transformation; in `update`, if `value` or
            `value_fn` is missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> loss = lambda p: jnp.sum((p - jnp.arange(3.0)) ** 4)
        >>> result = ox.minimize(loss, jnp.ones(3), ox.lbfgs(), gtol=1e-8)
        >>> print(result.params.round(1))
        [0. 1. 2.]

    References:
        D. Liu and J. Nocedal, [On the limited memory BFGS method for large scale
        optimization](https://doi.org/10.1007/BF01589116), 1989.
    """
    rate = scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate)
    search = identity() if linesearch is None else linesearch
    check_stages("lbfgs", [search], "`linesearch`")
    return chain(scale_by_lbfgs(memory_size, scale_init_precond), rate, search)


@transformation
def muon(
    learning_rate: NonNegativeOrSchedule,
    ns_coeffs: Coefficients = "standard",
    ns_steps: PositiveCount | None = None,
    beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: StorageDtype | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    dtype: StorageDtype | None = None,
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.999,
    adam_eps_root: NonNegative = 0.0,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: NonNegativeOrSchedule | None = None,
    consistent_rms: NonNegative | None = None,
    axes: Axes = None,
) -> GradientTransformation:
    r"""Muon: momentum, made semi-orthogonal, for matrices; AdamW for all else.

    Embeddings and the last layer are matrices, too, and are better left to AdamW:
    `axes={"embed/**": None, "head/**": None}`. `matrices.assignment(params, axes)` shows
    what is a matrix, and of which size.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        ns_coeffs: As in `orthogonalize`, as are the next, `eps`, `adaptive`,
            `preconditioning` and `dtype`.
        ns_steps: The number of steps of Newton-Schulz; `None`: 5, or one for each triple.
        beta: The decay of the momentum, a running mean, in [0, 1).
        eps: Added to the norm that a matrix is divided by, and in AdamW.
        weight_decay: Decoupled decay of the matrices, times the rate: 0.1 in PyTorch and
            Moonlight, 0.004 in Keras.
        weight_decay_mask: Which of the matrices decay: patterns or a function, as in
            `add_decayed_weights`; it sees the matrices alone.
        mu_dtype: The dtype in which the momentum is stored, that of AdamW, too.
        nesterov: Whether to look one step ahead, in AdamW, too.
        adaptive: Whether to multiply by the sum of singular values.
        preconditioning: How singular values are brought below one.
        dtype: The dtype of the factors in matrix products, such as `"bfloat16"`.
        adam_b1: The decay of AdamW's first moment, in [0, 1).
        adam_b2: The decay of AdamW's second moment, in [0, 1).
        adam_eps_root: Added to AdamW's second moment, inside of the root.
        adam_weight_decay: The decay of AdamW.
        adam_learning_rate: The rate of AdamW; `None`: the same.
        consistent_rms: The root mean square of each step, over the rate: 0.2 for a rate
            that would do for AdamW, as in Moonlight. `None` for the factor
            $\sqrt{\max(1, n / m)}$ in its place, with $m$ inputs and $n$ outputs.
        axes: What the axes of a parameter are; see `optimjax.matrices`. `None`: what has
            two axes is a matrix, (inputs, outputs).

    Returns:
        The `on_matrices` of two `chain`s. Its state holds 4 bytes a parameter of matrices,
        8 of others.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, or if a role does not fit its parameter.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.zeros((2, 2)), "head": jnp.zeros((2, 3))}
        >>> grads = {"w": jnp.diag(jnp.array([8.0, -2.0])), "head": jnp.full((2, 3), 9.0)}
        >>> optimizer = ox.muon(0.1, ns_coeffs="svd", axes={"head": None})
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> print(jnp.diag(updates["w"]), updates["head"][0])
        [-0.1  0.1] [-0.1 -0.1 -0.1]

    References:
        K. Jordan et al., [Muon](https://kellerjordan.github.io/posts/muon/), 2024; there
        the momentum is a sum, which is as long as you like.
        J. Liu et al., [Muon is scalable for LLM
        training](https://arxiv.org/abs/2502.16982), 2025.
    """
    return on_matrices(
        chain(
            scale_by_momentum(beta, dampening=beta, dtype=mu_dtype),
            add_bias_correction(beta, nesterov=nesterov),
            orthogonalize(
                ns_coeffs,
                ns_steps,
                eps,
                preconditioning=preconditioning,
                adaptive=adaptive,
                dtype=dtype,
                axes=axes,
            ),
            scale_by_matrix_shape(axes=axes)
            if consistent_rms is None
            else scale_by_matrix_shape("match_rms", consistent_rms, axes=axes),
            add_decayed_weights(weight_decay, weight_decay_mask),
            scale_by_learning_rate(learning_rate),
        ),
        adamw(
            learning_rate if adam_learning_rate is None else adam_learning_rate,
            adam_b1,
            adam_b2,
            eps,
            adam_eps_root,
            mu_dtype,
            adam_weight_decay,
            nesterov=nesterov,
        ),
        axes,
    )


@transformation
def normuon(
    learning_rate: NonNegativeOrSchedule,
    ns_coeffs: Coefficients = "standard",
    ns_steps: PositiveCount | None = None,
    beta: Decay = 0.95,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: StorageDtype | None = None,
    *,
    nesterov: bool = True,
    preconditioning: Preconditioning = "frobenius",
    dtype: StorageDtype | None = None,
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.999,
    adam_eps_root: NonNegative = 0.0,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: NonNegativeOrSchedule | None = None,
    consistent_rms: NonNegative | None = 0.2,
    axes: Axes = None,
) -> GradientTransformation:
    r"""NorMuon: Muon whose steps are as long for each output as they were for it before.

    Args:
        learning_rate: As in `muon`, as is all but `b2`.
        ns_coeffs: As in `orthogonalize`, as are the next, `preconditioning` and `dtype`.
        ns_steps: The number of steps of Newton-Schulz; `None`: 5, or one for each triple.
        beta: The decay of the momentum, a running mean, in [0, 1).
        b2: The decay of the mean square of each output's steps, in [0, 1).
        eps: Added to the norm that a matrix is divided by, and in AdamW.
        weight_decay: Decoupled decay of the matrices, times the rate.
        weight_decay_mask: Which of the matrices decay.
        mu_dtype: The dtype in which the momentum is stored, that of AdamW, too.
        nesterov: Whether to look one step ahead, in AdamW, too.
        preconditioning: How singular values are brought below one.
        dtype: The dtype of the factors in matrix products, such as `"bfloat16"`.
        adam_b1: The decay of AdamW's first moment, in [0, 1).
        adam_b2: The decay of AdamW's second moment, in [0, 1).
        adam_eps_root: Added to AdamW's second moment, inside of the root.
        adam_weight_decay: The decay of AdamW.
        adam_learning_rate: The rate of AdamW; `None`: the same.
        consistent_rms: The root mean square of each step, over the rate; `None` for the
            factor of `muon`, as in the authors' code.
        axes: What the axes of a parameter are; see `optimjax.matrices`.

    Returns:
        The `on_matrices` of two `chain`s. Its state holds 4 bytes a parameter of matrices,
        8 of others.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, or if a role does not fit its parameter.

    Example:
        >>> import optimjax as ox
        >>> ox.normuon(1e-3, axes="oi")
        normuon(0.001, axes='oi')

    References:
        Z. Li et al., [NorMuon: making Muon more efficient and
        scalable](https://arxiv.org/abs/2510.05491), 2025.
    """
    return on_matrices(
        chain(
            scale_by_momentum(beta, dampening=beta, dtype=mu_dtype),
            add_bias_correction(beta, nesterov=nesterov),
            orthogonalize(
                ns_coeffs,
                ns_steps,
                eps,
                preconditioning=preconditioning,
                dtype=dtype,
                axes=axes,
            ),
            scale_by_unit_rms(b2, axes=axes),
            scale_by_matrix_shape(axes=axes)
            if consistent_rms is None
            else scale_by_matrix_shape("match_rms", consistent_rms, axes=axes),
            add_decayed_weights(weight_decay, weight_decay_mask),
            scale_by_learning_rate(learning_rate),
        ),
        adamw(
            learning_rate if adam_learning_rate is None else adam_learning_rate,
            adam_b1,
            adam_b2,
            eps,
            adam_eps_root,
            mu_dtype,
            adam_weight_decay,
            nesterov=nesterov,
        ),
        axes,
    )


@transformation
def scion(
    learning_rate: NonNegativeOrSchedule,
    beta: Decay = 0.9,
    radius: NonNegative = 1.0,
    others_radius: NonNegative = 1.0,
    *,
    constrained: bool = True,
    ns_coeffs: Coefficients = "standard",
    ns_steps: PositiveCount | None = None,
    eps: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
    dtype: StorageDtype | None = None,
    axes: Axes = None,
) -> GradientTransformation:
    r"""Scion: each layer steps to the far end of a ball, by the norm that fits the layer.

    With the running mean of gradients $\bar g$, and $\bar g = U \Sigma V^\top$,

    $$ p \leftarrow (1 - \eta)\, p - \eta\, \rho \sqrt{n / m}\; U V^\top, \qquad
       p \leftarrow (1 - \eta)\, p - \eta\, \rho_s\, \mathrm{sign}(\bar g), $$

    the first for matrices, of $m$ inputs and $n$ outputs, the second for all else. So a
    parameter that starts in its ball, of radius $\rho$, stays there; without
    `constrained`, $p$ is not multiplied, and goes as far as it likes. There is one rate,
    no Adam, and no second moment.

    Last layers and embeddings are for the sign: `axes={"head/**": None}`. The paper's sign
    for a layer with $d$ inputs has the radius $\rho_s / d$: in its GPT $\rho$ is 50 and
    `others_radius` 3000 / 768. For other norms, see `normalize_units`, and give layers
    theirs by `partition`.

    Args:
        learning_rate: $\eta$, in $[0, 1]$ if `constrained`: a number, a traced scalar, or
            a schedule.
        beta: The decay of the mean, in [0, 1); $1 - \alpha$ in the paper.
        radius: $\rho \ge 0$, of matrices. May be traced.
        others_radius: $\rho_s \ge 0$, of all else.
        constrained: Whether to stay in the ball (Scion), or not (unconstrained Scion).
        ns_coeffs: As in `orthogonalize`, as are `ns_steps`, `eps`, and `dtype`.
        ns_steps: The number of steps of Newton-Schulz; `None`: 5, or one for each triple.
        eps: Added to the norm that a matrix is divided by.
        mu_dtype: The dtype in which the mean is stored.
        dtype: The dtype of the factors in matrix products, such as `"bfloat16"`.
        axes: What the axes of a parameter are; see `optimjax.matrices`.

    Returns:
        The `chain`. Its state holds 4 bytes a parameter.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, or if a role does not fit its parameter.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.zeros((1, 4)), "b": jnp.zeros(2)}
        >>> grads = {"w": jnp.ones((1, 4)), "b": jnp.array([3.0, -0.1])}
        >>> optimizer = ox.scion(0.1, ns_coeffs="svd", others_radius=2.0)
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> print(updates["w"], updates["b"])
        [[-0.1 -0.1 -0.1 -0.1]] [-0.2  0.2]

    References:
        T. Pethick et al., [Training deep learning models with norm-constrained
        LMOs](https://arxiv.org/abs/2502.07529), 2025. A convolution of $k \times k$ is one
        matrix here, with $k^2$ inputs for each channel; there its factor is less by $k$.
    """
    if constrained and isinstance(learning_rate, float) and learning_rate > 1:
        raise ValueError(
            f"`scion(learning_rate=...)` must lie in [0, 1], but got {learning_rate}: "
            "beyond 1 it leaves the ball. `constrained=False` takes any rate."
        )
    return chain(
        ema(beta, debias=False, dtype=mu_dtype),
        on_matrices(
            chain(
                orthogonalize(ns_coeffs, ns_steps, eps, dtype=dtype, axes=axes),
                scale_by_matrix_shape("spectral", radius, axes=axes),
            ),
            chain(scale_by_sign(), scale(others_radius)),
            axes,
        ),
        add_decayed_weights(1.0) if constrained else identity(),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def psgd_kron(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    preconditioner_update_probability: FractionOrSchedule = ANNEALED,
    max_size_triangular: Count = 8192,
    *,
    precond_lr: Decay = 0.1,
    precond_init_scale: Positive = 1.0,
    momentum_into_precond_update: bool = True,
    max_rms: Threshold = 1.1,
    axes: Axes = None,
    key: Key = 0,
) -> GradientTransformation:
    r"""Momentum that is whitened from both sides of each matrix: PSGD-Kron.

    What is no matrix is divided by a root mean square, number by number; to give it to
    another optimizer, `on_matrices(psgd_kron(...), adamw(...), axes)`. As all numbers of a
    step are about 1, learning rates are those of Adam, and less: 1/3 of Adam's, say its
    authors, with weight decay to match.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        b1: The decay of the momentum, a running mean without bias, in [0, 1).
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.
        preconditioner_update_probability: As in `scale_by_psgd_kron`, as is the rest.
        max_size_triangular: The length up to which a side has a triangular factor.
        precond_lr: The rate at which the factors are learnt.
        precond_init_scale: What they are at first.
        momentum_into_precond_update: Whether they are learnt from the momentum, or from the
            gradient.
        max_rms: The largest root mean square of the direction of a matrix.
        axes: What the axes of a parameter are (see `optimjax.matrices`).
        key: A random key of `jax.random.key`, or an integer.

    Returns:
        The `chain`. Its state holds 12 bytes a parameter for square matrices, $4 (m n + m^2
        + n^2)$ bytes for one of m x n, and 8 a parameter for all else. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, or if a role does not fit its parameter.
        TypeError: If `key` is neither a key nor an integer.

    Example:
        >>> import optimjax as ox
        >>> ox.psgd_kron(3e-4, weight_decay=0.1)
        psgd_kron(0.0003, weight_decay=0.1)

    References:
        As for `scale_by_psgd_kron`.
    """
    return chain(
        scale_by_momentum(b1, dampening=b1),
        add_bias_correction(b1),
        scale_by_psgd_kron(
            precond_lr,
            preconditioner_update_probability,
            precond_init_scale=precond_init_scale,
            max_size_triangular=max_size_triangular,
            momentum_into_precond_update=momentum_into_precond_update,
            max_rms=max_rms,
            axes=axes,
            key=key,
        ),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def galore(
    learning_rate: NonNegativeOrSchedule,
    rank: PositiveCount = 128,
    update_proj_gap: PositiveCount = 200,
    scale: Scalar = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    *,
    side: Literal["smaller", "larger"] = "smaller",
    axes: Axes = None,
) -> GradientTransformation:
    r"""Adam whose moments of matrices are kept in a subspace of low rank: GaLore.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        rank: The rank of the subspace. A matrix with a side no longer than that is treated
            as in Adam.
        update_proj_gap: From one renewal of the subspace to the next, in steps.
        scale: What the directions of projected matrices are multiplied by; 0.25 in the
            paper's experiments.
        base_optimizer: What works in the subspace; `None` for `scale_by_adam()`. It has no
            params, and leaves the rate to `galore`.
        weight_decay: How much of the parameters is added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.
        side: Which side of a matrix is projected: the smaller, as in the paper, or the
            larger, as in Optax.
        axes: What the axes of a parameter are (see `optimjax.matrices`).

    Returns:
        The `chain`. With Adam inside, its state holds $4 r (m + 2 n)$ bytes for a matrix of
        m x n with $r < m \le n$ (and $4 r (n + 2 m)$, if the larger side is projected), and
        8 a parameter for all else. It needs the params.

    Raises:
        TypeError: If `base_optimizer` is no transformation.
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, or if a role does not fit its parameter.

    Example:
        >>> import optimjax as ox
        >>> ox.galore(0.01, rank=64, scale=0.25)
        galore(0.01, rank=64, scale=0.25)

    References:
        J. Zhao et al., [GaLore: memory-efficient LLM training by gradient low-rank
        projection](https://arxiv.org/abs/2403.03507), 2024.
    """
    inner = scale_by_adam() if base_optimizer is None else base_optimizer
    check_stages("galore", [inner], "`base_optimizer`")
    return chain(
        in_low_rank(
            inner,
            rank,
            update_proj_gap,
            scale,
            side=side,
            axes=axes,
        ),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def shampoo(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    *,
    shampoo_beta: Fraction = 0.999,
    matrix_eps: Annotated[float | jax.Array, Number("(0, 1]")] = 1e-6,
    exponent: Annotated[float, Number("(0, 1]", plain=True)] = 0.25,
    precondition_frequency: PositiveCount = 10,
    block_size: PositiveCount = 1024,
    grafting: Literal["adam", "rmsprop", "adagrad", "sgd"] | None = "adam",
    axes: Axes = None,
) -> GradientTransformation:
    r"""Shampoo for matrices, with the length of another's steps; Adam for the rest.

    What it preconditions is a running mean of gradients, as in PyTorch's distributed
    Shampoo (Anil et al. smooth what comes out).

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule: one that
            suits the optimizer whose length the steps have.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment of Adam, for the other parameters and for the
            length of the steps, in [0, 1).
        eps: Added to the root of that second moment.
        weight_decay: Decoupled: added to the direction, before the rate, for all
            parameters.
        mask: Which parameters decay; as in `add_decayed_weights`.
        shampoo_beta: The decay of Shampoo's factors, in [0, 1]; 1 for sums, as in the
            paper.
        matrix_eps: Their least eigenvalue, as a part of the largest, in (0, 1].
        exponent: The power of each inverse root, in (0, 1]: 0.25 as in the paper, or 0.5.
        precondition_frequency: How many steps from one renewal of the roots to the next.
        block_size: A matrix with a longer side is cut into blocks.
        grafting: Whose length the step of each matrix has, for the same first moment; None
            for that of Shampoo itself.
        axes: Which parameters are matrices, and what their axes are, as in `on_matrices`.

    Returns:
        The `chain`. Its state holds, for an m x n matrix, $8 mn + 8 (m^2 + n^2)$ bytes: 24
        a parameter if it is square (20 if `grafting` needs no state); 8 a parameter for the
        others.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, or if a role does not fit its parameter.

    Example:
        >>> import optimjax as ox
        >>> optimizer = ox.shampoo(1e-3, axes={"embed": None, "**/conv": "iiio"})

    References:
        V. Gupta, T. Koren and Y. Singer, [Shampoo: preconditioned stochastic tensor
        optimization](https://arxiv.org/abs/1802.09568), 2018.
        R. Anil et al., [Scalable second order optimization for deep
        learning](https://arxiv.org/abs/2002.09018), 2020.
    """
    adam_length = scale_by_rms(b2, eps, bias_correction=True)
    lengths = {
        "adam": adam_length,
        "rmsprop": scale_by_rms(b2, eps),
        "adagrad": scale_by_rss(0.0, eps, eps_in_sqrt=False),
        "sgd": identity(),
    }
    preconditioned = scale_by_shampoo(
        shampoo_beta,
        matrix_eps,
        exponent=exponent,
        every=precondition_frequency,
        block_size=block_size,
        axes=axes,
    )
    return chain(
        scale_by_momentum(b1, dampening=b1),
        add_bias_correction(b1),
        on_matrices(
            preconditioned
            if grafting is None
            else graft(preconditioned, lengths[grafting]),
            adam_length,
            axes,
        ),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def soap(
    learning_rate: NonNegativeOrSchedule,
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    shampoo_beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: ScalarOrSchedule = 0.01,
    mask: Mask | None = None,
    *,
    precondition_frequency: PositiveCount = 10,
    max_precond_dim: PositiveCount = 10_000,
    axes: Axes = None,
) -> GradientTransformation:
    r"""Adam in the axes of Shampoo: SOAP. For parameters that are no matrices, Adam.

    The first gradient makes the axes and moves nothing (but weights decay): see
    `in_eigenbasis`.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule: 3e-3 in the
            paper's code.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        shampoo_beta: The decay of the factors whose eigenvectors are the axes, in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: Decoupled: added to the direction, before the rate.
        mask: Which parameters decay; as in `add_decayed_weights`.
        precondition_frequency: How many steps from one renewal of the axes to the next.
        max_precond_dim: How long a side may be to be turned; a longer one stays as it is.
        axes: Which parameters are matrices, and what their axes are, as in `on_matrices`.

    Returns:
        The `chain`. Its state holds, for an m x n matrix, $8 mn + 8 (m^2 + n^2)$ bytes: 24
        a parameter if it is square; 8 a parameter for the others.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, or if a role does not fit its parameter.

    Example:
        >>> import optimjax as ox
        >>> ox.soap(3e-3, precondition_frequency=20)
        soap(0.003, precondition_frequency=20)

    References:
        N. Vyas et al., [SOAP: improving and stabilizing Shampoo using
        Adam](https://arxiv.org/abs/2409.11321), 2024. Its code decays no weights at the
        first step.
    """
    return chain(
        in_eigenbasis(
            scale_by_adam(b1, b2, eps),
            shampoo_beta,
            every=precondition_frequency,
            max_dim=max_precond_dim,
            axes=axes,
        ),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
