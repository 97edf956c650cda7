"""Learning from an expert: from its demonstrations, and from its answers."""
