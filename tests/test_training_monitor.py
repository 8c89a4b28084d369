"""The host-side monitor: leaves saddles, leaves minima alone, costs little, can be stopped and resumed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.training import Monitor, adjust_moments, read_events

pytestmark = pytest.mark.float32

FLOAT = np.asarray(jnp.zeros(())).dtype
RATE = 0.05


def well(p):
    """Minima −1/4 at (±1, 0); a saddle with eigenvalues −1 and 2 at the origin."""
    return 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2


def bowl(p):
    return jnp.sum(jnp.asarray([1.0, 3.0], p.dtype) * (p - 0.3) ** 2)


def train(loss, params, monitor, steps, *, first=0, rate=RATE):
    """Gradient descent with the monitor; the losses and the events."""
    both = jax.jit(jax.value_and_grad(loss))
    events = []
    for step in range(first, first + steps):
        value, gradient = both(params)
        event = monitor.update(step, params, value)
        params = event.params if event.moved else params - rate * gradient
        events.append(event)
    return params, events


def as_json(state):
    return json.dumps(jax.tree.map(lambda leaf: leaf.tolist(), state))


def start(*values):
    return jnp.asarray(values, FLOAT)


def test_it_leaves_a_saddle_and_stops_at_the_minimum():
    monitor = Monitor(well)
    params, events = train(well, start(0, 0.5), monitor, 900)
    kinds = [event.kind for event in events]
    escape = events[kinds.index("escaped")]
    assert escape.point.label == "saddle"
    assert escape.escape.status == "escaped"
    assert float(well(escape.params)) < -0.1
    assert any("saddle" in sentence for sentence in escape.evidence)
    np.testing.assert_allclose(np.abs(params), [1, 0], atol=1e-3)
    assert kinds.count("escaped") == 1
    assert kinds[-1] == "at_minimum"
    assert any("next probe" in sentence for sentence in events[-1].evidence)
    assert monitor.state.num_escapes == 1
    assert monitor.state.num_steps == 900
    assert monitor.cost.num_hvps == sum(event.num_hvps for event in events)


def flat_saddle(p):
    """Descent from (1e-3, 0) stays for thousands of steps."""
    return 0.25 * jnp.sum(p**2) ** 2 - 1e-3 * p[0] ** 2 + 1e-3 * p[1] ** 2


@pytest.mark.parametrize("window", [32, 64, 96])
def test_it_probes_as_soon_as_the_plateau_test_speaks_and_not_before(window):
    monitor = Monitor(flat_saddle, window=window)
    _, events = train(flat_saddle, start(0, 0), monitor, 128)
    escape = next(event for event in events if event.kind == "escaped")
    assert escape.step == window - 1
    assert not any(event.num_evaluations for event in events[: escape.step])
    assert escape.point is not None
    assert escape.escape.loss_after < 0.9 * -1e-6
    assert escape.escape.point is escape.point


def test_probes_in_vain_stay_within_their_share():
    """A share that pays for no probe at all from the start on, and forgets none later."""
    monitor = Monitor(bowl, max_share=1e-6)
    _, events = train(bowl, start(1, 1), monitor, 200)
    assert all(event.point is None or event.point.label == "minimum" for event in events)
    assert sum(event.num_evaluations > 0 for event in events) <= 1


def escaped(options=None):
    """A monitor that has just left the saddle of `well`, and its event."""
    monitor = Monitor(well, **(options or {}))
    _, events = train(well, start(0, 0.5), monitor, 160)
    at = [event.kind for event in events].index("escaped")
    monitor = Monitor(well, **(options or {}))
    _, events = train(well, start(0, 0.5), monitor, at + 1)
    assert events[-1].kind == "escaped"
    return monitor, events[-1]


@pytest.mark.parametrize("value", ["loss", "nan"])
def test_an_escape_from_which_the_optimiser_diverges_is_taken_back(value, tmp_path):
    monitor, event = escaped({"log": tmp_path / "log", "moments": "keep"})
    lost = 5.0 * event.params if value == "loss" else np.nan * event.params
    moments = {"momentum": jnp.ones_like(lost), "count": jnp.ones((), int)}
    kept = monitor.state_dict()
    second = Monitor(well)
    second.load_state_dict(json.loads(as_json(kept)))
    for each in (monitor, second):
        now = each.state.num_steps
        back = each.update(now, lost, float(well(lost)), opt_state=moments)
        assert back.kind == "taken_back"
        assert back.moved
        assert back.params.dtype == lost.dtype
        # The point of the probe: the update before was given its loss.
        assert float(well(back.params)) == pytest.approx(event.escape.loss_before, rel=1e-5)
        assert float(back.opt_state["momentum"][0]) == 0
        assert int(back.opt_state["count"]) == 0
        assert "taken back" in back.evidence[-1]
        assert each.state.num_rollbacks == 1
        until = 2 * (now + 1) + 4 * 64
        rest = range(now + 1, until - 1)
        events = [each.update(step, back.params, well(back.params)) for step in rest]
        assert not any(event.num_evaluations for event in events)
        assert not any(event.moved for event in events)
        after = [each.update(until + i, back.params, well(back.params)) for i in range(8)]
        assert any(event.point is not None for event in after)
    assert "taken_back" in [row["kind"] for row in read_events(tmp_path / "log")]


def test_an_escape_stands_after_four_windows():
    monitor, event = escaped()
    params, _ = train(well, event.params, monitor, 4 * 64 + 8, first=event.step + 1)
    assert not monitor.state_dict()["rollback_params"]
    far = monitor.update(monitor.state.num_steps, 5.0 * params, well(5.0 * params))
    assert far.kind != "taken_back"


def test_an_oscillation_about_a_saddle_is_probed():
    """Steps by the sign of the gradient swing across the saddle for ever, and never along its way out."""
    monitor, gradient, rate = Monitor(well), jax.jit(jax.grad(well)), 0.01
    params = start(0, 1.5)
    for step in range(700):
        event = monitor.update(step, params, well(params))
        if event.kind == "escaped":
            break
        params = params - rate * jnp.sign(gradient(params))
    assert event.kind == "escaped"
    assert event.step > 150  # it swings from there on
    assert event.escape.loss_after < -0.2


def test_plain_descent_stays_where_the_monitor_leaves():
    gradient = jax.jit(jax.grad(well))
    params = start(0, 0.5)
    for _ in range(900):
        params = params - RATE * gradient(params)
    assert abs(float(params[0])) < 1e-6


def test_at_a_minimum_probes_grow_rare_geometrically():
    monitor = Monitor(bowl, max_share=1.0)
    _, events = train(bowl, start(1, 1), monitor, 6000)
    probes = [event.step for event in events if event.point is not None]
    assert 2 <= len(probes) <= 5
    assert all(event.point.label == "minimum" for event in events if event.point is not None)
    pauses = np.diff(probes)
    assert np.all(pauses[1:] >= 3.9 * pauses[:-1])
    assert monitor.state.num_escapes == 0


def test_nothing_is_touched_while_nothing_is_wrong():
    monitor = Monitor(bowl)
    state = {"momentum": np.ones(2)}
    params = start(1, 1)
    for step in range(300):
        event = monitor.update(step, params, np.exp(-step / 200), opt_state=state)
        assert event.kind == "none"
        assert event.params is params
        assert event.opt_state is state
        assert event.point is None
        assert event.escape is None
    assert monitor.state.num_probes == 0
    assert monitor.cost.num_evaluations == monitor.cost.num_hvps == 0
    assert "NONE" in repr(event)


def test_a_slope_is_left_alone():
    """A loss that stands still because the rate is nil: training, not escaping, is what is missing."""
    monitor = Monitor(lambda p: p[0] + 0.0 * p[1] ** 2)
    _, events = train(lambda p: p[0] + 0.0 * p[1] ** 2, start(0, 0), monitor, 200, rate=0.0)
    probed = [event for event in events if event.point is not None]
    assert probed
    assert {event.point.label for event in probed} <= {"not_critical", "undetermined", "degenerate"}
    for event in probed:
        assert event.escape.gain_of_slope > 0
    assert all(event.params[0] == 0 for event in events)


def test_an_escape_that_gains_less_than_the_run_warrants_is_withdrawn():
    """It has gained 2,500; a hundredth of that is more than the quarter that is left."""
    monitor = Monitor(well)
    params, events = train(well, start(0, 50.0), monitor, 400)
    tried = [event for event in events if event.escape is not None]
    assert tried
    assert tried[0].point.label == "saddle"
    assert tried[0].escape.status == "no_decrease"
    assert "gains_too_little" in tried[0].escape.reasons
    assert monitor.state.num_escapes == 0
    assert abs(float(params[0])) < 1e-6


def noisy_well(p, batch):
    """The mean over samples is `well`; single samples tilt it."""
    return well(p) + jnp.mean(batch[:, 0]) * p[0] + jnp.mean(batch[:, 1]) * p[1]


def tilts(count, size, seed=0):
    rng = np.random.default_rng(seed)
    batches = 0.01 * rng.standard_normal((count, size, 2))
    return [jnp.asarray(batch, FLOAT) for batch in batches]


@pytest.mark.parametrize("source", ["batch", "data"])
def test_other_data_confirms_an_escape(source):
    batches = tilts(8, 32)
    monitor = Monitor(noisy_well, batches if source == "data" else None)
    params = start(0, 0)
    for step in range(200):
        event = monitor.update(step, params, 0.0, batch=batches[step % 8] if source == "batch" else None)
        if event.kind == "escaped":
            break
    assert event.kind == "escaped"
    assert abs(float(event.params[0])) > 0.5
    assert event.escape.loss_after < -0.1


@pytest.mark.slow
def test_an_escape_that_other_data_does_not_confirm_is_withdrawn():
    """Curvature of opposite sign on the two halves of the data: a decrease on one is a rise on the other."""

    def loss(p, batch):
        return jnp.mean(batch) * (p[0] ** 2 - 0.1 * p[0] ** 4) + 0.1 * p[0] ** 4 + p[1] ** 2

    ones = jnp.ones((16,), FLOAT)
    monitor = Monitor(loss, [-ones, ones])
    params = start(0, 0)
    events = [monitor.update(step, params, 0.0) for step in range(120)]
    tried = [event for event in events if event.escape is not None]
    assert tried
    assert tried[0].escape.status == "no_decrease"
    assert "not_confirmed" in tried[0].escape.reasons
    assert all(event.params is params for event in events)


def test_the_log_is_a_table(tmp_path):
    path = tmp_path / "events.jsonl"
    monitor = Monitor(well, log=path)
    _, events = train(well, start(0, 0.5), monitor, 900)
    monitor.update(900, start(1, 0), float("nan"))
    rows = read_events(path)
    assert len({tuple(row) for row in rows}) == 1, "all rows have the same columns"
    assert [row["step"] for row in rows if row["kind"] == "escaped"] == [
        event.step for event in events if event.kind == "escaped"
    ]
    assert rows[-1]["kind"] == "diverging"
    assert np.isnan(rows[-1]["value"])
    escaped = next(row for row in rows if row["kind"] == "escaped")
    assert escaped["loss_after"] < escaped["loss_before"]
    assert escaped["label"] == "saddle"
    path.write_text("no json\n")
    with pytest.raises(ValueError, match="line 1"):
        read_events(path)


def record(events):
    return [(event.step, event.kind, event.num_hvps, event.evidence) for event in events]


def test_kinds_that_come_and_go_do_not_fill_the_log():
    monitor = Monitor(bowl)
    for step in range(4000):
        monitor.update(step, start(1, 1), np.nan if step % 7 == 3 else np.exp(-step / 2000))
    assert monitor.state.num_steps == 4000
    assert "diverging" in {row["kind"] for row in monitor.events}
    assert len(monitor.events) < 600


@pytest.mark.parametrize("stop", [37, 101, 260])
def test_a_restored_run_continues_with_the_same_events(stop):
    whole, events = train(well, start(0, 0.5), Monitor(well), 500)
    first = Monitor(well)
    params, before = train(well, start(0, 0.5), first, stop)
    text = as_json(first.state_dict())
    second = Monitor(well)
    second.load_state_dict(json.loads(text))
    params, after = train(well, params, second, 500 - stop, first=stop)
    assert record(before + after) == record(events)
    np.testing.assert_array_equal(params, whole)
    assert second.cost.num_hvps == sum(event.num_hvps for event in events)


@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")
def test_a_run_killed_and_restored_from_orbax(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    _, events = train(well, start(0, 0.5), Monitor(well), 300)
    first = Monitor(well)
    params, before = train(well, start(0, 0.5), first, 60)
    saver = checkpoint.PyTreeCheckpointer()
    saver.save(tmp_path / "run", {"params": params, "monitor": first.state_dict()})
    kept = saver.restore(tmp_path / "run")
    second = Monitor(well)
    second.load_state_dict(kept["monitor"])
    _, after = train(well, jnp.asarray(kept["params"]), second, 240, first=60)
    assert record(before + after) == record(events)
    assert "escaped" in [event.kind for event in after]


def test_a_state_of_another_window_is_refused():
    state = Monitor(well, window=32).state_dict()
    with pytest.raises(ValueError, match="window"):
        Monitor(well).load_state_dict(state)
    state["backoff"].pop("pause")
    with pytest.raises(ValueError, match="pause"):
        Monitor(well, window=32).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_hvps": 3}, ValueError),
        ({"max_share": 0.0}, ValueError),
        ({"moments": "forget"}, ValueError),
        ({"window": 7}, ValueError),
    ],
)
def test_options_out_of_range_are_refused(options, error):
    with pytest.raises(error, match=next(iter(options))):
        Monitor(well, **options)


def test_a_random_key_among_the_parameters_is_carried_along():
    monitor = Monitor(lambda p: well(p["x"]))
    params = {"x": start(1e-3, 0), "key": jax.random.key(0)}
    moments = {"mu": jax.tree.map(lambda leaf: leaf, params)}
    events = [monitor.update(step, params, well(params["x"]), opt_state=moments) for step in range(100)]
    escape = next(event for event in events if event.kind == "escaped")
    assert float(well(escape.params["x"])) < -0.2
    assert escape.params["key"] is params["key"]


@pytest.mark.parametrize(
    ("loss", "data", "params", "error", "says"),
    [
        (lambda p, b: well(p) + jnp.mean(b), None, [0.0, 0.0], TypeError, "batch|argument"),
        (lambda p: (well(p), p), None, [0.0, 0.0], TypeError, "scalar"),
        (lambda p: jnp.float32(1), None, [], ValueError, "floating-point"),
        (lambda p, b: well(p) + jnp.mean(b), [np.ones((4, 2)), np.ones(4)], [0.0, 0.0], ValueError, "tuple"),
        (lambda p, b: well(p), iter([np.ones(4)]), [0.0, 0.0], TypeError, "once"),
    ],
)
def test_what_no_probe_could_work_with_is_refused_at_the_first_update(loss, data, params, error, says):
    with pytest.raises(error, match=says):
        Monitor(loss, data).update(0, start(*params), 1.0)


def test_misuse_is_refused():
    with pytest.raises(TypeError, match="loss must be"):
        Monitor(3.0)
    with pytest.raises(ValueError, match="scalar"):
        Monitor(well).update(0, start(0, 0), np.ones(3))


@pytest.mark.any_promotion
def test_moments_of_an_optax_state():
    optax = pytest.importorskip("optax")
    params = {"w": jnp.ones(3, FLOAT), "b": jnp.ones((), FLOAT)}
    gradient = {"w": jnp.asarray([1.0, -2.0, 3.0], FLOAT), "b": jnp.ones((), FLOAT)}
    optimizer = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda count: -0.1))
    state = optimizer.init(params)
    _, state = optimizer.update(gradient, state, params)
    assert adjust_moments(state, params, "keep") is state
    adam, schedule = adjust_moments(state, params, "reset")
    assert int(adam.count) == 0
    assert int(schedule.count) == 1, "a schedule is no moment"
    assert all(float(jnp.sum(jnp.abs(leaf))) == 0 for leaf in jax.tree.leaves((adam.mu, adam.nu)))
    adam, _ = adjust_moments(state, params, "project", gradient)
    along = sum(
        float(jnp.sum(m * g)) for m, g in zip(*map(jax.tree.leaves, (adam.mu, gradient)), strict=True)
    )
    assert abs(along) < 1e-5
    np.testing.assert_array_equal(adam.nu["w"], state[0].nu["w"])
    # A step that the momentum already pulls along takes nothing from it.
    ahead = jax.tree.map(lambda g: -g, gradient)
    adam, _ = adjust_moments(state, params, "project", ahead)
    np.testing.assert_array_equal(adam.mu["w"], state[0].mu["w"])


def test_a_gradient_that_lasts_though_the_loss_stops_is_reported():
    """At a rate of 2/λ the iterate jumps from wall to wall; at 0.9/λ it arrives, and the gradient goes."""
    said = "the loss has stopped and the gradient has not"

    def follow(rate, monitor, x, steps=120):
        texts = []
        for step in range(steps):
            value, gradient = 0.5 * x[0] ** 2, x[0]
            event = monitor.update(step, x, value, grad_norm=abs(gradient))
            texts.append("; ".join(event.evidence))
            x = x - rate * jnp.stack([gradient])
        return texts, x

    def valley(p):
        return 0.5 * p[0] ** 2

    start = jnp.ones(1, FLOAT)
    monitor = Monitor(valley)
    texts, _ = follow(2.0, monitor, start)
    assert said in texts[-1]
    assert "the gradient norm fell by 0 " in texts[-1]
    assert not any(said in text for text in follow(0.9, Monitor(valley), start)[0])
    restored = Monitor(valley)
    restored.load_state_dict(json.loads(as_json(monitor.state_dict())))
    assert follow(2.0, restored, start, 20)[0] == follow(2.0, monitor, start, 20)[0]
    with pytest.raises(ValueError, match="grad_norm has shape"):
        monitor.update(0, start, 0.5, grad_norm=np.ones(2))


def test_the_room_is_public():
    assert hp.training.Monitor is Monitor
