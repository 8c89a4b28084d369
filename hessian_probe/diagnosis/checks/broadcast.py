"""Is the loss of a batch the mean over its samples?  If not, why not?"""

from __future__ import annotations

import math

import jax
import numpy as np

from hessian_probe.diagnosis.case import is_mean
from hessian_probe.diagnosis.confidence import Found, exact, finding
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.result import NotChecked
from hessian_probe.optimizers.samples import Samples
from hessian_probe.optimizers.trial_runs import perturb
from hessian_probe.programs.broadcasts import Broadcast, find_broadcast
from hessian_probe.results import number


def check(case: Experiments) -> Found:
    """Compare the loss of some samples with the mean of their losses, and look for crossed operands."""
    samples = case.given_samples
    if samples is None:
        return [NotChecked(("broadcast",), case.need_of_samples)]
    crossed = _crossed(case)
    known = [case.compared_here]
    if crossed is not None:  # where every output is the mean target, or by a symmetry, both are the same
        rng = np.random.default_rng(0)
        half = samples.part(rng.permutation(samples.size)[: samples.size // 2 + 1])
        places = (perturb(at, rng, 1.0) for at in (case.params, case.reinitialised))
        known += [case.compared(half, at) for at in places]
    if all(pair is None for pair in known):
        return [NotChecked(("broadcast",), "a loss that can take one sample")]
    apart = [pair for pair in known if pair is not None and not is_mean(*pair)]
    if not apart:
        return []
    alone, together = apart[0]
    ratio = together / alone.mean() if alone.mean() else math.inf
    said = f"loss {number(together, 3)}, mean of the losses of each alone {number(alone.mean(), 3)}"
    if crossed is None:
        case.measured[f"{len(alone)} samples: no mean of theirs: coupled, weighted or summed"] = said
        return []
    return [
        finding(
            ("broadcast", "crossed_samples"),
            f"this loss is no mean over samples: {_told(crossed, samples)} (of {len(alone)}: {said})",
            "loss of some samples ÷ mean of their losses",
            exact(ratio, 1.0),
            source="a mean over samples is the mean of their losses, to rounding",
            remedy=(
                "match_shapes",
                "give both operands one shape, e.g. by [:, 0] on the one whose last axis is 1",
            ),
            cost="the program, and three losses of single samples",
        )
    ]


def _crossed(case: Experiments) -> Broadcast | None:
    """Look through the program of the loss."""
    known = case.sample_programs
    if known is None:
        return None
    program, labels, size, usual = known
    found = find_broadcast(program, labels, size)
    if found is None:
        return None
    one, other = (tuple(usual if n == size else n for n in shape) for shape in found.shapes)
    return found._replace(shapes=(one, other))


def _told(found: Broadcast, samples: Samples) -> str:
    """Name both operands, the operation and its place."""
    leaves = jax.tree_util.tree_leaves_with_path(samples.batch)

    def name(sources: frozenset[int]) -> str:
        if 0 in sources:
            return "outputs"
        path, leaf = leaves[min(sources) - 1]
        return "targets" if leaf is samples.targets else f"data{jax.tree_util.keystr(path)}"

    one, other = (f"{name(s)} {shape}" for s, shape in zip(found.sources, found.shapes, strict=True))
    both = np.broadcast_shapes(*found.shapes)
    return f"{one} and {other} broadcast to {both} in `{found.operation}`{found.place}"
