"""Search for both ends of the spectrum, only as far as the label needs."""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.arrays import Vector, norm, row, scale
from hessian_probe.jobs.checkpoint import Job
from hessian_probe.jobs.state import State, random_state, set_random_state
from hessian_probe.operators import memory
from hessian_probe.operators.base import search_dimension
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.dense_ends import dense_ends, measured
from hessian_probe.points.extreme_eigenpairs import Eigenpair, ExtremeEigenpairs
from hessian_probe.points.rounding import SINGLE, ProductNoise
from hessian_probe.points.settings import Settings
from hessian_probe.spectrum.certificate import Certificate, log_inverse_weight, steps_for
from hessian_probe.spectrum.krylov import Krylov
from hessian_probe.spectrum.thick_restart import MAX_BASIS

# Up to DENSE_FIRST variables all of them are multiplied at once; up to DENSE_SIZE the whole spectrum
# is computed where DENSE_AFTER products of Lanczos have not shown a saddle: a minimum is then proved.
DENSE_FIRST = 9
DENSE_AFTER = 20
DENSE_SIZE = 256
# Where all negative eigenvalues are to be counted the whole spectrum is computed up to DENSE_COUNT, if
# the budget covers it: the matrix is then 128 MiB.
DENSE_COUNT = 4096
# A sign that is settled in fewer products than this may come from few distinct eigenvalues: up to
# DENSE_SIZE variables the search looks that far for a breakdown, which proves that they repeat.
BREAKDOWN_AFTER = 5
# A Ritz value shows a sign where it lies twice the zero band away from zero, and an eigenvalue of
# that sign is near where its residual is at most half of it.
SIGN_MARGIN = 2.0
SIGN_RESIDUAL = 0.5
# An end is resolved where its residual is below this share of its value.
END_RESIDUAL = 1e-2
# After both ends are resolved the search goes on for half as long again before "no negative
# eigenvalue" is said: an outlier that the start vector barely holds shows late.
PATIENCE = 1.5


