"""Learning features from data without labels."""
