"""The search of `eigsh`: a Krylov basis with thick restarts, fresh starts for copies, and true residuals.

The basis grows until every wanted Ritz pair has converged by its residual estimate.  Where several pairs are
wanted at an end, a run from a fresh random vector then looks for copies of repeated eigenvalues, until one
finds nothing new.  Finally each wanted Ritz vector is multiplied once more for its true residual; where
rounding has left one above the tolerance, the search continues with a smaller aim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Basis, Layout, Vector, add_scaled, norm, random_normal, row, scale, tangent
from hessian_probe.jobs.checkpoint import Job
from hessian_probe.jobs.interrupt import uninterrupted
from hessian_probe.jobs.state import State, random_state, set_random_state
from hessian_probe.operators import memory
from hessian_probe.operators.symmetric import SymmetricOperator
from hessian_probe.spectrum.certificate import log_inverse_weight
from hessian_probe.spectrum.dense import empty_result, ends
from hessian_probe.spectrum.krylov import Krylov, Ritz
from hessian_probe.spectrum.result import EigenResult
from hessian_probe.spectrum.thresholds import (
    AIM,
    BASIS_SPARE,
    BUDGET,
    BUDGET_PER_PAIR,
    COPY_CONFIDENCE,
    COPY_STEP,
    FRESH_STEPS,
    KEPT_ONE_IN,
    LOWEST_AIM,
    MAX_BASIS,
    RANDOM_SHARE,
    RESIDUAL_ROUNDINGS,
)


class EigenOptions(NamedTuple):
    """What a search is asked for: arguments of `eigsh`."""

    lowest: int
    highest: int
    rtol: float
    max_hvps: int | None
    max_basis: int | None
    progress: Callable[[str], None] | None

    @property
    def wanted(self) -> int:
        """Pairs wanted at both ends together."""
        return self.lowest + self.highest


class EigenSearch:
    """One search for the lowest and the highest eigenpairs.

    Args:
        op: the operator.
        options: what is wanted.
        rng: source of the start and of fresh vectors.
        job: saves the search.
    """

    def __init__(
        self, op: SymmetricOperator, options: EigenOptions, rng: np.random.Generator, job: Job
    ) -> None:
        self.op, self.rng, self.job = op, rng, job
        self.lowest, self.highest, self.rtol = options.lowest, options.highest, options.rtol
        self.wanted, self.progress, self.aim = options.wanted, options.progress, AIM
        self.budget = default_budget(self.wanted) if options.max_hvps is None else options.max_hvps
        self.finishing = 0  # products for true residuals before the search was continued
        self.judged = 0  # steps at the last look at the pairs
        self.checked: np.ndarray | None = None  # wanted values before the last fresh start
        self.fresh_at = 0  # steps before it
        self.max_basis = options.max_basis or default_basis(op.layout, self.wanted)

    @property
    def spent(self) -> int:
        """Products since the search began, those of an earlier session included."""
        return self.krylov.steps + self.finishing

    def run(self, initial: Vector | None) -> EigenResult:
        """Search, from a given vector if there is one."""
        start = None if initial is None else _mixed(initial, self.rng, self.op)
        self.krylov = Krylov(self.op, start, self.rng, self.max_basis)
        saved = self.job.begin(self.op, self.rng)
        if saved is not None:
            self._restore(saved)
        try:
            return self._search()
        except KeyboardInterrupt:
            self.job.save(self.state)
            return self._finish("interrupted")

    def _search(self) -> EigenResult:
        while True:
            status = self._iterate()
            self.job.finish(self.state)
            found = self._finish(status)
            retry = found.status == "stagnated" and self.aim > LOWEST_AIM and not self.krylov.exhausted
            if not retry or self._floor(found.norm) > self.aim * self.rtol * found.norm:
                return found
            with uninterrupted():
                self.job.reopen()
                self.aim *= 0.5
                self.finishing = found.num_hvps - self.krylov.steps
                self.judged, self.checked = self.krylov.steps, None

    def state(self) -> State:
        """Return everything from which the search can be continued to the same answer."""
        own = {name: getattr(self, name) for name in ("aim", "finishing", "judged", "checked", "fresh_at")}
        return {**own, "random": random_state(self.rng), "krylov": self.krylov.state()}

    def _restore(self, saved: State) -> None:
        values = dict(saved)
        self.krylov.restore(values.pop("krylov"))
        set_random_state(self.rng, values.pop("random"))
        vars(self).update(values)

    def _iterate(self) -> str:
        """Grow, restart and verify until every wanted pair has converged."""
        krylov = self.krylov
        while True:
            if krylov.steps > self.judged and self._judge():
                return "converged"
            if krylov.nonfinite:
                return "nonfinite"
            if krylov.exhausted:
                return "converged"
            if self.spent + min(self.wanted, krylov.size + 1) >= self.budget:
                return "max_hvps"
            self.job.offer(self.state)
            krylov.step()

    def _judge(self) -> bool:
        """Whether all wanted pairs have converged, with their copies, after a step; else it may restart."""
        krylov = self.krylov
        if krylov.nonfinite or krylov.size <= self.wanted or not krylov.due:
            self.judged = krylov.steps
            return False
        # Copies of a repeated eigenvalue matter only where more than one pair is wanted at an end.
        settle = max(self.lowest, self.highest) <= 1
        ritz = krylov.ritz()
        chosen = ends(len(ritz.values), self.lowest, self.highest)
        top = float(np.max(np.abs(ritz.values)))
        goal = max(self.aim * self.rtol * top, self._floor(top))
        done = bool(np.all(ritz.residuals[chosen] <= goal))
        self._report(ritz.values, ritz.residuals, chosen)
        if done and (settle or krylov.exhausted):
            return True
        values, before = ritz.values[chosen], self.checked
        # Dropped remainders stay in the estimates for good: true residuals then say more.
        hidden = not done and krylov.restarted and bool(np.all(ritz.recent[chosen] <= 0.5 * goal))
        if hidden and self._copies_would_show(ritz, goal):
            return True
        again = done and self._copies_would_show(ritz, goal)
        if again and before is not None and np.all(np.abs(values - before) <= 2 * goal):
            return True
        with uninterrupted():
            if again:
                krylov.restart(self._retained(ritz.values, 0), fresh=True)
                self.checked, self.fresh_at = values, krylov.steps
            elif krylov.full and not krylov.exhausted and not krylov.nonfinite:
                krylov.restart(self._retained(ritz.values, krylov.max_basis // KEPT_ONE_IN))
            self.judged = krylov.steps
        return False

    def _floor(self, top: float) -> float:
        """Residual that cannot be told from rounding, for a norm of `top`."""
        return RESIDUAL_ROUNDINGS * self.op.eps * top

    def _copies_would_show(self, ritz: Ritz, goal: float) -> bool:
        """Return whether the run from the last fresh vector has been long enough to show a further copy.

        It has once no copy can hide in the pairs next to the wanted ones, and either the run's certificate
        excludes a copy or FRESH_STEPS products have been spent.
        """
        if not self.krylov.restarted:
            return True
        count = len(ritz.values)
        low, high = self.lowest, count - self.highest - 1
        for wanted, beside, sought in ((low - 1, low, self.lowest), (high + 1, high, self.highest)):
            if sought and 0 <= beside < count:
                gap = abs(float(ritz.values[beside] - ritz.values[wanted]))
                if ritz.residuals[beside] > max(goal, 0.5 * gap):
                    return False
        if not self.krylov.followed or self.krylov.steps - self.fresh_at >= FRESH_STEPS:
            return True
        return self._copies_excluded(ritz.values, goal)

    def _copies_excluded(self, values: np.ndarray, goal: float) -> bool:
        """Whether the certificate excludes another copy of a wanted eigenvalue."""
        # A further copy would push the innermost wanted value out of the wanted ones: it lies beyond that
        # value by at least the distance to the next different wanted value.
        certificate, spread = self.krylov.certificate(), float(values[-1] - values[0])
        needed = log_inverse_weight(self.krylov.dimension, COPY_CONFIDENCE)
        for end, side in ((values[: self.lowest], -1.0), (values[::-1][: self.highest], 1.0)):
            if not len(end):
                continue
            ahead = np.abs(end - end[-1])
            apart = ahead[ahead > 2 * goal]
            step = max(0.5 * float(np.min(apart, initial=spread)), COPY_STEP * spread)
            if certificate.log_growth(float(end[-1]) + side * step) < needed:
                return False
        return True

    def _retained(self, values: np.ndarray, extra: int) -> np.ndarray:
        """Indices kept in a restart: the wanted ends, and `extra` neighbours shared between them."""
        share = extra // 2 if self.lowest and self.highest else extra
        low = self.lowest + share if self.lowest else 0
        high = self.highest + (extra - share) if self.highest else 0
        room, count = self.krylov.max_basis - 2, len(values)
        low, high = min(low, room), min(high, max(room - low, 0))
        return ends(count, low, high) if low + high < count else np.arange(max(count - 1, 1))

    def _report(self, values: np.ndarray, residuals: np.ndarray, chosen: np.ndarray) -> None:
        if self.progress is not None:
            ends = f"{values[chosen[0]]:+.4e} … {values[chosen[-1]]:+.4e}"
            worst = float(np.max(residuals[chosen]))
            self.progress(f"{self.spent} products: {ends}, largest residual {worst:.1e}")

    def _finish(self, status: str) -> EigenResult:
        """Form the wanted Ritz vectors, measure their true residuals, and report."""
        krylov, op = self.krylov, self.op
        if krylov.size == 0:
            return empty_result(op, self.spent, "lanczos", self.rtol, status, self.wanted)
        ritz = krylov.ritz()
        chosen = ends(krylov.size, self.lowest, self.highest)
        vectors = krylov.vectors(ritz.weights[:, chosen])
        values, residuals = ritz.values[chosen], ritz.residuals[chosen]
        top = float(np.max(np.abs(ritz.values)))
        spent = self.spent
        if status in ("converged", "max_hvps"):
            try:
                residuals = true_residuals(op, vectors, values)
                spent += len(values)
            except KeyboardInterrupt:
                status = "interrupted"
        converged = residuals <= self.rtol * top
        if status == "converged" and not np.all(converged):
            status = "stagnated"
        return EigenResult(
            eigenvalues=values,
            eigenvectors=tangent(op.layout, vectors, op.non_variables, len(values)),
            residual_norms=residuals,
            converged=converged,
            num_lowest=min(self.lowest, len(values)),
            num_hvps=spent,
            status=status,
            method="lanczos",
            norm=top,
            rtol=self.rtol,
            size=op.size,
            variables=str(op.layout),
            evidence=self._evidence(status, residuals, top, spent),
        )

    def _evidence(self, status: str, residuals: np.ndarray, top: float, spent: int) -> tuple[str, ...]:
        """Say why a pair is missing or has not converged."""
        if status == "stagnated":
            return (
                f"residuals stay above rtol·‖H‖ = {self.rtol * top:.1e}: rounding in "
                f"{self.op.precision} forbids more; use float64 or rtol ≥ "
                f"{float(np.max(residuals)) / max(top, 1e-300):.0e}",
            )
        if status == "nonfinite":
            return ("a product was not finite; the pairs are from the basis before it",)
        if status == "interrupted":
            return ("interrupted; residuals are estimates, the best so far",)
        if len(residuals) < self.wanted <= self.op.size:
            return (f"{len(residuals)} of {self.wanted} pairs: {status} after {spent} products",)
        if status == "max_hvps":
            return (f"the budget of {self.budget} products ran out; raise max_hvps",)
        return ()


def default_budget(wanted: int) -> int:
    """Products allowed for this number of pairs where the caller does not say."""
    return BUDGET_PER_PAIR * wanted + BUDGET


def default_basis(layout: Layout, wanted: int) -> int:
    """Basis vectors held at most where the caller does not say."""
    fits = memory.vectors_that_fit(layout.vector_bytes)
    return max(min(max(MAX_BASIS, 2 * wanted + BASIS_SPARE), fits), wanted + 4)


def true_residuals(op: SymmetricOperator, vectors: Basis, values: np.ndarray) -> np.ndarray:
    """Multiply each row and return ‖Hv − λv‖, shape (k,)."""
    residuals = np.zeros(len(values))
    for index, value in enumerate(values):
        vector = row(vectors, index)
        residuals[index] = float(norm(add_scaled(op.apply(vector), -value, vector)))
    return residuals


def _mixed(initial: Vector, rng: np.random.Generator, op: SymmetricOperator) -> Vector | None:
    """Add a small random vector to a given start, so that it is orthogonal to no eigenvector."""
    length = float(norm(initial))
    if not 0 < length < np.inf:
        return None
    noise = random_normal(rng, op.layout)
    return add_scaled(scale(1 / length, initial), RANDOM_SHARE / float(norm(noise)), noise)
