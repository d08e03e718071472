"""Optimizers, each taken apart in one expression.

No arithmetic here: what a stage computes is documented where the stage is. Names,
arguments, defaults and results are those of Optax where it has the name.
"""

from .base import GradientTransformation, identity, transformation
from .combinators.chaining import chain
from .transforms.adding import add_decayed_weights
from .transforms.momentum import (
    add_bias_correction,
    add_nadam_correction,
    scale_by_momentum,
)
from .transforms.rms import (
    scale_by_infinity_moment,
    scale_by_rms,
    scale_by_rss,
)
from .transforms.scaling import scale_by_learning_rate
from .typing import (
    Decay,
    Fraction,
    Mask,
    NonNegative,
    NonNegativeOrSchedule,
    ScalarOrSchedule,
    StorageDtype,
)


@transformation
def sgd(
    learning_rate: NonNegativeOrSchedule,
    momentum: Decay | None = None,
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
    decay: Decay = 0.9,
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
    momentum: Decay | None = None,
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
        >>> import jax, optimjax as ox
        >>> matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
        >>> optimizer = ox.adamw(3e-4, weight_decay=0.1, mask=matrices)

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
