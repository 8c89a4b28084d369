"""The optax transformation: one compiled program leaves saddles, and costs nothing where none is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe import problems
from hessian_probe.arrays import split
from hessian_probe.spectrum.traced_krylov import krylov_space
from hessian_probe.training import EscapeState, escape_events, escape_saddles
from hessian_probe.training.escape_state import pack, unpack
from hessian_probe.training.saddle_search import NUM_TRIALS, LocalLoss

optax = pytest.importorskip("optax")
FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
# optax mixes dtypes inside.
pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]


def well(p):
    """Minima −1/4 at (±1, 0); a saddle with eigenvalues −1 and 2 at the origin."""
    return 0.25 * p["x"] ** 4 - 0.5 * p["x"] ** 2 + p["y"] ** 2


def start(x=0.0, y=0.5):
    return {"x": jnp.asarray(x, FLOAT), "y": jnp.asarray(y, FLOAT)}


def train(loss, params, optimizer, steps, batches=None):
    """One scan; the number of traces, the states of all steps and the losses."""
    traces = []

    def step(carry, batch):
        traces.append(None)
        params, state = carry
        args = (params,) if batch is None else (params, batch)
        value, gradient = jax.value_and_grad(loss)(*args)
        updates, state = optimizer.update(gradient, state, params, value=value, batch=batch)
        return (optax.apply_updates(params, updates), state), (value, state.num_escapes)

    @jax.jit
    def run(params, state, batches):
        return jax.lax.scan(step, (params, state), batches, length=steps)

    (params, state), (losses, escapes) = run(params, optimizer.init(params), batches)
    return params, state, np.asarray(losses), np.asarray(escapes), len(traces)


def test_it_leaves_a_saddle_inside_scan():
    optimizer = escape_saddles(optax.sgd(0.05), well, max_hvps=4)
    params, state, losses, escapes, traces = train(well, start(), optimizer, 400)
    assert isinstance(state, EscapeState)
    assert traces == 1
    assert int(state.num_escapes) == 1
    assert losses[-1] < -0.249
    np.testing.assert_allclose(abs(float(params["x"])), 1, atol=1e-3)
    at = int(np.argmax(escapes > 0))
    assert int(state.last_step) == at + 1
    np.testing.assert_allclose(losses[at] - losses[at + 1], state.last_gain, rtol=1e-3)
    assert int(state.num_hvps) % 3 == 0  # two of Lanczos, one more
    assert 3 <= int(state.num_hvps) <= 3 * int(state.num_probes)


def steep(p):
    """A saddle at the origin; beside the minima at x = ±1 the walls of the valley are 400 times as steep."""
    return 0.25 * p["x"] ** 4 - 0.5 * p["x"] ** 2 + (1 + 400 * p["x"] ** 2) * p["y"] ** 2


def test_an_escape_that_the_optimiser_cannot_live_with_is_taken_back():
    """At the minima the rate is twenty times too large: left alone there, y grows without bound."""
    optimizer = escape_saddles(optax.sgd(0.05), steep, max_hvps=4)
    params, state, losses, _, traces = train(steep, start(0.0, 1e-3), optimizer, 2000)
    assert traces == 1
    assert int(state.num_escapes) >= 1
    assert 1 <= int(state.num_rollbacks) <= 8, "once, and after pauses that double"
    assert np.all(np.isfinite(losses))
    assert losses[-1] <= losses[0]
    assert all(np.isfinite(leaf) for leaf in params.values())


def test_rounding_of_variables_is_that_of_their_own_dtypes():
    """A slope of 10,000 turns half a spacing of a float32 number 2 into 0.0012, beside a leaf in bfloat16."""
    params = {"coarse": jnp.ones(3, jnp.bfloat16), "fine": jnp.full(1, 2.0, jnp.float32)}
    layout, variables, rest = split(params)
    x = tuple(leaf.astype(dtype) for leaf, dtype in zip(variables, layout.work_dtypes, strict=True))
    for slope, expected in ((1e4, 1e4 * 2.0**-23), (1.0, 1e-3 * 2.0**-7)):
        local = LocalLoss(
            lambda p, k=slope: 1e-3 + k * (p["fine"][0] - 2), layout, x, rest, None, jnp.float32
        )
        found = local._rounding(jax.random.key(0), local.value(x))
        assert float(found) == pytest.approx(expected, rel=1e-3)


def test_gains_within_the_rounding_of_a_coarse_loss_are_none():
    """At the saddle the loss is 100.3, which bfloat16 calls 100.5; at the minimum 100.05, called 100."""

    def coarse(p):
        return (well(p) + 100.3).astype(jnp.bfloat16)

    optimizer = escape_saddles(optax.sgd(0.0), coarse, max_hvps=2)
    params, state, _, _, _ = train(coarse, start(0.0, 0.0), optimizer, 200)
    assert int(state.num_probes) >= 2
    assert int(state.num_escapes) == 0
    assert float(params["x"]) == 0


def bowl(p):
    return jnp.sum(jnp.asarray([1.0, 3.0], p.dtype) * (p - 0.3) ** 2)


def test_at_a_minimum_searches_grow_rare_and_nothing_moves():
    optimizer = escape_saddles(optax.sgd(0.05), bowl, max_hvps=4, max_share=1.0)
    _, state, _, _, _ = train(bowl, jnp.ones(2, FLOAT), optimizer, 6000)
    with_products = int(state.num_hvps) // 3
    cheap = int(state.num_probes) - with_products
    assert 2 + 2 <= with_products <= 5 + 2, "the plateau test's, and two of the schedule"
    assert cheap <= np.log2(6000 / 8), "those of the schedule that spend no products"
    assert int(state.num_gradients) == cheap + 2 * with_products
    assert (
        int(state.num_losses) == (1 + NUM_TRIALS) * (cheap + with_products) + 2 * NUM_TRIALS * with_products
    )
    assert int(state.num_escapes) == 0
    assert float(state.last_curvature) > 0


@pytest.mark.parametrize("max_share", [0.002, 0.02])
def test_searches_without_a_result_stay_within_their_share(max_share):
    """A product counts as 1.7 gradients, a loss as a half; 10,000 steps and one search are free."""
    optimizer = escape_saddles(optax.sgd(0.05), bowl, max_share=max_share)
    _, state, _, _, _ = train(bowl, jnp.ones(2, FLOAT), optimizer, 3000)
    spent = 1.7 * int(state.num_hvps) + int(state.num_gradients) + 0.5 * int(state.num_losses)
    one = 1.7 * 3 + 2 + 0.5 * (1 + 3 * NUM_TRIALS)
    assert spent <= max_share * (3000 + 10_000) + one
    np.testing.assert_allclose(state.spent_without_result, spent, rtol=1e-5)
    assert int(state.num_probes) > 0


def test_updates_outside_of_jit_trace_the_loss_once():
    """New values, parameters and batches recompile nothing, searches and moments included."""
    traces = []

    def loss(p, batch):
        traces.append(None)
        return well(p) + jnp.mean(batch) * p["y"]

    optimizer = escape_saddles(optax.adam(1e-3), loss)
    params = start(0.0, 0.0)
    state, counts = optimizer.init(params), []
    for number in range(24):
        batch = jnp.full(4, 1e-4 * number, FLOAT)
        updates, state = optimizer.update(start(0.0, 0.0), state, params, value=well(params), batch=batch)
        params = optax.apply_updates(params, updates)
        counts.append(len(traces))
    assert int(state.num_escapes) == 1
    assert counts[0] == counts[-1]


@pytest.mark.slow
def test_a_healthy_run_is_the_run_without_the_hook():
    """Bit for bit; and updates outside of jit compile once."""
    known = problems.zero_mlp_point()
    data = jax.tree.map(lambda a: jnp.asarray(a, FLOAT), known.data)
    params = jax.tree.map(lambda a: jnp.asarray(a, FLOAT), problems.mlp_init((3, 8, 1), seed=1))
    both = jax.jit(jax.value_and_grad(known.loss))
    plain = optax.with_extra_args_support(optax.sgd(1e-2, momentum=0.9))
    hooked = escape_saddles(plain, known.loss)
    state, hook_state = plain.init(params), hooked.init(params)
    other = params
    for _ in range(60):
        _, gradient = both(params, data)
        updates, state = plain.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        value, gradient = both(other, data)
        updates, hook_state = hooked.update(gradient, hook_state, other, value=value, batch=data)
        other = optax.apply_updates(other, updates)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), params, other))
    assert int(hook_state.num_probes) == 3, "after 8, 16 and 32 steps"
    assert int(hook_state.num_escapes) == 0


def layers(p):
    """Six layers of one unit each that learn 1: at the origin five orders of derivatives vanish."""
    return 0.5 * (jnp.prod(p) - 1) ** 2


@pytest.mark.slow
def test_a_saddle_without_curvature_is_left_at_the_first_search():
    """Curvature is 1e-8 there, lost in rounding of a loss of 0.5; descent would take 1e8 steps."""
    params = jnp.asarray(0.01 * np.array([1, -0.8, 1.2, -1.1, 0.9, 1.05]), FLOAT)
    optimizer = escape_saddles(optax.sgd(0.02), layers)
    _, state, losses, escapes, _ = train(layers, params, optimizer, 16)
    np.testing.assert_allclose(losses[:8], 0.5, rtol=1e-6)
    assert escapes[8] == 1
    assert int(state.num_hvps) == 0
    assert losses[9] < 0.4
    assert losses[-1] < 1e-3


def test_a_saddle_at_the_very_start_is_left_early():
    """The plateau test needs a window and a half, the schedule sixteen steps."""
    optimizer = escape_saddles(optax.sgd(0.05), well)
    _, _, losses, escapes, _ = train(well, start(0.0, 0.0), optimizer, 24)
    assert escapes[16] == 1
    assert losses[-1] < -0.2


def test_a_slope_is_no_saddle():
    """A loss that stands still because the rate is nil: it falls along the gradient, but no faster."""

    def slope(p):
        return p["x"] + 0.0 * p["y"] ** 2

    optimizer = escape_saddles(optax.sgd(0.0), slope)
    params, state, _, _, _ = train(slope, start(0.0, 0.0), optimizer, 300)
    assert int(state.num_probes) > 0
    assert int(state.num_escapes) == 0
    assert float(params["x"]) == 0


def test_a_minimum_beside_a_lower_one_is_kept():
    """A wall stands between them, and both curvatures are positive."""

    def two(p):
        x = p["x"]
        return x**2 * (x - 1) ** 2 - 0.3 * x**3 + p["y"] ** 2

    assert float(two(start(1.2, 0.0))) < -0.4
    optimizer = escape_saddles(optax.sgd(0.05), two)
    params, state, _, _, _ = train(two, start(0.05, 0.1), optimizer, 400)
    assert int(state.num_probes) > 0
    assert int(state.num_escapes) == 0
    assert abs(float(params["x"])) < 1e-3


@pytest.mark.slow
def test_a_healthy_scan_is_the_scan_without_the_hook_and_compiles_once():
    """Up to the rounding of fused operations; three calls, one compilation."""
    known = problems.zero_mlp_point()
    data = jax.tree.map(lambda a: jnp.asarray(a, FLOAT), known.data)
    start = jax.tree.map(lambda a: jnp.asarray(a, FLOAT), problems.mlp_init((3, 8, 1), seed=1))
    ends = []
    for hook in (lambda o: optax.with_extra_args_support(o), lambda o: escape_saddles(o, known.loss)):
        optimizer, traces = hook(optax.adam(1e-3)), []

        def step(carry, _, optimizer=optimizer, traces=traces):
            traces.append(None)
            params, state = carry
            value, gradient = jax.value_and_grad(known.loss)(params, data)
            updates, state = optimizer.update(gradient, state, params, value=value, batch=data)
            return (optax.apply_updates(params, updates), state), value

        run = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, None, length=40))
        carry = (start, optimizer.init(start))
        for _ in range(3):
            carry, _ = run(carry)
        assert len(traces) == 1
        assert run._cache_size() == 1
        ends.append(carry)
    assert int(ends[1][1].num_escapes) == 0, "a slope on which the rate is small"
    assert 4 <= int(ends[1][1].num_probes) <= 6, "after 8, 16, 32 and 64 steps, and where it is slow"
    assert int(ends[1][1].num_steps) == 120
    for plain, hooked in zip(jax.tree.leaves(ends[0][0]), jax.tree.leaves(ends[1][0]), strict=True):
        np.testing.assert_allclose(hooked, plain, rtol=2e3 * EPS, atol=2e3 * EPS)


def test_a_step_that_does_not_judge_writes_two_arrays():
    """So that a healthy step costs the same whatever the hook remembers."""
    optimizer = escape_saddles(optax.sgd(0.05), well)
    old = optimizer.init(start())
    _, new = optimizer.update(start(0.0, 0.1), old, start(), value=jnp.asarray(0.25, FLOAT))
    changed = [
        name
        for name in old._fields
        if not jax.tree.all(jax.tree.map(same, getattr(old, name), getattr(new, name)))
    ]
    assert changed == ["counts", "waiting"]
    assert int(new.num_steps) == 1
    assert new._fields == EscapeState._fields
    assert jax.tree.all(jax.tree.map(same, pack(unpack(new)), new))
    with pytest.raises(AttributeError, match="no 'luck'"):
        _ = new.luck


def same(a, b):
    return bool(jnp.array_equal(a, b, equal_nan=True))


def test_a_new_state_can_be_donated():
    """No two of its arrays are one buffer."""
    optimizer = escape_saddles(optax.sgd(0.05), well)

    def step(params, state):
        value, gradient = jax.value_and_grad(well)(params)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params, state = start(), optimizer.init(start())
    step = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(20):
        params, state = step(params, state)
    assert int(state.num_steps) == 20


def noisy_well(p, batch):
    """The mean over samples is `well`; single batches tilt it."""
    return well(p) + jnp.mean(batch[:, 0]) * p["x"] + jnp.mean(batch[:, 1]) * p["y"]


def test_the_next_batch_confirms():
    noise = np.random.default_rng(0).standard_normal((300, 32, 2))
    batches = jnp.asarray(1e-3 * noise, FLOAT)
    optimizer = escape_saddles(optax.sgd(0.0), noisy_well, max_hvps=4)
    params, state, _, _, _ = train(noisy_well, start(0.0, 0.0), optimizer, 300, batches)
    assert int(state.num_escapes) >= 1
    assert abs(float(params["x"])) > 0.5


def test_a_step_that_the_next_batch_denies_is_not_taken():
    """The sign of the curvature changes from batch to batch, the loss at the saddle does not.

    Searches see a batch of negative curvature, and the batch after it has positive curvature.
    """

    def loss(p, batch):
        return jnp.mean(batch) * (0.25 * p["x"] ** 4 - 0.5 * p["x"] ** 2) + 0.0 * p["y"]

    signs = jnp.asarray(np.resize([-1.0, 1.0], (300, 1)), FLOAT)
    optimizer = escape_saddles(optax.sgd(0.0), loss, max_hvps=2)
    params, state, _, _, _ = train(loss, start(0.0, 0.0), optimizer, 300, signs)
    assert any(row["gain"] > 0 for row in escape_events(state)), "no search found a step"
    assert int(state.num_escapes) == 0
    assert float(params["x"]) == 0


def test_a_loss_that_is_not_finite_moves_nothing():
    optimizer = escape_saddles(optax.sgd(0.1), well)
    state = optimizer.init(start())
    for value in [1.0, jnp.nan, jnp.inf] * 50:
        updates, state = optimizer.update(start(0.0, 0.0), state, start(), value=value)
    assert int(state.num_steps) == 150
    assert np.isfinite(float(state.plateau_level)) or int(state.statistics_count) < 8
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(updates))


def test_moments_are_reset_at_an_escape():
    optimizer = escape_saddles(optax.adam(1e-3), well, moments="reset", max_hvps=4)
    _, state, _, escapes, _ = train(well, start(0.0, 0.0), optimizer, 100)
    assert int(state.num_escapes) == 1
    since = len(escapes) - 1 - int(np.argmax(escapes > 0))
    assert int(state.inner[0].count) == since


def test_a_saddle_under_noise_is_left_without_a_verdict():
    """The loss is too noisy for the plateau test to speak; curvature is −1, and the minimum is 1/4 lower."""

    def loss(p, shift):
        return 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2 + 0.01 * shift

    optimizer = escape_saddles(optax.sgd(0.05), loss)
    shifts = jax.random.normal(jax.random.key(3), (300,), FLOAT)

    def step(carry, shift):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, shift)
        updates, state = optimizer.update(gradient, state, params, value=value, batch=shift)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.asarray([0.0, 0.5], FLOAT)
    (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), shifts)
    assert int(state.num_escapes) == 1
    np.testing.assert_allclose(np.abs(params), [1, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (TypeError, "loss must be", {"loss": 3}),
        (TypeError, "optimizer must be an optax", {"optimizer": 3}),
        (ValueError, "moments", {"moments": "luck"}),
        (ValueError, "max_hvps=1;", {"max_hvps": 1}),
        (TypeError, "max_hvps=16.0;", {"max_hvps": 16.0}),
        (TypeError, "confirm='no'", {"confirm": "no"}),
        (ValueError, "max_share=0", {"max_share": 0}),
        (TypeError, "jax.random.key", {"key": 0}),
    ],
)
def test_misuse_is_refused(error, words, options):
    given = {"optimizer": optax.sgd(0.1), "loss": well, **options}
    with pytest.raises(error, match=words):
        escape_saddles(given.pop("optimizer"), given.pop("loss"), **given)


def test_misuse_of_a_step_is_refused():
    optimizer = escape_saddles(optax.sgd(0.1), well)
    state = optimizer.init(start())
    with pytest.raises(ValueError, match="needs params"):
        optimizer.update(start(), state, value=0.0)
    with pytest.raises(ValueError, match=r"needs value.*update_train_state"):
        optimizer.update(start(), state, start())
    with pytest.raises(ValueError, match=r"value has shape \(1,\)"):
        optimizer.update(start(), state, start(), value=jnp.ones(1))
    for params in ({"n": 3}, {"w": jnp.zeros((0, 2))}):
        with pytest.raises(ValueError, match="no floating-point entry"):
            optimizer.init(params)
    for loss, error in ((lambda p: (well(p), 1), TypeError), (lambda p: jnp.ones(2) * well(p), ValueError)):
        with pytest.raises(error, match="scalar"):
            escape_saddles(optax.sgd(0.1), loss).update(start(), state, start(), value=0.0)


def test_an_optimiser_that_takes_no_value_is_given_none():
    """optax.contrib.sam claims to take extra arguments and takes none."""
    inner = optax.contrib.sam(optax.sgd(0.05), optax.chain(optax.contrib.normalize(), optax.sgd(0.01)))
    optimizer = escape_saddles(inner, well)
    updates, _ = optimizer.update(start(), optimizer.init(start()), start(), value=well(start()))
    assert jax.tree.all(jax.tree.map(lambda u: bool(jnp.all(jnp.isfinite(u))), updates))


def matrix_space(matrix, steps, seed=0):
    start = jax.random.normal(jax.random.key(seed), (len(matrix),), FLOAT)
    return krylov_space(lambda v: (matrix @ v[0],), (start,), steps)


@pytest.mark.parametrize("rank", [3, 40])
def test_the_fixed_lanczos_run_against_dense_eigenvalues(rank):
    """Also where the Krylov space ends early: rank 3 of 40 has a space of four dimensions."""
    rng = np.random.default_rng(rank)
    basis, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    values = np.zeros(40)
    values[:rank] = np.linspace(-3, 5, rank)
    matrix = jnp.asarray(basis * values @ basis.T, FLOAT)
    space = matrix_space(matrix, 30)
    np.testing.assert_allclose(space.curvature, -3, rtol=1e-3)
    assert float(space.residual) < 0.1
    assert float(space.values[0]) > -3 - 1e3 * EPS
    assert float(space.values[-1]) < 5 + 1e3 * EPS


def test_the_run_ends_as_soon_as_a_negative_eigenvalue_shows():
    matrix = jnp.diag(jnp.asarray([-10.0, *np.linspace(-1, 1, 39)], FLOAT))
    start = jax.random.normal(jax.random.key(0), (40,), FLOAT)
    space = krylov_space(lambda v: (matrix @ v[0],), (start,), 30, ends_early=True)
    assert int(space.num_products) < 15
    assert bool(space.negative)
    assert -10.1 < float(space.curvature) < -9
    values = np.linalg.eigvalsh(np.asarray(matrix))
    assert np.min(np.abs(values - float(space.curvature))) <= float(space.residual) + 1e3 * EPS


def test_a_positive_spectrum_has_no_negative_curvature():
    matrix = jnp.diag(jnp.asarray([0.0, 0.0, 1.0, 2.0, 5.0], FLOAT))
    space = matrix_space(matrix, 5)
    assert float(space.curvature) > -float(space.band)


def test_where_the_loss_is_not_finite_no_step_leads():
    """Beyond |x| = 0.9 the loss is NaN, as most trial steps are; the saddle is left inside that."""

    def walled(p):
        return jnp.where(jnp.abs(p["x"]) < 0.9, well(p), jnp.nan)

    optimizer = escape_saddles(optax.sgd(0.0), walled)
    params, state, losses, _, _ = train(walled, start(0.0, 0.0), optimizer, 100)
    assert int(state.num_escapes) >= 1
    assert np.all(np.isfinite(losses))
    assert 0.2 < abs(float(params["x"])) < 0.9
