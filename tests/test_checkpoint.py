"""Jobs that are stopped go on to the same answer; files are whole or refused."""

import os
import shutil
import signal
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.jobs import checkpoint, state
from hessian_probe.jobs.interrupt import uninterrupted
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.objective import Objective

pytestmark = pytest.mark.one_precision

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

    def copying(path, values):
        state.write(path, values)
        kept.append(Path(shutil.copy(path, tmp_path / f"copy-{len(kept)}")))

    monkeypatch.setattr(checkpoint, "write", copying)
    return kept


SEARCHES = {
    "one pair": ("spread", {}),
    "both ends repeated": ("repeated ends", {"lowest": 4, "highest": 3, "rtol": 1e-4}),
    "restarts": ("spread", {"lowest": 2, "highest": 1, "max_basis": 12, "rtol": 1e-4}),
    "breakdown": ("low rank", {"lowest": 2, "highest": 4, "max_hvps": 59}),
    "rounding forbids more": ("spread", {"rtol": 1e-30}),
}


@pytest.mark.slow
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
    return stuck, jnp.zeros(300) if kind == "here" else 1e-3 * jnp.cos(jnp.arange(300.0))


def stuck(x):
    weights = jnp.asarray(np.r_[np.linspace(0.5, 1.5, 299), 3.0])
    return 0.5 * jnp.vdot(x * weights, x) + jnp.sum(x**4)


@pytest.mark.parametrize("kind", ["here", "nearby"])
@pytest.mark.slow
def test_a_classification_goes_on_from_every_snapshot(kind, snapshots, tmp_path):
    loss, params = stuck_point(kind)
    straight = hp.classify(loss, params)
    assert straight.label == ("minimum" if kind == "here" else "not_critical")
    same(hp.classify(loss, params, save_to=tmp_path / "job", save_every=0), straight)
    searches = [len(state.read(path)["searches"]) for path in snapshots]
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


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow), 7, 20])
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
    assert point.reasons[0] == "interrupted"
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
    assert short.num_hvps <= 20
    same(hp.classify(loss, params, save_to=tmp_path / "point"), hp.classify(loss, params))


# Ctrl-C at any moment ------------------------------------------------------------------------


def stops_at(monkeypatch, cls, name, count):
    """Press Ctrl-C at one call of a method, before it does anything."""
    real, calls = getattr(cls, name), []

    def stopping(self, *args, **keywords):
        calls.append(name)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(self, *args, **keywords)

    monkeypatch.setattr(cls, name, stopping)
    return calls


def curved(x):
    """A saddle near, not at, where it is looked at."""
    return 0.5 * (jnp.sum(x[1:] ** 2) - x[0] ** 2) + 0.1 * jnp.sum(x**4) + 1e-3 * jnp.sum(x)


CALLS = [(Objective, name) for name in ("line", "value", "value_and_gradient", "linearized")]


