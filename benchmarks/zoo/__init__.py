"""The zoo: synthetic failures and healthy runs, in nine rounds.

A round is a set that was written, and counted for the first time, together:

1. thresholds were chosen with it in sight;
2. they were not, but some of its failures led to changes of the rules;
3. written after the last change of that time;
4. written by someone who had not seen the rules, and committed before the first count; checked without
   `diagnose` by `python -m benchmarks.zoo.check`, as all later ones;
5. the same, with competing cures ruled out, and no rule was changed after a diagnosis of them;
6. like 5, written after its first count, with other models, data and failures, and stricter healthy runs;
7. like 6, after the count of 6;
8. like 7, after the count of 7; every trouble is one that users report in public;
9. like 7, in a hurry, after the rules that round 8 had changed.
"""

from __future__ import annotations

from benchmarks.zoo import rounds_1_to_3, rounds_4_and_5, rounds_6_to_9

FAILURES = rounds_1_to_3.FAILURES + rounds_4_and_5.FAILURES + rounds_6_to_9.FAILURES
# What six rounds gave when nobody had seen a diagnosis of them; docs/api/diagnose.md has the tables.
FIRST_COUNT = (
    "first counts, before rules were changed: round 4 healthy first 44 of 60, failure first 186 of 268, "
    "two 196 of 268, contradicted 28; round 5 healthy first 22 of 25, failure first 118 of 140, two "
    "119 of 140, contradicted 6; round 6 healthy first 20 of 20, failure first 43 of 60, two 44 of 60, "
    "contradicted 4; round 7 healthy first 40 of 40, failure first 114 of 160, two 121 of 160, "
    "contradicted 15; round 8 healthy first 40 of 40, failure first 119 of 151, two 141 of 151, "
    "contradicted 0; round 9 healthy first 10 of 10, failure first 140 of 160, two 150 of 160, "
    "contradicted 0"
)
