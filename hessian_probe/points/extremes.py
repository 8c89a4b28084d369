"""Extreme eigenpairs: both ends of the spectrum, only as far as the label needs them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, norm, row, scale, unflatten
from hessian_probe.jobs.checkpoint import Job
from hessian_probe.jobs.state import State, random_state, set_random_state
from hessian_probe.operators import memory
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.rounding import SINGLE, Rounding
from hessian_probe.points.settings import Settings
from hessian_probe.points.thresholds import (
    BREAKDOWN_AFTER,
    DENSE_AFTER,
    DENSE_COUNT,
    DENSE_FIRST,
    DENSE_SIZE,
    END_RESIDUAL,
    LAST_CALL,
    PATIENCE,
)
from hessian_probe.spectrum.certificate import Certificate, log_inverse_weight, steps_for
from hessian_probe.spectrum.dense import dense_eigh
from hessian_probe.spectrum.krylov import Krylov
from hessian_probe.spectrum.thresholds import MAX_BASIS, SIGN_MARGIN, SIGN_RESIDUAL


class Eigenpair(NamedTuple):
    """One end of the spectrum: Ritz value, unit vector, residual ‖Hv − λv‖."""

    value: float
    vector: Vector
    residual: float


class ExtremeEigenpairs(NamedTuple):
    """What the search saw of the spectrum.

    Attributes:
        low: lowest Ritz pair.
        high: highest Ritz pair.
        top: ‖H‖, the largest Ritz value in magnitude.
        band: zero band.
        negatives: Ritz values below −band; by interlacing at least as many eigenvalues are.
        complete: every eigenvalue is known (dense, or the whole space was spanned).
        settled: the search ended because the signs were decided, not because the budget did.
        lower: with the asked confidence no eigenvalue lies below this.
        upper: with the asked confidence none lies above this; each of the two holds by itself.
        steps: products on which these statements rest.
        needed: products after which they would have allowed a label, if that is known, else None.
        spectrum: all eigenvalues and, by column, vectors where dense, else None.
        asymmetry: largest |⟨u,Hv⟩ − ⟨v,Hu⟩| seen.
        status: "converged", "max_hvps", "nonfinite" or "interrupted".
    """

    low: Eigenpair | None
    high: Eigenpair | None
    top: float
    band: float
    negatives: int
    complete: bool = False
    settled: bool = False
    lower: float = -math.inf
    upper: float = math.inf
    steps: int = 0
    needed: int | None = None
    spectrum: tuple[np.ndarray, np.ndarray] | None = None
    asymmetry: float = 0.0
    status: str = "converged"

    @property
    def margin(self) -> float:
        """Curvature beyond which a sign is shown."""
        return SIGN_MARGIN * self.band

    @property
    def ends(self) -> tuple[Eigenpair, Eigenpair]:
        """Both ends, where the search found them."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def lowest(self, sign: float) -> Eigenpair:
        """The lowest end of ±H."""
        return self.ends[0 if sign > 0 else 1]


class Point(NamedTuple):
    """An operator and what is known of its spectrum: the parameters, or the predicted critical point."""

    operator: HessianOperator
    extremes: ExtremeEigenpairs


