"""Adding to updates: penalties on the parameters, and noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import numerics
from .._checks import Key, typed_key
from ..base import (
    GradientTransformation,
    OptState,
    Params,
    Updates,
    counting,
    transformation,
)
from ..selection import chosen_by
from ..tree import leafwise
from ..typing import Mask, NonNegative, NonNegativeOrSchedule, ScalarOrSchedule


def _penalised(
    u: jax.Array, p: jax.Array, counts: Any, *, strength: Any, slope: Any
) -> jax.Array:
    return jnp.where(counts, u + strength * slope(p), u)


def _of_half_square(p: jax.Array) -> jax.Array:
    return p


def _of_modulus(p: jax.Array) -> jax.Array:
    return jnp.sign(p)


def _penalty(
    strength: Any, mask: Mask | None, slope: Callable[..., Any], state_type: Any
) -> GradientTransformation:
    """Adds `strength * slope(p)` to the updates of the parameters in `mask`."""

    def penalise(updates: Updates, params: Params, count: jax.Array) -> Updates:
        return leafwise(
            _penalised,
            updates,
            reads=(params, chosen_by(mask, params)),
            strength=numerics.at_step(strength, count),
            slope=slope,
        )

    if isinstance(strength, float) and strength == 0.0:  # Then params are not needed.
        return counting(state_type, lambda updates, count: updates)
    return counting(state_type, penalise)


class AddDecayedWeightsState(NamedTuple):
    """State of `add_decayed_weights`."""

    count: jax.Array  # t, (), int32: the steps taken.


@transformation(state=AddDecayedWeightsState, packable=lambda given: given["mask"] is None)
def add_decayed_weights(
    weight_decay: ScalarOrSchedule = 0.0, mask: Mask | None = None
) -> GradientTransformation:
    r"""Adds a multiple of the parameters: $u_t = g_t + \lambda_t\, p_t$.

    Where it stands decides what it is. First in a `chain`, it is the gradient of the L2
    penalty $\tfrac{\lambda}{2} |p|^2$, and goes through everything that follows, as in
    PyTorch's `weight_decay` but for AdamW's. Just before the learning rate, it is
    decoupled weight decay, $p \leftarrow p - \eta \lambda p$ besides the step, as in
    AdamW.

    Args:
        weight_decay: $\lambda$: a number, a traced scalar, or a schedule.
        mask: Which parameters decay: patterns of their paths, `["!**/bias", "!**/norm/*"]`;
            a function of path (a text) and leaf, `lambda path, leaf: leaf.ndim > 1`; a tree
            of booleans like the params, or a prefix of one; or a function from the params
            to such a tree (see `optimjax.selection`). `None`: all.

    Returns:
        A `GradientTransformation` with an `AddDecayedWeightsState`. It needs the params,
        unless `weight_decay` is the number 0.

    Raises:
        ValueError: If `weight_decay` is not finite; in `update`, if params are missing or
            the mask does not match them.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.add_decayed_weights(0.1)
        >>> params = jnp.array([10.0, -20.0])
        >>> updates, _ = t.update(jnp.ones(2), t.init(params), params)
        >>> print(updates)
        [ 2. -1.]

    References:
        I. Loshchilov and F. Hutter, [Decoupled weight decay
        regularization](https://arxiv.org/abs/1711.05101), 2019.
    """
    return _penalty(weight_decay, mask, _of_half_square, AddDecayedWeightsState)


class AddL1DecayState(NamedTuple):
    """State of `add_l1_decay`."""

    count: jax.Array  # t, (), int32: the steps taken.


@transformation(state=AddL1DecayState, packable=lambda given: given["mask"] is None)
def add_l1_decay(
    strength: ScalarOrSchedule = 0.0, mask: Mask | None = None
) -> GradientTransformation:
    r"""Adds a multiple of the signs: $u_t = g_t + \lambda_t\,\mathrm{sgn}\,p_t$.

    The subgradient of the L1 penalty $\lambda |p|$, to be placed as
    `add_decayed_weights` is. It drives parameters towards zero and past it; for ones that
    are exactly zero, see `soft_threshold`.

    Args:
        strength: $\lambda$: a number, a traced scalar, or a schedule.
        mask: As in `add_decayed_weights`.

    Returns:
        A `GradientTransformation` with an `AddL1DecayState`. It needs the params, unless
        `strength` is the number 0.

    Raises:
        ValueError: If `strength` is not finite; in `update`, if params are missing or
            the mask does not match them.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.add_l1_decay(0.5)
        >>> params = jnp.array([10.0, -20.0, 0.0])
        >>> updates, _ = t.update(jnp.ones(3), t.init(params), params)
        >>> print(updates)
        [1.5 0.5 1. ]
    """
    return _penalty(strength, mask, _of_modulus, AddL1DecayState)


class AddCautiousWeightDecayState(NamedTuple):
    """State of `add_cautious_weight_decay`."""

    count: jax.Array  # t, (), int32: the steps taken.


def _cautiously_penalised(
    u: jax.Array, p: jax.Array, counts: Any, *, strength: Any
) -> jax.Array:
    term = strength * p
    # By signs: a product of small numbers would underflow.
    agrees = jnp.real(jnp.sign(u) * jnp.conj(jnp.sign(term))) >= 0
    return jnp.where(counts & agrees, u + term, u)


@transformation(
    state=AddCautiousWeightDecayState, packable=lambda given: given["mask"] is None
)
def add_cautious_weight_decay(
    weight_decay: ScalarOrSchedule = 0.0, mask: Mask | None = None
) -> GradientTransformation:
    r"""Adds a multiple of those parameters that the update brings nearer to zero anyway.

    $$ u_t = d_t + \lambda_t\, p_t\, [\, d_t\, \lambda_t\, p_t \ge 0 \,]. $$

    It stands where `add_decayed_weights` would: before the learning rate with
    $\lambda > 0$, or behind a whole optimizer with $\lambda < 0$, the rate times the decay.

    Args:
        weight_decay: $\lambda$: a number, a traced scalar, or a schedule.
        mask: As in `add_decayed_weights`.

    Returns:
        A `GradientTransformation` with an `AddCautiousWeightDecayState`. It needs the
        params.

    Raises:
        ValueError: If `weight_decay` is not finite; in `update`, if params are missing or
            the mask does not match them.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.add_cautious_weight_decay(0.1)
        >>> params = jnp.array([10.0, -20.0])
        >>> updates, _ = t.update(jnp.ones(2), t.init(params), params)
        >>> print(updates)
        [2. 1.]

    References:
        L. Chen et al., [Cautious weight decay](https://arxiv.org/abs/2510.12402), 2025.
    """

    def penalise(updates: Updates, params: Params, count: jax.Array) -> Updates:
        return leafwise(
            _cautiously_penalised,
            updates,
            reads=(params, chosen_by(mask, params)),
            strength=numerics.at_step(weight_decay, count),
        )

    return counting(AddCautiousWeightDecayState, penalise)


class AddNoiseState(NamedTuple):
    """State of `add_noise`."""

    count: jax.Array  # t, (), int32: the steps taken.
    key_data: jax.Array  # The next random key, as plain uint32 that any format can save.


def _noisy(u: jax.Array, noise: jax.Array, *, deviation: Any) -> jax.Array:
    return u + deviation * noise


@transformation(state=AddNoiseState)
def add_noise(eta: NonNegative, gamma: NonNegative, key: Key) -> GradientTransformation:
    r"""Adds Gaussian noise that fades: $u_t = g_t + \mathcal N(0, \eta / t^\gamma)$.

    Here $t = 1, 2, \dots$ For float32 updates the numbers are those that Optax draws from
    the same key.

    Args:
        eta: $\eta \ge 0$, the variance at the first step.
        gamma: $\gamma \ge 0$, how fast it fades.
        key: A random key of `jax.random.key`, or an integer seed for one.

    Returns:
        A `GradientTransformation` with an `AddNoiseState`. Complex updates get complex
        noise of that variance.

    Raises:
        ValueError: If `eta` or `gamma` is negative or not finite.
        TypeError: If `key` is neither a key nor an integer.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t = ox.add_noise(eta=1.0, gamma=0.55, key=jax.random.key(0))
        >>> updates, _ = t.update(jnp.zeros(10_000), t.init(jnp.zeros(10_000)))
        >>> print(f"{jnp.std(updates):.1f}")
        1.0

    References:
        A. Neelakantan et al., [Adding gradient noise improves learning for very deep
        networks](https://arxiv.org/abs/1511.06807), 2015.
    """
    return _noise(
        AddNoiseState,
        key,
        lambda t: eta / jnp.power(numerics.as_scalar(t), gamma),
    )


class AddLangevinNoiseState(NamedTuple):
    """State of `add_langevin_noise`."""

    count: jax.Array  # t, (), int32: the steps taken.
    key_data: jax.Array  # The next random key, as plain uint32 that any format can save.


@transformation(state=AddLangevinNoiseState)
def add_langevin_noise(
    learning_rate: NonNegativeOrSchedule,
    temperature: NonNegative = 1.0,
    *,
    key: Key,
) -> GradientTransformation:
    r"""Adds the noise of Langevin dynamics to steps: $u_t + \mathcal N(0, 2 \eta_t T)$.

    Behind gradient descent with the same rate, on minus the logarithm of a density, it
    makes the parameters wander as samples of the density to the power $1 / T$ do, up to an
    error that vanishes with $\eta$.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        temperature: $T \ge 0$. May be traced.
        key: A random key of `jax.random.key`, or an integer seed for one.

    Returns:
        A `GradientTransformation` with an `AddLangevinNoiseState`.

    Raises:
        ValueError: If a number is negative or not finite.
        TypeError: If `key` is neither a key nor an integer.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t = ox.add_langevin_noise(0.5, key=jax.random.key(0))
        >>> updates, _ = t.update(jnp.zeros(10_000), t.init(jnp.zeros(10_000)))
        >>> print(f"{jnp.std(updates):.1f}")
        1.0

    References:
        M. Welling and Y. W. Teh, [Bayesian learning via stochastic gradient Langevin
        dynamics](https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf), 2011.
    """

    def variance(t: jax.Array) -> Any:
        return 2 * temperature * numerics.at_step(learning_rate, t - 1)

    return _noise(AddLangevinNoiseState, key, variance)


def _noise(
    state_type: Any, key: Any, variance: Callable[[Any], Any]
) -> GradientTransformation:
    """Adds Gaussian noise of the `variance(t)` of step t = 1, 2, ..."""
    key = typed_key(key)
    kind = jax.random.key_impl(key)

    def init(params: Params) -> OptState:
        del params
        # A copy: a state shares no buffer with anything, so that it can be donated.
        return state_type(
            jnp.zeros((), jnp.int32), jnp.array(jax.random.key_data(key), copy=True)
        )

    def update(
        updates: Updates, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        del params, extra
        count = numerics.increment(state.count)
        next_key, now = jax.random.split(
            jax.random.wrap_key_data(state.key_data, impl=kind)
        )
        leaves, treedef = jax.tree.flatten(updates)
        keys = jax.random.split(now, len(leaves)) if leaves else []
        noise = treedef.unflatten(
            jax.random.normal(k, u.shape, u.dtype)
            for k, u in zip(keys, leaves, strict=True)
        )
        deviation = numerics.sqrt(numerics.as_scalar(variance(count)))
        updates = leafwise(_noisy, updates, reads=(noise,), deviation=deviation)
        return updates, state_type(count, jax.random.key_data(next_key))

    return GradientTransformation(init, update)
