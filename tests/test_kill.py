"""Real processes, really killed: `benchmarks.kill` on a few jobs."""

import os
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")
from benchmarks import kill

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix" or sys.platform == "cygwin", reason="signals of POSIX"),
]


@pytest.mark.parametrize("job", kill.JOBS)
def test_killed_jobs_go_on_to_the_same_answer(job, tmp_path, capsys):
    assert kill.campaign(2, 1, tmp_path, (job,)) == []
    said = capsys.readouterr().out
    for name in kill.SIGNALS:
        line = next(line for line in said.splitlines() if name in line)
        assert "2 answers equal bit for bit, 0 faults" in line
        assert int(line.split(" jobs, ")[1].split()[0]) >= 2


def test_a_difference_is_told():
    truth = {"text": "a", "leaves": (np.zeros(2),)}
    assert kill.difference(truth, truth) == ""
    assert "another answer" in kill.difference(truth, truth | {"text": "b"})
    assert "arrays" in kill.difference(truth, truth | {"leaves": (np.r_[0.0, -0.0],)})