class ExtremesSearch:
    """Search for both ends of an operator until the label is settled or the budget spent."""

    def __init__(
        self,
        op: HessianOperator,
        rounding: Rounding,
        rng: np.random.Generator,
        settings: Settings,
        budget: int,
        job: Job,
    ) -> None:
        self.op, self.rounding, self.rng, self.job = op, rounding, rng, job
        self.settings, self.budget = settings, budget
        self.before = op.objective.cost.num_hvps
        self.judged = 0  # steps after which the search was judged last
        self.resolved_at = 0  # steps after which both ends were resolved first
        self.top = (0, 0)  # products and steps when the last step began
        self.dimension = op.search_dimension(op.active)

    @property
    def spent(self) -> int:
        """Products since the search began, those of the perturbed operator included."""
        return self.op.objective.cost.num_hvps - self.before

    def run(self) -> ExtremeEigenpairs:
        """Search."""
        # All variables are multiplied at once where there are few, or every eigenvalue is to be counted.
        counted = self.settings.counting and self.dimension <= DENSE_COUNT
        fits = memory.vectors_that_fit(self.op.layout.vector_bytes)
        self.krylov = Krylov(self.op, None, self.rng, max(min(MAX_BASIS, fits), 8), self.op.active)
        try:
            if (self.dimension <= DENSE_FIRST or counted) and self._affords_dense():
                return self._dense()
            saved = self.job.begin(self.op, self.rng)
            if saved is not None:
                self._restore(saved)
            status = self._iterate()
            self.job.finish(self.state)
            if status == "dense":
                return self._dense()
        except KeyboardInterrupt:
            self.job.save(self.state)
            status = "interrupted"
        except FloatingPointError:
            status = "nonfinite"
        return self._ends(status)

    def state(self) -> State:
        """Everything from which the search can go on to the same answer."""
        spent = self.top[0] + self.krylov.steps - self.top[1]
        return {
            "judged": self.judged,
            "resolved_at": self.resolved_at,
            "spent": spent,
            "rounding": self.rounding.product,
            "random": random_state(self.rng),
            "krylov": self.krylov.state(),
        }

    def _restore(self, values: State) -> None:
        self.krylov.restore(values["krylov"])
        self.judged, self.resolved_at = values["judged"], values["resolved_at"]
        self.rounding.product = values["rounding"]
        set_random_state(self.rng, values["random"])
        self.op.objective.cost.num_hvps = self.before + values["spent"]
        self.top = values["spent"], self.krylov.steps

    def _iterate(self) -> str:
        krylov = self.krylov
        while True:
            if krylov.steps > self.judged and (status := self._judge()):
                return status
            self.judged, self.top = krylov.steps, (self.spent, krylov.steps)
            if krylov.nonfinite:
                return "nonfinite"
            if self.spent + 3 >= self.budget and krylov.size:
                return "max_hvps"
            if krylov.full:
                if krylov.exhausted:
                    return "converged"
                keep = max(1, krylov.max_basis // 6)
                krylov.restart(np.unique(np.r_[0:keep, krylov.size - keep : krylov.size]))
            if self.dimension <= DENSE_COUNT and self._affords_dense() and not self._affords_dense(LAST_CALL):
                return "dense"
            self.job.offer(self.state)
            krylov.step()

    def _judge(self) -> str:
        """Judge the search after a step: how it ends, or "" where it goes on."""
        krylov = self.krylov
        if krylov.nonfinite:
            return ""
        if krylov.steps == 1:
            assert krylov.first is not None
            self.rounding.compare_product(*krylov.first)
        if krylov.size < 2 or not krylov.grown:
            return ""
        values, residuals = self._ends_of_ritz()
        affordable = self.dimension <= DENSE_SIZE and self._affords_dense()
        if self._saddle(values, residuals):
            # After a breakdown eigenvalues repeat: one Krylov space does not count them.
            if krylov.invariant and affordable:
                return "dense"
            if krylov.steps >= BREAKDOWN_AFTER or not affordable:
                return "converged"
        if krylov.steps >= DENSE_AFTER and affordable:
            return "dense"
        if not self._resolved(values, residuals):
            self.resolved_at = 0
            return ""
        self.resolved_at = self.resolved_at or krylov.steps
        if krylov.steps < PATIENCE * self.resolved_at or not self._covered(values):
            return ""
        # A probability is stated down to −band, and coarse rounding makes that too far.
        return "dense" if self.op.eps > SINGLE and affordable else "converged"

    def _affords_dense(self, more: int = 0) -> bool:
        size = self.op.size
        return self.budget >= self.spent + more + size + 3 and memory.eigh_fits(size)

    def _ends_of_ritz(self) -> tuple[np.ndarray, np.ndarray]:
        ritz = self.krylov.ritz()
        pair = [0, len(ritz.values) - 1]
        values, residuals = ritz.values[pair], ritz.residuals[pair]
        if self.settings.progress is not None:
            self.settings.progress(
                f"{self.spent} products: {values[0]:+.4e} … {values[1]:+.4e}, "
                f"residuals {residuals[0]:.1e}, {residuals[1]:.1e}"
            )
        return values, residuals

    def _band(self, values: np.ndarray) -> float:
        return self.rounding.band(float(np.max(np.abs(values))), self.krylov.asymmetry)

    def _sharp(self, values: np.ndarray, residuals: np.ndarray) -> bool:
        """Whether the ends are as accurate as the caller asked."""
        rtol = self.settings.rtol
        return rtol is None or bool(np.all(residuals <= rtol * np.max(np.abs(values))))

    def _saddle(self, values: np.ndarray, residuals: np.ndarray) -> bool:
        margin = self.rounding.margin(float(np.max(np.abs(values))), self.krylov.asymmetry)
        beyond = values[0] < -margin and values[1] > margin
        near = bool(np.all(residuals <= SIGN_RESIDUAL * np.abs(values)))
        return bool(beyond) and near and self._sharp(values, residuals)

    def _resolved(self, values: np.ndarray, residuals: np.ndarray) -> bool:
        """Whether both ends have a sign, or are zero, beyond doubt of their residuals."""
        allowed = np.maximum(END_RESIDUAL * np.abs(values), 0.5 * self._band(values))
        return self._sharp(values, residuals) and bool(np.all(residuals <= allowed))

    def _certificate(self) -> Certificate:
        """What the run from the random start says of the eigenvalues that it has not shown."""
        return self.krylov.ended_runs[0] if self.krylov.ended_runs else self.krylov.certificate()

    def _doubtful(self, values: np.ndarray) -> list[float]:
        """Beyond which values an unseen eigenvalue would change the label."""
        band, allowed = self._band(values), self.settings.negative_tol * float(np.max(np.abs(values)))
        below = [-allowed] if values[0] >= -band else []
        return below + ([allowed] if values[1] <= band else [])

    def _covered(self, values: np.ndarray) -> bool:
        """Whether there is none, with the confidence asked; or, after a breakdown, no more to learn."""
        if self.krylov.ended_runs:
            return True
        certificate, log = self._certificate(), log_inverse_weight(self.dimension, self.settings.confidence)
        return all(certificate.log_growth(x) >= log for x in self._doubtful(values))

    def _needed(self, values: np.ndarray) -> int | None:
        """Products that `_covered` takes: bounded beforehand, or from the growth so far after a restart."""
        if self.krylov.ended_runs:
            return None
        log, certificate = log_inverse_weight(self.dimension, self.settings.confidence), self._certificate()
        needed = 0
        for x in self._doubtful(values):
            near, far = sorted(abs(value - x) for value in values)
            steps = steps_for(self.dimension, near / max(far, 1e-300), self.settings.confidence)
            if steps > self.krylov.max_basis and certificate.log_growth(x) > 0:
                steps = math.ceil(certificate.steps * log / certificate.log_growth(x))
            needed = max(needed, steps)
        return needed

    def _dense(self) -> ExtremeEigenpairs:
        """Compute the whole spectrum of the leaves that the loss reads."""
        if self.krylov.first is None:
            self.krylov.step()
            if self.krylov.nonfinite:
                raise FloatingPointError
            assert self.krylov.first is not None
            self.rounding.compare_product(*self.krylov.first)
        op, count = self.op, self.dimension
        values, vectors = dense_eigh(op)
        if count < len(values):  # leave out the exact zeros that belong to the other leaves
            mask = np.repeat(np.asarray(op.active, bool), [int(np.prod(shape)) for shape in op.layout.shapes])
            inside = np.sum(np.square(vectors[mask]), axis=0)
            chosen = np.sort(np.argsort(-inside, kind="stable")[:count])
            values, vectors = values[chosen], vectors[:, chosen]
        low, high = (self._measured(float(values[i]), unflatten(op.layout, vectors[:, i])) for i in (0, -1))
        found = self._seen(low, high, values, "converged")
        return found._replace(steps=count, spectrum=(values, vectors))

    def _ends(self, status: str) -> ExtremeEigenpairs:
        krylov = self.krylov
        if krylov.size == 0:
            return ExtremeEigenpairs(None, None, 0.0, 0.0, 0, status=status)
        ritz = krylov.ritz()
        pair = np.array([0, krylov.size - 1])
        vectors = krylov.vectors(ritz.weights[:, pair])
        low, high = (
            Eigenpair(float(ritz.values[i]), row(vectors, j), float(ritz.residuals[i]))
            for j, i in enumerate(pair)
        )
        if status in ("converged", "max_hvps"):
            low, high = (self._measured(v, scale(1.0 / float(norm(u)), u)) for v, u, _ in (low, high))
        found = self._seen(low, high, ritz.values, status)
        if krylov.exhausted:
            return found
        certificate, within = self._certificate(), (self.dimension, self.settings.confidence)
        return found._replace(
            complete=False,
            lower=certificate.lower_bound(*within),
            upper=certificate.upper_bound(*within),
            steps=certificate.steps,
            needed=self._needed(ritz.values[pair]),
        )

    def _seen(self, low: Eigenpair, high: Eigenpair, values: np.ndarray, status: str) -> ExtremeEigenpairs:
        """Both ends with the Ritz values seen, as if these were all eigenvalues."""
        top = float(np.max(np.abs(values)))
        band = self._band(values)
        negatives = int(np.sum(values < -band))
        settled, bounds = status == "converged", (float(values[0]), float(values[-1]))
        steps, asymmetry = self.krylov.steps, self.krylov.asymmetry
        return ExtremeEigenpairs(
            low, high, top, band, negatives, True, settled, *bounds, steps, None, None, asymmetry, status
        )

    def _measured(self, value: float, vector: Vector) -> Eigenpair:
        """Multiply a Ritz vector once more, one rounding away: its residual, and the error of its value."""
        return Eigenpair(value, vector, self.rounding.compare_quotient(vector, value))
