"""How many negative eigenvalues a classified point has, from what the search saw or by counting on."""

from __future__ import annotations

import numpy as np

from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.extreme_eigenpairs import Ends
from hessian_probe.points.settings import Settings
from hessian_probe.spectrum.counting import IndexCount, IndexCounter
from hessian_probe.spectrum.result import IndexEstimate, multiplicities

NOTHING = IndexCount(0, None, ())


def count_negative(
    op: HessianOperator,
    ends: Ends | None,
    settings: Settings,
    budget: int,
    rng: np.random.Generator,
    *,
    trusted: bool,
) -> IndexCount:
    """Count the eigenvalues below the zero band, at the parameters.

    Args:
        op: operator at the parameters.
        ends: what the search saw there.
        settings: `counting` asks for products beyond what the search spent.
        budget: products left.
        rng: source of random vectors.
        trusted: whether the loss itself shows the negative curvature; else none is counted.

    Returns:
        What is proved, and the estimate of the index if there is one.
    """
    if ends is None or ends.low is None or (ends.negatives and not trusted):
        return NOTHING
    if ends.spectrum is not None:
        return _exact(ends.spectrum[0], ends.band)
    if not settings.counting or ends.status not in ("converged", "max_hvps"):
        return IndexCount(ends.negatives, None, ())
    allowed = settings.negative_tol * ends.top
    counted = IndexCounter(op, ends.band, allowed, settings.confidence, budget, rng).run()
    found = tuple(group for group in counted.multiplicities if group.copies > 1)
    return IndexCount(max(counted.at_least, ends.negatives), counted.estimate, found)


def _exact(values: np.ndarray, band: float) -> IndexCount:
    count = int(np.sum(values < -band))
    # Copies of an eigenvalue differ by rounding, and that lies within the zero band.
    groups = multiplicities(values, np.full(len(values), 0.5 * band), True)
    zeroed = (group._replace(value=0.0) if abs(group.value) <= band else group for group in groups)
    found = tuple(group for group in zeroed if group.copies > 1)
    return IndexCount(count, IndexEstimate(count, count, count, -band, 1.0, "exact", 0), found)
