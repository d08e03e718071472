"""What users write, for the type checker: it has to see these types, and no others."""

from typing import TYPE_CHECKING, Any, assert_type

import jax
import jax.numpy as jnp

import optimjax as ox
from optimjax.typing import Decay, Schedule

tx = ox.adam(1e-3)
assert_type(tx, ox.GradientTransformation)
behind = ox.chain(ox.clip(1.0), ox.adam(ox.cosine_decay_schedule(1e-3, 100)))
assert_type(behind, ox.GradientTransformation)
assert_type(
    ox.scale_by_momentum(jnp.float32(0.9), nesterov=True), ox.GradientTransformation
)

schedule: Schedule = ox.warmup_schedule(1e-3, 10)
ox.sgd(schedule, momentum=None)
ox.sgd(lambda step: 0.1 / (1 + step))
assert_type(ox.tree.global_norm({"w": jnp.ones(3)}), jax.Array)
assert_type(ox.tree.norm({"w": jnp.ones(3)}, "inf", squared=True), jax.Array)
assert_type(ox.tree.sum([jnp.ones(3)]), jax.Array)
assert_type(ox.tree.size([jnp.ones(3)]), int)
assert_type(ox.per_example_global_norm_clip(jnp.ones((2, 3)), 1.0)[1], jax.Array)


@ox.transformation
def my_rule(decay: Decay = 0.9) -> ox.GradientTransformation:
    del decay
    return ox.chain()


@ox.transformation(smooths=True)
def my_smoother(decay: Decay = 0.9) -> ox.GradientTransformation:
    del decay
    return ox.GradientTransformation(lambda p: ox.EmptyState(), lambda u, s, p=None: (u, s))


assert_type(my_rule(0.5), ox.GradientTransformation)
assert_type(my_smoother(decay=0.5), ox.GradientTransformation)
if TYPE_CHECKING:
    my_rule("fast")  # pyright: ignore[reportArgumentType]  # To see that it is refused.

# Combinators, and what is asked of their states.
params = {"w": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
routed = ox.partition({"**/bias": ox.sgd(0.1), "**": ox.masked(ox.adam(1e-3), "w/*")})
nested: ox.GradientTransformation = ox.accumulate(
    ox.average_params(ox.apply_if_finite(routed, 5), 0.99), ox.every(2)
)
tunable: ox.GradientTransformation = ox.inject_hyperparams(ox.adam)(learning_rate=1e-3)
tuned = ox.set_hyperparams(tunable.init(params), learning_rate=1e-4)
rates: dict[str, jax.Array] = ox.get_hyperparams(tuned)
measured = ox.measure(tunable, "learning_rate", largest=lambda g, u, p: ox.tree.max(u))
told: dict[str, jax.Array] = ox.get_measures(measured.init(params))
averaged = ox.eval_params(nested.init(params), params)
rounded = ox.apply_updates(params, params, key=jax.random.key(0))

# What is in an optimizer, files, and other libraries.
described: ox.Description = ox.describe(tx, params)
assert_type(described.state_bytes, int)
assert_type(ox.state_to_dict(tx.init(params))["scale_by_rms/count"], Any)
resumed = ox.state_from_dict(ox.state_to_dict(tx.init(params)), tx.init(params))
if TYPE_CHECKING:
    came = ox.porting.from_torch(tx, params, {"state": {}, "param_groups": []})
assert_type(ox.surfaces.rosenbrock(jnp.ones(2)), jax.Array)
