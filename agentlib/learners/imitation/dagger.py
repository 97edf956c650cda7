"""DAgger: learning from an expert's answers in the states that the learner itself gets into.

    D <- {}
    for each round i:   play episodes with  pi_i = beta_i expert + (1 - beta_i) student
                        D <- D + {(o, expert(o)) : o met on the way}
                        student <- argmin_pi E_D[ -log pi(a | o) ]

Ross, Gordon & Bagnell 2011, arXiv:1011.0686. Copying pays for a mistake with all that follows from it, which it never
saw: its cost grows as T^2. Here the student sees what follows from its mistakes, and its cost grows as T.

There is no learner in this file: DAgger is behavioural cloning (`BC`) on a source that grows,
`agentlib.experience.Aggregate`. Each round goes on from the weights of the round before; in the paper each starts from
the first ones (`from_scratch`). With a `gate` the expert is asked only where the student is unsure, and acts there:

    "unsure"         the probability of the student's choice is below the threshold; `calibrated`, its logits are first
                     divided by a temperature (Guo et al. 2017, arXiv:1706.04599)
    "disagreement"   the members of an ensemble are further apart than the threshold (Menda et al. 2019,
                     arXiv:1807.08364)
    "takeover"       the expert takes over when it sees fit (HG-DAgger, Kelly et al. 2019, arXiv:1810.02890): a person
                     by pressing a key, any other expert where the student is about to do something else

Names and defaults are those of the `imitation` library where it has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentlib.core import Linear, Recipe
from agentlib.core.config import Count, Share, Unit, Whole
from agentlib.families.asking import on_expert
from agentlib.learners.imitation.bc import BC, CloningConfig

GateName = Literal["unsure", "disagreement", "takeover"]
THRESHOLDS: dict[str, float] = {"unsure": 0.95, "disagreement": 0.05}
"""Where each gate asks, if the config does not say."""


@dataclass(frozen=True, kw_only=True)
class DAggerConfig(CloningConfig):
    """The numbers of a DAgger run."""

    rounds: Count = 10
    """Rounds of playing and training; without effect where the length of the run is given in steps."""
    rollout_round_min_episodes: Count = 3
    """Minimum number of episodes in a round."""
    rollout_round_min_timesteps: Whole = 500
    """Minimum number of environment steps in a round."""
    epochs: Count = 4
    """Passes over all labels after each round."""
    beta: Share = Linear(1.0, 0.0)
    """Probability that the expert acts: a number or a schedule; 1 at the start makes the first round the expert's."""
    deterministic: bool = False
    """Let the student act by its best actions; otherwise its actions are sampled, as in the `imitation` library."""
    gate: GateName | None = None
    """When the expert is asked: where the student is "unsure", where an ensemble is in "disagreement", or at a
    "takeover" by the expert; None asks at every step."""
    threshold: Unit | None = None
    """Threshold of the gate: "unsure" asks below this probability, "disagreement" above this distance."""
    calibrated: bool = False
    """Fit a temperature to the labels of each round before they are learned, and divide the logits of the gate "unsure"
    by it."""
    from_scratch: bool = False
    """Start each round from the first weights, as in the paper; otherwise from those of the round before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_weights == "balanced":
            raise ValueError("DAggerConfig.class_weights cannot be balanced, since labels come as the run goes: give "
                             "class_weights as numbers, or leave them out")  # fmt: skip
        if self.threshold is not None and self.gate not in THRESHOLDS:
            raise ValueError(f"DAggerConfig.threshold is of the gates {' and '.join(THRESHOLDS)}, not of {self.gate!r}")
        if self.calibrated and self.gate != "unsure":
            raise ValueError(f"DAggerConfig.calibrated is of the gate 'unsure', not of {self.gate!r}")
        if self.gate == "disagreement" and self.ensemble < 2:
            raise ValueError("DAggerConfig.gate='disagreement' needs an ensemble: set ensemble=5, for example")

    @property
    def asking_threshold(self) -> float:
        """The threshold of the gate, also where it is not given."""
        return THRESHOLDS[self.gate or "unsure"] if self.threshold is None else self.threshold


RECIPE = Recipe(
    "dagger", BC, DAggerConfig, on_expert, "DAgger (Ross et al. 2011), asks an expert about its own states; any actions"
)
