"""Are all indices in the data inside of what they read?"""

from __future__ import annotations

from itertools import groupby

import jax
import numpy as np

from hessian_probe.arrays import PyTree
from hessian_probe.diagnosis.confidence import Found
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.faults import fault
from hessian_probe.diagnosis.result import Finding
from hessian_probe.operators.data import Data
from hessian_probe.programs.lookups import Lookup, find_lookups

# Labels of "no class" in common use beside negative ones: with these, rows of zeros are meant.
NO_CLASS = (255, 65535, 2**31 - 1)


def check(case: Experiments) -> Found:
    """Compute the indices of the loss from each batch, and compare them with what they read."""
    x, fixed = case.op.x, case.op.objective.non_variables
    batches = list(enumerate(Data(case.given_data)))
    num_params = len(jax.tree.leaves((x, fixed)))
    for _, group in groupby(batches, key=lambda pair: [np.shape(leaf) for leaf in pair[1].arrays]):
        numbers, alike = zip(*group, strict=True)
        program = case.op.objective.program(alike[0], x)
        inputs = [jax.tree.leaves((x, fixed, batch.arrays)) for batch in alike]
        for number, lookup in find_lookups(program, inputs, num_params):
            batch = f" of batch {numbers[number]}" if len(batches) > 1 else ""
            found = _told(case, lookup, inputs[number], num_params, batch)
            if found is not None:
                return [found]
    return []


def _told(
    case: Experiments, lookup: Lookup, inputs: list[PyTree], num_params: int, batch: str
) -> Finding | None:
    """The finding of one lookup: its table, the index, and where in the data that is."""
    leaf, index, value = _entry(lookup, inputs, num_params)
    one_hot, names = lookup.operation == "one_hot", case.op.layout.names
    if not lookup.used or (one_hot and value in NO_CLASS):
        return None
    data = next(iter(case.given_data)) if batch else case.given_data
    pairs = jax.tree_util.tree_leaves_with_path(data)
    arrays = [path for path, leaf in pairs if not (isinstance(leaf, str) or callable(leaf))]
    table = [names[number] for number in sorted(lookup.table_sources) if number < len(names)]
    of_data = any(number >= num_params for number in lookup.table_sources)
    where = "an index that counts positions"
    if leaf is not None:
        place = f"[{', '.join(map(str, index))}]" if index else ""
        where = f"data{jax.tree_util.keystr(arrays[leaf])}{place}{batch}"
    told = {
        "value": value,
        "read": table[0] if len(table) == 1 and not of_data else "an array",
        "last": lookup.length - 1,
        "where": where,
        "ones": "" if lookup.num_outside == 1 else f", one of {lookup.num_outside}",
        "low": min(lookup.losses),
        "high": max(lookup.losses),
    }
    return fault(
        "label_outside" if one_hot or (of_data and table) else "index_outside",
        float(lookup.num_outside),
        told,
        source="an index outside is moved to another entry or reads NaN (JAX, out-of-bounds indexing)",
        cost="one program of the indices; three losses of one batch",
        place=f"{where}, `{lookup.operation}`{lookup.place}",
    )


def _entry(lookup: Lookup, inputs: list[PyTree], num_params: int) -> tuple[int | None, tuple[int, ...], int]:
    """The array of the data with the first index outside, its place there, and the index as it is there."""
    leaves = sorted(number for number in lookup.index_sources if number >= num_params)
    for number in leaves:
        array = np.asarray(inputs[number])
        for value in (lookup.value, lookup.value - lookup.length):  # from the end, a length was added
            places = np.argwhere(array == value)
            if len(places) and not 0 <= value < lookup.length:
                return number - num_params, tuple(map(int, places[0])), value
    return (leaves[0] - num_params if leaves else None), (), lookup.value
