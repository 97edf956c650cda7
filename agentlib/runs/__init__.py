"""Runs: how they are planned, trained, kept in a folder, and resumed."""
