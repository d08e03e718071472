"""Rates that tune themselves, most of them by how far the parameters have come.

Each rule keeps an estimate of the distance from the starting point to the minimum: a number
in the state, float32 or wider whatever the parameters, that `measure` knows as `distance`.
It is that of the leaves that a rule is given: inside of `masked` or `partition` a part has
a distance of its own. It is taken by sums over whole arrays, which a `jit` over parameters
that are sharded carries out over all devices; inside of a `shard_map`, every device must
hold the parameters, and be given the gradient, whole.

A way that the parameters have no digits for is none: where the first steps are too small to
move them, DoG, DoWG and Prodigy stand still for good. In float32 that takes a first guess
of 1e-9; in bfloat16 the default does it. `master_weights`, or `kahan_summation`, around the
rule is the remedy.
"""

from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from .. import _reports, numerics, tree
from .._checks import Checked, Refusal
from ..base import GradientTransformation, Params, Updates, transformation
from ..selection import chosen_by
from ..tree import leafwise, remembering, slot_like, slot_of
from ..typing import (
    Decay,
    Mask,
    NonNegative,
    NonNegativeOrSchedule,
    Number,
    Positive,
)


def _checked_init_step(init_step: Any, where: str) -> tuple[str, Any]:
    kinds = ("distance", "learning_rate", "heuristic")
    if not isinstance(init_step, tuple | list) or len(init_step) != 2:
        raise TypeError(
            f'{where} must be a pair such as ("heuristic", 1e-6), but got {init_step!r}.'
        )
    kind, value = init_step
    if kind not in kinds:
        options = ", ".join(map(repr, kinds))
        raise ValueError(f"{where} must begin with one of {options}, but got {kind!r}.")
    return kind, Number("(0, inf)")(value, where)


InitStep: TypeAlias = Annotated[
    tuple[Literal["distance", "learning_rate", "heuristic"], Any],
    Checked(_checked_init_step),
]


def _checked_betas(betas: Any, where: str) -> tuple[Any, Any]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"{where} must be a pair such as (0.9, 0.999), but got {betas!r}.")
    b1, b2 = (Number("[0, 1)")(b, where) for b in betas)
    return b1, b2


Betas: TypeAlias = Annotated[tuple[Any, Any], Checked(_checked_betas)]


def _distance(params: Params, start: Params) -> jax.Array:
    return numerics.as_scalar(tree.norm(tree.sub(params, start)))


def _known(distance: Any) -> None:
    """Lets `measure` know a distance, or those of the layers taken together."""
    _reports.report("distance", numerics.as_scalar(tree.norm(distance)))


def _times(u: jax.Array, *, factor: Any) -> jax.Array:
    return factor * u


class ScaleByDogState(NamedTuple):
    """State of `scale_by_dog`. With `layerwise`, the first two are trees of scalars."""

    max_distance: Any  # r, (), float32 or wider: the longest way from the start so far.
    sum_of_squares: Any  # G, (), float32 or wider: of the norms of all gradients.
    start: Params  # x, the params at the start, float32 or wider.

    directions = ("start",)


