"""Learning action values from replayed experience."""
