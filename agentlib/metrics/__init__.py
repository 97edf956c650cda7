"""Pure functions of arrays: intervals, calibration, detection, likelihoods, attacks and robustness."""

from agentlib.metrics.intervals import (
    Estimate,
    Interval,
    bootstrap_interval,
    interquartile_mean,
    paired_difference,
    t_interval,
)

__all__ = ["Estimate", "Interval", "bootstrap_interval", "interquartile_mean", "paired_difference", "t_interval"]
