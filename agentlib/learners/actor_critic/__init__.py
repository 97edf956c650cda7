"""Learning a policy and the values by which it is judged, together."""
