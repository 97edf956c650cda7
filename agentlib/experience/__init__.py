"""Acting, and what is kept of it: replay memories, demonstrations, experts, evaluation."""

from agentlib.experience.aggregate import Aggregate
from agentlib.experience.asking import Expert, ExpertLeft, Onlooker
from agentlib.experience.demonstration_batches import DemonstrationBatches, Labelled
from agentlib.experience.demonstrations import Demonstration, Demonstrations
from agentlib.experience.evaluation import Evaluation, evaluate
from agentlib.experience.hindsight import HindsightReplay
from agentlib.experience.recorded_transitions import RecordedTransitions
from agentlib.experience.recording import record_episodes
from agentlib.experience.replay import Replay, SequenceReplay
from agentlib.experience.replay_buffer import ReplayBuffer
from agentlib.experience.return_batches import ReturnBatches
from agentlib.experience.rollout import Rollout
from agentlib.experience.sequence_buffer import SequenceBuffer, Sequences
from agentlib.experience.sequence_rollout import SequenceRollout
from agentlib.experience.transition import Episode, Minibatch, Transition

__all__ = [
    "Aggregate",
    "Demonstration",
    "DemonstrationBatches",
    "Demonstrations",
    "Episode",
    "Evaluation",
    "Expert",
    "ExpertLeft",
    "HindsightReplay",
    "Labelled",
    "Minibatch",
    "Onlooker",
    "RecordedTransitions",
    "Replay",
    "ReplayBuffer",
    "ReturnBatches",
    "Rollout",
    "SequenceBuffer",
    "SequenceReplay",
    "SequenceRollout",
    "Sequences",
    "Transition",
    "evaluate",
    "record_episodes",
]
