"""Every figure and report."""
