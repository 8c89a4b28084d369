"""A learning rate and a momentum from the measured spectrum, tried for a few steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, Vector, flatten, norm, scale, tangent
from hessian_probe.operators.hessian import HessianOperator, hessian
from hessian_probe.operators.preconditioned import PreconditionedOperator
from hessian_probe.optimizers.impulse_response import ImpulseResponse
from hessian_probe.optimizers.optax_state import UnreadableError
from hessian_probe.optimizers.stability import Stability, measured_stability, probed
from hessian_probe.optimizers.thresholds import (
    BETTER_BY,
    GRADIENT_PRODUCTS,
    HIGHEST_RATE,
    LOWEST_RATE,
    MOMENTA,
    RESPONSE_TOLERANCE,
    SHARPNESS_RESERVE,
    SHORTER,
    TRIAL_STEPS,
)
from hessian_probe.optimizers.trial_runs import HeavyBall, loss_after_steps
from hessian_probe.points.preconditions import nonfinite
from hessian_probe.results import number, result, signed
from hessian_probe.spectrum.krylov import Krylov


@result(leaves=())
class RateSetting:
    """A learning rate and a momentum that were tried.

    Attributes:
        name: "as it is", "another rate" (of the same optimiser), or "heavy ball" (from rest).
        learning_rate: η in the optimiser's own units; NaN where that is not known (then see `factor`).
        momentum: β (β₁ of Adam).
        factor: learning rate ÷ the present one.
        ratio: present sharpness ÷ stability limit of the setting.
        predicted: change of the loss in `steps` steps by the local quadratic, in units of the loss.
        loss: loss over all data after `steps` steps; infinite if it was not finite.
    """

    name: str
    learning_rate: float
    momentum: float
    factor: float
    ratio: float
    predicted: float
    loss: float

    @property
    def text(self) -> str:
        """The setting in words."""
        rate = f"× {number(self.factor, 3)}"
        if not math.isnan(self.learning_rate):
            rate = f"{number(self.learning_rate, 3)} ({rate})"
        return f"learning rate {rate}, momentum {number(self.momentum, 3)}"

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        rows = [
            ("sharpness ÷ limit", number(self.ratio, 3)),
            ("loss changes", f"{signed(self.predicted, 3)} predicted by the local quadratic"),
            ("loss after", number(self.loss, 5)),
        ]
        return f"{self.name}: {self.text}", rows


@result(leaves=())
class RateProposal:
    """A learning rate and a momentum, tried; made by `propose_rate`.

    Attributes:
        status: "better" (one of the settings tried ends lower than the optimiser as it is), "no_better",
            or "undetermined" (`evidence` says why).
        proposed: the RateSetting to go on with; None if undetermined.
        tried: every RateSetting tried, the optimiser as it is first.
        loss: loss over all data before any step.
        steps: steps of each trial.
        sharpness_ratio: sharpness ÷ stability limit of the optimiser as it is.
        evidence: why the status is "undetermined"; else empty.
        num_hvps: Hessian-vector products spent.
        num_evaluations: losses over the data and gradients spent; each step of a trial takes one of a batch.
    """

    status: str
    proposed: RateSetting | None = None
    tried: tuple[RateSetting, ...] = ()
    loss: float = math.nan
    steps: int = 0
    sharpness_ratio: float = math.nan
    evidence: tuple[str, ...] = ()
    num_hvps: int = 0
    num_evaluations: int = 0

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        if self.proposed is None:
            return "Learning rate: UNDETERMINED", [("because", text) for text in self.evidence]
        kept = "nothing tried was better than " if self.status == "no_better" else ""
        title = f"Proposal: {kept}{self.proposed.text}"
        rows = [("loss here", number(self.loss, 5))]
        for setting in self.tried:
            ends = f"{number(setting.loss, 5)} after {self.steps} steps"
            text = f"{setting.text}: {ends} ({signed(setting.predicted, 3)} predicted)"
            rows.append((setting.name, f"{text}, sharpness ÷ limit {number(setting.ratio, 3)}"))
        cost = f"{self.num_hvps} HVPs, {self.num_evaluations} evaluations"
        return title, [*rows, ("cost", cost)]


def propose_rate(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    trainable: Any = None,
    optimizer: Any,
    opt_state: Any,
    steps: int = TRIAL_STEPS,
    max_hvps: int = GRADIENT_PRODUCTS,
    key: jax.Array | None = None,
) -> RateProposal:
    """Propose a learning rate and a momentum from the spectrum here, and try them.

    The optimiser's rate, momentum and preconditioner are measured as `hp.stability` does.  In coordinates
    scaled by its steps a Lanczos run from the gradient predicts what any rate and momentum do to the local
    quadratic in a few steps.  Among the settings whose stability limit is at least twice the present
    sharpness, that with the lowest predicted loss is chosen: once among rates with the momentum in use, and,
    for optimisers without a preconditioner, once among rates and momenta of heavy ball.  Each is then run
    for `steps` steps on a copy, on the batches in turn, beside the optimiser as it is.  Where none is
    better, a quarter of the present rate is run too.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its floating-point arrays are the variables, unless `trainable` says otherwise.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`), as training takes them.
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        optimizer: an optax transformation.
        opt_state: its state in training.
        steps: steps of each trial, and of the prediction.
        max_hvps: products of the run from the gradient; the sharpness takes as many as it needs.
        key: random key of the sharpness's start vector; None means `jax.random.key(0)`.

    Returns:
        RateProposal.  Status "undetermined" with a reason where `hp.stability` is.

    Raises:
        TypeError: `loss` or `data` are of the wrong kind.
        ValueError: `params` has no variable; data is empty; `steps` or `max_hvps` is below 1.

    Cost:
        The sharpness (10 to 50 products), `max_hvps` products, two or three times `steps` gradients
        of a batch and as many losses over the data.

    Source:
        Heavy ball and its limit: B. Polyak 1964, doi:10.1016/0041-5553(64)90137-5; Cohen et al. 2021,
        arXiv:2103.00065.  Prediction by Gauss quadrature: G. Golub and G. Meurant 2010, chapter 6.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> def loss(x):
        ...     return jnp.sum(jnp.array([1.0, 0.01]) * x**2)
        >>> params, optimizer = jnp.ones(2), optax.sgd(0.01)
        >>> found = propose_rate(loss, params, optimizer=optimizer, opt_state=optimizer.init(params))
        >>> found.status, found.proposed.name, round(found.proposed.momentum, 2)
        ('better', 'heavy ball', 0.8)
    """
    for name, value in (("steps", steps), ("max_hvps", max_hvps)):
        if value < 1:
            raise ValueError(f"{name}={value}; expected at least 1")
    op = hessian(loss, params, data, check=False, trainable=trainable)
    bad = nonfinite(op)
    if bad is not None:
        return _undetermined(op, (str(bad),), steps)
    try:
        _, response = probed(op, optimizer, opt_state)
    except UnreadableError as error:
        return _undetermined(op, (str(error),), steps)
    now = measured_stability(op, response, key=key)
    if now.status == "undetermined":
        return _undetermined(op, now.evidence, steps)
    spectrum = gradient_spectrum(op, response.gain, max_hvps)
    if spectrum is None:
        return _undetermined(op, ("the gradient is zero: no rate moves the parameters",), steps)
    trials = _Trials(op, steps, optimizer, opt_state, response, now, spectrum)
    tried = [trials.same_momentum("as it is", 1.0), trials.other_rate()]
    if not response.kind and _one_rate(response):
        tried.append(trials.heavy_ball())
    if not _better(op, tried):
        tried.append(trials.other_rate(SHORTER))
    best = _better(op, tried)
    return RateProposal(
        status="better" if best else "no_better",
        proposed=best or tried[0],
        tried=tuple(tried),
        loss=op.value,
        steps=steps,
        sharpness_ratio=now.ratio,
        num_hvps=op.num_hvps,
        num_evaluations=op.objective.cost.num_evaluations,
    )


class GradientSpectrum(NamedTuple):
    """The spectrum with the gradient's weights: what a few steps on the local quadratic depend on.

    In coordinates scaled by the optimiser's own steps the loss is g·d + d·Hd/2.  A Lanczos run that starts
    from g gives nodes θ and weights γ² with which every polynomial in H between two g's of up to twice its
    degree is exact (Gauss quadrature), so that the loss after few steps is known from few products.

    Attributes:
        nodes: curvatures θ, shape (k,).
        parts: the gradient's component at each, shape (k,).
    """

    nodes: np.ndarray
    parts: np.ndarray

    def change(self, kernel: MomentumKernel, factor: float, steps: int) -> float:
        """Return the quadratic's change after steps from rest, in units of the loss; infinite on overflow.

        Negative curvature counts as zero: there the quadratic has no minimum, and the loss may have one.
        """
        nodes = np.maximum(self.nodes, 0.0)
        moved, late = np.zeros_like(nodes), np.zeros_like(nodes)
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                gradient = self.parts + nodes * moved
                moved = moved - factor * (kernel.now * gradient + late)
                late = kernel.ratio * late + kernel.next * gradient
            value = float(np.sum(self.parts * moved + 0.5 * nodes * moved**2))
        return value if np.isfinite(value) else float("inf")


class MomentumKernel(NamedTuple):
    """A step is −(now·g₀ + next·Σ ratioᵏ⁻¹g₋ₖ)."""

    now: float
    next: float
    ratio: float


def gradient_spectrum(op: HessianOperator, gain: Vector, max_hvps: int) -> GradientSpectrum | None:
    """Lanczos from the gradient, in coordinates scaled by √gain; None where the gradient is zero.

    Returns:
        Nodes and parts, from `max_hvps` products and vectors of memory at most.

    Source:
        G. Golub and G. Meurant, Matrices, Moments and Quadrature, 2010, chapter 6.
    """
    gradient = tuple(jnp.sqrt(d) * g for d, g in zip(gain, op.gradient_vector, strict=True))
    size = float(norm(gradient))
    if not size > 0:
        return None
    krylov = Krylov(PreconditionedOperator(op, gain, None), gradient, np.random.default_rng(0), max_hvps)
    while not (krylov.full or krylov.invariant):
        krylov.step()
    ritz = krylov.ritz()
    return GradientSpectrum(ritz.values, size * ritz.weights[0])


class _Trials(NamedTuple):
    """Settings, each predicted by the local quadratic and run on a copy."""

    op: HessianOperator
    steps: int
    optimizer: Any
    state: Any
    response: ImpulseResponse
    now: Stability
    spectrum: GradientSpectrum

    def other_rate(self, factor: float | None = None) -> RateSetting:
        """Another rate, the momentum as it is; the best by prediction unless it is given."""
        if factor is None:
            factor = float(min(_factors(self.now.ratio), key=lambda f: self._change(float(f))))
        return self.same_momentum("another rate", factor)

    def heavy_ball(self) -> RateSetting:
        """Heavy ball from rest, with another rate and momentum."""
        # The scaled map has its eigenvalue 2·ratio on top, and heavy ball its limit at (2 + 2β) / q.
        changes = {
            (float(q), beta): self.spectrum.change(MomentumKernel(1.0, beta, beta), q, self.steps)
            for beta in MOMENTA
            for q in _factors(self.now.ratio / (1 + beta))
        }
        q, beta = min(changes, key=lambda pair: changes[pair])
        top = max(float(jnp.max(leaf, initial=0.0)) for leaf in self.response.gain)
        rates = tangent(self.op.layout, scale(q, self.response.gain), self.op.objective.non_variables)
        optimizer = HeavyBall(beta, rates)
        return RateSetting(
            name="heavy ball",
            learning_rate=q * top,
            momentum=beta,
            factor=q * top / self.now.learning_rate,
            ratio=q * self.now.ratio / (1 + beta),
            predicted=changes[q, beta],
            loss=loss_after_steps(self.op, optimizer, optimizer.init(rates), self.steps),
        )

    def same_momentum(self, name: str, factor: float) -> RateSetting:
        """The present rate times a factor, the momentum as it is."""
        return RateSetting(
            name=name,
            learning_rate=factor * self.now.learning_rate,
            momentum=self.now.momentum,
            factor=factor,
            ratio=factor * self.now.ratio,
            predicted=self._change(factor),
            loss=loss_after_steps(self.op, self.optimizer, self.state, self.steps, factor),
        )

    def _change(self, factor: float) -> float:
        """Change of the quadratic by the optimiser's own momentum, where alternating gradients count as 1."""
        own = 1 / (1 - self.response.next_share / (1 + self.response.ratio))
        kernel = MomentumKernel(own, own * self.response.next_share, self.response.ratio)
        return self.spectrum.change(kernel, factor, self.steps)


def _factors(ratio: float) -> np.ndarray:
    """Multiples of a rate whose sharpness ÷ limit is `ratio`, up to SHARPNESS_RESERVE of the limit."""
    most = SHARPNESS_RESERVE / ratio if ratio > SHARPNESS_RESERVE / HIGHEST_RATE else HIGHEST_RATE
    return most * 2.0 ** -np.arange(1 + round(math.log2(1 / LOWEST_RATE)))


def _one_rate(response: ImpulseResponse) -> bool:
    """Whether all variables that move have one rate."""
    first = flatten(response.first)
    moving = first[first > 0]
    return bool(np.all(np.abs(moving - moving.max()) <= RESPONSE_TOLERANCE * moving.max()))


def _better(op: HessianOperator, tried: list[RateSetting]) -> RateSetting | None:
    """The setting that ends lowest, if it ends lower than here and, by BETTER_BY, than without a change."""
    best = min(tried, key=lambda setting: setting.loss)
    changed = max(abs(op.value - min(best.loss, op.value)), abs(op.value) * float(op.eps))
    return best if best.loss < min(tried[0].loss - BETTER_BY * changed, op.value) else None


def _undetermined(op: HessianOperator, evidence: tuple[str, ...], steps: int) -> RateProposal:
    return RateProposal(
        status="undetermined",
        loss=op.value,
        steps=steps,
        evidence=evidence,
        num_hvps=op.num_hvps,
        num_evaluations=op.objective.cost.num_evaluations,
    )