def _over_gradients(
    longest: jax.Array,
    total: jax.Array,
    distance: Any,
    square: Any,
    *,
    first: Any,
    eps: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    longest = jnp.maximum(longest, distance)
    total = total + square
    rate = numerics.divide(longest, numerics.sqrt(total + eps))
    return jnp.where(longest > 0, rate, first), longest, total


def _over_own_gradients(
    g: jax.Array,
    longest: jax.Array,
    total: jax.Array,
    p: jax.Array,
    start: jax.Array,
    *,
    first: Any,
    eps: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    distance = numerics.sqrt(jnp.sum(numerics.abs_sq(p - start)))
    square = jnp.sum(numerics.abs_sq(g))
    rate, longest, total = _over_gradients(
        longest, total, distance, square, first=first, eps=eps
    )
    return rate * g, longest, total


@transformation(state=ScaleByDogState, packable=lambda given: not given["layerwise"])
def scale_by_dog(
    init_step: InitStep = ("heuristic", 1e-6),
    eps: NonNegative = 1e-8,
    *,
    layerwise: bool = False,
) -> GradientTransformation:
    r"""Multiplies by the distance from the start over the size of all gradients: DoG.

    With $x_0$ the parameters at the start, and norms of all leaves together,

    $$ r_t = \max(r_{t-1},\ \lVert x_t - x_0 \rVert), \qquad
       G_t = G_{t-1} + \lVert g_t \rVert^2, \qquad
       u_t = \frac{r_t}{\sqrt{G_t + \epsilon}}\, g_t. $$

    $r_0 > 0$ should be small beside the distance to the minimum: $r$ grows by itself, but
    it never falls. For parameters of low precision, put `master_weights` around the
    optimizer: else small steps move nothing, and $r$ stays what it is.

    Args:
        init_step: How to begin: `("distance", r)` says $r_0$; `("heuristic", a)` makes it
            $r_0 = a\,(1 + \lVert x_0 \rVert)$ (1e-6 in the paper, 1e-4 for networks with
            batch normalisation); `("learning_rate", c)` has $u = c\,g$ as long as the
            parameters are where they started, and $r_0 = 0$. The number is positive, and
            may be traced.
        eps: $\epsilon \ge 0$. Beside gradients smaller than its root, the default of Optax
            and of the authors is not small. May be traced.
        layerwise: Whether each leaf has an $r$ and a $G$ of its own, from its own norms:
            the paper's L-DoG.

    Returns:
        A `GradientTransformation` with a `ScaleByDogState`: 4 bytes a parameter. It needs
        the params, and `init` their values.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.
        TypeError: If `init_step` is no such pair.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_dog(("distance", 0.5), eps=0.0)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = t.update(jnp.array([3.0, 4.0]), t.init(params), params)
        >>> print(updates, state.max_distance, state.sum_of_squares)
        [0.3 0.4] 0.5 25.0

    References:
        M. Ivgi, O. Hinder and Y. Carmon, [DoG is SGD's best friend: a parameter-free
        dynamic step size schedule](https://arxiv.org/abs/2302.12022), 2023.
    """
    kind, value = init_step
    first = value if kind == "learning_rate" else 0.0

    def first_distance(params: Params) -> jax.Array:
        if kind == "heuristic":
            return numerics.as_scalar(value * (1 + numerics.as_scalar(tree.norm(params))))
        return numerics.as_scalar(value if kind == "distance" else 0.0)

    def init(params: Params) -> ScaleByDogState:
        start = slot_of(params)
        if not layerwise:
            return ScaleByDogState(first_distance(params), numerics.as_scalar(0.0), start)
        zeros = jax.tree.map(lambda p: numerics.as_scalar(0.0), params)
        return ScaleByDogState(jax.tree.map(first_distance, params), zeros, start)

    def update(
        updates: Updates, state: ScaleByDogState, params: Params, **extra: Any
    ) -> tuple[Updates, ScaleByDogState]:
        del extra
        before = state.max_distance, state.sum_of_squares
        if not layerwise and not jax.tree_util.all_leaves([before[0]]):
            raise Refusal(
                ValueError,
                "needs a state with one distance, but got one with a distance for each "
                "leaf. Was it made with `layerwise=True`?",
            )
        how = {"first": first, "eps": eps}
        if layerwise:
            out, longest, total = leafwise(
                _over_own_gradients,
                updates,
                *before,
                reads=(params, state.start),
                **how,
            )
        else:
            distance = _distance(params, state.start)
            square = numerics.as_scalar(tree.norm(updates, squared=True))
            rate, longest, total = _over_gradients(*before, distance, square, **how)
            out = leafwise(_times, updates, factor=rate)
        _known(longest)
        return out, ScaleByDogState(longest, total, state.start)

    return GradientTransformation(init, update)


class ScaleByDowgState(NamedTuple):
    """State of `scale_by_dowg`."""

    max_square_distance: jax.Array  # r^2, (), float32 or wider: the longest way, squared.
    weighted_sum_of_squares: jax.Array  # v, (), float32 or wider.
    start: Params  # x, the params at the start, float32 or wider.

    directions = ("start",)


@transformation(state=ScaleByDowgState, packable=True)
def scale_by_dowg(
    init_estim_sq_dist: Positive | None = None, eps: NonNegative = 1e-4
) -> GradientTransformation:
    r"""Multiplies by the distance over gradients, weighted by the distances then: DoWG.

    With $x_0$ the parameters at the start, and norms of all leaves together,

    $$ r_t^2 = \max(r_{t-1}^2,\ \lVert x_t - x_0 \rVert^2), \qquad
       v_t = v_{t-1} + r_t^2\, \lVert g_t \rVert^2, \qquad
       u_t = \frac{r_t^2}{\sqrt{v_t} + \epsilon}\, g_t. $$

    What came while $r$ was small weighs little, so that steps are longer than DoG's.

    Args:
        init_estim_sq_dist: $r_0^2 > 0$, a *squared* distance, small beside that to the
            minimum. `None` takes $\epsilon$. May be traced.
        eps: $\epsilon \ge 0$. It holds back a small $r$, since $\sqrt{v}$ is small, too:
            give 0, as in the paper, together with a small $r_0^2$. May be traced.

    Returns:
        A `GradientTransformation` with a `ScaleByDowgState`: 4 bytes a parameter. It needs
        the params.

    Raises:
        ValueError: If an argument lies outside of its range, or if both $r_0^2$ and
            $\epsilon$ would be zero; in `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_dowg(0.25, eps=0.0)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = t.update(jnp.array([3.0, 4.0]), t.init(params), params)
        >>> print(updates, state.weighted_sum_of_squares)
        [0.3 0.4] 6.25

    References:
        A. Khaled, K. Mishchenko and C. Jin, [DoWG unleashed: an efficient universal
        parameter-free gradient descent method](https://arxiv.org/abs/2305.16284), 2023.
    """
    if init_estim_sq_dist is None and isinstance(eps, float) and eps == 0:
        raise ValueError(
            "`scale_by_dowg(init_estim_sq_dist=...)` must be given where `eps` is 0: from "
            "a distance of zero nothing ever moves."
        )

    def init(params: Params) -> ScaleByDowgState:
        square = eps if init_estim_sq_dist is None else init_estim_sq_dist
        zero = numerics.as_scalar(0.0)
        return ScaleByDowgState(numerics.as_scalar(square), zero, slot_of(params))

    def update(
        updates: Updates, state: ScaleByDowgState, params: Params, **extra: Any
    ) -> tuple[Updates, ScaleByDowgState]:
        del extra
        distance = _distance(params, state.start)
        r2 = jnp.maximum(state.max_square_distance, jnp.square(distance))
        square = numerics.as_scalar(tree.norm(updates, squared=True))
        v = state.weighted_sum_of_squares + r2 * square
        out = leafwise(_times, updates, factor=numerics.divide(r2, numerics.sqrt(v) + eps))
        _known(numerics.sqrt(r2))
        return out, ScaleByDowgState(r2, v, state.start)

    return GradientTransformation(init, update)


class ScaleByCocobState(NamedTuple):
    """State of `scale_by_cocob`. All are shaped like the params, float32 or wider."""

    sum_of_gradients: Params  # theta, less each gradient.
    largest: Params  # L, the largest modulus of a gradient; real.
    sum_of_moduli: Params  # G, real.
    reward: Params  # R, real.
    start: Params  # x, the params at the start.

    directions = ("sum_of_gradients", "start")


def _cocob(
    g: jax.Array,
    theta: jax.Array,
    largest: jax.Array,
    total: jax.Array,
    reward: jax.Array,
    start: jax.Array,
    p: jax.Array,
    *,
    alpha: Any,
) -> tuple[jax.Array, ...]:
    size = numerics.modulus(g)
    theta, total = theta - g, total + size
    largest = jnp.maximum(largest, size)
    reward = jnp.maximum(reward - jnp.real(jnp.conj(g) * (p - start)), 0)
    # Two quotients of like sizes: a product of two small numbers would underflow.
    most = jnp.maximum(total + largest, alpha * largest)
    share = numerics.divide(largest + reward, most)
    bet = share * numerics.divide(theta, largest)
    return (start - p) + bet, theta, largest, total, reward, start


@transformation(state=ScaleByCocobState, packable=True)
def scale_by_cocob(
    alpha: NonNegative = 100.0, eps: NonNegative = 1e-8
) -> GradientTransformation:
    r"""Bets on the sign of each number's next gradient: COCOB, for backpropagation.

    From $L_0 = \epsilon$ and zeros, for each number by itself,

    $$ L_t = \max(L_{t-1}, |g_t|), \qquad G_t = G_{t-1} + |g_t|, \qquad
       \theta_t = \theta_{t-1} - g_t, $$
    $$ R_t = \max(R_{t-1} - g_t\,(x_t - x_0),\ 0), \qquad
       x_{t+1} = x_0 + \frac{\theta_t}{L_t\, \max(G_t + L_t,\ \alpha L_t)}\,(L_t + R_t). $$

    The updates are whole steps, $x_{t+1} - x_t$: no learning rate stands behind. The first
    step has length $1 / \alpha$, whatever the gradient; the stake grows with what was won.

    Args:
        alpha: $\alpha \ge 0$: the first $\alpha$ steps are held back. May be traced.
        eps: $\epsilon \ge 0$, a gradient too small to matter.

    Returns:
        A `GradientTransformation` with a `ScaleByCocobState`: 20 bytes a parameter. It
        needs the params. A complex number is one coin: moduli, and the real part of
        $\bar g_t\,(x_t - x_0)$.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_cocob()
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, _ = t.update(jnp.array([3.0, -0.1]), t.init(params), params)
        >>> print(updates)
        [-0.01  0.01]

    References:
        F. Orabona and T. Tommasi, [Training deep networks without learning rates through
        coin betting](https://arxiv.org/abs/1705.07795), 2017, algorithm 2.
    """
    real = {"real": True}
    return remembering(
        ScaleByCocobState,
        _cocob,
        {
            "sum_of_gradients": slot_like,
            "largest": lambda params: slot_like(params, eps, **real),
            "sum_of_moduli": lambda params: slot_like(params, **real),
            "reward": lambda params: slot_like(params, **real),
            "start": slot_of,
        },
        reads=("params",),
        alpha=alpha,
    )


class DadaptAdamwState(NamedTuple):
    """State of `dadapt_adamw`. The trees are shaped like the params, float32 or wider."""

    count: jax.Array  # t, (), int32: the steps taken.
    distance: jax.Array  # d, (), float32 or wider: how far the minimum seems to be.
    numerator: jax.Array  # N, (), float32 or wider.
    mu: Params  # m, the mean of steps.
    nu: Params  # v, the mean of squares; real.
    sum_of_gradients: Params  # s, weighted and decaying.

    directions = ("mu", "sum_of_gradients")


class ProdigyState(NamedTuple):
    """State of `prodigy`. The trees are shaped like the params, float32 or wider."""

    count: jax.Array  # t, (), int32: the steps taken.
    distance: jax.Array  # d, (), float32 or wider: how far the minimum seems to be.
    numerator: jax.Array  # N, (), float32 or wider.
    mu: Params  # m, the mean of gradients, each in its units of d / d_0.
    nu: Params  # v, the mean of their squares; real.
    sum_of_gradients: Params  # s, weighted and decaying.
    start: Params  # x, the params at the start.

    directions = ("mu", "sum_of_gradients", "start")


def _moments(
    g: jax.Array,
    m: jax.Array,
    v: jax.Array,
    s: jax.Array,
    *,
    b1: Any,
    b2: Any,
    b3: Any,
    of_m: Any,
    of_v: Any,
    of_s: Any,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The two means and the sum, of the gradient times a number for each."""
    m = numerics.decay_and_add(m, (1 - b1) * of_m * g, b1)
    square = numerics.weighted_square(of_v * g, 1 - b2)
    v = numerics.decay_and_add(v, square, b2)
    return g, m, v, numerics.decay_and_add(s, of_s * g, b3)


def _over_root(g: jax.Array, s: jax.Array, v: jax.Array, *, eps: Any) -> jax.Array:
    del g
    return numerics.divide(s, numerics.sqrt(v) + eps)


def _back(g: jax.Array, start: jax.Array, p: jax.Array) -> jax.Array:
    del g
    return start - p


def _step(
    g: jax.Array,
    m: jax.Array,
    v: jax.Array,
    p: jax.Array,
    decays: Any,
    *,
    rate: Any,
    eps: Any,
    shrinkage: Any,
) -> jax.Array:
    del g
    u = -rate * numerics.divide(m, numerics.sqrt(v) + eps)
    return jnp.where(decays, u - shrinkage * p, u)


def _weights(
    state: Any, learning_rate: Any, betas: Any, b3: Any, bias_correction: bool
) -> tuple[dict[str, Any], Any]:
    """The decays, and d times the rate, corrected for the bias of Adam's means."""
    b1, b2 = betas
    rate = state.distance * numerics.rate_at(learning_rate, state.count)
    if bias_correction:
        t = numerics.increment(state.count)
        root = numerics.sqrt(numerics.one_minus_power(b2, t))
        rate = rate * root / numerics.one_minus_power(b1, t)
    return {"b1": b1, "b2": b2, "b3": b2**0.5 if b3 is None else b3}, rate


def _estimate(
    state: Any,
    updates: Updates,
    way: Updates,
    s: Params,
    *,
    weight: Any,
    b3: Any,
    coef: Any,
) -> tuple[jax.Array, jax.Array]:
    """The numerator, and the largest distance so far, once `way` is known."""
    along = weight * numerics.as_scalar(jnp.real(tree.vdot(updates, way)))
    numerator = numerics.decay_and_add(state.numerator, along, b3)
    # Where there was no gradient yet, there is nothing to learn.
    found = coef * numerics.divide(numerator, numerics.as_scalar(tree.norm(s, 1)))
    distance = jnp.maximum(state.distance, found)
    _known(distance)
    return numerator, distance


@transformation(state=DadaptAdamwState, packable=True)
def dadapt_adamw(
    learning_rate: NonNegativeOrSchedule = 1.0,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    weight_decay: NonNegative = 0.0,
    *,
    mask: Mask | None = None,
    bias_correction: bool = True,
    variant: Literal["code", "paper"] = "code",
) -> GradientTransformation:
    r"""AdamW that finds its rate by D-Adaptation.

    With $\lambda_t = d_t\, \eta_t \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)$,
    $\beta_3 = \sqrt{\beta_2}$, and $\langle\cdot,\cdot\rangle$ and $\lVert\cdot\rVert_1$ of
    all leaves together,

    $$ m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, \lambda_t\, g_t, \qquad
       v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2, \qquad
       s_t = \beta_3 s_{t-1} + \lambda_t\, g_t, $$
    $$ N_t = \beta_3 N_{t-1} + \lambda_t
       \Bigl\langle g_t, \frac{s_{t-1}}{\sqrt{v_{t-1}} + \epsilon} \Bigr\rangle, \qquad
       d_{t+1} = \max\Bigl( d_t,\ \frac{N_t}{\lVert s_t \rVert_1} \Bigr), $$
    $$ x_{t+1} = x_t - \frac{m_t}{\sqrt{v_t} + \epsilon} - \lambda_t\, w\, x_t. $$

    $d$ estimates, from below, the distance to the minimum in the maximum norm; it never
    falls. The updates are whole steps.

    Args:
        learning_rate: $\eta \ge 0$, a factor of the rate that is found: better a schedule
            that fades, with 1 for its largest value, since at a constant 1 the steps do not
            die out, and may diverge. A number, a traced scalar, or a schedule.
        betas: $(\beta_1, \beta_2)$, each in $[0, 1)$.
        eps: $\epsilon \ge 0$. May be traced, as may be the next two.
        estim_lr0: $d_1 > 0$, a guess that is too small.
        weight_decay: $w \ge 0$, decoupled. (As a penalty: `add_decayed_weights` before.)
        mask: Which parameters decay; as in `add_decayed_weights`.
        bias_correction: Whether $\lambda$ has the root and the divisor, as in Optax; the
            paper has not, nor have the authors by default.
        variant: `"paper"` has $v_t$ in place of $v_{t-1}$ under the root of $N_t$; Optax
            and the authors' code have it as above.

    Returns:
        A `GradientTransformation` with a `DadaptAdamwState`: 12 bytes a parameter. It needs
        the params.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.
        TypeError: If `betas` is no pair of numbers.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t, x = ox.dadapt_adamw(), jnp.array([3.0, -2.0])
        >>> def step(carry, _):
        ...     x, state = carry
        ...     u, state = t.update(2 * x, state, x)
        ...     return (x + u, state), None
        >>> (x, state), _ = jax.lax.scan(step, (x, t.init(x)), length=1500)
        >>> print(bool(jnp.abs(x).max() < 0.01), f"{state.distance:.2f}")
        True 3.02

    References:
        A. Defazio and K. Mishchenko, [Learning-rate-free learning by
        D-Adaptation](https://arxiv.org/abs/2301.07733), 2023.
    """

    def init(params: Params) -> DadaptAdamwState:
        return DadaptAdamwState(
            count=jnp.zeros((), jnp.int32),
            distance=numerics.as_scalar(estim_lr0),
            numerator=numerics.as_scalar(0.0),
            mu=slot_like(params),
            nu=slot_like(params, real=True),
            sum_of_gradients=slot_like(params),
        )

    def update(
        updates: Updates, state: DadaptAdamwState, params: Params, **extra: Any
    ) -> tuple[Updates, DadaptAdamwState]:
        del extra
        decays, rate = _weights(state, learning_rate, betas, None, bias_correction)
        of = {"of_m": rate, "of_v": 1.0, "of_s": rate}
        slots = state.mu, state.nu, state.sum_of_gradients
        _, mu, nu, s = leafwise(_moments, updates, *slots, **decays, **of)
        below = nu if variant == "paper" else state.nu
        way = leafwise(_over_root, updates, reads=(state.sum_of_gradients, below), eps=eps)
        numerator, distance = _estimate(
            state, updates, way, s, weight=rate, b3=decays["b3"], coef=1.0
        )
        out = leafwise(
            _step,
            updates,
            reads=(mu, nu, params, chosen_by(mask, params)),
            rate=1.0,
            eps=eps,
            shrinkage=weight_decay * rate,
        )
        count = numerics.increment(state.count)
        return out, DadaptAdamwState(count, distance, numerator, mu, nu, s)

    return GradientTransformation(init, update)


@transformation(state=ProdigyState, packable=True)
def prodigy(
    learning_rate: NonNegativeOrSchedule = 1.0,
    betas: Betas = (0.9, 0.999),
    beta3: Decay | None = None,
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    estim_lr_coef: Positive = 1.0,
    weight_decay: NonNegative = 0.0,
    safeguard_warmup: bool = False,
    *,
    mask: Mask | None = None,
    bias_correction: bool = True,
    variant: Literal["code", "paper"] = "code",
) -> GradientTransformation:
    r"""AdamW that finds its rate by Prodigy: D-Adaptation that grows faster.

    It measures along $x_0 - x_t$ itself, the way back to the start, where `dadapt_adamw`
    has $s / \sqrt{v}$ for it, and weighs each gradient by the distance of its time. For
    parameters of low precision, put `master_weights` around it: where small steps move
    nothing, there is no way to measure along. With $\lambda_t$ as there,

    $$ m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, d_t\, g_t, \qquad
       v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, d_t^2\, g_t^2, \qquad
       s_t = \beta_3 s_{t-1} + d_t \lambda_t\, g_t, $$
    $$ N_t = \beta_3 N_{t-1} + d_t \lambda_t\, \langle g_t, x_0 - x_t \rangle, \qquad
       d_{t+1} = \max\Bigl( d_t,\ c\, \frac{N_t}{\lVert s_t \rVert_1} \Bigr), $$
    $$ x_{t+1} = x_t - \lambda_t \Bigl( \frac{m_t}{\sqrt{v_t} + d_{t+1}\, \epsilon}
       + w\, x_t \Bigr). $$

    Args:
        learning_rate: $\eta \ge 0$, a factor of the rate that is found: 1, or a schedule
            that has 1 for its largest value. A number, a traced scalar, or a schedule.
        betas: $(\beta_1, \beta_2)$, each in $[0, 1)$.
        beta3: $\beta_3$, in $[0, 1)$; `None` means $\sqrt{\beta_2}$. May be traced, as may
            be the next four.
        eps: $\epsilon \ge 0$.
        estim_lr0: $d_1 > 0$, a guess that is too small.
        estim_lr_coef: $c > 0$: what to turn to make all steps longer or shorter.
        weight_decay: $w \ge 0$, decoupled. (As a penalty: `add_decayed_weights` before.)
        safeguard_warmup: Whether $s$ has $d_t^2$ in place of $d_t \lambda_t$, so that a
            learning rate that begins small does not make $d$ too large.
        mask: Which parameters decay; as in `add_decayed_weights`.
        bias_correction: As in `dadapt_adamw`.
        variant: `"paper"` has $d_t\, \epsilon$ in place of $d_{t+1}\, \epsilon$; Optax and
            the authors' code have it as above.

    Returns:
        A `GradientTransformation` with a `ProdigyState`: 16 bytes a parameter. It needs the
        params.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.
        TypeError: If `betas` is no pair of numbers.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t, x = ox.prodigy(), jnp.array([3.0, -2.0])
        >>> def step(carry, _):
        ...     x, state = carry
        ...     u, state = t.update(2 * x, state, x)
        ...     return (x + u, state), None
        >>> (x, state), _ = jax.lax.scan(step, (x, t.init(x)), length=500)
        >>> print(bool(jnp.abs(x).max() < 0.01), f"{state.distance:.2f}")
        True 1.13

    References:
        K. Mishchenko and A. Defazio, [Prodigy: an expeditiously adaptive parameter-free
        learner](https://arxiv.org/abs/2306.06101), 2023.
    """

    def init(params: Params) -> ProdigyState:
        return ProdigyState(
            count=jnp.zeros((), jnp.int32),
            distance=numerics.as_scalar(estim_lr0),
            numerator=numerics.as_scalar(0.0),
            mu=slot_like(params),
            nu=slot_like(params, real=True),
            sum_of_gradients=slot_like(params),
            start=slot_of(params),
        )

    def update(
        updates: Updates, state: ProdigyState, params: Params, **extra: Any
    ) -> tuple[Updates, ProdigyState]:
        del extra
        decays, rate = _weights(state, learning_rate, betas, beta3, bias_correction)
        # In units of the first distance, whose square may be too small for float32.
        unit = state.distance / estim_lr0
        of_s = unit * (state.distance if safeguard_warmup else rate)
        of = {"of_m": unit, "of_v": unit, "of_s": of_s}
        slots = state.mu, state.nu, state.sum_of_gradients
        _, mu, nu, s = leafwise(_moments, updates, *slots, **decays, **of)
        way = leafwise(_back, updates, reads=(state.start, params))
        numerator, distance = _estimate(
            state,
            updates,
            way,
            s,
            weight=unit * rate,
            b3=decays["b3"],
            coef=estim_lr_coef,
        )
        newest = state.distance if variant == "paper" else distance
        out = leafwise(
            _step,
            updates,
            reads=(mu, nu, params, chosen_by(mask, params)),
            rate=rate,
            eps=newest / estim_lr0 * eps,
            shrinkage=weight_decay * rate,
        )
        count = numerics.increment(state.count)
        return out, ProdigyState(count, distance, numerator, mu, nu, s, state.start)

    return GradientTransformation(init, update)
