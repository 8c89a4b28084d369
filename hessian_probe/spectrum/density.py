"""The density of a spectrum by stochastic Lanczos quadrature, with its outliers taken out first.

Runs from random vectors resolve outliers, which are deflated, until a run shows no more.  In their
complement, of dimension d, k Lanczos steps from a random vector z give k nodes with weights: a Gauss
quadrature for the weight of z on the eigenvectors.  The mean over m probes of a smooth function's quadrature
is its mean over the eigenvalues.  Shares of negative, zero and positive curvature are enclosed as in
`counting`.

Source: S. Ubaru, J. Chen and Y. Saad, SIAM J. Matrix Anal. Appl. 38, 2017, doi:10.1137/16M1104974; for
spectra of networks: B. Ghorbani, S. Krishnan and Y. Xiao, 2019, arXiv:1901.10159.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessian_probe.arrays import Basis, Vector, generator, norm, random_normal
from hessian_probe.jobs.checkpoint import Job, Saving
from hessian_probe.jobs.state import State, random_state, set_random_state
from hessian_probe.operators import memory
from hessian_probe.operators.projected import ProjectedOperator
from hessian_probe.operators.symmetric import SymmetricOperator, require_operator
from hessian_probe.spectrum.counting import QuadratureProbe, interval_of_share, pooled_share, probe_of
from hessian_probe.spectrum.dense import dense_eigh
from hessian_probe.spectrum.density_result import SpectralDensity, density_of
from hessian_probe.spectrum.krylov import Krylov
from hessian_probe.spectrum.thick_restart import true_residuals
from hessian_probe.spectrum.thresholds import (
    BUDGET,
    COPIES,
    DEFLATION_SHARE,
    DENSE_MANY,
    DENSITY_PROBES,
    DENSITY_STEPS,
    OUTLIER_GAP,
    OUTLIER_RESIDUAL,
    OUTLIERS_ONE_IN,
    RESIDUAL_ROUNDINGS,
    RESOLUTION,
)


def spectral_density(
    op: SymmetricOperator,
    *,
    rtol: float = 0.05,
    max_hvps: int | None = None,
    num_steps: int = DENSITY_STEPS,
    probes: str = "gaussian",
    zero_band: float | None = None,
    confidence: float = 0.95,
    key: jax.Array | None = None,
    progress: Callable[[str], None] | None = None,
    save_to: str | os.PathLike[str] | None = None,
    save_every: float = 30.0,
    resume: bool | str | os.PathLike[str] = True,
) -> SpectralDensity:
    """Estimate how the eigenvalues of a symmetric map are distributed, with errors.

    Outliers are resolved as eigenvalues and taken out of the smoothed bulk.  Where `max_hvps` allows a
    product for each of up to 2,048 variables, the whole spectrum is computed, and smoothed in the same way.

    Args:
        op: an operator of this package.
        rtol: it stops when the standard error, integrated over the grid, is at most this share of the
            spectrum.
        max_hvps: products allowed; None means 1000.
        num_steps: products of each probe; the resolution is 1.25/num_steps of the bulk's width.
        probes: "gaussian", whose stated probabilities hold for any spectrum, or "rademacher" (random signs),
            whose errors are no larger, and are stated as those of Gaussian ones.
        zero_band: curvature of at most this magnitude counts as zero; None means the rounding error,
            8·eps·√n·‖A‖.
        confidence: probability of each of the three intervals of shares.
        key: random key of the probes; None means `jax.random.key(0)`.
        progress: called with a line of text after every run.
        save_to: file to which the runs are saved while they go on, when they are interrupted and when they
            end; the exact route is not saved.
        save_every: seconds between two saves.
        resume: True continues from `save_to` if that file exists, to the answer of an uninterrupted call; a
            path continues from that file; False starts over and overwrites.

    Returns:
        SpectralDensity: grid, density, standard_error; outliers; negative_mass, zero_mass; and, at no further
        product, sums of functions of the eigenvalues (`log_determinant`, `effective_dimension`, `sum_of`).

    Raises:
        TypeError: `op` is no operator.
        ValueError: an option is out of its range.
        CheckpointError: the file to continue from is cut off, damaged, or of another job.

    Cost:
        num_steps products for each probe and for each run that resolves outliers, and one for each outlier;
        num_steps + k vectors of memory.  n products where the spectrum is computed.

    Source:
        S. Ubaru, J. Chen and Y. Saad, SIAM J. Matrix Anal. Appl. 38, 2017, doi:10.1137/16M1104974.

    Examples:
        >>> import hessian_probe as hp
        >>> values = jnp.linspace(-1.0, 3.0, 401).at[0].set(50.0)
        >>> found = hp.spectral_density(hp.hessian(lambda x: 0.5 * jnp.sum(values * x**2), jnp.zeros(401)))
        >>> found.outliers.round(3).tolist(), round(found.negative_mass, 2)
        ([50.0], 0.25)
    """
    require_operator(op)
    for name, value, least in (("num_steps", num_steps, 4), ("max_hvps", max_hvps, 4)):
        if value is not None and value < least:
            raise ValueError(f"{name}={value}; expected at least {least}")
    if not rtol > 0 or not 0 < confidence < 1 or (zero_band is not None and not zero_band >= 0):
        raise ValueError(
            f"rtol={rtol}, confidence={confidence}, zero_band={zero_band}; expected a positive number, one "
            "between 0 and 1, and None or a number that is not negative"
        )
    if probes not in ("gaussian", "rademacher"):
        raise ValueError(f"probes={probes!r}; expected 'gaussian' or 'rademacher'")
    op.require_checked()
    saving, rng = Saving(save_to, save_every, resume), generator(key)
    run = _Density(op, rtol, max_hvps, num_steps, probes, zero_band, confidence, rng, progress)
    if op.size <= min(run.budget, DENSE_MANY) and memory.eigh_fits(op.size):
        return run.exact()
    asked = {"num_steps": num_steps, "probes": probes, "key": random_state(rng)}
    return run.estimate(Job("spectral_density", op, asked, saving))


def outlying(values: np.ndarray, residuals: np.ndarray, steps: int, most: int) -> np.ndarray:
    """Return which ascending values are outliers: beyond a gap, resolved, and not too many."""
    chosen, (low, high) = np.zeros(len(values), bool), (0, len(values))
    for _ in range(2):  # once more, since outliers at one end hide those at the other behind the width
        for up in (True, False):
            rest = values[low:high] if up else -values[low:high][::-1]
            errors = residuals[low:high] if up else residuals[low:high][::-1]
            gaps, widths = np.diff(rest), rest[:-1] - rest[0]
            worst = np.maximum.accumulate(errors[::-1])[::-1][1:]
            room = most - int(np.sum(chosen))
            left = len(gaps) - np.arange(len(gaps))
            cut = (gaps > OUTLIER_GAP * RESOLUTION * widths / steps) & (worst <= OUTLIER_RESIDUAL * gaps)
            found = np.flatnonzero(cut & (left <= room))
            count = len(gaps) - int(found[0]) if len(found) else 0
            low, high = (low, high - count) if up else (low + count, high)
            chosen[:low], chosen[high:] = True, True
    return chosen


class _Density:
    """One estimate: outliers, then probes of their complement."""

    def __init__(
        self,
        op: SymmetricOperator,
        rtol: float,
        max_hvps: int | None,
        steps: int,
        kind: str,
        band: float | None,
        confidence: float,
        rng: np.random.Generator,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.op, self.rtol, self.kind, self.band = op, rtol, kind, band
        self.confidence, self.rng, self.progress = confidence, rng, progress
        self.budget = BUDGET if max_hvps is None else max_hvps
        self.steps, self.done = steps, 0  # products of runs that have ended
        self.outliers = self.residuals = np.zeros(0)
        self.locked: Basis | None = None
        self.deflating = True
        self.probes: list[QuadratureProbe] = []
        self.krylov: Krylov | None = None
        self.weight = 0.0  # squared length of the present run's start

    @property
    def spent(self) -> int:
        """Products since the job began, those of earlier sessions included."""
        return self.done + (0 if self.krylov is None else self.krylov.steps)

    @property
    def dimension(self) -> int:
        """Dimension of the outliers' complement among the variables that the map reads."""
        return self.op.search_dimension(self.op.active) - len(self.outliers)

    def exact(self) -> SpectralDensity:
        """Compute the whole spectrum."""
        try:
            values, _ = dense_eigh(self.op)
        except FloatingPointError:
            return self._result("nonfinite", "exact")
        except KeyboardInterrupt:
            return self._result("interrupted", "exact")
        rounding = self._band(float(np.max(np.abs(values))))
        most = min(self.steps // 2, len(values) // OUTLIERS_ONE_IN)
        chosen = outlying(values, np.full(len(values), rounding), self.steps, most)
        self.outliers, self.residuals = values[chosen], np.full(int(np.sum(chosen)), rounding)
        return self._result("converged", "exact", values[~chosen])

    def estimate(self, job: Job) -> SpectralDensity:
        """Run probes until the asked accuracy or the budget is reached."""
        saved = job.begin(self.op, self.rng)
        if saved is not None:
            self._restore(saved)
        try:
            status = self._iterate(job)
        except KeyboardInterrupt:
            job.save(self.state)
            return self._result("interrupted", "lanczos_quadrature")
        job.finish(self.state)
        return self._result(status, "lanczos_quadrature")

    def _iterate(self, job: Job) -> str:
        while True:
            if len(self.probes) >= DENSITY_PROBES and self._error() <= self.rtol:
                return "converged"
            if self.krylov is None:
                steps = min(self.steps, self.dimension)
                if self.probes and self.spent + steps > self.budget:
                    return "max_hvps"
                self.krylov = self._begin()
            krylov = self.krylov
            while not krylov.full and not krylov.ended_runs:
                job.offer(self.state)
                krylov.step()
            if krylov.nonfinite:
                return "nonfinite"
            if not self._lock(krylov):
                self.probes.append(probe_of(krylov, self.weight))
            self.krylov, self.done = None, self.spent
            if self.progress is not None:
                text = f"{len(self.outliers)} outliers, {len(self.probes)} probes"
                self.progress(f"{self.spent} products: {text}")

    def _operator(self) -> SymmetricOperator:
        return self.op if self.locked is None else ProjectedOperator(self.op, self.locked)

    def _begin(self, start: Vector | None = None) -> Krylov:
        """Begin a run from a random vector of the outliers' complement."""
        op = self._operator()
        if start is None:
            start = random_normal(self.rng, op.layout, op.active)
            if self.kind == "rademacher":
                start = tuple(jnp.sign(leaf) for leaf in start)
            start = op.project(start)
        self.weight = float(norm(start)) ** 2
        return Krylov(op, start, self.rng, min(self.steps, self.dimension), op.active)

    def _lock(self, krylov: Krylov) -> bool:
        """Deflate the outliers that a run has resolved; False if there are none, or no more are sought."""
        if not self.deflating:
            return False
        ritz = krylov.ritz()
        size = self.op.search_dimension(self.op.active)
        most = min(krylov.size // 2, size // OUTLIERS_ONE_IN - len(self.outliers))
        chosen = outlying(ritz.values, ritz.residuals, self.steps, most)
        spikes = ritz.values[np.square(ritz.weights[0]) * self.dimension > COPIES]
        near = RESOLUTION * np.ptp(ritz.values[~chosen]) / self.steps if not np.all(chosen) else 0.0
        chosen &= ~np.any(np.abs(ritz.values[:, None] - spikes) <= near, axis=1)
        enough = self.spent + self.steps >= DEFLATION_SHARE * self.budget
        if not np.any(chosen) or self.spent + int(np.sum(chosen)) + self.steps > self.budget:
            self.deflating = False
            return False
        vectors, values = krylov.vectors(ritz.weights[:, chosen]), ritz.values[chosen]
        residuals = true_residuals(self.op, vectors, values)
        if self.locked is not None:
            vectors = tuple(jnp.concatenate(both) for both in zip(self.locked, vectors, strict=True))
        self.done, self.deflating, self.locked = self.done + len(values), not enough, vectors
        self.outliers = np.append(self.outliers, values)
        self.residuals = np.append(self.residuals, residuals)
        return True

    def _pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights of all probes together, of sum 1."""
        nodes, weights = [], []
        for probe in self.probes:
            found = eigh_tridiagonal(probe.diagonal, probe.offdiagonal[:-1], lapack_driver="stev")
            nodes.append(found[0])
            weights.append(probe.weight * np.square(found[1][0]))
        pooled = np.concatenate(weights)
        return np.concatenate(nodes), pooled / np.sum(pooled)

    def _width(self, nodes: np.ndarray) -> float:
        """Width of the smoothing; of a bulk that is a point, as if it were as wide as the norm."""
        wide, norm_found = float(np.ptp(nodes)), self._norm(nodes)
        if wide <= self._band(norm_found):
            wide = norm_found or 1.0
        return RESOLUTION * wide / self.steps

    def _norm(self, nodes: np.ndarray) -> float:
        return float(max(np.max(np.abs(part), initial=0.0) for part in (nodes, self.outliers)))

    def _band(self, norm_found: float) -> float:
        return RESIDUAL_ROUNDINGS * self.op.eps * math.sqrt(self.op.size) * norm_found

    def _error(self) -> float:
        """Standard error of the density, integrated over the grid."""
        nodes, weights = self._pooled()
        found = density_of(
            nodes, weights, self.dimension, self.op.size, len(self.probes), self._width(nodes), self.steps
        )
        return float(np.trapezoid(found["standard_error"], found["grid"]))

    def state(self) -> State:
        """Return everything from which the job can be continued to the same answer."""
        kept = ("outliers", "residuals", "locked", "deflating", "weight", "done")
        return {
            **{name: getattr(self, name) for name in kept},
            "probes": tuple(tuple(probe) for probe in self.probes),
            "krylov": None if self.krylov is None else self.krylov.state(),
            "rng": random_state(self.rng),
        }

    def _restore(self, saved: State) -> None:
        for name in ("outliers", "residuals", "deflating", "done"):
            setattr(self, name, saved[name])
        self.locked = saved["locked"] and tuple(map(jnp.asarray, saved["locked"]))
        self.probes = [QuadratureProbe(*probe) for probe in saved["probes"]]
        if saved["krylov"] is not None:
            start = tuple(jnp.asarray(leaf[0]) for leaf in saved["krylov"]["basis"])
            self.krylov = self._begin(start)
            self.krylov.restore(saved["krylov"])
        self.weight = saved["weight"]
        set_random_state(self.rng, saved["rng"])

    def _shares(
        self, nodes: np.ndarray, weights: np.ndarray, dimension: int, exact: bool, band: float
    ) -> dict[str, Any]:
        """Shares of negative, zero and positive curvature with their intervals."""
        n, unread = self.op.size, self.op.size - self.op.search_dimension(self.op.active)
        seen = {
            "negative": int(np.sum(self.outliers < -band)),
            "zero": int(np.sum(np.abs(self.outliers) <= band)) + (0 if exact else unread),
            "positive": int(np.sum(self.outliers > band)),
        }
        inside = {"negative": nodes < -band, "zero": np.abs(nodes) <= band, "positive": nodes > band}
        middle = {name: float(weights @ on) * dimension for name, on in inside.items()}
        if exact:
            found = {name: (count, count, count) for name, count in middle.items()}
        else:
            (a, b), (c, d) = (pooled_share(self.probes, value) for value in (-band, np.nextafter(band, 1)))
            bounds = {"negative": (a, b), "zero": (max(c - b, 0.0), d - a), "positive": (1 - d, 1 - c)}
            num, size = len(self.probes), dimension
            found = {}
            for name, (sure, possible) in bounds.items():
                # Between the sure and the possible share the nodes decide: right for a spike of eigenvalues,
                # which a node finds, and right in the mean where they are spread.
                _, low, high, _ = interval_of_share(sure, possible, num, size, self.confidence)
                found[name] = (min(max(middle[name], low), high), low, high)
        shares: dict[str, Any] = {}
        for name, (likely, least, most) in found.items():
            shares[f"{name}_mass"] = float((seen[name] + likely) / n)
            shares[f"{name}_interval"] = (float((seen[name] + least) / n), float((seen[name] + most) / n))
        return shares

    def _result(self, status: str, method: str, values: np.ndarray | None = None) -> SpectralDensity:
        exact, n = values is not None, self.op.size
        order = np.argsort(self.outliers)
        if values is not None:
            nodes, weights, dimension = values, np.full(len(values), 1 / len(values)), len(values)
        elif self.probes:
            (nodes, weights), dimension = self._pooled(), self.dimension
        else:
            nodes = weights = np.zeros(0)
            dimension = 0
        norm_found = self._norm(nodes)
        band = self._band(norm_found) if self.band is None else self.band
        nothing, all_of_it = np.zeros(0), (0.0, 1.0)
        curve: dict[str, Any] = {"grid": nothing, "density": nothing, "standard_error": nothing}
        masses: dict[str, Any] = {f"{name}_mass": math.nan for name in ("negative", "zero", "positive")}
        masses |= {f"{name}_interval": all_of_it for name in ("negative", "zero", "positive")}
        evidence: tuple[str, ...] = () if len(nodes) else (f"{status} before the first probe had ended",)
        width = 0.0
        if len(nodes):
            width, masses = self._width(nodes), self._shares(nodes, weights, dimension, exact, band)
            curve = density_of(nodes, weights, dimension, n, len(self.probes), width, self.steps)
            if status == "max_hvps":
                evidence = (f"the budget of {self.budget} products ran out; raise max_hvps or rtol",)
        return SpectralDensity(
            **curve,
            **masses,
            outliers=self.outliers[order],
            outlier_residuals=self.residuals[order],
            confidence=1.0 if exact else self.confidence,
            zero_band=band,
            resolution=width,
            num_probes=len(self.probes),
            num_steps=self.steps,
            num_hvps=n if exact else self.spent,
            status=status,
            method=method,
            size=n,
            nodes=nodes,
            weights=weights,
            dimension=dimension,
            evidence=evidence,
            variables=str(self.op.layout),
        )