class ExtremesSearch:
    """Search for both ends of an operator until the label is settled or the budget spent."""

    def __init__(
        self,
        op: HessianOperator,
        noise: ProductNoise,
        rng: np.random.Generator,
        settings: Settings,
        budget: int,
        job: Job,
    ) -> None:
        self.job = job
        self.op, self.noise, self.rng = op, noise, rng
        self.settings, self.budget = settings, budget
        self.before = op.objective.cost.num_hvps
        self.judged = 0  # steps after which the ends were looked at last
        self.resolved_at = 0  # steps after which both ends were resolved first
        self.top = (0, 0)  # products and steps when the last step began
        self.dimension = search_dimension(op, op.active)

    @property
    def spent(self) -> int:
        """Products since the search began, those at the neighbour included."""
        return self.op.objective.cost.num_hvps - self.before

    def run(self) -> ExtremeEigenpairs:
        """Search."""
        fits = memory.vectors_that_fit(self.op.layout.vector_bytes)
        self.krylov = Krylov(self.op, None, self.rng, max(min(MAX_BASIS, fits), 8), self.op.active)
        try:
            if self._dense_at_once():
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
            "noise": self.noise.largest,
            "random": random_state(self.rng),
            "krylov": self.krylov.state(),
        }

    def _restore(self, values: State) -> None:
        self.krylov.restore(values["krylov"])
        self.judged, self.resolved_at = values["judged"], values["resolved_at"]
        self.noise.largest = values["noise"]
        set_random_state(self.rng, values["random"])
        self.op.objective.cost.num_hvps = self.before + values["spent"]
        self.top = values["spent"], self.krylov.steps

    def _dense_at_once(self) -> bool:
        """Whether to multiply all variables: there are few, or every eigenvalue is to be counted."""
        counted = self.settings.counting and self.dimension <= DENSE_COUNT
        return (self.dimension <= DENSE_FIRST or counted) and self._affords_dense()

    def _iterate(self) -> str:
        krylov = self.krylov
        while True:
            if krylov.steps > self.judged:
                status = self._judge()
                if status:
                    return status
            self.judged, self.top = krylov.steps, (self.spent, krylov.steps)
            if krylov.nonfinite:
                return "nonfinite"
            if self.spent + 3 >= self.budget and krylov.size:
                return "max_hvps"
            if krylov.full:
                if krylov.exhausted:
                    return "converged"
                self._restart()
            self.job.offer(self.state)
            krylov.step()

    def _judge(self) -> str:
        """Look at the ends after a step: how the search ends, or "" where it goes on."""
        krylov = self.krylov
        if krylov.nonfinite:
            return ""
        if krylov.steps == 1:
            assert krylov.first is not None
            self.noise.measure(*krylov.first)
        if krylov.size < 2 or (krylov.size > 24 and krylov.size % 3 and not krylov.full):
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

    def _affords_dense(self) -> bool:
        size = self.op.size
        return self.budget >= self.spent + size + 3 and memory.eigh_fits(size)

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
        return self.noise.band(self.op, float(np.max(np.abs(values))), self.krylov.asymmetry)

    def _sharp(self, values: np.ndarray, residuals: np.ndarray) -> bool:
        """Whether the ends are as accurate as the caller asked."""
        return self.settings.rtol is None or bool(
            np.all(residuals <= self.settings.rtol * np.max(np.abs(values)))
        )

    def _saddle(self, values: np.ndarray, residuals: np.ndarray) -> bool:
        margin = SIGN_MARGIN * self._band(values)
        beyond = values[0] < -margin and values[1] > margin
        near = bool(np.all(residuals <= SIGN_RESIDUAL * np.abs(values)))
        return bool(beyond) and near and self._sharp(values, residuals)

    def _resolved(self, values: np.ndarray, residuals: np.ndarray) -> bool:
        """Whether both ends have a sign, or are zero, beyond doubt of their residuals."""
        band = self._band(values)
        return self._sharp(values, residuals) and all(
            r <= max(END_RESIDUAL * abs(v), 0.5 * band) for v, r in zip(values, residuals, strict=True)
        )

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

    def _restart(self) -> None:
        size = self.krylov.size
        keep = max(1, self.krylov.max_basis // 6)
        self.krylov.restart(np.unique(np.r_[0:keep, size - keep : size]))

    def _dense(self) -> ExtremeEigenpairs:
        """Compute the whole spectrum."""
        if self.krylov.first is None:
            self.krylov.step()
            if self.krylov.nonfinite:
                raise FloatingPointError
            assert self.krylov.first is not None
            self.noise.measure(*self.krylov.first)
        return dense_ends(self.op, self.noise, self.krylov.asymmetry)

    def _ends(self, status: str) -> ExtremeEigenpairs:
        krylov = self.krylov
        if krylov.size == 0:
            nothing = (0.0, 0.0, 0, 0, False, False, -math.inf, math.inf, 0, None, None, 0.0)
            return ExtremeEigenpairs(None, None, *nothing, status)
        ritz = krylov.ritz()
        pair = np.array([0, krylov.size - 1])
        vectors = krylov.vectors(ritz.weights[:, pair])
        extremes = [
            Eigenpair(float(ritz.values[i]), row(vectors, j), float(ritz.residuals[i]))
            for j, i in enumerate(pair)
        ]
        if status in ("converged", "max_hvps"):
            extremes = [measured(self.noise, end.value, _unit(end.vector)) for end in extremes]
        top = float(np.max(np.abs(ritz.values)))
        band = self.noise.band(self.op, top, krylov.asymmetry)
        certificate, known = self._certificate(), krylov.exhausted
        confidence = self.settings.confidence
        return ExtremeEigenpairs(
            extremes[0],
            extremes[1],
            top,
            band,
            int(np.sum(ritz.values < -band)),
            int(np.sum(ritz.values > band)),
            krylov.exhausted,
            status == "converged",
            float(ritz.values[0]) if known else certificate.lower_bound(self.dimension, confidence),
            float(ritz.values[-1]) if known else certificate.upper_bound(self.dimension, confidence),
            krylov.steps if known else certificate.steps,
            None if known else self._needed(ritz.values[pair]),
            None,
            krylov.asymmetry,
            status,
        )


def _unit(vector: Vector) -> Vector:
    return scale(1.0 / float(norm(vector)), vector)
