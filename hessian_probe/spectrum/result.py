"""Eigenpairs with their errors, as every caller gets them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from hessian_probe.results import number, result, signed


class NotConvergedError(RuntimeError):
    """Raised by `EigenResult.require`; carries the partial result as `result`."""

    def __init__(self, message: str, partial: Any) -> None:
        super().__init__(message, partial)
        self.result = partial

    def __str__(self) -> str:
        return str(self.args[0])


@result(leaves=("eigenvalues", "eigenvectors", "residual_norms", "converged", "standard_errors"))
class EigenResult:
    """Eigenpairs of a symmetric map, ascending, each with its true residual.

    Attributes:
        eigenvalues: shape (k,), float64, ascending, in loss / params².
        eigenvectors: pytree like params with a leading axis k; orthonormal rows.
        residual_norms: shape (k,): ‖Hvᵢ − λᵢvᵢ‖.  Some eigenvalue lies within it of λᵢ, not
            necessarily the i-th one.
        converged: shape (k,), bool: residual at most `rtol · norm`.
        num_lowest: how many of the pairs were asked for at the lowest end (they come first).
        num_hvps: Hessian-vector products spent.
        status: "converged", "max_hvps" (the budget ran out), "stagnated" (rounding forbids more),
            "nonfinite" (a product held NaN or infinity), "interrupted" (Ctrl-C); in a classification
            also "settled" (the label was settled before the pair had converged) and "skipped".
        method: "dense" or "lanczos".
        norm: largest Ritz value in magnitude, the estimate of ‖H‖.
        rtol: tolerance asked for.
        size: number of variables.
        message: one sentence on anything the caller should know, else "".
        standard_errors: shape (k,): standard error of each eigenvalue over the data, where these are
            batches out of something larger; None where it was not measured.
    """

    eigenvalues: np.ndarray
    eigenvectors: Any
    residual_norms: np.ndarray
    converged: np.ndarray
    num_lowest: int
    num_hvps: int
    status: str
    method: str
    norm: float
    rtol: float
    size: int
    message: str = ""
    standard_errors: np.ndarray | None = None

    def require(self) -> EigenResult:
        """Return self if every pair has converged.

        Raises:
            NotConvergedError: otherwise, with the partial result attached.
        """
        if self.status != "converged" or not np.all(self.converged):
            raise NotConvergedError(f"{self.status}: {self.message or repr(self)}", self)
        return self

    def vector(self, index: int) -> Any:
        """One eigenvector, a pytree like params of unit norm."""
        return jax.tree.map(lambda leaf: leaf[index] if np.ndim(leaf) else leaf, self.eigenvectors)

    def _shown(self, index: int) -> str:
        """One eigenvalue with its errors."""
        text = f"{signed(self.eigenvalues[index])} ± {number(self.residual_norms[index], 1)}"
        if self.standard_errors is None:
            return text
        return f"{text} ± {number(self.standard_errors[index], 1)} over the data"

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        values = np.asarray(self.eigenvalues)
        good = int(np.sum(np.asarray(self.converged)))
        title = f"EigenResult: {self.status.upper()}   {good} of {len(values)} pairs converged"
        shown = range(len(values)) if len(values) <= 8 else [*range(4), *range(len(values) - 4, len(values))]
        rows = [(f"λ[{i}]", self._shown(i)) for i in shown]
        if len(values):
            rows.append(("‖H‖", f"{number(self.norm)}, tolerance {number(self.rtol * self.norm, 2)}"))
        rows.append(("cost", f"{self.num_hvps} HVPs, {self.method}, {self.size} variables"))
        if self.message:
            rows.append(("note", self.message))
        return title, rows
