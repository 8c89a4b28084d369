"""The numbers of the rooms' tables: what happens on either side of each, and what was measured for it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg.lapack import dsyevd_lwork
from scipy.signal import lfilter

import hessian_probe as hp
from hessian_probe.arrays import flatten, generator
from hessian_probe.escapes.escape import LineSearch, _settle
from hessian_probe.escapes.profile import loss_profile
from hessian_probe.operators import dense, memory
from hessian_probe.operators.data import Data, DataChangedError
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.restricted import NullDirections
from hessian_probe.operators.thresholds import EIGH_MATRICES
from hessian_probe.operators.tracing import DIFFERENCES
from hessian_probe.planning import cost_analysis
from hessian_probe.points.extremes import ExtremesSearch
from hessian_probe.points.rounding import Rounding
from hessian_probe.problems import mlp_init, mlp_loss, quadratic
from hessian_probe.programs.active_kinks import ties
from hessian_probe.programs.layers import run_model, trace_model
from hessian_probe.results import Cost
from hessian_probe.spectrum import counting, krylov, thick_restart
from hessian_probe.spectrum.counting import IndexCounter, count_interval
from hessian_probe.spectrum.eigsh import takes_dense
from hessian_probe.spectrum.krylov import Krylov, Ritz
from hessian_probe.spectrum.lanczos import orthogonalise
from hessian_probe.spectrum.thick_restart import EigenOptions, EigenSearch
from hessian_probe.training.backoff import (
    asks_for_search,
    awaits_rollback,
    cost_in_gradients,
    least_gain,
    new_backoff,
)
from hessian_probe.training.plateau import PlateauTest, oscillates
from hessian_probe.training.plateau_statistics import (
    DIVERGING,
    FLAT,
    NOISY,
    NONE,
    OSCILLATING,
    SLOW,
    PlateauStatistics,
    PlateauVerdict,
    judge,
)
from hessian_probe.training.probe import MonitorProbe, draw_batches
from hessian_probe.training.thresholds import BLOCKS

pytestmark = pytest.mark.one_precision

EPS = float(np.finfo(np.float64).eps)


def form(matrix):
    """Hessian operator with a given matrix."""
    a = jnp.asarray(matrix)
    return hp.hessian(lambda x: 0.5 * jnp.vdot(x, a @ x), jnp.zeros(len(a), a.dtype), check=False)


def network(seed=0):
    """A small network on random data, as the plan's numbers were measured on networks."""
    rng = np.random.default_rng(seed)
    batch = rng.uniform(size=(200, 20)), rng.integers(0, 5, 200).astype(np.int32)
    return mlp_loss("tanh", "cross_entropy"), mlp_init((20, 24, 5), seed=seed), batch


# Programs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("roundings", "tied"), [(700, True), (1400, False)])
def test_operands_tie_up_to_a_thousand_roundings(roundings, tied):
    x = jnp.asarray([1.0, 1.0 + roundings * EPS])
    program = jax.make_jaxpr(lambda x: jnp.maximum(x[0], x[1]))(x)
    assert ties(program, 1, frozenset({"max"}), EPS)([x]) is tied


@pytest.mark.parametrize(("turns", "seen"), [(64, 64), (65, 0)])
def test_layers_are_seen_in_scans_of_up_to_64_turns(turns, seen):
    weights = jnp.ones((turns, 2, 2))

    def model(weights, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)[0]

    program, count = trace_model(model, weights, jnp.ones((3, 2)))
    assert len(run_model(program, count, weights, jnp.ones((3, 2))).layers) == seen


# Operators -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("drift", "same"), [(0.7e-4, True), (1.4e-4, False)])
def test_sums_of_data_may_differ_by_1e_4(drift, same):
    class Drifting:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([(1 + drift * self.passes) * np.ones((4, 1000))])

    data = Data(Drifting())
    if same:
        list(data)
        return
    with pytest.raises(DataChangedError):
        list(data)


