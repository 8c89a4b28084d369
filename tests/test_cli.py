"""The program: what it prints where, and how it ends."""

import io
import json
import signal
import subprocess
import sys
import textwrap

import jax
import pytest

import hessian_probe
from hessian_probe.cli import commands, main
from hessian_probe.cli.commands import load_target
from hessian_probe.cli.progress import Progress

pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]

TARGETS = """
    import os, signal
    import jax.numpy as jnp

    def product(w):
        return (1.0 - w[0] * w[1]) ** 2

    def saddle():
        print("the caller's file prints this")
        return product, jnp.zeros(2, jnp.float32)

    def with_data():
        loss = lambda w, batch: jnp.mean((batch @ w) ** 2)
        return loss, jnp.zeros(2), [jnp.eye(2), jnp.ones((3, 2))]

    def as_dict():
        return {"loss": lambda w: jnp.sum(w**2), "params": jnp.zeros(2)}

    def not_a_number():
        return lambda w: jnp.sum(w) * jnp.nan, jnp.zeros(2)

    def slope():
        return lambda w: w[0] + w[1] ** 2, jnp.zeros(2)

    def fails():
        raise RuntimeError("the checkpoint is not there")

    def leaves():
        raise SystemExit(7)

    def loss_fails():
        return lambda w: w[0] / undefined_name, jnp.zeros(2)

    def vector_loss():
        return lambda w: w, jnp.zeros(2)

    def whole_numbers():
        return lambda w: w.sum(), jnp.zeros(2, int)

    def returns_number():
        return 3.0

    def returns_four():
        return 1, 2, 3, 4

    def returns_odd_dict():
        return {"loss": 1, "weights": 2}

    def interrupts():
        signal.raise_signal(signal.SIGINT)

    value = 5
"""


