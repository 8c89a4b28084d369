"""Ways off a saddle that `benchmarks.escape --compare strategies` compares with that of `escape_saddles`.

Each is a hook like that of the package, with other steps: Newton's step with absolute eigenvalues, a cubic
model, or a random perturbation.  They lost (docs/api/training.md), so that the package has none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hessian_probe.arrays import Vector, add_scaled, coefficients, combine, norm, scale
from hessian_probe.spectrum.traced_krylov import KrylovSpace
from hessian_probe.training.backoff import PAUSE, cost_in_gradients, spend_products
from hessian_probe.training.escape_hook import EscapeHook, HookOptions
from hessian_probe.training.escape_state import HookState
from hessian_probe.training.plateau import select
from hessian_probe.training.saddle_search import (
    GAIN_ROUNDINGS,
    NUM_TRIALS,
    WORTH,
    FirstStep,
    LocalLoss,
    SearchResult,
    trial_lengths,
)

# Halvings that locate the root of the cubic model's secular equation, to float32 accuracy.
BISECTIONS = 40
Candidates = tuple[jax.Array, jax.Array]


def projected(space: KrylovSpace, gradient: Vector) -> tuple[jax.Array, Vector]:
    """The gradient in a Krylov space: ⟨gradient, Ritz vector⟩, shape (m,), and what lies outside."""
    inside = coefficients(space.basis, gradient)
    return space.weights.T @ inside, add_scaled(gradient, -1.0, combine(space.basis, inside))


def displacement(space: KrylovSpace, inside: jax.Array, multiple: jax.Array, outside: Vector) -> Vector:
    """Write one candidate as a vector of the parameter space."""
    return add_scaled(combine(space.basis, space.weights @ inside), multiple, outside)


def saddle_free_newton(space: KrylovSpace, slopes: jax.Array, longest: jax.Array) -> Candidates:
    """Newton's step with the signs of the eigenvalues dropped: −|H|⁻¹g in the space.

    Without a gradient it does not move; outside the space the gradient is divided by ‖H‖.

    Returns:
        NUM_TRIALS candidates, that step times 2 … 2/2^(NUM_TRIALS−1), clipped to `longest`: coordinates along
        the Ritz vectors, shape (k, m), and multiples of the gradient outside the space, shape (k,).

    Source: Y. Dauphin et al. 2014, algorithm 1, arXiv:1406.2572.
    """
    step = -slopes / (jnp.abs(space.values) + space.band)
    length = jnp.sqrt(jnp.sum(jnp.square(step)))
    shrink = jnp.minimum(1.0, 0.5 * longest / jnp.where(length > 0, length, jnp.ones_like(length)))
    factors = 2.0 * shrink * trial_lengths(space.values.dtype)
    return factors[:, None] * step[None, :], -factors / (space.norm + space.band)


def cubic_newton(space: KrylovSpace, slopes: jax.Array, longest: jax.Array) -> Candidates:
    """Minimise the cubic model gᵀs + ½ sᵀHs + σ/3·‖s‖³ in the space, for several σ.

    The minimiser is s = −(H + λ)⁻¹g with λ = σ‖s‖ ≥ −λ_min; where the gradient has nothing along the lowest
    Ritz vector (the hard case), what is missing in length is taken along it.

    Returns:
        NUM_TRIALS candidates as above, for σ = ‖H‖/longest · 2^j: at first a step of `longest` has λ = ‖H‖.

    Source: Yu. Nesterov and B. T. Polyak, Math. Programming 108, 2006, doi:10.1007/s10107-006-0706-8; in a
        Krylov space: C. Cartis, N. Gould and Ph. Toint, Math. Programming 127, 2011,
        doi:10.1007/s10107-009-0286-5.
    """
    floor = jnp.maximum(-space.values[0], 0.0)
    size = space.norm + space.band

    def solve(sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(shift: jax.Array) -> jax.Array:
            return -slopes / (space.values + shift + space.band)

        def length(shift: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.sum(jnp.square(step(shift))))

        def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = ends
            middle = 0.5 * (low + high)
            longer = sigma * length(middle) > middle
            return jnp.where(longer, middle, low), jnp.where(longer, high, middle)

        slope = jnp.sqrt(jnp.sum(jnp.square(slopes)))
        top = floor + size + jnp.sqrt(sigma * slope)
        _, shift = jax.lax.fori_loop(0, BISECTIONS, halve, (floor, top))
        s = step(shift)
        missing = jnp.square(shift / sigma) - jnp.sum(jnp.square(s))
        sign = jnp.where(slopes[0] > 0, -1.0, 1.0).astype(s.dtype)
        s = s.at[0].add(sign * jnp.sqrt(jnp.maximum(missing, 0.0)))
        return s, -1 / (size + shift)

    return jax.vmap(solve)(size / longest / trial_lengths(space.values.dtype))


NEWTON = {"saddle_free_newton": saddle_free_newton, "cubic_newton": cubic_newton}


class NewtonLoss(LocalLoss):
    """A search by one of the Newton steps alone."""

    candidates: Callable[..., Candidates]

    def search(
        self,
        key: jax.Array,
        decrease: jax.Array,
        num_products: int,
        spend_products: jax.Array,
        restarts: jax.Array | None = None,
    ) -> SearchResult:
        """Take the best candidate, if there is negative curvature and it gains enough."""
        with jax.default_matmul_precision("highest"):
            before, gradient = jax.value_and_grad(self.value)(self.x)
            enough = jnp.maximum(GAIN_ROUNDINGS * self._rounding(key, before), WORTH * decrease)
            zero = jnp.zeros((), self.dtype)
            nothing = self.first_step(self._zeros(), zero, jnp.zeros((), jnp.bool_))
            first = jax.lax.cond(
                spend_products,
                lambda: self._newton(key, before, gradient, enough, num_products),
                lambda: nothing,
            )
        spent = spend_products.astype(jnp.int32)
        gain = jnp.where(first.leaves, before - first.value, zero)
        return self._result(first.step, gain, first, 1 + spent, 1 + NUM_TRIALS * spent)

    def _newton(
        self, key: jax.Array, before: jax.Array, gradient: Vector, enough: jax.Array, num_products: int
    ) -> FirstStep:
        space = self.krylov_space(key, gradient, num_products, ends_early=False)
        slopes, outside = projected(space, gradient)
        steps = type(self).candidates(space, slopes, self.longest())

        def value(candidate: tuple[jax.Array, jax.Array]) -> jax.Array:
            found = self.value(add_scaled(self.x, 1.0, displacement(space, *candidate, outside)))
            return jnp.where(jnp.isfinite(found), found, jnp.full_like(found, jnp.inf))

        values = jax.lax.map(value, steps)
        best = jnp.argmin(values)
        step = displacement(space, steps[0][best], steps[1][best], outside)
        leaves = space.negative & (before - values[best] > enough)
        return self.first_step(step, values[best], leaves, space)

    def price(self, num_products: int, spend_products: bool, restarts: bool = False) -> float:
        """Gradients that a search which finds nothing costs at most."""
        if not spend_products:
            return cost_in_gradients(0, 1, 1)
        return cost_in_gradients(self._num_steps(num_products) + 1, 2, 1 + NUM_TRIALS)


class NewtonHook(EscapeHook):
    """A hook of Newton steps: no long steps along the gradient, no descent, no random restarts."""

    def __init__(self, strategy: str, *args: Any) -> None:
        super().__init__(*args)
        step = staticmethod(NEWTON[strategy])
        self.local_loss = type("Loss", (NewtonLoss,), {"candidates": step})

    def _early(self, count: Any, kind: Any) -> Any:
        return spend_products(count, self.options.every, kind)

    def _flat(self, memory: HookState) -> jax.Array:
        return jnp.zeros((), jnp.bool_)


class PerturbationHook(EscapeHook):
    """A random step up to `radius` where the plateau test asks (C. Jin et al. 2017, arXiv:1703.00887)."""

    def __init__(self, radius: float, *args: Any) -> None:
        super().__init__(*args)
        self.radius = radius

    def _due(self, memory: HookState, local: LocalLoss) -> jax.Array:
        return memory.stalled

    def _search_or_confirm(
        self, memory: HookState, local: LocalLoss, value: jax.Array
    ) -> tuple[HookState, jax.Array]:
        asked = self._due(memory, local)
        key = jax.random.fold_in(jax.random.key(0) if self.key is None else self.key, memory.num_probes)
        direction_key, length_key = jax.random.split(key)
        step = local._normal(direction_key)
        share = jax.random.uniform(length_key, (), local.dtype) ** (1 / local.layout.size)
        step = scale(self.radius * share / norm(step).astype(local.dtype), step)
        next_probe = memory.now + PAUSE * self.options.window
        new = memory.backoff._replace(next_probe=jnp.where(asked, next_probe, memory.backoff.next_probe))
        pending, probes = select(asked, step, memory.pending), memory.num_probes + asked.astype(jnp.int32)
        return memory._replace(pending=pending, num_probes=probes, backoff=new), asked


def strategy_hook(
    optimizer: Any, loss: Any, strategy: str, *, radius: float = 0.01, options: HookOptions | None = None
) -> Any:
    """Wrap an optimiser in the hook of one strategy."""
    given = (optax.with_extra_args_support(optimizer), loss, None, options or HookOptions())
    hook = PerturbationHook(radius, *given) if strategy == "perturbation" else NewtonHook(strategy, *given)
    return optax.GradientTransformationExtraArgs(hook.init, hook.update)
