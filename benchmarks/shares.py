"""Observed frequencies: how often something happened, and whether that is more than was stated."""

from __future__ import annotations

from typing import NamedTuple

from scipy.stats import beta, binom


class Share(NamedTuple):
    """How often something happened, of how many."""

    count: int
    total: int

    def interval(self) -> tuple[float, float]:
        """95 % interval (Clopper and Pearson 1934)."""
        k, n = self.count, self.total
        low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
        high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
        return low, high

    def __str__(self) -> str:
        if not self.total:
            return "none drawn"
        low, high = self.interval()
        return f"{self.count / self.total:6.1%} ({low:.1%} to {high:.1%}, {self.total} draws)"

    def percent(self) -> str:
        """The interval alone, for shares near zero."""
        low, high = self.interval()
        return f"{100 * low:.2f} … {100 * high:.2f} %"

    def within(self, doubt: float) -> bool:
        """Whether a true frequency of ``doubt`` makes no fewer, but in one of 1,000 such tables."""
        return self.count <= int(binom.ppf(0.999, self.total, doubt))
