"""Text, page, figure and JSON say the same facts, escaped, complete and without parameter arrays."""

import dataclasses
import html
import html.parser
import json
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.display import figure
from hessian_probe.display.document import to_json
from hessian_probe.display.record import Curve, Report, Section, Spectrum, Table, spectrum_at
from hessian_probe.display.report import save_html, to_html
from hessian_probe.display.text import result_text, to_text
from hessian_probe.display.words import outcome, verdict
from hessian_probe.escapes.profile import loss_profile
from hessian_probe.escapes.result import LossProfile
from hessian_probe.problems import lecture_loss

pytestmark = pytest.mark.one_precision

LABELS = ("minimum", "maximum", "saddle", "degenerate", "not_critical", "undetermined")
PARAMS = {"w1": np.zeros(()), "w2": np.zeros(())}


@pytest.fixture(scope="module")
def point():
    return hp.classify(lecture_loss, PARAMS)


@pytest.fixture(scope="module")
def move(point):
    return hp.escape(lecture_loss, PARAMS, point=point)


@pytest.fixture(scope="module")
def report(point, move):
    steps = np.arange(101)
    return Report(
        title="A title with <script>alert('x')</script> & more",
        summary="One sentence, with `code` & <b>markup</b>.",
        sections=(
            Section("first", "First <i>", text=("Some text. " * 30,), facts=(("name", "value <&>"),)),
            Section("second", "Second", results=(("point", point), ("escape", move))),
            Section(
                "third", "Third", table=Table("A table", ("step", "loss"), (("0", "1.5"), ("1,000", "2")))
            ),
        ),
        point=point,
        escape=move,
        curves=(
            Curve("descent", "before", steps, np.full(101, 1.0)),
            Curve("left alone", "alone", 100 + steps, np.full(101, 1.0)),
            Curve("escaped", "after", 100 + steps, np.linspace(move.loss_after, 0.0, 101)),
        ),
        spectra=(spectrum_at("here", point.lowest, point.highest, zero_band=point.zero_band),),
        profile=loss_profile(lecture_loss, PARAMS, point=point, move=move),
        loss_name="loss (1)",
        footer="the end",
    )


# Profile -------------------------------------------------------------------------------------


def test_profile_is_the_loss_along_the_direction(report, move):
    """On the diagonal (t, t)/√2 the loss of the lecture is (1 − t²/2)², its model 1 − t²."""
    line = report.profile
    t = line.distances
    eps = np.finfo(np.float32).eps
    assert t[len(t) // 2] == 0.0
    assert np.all(np.diff(t) > 0)
    assert np.abs(t).max() > abs(move.step)
    np.testing.assert_allclose(line.losses, (1 - t**2 / 2) ** 2, atol=20 * eps)
    np.testing.assert_allclose(line.model, 1 - t**2, atol=20 * eps)
    assert line.step == move.step
    assert line.step_loss == move.loss_after


def test_profile_without_a_direction_or_a_step(point):
    bowl = hp.classify(lambda w: jnp.sum(w**2), np.zeros(2))
    assert loss_profile(lambda w: jnp.sum(w**2), np.zeros(2), point=bowl) is None
    assert loss_profile(lecture_loss, PARAMS, point=point).step == 0.0


# Text ----------------------------------------------------------------------------------------


def test_text_has_everything_in_order_and_fits(report):
    text = to_text(report, width=80)
    places = [text.index(s) for s in ("A title", "One sentence", "First", "Second", "SADDLE", "Third")]
    assert places == sorted(places)
    assert text.endswith("the end")
    assert max(map(len, text.splitlines())) <= 80


def test_names_of_rows_are_written_once(point):
    assert len(point.evidence) > 1
    text = result_text(point)
    assert text.count("because") == 1
    words = " ".join(text.split())
    assert all(sentence in words for sentence in point.evidence)


def test_table_columns_line_up(report):
    lines = to_text(report).splitlines()
    start = lines.index("A table")
    assert [len(line) for line in lines[start + 1 : start + 5]] == [len(lines[start + 1])] * 4


def test_a_result_that_cannot_be_summed_up_still_prints(point):
    broken = dataclasses.replace(point, loss=None)
    assert result_text(broken).startswith("CriticalPoint(")


# Words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", LABELS)
def test_every_label_has_its_sentence(point, label):
    said = verdict(dataclasses.replace(point, label=label))
    assert label.split("_")[0] in said.lower()
    assert verdict(dataclasses.replace(point, label=label), advice=False) in said


def test_verdict_without_any_eigenvalue():
    nowhere = hp.classify(lambda w: jnp.sum(w) * np.nan, np.zeros(2))
    assert "no curvature known" in verdict(nowhere)


OUTCOMES = {
    "escaped": "Escaped: one step",
    "nothing_to_escape": "Nothing to escape",
    "no_decrease": "Not escaped: no step",
    "undetermined": "Not escaped: no direction",
}


@pytest.mark.parametrize("status", OUTCOMES)
def test_every_status_has_its_sentence(move, status):
    assert outcome(dataclasses.replace(move, status=status)).startswith(OUTCOMES[status])


# JSON ----------------------------------------------------------------------------------------


def test_json_is_strict_and_holds_no_parameters(report):
    document = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert document["point"]["label"] == "saddle"
    assert document["point"]["has_escape_direction"] is True
    assert document["point"]["lowest"]["eigenvalues"] == pytest.approx([-2.0])
    assert document["escape"]["status"] == "escaped"
    assert list(document["sections"]) == ["first", "second", "third"]
    assert not {"params", "eigenvectors", "escape_direction"} & set(_keys(document))


def _keys(item):
    if isinstance(item, dict):
        yield from item
    for entry in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
        yield from _keys(entry)


def test_json_has_no_nan():
    nowhere = hp.classify(lambda w: jnp.sum(w) * np.nan, np.zeros(2))
    assert to_json(nowhere)["loss"] is None
    assert to_json(nowhere)["evidence"] == list(nowhere.evidence)
    assert to_json(np.float32(2.0)) == 2.0


def test_json_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="set"):
        to_json({1, 2})


