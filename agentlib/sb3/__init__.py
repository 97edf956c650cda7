"""All that concerns Stable-Baselines3: its files, the zoo's settings, the comparison and its report."""

from agentlib.sb3.comparison import Comparison

__all__ = ["Comparison"]
