"""How many negative eigenvalues a classified point has, from what the search saw or by counting on."""

from __future__ import annotations

import numpy as np

from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.extreme_eigenpairs import ExtremeEigenpairs
from hessian_probe.points.settings import Settings
from hessian_probe.spectrum.counting import IndexCount, IndexCounter
from hessian_probe.spectrum.result import IndexEstimate, multiplicities

NOTHING = IndexCount(0, None, ())


def count_negative(
    op: HessianOperator,
    extremes: ExtremeEigenpairs | None,
    settings: Settings,
    budget: int,
    rng: np.random.Generator,
    *,
    trusted: bool,
) -> IndexCount:
    """IndexCount the eigenvalues below the zero band, at the parameters.

    Args:
        op: operator at the parameters.
        extremes: what the search saw there.
        settings: `counting` asks for products beyond what the search spent.
        budget: products left.
        rng: source of random vectors.
        trusted: whether the loss itself shows the negative curvature; else none is counted.

    Returns:
        What is proved, and the estimate of the index if there is one.
    """
    if extremes is None or extremes.low is None or (extremes.negatives and not trusted):
        return NOTHING
    if extremes.spectrum is not None:
        return _exact(extremes.spectrum[0], extremes.band)
    if not settings.counting or extremes.status not in ("converged", "max_hvps"):
        return IndexCount(extremes.negatives, None, ())
    allowed = settings.negative_tol * extremes.top
    counted = IndexCounter(op, extremes.band, allowed, settings.confidence, budget, rng).run()
    found = tuple(group for group in counted.multiplicities if group.copies > 1)
    return IndexCount(max(counted.at_least, extremes.negatives), counted.estimate, found)


def _exact(values: np.ndarray, band: float) -> IndexCount:
    count = int(np.sum(values < -band))
    # Copies of an eigenvalue differ by rounding, and that lies within the zero band.
    groups = multiplicities(values, np.full(len(values), 0.5 * band), True)
    zeroed = (group._replace(value=0.0) if abs(group.value) <= band else group for group in groups)
    found = tuple(group for group in zeroed if group.copies > 1)
    return IndexCount(count, IndexEstimate(count, count, count, -band, 1.0, "exact", 0), found)
