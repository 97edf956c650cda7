"""Learning to learn: from many tasks, so that a new one takes few examples."""
