"""Is the loss of a batch the mean over its samples?  If not, why not?"""

from __future__ import annotations

import math

import jax
import numpy as np

from hessian_probe.arrays import PyTree
from hessian_probe.diagnosis.case import is_mean, single_rows
from hessian_probe.diagnosis.confidence import Found, exact, finding
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.result import NotChecked
from hessian_probe.operators.data import Data
from hessian_probe.optimizers.samples import Samples
from hessian_probe.optimizers.trial_runs import perturb
from hessian_probe.programs.broadcasts import Broadcast, find_broadcast
from hessian_probe.results import number

# A prime that no other axis has by chance.
PRIME = 10_007


def check(case: Experiments) -> Found:
    """Compare the loss of some samples with the mean of their losses, and look for crossed operands."""
    samples = case.given_samples
    if samples is None:
        return [NotChecked(("broadcast",), case.need_of_samples)]
    crossed = _crossed(case, samples)
    places = [(samples, case.params)]
    if crossed is not None:  # where every output is the mean target, or by a symmetry, both are the same
        rng = np.random.default_rng(0)
        half = samples.part(rng.permutation(samples.size)[: samples.size // 2 + 1])
        places += [(half, perturb(at, rng, 1.0)) for at in (case.params, case.reinitialised)]
    known = [pair for place in places if (pair := _compared(case, *place)) is not None]
    if not known:
        return [NotChecked(("broadcast",), "a loss that can take one sample")]
    apart = [pair for pair in known if not is_mean(*pair)]
    if not apart:
        return []
    alone, together = apart[0]
    ratio = together / alone.mean() if alone.mean() else math.inf
    said = f"loss {number(together, 3)}, mean of the losses of each alone {number(alone.mean(), 3)}"
    if crossed is None:
        scaled = abs(ratio / len(alone) - 1) <= 1e-3
        what = "a sum, not a mean" if scaled else "no mean of theirs: coupled, weighted, or summed in part"
        case.measured[f"{len(alone)} samples: {what}"] = said
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


def _compared(case: Experiments, samples: Samples, at: PyTree) -> tuple[np.ndarray, float] | None:
    """Losses of single samples and of all of them, without those that have none alone, as masked ones."""
    found = case.alone_and_together(samples, at)
    if found is None:
        return None
    rows = np.flatnonzero(np.isfinite(found[0]))
    if 1 < len(rows) < len(found[0]):
        found = case.alone_and_together(samples.part(single_rows(samples)[rows]), at)
    return found if found is not None and np.all(np.isfinite([*found[0], found[1]])) else None


def _crossed(case: Experiments, samples: Samples) -> Broadcast | None:
    """Look through the program of the loss, at a number of samples that no other axis has if it can."""
    usual = samples.batch_size or samples.size
    for size in (PRIME, usual):
        shapes = [jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for x in jax.tree.leaves(samples.batch)]
        batch = next(iter(Data(jax.tree.unflatten(jax.tree.structure(samples.batch), shapes))))
        try:
            program = case.op.objective.program(batch, case.op.x)
        except Exception:  # whatever a user's loss raises for another number of samples
            continue
        labels = [0] * (len(program.jaxpr.invars) - len(shapes)) + list(range(1, len(shapes) + 1))
        found = find_broadcast(program, labels, size)
        if found is None:
            return None
        one, other = (tuple(usual if n == size else n for n in shape) for shape in found.shapes)
        return found._replace(shapes=(one, other))
    return None


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
