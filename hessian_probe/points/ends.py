"""What is known of both ends of a spectrum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector


class End(NamedTuple):
    """One end of the spectrum: Ritz value, unit vector, residual ‖Hv − λv‖."""

    value: float
    vector: Vector
    residual: float


class Ends(NamedTuple):
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
        hidden: with the asked confidence no eigenvalue lies further than this beyond either end.
        steps: length of the Krylov space on which that statement rests.
        spectrum: all eigenvalues and, by column, vectors where dense, else None.
        asymmetry: largest |⟨u,Hv⟩ − ⟨v,Hu⟩| seen.
        status: "converged", "max_hvps", "nonfinite" or "interrupted".
    """

    low: End | None
    high: End | None
    top: float
    band: float
    negatives: int
    positives: int
    complete: bool
    settled: bool
    hidden: float
    steps: int
    spectrum: tuple[np.ndarray, np.ndarray] | None
    asymmetry: float
    status: str
