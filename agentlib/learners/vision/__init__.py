"""Learning from scenes: segmentation, depth, boxes."""
