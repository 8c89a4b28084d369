"""Jobs that are stopped go on to the same answer; files are whole or refused."""

import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe import storage
from hessian_probe.spectrum import checkpoint

N = 60
SPECTRA = {
    "spread": np.linspace(-1.0, 2.0, N),
    "repeated ends": np.r_[-1.0, -1.0, -1.0, np.linspace(-0.1, 0.3, N - 5), 2.0, 2.0],
    "low rank": np.r_[np.zeros(N - 4), -1.0, 1.0, 2.0, 3.0],
}


def problem(spectrum, seed=0):
    """A quadratic of known spectrum in two leaves."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((N, N)))[0]
    matrix = jnp.asarray((q * spectrum) @ q.T)

    def loss(params):
        x = jnp.concatenate([params["a"], params["b"]])
        return 0.5 * jnp.vdot(x, matrix @ x)

    return loss, {"a": jnp.zeros(20, matrix.dtype), "b": jnp.zeros(N - 20, matrix.dtype)}


def same(a, b) -> None:
    """Equal bit for bit, in everything."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    assert all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)
    assert repr(a) == repr(b)


@pytest.fixture
def snapshots(monkeypatch, tmp_path):
    """Save at every step, and keep a copy of every file that was written."""
    monkeypatch.setattr(checkpoint, "REST", 0.0)
    kept = []
    write = storage.write

    def copying(path, record):
        total = write(path, record)
        kept.append(Path(shutil.copy(path, tmp_path / f"copy-{len(kept)}")))
        return total

    monkeypatch.setattr(storage, "write", copying)
    return kept


SEARCHES = {
    "one pair": ("spread", {}),
    "both ends repeated": ("repeated ends", {"lowest": 4, "highest": 3, "rtol": 1e-4}),
    "restarts": ("spread", {"lowest": 2, "highest": 1, "max_basis": 12, "rtol": 1e-4}),
    "breakdown": ("low rank", {"lowest": 2, "highest": 4, "max_hvps": 59}),
    "rounding forbids more": ("spread", {"rtol": 1e-30}),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_goes_on_from_every_snapshot_to_the_same_bits(name, snapshots, tmp_path):
    spectrum, options = SEARCHES[name]
    op = hp.hessian(*problem(SPECTRA[spectrum]), check=False)
    straight = hp.eigsh(op, **options)
    assert straight.method == "lanczos"
    same(hp.eigsh(op, **options, save_to=tmp_path / "job", save_every=0), straight)
    assert len(snapshots) > 8
    for path in [*snapshots[:: max(len(snapshots) // 4, 1)], snapshots[-1]]:
        same(hp.eigsh(op, **options, resume=path), straight)


def stuck_point(kind):
    """Loss and parameters whose classification searches here, or here and at a point nearby."""
    spectrum = np.r_[np.linspace(0.5, 1.5, 299), 3.0]
    weights = jnp.asarray(spectrum)
    start = jnp.zeros(300, weights.dtype) if kind == "here" else 1e-3 * jnp.cos(jnp.arange(300.0))

    def loss(x):
        return 0.5 * jnp.vdot(x * weights, x) + jnp.sum(x**4)

    return loss, start.astype(weights.dtype)


@pytest.mark.parametrize("kind", ["here", "nearby"])
def test_a_classification_goes_on_from_every_snapshot(kind, snapshots, tmp_path):
    loss, params = stuck_point(kind)
    straight = hp.classify(loss, params)
    assert straight.label == "minimum"
    same(hp.classify(loss, params, save_to=tmp_path / "job", save_every=0), straight)
    searches = [len(storage.read(path).header["searches"]) for path in snapshots]
    assert max(searches) == (1 if kind == "here" else 2)
    for path in [*snapshots[:: max(len(snapshots) // 4, 1)], snapshots[-1]]:
        same(hp.classify(loss, params, resume=path), straight)


def raises_after(count):
    """A progress function that presses Ctrl-C once."""
    told = []

    def progress(line):
        told.append(line)
        if len(told) == count:
            signal.raise_signal(signal.SIGINT)

    return progress


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_ctrl_c_saves_and_the_next_call_goes_on(count, tmp_path):
    op = hp.hessian(*problem(SPECTRA["spread"]), check=False)
    options = {"lowest": 2, "max_basis": 16, "rtol": 1e-4, "save_to": tmp_path / "job"}
    partial = hp.eigsh(op, progress=raises_after(count), **options)
    assert partial.status == "interrupted"
    again = hp.eigsh(op, progress=raises_after(count), **options)
    assert again.num_hvps >= partial.num_hvps
    same(hp.eigsh(op, **options), hp.eigsh(op, lowest=2, max_basis=16, rtol=1e-4))
    loss, params = stuck_point("nearby")
    point = hp.classify(loss, params, progress=raises_after(count), save_to=tmp_path / "point")
    assert point.label == "undetermined"
    assert point.evidence[0].startswith("interrupted")
    same(hp.classify(loss, params, save_to=tmp_path / "point"), hp.classify(loss, params))


def test_a_spent_budget_is_raised_and_the_search_goes_on(tmp_path):
    op = hp.hessian(*problem(SPECTRA["spread"]), check=False)
    first = hp.eigsh(op, rtol=1e-6, max_hvps=12, save_to=tmp_path / "job")
    assert first.status == "max_hvps"
    before = op.num_hvps
    same(hp.eigsh(op, rtol=1e-6, max_hvps=80, save_to=tmp_path / "job"), hp.eigsh(op, rtol=1e-6, max_hvps=80))
    straight = hp.eigsh(op, rtol=1e-6, max_hvps=80)
    assert op.num_hvps - before < 3 * straight.num_hvps  # the first of the three went on from 12
    loss, params = stuck_point("nearby")
    short = hp.classify(loss, params, max_hvps=20, save_to=tmp_path / "point")
    assert short.label == "undetermined"
    same(hp.classify(loss, params, save_to=tmp_path / "point"), hp.classify(loss, params))
