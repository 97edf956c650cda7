"""How good an agent is, and how sure that is: returns with intervals, and the comparison with Stable-Baselines3."""

from agentlib.evaluation.comparison import Comparison
from agentlib.evaluation.intervals import Estimate, Interval, bootstrap_interval, interquartile_mean, paired_difference
from agentlib.evaluation.returns import Evaluation, evaluate

__all__ = [
    "Comparison",
    "Estimate",
    "Evaluation",
    "Interval",
    "bootstrap_interval",
    "evaluate",
    "interquartile_mean",
    "paired_difference",
]
