"""What is known of both ends of a spectrum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector


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
        positives: Ritz values above +band.
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
    positives: int
    complete: bool
    settled: bool
    lower: float
    upper: float
    steps: int
    needed: int | None
    spectrum: tuple[np.ndarray, np.ndarray] | None
    asymmetry: float
    status: str