@pytest.mark.parametrize(("cls", "name"), [(HessianOperator, "apply"), *CALLS])
def test_ctrl_c_anywhere_in_a_classification_gives_no_label_or_the_right_one(cls, name, monkeypatch):
    x = jnp.zeros(40)
    truth = hp.classify(curved, x)
    assert truth.label == "saddle"
    count, stopped = 1, 0
    while True:
        with monkeypatch.context() as patch:
            calls = stops_at(patch, cls, name, count)
            try:
                point = hp.classify(curved, x)
            except KeyboardInterrupt:  # nothing was known yet
                assert count <= 1
                count += 1
                continue
        if len(calls) < count:
            break
        stopped += 1
        assert point.label == "undetermined"
        assert point.reasons[0] == "interrupted"
        assert repr(point)
        if point.escape_direction is not None:
            assert abs(float(point.escape_direction[0])) > 0.9
        count += max(count // 3, 1)
    same(point, truth)
    assert stopped or not calls


@pytest.mark.parametrize("name", ["line", "value"])
def test_ctrl_c_in_an_escape_keeps_the_best_step(name, monkeypatch):
    x = jnp.zeros(40)
    point = hp.classify(curved, x)
    outcomes, count = set(), 1
    while True:
        with monkeypatch.context() as patch:
            calls = stops_at(patch, Objective, name, count)
            move = hp.escape(curved, x, point=point)
        outcomes.add(move.status)
        assert move.status in ("escaped", "undetermined")
        assert float(curved(move.params)) <= move.loss_before
        assert move.loss_after == pytest.approx(float(curved(move.params)), rel=1e-5, abs=1e-7)
        if move.status == "undetermined":
            assert move.params is x
            assert "interrupted" in move.evidence[0]
        if len(calls) < count:
            break
        count += 1
    assert move.status == "escaped"
    assert "undetermined" in outcomes
    interrupted = hp.escape(curved, x, progress=raises_after(2))
    assert (interrupted.status, interrupted.params is x) == ("undetermined", True)


def test_ctrl_c_in_the_check_or_the_dense_route_gives_an_empty_result(monkeypatch):
    for size in (10, 60):
        with monkeypatch.context() as patch:
            stops_at(patch, HessianOperator, "product", 2)
            op = hp.hessian(lambda x: jnp.sum(x**2), jnp.zeros(size))
            found = hp.eigsh(op)
        assert found.status == "interrupted"
        assert len(found.eigenvalues) == 0
        assert "interrupted" in found.evidence[0]


def test_ctrl_c_waits_for_the_end_of_what_must_not_be_cut():
    done = []
    before = signal.getsignal(signal.SIGINT)

    def pressed():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        pressed()
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is before

    def elsewhere():  # where no signal arrives
        with uninterrupted():
            done.append("in a thread")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == ["all of it", "in a thread"]


# Files ---------------------------------------------------------------------------------------

STATE = {
    "seed": 2**100,
    "nothing": None,
    "infinite": float("inf"),
    "several": (1, ("two", 3.0), np.arange(3)),
    "arrays": {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asarray(jnp.ones(3, jnp.bfloat16)),
        "c": np.zeros((0, 4)),
        "d": np.full((), 2.0, np.float32),
    },
}


def same_state(a, b) -> None:
    """Equal values, in dtype and structure too."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if isinstance(x, np.ndarray):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.array_equal(x, y)


def test_a_file_comes_back_as_it_was(tmp_path):
    path = tmp_path / "file"
    state.write(path, STATE)
    same_state(state.read(path), STATE)
    with np.load(path) as archive:
        np.testing.assert_array_equal(archive["arrays/a"], STATE["arrays"]["a"])
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    with pytest.raises(TypeError, match="inner/0 is a set"):
        state.write(path, {"inner": [set()]})


def test_every_cut_is_refused_and_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "file"
    state.write(path, STATE)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(hp.CheckpointError, match="cut off"):
            state.read(path)
    refused = 0
    for position in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[position] ^= 1 << (position % 8)
        path.write_bytes(broken)
        try:
            found = state.read(path)
        except hp.CheckpointError:
            refused += 1
        else:
            same_state(found, STATE)
    assert refused > 0.2 * len(whole)  # of the third that is tried; the rest are times and the like


def test_an_array_that_claims_another_shape_is_refused(tmp_path):
    """NumPy would read what is left of it, and never come to the checksum at its end."""
    path = tmp_path / "file"
    state.write(path, STATE)
    whole = path.read_bytes()
    assert whole.count(b"(2, 3)") == 1
    path.write_bytes(whole.replace(b"(2, 3)", b"(2, 2)"))
    with pytest.raises(hp.CheckpointError, match="does not match its checksum"):
        state.read(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"text", b"\x80\x04K\x01."])
def test_what_is_no_saved_file_is_refused(content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(hp.CheckpointError, match=r"not saved by|cut off"):
        state.read(path)
    with path.open("wb") as file:
        np.savez(file, weights=np.zeros(3))
    with pytest.raises(hp.CheckpointError, match="not saved by"):
        state.read(path)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file that is open cannot be replaced")
def test_a_file_is_replaced_and_never_written_over(tmp_path):
    """Who reads the old file while it is replaced reads all of it."""
    path = tmp_path / "job"
    state.write(path, STATE)
    before = path.read_bytes()
    with path.open("rb") as old:
        state.write(path, {"other": 1})
        assert old.read() == before
    assert path.read_bytes() != before


def test_a_save_that_fails_leaves_the_old_file_and_the_job_alone(tmp_path, monkeypatch):
    path = tmp_path / "job"
    state.write(path, STATE)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        state.write(path, STATE)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["job"]
    op = hp.hessian(*problem(SPECTRA["spread"]), check=False)
    with pytest.warns(UserWarning, match="could not be saved"):
        result = hp.eigsh(op, save_to=path, resume=False)
    assert result.status == "converged"
    assert path.read_bytes() == before


def job_file(tmp_path):
    op = hp.hessian(*problem(SPECTRA["spread"]), check=False)
    hp.eigsh(op, save_to=tmp_path / "job")
    return tmp_path / "job"


def test_a_foreign_job_is_refused_with_what_differs(tmp_path):
    path = job_file(tmp_path)
    loss, params = problem(SPECTRA["spread"])
    cases = {
        "parameters of other values": (loss, {**params, "a": params["a"] + 1}, {}),
        "parameters of other names": (loss, {**params, "c": params["a"]}, {}),
        "another loss": (problem(SPECTRA["spread"], seed=1)[0], params, {}),
        "lowest=1, this call has 2": (loss, params, {"lowest": 2}),
        "rtol=0.001, this call has 0.01": (loss, params, {"rtol": 1e-2}),
        "key": (loss, params, {"key": jax.random.key(7)}),
        "initial": (loss, params, {"initial": params | {"a": params["a"] + 1}}),
    }
    for match, (other, at, options) in cases.items():
        op = hp.hessian(other, at, check=False)
        for where in ({"resume": path}, {"save_to": path}):
            with pytest.raises(hp.CheckpointError, match=match):
                hp.eigsh(op, **options, **where)
    with pytest.raises(ValueError, match=r"saved by hp\.eigsh, this is hp\.classify"):
        hp.classify(loss, params, resume=path)
    op = hp.hessian(problem(SPECTRA["spread"], seed=1)[0], params, check=False)
    assert hp.eigsh(op, save_to=path, resume=False).status == "converged"  # starts over


def test_another_version_is_refused(tmp_path, monkeypatch):
    path = job_file(tmp_path)
    op = hp.hessian(*problem(SPECTRA["spread"]), check=False)
    monkeypatch.setattr(hp, "__version__", "9.9")
    with pytest.raises(ValueError, match=r"saved with hessian_probe 0\..*this is 9\.9"):
        hp.eigsh(op, resume=path)


def test_data_are_told_apart_as_far_as_shuffling_lets(tmp_path):
    rng = np.random.default_rng(0)
    data = [jnp.asarray(rng.standard_normal((4, N))) for _ in range(3)]

    def loss(x, batch):
        return jnp.mean((batch @ x) ** 2)

    x = jnp.zeros(N, data[0].dtype)

    class Loader:
        def __init__(self, batches):
            self.batches, self.passes = batches, 0

        def __iter__(self):
            self.passes += 1
            return iter(self.batches[:: 1 if self.passes % 2 else -1])

    def run(batches, name):
        return hp.eigsh(hp.hessian(loss, x, batches, check=False), save_to=tmp_path / name)

    same(run(data, "list"), run(list(data), "list"))
    run(Loader(data), "loader")
    assert run(Loader(data), "loader").status == "converged"
    for name, kind in (("list", list), ("loader", Loader)):
        with pytest.raises(ValueError, match="other data"):
            run(kind([*data[:2], data[2] + 1e-2]), name)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"save_to": "absent-folder/job"}, ValueError, "there is no folder"),
        ({"resume": "absent-file"}, ValueError, "there is no such file"),
        ({"save_every": -1.0}, ValueError, "at least 0"),
        ({"save_every": "often"}, TypeError, "expected seconds"),
    ],
)
def test_misuse_of_saving_is_refused(options, error, match):
    loss, params = problem(SPECTRA["spread"])
    with pytest.raises(error, match=match):
        hp.eigsh(hp.hessian(loss, params), **options)
    with pytest.raises(error, match=match):
        hp.classify(loss, params, **options)


def test_saving_waits_fifty_times_as_long_as_it_takes(tmp_path, monkeypatch):
    """A clock that a save moves by one second and a step by a tenth: 2 % of the time at most."""
    now, saves = [0.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    def slow(path, values):
        now[0] += 1.0
        saves.append(now[0])
        state.write(path, values)

    monkeypatch.setattr(checkpoint, "write", slow)
    op = hp.hessian(*problem(SPECTRA["spread"]), check=False)
    saving = checkpoint.Saving(tmp_path / "job", 0.0)
    job = checkpoint.Job("test", op, {}, saving)
    job.begin(op, np.random.default_rng(0))
    for _ in range(2000):
        now[0] += 0.1
        job.offer(dict)
    assert len(saves) >= 3
    assert len(saves) / now[0] <= 0.02 + 1.0 / now[0]


def test_a_saved_search_that_started_elsewhere_is_not_continued(tmp_path):
    """Where what came before it has changed, a search begins anew."""
    op = hp.hessian(*problem(SPECTRA["spread"]), check=False)
    saving = checkpoint.Saving(tmp_path / "job", 0.0)
    job = checkpoint.Job("test", op, {}, saving)
    job.begin(op, np.random.default_rng(0))
    job.finish(lambda: {"steps": 1})
    for seed, expected in ((0, {"steps": 1}), (1, None)):
        again = checkpoint.Job("test", op, {}, saving)
        assert again.begin(op, np.random.default_rng(seed)) == expected


def test_earlier_vectors_save_products_after_a_small_change():
    """A Hessian moved by 1e-4 of its norm; the answer is the one from a cold start."""
    loss, params = problem(SPECTRA["spread"])
    bump = jnp.asarray(np.random.default_rng(1).standard_normal((N, N)) / N)

    def moved(p):
        x = jnp.concatenate([p["a"], p["b"]])
        return loss(p) + 1e-4 * jnp.vdot(x, bump @ x)

    old = hp.eigsh(hp.hessian(loss, params), lowest=2, highest=1)
    op = hp.hessian(moved, params)
    cold = hp.eigsh(op, lowest=2, highest=1)
    warm = hp.eigsh(op, lowest=2, highest=1, initial=old)
    assert warm.num_hvps < cold.num_hvps
    np.testing.assert_allclose(warm.eigenvalues, cold.eigenvalues, atol=2e-3 * cold.norm)
    one = hp.eigsh(op, rtol=1e-2, initial=hp.eigsh(op, rtol=1e-2))
    assert one.num_hvps <= 8
    with pytest.raises(ValueError, match="without any pair"):
        hp.eigsh(op, initial=hp.eigsh(op, max_hvps=1))
