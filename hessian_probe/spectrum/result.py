"""Results of the spectrum: eigenpairs with their errors, repeated eigenvalues, and their number."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import stdtrit

from hessian_probe.arrays import Bool, Float
from hessian_probe.results import number, result, signed
from hessian_probe.spectrum.thresholds import COPIES_APART, ROWS


class Multiplicity(NamedTuple):
    """Eigenvalues that agree within their residuals.

    Attributes:
        value: their mean, in loss / params².
        copies: number of eigenvalues found.
        exact: True if no further copy can exist (the whole spectrum is known there).
    """

    value: float
    copies: int
    exact: bool

    def __str__(self) -> str:
        text = f"{signed(self.value)} × {self.copies}"
        return text if self.exact else text + " or more"


def multiplicities(
    values: np.ndarray, radii: np.ndarray, complete: bool | np.ndarray
) -> tuple[Multiplicity, ...]:
    """Return the groups of ascending eigenvalues; neighbours belong together where value ± radius meet.

    `complete` says whether no copy of an eigenvalue is missing: one flag for each, or for all.
    """
    if not len(values):
        return ()
    known = np.broadcast_to(np.asarray(complete, bool), values.shape)
    apart = np.diff(values) > radii[1:] + radii[:-1]
    groups = np.split(np.arange(len(values)), np.flatnonzero(apart) + 1)
    return tuple(
        Multiplicity(float(np.mean(values[group])), len(group), bool(np.all(known[group])))
        for group in groups
    )


class NotConvergedError(RuntimeError):
    """Raised by `EigenResult.require`; its attribute `result` is the partial result."""

    def __init__(self, message: str, partial: Any) -> None:
        super().__init__(message, partial)
        self.result = partial

    def __str__(self) -> str:
        return str(self.args[0])


@result(leaves=())
class IndexEstimate:
    """Number of eigenvalues below a value, with an interval.

    Attributes:
        estimate: the likeliest number.
        low: lower end of the interval.
        high: upper end of the interval.
        below: the value, negative, in loss / params²: the zero band where the count is exact, else the
            curvature that the products can resolve.  Eigenvalues between it and zero are not counted.
        confidence: probability that the interval contains the number; 1 where that is proved.
        method: "exact" (the whole spectrum), "deflation" (found one by one until a fresh run showed
            nothing more) or "quadrature" (Gauss quadrature of random probes).
        num_probes: random vectors used.
    """

    estimate: int
    low: int
    high: int
    below: float
    confidence: float
    method: str
    num_probes: int

    def __str__(self) -> str:
        limit = f"below {signed(self.below, 2)}"
        if self.method == "exact":
            return f"{self.estimate} {limit}, exact"
        span = f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"
        if self.method == "quadrature":
            span += f", about {self.estimate},"
        return (
            f"{span} {limit} with probability {self.confidence:g} ({self.method}, {self.num_probes} probes)"
        )

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        return f"IndexEstimate: {self}", []


@result(leaves=("eigenvalues", "eigenvectors", "residual_norms", "converged", "standard_errors"))
class EigenResult:
    """Eigenpairs of a symmetric map, ascending, each with its true residual.

    Attributes:
        eigenvalues: shape (k,), float64, ascending, in loss / params².
        eigenvectors: pytree like params with a leading axis k; orthonormal rows.
        residual_norms: shape (k,): ‖Hvᵢ − λᵢvᵢ‖.  Some eigenvalue lies within it of λᵢ, not
            necessarily the i-th one.
        converged: shape (k,), bool: residual at most `rtol · norm`.
        num_lowest: number of pairs from the lower end (they come first).
        num_hvps: Hessian-vector products spent.
        status: "converged", "max_hvps" (the budget ran out), "stagnated" (rounding forbids more),
            "nonfinite" (a product contained NaN or infinity), "interrupted" (Ctrl-C); in a classification
            also "settled" (the label was decided before the pair had converged) and "skipped".
        method: "dense" or "lanczos".
        norm: largest Ritz value in magnitude, the estimate of ‖H‖.
        rtol: tolerance asked for.
        size: number of variables.
        evidence: sentences on pairs that are missing or have not converged; empty where none is.
        standard_errors: shape (k,): standard error of each eigenvalue over the data, which are a sample of
            a population; None where it was not measured.
        variables: which leaves were varied, and which were left out and why.

    >>> import hessian_probe as hp
    >>> found = hp.eigsh(hp.hessian(lambda x: x[0] ** 2 - x[1] ** 2, np.ones(2)))
    >>> np.abs(found.require().vector(0)).round(3).tolist()
    [0.0, 1.0]
    """

    eigenvalues: Float[np.ndarray, " k"]
    eigenvectors: Any
    residual_norms: Float[np.ndarray, " k"]
    converged: Bool[np.ndarray, " k"]
    num_lowest: int
    num_hvps: int
    status: str
    method: str
    norm: float
    rtol: float
    size: int
    evidence: tuple[str, ...] = ()
    standard_errors: Float[np.ndarray, " k"] | None = None
    variables: str = ""

    def require(self) -> EigenResult:
        """Return self if every pair has converged.

        Raises:
            NotConvergedError: otherwise, with the partial result attached.
        """
        if self.status != "converged" or not np.all(self.converged):
            raise NotConvergedError(f"{self.status}: {'; '.join(self.evidence) or repr(self)}", self)
        return self

    @property
    def multiplicities(self) -> tuple[Multiplicity, ...]:
        """Eigenvalues grouped where they agree within their residuals, ascending.

        A count is exact where the whole spectrum was computed and the result contains the group's
        neighbours; by Lanczos further copies can exist.
        """
        values = np.asarray(self.eigenvalues)
        known = np.full(len(values), self.method == "dense")
        if len(values) < self.size:
            known[max(self.num_lowest - 1, 0) : self.num_lowest + 1] = False
        return multiplicities(values, np.asarray(self.residual_norms), known)

    def vector(self, index: int) -> Any:
        """One eigenvector, a pytree like params of unit norm."""
        return jax.tree.map(lambda leaf: leaf[index] if np.ndim(leaf) else leaf, self.eigenvectors)

    def _row(self, first: int, group: Multiplicity) -> tuple[str, str]:
        """One eigenvalue, or several that agree within their residuals, with errors."""
        last = first + group.copies - 1
        values, radius = self.eigenvalues[first : last + 1], np.max(self.residual_norms[first : last + 1])
        text = f"{str(group) if group.copies > 1 else signed(group.value)} ± {number(radius, 1)}"
        if values[-1] - values[0] > COPIES_APART * radius:  # errors of copies are of second order in that
            span = f"{signed(values[0])} to {signed(values[-1])}"
            text = f"{group.copies} values from {span}, not told apart at ± {number(radius, 1)}"
        if self.standard_errors is not None:
            text += (
                f" ± {number(np.max(np.asarray(self.standard_errors)[first : last + 1]), 1)} over the data"
            )
        return f"λ[{first}]" if last == first else f"λ[{first}…{last}]", text

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        values = np.asarray(self.eigenvalues)
        good = int(np.sum(np.asarray(self.converged)))
        title = f"EigenResult: {self.status.upper()}   {good} of {len(values)} pairs converged"
        groups = self.multiplicities
        firsts = np.cumsum([0, *(group.copies for group in groups)])
        shown = len(groups) if len(groups) <= ROWS + 1 else ROWS // 2
        rows = [self._row(int(firsts[i]), groups[i]) for i in range(shown)]
        if shown < len(groups):
            first, last = int(firsts[shown]), int(firsts[-1 - shown]) - 1
            span = f"{signed(values[first])} to {signed(values[last])}"
            rows.append((f"λ[{first}…{last}]", f"{last - first + 1} more, {span}"))
            rows.extend(self._row(int(firsts[i]), groups[i]) for i in range(len(groups) - shown, len(groups)))
        if len(values):
            rows.append(("‖H‖", f"{number(self.norm)}, tolerance {number(self.rtol * self.norm, 2)}"))
        rows.append(("cost", f"{self.num_hvps} HVPs, {self.method}, {self.size} variables"))
        rows.extend(("note", text) for text in self.evidence)
        return title, rows


@result(leaves=())
class SpectralSum:
    """A sum over all eigenvalues, with its standard error.

    Attributes:
        kind: "trace", "frobenius_norm", or the sum that a density was asked for.
        value: the estimate; that of a trace is unbiased.
        standard_error: its standard error; where `method` is "exact" the rounding error.
        num_samples: independent samples behind the error (n where exact).
        num_hvps: products spent.
        status: "converged" (the asked accuracy is met), "max_hvps" (the budget ran out), "interrupted" or
            "nonfinite".
        method: "exact" (n products), "hutchinson", "xtrace" or "lanczos_quadrature".
        size: number of variables n.
        evidence: sentences on what decided the method.
        variables: which leaves were varied, and which were left out and why.
    """

    kind: str
    value: float
    standard_error: float
    num_samples: int
    num_hvps: int
    status: str
    method: str
    size: int
    evidence: tuple[str, ...] = ()
    variables: str = ""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Interval that contains the true sum with this probability, by Student's t."""
        half = float(stdtrit(max(self.num_samples - 1, 1), 0.5 * (1 + confidence))) * self.standard_error
        return self.value - half, self.value + half

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        name = self.kind.replace("_", " ")
        kind = "rounding" if self.method == "exact" else f"standard error, {self.num_samples} samples"
        rows = [
            (name, f"{signed(self.value, 6)} ± {number(self.standard_error, 2)} ({kind})"),
            ("cost", f"{self.num_hvps} HVPs, {self.method.replace('_', ' ')}, {self.size} variables"),
        ]
        return f"SpectralSum: {self.status.upper()}", rows + [("note", text) for text in self.evidence]


@result(leaves=("value", "standard_error"))
class DiagonalEstimate:
    """The diagonal of a symmetric map, with a standard error for each entry.

    Attributes:
        value: pytree like params: unbiased estimates, in loss / params² for a Hessian.
        standard_error: pytree like params; where `method` is "exact" the rounding error.
        relative_error: ‖standard_error‖ / ‖value‖ (Euclidean norms over all entries).
        num_samples: random vectors behind the errors.
        num_hvps: products spent.
        status: "converged" (the asked accuracy is met), "max_hvps" (the budget ran out), "interrupted" or
            "nonfinite".
        method: "exact" (n products) or "bekas".
        size: number of variables n.
        variables: which leaves were varied, and which were left out and why.
    """

    value: Any
    standard_error: Any
    relative_error: float
    num_samples: int
    num_hvps: int
    status: str
    method: str
    size: int
    variables: str = ""

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        rows = [
            ("error", f"{number(100 * self.relative_error, 2)} % of the diagonal's norm"),
            ("cost", f"{self.num_hvps} HVPs, {self.method}, {self.size} variables"),
        ]
        return f"DiagonalEstimate: {self.status.upper()}", rows
