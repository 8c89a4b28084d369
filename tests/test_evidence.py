"""Reasons: every code has a sentence, every sentence a code, and the numbers between them agree."""

import ast
import string
from pathlib import Path

import pytest

import hessian_probe
from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.points.evidence import Reason

pytestmark = pytest.mark.one_precision

PACKAGE = Path(hessian_probe.__file__).parent
TABLES = {"Reason": Reason.sentences, "EscapeReason": EscapeReason.sentences}
CODES = [(name, code) for name, table in TABLES.items() for code in table]


def fields_of(template):
    return {field for _, field, _, _ in string.Formatter().parse(template) if field}


def codes_of(node):
    """Codes that an argument stands for: one, or two where a condition chooses."""
    parts = (node.body, node.orelse) if isinstance(node, ast.IfExp) else ()
    return [code for part in parts for code in codes_of(part)] or [node.value]


def calls():
    """Every `Reason(code, …)` in the package: table and code, the fields named, and whether all are."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            for code in codes_of(node.args[0]) if name in TABLES else ():
                named = {keyword.arg for keyword in node.keywords}
                yield name, code, named - {None}, None not in named


def test_every_reason_has_a_sentence_that_names_its_fields():
    for name, code, named, all_named in calls():
        assert code in TABLES[name]
        assert named <= fields_of(TABLES[name][code]), code
        assert not all_named or named == fields_of(TABLES[name][code]), code


def test_every_sentence_is_used():
    assert {(name, code) for name, code, _, _ in calls()} == set(CODES)


@pytest.mark.parametrize(("name", "code"), CODES)
def test_a_sentence_is_filled_in(name, code):
    fields = dict.fromkeys(fields_of(TABLES[name][code]), 0.25) | {"samples": 12_000}
    text = str({"Reason": Reason, "EscapeReason": EscapeReason}[name](code, **fields))
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


def test_a_reason_prints_as_its_code_and_fields():
    assert repr(Reason("all_one_sign", count=3, sign=1)) == "Reason('all_one_sign', {'count': 3, 'sign': 1})"
