"""Learning distributions, and drawing from them."""
