"""Where batches come from."""

from agentlib.data.replay import Replay
from agentlib.data.replay_buffer import Episode, ReplayBuffer, Transition
from agentlib.data.source import Source

__all__ = ["Episode", "Replay", "ReplayBuffer", "Source", "Transition"]
