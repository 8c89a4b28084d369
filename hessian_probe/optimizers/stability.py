"""Sharpness in the coordinates of the optimiser in use, against the limit beyond which it diverges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import PyTree, from_tangent, norm, scale, tangent
from hessian_probe.operators.hessian import HessianOperator, hessian
from hessian_probe.operators.preconditioned import PreconditionedOperator
from hessian_probe.optimizers.impulse_response import ImpulseResponse, lr_lookahead, measure_response
from hessian_probe.optimizers.optax_state import UnreadableError
from hessian_probe.optimizers.probe import OptimizerProbe
from hessian_probe.optimizers.stability_limit import recognise
from hessian_probe.optimizers.thresholds import EDGE, NONLINEAR
from hessian_probe.optimizers.uphill import UphillLeaf, uphill_leaves, uphill_text
from hessian_probe.points.preconditions import nonfinite
from hessian_probe.results import number, result, signed
from hessian_probe.spectrum.eigsh import eigsh
from hessian_probe.spectrum.result import EigenResult

CAVEAT = (
    "the limit holds for the loss over these data, whose gradient is exact; with small batches noise keeps "
    "the sharpness below it (arXiv:2412.20553)"
)


@result(leaves=("eigen", "direction"))
class Stability:
    """Sharpness in an optimiser's coordinates, against its stability limit; made by `stability`.

    Attributes:
        status: "stable" (below the limit), "at_the_edge" (within 5 % of it, where training settles by
            itself), "unstable" (above it: the next steps diverge along the top eigenvector), or
            "undetermined" (`evidence` says what is missing).
        method: name of the optimiser, recognised from its measured response.
        sharpness: largest eigenvalue of P⁻¹H (of H where there is no preconditioner P).
        error: residual norm of that eigenvalue; some eigenvalue lies within it.
        limit: largest sharpness at which the optimiser is stable, in the units of `sharpness`.
        ratio: sharpness ÷ limit.
        learning_rate: η at the next step, as measured, with the corrections of Adam's first steps (the
            bias of momentum, RAdam's rectification); NaN where it is not known.
        momentum: β (β₁ for Adam), as measured.
        decay: share by which decoupled weight decay shrinks the parameters each step; NaN if it differs
            between variables (then `ratio` is exact and `limit` is of the whole map).
        preconditioner: P as a formula, "" for none.
        formula: the limit as a formula.
        source: where it comes from.
        schedule: pairs (steps from here, learning rate there ÷ here), corrections of first steps included;
            empty for a constant one.  The limit changes by the inverse.
        accumulation: gradients gathered for one step.
        direction: pytree like params of unit norm along which the optimiser is least stable: the
            gradient along it alternates once the limit is passed; None if undetermined.
        eigen: the EigenResult behind the sharpness; its vector is scaled by the preconditioner.
        evidence: why the status is "undetermined"; what the figures do not cover.
        uphill: leaves that the optimiser moves up their gradient, as pairs (name, multiple of the gradient);
            where there are any the status is "undetermined", since there is no limit to stay below.
        num_hvps: Hessian-vector products spent.
        num_evaluations: losses and gradients spent.
        variables: which leaves were varied, and which were left out and why.
    """

    status: str
    method: str = ""
    sharpness: float = math.nan
    error: float = math.nan
    limit: float = math.nan
    ratio: float = math.nan
    learning_rate: float = math.nan
    momentum: float = math.nan
    decay: float = math.nan
    preconditioner: str = ""
    formula: str = ""
    source: str = ""
    schedule: tuple[tuple[int, float], ...] = ()
    accumulation: int = 1
    direction: Any = None
    eigen: EigenResult | None = None
    evidence: tuple[str, ...] = ()
    uphill: tuple[UphillLeaf, ...] = ()
    num_hvps: int = 0
    num_evaluations: int = 0
    variables: str = ""

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        if self.status == "undetermined":
            return "Stability: UNDETERMINED", [("because", text) for text in self.evidence]
        title = f"Stability: {self.status.upper().replace('_', ' ')}"
        rate = "unknown" if np.isnan(self.learning_rate) else number(self.learning_rate)
        of_what = "P⁻¹H" if self.preconditioner else "H"
        top = f"{signed(self.sharpness)} ± {number(self.error, 1)}, largest eigenvalue of {of_what}"
        rows = [
            ("sharpness", top),
            ("limit", f"{number(self.limit)} = {self.formula}   ({self.source})"),
            ("optimiser", f"{self.method}, learning rate {rate}, momentum {number(self.momentum)}"),
        ]
        if self.preconditioner:
            rows.append(("P", self.preconditioner))
        if self.accumulation > 1:
            rows.append(("batches", f"{self.accumulation} gradients are gathered for one step"))
        shown = math.nan
        for steps, factor in self.schedule:
            if factor == shown:  # over
                continue
            shown = factor
            then = number(self.ratio * factor, 3)
            text = f"learning rate × {number(factor, 3)}, sharpness ÷ limit {then} if H stays as it is"
            rows.append((f"in {steps} steps", text))
        rows.extend(("note", text) for text in self.evidence)
        rows.append(("cost", f"{self.num_hvps} HVPs, {self.num_evaluations} evaluations"))
        return f"{title}   sharpness ÷ limit = {number(self.ratio)}", rows


def stability(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    trainable: Any = None,
    optimizer: Any,
    opt_state: Any,
    rtol: float = 1e-3,
    max_hvps: int | None = None,
    key: jax.Array | None = None,
) -> Stability:
    """Compare the sharpness in an optimiser's coordinates with the limit beyond which it diverges.

    Near a point with Hessian H, steps P⁻¹∇f of gradient descent diverge along an eigenvector of P⁻¹H
    whose eigenvalue is above 2/η; momentum, Nesterov's step, weight decay and Adam change the limit.  An
    optax transformation is opaque, so its rate, momentum, decay and preconditioner are measured on a
    copy of its state: by the response to a tiny gradient, in this step and the next ones.  The same
    measurement works through `chain`, `masked`, `inject_hyperparams`, `MultiSteps` and schedules.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its floating-point arrays are the variables, unless `trainable` says otherwise.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        optimizer: an optax transformation.
        opt_state: its state in training; a fresh state has no preconditioner yet.
        rtol: accuracy of the sharpness, relative to the largest one in magnitude.
        max_hvps: products allowed; None means that of `hp.eigsh`.
        key: random key of the start vector; None means `jax.random.key(0)`.

    Returns:
        Stability.  Status "undetermined" with a reason where some leaves climb (`uphill`), and where the
        optimiser has no linear response with one momentum (sign-based and normalised steps, Lion, Adafactor,
        schedule-free methods).

    Raises:
        TypeError: `loss` or `data` are of the wrong kind.
        ValueError: `params` has no variable; data is empty.

    Cost:
        About fifty updates of the optimiser (a hundred where it leaves a leaf in place) and 10 to 50
        products; one gradient with its linearisation.

    Source:
        J. Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability,
        2021, arXiv:2103.00065; Adaptive gradient methods at the edge of stability, 2022, arXiv:2207.14484.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> def loss(x):
        ...     return 5.0 * x[0] ** 2 + x[1] ** 2
        >>> params, optimizer = jnp.ones(2), optax.sgd(0.1)
        >>> found = stability(loss, params, optimizer=optimizer, opt_state=optimizer.init(params))
        >>> found.status, round(found.sharpness, 3), round(found.limit, 3)
        ('stable', 10.0, 20.0)
    """
    op = hessian(loss, params, data, check=False, trainable=trainable)
    bad = nonfinite(op)
    if bad is not None:
        return Stability("undetermined", evidence=(str(bad),), variables=str(op.layout))
    uphill = uphill_leaves(op, optimizer, opt_state)
    if uphill:
        text = uphill_text(uphill)
        return Stability("undetermined", evidence=(text,), uphill=uphill, variables=str(op.layout))
    try:
        probe, response = probed(op, optimizer, opt_state)
        schedule = lr_lookahead(probe, response)
    except UnreadableError as error:
        return Stability("undetermined", evidence=(str(error),), variables=str(op.layout))
    return measured_stability(op, response, schedule, rtol=rtol, max_hvps=max_hvps, key=key)


def probed(op: HessianOperator, optimizer: Any, opt_state: Any) -> tuple[OptimizerProbe, ImpulseResponse]:
    """Measure an optimiser's response at an operator's parameters; raises UnreadableError as `measure`."""
    probe = OptimizerProbe(optimizer, opt_state, op.layout, op.objective.non_variables, op.value)
    return probe, measure_response(probe, op.x, op.gradient_vector)


def measured_stability(
    op: HessianOperator,
    response: ImpulseResponse,
    schedule: tuple[tuple[int, float], ...] = (),
    *,
    rtol: float = 1e-3,
    max_hvps: int | None = None,
    key: jax.Array | None = None,
) -> Stability:
    """Hold the sharpness against the limit of a measured response; as `stability`."""
    method = recognise(response)
    whole = bool(np.isnan(method.decay))  # decay differs between variables: it belongs to the map
    seen = PreconditionedOperator(op, response.gain, response.decay if whole else None)
    eigen = eigsh(seen, lowest=0, highest=1, rtol=rtol, max_hvps=max_hvps, key=key)
    if not len(eigen.eigenvalues):
        return Stability("undetermined", evidence=eigen.evidence, variables=str(op.layout))
    factor, limit = (1.0, 2.0) if whole else (method.scale, method.limit)
    sharpness, error = float(eigen.eigenvalues[-1]) * factor, float(eigen.residual_norms[-1]) * factor
    ratio = sharpness / limit
    return Stability(
        status=_status(ratio, error / limit, eigen),
        method=method.name,
        sharpness=sharpness,
        error=error,
        limit=limit,
        ratio=ratio,
        learning_rate=method.rate,
        momentum=method.momentum,
        decay=method.decay,
        preconditioner=method.preconditioner,
        formula="2, for the map of one step" if whole else method.formula,
        source=method.source,
        schedule=schedule,
        accumulation=response.accumulation,
        direction=_direction(op, response, eigen),
        eigen=eigen,
        evidence=(*_unconverged(eigen), *_notes(eigen, whole, response)),
        variables=str(op.layout),
        num_hvps=op.num_hvps,
        num_evaluations=op.objective.cost.num_evaluations,
    )


def _status(ratio: float, spread: float, eigen: EigenResult) -> str:
    if ratio - spread > 1 + EDGE:  # a Rayleigh quotient is a lower bound, converged or not
        return "unstable"
    if _unconverged(eigen):
        return "undetermined"
    return "at_the_edge" if ratio + spread >= 1 - EDGE else "stable"


def _unconverged(eigen: EigenResult) -> tuple[str, ...]:
    """Say why the sharpness may be larger than what was found; nothing where its error says how much."""
    if bool(eigen.converged[-1]) or eigen.status == "stagnated":  # rounding forbids more
        return ()
    return (f"the sharpness did not converge: {'; '.join(eigen.evidence) or eigen.status}",)


def _notes(eigen: EigenResult, whole: bool, response: ImpulseResponse) -> tuple[str, ...]:
    notes = [CAVEAT]
    if response.kind:
        notes.append("clipping would not show: the response is measured at tiny gradients")
    elif not abs(response.shortened - 1) <= NONLINEAR:
        notes.append(
            f"at the present gradient the step is {number(response.shortened, 3)} times the linear response "
            "(clipping): the limit holds for gradients that are not clipped"
        )
    if whole:
        notes.append("weight decay differs between variables: sharpness and limit are of the map of one step")
    return (*notes, *eigen.evidence)


def _direction(op: HessianOperator, response: ImpulseResponse, eigen: EigenResult) -> PyTree:
    """The top eigenvector of D^½HD^½ as a direction of the parameters: D^½ times it."""
    top = from_tangent(op.layout, eigen.vector(len(eigen.eigenvalues) - 1), "an eigenvector")
    scaled = tuple(leaf * gain**0.5 for leaf, gain in zip(top, response.gain, strict=True))
    return tangent(op.layout, scale(1 / norm(scaled), scaled), op.objective.non_variables)
