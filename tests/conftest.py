"""Precision, strictness and random keys of the whole suite.

`HESSIAN_PROBE_TEST_X64` picks float64 (1, the default) or float32 (0); `HESSIAN_PROBE_TEST_SEED`
overrides the seed of the `key` fixture. The package itself never touches `jax.config`.
"""

import os
import signal
import zlib
from pathlib import Path

# Each worker of the suite has about one core; read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import pytest

MOST_MAPS = 40_000
X64 = os.environ.get("HESSIAN_PROBE_TEST_X64", "1") == "1"

jax.config.update("jax_enable_x64", X64)
# The package must work for users who forbid implicit promotion, so its tests forbid it. A test
# whose own loss broadcasts or mixes dtypes, as users' losses do, is marked `any_promotion`.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell that starts the suite in the background hands SIGINT down ignored; tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Compilation has no deadline, and a failure must come back on the next run.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("suite")


def pytest_report_header() -> str:
    return f"jax {jax.__version__}, float{64 if X64 else 32}"


def pytest_collection_modifyitems(config, items):
    other = "float32" if X64 else "one_precision"  # a test with both runs in float32
    out = [item for item in items if item.get_closest_marker(other)]
    if not X64:
        out = [item for item in out if not item.get_closest_marker("float32")]
    items[:] = [item for item in items if item not in set(out)]
    config.hook.pytest_deselected(items=out)


@pytest.fixture(autouse=True)
def _promotion(request):
    if request.node.get_closest_marker("any_promotion") is None:
        yield
        return
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _programs_let_go():
    """Compiled programs hold mappings of memory, of which Linux gives a process 65,530; XLA dies without."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def x64() -> bool:
    """True in the float64 run of the suite."""
    return X64


@pytest.fixture
def key(request) -> jax.Array:
    """A random key that differs from test to test and not from run to run."""
    seed = int(os.environ.get("HESSIAN_PROBE_TEST_SEED", zlib.crc32(request.node.nodeid.encode())))
    print(f"key: rerun with HESSIAN_PROBE_TEST_SEED={seed}")  # pytest shows it on failure
    return jax.random.key(seed)
