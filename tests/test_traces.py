"""What each learner's tiny run reports stays what it was: a change of the code that is meant to change nothing does.

`python tests/test_traces.py` writes the traces anew, after a change that is meant.
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from agentlib.engine import run
from tests.test_contract import LEARNERS

FILE = Path(__file__).with_name("traces.json")
UPDATES = 5


def traced(learner_class):
    learner, source = learner_class.tiny(seed=0)
    runs = run(learner, source, UPDATES, compile=False)
    return [{name: float(value) for name, value in update.metrics.items()} for _, update in runs]


RECORDED = json.loads(FILE.read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_the_trace_is_the_recorded_one(name):
    (learner_class,) = [one for one in LEARNERS if one.__name__ == name]
    for update, (now, before) in enumerate(zip(traced(learner_class), RECORDED[name], strict=True)):
        assert now == pytest.approx(before, rel=2e-3, abs=1e-5), f"update {update}"


if __name__ == "__main__":
    FILE.write_text(json.dumps({one.__name__: traced(one) for one in LEARNERS}, indent=1) + "\n")
