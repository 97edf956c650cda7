"""DAgger: learning from an expert's answers in the states that the learner itself gets into.

    D <- {}
    for each round i:   play episodes with  pi_i = beta_i expert + (1 - beta_i) student
                        D <- D + {(o, expert(o)) : o met on the way}
                        student <- argmin_pi E_D[ -log pi(a | o) ]

Ross, Gordon & Bagnell 2011, arXiv:1011.0686. Copying pays for a mistake with all that follows from it, which it never
saw: its cost grows as T^2. Here the student sees what follows from its mistakes, and its cost grows as T.

There is no learner in this file: DAgger is behavioural cloning (`BC`) on a source that grows,
`agentlib.data.Aggregate`. Each round goes on from the weights of the round before; the paper trains anew each time
(`from_scratch`). With a `gate` the expert is asked only where the student is unsure, and acts there itself:

    "unsure"         the probability of the student's choice is below the threshold; `calibrated`, its logits are first
                     divided by a temperature (Guo et al. 2017, arXiv:1706.04599)
    "disagreement"   the members of an ensemble are further apart than the threshold (Menda et al. 2019,
                     arXiv:1807.08364)
    "takeover"       the expert takes over when it sees fit (HG-DAgger, Kelly et al. 2019, arXiv:1810.02890): a person
                     by pressing a key, anybody else where the student is about to do something else

What names and defaults the `imitation` library has are taken from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from agentlib.backbones import Linear, Schedule
from agentlib.learners.imitation.bc import CloningConfig
from agentlib.training.config import check_range

GateName = Literal["unsure", "disagreement", "takeover"]
THRESHOLDS: dict[str, float] = {"unsure": 0.95, "disagreement": 0.05}
"""Where each gate asks, if the config does not say."""


@dataclass(frozen=True, kw_only=True)
class DAggerConfig(CloningConfig):
    """All numbers of a DAgger run."""

    rounds: int = 10
    """Rounds of playing and training, if the run's environment steps are not given."""
    rollout_round_min_episodes: int = 3
    """Episodes of a round, at least."""
    rollout_round_min_timesteps: int = 500
    """Environment steps of a round, at least."""
    epochs: int = 4
    """How often to go through all labels after each round."""
    beta: Schedule = Linear(1.0, 0.0)
    """Probability that the expert acts: a number or a schedule; 1 at the start makes the first round the expert's."""
    deterministic: bool = False
    """The student acts by its best actions; otherwise by draws from its distribution, as in `imitation`."""
    gate: GateName | None = None
    """When to ask: where "unsure", where an ensemble is in "disagreement", at a "takeover"; None asks always."""
    threshold: float | None = None
    """Of the gate "unsure" (asks below this probability) or "disagreement" (asks above it)."""
    calibrated: bool = False
    """The gate "unsure" believes the student as far as it has been right: before a round's labels are learned, a
    temperature is fitted to them."""
    from_scratch: bool = False
    """Train anew after each round, as the paper does; otherwise go on from the weights of the round before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, math.inf, "rounds", "rollout_round_min_episodes", "epochs")
        check_range(self, 0, math.inf, "rollout_round_min_timesteps")
        check_range(self, 0, 1, "beta", "threshold")
        if self.threshold is not None and self.gate not in THRESHOLDS:
            raise ValueError(f"DAggerConfig.threshold is of the gates {' and '.join(THRESHOLDS)}, not of {self.gate!r}")
        if self.calibrated and self.gate != "unsure":
            raise ValueError(f"DAggerConfig.calibrated is of the gate 'unsure', not of {self.gate!r}")
        if self.gate == "disagreement" and self.ensemble < 2:
            raise ValueError("DAggerConfig.gate='disagreement' needs an ensemble: set ensemble=5, for example")
