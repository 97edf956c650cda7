"""Learning from text: models of language, and from one text to another."""
