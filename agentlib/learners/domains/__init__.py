"""Learning that survives another distribution."""
