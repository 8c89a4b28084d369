"""The shapes in signatures are those of the arrays, wherever jaxtyping and beartype are installed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hessian_probe.arrays import Float
from hessian_probe.operators.objective import Objective

pytestmark = pytest.mark.one_precision

ROOT = Path(__file__).parents[1]
CHECKER = """
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand where a float is expected
"""
CALLS = """
from jaxtyping import TypeCheckError, install_import_hook

with install_import_hook(["hessian_probe.arrays", "hessian_probe.operators"], "checker.check"):
    import hessian_probe as hp
import jax.numpy as jnp
import numpy as np
from hessian_probe.arrays import flatten_rows

def loss(params, batch):
    return jnp.mean((jnp.tanh(batch @ params["w"]) @ params["v"]) ** 2)

params = {"w": jnp.ones((3, 2)), "v": jnp.zeros(2)}
data = [np.ones((4, 3), np.float32), np.eye(3, dtype=np.float32)]
op = hp.hessian(loss, params, data)
assert op.dense().shape == (8, 8)
assert len(hp.eigsh(op, lowest=1, highest=1).eigenvalues) == 2
hp.escape(loss, params, data, point=hp.classify(loss, params, data))
try:
    flatten_rows((jnp.zeros(()),))
except TypeCheckError:
    print("as annotated")
"""


@pytest.mark.slow
def test_public_calls_keep_to_the_shapes_of_their_signatures(tmp_path):
    pytest.importorskip("jaxtyping")
    pytest.importorskip("beartype")
    (tmp_path / "checker.py").write_text(CHECKER)
    path = os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", CALLS], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split("\n")[0] == "as annotated"


def test_annotations_cost_nothing_without_jaxtyping():
    """Annotations are strings; those that are evaluated need nothing beyond the array's type."""
    assert Float[np.ndarray, "k n"] is not None
    assert isinstance(Objective.line.__annotations__["return"], str)
