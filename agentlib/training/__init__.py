"""What every learner shares."""

from agentlib.backbones.schedules import Clock
from agentlib.data.source import Source
from agentlib.training.learner import Learner, Update
from agentlib.training.loop import run
from agentlib.training.step import Step
from agentlib.training.target import Target, average_rate

__all__ = ["Clock", "Learner", "Source", "Step", "Target", "Update", "average_rate", "run"]