# Figure --------------------------------------------------------------------------------------


def test_figure_has_three_labelled_panels(report):
    pytest.importorskip("matplotlib")
    panels = figure.draw(report).axes
    assert len(panels) == 3
    assert all(p.get_xlabel() and p.get_title(loc="left") for p in panels)
    assert {p.get_ylabel() for p in panels} == {"loss (1)", ""}


def test_figure_leaves_out_what_is_not_there(report):
    pytest.importorskip("matplotlib")
    assert len(figure.draw(dataclasses.replace(report, curves=(), profile=None)).axes) == 1
    assert len(figure.draw(dataclasses.replace(report, spectra=(), profile=None)).axes) == 1
    with pytest.raises(ValueError, match="no curves"):
        figure.draw(dataclasses.replace(report, curves=(), spectra=(), profile=None))


def test_figure_bears_odd_numbers(report):
    """Zeros, an unknown band, an infinite loss, and a flat line are drawn without a warning."""
    pytest.importorskip("matplotlib")
    zero = Spectrum("zero", np.zeros(2), np.zeros(2), float("nan"))
    wide = Spectrum("wide", np.array([1e-20]), np.array([1e-3]), 1.0)
    t = np.linspace(-1, 1, 5)
    flat = LossProfile(t, np.full(5, 3.0), 3.0, 0.0, 0.0, 0.0, 3.0)
    steep = LossProfile(t, np.array([np.inf, 1, 0, np.nan, 2]), 0.0, 0.0, -1.0, 1.0, 2.0)
    for spectrum in (zero, wide):
        for profile in (flat, steep):
            odd = dataclasses.replace(report, spectra=(spectrum,), profile=profile)
            assert figure.png_bytes(odd).startswith(b"\x89PNG")


def test_figure_is_the_same_twice_and_differs_by_theme(report, tmp_path):
    pytest.importorskip("matplotlib")
    assert figure.svg_bytes(report) == figure.svg_bytes(report)
    assert figure.svg_bytes(report) != figure.svg_bytes(report, theme=figure.DARK)
    (tmp_path / "figure.png").write_bytes(figure.png_bytes(report))
    assert (tmp_path / "figure.png").stat().st_size < 200_000


def test_missing_matplotlib_names_the_extra(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"hessian_probe\[plot\]"):
        figure.draw(report)


# Page ----------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Checks that tags are balanced; collects tags, attributes and text."""

    EMPTY = frozenset({"meta", "source", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(report):
    pytest.importorskip("matplotlib")
    return to_html(report)


def test_page_is_well_formed_escaped_and_complete(page, report):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert "script" not in reader.seen
    assert report.title in reader.text
    assert "code" in reader.seen  # the backquotes of the summary
    assert all(sentence in reader.text for sentence in report.point.evidence)
    assert {"table", "caption", "th", "figcaption", "h1", "h2"} <= set(reader.seen)


def test_page_loads_nothing(page):
    reader = Reader()
    reader.feed(page)
    links = [value for name, value in reader.attributes if name in ("src", "srcset", "href")]
    assert len(links) == 2  # the figure for light and for dark surroundings
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert not re.search(r"url\(|@import|https?:", page)


def test_page_without_a_figure_needs_no_matplotlib(report, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"hessian_probe\[plot\]"):
        to_html(report)
    bare = dataclasses.replace(report, curves=(), spectra=(), profile=None)
    save_html(bare, tmp_path / "bare.html")
    assert "<figure>" not in (tmp_path / "bare.html").read_text("utf-8")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_page_in_a_browser(page, report, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    (tmp_path / "page.html").write_text(page, "utf-8")

    def browse(*options):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1400", *options]
        command += [(tmp_path / "page.html").as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    dom = browse("--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None
    assert html.unescape(title[1]) == report.title
    browse(f"--screenshot={tmp_path / 'shot.png'}")
    pixels = image.imread(tmp_path / "shot.png")[..., :3]
    shades = np.unique(np.round(pixels.reshape(-1, 3), 2), axis=0)
    assert pixels.shape[:2] == (1400, 1000)
    assert len(shades) > 50, "the page is blank"
    assert pixels.std() > 0.05
