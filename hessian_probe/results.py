"""What every result shares: a frozen pytree, its cost, reasons with codes, and how numbers are written."""

from __future__ import annotations

import dataclasses
import html
import math
import string
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def result(*, leaves: tuple[str, ...]) -> Callable[[type[T]], type[T]]:
    """Turn a class into a frozen dataclass that JAX treats as a pytree.

    Fields named in `leaves` hold arrays or pytrees; all others are static metadata.  Unflattening
    bypasses `__init__`, so results pass through `jax.tree.map`, `jit` and `vmap` with any leaf.

    Args:
        leaves: names of the fields that are children of the pytree.

    Returns:
        A class decorator.
    """

    def decorate(cls: type[T]) -> type[T]:
        new: Any = dataclasses.dataclass(frozen=True, repr=False, eq=False)(cls)
        names = tuple(field.name for field in dataclasses.fields(new))
        metadata = tuple(name for name in names if name not in leaves)

        def flatten(self: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            children = tuple(_array(getattr(self, name)) for name in leaves)
            return children, tuple(getattr(self, name) for name in metadata)

        def unflatten(aux: tuple[Any, ...], children: tuple[Any, ...]) -> Any:
            self = object.__new__(new)
            for name, value in zip((*leaves, *metadata), (*children, *aux), strict=True):
                object.__setattr__(self, name, value)
            return self

        jax.tree_util.register_pytree_node(new, flatten, unflatten)
        new.__repr__ = _safe_repr
        new._repr_html_ = _repr_html
        return new

    return decorate


@dataclasses.dataclass
class Cost:
    """A ledger of what was computed.  An entry counts in the ledgers that this one is a part of, too.

    Attributes:
        num_hvps: Hessian-vector products.
        num_gradients: gradients, each with its loss.
        num_losses: losses, with a slope along a line or without.
        wholes: the ledgers that this one is a part of; an entry counts in one as often as it is named.

    Examples:
        >>> whole = Cost()
        >>> part = whole.part()
        >>> part.add(hvps=2, gradients=1)
        >>> whole.num_hvps, whole.num_evaluations
        (2, 1)
    """

    num_hvps: int = 0
    num_gradients: int = 0
    num_losses: int = 0
    wholes: tuple[Cost, ...] = dataclasses.field(default=(), repr=False)

    @property
    def num_evaluations(self) -> int:
        """Losses and gradients together."""
        return self.num_gradients + self.num_losses

    def add(self, *, hvps: int = 0, gradients: int = 0, losses: int = 0) -> None:
        """Enter what was computed."""
        self.num_hvps += hvps
        self.num_gradients += gradients
        self.num_losses += losses
        for whole in self.wholes:
            whole.add(hvps=hvps, gradients=gradients, losses=losses)

    def enter(self, found: Any) -> None:
        """Enter what a result says that it spent; which of its evaluations were gradients it does not say."""
        self.add(hvps=found.num_hvps, gradients=found.num_evaluations)

    def clear(self) -> None:
        """Forget all entries here; the whole keeps them."""
        self.num_hvps = self.num_gradients = self.num_losses = 0

    def part(self) -> Cost:
        """An empty ledger that is a part of this one."""
        return Cost(wholes=(self,))


def _array(value: Any) -> Any:
    """Give a number the attributes of an array, as JAX's own functions expect of a leaf."""
    return np.float64(value) if type(value) is float else value


# What is written for signs that the encoding of standard output lacks.
ASCII = {
    **{"−": "-", "–": "-", "‖": "||", "²": "^2", "³": "^3", "·": "*", "÷": "/", "×": "x", "λ": "lambda"},
    **{"±": "+/-", "√": "sqrt ", "…": "...", "½": "1/2", "≤": "<=", "≥": ">=", "→": "->", "∞": "inf"},
    **{"Σ": "sum ", "ε": "eps", "β": "beta", "σ": "sigma", "ρ": "rho", "η": "eta", "μ": "u", "∇": "grad "},
    **{"⁻": "^-", "¹": "1", "ᵢ": "_i", "₁": "1", "₂": "2", "⟨": "<", "⟩": ">", "ᵀ": "^T"},
}


def printable(text: str) -> str:
    """Return a text as standard output can write it, with words and plainer signs where it must be."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"

    def written(sign: str) -> str:
        try:
            sign.encode(encoding)
        except UnicodeEncodeError:
            return ASCII.get(sign, "?")
        return sign

    try:
        return text if text.isascii() else "".join(map(written, text))
    except LookupError:  # an encoding that Python does not know
        return text


def summary(self: Any) -> tuple[str, list[tuple[str, str]]]:
    """Title and rows of a result; last, where it knows, which leaves were varied."""
    title, rows = self._summary()
    named = getattr(self, "variables", "")
    return title, [*rows, ("variables", named)] if named else rows


def _safe_repr(self: Any) -> str:
    """Print the result; under tracing or with odd leaves, one line that cannot raise."""
    try:
        title, rows = summary(self)
        width = max((len(name) for name, _ in rows), default=0)
        lines = [title, *(f"  {name:<{width}}  {text}" for name, text in rows)]
        return printable("\n".join(lines))
    except Exception:  # a result must always print
        return f"{type(self).__name__}({_leaf_summary(self)})"


def _repr_html(self: Any) -> str:
    """Return the same facts as a plain escaped table for notebooks."""
    try:
        title, rows = summary(self)
    except Exception:  # a result must always print
        return f"<pre>{html.escape(_safe_repr(self))}</pre>"
    body = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in rows
    )
    return f"<table><caption><b>{html.escape(title)}</b></caption>{body}</table>"


def _leaf_summary(self: Any) -> str:
    shapes = [f"{getattr(x, 'dtype', type(x).__name__)}{list(np.shape(x))}" for x in jax.tree.leaves(self)]
    return ", ".join(shapes[:8]) + (", …" if len(shapes) > 8 else "")


def number(value: float, digits: int = 4) -> str:
    """Format a number for a report: plain where that is readable, else in powers of ten."""
    value = float(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:.{digits}g}"
        return f"{float(text):.0f}" if "e" in text else text
    return f"{value:.{max(digits - 1, 1)}e}"


def signed(value: float, digits: int = 5) -> str:
    """Format a number with its sign always shown."""
    text = number(value, digits)
    return text if text.startswith("-") else "+" + text


class _Fields(string.Formatter):
    """Fills in: `:3` three digits, `:+3` with the sign, `:,` thousands, `:a|b` b for what is negative."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """Write one field."""
        if format_spec in ("", ","):
            return format(value, format_spec) if isinstance(value, int | str) else str(value)
        if "|" in format_spec:
            return format_spec.split("|")[value < 0]
        return signed(value, int(format_spec)) if format_spec[0] == "+" else number(value, int(format_spec))


class CodedSentence:
    """A code with what was measured; a room's table of sentences says it in words.

    Nothing reads a sentence back: programs compare codes.

    Args:
        code: key of `sentences`.
        fields: what its sentence names, by name.
    """

    sentences: ClassVar[Mapping[str, str]] = {}

    def __init__(self, code: str, **fields: Any) -> None:
        self.code, self.fields = code, fields

    def __str__(self) -> str:
        """Write the sentence."""
        return _Fields().vformat(self.sentences[self.code], (), self.fields)

    def __repr__(self) -> str:
        """Code and fields."""
        return f"{type(self).__name__}({self.code!r}, {self.fields})"


def plain(item: Any) -> Any:
    """Make an item one of JSON: tuples lists, numbers that are not finite None."""
    if isinstance(item, dict):
        return {name: plain(value) for name, value in item.items()}
    if isinstance(item, list | tuple):
        return [plain(value) for value in item]
    return item if not isinstance(item, float) or math.isfinite(item) else None
