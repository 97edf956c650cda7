"""How an update is made fast."""

from agentlib.engine.loop import run

__all__ = ["run"]