@pytest.fixture
def target(tmp_path, monkeypatch):
    """Write the file and name one of its functions."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "stuck.py"
    path.write_text(textwrap.dedent(TARGETS), "utf-8")
    return lambda name: f"{path}:{name}"


# Answers -------------------------------------------------------------------------------------


def test_probe_prints_the_verdict_first(target, capsys):
    assert main(["probe", target("saddle"), "--escape"]) == 0
    said = capsys.readouterr().out
    assert said.index("A saddle:") < said.index("CriticalPoint: SADDLE") < said.index("Escape: ESCAPED")


@pytest.mark.parametrize(
    ("name", "label"),
    [("saddle", "saddle"), ("as_dict", "minimum"), ("with_data", "minimum"), ("slope", "not_critical")],
)
def test_json_is_one_document_and_nothing_else(target, capsys, name, label):
    assert main(["probe", target(name), "--json", "--escape"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["point"]["label"] == label
    assert document["exit_code"] == 0
    assert document["command"] == "probe"
    assert document["escape"]["status"] == ("escaped" if label == "saddle" else "nothing_to_escape")
    assert ("prints this" in said.err) == (name == "saddle")


def test_undetermined_is_an_exit_code_of_its_own(target, capsys):
    assert main(["probe", target("not_a_number"), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["point"]["label"] == "undetermined"
    assert document["point"]["loss"] is None
    assert document["point"]["reasons"][0] == "loss_nonfinite"


def test_budget_and_seed_reach_the_search(target, capsys, monkeypatch):
    seen = {}
    real = commands.classify

    def spy(*args, **keywords):
        seen.update(keywords)
        return real(*args, **keywords)

    monkeypatch.setattr(commands, "classify", spy)
    assert main(["probe", target("saddle"), "--max-hvps", "50", "--seed", "3"]) == 0
    assert seen["max_hvps"] == 50
    assert jax.random.key_data(seen["key"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()


def test_x64_computes_in_float64_and_leaves_jax_as_it_was(target, capsys):
    before = jax.config.jax_enable_x64
    assert main(["probe", target("saddle"), "--json", "--x64"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["point"]["dtype"] == "float64"
    assert document["point"]["zero_band"] < 1e-12
    assert jax.config.jax_enable_x64 == before


def test_html_is_saved(target, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.html"
    assert main(["probe", target("saddle"), "--escape", "--html", str(page)]) == 0
    text = page.read_text("utf-8")
    assert "<figure>" in text
    assert "SADDLE (certified)" in text
    assert str(page) in capsys.readouterr().out


def test_html_without_matplotlib_says_what_is_missing(target, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = tmp_path / "page.html"
    assert main(["probe", target("saddle"), "--html", str(page)]) == 0
    text = page.read_text("utf-8")
    assert "<figure>" not in text
    assert "hessian_probe[plot]" in text


def test_a_plan_is_shown_and_nothing_is_searched(target, capsys, monkeypatch):
    monkeypatch.setattr(commands, "classify", None)
    assert main(["probe", target("saddle"), "--plan"]) == 0
    said = capsys.readouterr().out
    assert "Plan: classify FITS" in said
    assert main(["probe", target("saddle"), "--plan", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sections"]["plan"]["results"]["plan"]["fits"] is True
    assert document["point"] is None


def test_a_job_of_another_function_is_refused(target, tmp_path, capsys):
    job = str(tmp_path / "job")
    assert main(["probe", target("with_data"), "--save-to", job]) == 0
    (tmp_path / "job").write_bytes(b"nothing of ours")
    assert main(["probe", target("with_data"), "--save-to", job]) == 2
    assert "was not saved by hessian_probe" in capsys.readouterr().err


# Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", ["stuck.py", "absent", "saddle"]),
        ("value", ["value", "int", "not a function"]),
        ("fails", ["fails", "RuntimeError", "the checkpoint is not there"]),
        ("leaves", ["leaves", "SystemExit"]),
        ("loss_fails", ["loss_fails", "NameError", "undefined_name", "loss(params)"]),
        ("vector_loss", ["vector_loss", "scalar"]),
        ("whole_numbers", ["whole_numbers", "floating-point"]),
        ("returns_number", ["returns_number", "float", "(loss, params)"]),
        ("returns_four", ["returns_four", "tuple of 4"]),
        ("returns_odd_dict", ["returns_odd_dict", "weights"]),
    ],
)
def test_bad_functions_are_named_without_a_traceback(target, capsys, name, words):
    assert main(["probe", target(name)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert [word for word in words if word not in said.err] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["probe", "nowhere.py:stuck"], "no file 'nowhere.py'"),
        (["probe", "stuck.py"], "expected FILE.py:FUNCTION, got 'stuck.py'"),
        (["probe", ":stuck"], "expected FILE.py:FUNCTION"),
        (["probe", "stuck.py:not a name"], "expected FILE.py:FUNCTION"),
        (["probe"], "FILE.py:FUNCTION"),
        (["probe", "a.py:b", "--max-hvps", "0"], "at least 1, got '0'"),
        (["probe", "a.py:b", "--max-hvps", "many"], "at least 1, got 'many'"),
        (["probe", "a.py:b", "--html", "no/such/folder/page.html"], "no/such/folder"),
        (["dance"], "dance"),
        ([], "usage"),
    ],
)
def test_bad_usage(capsys, arguments, words):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_does_not_run_is_named(tmp_path, capsys):
    for name, text in (("broken.py", "def stuck(:\n"), ("asks.py", "import no_such_package_here\n")):
        (tmp_path / name).write_text(text, "utf-8")
        assert main(["probe", f"{tmp_path / name}:stuck"]) == 2
        assert name in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("stuck = 1", "utf-8")
    assert main(["probe", f"{tmp_path / 'notes.txt'}:stuck"]) == 2
    assert ".py" in capsys.readouterr().err


def test_json_tells_errors_too(target, capsys):
    assert main(["probe", target("fails"), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert "the checkpoint is not there" in document["error"]
    assert document["exit_code"] == 2


def test_debug_shows_the_traceback(target, capsys):
    assert main(["probe", target("fails"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_is_1(target, capsys, monkeypatch):
    def defect(*args, **keywords):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(commands, "classify", defect)
    assert main(["probe", target("saddle")]) == 1
    assert "unexpected error: ZeroDivisionError: a defect" in capsys.readouterr().err


def test_demo_without_its_extras_names_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "hessian_probe[plot]" in capsys.readouterr().err


def test_demo_without_the_digits_names_the_extra(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "hessian_probe[demo]" in capsys.readouterr().err


def test_demo_whose_folder_cannot_be_made(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("in the way", "utf-8")
    assert main(["demo", "--output", str(tmp_path / "file" / "folder")]) == 2
    assert "--output" in capsys.readouterr().err


# Ctrl-C --------------------------------------------------------------------------------------


def test_interrupt_before_anything_is_known(target, capsys):
    before = signal.getsignal(signal.SIGINT)
    assert main(["probe", target("interrupts"), "--json"]) == 130
    document = json.loads(capsys.readouterr().out)
    assert document["point"] is None
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_returns_the_best_so_far(target, capsys, monkeypatch):
    """The search catches Ctrl-C and returns what it has; nothing is begun after that."""
    real = commands.classify

    def search(*args, progress, **keywords):
        found = real(*args, progress=progress, **keywords)
        progress("so far so good")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(commands, "classify", search)
    assert main(["probe", target("saddle"), "--escape"]) == 130
    said = capsys.readouterr().out
    assert "Interrupted; it had got to: so far so good." in said
    assert "CriticalPoint: SADDLE" in said
    assert "Escape:" not in said


# The rest ------------------------------------------------------------------------------------


def test_help_documents_the_exit_codes(capsys):
    for arguments in (["--help"], ["probe", "--help"], ["demo", "--help"]):
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert all(f"\n  {code} " in said for code in (0, 1, 2, 3, 130))


def test_the_program_runs_as_a_module():
    command = [sys.executable, "-m", "hessian_probe.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"hessian-probe {hessian_probe.__version__}\n"


def test_neighbours_of_the_file_can_be_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_target.py").write_text("PARAMS = [1.0]\n", "utf-8")
    (tmp_path / "main_one.py").write_text(
        "from neighbour_of_target import PARAMS\ndef stuck():\n    return sum, PARAMS\n", "utf-8"
    )
    loaded = load_target(f"{tmp_path / 'main_one.py'}:stuck")
    assert loaded.loss is sum
    assert loaded.params == [1.0]
    assert loaded.data is None


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_overwrites_on_a_terminal():
    stream, now = Terminal(), [0.0]
    progress = Progress(stream, clock=lambda: now[0])
    progress("first")
    progress("too soon")
    now[0] = 1.0
    progress("x" * 10_000)
    progress.stage("a stage")
    said = stream.getvalue()
    assert "too soon" not in said
    assert said.startswith("\rfirst\x1b[K\rx")
    assert said.endswith("x\x1b[K\r\x1b[Ka stage\n")
    assert len(said) < 1000
    assert progress.last == "a stage"


def test_progress_in_a_log_is_plain_and_rare():
    stream, now = io.StringIO(), [0.0]
    progress = Progress(stream, clock=lambda: now[0])
    for second in range(10):
        now[0] = float(second)
        progress(f"line {second}")
    progress.close()
    assert stream.getvalue() == "".join(f"line {second}\n" for second in range(0, 10, 2))
