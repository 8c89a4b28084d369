"""How many products a job takes: expected, and at most."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from hessian_probe.operators import memory
from hessian_probe.operators.objective import Objective
from hessian_probe.points.classify import MAX_HVPS
from hessian_probe.points.extremes import DENSE_AFTER, DENSE_COUNT, DENSE_FIRST, DENSE_SIZE
from hessian_probe.points.nearness import STEP_PRODUCTS
from hessian_probe.points.reviews.sampling.review import FEWEST_BATCHES
from hessian_probe.spectrum.basis import segment
from hessian_probe.spectrum.bounds import steps_for
from hessian_probe.spectrum.counting import MAX_BASIS as COUNT_BASIS
from hessian_probe.spectrum.eigsh import takes_dense
from hessian_probe.spectrum.thick_restart import MAX_BASIS, default_basis

# Certified saddles of the truth set take a dozen products in the median (`make truth`).
SADDLE = 12
# Products of a search for both ends, one pair each, at rtol 1e-3, for every power of ten below, and for
# every further pair: on digits networks of 3,050 to 85,002 parameters 26 to 40, 6 to 28, and 3 to 7.
PAIR_AT_MILLI, PAIR_PER_DECADE, FURTHER_PAIR = 35, 20, 5
# Losses and slopes that a classification evaluates: 84 to 100 on these networks.
EVALUATIONS = 100
# An escape evaluates loss and slope so often beside its classification (docstring of `hp.escape`).
LINE_SEARCH = 40
# Options of each job that change what it takes, with their defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "classify": {
        "max_hvps": None,
        "confidence": 0.99,
        "negative_tol": 1e-2,
        "sampled": True,
        "count": False,
    },
    "escape": {"max_hvps": None},
    "eigsh": {"lowest": 1, "highest": 1, "rtol": 1e-3, "max_hvps": None, "max_basis": None},
    "dense": {},
}


class Products(NamedTuple):
    """What a job takes.

    Attributes:
        expected: products expected.
        most: products at most.
        evaluations: losses with slopes expected beside them.
        basis: vectors held at most.
        matrices: dense float64 matrices held at most.
        why: one sentence on what the expectation rests on.
    """

    expected: int
    most: int
    evaluations: int
    basis: int
    matrices: int
    why: str


def of_dense(objective: Objective, _: dict[str, Any]) -> Products:
    """One product for each variable."""
    n = objective.layout.size
    return Products(n, n, 0, 0, 1, "one for each variable")


def of_eigsh(objective: Objective, options: dict[str, Any]) -> Products:
    """Both ends of a spectrum."""
    n = objective.layout.size
    wanted = min(options["lowest"] + options["highest"], n)
    budget = options["max_hvps"] or 20 * wanted + 1000
    if (options["max_hvps"] is None or budget >= n) and takes_dense(n, wanted):
        why = "one for each variable: so few are multiplied densely"
        return Products(n, n, 0, 0, memory.EIGH_MATRICES, why)
    decades = max(math.log10(1e-3 / options["rtol"]), -1.0)
    likely = PAIR_AT_MILLI + PAIR_PER_DECADE * decades + FURTHER_PAIR * max(wanted - 2, 0)
    basis = options["max_basis"] or default_basis(objective.layout, wanted)
    likely = min(round(likely), n + wanted, budget)
    why = f"as measured on networks of digits for {wanted} pairs to {options['rtol']:g}; spectra differ"
    return Products(likely, budget, 0, _rows(basis, min(budget, n)), 0, why)


def of_classify(objective: Objective, options: dict[str, Any]) -> Products:
    """The label of a point."""
    n, counting = objective.layout.size, options["count"]
    budget = options["max_hvps"] or (2 if counting else 1) * MAX_HVPS
    sizes = zip(objective.layout.shapes, objective.active, strict=True)
    active = sum(math.prod(shape) for shape, on in sizes if on)
    limit = DENSE_COUNT if counting else DENSE_SIZE
    dense = budget >= n + DENSE_AFTER and active <= limit and memory.eigh_fits(n)
    fits = max(memory.vectors_that_fit(objective.layout.vector_bytes), 8)
    basis = _rows(min(max(MAX_BASIS, STEP_PRODUCTS), fits), min(budget, n))
    if dense:
        few = active <= DENSE_FIRST
        likely = n + 3 if few else n + DENSE_AFTER + 3
        why = f"at a minimum, where all {n} are multiplied"
        if counting:
            why = f"all {n} are multiplied to count exactly"
        elif not few:
            why += f"; about {SADDLE} at a saddle"
        return Products(likely, budget, EVALUATIONS, basis, memory.EIGH_MATRICES, why)
    tolerance = options["negative_tol"]
    # At a minimum of small λ_min the relative error allowed is negative_tol·top/(top + negative_tol·top).
    sampled = options["sampled"] and objective.data.count >= FEWEST_BATCHES
    proof = steps_for(active, tolerance / (1 + tolerance), options["confidence"]) + 4
    why = (
        f"at a minimum, to miss no eigenvalue below −{tolerance:g}·‖H‖ with probability "
        f"{options['confidence']:g} ({2 * proof} or more if the gradient is not zero); {SADDLE} at a saddle"
    )
    if sampled:
        proof, why = 2 * proof, why + "; as many again for the noise of the data"
    if counting:
        why = f"{proof} for the label; counting goes on until none is left or the budget is spent"
        return Products(budget, budget, EVALUATIONS, max(basis, COUNT_BASIS), 0, why)
    if proof > budget:
        why = f"a minimum would take {proof} and stay undetermined; about {SADDLE} at a saddle"
    return Products(min(proof, budget), budget, EVALUATIONS, basis, 0, why)


def of_escape(objective: Objective, options: dict[str, Any]) -> Products:
    """The label of a point, and a search along the way down."""
    label = of_classify(objective, OPTIONS["classify"] | options)
    return label._replace(evaluations=label.evaluations + LINE_SEARCH)


def _rows(basis: int, products: int) -> int:
    """Rows of storage for so many vectors: while it grows, the old one is there too."""
    rows = segment(min(basis, products) + 1)
    return rows + segment(max(rows // 2, 1)) if rows > 16 else rows


JOBS = {"classify": of_classify, "escape": of_escape, "eigsh": of_eigsh, "dense": of_dense}
