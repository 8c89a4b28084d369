"""A learning rate and a momentum from the measured spectrum, tried for a few steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, Vector, add_scaled, cast, from_tangent, merge, norm, scale, tangent
from hessian_probe.operators.data import Batch
from hessian_probe.operators.hessian import HessianOperator, hessian
from hessian_probe.operators.preconditioned import PreconditionedOperator
from hessian_probe.optimizers.impulse_response import AGREE, ImpulseResponse
from hessian_probe.optimizers.optax_state import UnreadableError
from hessian_probe.optimizers.rate_proposal import RateProposal, RateSetting
from hessian_probe.optimizers.stability import Stability, measured_stability, probed
from hessian_probe.points.preconditions import nonfinite
from hessian_probe.spectrum.krylov import Krylov

# A proposed setting has its limit at twice the present sharpness: sharpness grows while training goes well
# (Cohen et al. 2021, section 3.1).
SHARE = 0.5
# Rates are tried in theory down to this share of that, and up to so many times the present one where no
# curvature sets a limit; each twice the next.
LEAST, MOST = 2.0**-8, 2.0**10
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
# A setting is better where it ends lower by this share of what the loss has changed; heavy ball on a
# quadratic of condition number 1,000 gains about as much over a good rate in 40 steps.
MATERIAL = 0.01
# Tried where nothing was better: with noise, or curvature that the point does not show, shorter steps may be.
SHORTER = 0.25


def propose_rate(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    optimizer: Any,
    opt_state: Any,
    steps: int = 40,
    num_products: int = 24,
    key: jax.Array | None = None,
) -> RateProposal:
    """Propose a learning rate and a momentum from the spectrum here, and try them.

    The optimiser's rate, momentum and preconditioner are measured as `hp.stability` does.  In coordinates
    scaled by its steps a Lanczos run from the gradient says what any rate and momentum do to the local
    quadratic in a few steps.  Among those whose stability limit is at least twice the present sharpness
    the one that it lowers most is chosen: once for the rate alone, with the momentum in use, and for
    optimisers without a preconditioner for heavy ball with another momentum.  Each is then run for
    `steps` steps on a copy, on the batches in turn, beside the optimiser as it is; where neither is
    better, so is a quarter of the present rate.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its real floating-point leaves are the variables.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`), as training takes them.
        optimizer: an optax transformation.
        opt_state: its state in training.
        steps: steps of each trial, and of the prediction.
        num_products: products of the run from the gradient.
        key: random key of the sharpness's start vector; None means `jax.random.key(0)`.

    Returns:
        RateProposal.  Status "undetermined" with a reason where `hp.stability` is.

    Raises:
        TypeError: `loss` or `data` are of the wrong kind.
        ValueError: `params` has no variable; data is empty; `steps` or `num_products` is below 1.

    Cost:
        The sharpness (10 to 50 products), `num_products` products, two or three times `steps` gradients
        of a batch and as many losses over the data.

    Source:
        Heavy ball and its limit: B. Polyak 1964, doi:10.1016/0041-5553(64)90137-5; Cohen et al. 2021,
        arXiv:2103.00065.  Prediction by Gauss quadrature: G. Golub and G. Meurant 2010, chapter 6.
    """
    for name, value in (("steps", steps), ("num_products", num_products)):
        if value < 1:
            raise ValueError(f"{name}={value}; expected at least 1")
    op = hessian(loss, params, data)
    bad = nonfinite(op)
    if bad:
        return _undetermined(op, bad, steps)
    try:
        _, response = probed(op, optimizer, opt_state)
    except UnreadableError as error:
        return _undetermined(op, str(error), steps)
    now = measured_stability(op, response, key=key)
    if now.status == "undetermined":
        return _undetermined(op, now.reason, steps)
    scaled = PreconditionedOperator(op, response.gain, None)
    root = tuple(jnp.sqrt(gain) for gain in response.gain)
    start = tuple(r * g for r, g in zip(root, op.gradient_vector, strict=True))
    seen = gradient_spectrum(scaled, start, num_products)
    if not len(seen.nodes):
        return _undetermined(op, "the gradient is zero: no rate moves the parameters", steps)
    trials = _Trials(op, steps)
    tried = [_unchanged(trials, optimizer, opt_state, response, now, seen)]
    tried.append(_rate(trials, optimizer, opt_state, response, now, seen))
    if not response.kind and _even(response):
        tried.append(_heavy_ball(trials, response, now, seen))
    if not _better(op, tried):
        tried.append(_rate(trials, optimizer, opt_state, response, now, seen, SHORTER))
    return _proposal(op, tried, steps, now)


def _kernel(response: ImpulseResponse) -> MomentumKernel:
    """The optimiser's own, in coordinates where gradients that alternate are answered by one."""
    own = 1 / (1 - response.next_share / (1 + response.ratio))
    return MomentumKernel(own, own * response.next_share, response.ratio)


def _factors(ratio: float) -> np.ndarray:
    """Multiples of a rate whose sharpness ÷ limit is `ratio`, up to SHARE of the limit."""
    most = SHARE / ratio if ratio > SHARE / MOST else MOST
    return most * 2.0 ** -np.arange(1 + round(math.log2(1 / LEAST)))


def _unchanged(
    trials: _Trials,
    optimizer: Any,
    state: Any,
    response: ImpulseResponse,
    now: Stability,
    seen: GradientSpectrum,
) -> RateSetting:
    predicted = seen.change(_kernel(response), 1.0, trials.steps)
    after = trials.run(optimizer, state, 1.0)
    return RateSetting("as it is", now.learning_rate, now.momentum, 1.0, now.ratio, predicted, after)


def _rate(
    trials: _Trials,
    optimizer: Any,
    state: Any,
    response: ImpulseResponse,
    now: Stability,
    seen: GradientSpectrum,
    factor: float | None = None,
) -> RateSetting:
    """Another rate, the momentum as it is; the best by prediction unless it is given."""
    memory = _kernel(response)
    if factor is None:
        factor = min(_factors(now.ratio), key=lambda f: seen.change(memory, float(f), trials.steps))
    factor = float(factor)
    return RateSetting(
        "another rate",
        factor * now.learning_rate,
        now.momentum,
        factor,
        factor * now.ratio,
        seen.change(memory, factor, trials.steps),
        trials.run(optimizer, state, factor),
    )


def _heavy_ball(
    trials: _Trials, response: ImpulseResponse, now: Stability, seen: GradientSpectrum
) -> RateSetting:
    """Heavy ball from rest, with another rate and momentum."""
    # The scaled map has its eigenvalue 2·ratio on top, and heavy ball its limit at (2 + 2β) / q.
    changes = {
        (float(q), beta): seen.change(heavy_ball(beta), q, trials.steps)
        for beta in MOMENTA
        for q in _factors(now.ratio / (1 + beta))
    }
    q, beta = min(changes, key=lambda pair: changes[pair])
    top = max(float(jnp.max(leaf, initial=0.0)) for leaf in response.gain)
    return RateSetting(
        "heavy ball",
        q * top,
        beta,
        q * top / now.learning_rate,
        q * now.ratio / (1 + beta),
        changes[q, beta],
        trials.run_heavy_ball(scale(q, response.gain), beta),
    )


def _even(response: ImpulseResponse) -> bool:
    """Whether all variables that move have one rate."""
    flat = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in response.first])
    moving = flat[flat > 0]
    return bool(np.all(np.abs(moving - moving.max()) <= AGREE * moving.max()))


class _Trials:
    """Runs of some steps from the operator's parameters, on the batches in turn."""

    def __init__(self, op: HessianOperator, steps: int) -> None:
        self.op, self.steps, self.num_gradients = op, steps, 0

    def run(self, optimizer: Any, state: Any, factor: float) -> float:
        """Loss over all data after steps of an optimiser with its updates multiplied by a factor."""
        layout, rest = self.op.layout, self.op.objective.non_variables
        told = "ExtraArgs" in type(optimizer).__name__

        @jax.jit
        def step(x: Vector, gradient: Vector, value: Any, state: Any) -> Any:
            trees = [tangent(layout, cast(gradient, layout.dtypes), rest), merge(layout, x, rest)]
            updates, state = optimizer.update(trees[0], state, trees[1], **({"value": value} if told else {}))
            return add_scaled(x, factor, from_tangent(layout, updates, "the update")), state

        x = self.op.x
        for batch in self._batches():
            value, gradient = self.op.objective.gradient_of(batch, x)
            x, state = step(x, gradient, value, state)
        return self._value(x)

    def run_heavy_ball(self, rates: Vector, momentum: float) -> float:
        """Loss over all data after steps of heavy ball from rest."""
        x, speed = self.op.x, tuple(jnp.zeros_like(rate) for rate in rates)
        for batch in self._batches():
            _, gradient = self.op.objective.gradient_of(batch, x)
            speed = add_scaled(gradient, momentum, speed)
            x = add_scaled(x, -1.0, tuple(rate * leaf for rate, leaf in zip(rates, speed, strict=True)))
        return self._value(x)

    def _batches(self) -> Iterator[Batch]:
        """A batch for each step; every pass reads the data again."""
        self.num_gradients += self.steps
        passes = itertools.chain.from_iterable(self.op.objective.data for _ in itertools.count())
        return itertools.islice(passes, self.steps)

    def _value(self, x: Vector) -> float:
        value = self.op.objective.value(x)
        return value if math.isfinite(value) else math.inf


def _better(op: HessianOperator, tried: list[RateSetting]) -> RateSetting | None:
    """The setting that ends lowest, if it ends lower than here and, by enough, than without a change."""
    best = min(tried, key=lambda setting: setting.loss)
    changed = max(abs(op.value - min(best.loss, op.value)), abs(op.value) * float(op.eps))
    return best if best.loss < min(tried[0].loss - MATERIAL * changed, op.value) else None


def _proposal(op: HessianOperator, tried: list[RateSetting], steps: int, now: Stability) -> RateProposal:
    best = _better(op, tried)
    return RateProposal(
        status="better" if best else "no_better",
        proposed=best or tried[0],
        tried=tuple(tried),
        loss=op.value,
        steps=steps,
        sharpness_ratio=now.ratio,
        reason="",
        num_hvps=op.num_hvps,
        num_gradients=steps * len(tried),
    )


def _undetermined(op: HessianOperator, reason: str, steps: int) -> RateProposal:
    return RateProposal(
        status="undetermined",
        proposed=None,
        tried=(),
        loss=op.value,
        steps=steps,
        sharpness_ratio=math.nan,
        reason=reason,
        num_hvps=op.num_hvps,
        num_gradients=0,
    )


# --- What steps of given rate and momentum do to a quadratic, as far as the gradient sees its spectrum.


class GradientSpectrum(NamedTuple):
    """The spectrum as the gradient sees it.

    Attributes:
        nodes: curvatures θ, shape (k,).
        parts: the gradient's component at each, shape (k,).
    """

    nodes: np.ndarray
    parts: np.ndarray

    def change(self, memory: MomentumKernel, factor: float, steps: int) -> float:
        """Change of the quadratic after some steps from rest.

        Negative curvature is taken as none: there the quadratic has no floor, and the loss may have one.

        Args:
            memory: how a step depends on this and earlier gradients.
            factor: multiplies every step.
            steps: number of steps.

        Returns:
            Loss there − loss here, in units of the loss; infinite where it overflows.
        """
        nodes = np.maximum(self.nodes, 0.0)
        moved, late = np.zeros_like(nodes), np.zeros_like(nodes)
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                gradient = self.parts + nodes * moved
                moved = moved - factor * (memory.now * gradient + late)
                late = memory.ratio * late + memory.next * gradient
            value = float(np.sum(self.parts * moved + 0.5 * nodes * moved**2))
        return value if np.isfinite(value) else float("inf")


class MomentumKernel(NamedTuple):
    """A step is −(now·g₀ + next·Σ ratioᵏ⁻¹g₋ₖ)."""

    now: float
    next: float
    ratio: float


def heavy_ball(momentum: float) -> MomentumKernel:
    """Memory of steps v ← βv + g, x ← x − v."""
    return MomentumKernel(1.0, momentum, momentum)


def gradient_spectrum(op: HessianOperator, gradient: Vector, num_products: int) -> GradientSpectrum:
    """Lanczos from the gradient.

    Args:
        op: the Hessian in scaled coordinates.
        gradient: the gradient in them.
        num_products: products at most.

    Returns:
        Nodes and parts; none where the gradient is zero.

    Cost:
        num_products products and vectors of memory, fewer where the Krylov space ends.

    Source:
        G. Golub and G. Meurant, Matrices, Moments and Quadrature, 2010, chapter 6.
    """
    size = float(norm(gradient))
    if not size > 0:
        return GradientSpectrum(np.zeros(0), np.zeros(0))
    krylov = Krylov(op, gradient, np.random.default_rng(0), num_products)
    while not (krylov.full or krylov.invariant):
        krylov.step()
    ritz = krylov.ritz()
    return GradientSpectrum(ritz.values, size * ritz.weights[0])
