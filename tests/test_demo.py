"""The main job on real input: a network stalls at a saddle, and leaves it."""

import json
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.cli import main
from hessian_probe.demo import digits
from hessian_probe.demo.digits import CHUNK, descend
from hessian_probe.demo.report import lecture_section, report
from hessian_probe.display.text import to_text

pytestmark = [pytest.mark.float32, pytest.mark.slow]


def silent(text):
    del text


@pytest.fixture(scope="module")
def story():
    pytest.importorskip("sklearn")
    told, measured = [], digits.Story()
    digits.run(measured, quick=True, stage=told.append, progress=silent)
    assert len(told) == 6
    return measured


def test_training_stalls(story):
    losses = story.before.losses
    assert losses[-digits.WINDOW - 1] - losses[-1] < digits.SHARE * losses[-1]
    assert losses[-1] == pytest.approx(np.log(10.0), rel=1e-3)


def test_the_stall_is_a_saddle(story):
    """Curvature of both signs is computed; that a critical point is near is predicted, not certified."""
    point = story.point
    assert point.label == "saddle"
    assert point.strict
    assert not point.certified
    assert point.index_at_least >= 1
    assert point.num_hvps <= 30
    assert point.dtype == "float32"


def test_the_spectrum_is_the_one_computed_by_hand(story):
    """At zero weights the layers are coupled by ∓σ₁/2; the stall is 0.02 away from there."""
    assert story.closed_form == pytest.approx(0.1204, abs=1e-4)
    low, high = story.ends.eigenvalues[0], story.ends.eigenvalues[-1]
    assert low == pytest.approx(-story.closed_form, rel=0.01)
    assert high == pytest.approx(story.closed_form, rel=0.01)


def test_the_escape_lowers_the_loss_as_no_random_step_does(story):
    assert story.move.status == "escaped"
    assert story.move.loss_after < 0.8 * story.move.loss_before
    assert story.move.loss_after < story.controls.min()
    assert story.controls.min() > 0.99 * story.move.loss_before


def test_training_goes_on_and_is_clearly_ahead(story):
    assert story.after.losses[0] == pytest.approx(story.move.loss_after, rel=1e-5)
    assert story.alone.losses[0] == pytest.approx(story.move.loss_before, rel=1e-5)
    assert len(story.after.losses) == len(story.alone.losses)
    assert story.after.losses[-1] < 0.3 * story.alone.losses[-1]
    assert story.after.accuracies[500] > 0.8 > 0.2 > story.alone.accuracies[500]
    assert story.final is not None


def test_the_report_tells_it(story):
    whole = report(lecture_section(), story)
    text = to_text(whole)
    assert [section.title[0] for section in whole.sections] == list("123456")
    assert "labelled saddle" in whole.summary
    assert "nan" not in text
    assert max(map(len, text.splitlines())) <= 88
    assert [s.name.split()[0] for s in whole.spectra] == ["stalled", "after", "at"]
    assert {curve.role for curve in whole.curves} == {"before", "alone", "after"}


def test_an_unfinished_story_can_be_told(story):
    """After Ctrl-C whatever was measured is still reported."""
    partial = digits.Story()
    assert report(None, partial).summary.startswith("Interrupted before anything")
    for name in ("before", "point", "ends", "move", "profile", "controls", "landed"):
        setattr(partial, name, getattr(story, name))
        assert to_text(report(None, partial)).count("nan") <= 1  # the value by hand is still unknown
    assert "Escaped" in report(None, partial).summary


def test_lecture_section_is_what_the_lecture_says():
    section = lecture_section()
    found = dict(section.results)
    np.testing.assert_allclose(found["eigenvalues"].eigenvalues, [-2.0, 2.0], rtol=1e-6)
    along = found["point"].escape_direction
    np.testing.assert_allclose(np.abs([along["w1"], along["w2"]]), np.sqrt(0.5), rtol=1e-6)
    assert np.sign(along["w1"]) == np.sign(along["w2"])
    assert found["escape"].status == "escaped"
    assert dict(section.facts)["eigenvalues"] == "-2 and +2"


def test_descent_is_plain_gradient_descent():
    """On h x²/2 a step multiplies x by 1 − rate·h."""
    curvature, rate = 3.0, 0.01

    def loss(x, data):
        return 0.5 * data * x**2

    told = []
    run = descend(
        loss,
        jnp.float32(2.0),
        jnp.float32(curvature),
        rate=rate,
        num_steps=2 * CHUNK,
        accuracy=lambda x: float(x),
        progress=told.append,
    )
    x = 2.0 * (1 - rate * curvature) ** np.arange(2 * CHUNK + 1)
    np.testing.assert_allclose(run.losses, 0.5 * curvature * x**2, rtol=1e-3)
    assert list(run.accuracies) == [0, CHUNK, 2 * CHUNK]
    assert float(run.params) == pytest.approx(x[-1], rel=1e-3)
    assert len(told) == 2


@pytest.mark.slow
def test_the_whole_program(tmp_path, capsys, monkeypatch):
    """`hessian-probe demo` as a user runs it, its files, and its time after set-up."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    assert main(["demo", "--json"]) == 0
    assert time.monotonic() - start < 60
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["point"]["label"] == "saddle"
    assert document["escape"]["status"] == "escaped"
    last = document["sections"]["onward"]["table"]["rows"][-1]
    assert float(last[2]) < 0.5 * float(last[1])
    assert {path.name for path in (tmp_path / "hessian-probe-demo").iterdir()} == {
        "report.html",
        "figure.png",
    }
    assert sys.stdout is not sys.stderr
