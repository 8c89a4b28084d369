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

from benchmarks.zoo import rounds_1_to_3, rounds_4_and_5, rounds_6_to_9

FAILURES = rounds_1_to_3.FAILURES + rounds_4_and_5.FAILURES + rounds_6_to_9.FAILURES
