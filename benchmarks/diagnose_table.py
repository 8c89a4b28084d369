"""Tables from records of diagnoses: confusion, totals by round, contradictions, and what acting gains."""

from __future__ import annotations

from collections import Counter
from typing import Any

# A confidence from which a finding is a statement (the threshold of "strong" in the documentation).
CONFIDENT = 0.9
# What stops training, as the documentation of `hp.diagnose` lists it.
HINDRANCES = frozenset({
    "divergence", "input_scale", "dead_units", "saturation", "exploding_gradients", "vanishing_gradients",
    "oscillation", "noise", "slow", "ill_conditioned", "saddle",
})  # fmt: skip
OPPOSITES = (
    ("divergence", "slow"),
    ("oscillation", "slow"),
    ("vanishing_gradients", "exploding_gradients"),
    ("saddle", "minimum"),
    ("overfitting", "mismatch"),
)
Record = dict[str, Any]


def contradictions(record: Record) -> list[str]:
    """Causes found with confidence that cannot be true beside the synthetic failure.

    Confidence is 0.9 or more.  "healthy" contradicts every failure, and every failure a healthy run.
    Something that hinders training contradicts a failure where training did all that the model can
    (`model_bias`, `minimum`, `overfitting`, `mismatch`), and `model_bias` and `minimum` contradict a failure
    by something that hinders training.  Of two opposites one contradicts the other.  What is true of the
    failure too (`also`) contradicts nothing.

    Args:
        record: of one diagnosis.

    Returns:
        The causes.
    """
    told = {cause for cause, confidence, _ in record["findings"] if confidence >= CONFIDENT}
    return sorted(cause for cause in told - {*record["also"]} if excludes(record["cause"], cause))


def excludes(true: str, told: str) -> bool:
    """Whether both cannot be true."""
    if true == told:
        return False
    if "healthy" in (true, told):
        return True
    if (true, told) in OPPOSITES or (told, true) in OPPOSITES:
        return True
    if true in HINDRANCES | {"optimization"}:
        return told in ("model_bias", "minimum")
    return told in HINDRANCES | {"optimization"}


def line(records: list[Record]) -> str:
    """One failure's counts in a line."""
    first = records[0]
    told = Counter(record["findings"][0][0] for record in records)
    against = Counter(cause for record in records for cause in contradictions(record))
    acted = [record["acted"] for record in records if "acted" in record]
    text = f"{first['failure']:30s} round {first['round']} {first['cause']:20s} " + hits(records)
    text += "  [" + ", ".join(f"{cause} {count}" for cause, count in told.most_common()) + "]"
    if against:
        text += "  contradicted by: " + ", ".join(f"{cause} {count}" for cause, count in against.items())
    if acted:
        text += f"  acted: better {sum(new < old for old, new in acted)} of {len(acted)}"
    return text + f"  {sum(sum(record['seconds']) for record in records) / len(records):.0f} s each"


def hits(records: list[Record]) -> str:
    """How often the true cause came first, and among the first two."""
    causes = [[found[0] for found in record["findings"]] for record in records]
    first = sum(names[0] == record["cause"] for names, record in zip(causes, records, strict=True))
    two = sum(record["cause"] in names[:2] for names, record in zip(causes, records, strict=True))
    return f"first {share(first, len(records))}, two {share(two, len(records))}"


def share(part: int, whole: int) -> str:
    """A count with its percentage."""
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole > 10 else f"{part:2d} of {whole}"


def summary(records: list[Record]) -> str:
    """Confusion table and totals."""
    told = sorted({record["findings"][0][0] for record in records})
    rows = list(dict.fromkeys(record["cause"] for record in records))
    out = [f"{'true cause (rows), told first':28s}" + " ".join(f"{cause[:9]:>9s}" for cause in told)]
    for cause in rows:
        row = Counter(record["findings"][0][0] for record in records if record["cause"] == cause)
        out.append(f"{cause:28s}" + " ".join(f"{row[name] or '.':>9}" for name in told))
    out.append("")
    for number in [*sorted({record["round"] for record in records}), "all"]:
        part = [record for record in records if number in ("all", record["round"])]
        for name, healthy in (("healthy", True), ("failure", False)):
            chosen = [record for record in part if (record["cause"] == "healthy") == healthy]
            if chosen:
                against = sum(bool(contradictions(record)) for record in chosen)
                where = "all rounds" if number == "all" else f"round {number}"
                out.append(f"{where} {name}: {hits(chosen)}; contradicted with confidence {against}")
    acted = [record["acted"] for record in records if "acted" in record]
    if acted:
        better = sum(new < old for old, new in acted)
        out.append(f"acting on the first proposal lowers the loss: {share(better, len(acted))}")
    return "\n".join(out)
