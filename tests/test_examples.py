"""Every example trains a real network on real data with a hook that leaves the saddle it starts at."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {
    "optax_alone": "optax",
    "flax_linen": "flax",
    "flax_nnx": "flax",
    "equinox_mlp": "equinox",
    "haiku_mlp": "haiku",
    "keras_fit": "keras",
}


def test_every_example_is_listed():
    assert {path.stem for path in EXAMPLES.glob("[!_]*.py")} == set(NEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_an_example_leaves_the_saddle(name):
    for module in ("sklearn", NEEDS[name]):
        if find_spec(module) is None:  # importing Keras here would pick its backend
            pytest.skip(f"{module} is not installed")
    root = str(EXAMPLES.parent)
    environment = {**os.environ, "PYTHONPATH": root, "KERAS_BACKEND": "jax"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Event: ESCAPED" in done.stdout, done.stdout
    final = re.search(r"^loss after .*: (\d+\.\d+);", done.stdout, re.MULTILINE)
    assert final, done.stdout
    assert float(final[1]) < 1.5, done.stdout  # it starts at log 10 = 2.303


FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHARED, *SNIPPETS = FENCE.findall((EXAMPLES / "README.md").read_text("utf-8"))
FRAMEWORK = re.compile(r"^(?:import|from) (flax|haiku|equinox|keras)\b", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.any_promotion
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_as_written(number, monkeypatch):
    """Each ends with an assertion that a saddle was left."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    snippet = SNIPPETS[number]
    for module in ("sklearn", "optax", *FRAMEWORK.findall(snippet)):
        pytest.importorskip(module)
    assert "num_escapes >= 1" in snippet
    namespace = {"__name__": "__main__"}
    with jax.enable_x64(False) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(False):
        exec(compile(SHARED + "\n" + snippet, "examples/README.md", "exec"), namespace)
