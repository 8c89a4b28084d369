"""Reasons: every code has a sentence, every sentence a code, and the numbers between them agree."""

import ast
import string
from pathlib import Path

import pytest

import hessian_probe
from hessian_probe.points.evidence import SENTENCES, Reason

pytestmark = pytest.mark.one_precision

ROOM = Path(hessian_probe.__file__).parent / "points"


def fields_of(template):
    return {field for _, field, _, _ in string.Formatter().parse(template) if field}


def calls():
    """Every `Reason(code, …)` in the room: the code, the fields that it names, and whether all are named."""
    for path in sorted(ROOM.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Reason":
                named = {keyword.arg for keyword in node.keywords}
                yield node.args[0].value, named - {None}, None not in named


def test_every_reason_has_a_sentence_that_names_its_fields():
    for code, named, all_named in calls():
        assert code in SENTENCES
        assert named <= fields_of(SENTENCES[code]), code
        assert not all_named or named == fields_of(SENTENCES[code]), code


def test_every_sentence_is_used():
    assert {code for code, _, _ in calls()} == set(SENTENCES)


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_filled_in(code):
    text = str(
        Reason(code, **{name: 0.25 for name in fields_of(SENTENCES[code]) - {"samples"}}, samples=12_000)
    )
    assert text
    assert "{" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "±0"), (1.234567, "±1.2"), (1.2e-9, "±1.2e-09"), (float("nan"), "±nan")],
)
def test_numbers_have_as_many_digits_as_their_field_says(value, text):
    assert str(Reason("curvature", low=-1, high=1, band=value)).endswith(text)


@pytest.mark.parametrize(("sign", "text"), [(1, "positive"), (-1.0, "negative")])
def test_a_word_is_chosen_by_the_sign_of_its_field(sign, text):
    assert str(Reason("all_one_sign", count=3, sign=sign)) == f"all 3 eigenvalues are {text}"
