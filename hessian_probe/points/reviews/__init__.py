"""What second order cannot see: each review may confirm, change or withdraw the label, in this order.

nonsmooth (kinks), inertia (parameters in units far apart), higher_order (flat directions), resolution (what
is left to gain), sampling (data in batches).
"""

from __future__ import annotations

from hessian_probe.points.measurements import Measurements
from hessian_probe.points.reviews import higher_order, inertia, resolution
from hessian_probe.points.reviews.nonsmooth import review as nonsmooth
from hessian_probe.points.reviews.sampling import review as sampling
from hessian_probe.points.verdict import Verdict

# Whether a review has something to say on a verdict, and what it makes of it; at which cost.
REVIEWS = (
    (nonsmooth.applies, nonsmooth.review),  # 4 gradients at a saddle, else about 240
    (inertia.applies, inertia.review),  # two products for each variable
    (higher_order.applies, higher_order.review),  # 400 to 3,000 gradients
    (resolution.applies, resolution.review),  # at most 40 products at each of 2 points; 400 losses
    (sampling.applies, sampling.review),  # about two dozen products and two gradients
)


def reviewed(m: Measurements, verdict: Verdict) -> Verdict:
    """Pass a verdict through all reviews."""
    for applies, review in REVIEWS:
        if applies(m, verdict):
            verdict = review(m, verdict)
    return verdict
