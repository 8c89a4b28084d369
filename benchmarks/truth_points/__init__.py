"""Points whose type is known by proof, by closed form or by dense eigenvalues, as tables."""

from collections.abc import Iterable

# Each registers its tables; `beside` imports those that are not named.
from benchmarks.truth_points import beside, kinks, networks, quadratics, sampled, scales, slopes  # noqa: F401
from benchmarks.truth_points.table import TABLES
from hessian_probe.problems import KnownPoint

TRUTH_KINDS = (
    "plane", "degenerate", "trap", "lecture", "network", "linear_network", "styblinski_tang",
    "polynomial", "axis_saddle", "cluster", "certificate", "noise", "precision", "flat", "scale", "kink",
    "slope", "plateau", "orbit", "beside", "ill_conditioned", "relu",
)  # fmt: skip
# Kinds that train networks and need scikit-learn; left out unless they are named.
NEED_EXTRAS = frozenset({"plateau"})


def truth_points(kinds: str | Iterable[str] | None = None, *, seed: int = 0) -> list[KnownPoint]:
    """Collect points of one kind or several, or of all that need no extra; the seed draws what is random."""
    if kinds is None:
        kinds = [kind for kind in TRUTH_KINDS if kind not in NEED_EXTRAS]
    wanted = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    return [point for kind in wanted for table in TABLES[kind] for point in table(seed)]
