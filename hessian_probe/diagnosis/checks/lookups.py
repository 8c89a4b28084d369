"""Are all indices in the data inside of what they read?"""

from __future__ import annotations

from itertools import groupby

import jax
import numpy as np

from hessian_probe.arrays import PyTree
from hessian_probe.diagnosis.confidence import Found, exact, finding
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.result import Finding
from hessian_probe.operators.data import Data
from hessian_probe.programs.lookups import Lookup, find_lookups

# Labels of "no class" in common use beside negative ones: with these, rows of zeros are meant.
NO_CLASS = (255, 65535, 2**31 - 1)
PROOF = "an index outside is moved to another entry or reads NaN (JAX, out-of-bounds indexing)"
MEND = {
    "index_outside": "make the table longer than the largest index, or map such ids to one of its entries",
    "label_outside": "give the model an output for each class, or number the classes from zero",
}


def check(case: Experiments) -> Found:
    """Compute the indices of the loss from each batch, and compare them with what they read."""
    x, fixed = case.op.x, case.op.objective.non_variables
    batches = list(Data(case.given_data))
    num_params = len(jax.tree.leaves((x, fixed)))
    out: Found = []
    start = 0
    for _, group in groupby(batches, key=lambda batch: [np.shape(leaf) for leaf in batch.arrays]):
        alike = list(group)
        program = case.op.objective.program(alike[0], x)
        inputs = [jax.tree.leaves((x, fixed, batch.arrays)) for batch in alike]
        for number, lookup in find_lookups(program, inputs, num_params):
            batch = start + number if len(batches) > 1 else None
            out.append(_told(case, lookup, inputs[number], num_params, batch))
        start += len(alike)
    return out[:1]


def _told(
    case: Experiments, lookup: Lookup, inputs: list[PyTree], num_params: int, batch: int | None
) -> Finding:
    """The finding of one lookup: its table, the index, and where in the data that is."""
    leaf, index, value = _entry(lookup, inputs, num_params)
    names, kind = [*case.op.layout.names], "index_outside"
    data = next(iter(case.given_data)) if batch is not None else case.given_data
    paths = [
        f"data{jax.tree_util.keystr(path)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(data)
        if not (isinstance(leaf, str) or callable(leaf))
    ]
    table = [names[number] for number in sorted(lookup.table_sources) if number < len(names)]
    read, of_data = "an array", [number for number in lookup.table_sources if number >= num_params]
    if len(table) == 1 and not of_data:
        read = table[0]
    elif lookup.operation == "one_hot" or (of_data and table):
        read, kind = "the outputs", "label_outside"
    what = "label" if kind == "label_outside" else "index"
    where = "an index that counts positions"
    if leaf is not None:
        place = f"[{', '.join(map(str, index))}]" if index else ""
        where = f"{paths[leaf]}{place}" + (f" of batch {batch}" if batch is not None else "")
    zeros = lookup.operation == "one_hot"
    effect = "its row of zeros stands for no class" if zeros else "JAX raises no error"
    low, high = min(lookup.losses), max(lookup.losses)
    ones = "" if lookup.num_outside == 1 else f", one of {lookup.num_outside}"
    used = lookup.used and not (zeros and value in NO_CLASS)
    return finding(
        ("program", kind),
        f"{what} {value} is outside of {read}, which {'has' if what == 'index' else 'have'} entries 0 to "
        f"{lookup.length - 1}: {effect}. It stands in {where}{ones}; with others in place of them the loss "
        f"of that batch is between {low:.4g} and {high:.4g}",
        "indices outside",
        exact(float(lookup.num_outside)),
        source=PROOF,
        sure=None if used else 0.0,
        remedy=("mend_indices", MEND[kind]),
        cost="one program of the indices; three losses of one batch",
        place=f"{where}, `{lookup.operation}`{lookup.place}",
    )


def _entry(lookup: Lookup, inputs: list[PyTree], num_params: int) -> tuple[int | None, tuple[int, ...], int]:
    """The array of the data with the first index outside, its place there, and the index as it is there."""
    for number in sorted(lookup.index_sources):
        if number < num_params:
            continue
        array = np.asarray(inputs[number])
        for value in (lookup.value, lookup.value - lookup.length):  # from the end, a length was added
            places = np.argwhere(array == value)
            if len(places) and not 0 <= value < lookup.length:
                return number - num_params, tuple(map(int, places[0])), value
    leaves = [number for number in lookup.index_sources if number >= num_params]
    return (min(leaves) - num_params if leaves else None), (), lookup.value