@pytest.mark.parametrize(("second", "limit"), [(True, 1e-2), (False, 5e-2)], ids=["exact", "differences"])
def test_the_self_check_allows_its_tolerance(second, limit):
    """Gradients A·x with a skew part; the defect grows in proportion to it."""

    def check(skew):
        turn = skew * (jnp.eye(6, k=1) - jnp.eye(6, k=-1))

        def loss(x):
            @jax.custom_vjp
            def own(x):
                return 0.5 * jnp.vdot(x, x)

            own.defvjp(lambda x: (own(x), x), lambda x, t: (t * (slope if second else opaque)(x),))
            return own(x)

        def slope(x):
            return x + turn @ x

        def opaque(x):
            return jax.pure_callback(slope, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

        return hp.hessian(loss, jnp.ones(6), check=False).check()

    unit = check(1e-2).asymmetry / 1e-2
    assert not check(0.7 * limit / unit).cause
    assert "symmetric" in check(1.4 * limit / unit).cause


def test_a_quarter_of_the_free_memory_is_used(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 4000)
    assert memory.vectors_that_fit(100) == 10


def test_matrices_that_exist_while_lapack_computes_all_eigenvectors():
    """The Hessian, LAPACK's copy of it, its workspace, and the eigenvectors."""
    n = 400
    workspace, _, _ = dsyevd_lwork(n)
    assert round(workspace / n**2) + 3 == EIGH_MATRICES


def test_a_dense_matrix_is_formed_in_blocks_of_64():
    rows = []
    layout = form(np.eye(130)).layout
    dense.symmetric_matrix(layout, lambda basis: rows.append(len(basis[0])) or basis, None)
    assert rows == [64, 64, 2]


def test_products_by_differences_have_the_error_that_is_stated():
    """About 10 eps^(2/3), as the route's text says in numbers."""
    assert DIFFERENCES.error(2.0**-23) == pytest.approx(2.4e-4, rel=0.02)
    assert DIFFERENCES.error(2.0**-52) == pytest.approx(3.7e-10, rel=0.02)


@pytest.mark.parametrize(("width", "directions"), [(1.4e-6, 1), (2.8e-6, 2)])
def test_directions_of_a_null_space_that_depend_on_each_other_count_once(width, directions):
    """Unit vectors at an angle: singular values √2 and angle/√2."""
    vectors = jnp.asarray([[1.0, 0.0, 0.0, 0.0], [1.0, width, 0.0, 0.0]])
    objective = hp.hessian(lambda x: x[2] ** 2 + x[3] ** 2 + 0 * jnp.sum(x**2), jnp.zeros(4)).objective
    assert len(NullDirections(objective, vectors).basis(objective.variables)[0]) == directions


# Planning ------------------------------------------------------------------------------------


def near(found, stated):
    """Within a factor that a half or a double of the number leaves."""
    return stated / 1.4 <= found <= 1.4 * stated


@pytest.mark.slow
def test_pairs_take_the_products_that_a_plan_states():
    loss, params, batch = network()

    def planned(**options):
        return hp.plan(loss, params, batch, job="eigsh", measure=False, **options).num_hvps

    first = planned(rtol=1e-3)
    assert near(hp.eigsh(hp.hessian(loss, params, batch), rtol=1e-3).num_hvps, first)
    # Both depend on the spectrum: measured were 6 to 28 for a power of ten, 3 to 7 for a pair.
    assert planned(rtol=1e-5) - first == 2 * 20
    assert planned(lowest=4, highest=4) - first == 6 * 5


def test_a_certified_saddle_takes_about_the_products_that_a_plan_states():
    """12, the median over all points of known type; 8 on a quadratic form."""
    assert "12 at a saddle" in hp.plan(*network(), measure=False).evidence[0]
    saddle = quadratic(np.r_[-np.linspace(0.1, 1, 30), np.linspace(0.1, 1, 170)])
    assert hp.classify(saddle.loss, *saddle.args).num_hvps <= 12


@pytest.mark.parametrize(("job", "evaluations"), [("eigsh", 0), ("classify", 100), ("escape", 140)])
def test_a_plan_adds_evaluations_and_a_quarter_for_the_work_beside_the_products(job, evaluations):
    plan = hp.plan(*network(), job=job)
    products = 1.25 * plan.num_hvps * plan.product_seconds
    assert plan.seconds == pytest.approx(products + evaluations * plan.gradient_seconds)


@pytest.mark.parametrize(("seconds", "calls"), [(0.7, 3), (1.4, 2)])
def test_calls_of_over_a_second_are_timed_once(monkeypatch, seconds, calls):
    now, made = [0.0], []
    monkeypatch.setattr(cost_analysis.time, "perf_counter", lambda: now[0])

    def call():
        made.append(0)
        now[0] += seconds

    assert cost_analysis.seconds_of(call) == pytest.approx(seconds)
    assert len(made) == calls


# Escapes and training ------------------------------------------------------------------------


def line(loss, size=1):
    """A loss at zero, and the direction of its first variable."""
    objective = Objective(loss, jnp.zeros(size), None)
    return objective, (jnp.eye(size)[0],)


def test_a_line_search_takes_eight_steps_a_call_and_refines_twice():
    """To a thirtieth of the step found: 10, 5, 2.5 and 1.25 to both sides, then twice between 1.25 and 5."""
    objective, direction = line(lambda x: (x[0] - 3.3) ** 2)
    search = LineSearch(objective, objective.variables, direction, 3.3**2, 0.0, True)
    best = search.run(10.0)
    assert objective.cost.num_losses == 8 + 2 * 8
    assert 0.01 < abs(best.length - 3.3) < 0.05


@pytest.mark.parametrize(("width", "found"), [(1e-8, True), (1e-16, False)])
def test_a_line_search_shrinks_its_steps_ten_times_by_sixteen(width, found):
    objective, direction = line(lambda x: x[0] ** 2 / width - x[0])
    search = LineSearch(objective, objective.variables, direction, 0.0, 0.0, False)
    assert (search.run(1.0).length > 0) is found


def test_a_line_search_goes_out_to_eight_scales_and_less_than_twice_as_far_in_its_bracket():
    objective, direction = line(lambda x: -x[0])
    search = LineSearch(objective, objective.variables, direction, 0.0, 0.0, False)
    assert 8 <= search.run(1.0).length < 16


def test_the_slope_is_followed_by_three_line_searches():
    objective = Objective(lambda x: x[0] ** 2 + 0.01 * (x[1] - 1) ** 2, jnp.array([1.0, 0.0]), None)
    _, gain = _settle(objective, 1.01, 0.0)
    assert objective.cost.num_gradients == 3
    assert gain > 0.9


@pytest.mark.parametrize(("bend", "settles"), [(0.4, True), (1.8, False)])
def test_a_fall_of_twice_the_slopes_is_none_by_the_slope(bend, settles):
    """x + bend·x² up to a wall at 1: the loss falls there by 1 + bend, of which the slope explains 1."""

    def loss(x):
        return -x[0] - bend * x[0] ** 2 + 1e4 * jnp.maximum(x[0] - 1, 0.0) ** 2

    _, gain = _settle(Objective(loss, jnp.zeros(1), None), 0.0, 0.0)
    assert (gain > 0) is settles


@pytest.mark.parametrize(("step", "reach"), [(0.0, 1.0), (2.0, 3.0)])
def test_a_profile_reaches_half_as_far_again_as_the_step(step, reach):
    def loss(x):
        return -(x[0] ** 2) + x[1] ** 2

    point = hp.classify(loss, jnp.zeros(2))
    move = SimpleNamespace(step=step, loss_after=-(step**2))
    assert loss_profile(loss, jnp.zeros(2), point=point, move=move).distances[-1] == pytest.approx(reach)


@pytest.mark.parametrize(
    ("most", "progress", "least"),
    [(0.3, 1.0, 0.6), (1e-3, 1.0, 0.01), (0.0, 0.0, 0.0)],
    ids=["twice what training gains in a window", "a hundredth of what it has gained", "nothing"],
)
def test_the_least_that_is_an_escape(most, progress, least):
    """`most` is that of a window; the verdict is about two of them."""
    verdict = PlateauVerdict(SLOW, 0.0, 0.0, 0.0, 0.0, 2 * most, progress, 0.0)
    assert float(least_gain(np, verdict, 2.0)) == pytest.approx(least, abs=1e-12)


def eighths(*means, swing=0.0, chunk=8, stride=1, gain=0.0):
    """What the plateau test says of 64 blocks, eight of each mean, that swing from block to block.

    Second differences are 4·swing nearly everywhere; differences of means have an error of 1.21·swing.
    """
    blocks = np.zeros(BLOCKS)
    blocks[:64] = np.repeat(means, 8) + swing * np.resize([1.0, -1.0], 64)
    counts = (np.int32(number) for number in (64, stride, 0))
    stream = PlateauStatistics(blocks, *counts, np.float64(0), blocks[0], np.float64(gain))
    return judge(np, stream, chunk, EPS)


def kind_of(*means, **options):
    return int(eighths(*means, **options).kind)


@pytest.mark.parametrize(
    ("speed", "kind"),
    [(0.014, FLAT), (0.028, SLOW), (0.07, SLOW), (0.14, NONE)],
    ids=lambda value: str(value),
)
def test_a_loss_is_flat_below_a_fiftieth_of_its_own_speed_and_slow_below_a_tenth(speed, kind):
    assert kind_of(4, 3, 2, 1, 0.5, speed / 2, speed / 4, 0) == kind


@pytest.mark.parametrize(("share", "kind"), [(0.7e-3, SLOW), (1.4e-3, NONE)])
def test_a_half_that_gains_less_than_a_thousandth_is_slow(share, kind):
    assert kind_of(1, *(share * number / 4 for number in range(6, -1, -1))) == kind


@pytest.mark.parametrize(("share", "kind"), [(0.35, NONE), (0.7, SLOW)])
def test_a_run_whose_last_quarter_gained_half_of_all_began_on_a_plateau(share, kind):
    early = np.linspace(1, share, 6)
    assert kind_of(*early, share / 2, 0) == kind


@pytest.mark.parametrize(("errors", "kind"), [(2.5, NOISY), (5.0, NONE)])
def test_a_fall_of_three_and_a_half_errors_is_one(errors, kind):
    found = eighths(*(1.21 * errors,) * 7, 0, swing=1.0)
    assert found.kind == kind
    assert found.error == pytest.approx(1.21, rel=0.01)
    assert found.fall == pytest.approx(1.21 * errors)


@pytest.mark.parametrize(("errors", "kind"), [(3.6, FLAT), (7.0, DIVERGING)])
def test_a_rise_of_five_errors_is_one(errors, kind):
    assert kind_of(*(0,) * 7, 1.21 * errors, swing=1.0, chunk=2) == kind


@pytest.mark.parametrize(("stride", "kind"), [(1, NOISY), (4, FLAT)])
def test_noise_that_leaves_less_than_two_fifths_of_itself_unseen_is_flat(stride, kind):
    assert kind_of(*(0,) * 8, swing=1.0, stride=stride) == kind


def test_the_noise_of_single_values_is_their_standard_deviation():
    """Medians of eight scatter by 1.16 of what means of eight do."""
    test = PlateauTest()
    for value in np.random.default_rng(0).standard_normal(8192):
        test.update(value)
    assert float(test.verdict.noise) == pytest.approx(1.16, rel=0.2)


def test_a_window_has_eight_medians_and_a_run_at_most_128_blocks():
    test = PlateauTest()
    for value in range(8 * 127):
        test.update(value)
    assert (test.chunk, int(test.statistics.filled), int(test.statistics.stride)) == (8, 127, 1)
    for value in range(8):
        test.update(value)
    assert (int(test.statistics.filled), int(test.statistics.stride)) == (64, 2)


@pytest.mark.parametrize(("level", "lasts"), [(0.07, False), (0.14, True)])
def test_a_gradient_lasts_above_a_tenth_of_its_highest_mean(level, lasts):
    test, verdict = PlateauTest(), eighths(*(1.0,) * 4, *(level,) * 4)
    stream = PlateauStatistics(np.ones(BLOCKS), *np.int32([64, 1, 0]), 0.0, 1.0, 0.0)
    test.resume(stream, verdict._replace(kind=np.int32(FLAT)), [], 0)
    assert test.lasts is lasts


@pytest.mark.parametrize(("share", "swings"), [(0.35, False), (0.7, True)])
def test_values_alternate_from_a_correlation_of_minus_a_half_on(share, swings):
    noise = np.random.default_rng(0).standard_normal(20_000)
    values = np.sqrt(share) * np.resize([1.0, -1.0], 20_000) + np.sqrt(1 - share) * noise
    assert oscillates(values) is swings


@pytest.mark.parametrize(("damping", "rings"), [(0.65, False), (0.9, True)])
def test_values_ring_undamped_from_a_second_coefficient_of_minus_four_fifths_on(damping, rings):
    """Autoregressive, of second order, with a period of eight."""
    noise = np.random.default_rng(0).standard_normal(20_000)
    values = lfilter([1.0], [1.0, -2 * np.sqrt(damping) * np.cos(np.pi / 4), damping], noise)
    assert oscillates(values) is rings


def test_pauses_and_the_guard_in_numbers():
    """Of a window of 64 steps."""
    start, at, yes = new_backoff(np, 64, np.float64), np.int64(1000), np.True_
    assert start.pause == 128
    vain = start.after_probe(at, fruitless=yes, hopeless=False, cost=66, max_share=1.0)
    assert (vain.next_probe, vain.pause, vain.spent_without_result) == (1128, 256, 66)
    again = vain.after_probe(np.int64(1128), fruitless=yes, hopeless=True, cost=66, max_share=0.01)
    assert (again.next_probe, again.pause) == (13200, 4 * (13200 - 1128))
    moved = vain.after_escape(at, yes, 2.0, 0.5, 64)
    assert (moved.pause, moved.spent_without_result, moved.rollback_threshold) == (128, 0, 2.5)
    assert not awaits_rollback(moved.after_judgement(at + 257, False, 64))
    assert moved.after_judgement(at + 256, False, 64).rollback_threshold == 2.5
    assert vain.after_judgement(at, True, 64).pause == 128
    back = moved.after_rollback(at + 100, yes, 64)
    assert back.next_probe == 2 * 1100 + 256
    assert not awaits_rollback(back)


def scaled_well(p, batch):
    """A saddle at the origin."""
    return jnp.mean(batch) * (0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2)


@pytest.mark.parametrize(("share", "status"), [(0.35, "no_decrease"), (0.7, "escaped")])
def test_half_of_a_gain_must_be_confirmed(share, status):
    """By every other batch of eight."""
    data = [np.full(2, 1.0 if number % 2 == 0 else share) for number in range(8)]
    probe = MonitorProbe(scaled_well, data, None, 40, Cost())
    assert probe(jnp.zeros(2), None, 0, least=0.0).escape.status == status


def test_a_monitor_probes_four_batches_and_confirms_on_four():
    drawn = draw_batches([np.zeros(2) for _ in range(20)], None, 1)
    assert (len(drawn.probe), len(drawn.held_out)) == (4, 4)


def test_what_products_and_losses_cost_in_gradients():
    assert cost_in_gradients(10, 2, 4) == pytest.approx(21)


def test_the_schedule_asks_where_noise_hides_the_trend():
    asked = [count for count in range(8, 5000, 8) if asks_for_search(NOISY, np.int64(count), 8)]
    assert asked == [128, 256, 512, 1024, 2048, 4096]
    for kind in (FLAT, SLOW, OSCILLATING):
        assert asks_for_search(kind, np.int64(104), 8)
    assert not asks_for_search(0, np.int64(128), 8)


# Spectrum ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("roundings", "broken"), [(7, True), (14, False)])
def test_a_remainder_up_to_ten_roundings_is_a_breakdown(roundings, broken):
    delta = roundings * EPS
    op = form([[1.0, delta, 0.0], [delta, 0.0, 0.0], [0.0, 0.0, 0.5]])
    basis = Krylov(op, (jnp.asarray([1.0, 0.0, 0.0]),), generator(), 3)
    basis.step()
    assert basis.invariant is broken


@pytest.mark.parametrize(("left", "passes"), [(0.5, 2), (0.9, 1)])
def test_orthogonalised_twice_where_less_than_seven_tenths_is_left(left, passes):
    """A row of length √0.9 leaves a tenth of a component at each pass, which counts the passes."""
    row, vector = jnp.asarray([np.sqrt(0.9), 0.0]), jnp.asarray([np.sqrt(1 - left**2), left])
    unit, _, _ = orthogonalise((row[None],), (vector,), (jnp.zeros(2),), 1)
    share = float(unit[0][0] / unit[0][1]) * left / np.sqrt(1 - left**2)
    assert share == pytest.approx(0.1**passes)


@pytest.mark.parametrize(("roundings", "draws"), [(70, 3), (140, 1)])
def test_fresh_vectors_must_leave_the_basis(monkeypatch, roundings, draws):
    drawn = []

    def draw(rng, layout, active):
        drawn.append(0)
        return (jnp.asarray([1.0, roundings * EPS * np.sqrt(4.0), 0.0, 0.0]),)

    op = form(np.diag([1.0, 0.5, 0.25, 0.1]))
    basis = Krylov(op, (jnp.asarray([1.0, 0.0, 0.0, 0.0]),), generator(), 4)
    monkeypatch.setattr(krylov, "random_normal", draw)
    basis.step()
    assert len(drawn) == draws
    assert basis.exhausted is (draws == 3)


def test_small_problems_and_many_pairs_are_solved_densely(monkeypatch):
    monkeypatch.setattr(memory, "eigh_fits", lambda size: True)
    assert [takes_dense(32, 1), takes_dense(33, 1)] == [True, False]
    assert [takes_dense(2048, 512), takes_dense(2049, 513)] == [True, False]


def search(op=None, **options):
    asked = {"lowest": 1, "highest": 1, "rtol": 1e-3, "max_hvps": None, "max_basis": None, "progress": None}
    job = SimpleNamespace(
        begin=lambda op, rng: None, offer=lambda state: None, finish=lambda state: None, reopen=lambda: None
    )
    return EigenSearch(op or form(np.eye(4)), EigenOptions(**asked | options), generator(), job)


def test_budgets_and_bases_are_those_of_the_documentation():
    found = search(lowest=2, highest=3)
    assert (found.budget, found.max_basis) == (20 * 5 + 1000, 128)


def test_pairs_are_looked_at_after_every_product_and_later_after_every_third():
    basis = Krylov(form(np.diag(np.linspace(1, 2, 200))), None, generator(), 100)
    due = []
    while not basis.full:
        basis.step()
        due += [basis.size] * basis.due
    assert due == [*range(1, 25), *range(27, 100, 3), 100]


def test_a_restart_keeps_a_third_of_the_basis_beside_the_wanted_pairs(monkeypatch):
    kept, restart = [], Krylov.restart
    monkeypatch.setattr(
        Krylov,
        "restart",
        lambda self, chosen, **how: kept.append(len(chosen)) or restart(self, chosen, **how),
    )
    hp.eigsh(form(np.diag(np.linspace(1, 2, 400))), rtol=1e-4, max_basis=24)
    assert set(kept) == {2 + 24 // 3}


def test_residuals_are_asked_for_down_to_eight_roundings():
    assert search()._floor(3.0) / EPS == pytest.approx(3.0 * 8)


def test_residual_estimates_aim_just_below_the_tolerance(monkeypatch):
    """Over many tolerances the largest residual comes near it, and none is above: no search goes on."""
    counts, measure = [], thick_restart.true_residuals
    monkeypatch.setattr(thick_restart, "true_residuals", lambda *given: counts.append(0) or measure(*given))
    op = form(np.diag(np.linspace(1, 2, 100)))
    shares = []
    for rtol in np.geomspace(1e-2, 1e-4, 24):
        found = hp.eigsh(op, rtol=rtol)
        shares.append(np.max(found.residual_norms) / (rtol * found.norm))
    assert 0.6 < max(shares) <= 0.95 * (1 + 1e-6)
    assert len(counts) == len(shares)


def test_a_search_whose_residuals_stay_high_goes_on_three_times(monkeypatch):
    """Aims of 0.95, 0.475, 0.24 and 0.12 of the tolerance; the last is below the lowest."""
    counts = []
    monkeypatch.setattr(
        thick_restart, "true_residuals", lambda op, vectors, values: counts.append(0) or np.ones(len(values))
    )
    found = search(form(np.diag(np.linspace(1, 2, 60)))).run(None)
    assert found.status == "stagnated"
    assert len(counts) == 4


def test_a_given_start_gets_a_tenth_of_randomness():
    start = jnp.asarray([2.0, 0.0, 0.0, 0.0])
    mixed = flatten(thick_restart._mixed((start,), generator(), form(np.eye(4))))
    assert np.linalg.norm(mixed - [1, 0, 0, 0]) == pytest.approx(0.1)


@pytest.mark.parametrize(("steps", "enough"), [(99, False), (100, True)])
def test_a_run_of_a_hundred_products_shows_copies(steps, enough):
    state = SimpleNamespace(
        krylov=SimpleNamespace(restarted=True, followed=True, steps=steps),
        lowest=1,
        highest=0,
        fresh_at=0,
        _copies_excluded=lambda values, goal: False,
    )
    ritz = Ritz(np.arange(4.0), np.eye(4), np.zeros(4), np.zeros(4))
    assert EigenSearch._copies_would_show(state, ritz, 1e-3) is enough


@pytest.mark.parametrize(("off", "excluded"), [(-0.1, False), (0.1, True)])
def test_copies_are_excluded_with_probability_999_in_1000(off, excluded):
    """The growth must reach ln(1000 √(2n/π)), a hundredth of the spectrum beyond the innermost pair."""
    asked = []

    def growth(x):
        asked.append(x)
        return np.log(1000 * np.sqrt(2 * 50 / np.pi)) + off

    certificate = SimpleNamespace(log_growth=growth)
    state = SimpleNamespace(
        krylov=SimpleNamespace(certificate=lambda: certificate, dimension=50), lowest=2, highest=0
    )
    values = np.array([0.0, 1e-3, 0.5, 1.0])
    assert EigenSearch._copies_excluded(state, values, 1e-5) is excluded
    assert asked == [pytest.approx(1e-3 - 1e-2)]


def test_the_sign_of_a_ritz_value_is_shown_beyond_two_bands_and_half_its_residual():
    rounding = SimpleNamespace(band=lambda top, asymmetry: 1.0)
    rounding.margin = lambda top, asymmetry: Rounding.margin(rounding, top, asymmetry)
    search = SimpleNamespace(
        rounding=rounding, krylov=SimpleNamespace(asymmetry=0.0), _sharp=lambda values, residuals: True
    )
    for lowest, residual, shown in (
        (-1.5, 0.0, False),
        (-3.0, 0.0, True),
        (-3.0, 1.2, True),
        (-3.0, 2.0, False),
    ):
        values, residuals = np.array([lowest, 10.0]), np.array([residual, 0.0])
        assert ExtremesSearch._saddle(search, values, residuals) is shown


def counter(budget=1000):
    return IndexCounter(form(np.eye(4)), 1e-3, 1.0, 0.99, budget, generator())


def test_a_count_holds_512_vectors_and_spends_half_on_deflation(monkeypatch):
    rows, budgets = [], []
    found = counter()
    found._krylov = lambda count, start=None: rows.append(count) or SimpleNamespace(size=0)
    found._deflate(0)
    assert rows == [512]
    found._deflate = lambda budget: budgets.append(budget) or 0
    found.run()
    assert budgets == [500]


def test_a_pair_is_locked_at_a_hundredth_of_the_curvature_sought():
    basis = SimpleNamespace(settled=np.zeros(0))
    for residual, locked in ((0.7e-2, True), (1.4e-2, False)):
        ritz = Ritz(np.array([-2.0]), np.eye(1), np.array([residual]), np.array([residual]))
        assert counter()._converged(basis, ritz) is locked


def test_quadrature_draws_a_probe_for_64_products():
    found, drawn = counter(), []
    found.dimension = 1000

    def probe(steps):
        drawn.append(steps)
        return None if len(drawn) == 8 else counting.QuadratureProbe(np.ones(1), np.zeros(1), 1.0)

    found._probe = probe
    assert found._quadrature(8 * 64) is None
    assert drawn == [64] * 8


@pytest.mark.parametrize(("share", "low"), [(0.7e-14, 0), (1.4e-14, 1)])
def test_weight_below_the_rounding_of_a_sum_proves_no_eigenvalue(share, low):
    probe = SimpleNamespace(weight=1.0, share_below=lambda value: (share, share))
    assert count_interval([probe] * 3, 0.0, 100, 0.99)[1] == low


@pytest.mark.parametrize(("wanted", "held"), [(1, 128), (48, 128), (100, 232)])
def test_a_search_for_many_pairs_holds_twice_their_number_and_32_more(wanted, held):
    layout = hp.hessian(lambda x: jnp.sum(x**2), jnp.ones(300)).layout
    assert thick_restart.default_basis(layout, wanted) == held
