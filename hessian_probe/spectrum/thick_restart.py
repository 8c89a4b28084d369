"""One Lanczos search for both ends: grow, restart, verify, and measure true residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hessian_probe.arrays import Basis, Layout, Vector, add_scaled, norm, random_normal, row, scale, tangent
from hessian_probe.jobs.checkpoint import Job
from hessian_probe.jobs.interrupt import uninterrupted
from hessian_probe.jobs.state import State, random_state, set_random_state
from hessian_probe.operators import memory
from hessian_probe.operators.base import unit_roundoff
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.spectrum.certificate import log_inverse_weight
from hessian_probe.spectrum.dense import empty_result
from hessian_probe.spectrum.krylov import Krylov
from hessian_probe.spectrum.result import EigenResult

# Basis vectors kept at most; 128 lets the 85,002-parameter network reach 1e-5 without a restart.
MAX_BASIS = 128
# Residuals below ROUNDING * eps * ||H|| are not asked for: they cannot be told from rounding.
ROUNDING = 8.0
# The residual estimate is exact up to rounding, so nearly all of the tolerance is aimed at; halved
# when a true residual turns out above it.
AIM = 0.95
# A fresh run of so many steps has had its chance, even if restarts keep its polynomial from growing: twice
# what an unrestarted run of 10,000 variables takes for the next two numbers.
FRESH_STEPS = 100
# A fresh run must have shown a further copy with this probability, unless it lies nearer to the innermost
# wanted eigenvalue than this share of the spectrum's width.
COPY_CONFIDENCE = 0.999
COPY_STEP = 1e-2


class EndSearch:
    """State of one Lanczos search for both ends."""

    def __init__(
        self,
        op: HessianOperator,
        lowest: int,
        highest: int,
        rtol: float,
        max_hvps: int | None,
        rng: np.random.Generator,
        max_basis: int | None,
        progress: Callable[[str], None] | None,
        job: Job,
    ) -> None:
        self.job = job
        self.op, self.lowest, self.highest, self.rtol = op, lowest, highest, rtol
        self.wanted = lowest + highest
        self.aim = AIM
        self.budget = 20 * self.wanted + 1000 if max_hvps is None else max_hvps
        self.finishing = 0  # products for true residuals, after which the search went on
        self.judged = 0  # steps after which the pairs were looked at last
        self.checked: np.ndarray | None = None  # what was found before the last fresh start
        self.fresh_at = 0  # steps made before it
        self.rng, self.progress = rng, progress
        self.max_basis = default_basis(op.layout, self.wanted) if max_basis is None else max_basis

    @property
    def spent(self) -> int:
        """Products since the search began, in an earlier session too."""
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
            retry = found.status == "stagnated" and self.aim > 0.2 and not self.krylov.exhausted
            if not retry or self._floor(found.norm) > self.aim * self.rtol * found.norm:
                return found
            with uninterrupted():
                self.job.reopen()
                self.aim *= 0.5
                self.finishing = found.num_hvps - self.krylov.steps
                self.judged, self.checked = self.krylov.steps, None

    def state(self) -> State:
        """Everything from which the search can go on to the same answer."""
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
        """Look at the pairs after a step: have they converged, is it time to restart?"""
        krylov = self.krylov
        if krylov.nonfinite or krylov.size <= self.wanted or not self._due():
            self.judged = krylov.steps
            return False
        # Copies of a repeated eigenvalue matter only where more than one pair is wanted at an end.
        settle = max(self.lowest, self.highest) <= 1
        ritz = krylov.ritz()
        chosen = self._chosen(len(ritz.values))
        top = float(np.max(np.abs(ritz.values)))
        goal = max(self.aim * self.rtol * top, self._floor(top))
        done = bool(np.all(ritz.residuals[chosen] <= goal)) and krylov.size > self.wanted
        self._report(ritz.values, ritz.residuals, chosen)
        if done and (settle or krylov.exhausted):
            return True
        values, before = ritz.values[chosen], self.checked
        again = done and self._guarded(ritz, goal)
        if again and before is not None and np.all(np.abs(values - before) <= 2 * goal):
            return True
        with uninterrupted():
            if again:
                krylov.restart(self._retained(ritz.values, 0), fresh=True)
                self.checked, self.fresh_at = values, krylov.steps
            elif krylov.full and not krylov.exhausted and not krylov.nonfinite:
                krylov.restart(self._retained(ritz.values, krylov.max_basis // 3))
            self.judged = krylov.steps
        return False

    def _due(self) -> bool:
        """Look at the Ritz values after every product at first, then at every third."""
        krylov = self.krylov
        return krylov.full or krylov.size <= 24 or krylov.size % 3 == 0

    def _floor(self, top: float) -> float:
        return ROUNDING * unit_roundoff(self.op) * top

    def _chosen(self, count: int) -> np.ndarray:
        if self.wanted >= count:
            return np.arange(count)
        return np.r_[0 : self.lowest, count - self.highest : count]

    def _guarded(self, ritz: Any, goal: float) -> bool:
        """After a fresh start, wait until no copy can hide in the pairs next to the wanted ones."""
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
        return self._no_copy(ritz.values, goal)

    def _no_copy(self, values: np.ndarray, goal: float) -> bool:
        """Whether the run from the fresh vector would have shown another copy of a wanted eigenvalue."""
        # One more copy pushes the innermost wanted value out, so it lies beyond that by the distance to
        # the next different wanted value at least.
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
        """Indices kept in a restart: the wanted ends and, shared between them, their neighbours."""
        share = extra // 2 if self.lowest and self.highest else extra
        low = self.lowest + share if self.lowest else 0
        high = self.highest + (extra - share) if self.highest else 0
        room = self.krylov.max_basis - 2
        low, high = min(low, room), min(high, max(room - low, 0))
        count = len(values)
        if low + high >= count:
            return np.arange(count)[: max(count - 1, 1)]
        return np.r_[0:low, count - high : count]

    def _report(self, values: np.ndarray, residuals: np.ndarray, chosen: np.ndarray) -> None:
        if self.progress is not None:
            ends = f"{values[chosen[0]]:+.4e} … {values[chosen[-1]]:+.4e}"
            worst = float(np.max(residuals[chosen]))
            self.progress(f"{self.spent} products: {ends}, largest residual {worst:.1e}")

    def _finish(self, status: str) -> EigenResult:
        """Form the wanted Ritz vectors and multiply them for their true residuals."""
        krylov, op = self.krylov, self.op
        if krylov.size == 0:
            return empty_result(op, self.spent, "lanczos", self.rtol, status, self.wanted)
        ritz = krylov.ritz()
        chosen = self._chosen(krylov.size)
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
        if top == 0.0:
            converged = residuals == 0.0
        message = ""
        if len(values) < self.wanted and self.wanted <= op.size:
            message = f"{len(values)} of {self.wanted} pairs: {status} after {spent} products"
        if status == "converged" and not np.all(converged):
            status = "stagnated"
            message = (
                f"residuals stay above rtol·‖H‖ = {self.rtol * top:.1e}: rounding in "
                f"{op.objective.precision} forbids more; use float64 or rtol ≥ "
                f"{float(np.max(residuals)) / max(top, 1e-300):.0e}"
            )
        elif status == "max_hvps":
            message = message or f"the budget of {self.budget} products ran out; raise max_hvps"
        elif status == "nonfinite":
            message = "a product was not finite; the pairs are those of the basis before it"
        elif status == "interrupted":
            message = "interrupted; residuals are estimates, the best so far"
        return EigenResult(
            eigenvalues=values,
            eigenvectors=tangent(op.layout, vectors, op.objective.non_variables, len(values)),
            residual_norms=residuals,
            converged=converged,
            num_lowest=min(self.lowest, len(values)),
            num_hvps=spent,
            status=status,
            method="lanczos",
            norm=top,
            rtol=self.rtol,
            size=op.size,
            message=message,
        )


def default_basis(layout: Layout, wanted: int) -> int:
    """Basis vectors held at most where the caller does not say."""
    fits = memory.vectors_that_fit(layout.vector_bytes)
    return max(min(max(MAX_BASIS, 2 * wanted + 32), fits), wanted + 4)


def true_residuals(op: HessianOperator, vectors: Basis, values: np.ndarray) -> np.ndarray:
    """Multiply each row and return ‖Hv − λv‖, shape (k,)."""
    residuals = np.zeros(len(values))
    for index, value in enumerate(values):
        vector = row(vectors, index)
        residuals[index] = float(norm(add_scaled(op.apply(vector), -value, vector)))
    return residuals


def _mixed(initial: Vector, rng: np.random.Generator, op: HessianOperator) -> Vector | None:
    """Add a random tenth to a given start."""
    length = float(norm(initial))
    if not 0 < length < np.inf:
        return None
    noise = random_normal(rng, op.layout)
    return add_scaled(scale(1 / length, initial), 0.1 / float(norm(noise)), noise)
