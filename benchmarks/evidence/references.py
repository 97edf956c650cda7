"""Numbers that others reach, or that other code reached here: by data set and measure, with whose number it is."""

ANOTHER = "another implementation"

EXAMPLES: dict[tuple[str, str], tuple[float, str]] = {
    ("digits", "test/accuracy"): (0.965, "scikit-learn's logistic regression, 10 such splits: .952 to .978"),
    ("breast_cancer", "test/accuracy"): (0.974, "scikit-learn's logistic regression, 10 splits: .953 to .988"),
    ("diabetes", "test/r2"): (0.489, "scikit-learn's ridge regression, 10 such splits: .32 to .58"),
}

ATTACKED: dict[tuple[str, str], tuple[float, str]] = {
    ("digits, l-infinity, epsilon 0.15", "test/robust_accuracy"): (
        0.157,
        "the same network, trained without attacks; 5 seeds: .119 to .187",
    ),
}

VIEWS: dict[tuple[str, str], tuple[float, str]] = {
    ("digits", "test/probe"): (0.888, f"{ANOTHER}, 60 epochs of batches of 256"),
    ("digits", "test/pixels"): (0.496, "scikit-learn's logistic regression"),
    ("digits", "test/pixels_1nn"): (0.601, "scikit-learn's nearest neighbour"),
    ("digits", "test/nudged_labels"): (0.715, "scikit-learn's logistic regression"),
    ("digits", "test/nudged_labels_1nn"): (0.916, "scikit-learn's nearest neighbour"),
}

TASKS: dict[tuple[str, str], tuple[float, str]] = {
    ("sinusoids, 10 shots", "test/loss_after_1"): (0.49, f"{ANOTHER}, 3,000 updates"),
    ("sinusoids, 10 shots", "test/loss_after_10"): (0.14, f"{ANOTHER}, 3,000 updates"),
    ("sinusoids, 5 shots", "test/loss_after_1"): (0.66, f"{ANOTHER}, 8,000 updates"),
    ("sinusoids, 5 shots", "test/loss_after_10"): (0.37, f"{ANOTHER}, 8,000 updates"),
    ("glyphs", "test/5_way_1_shot"): (0.961, f"{ANOTHER}, 1,200 updates"),
    ("glyphs", "test/5_way_5_shot"): (0.994, f"{ANOTHER}, 1,200 updates"),
    ("glyphs", "test/20_way_1_shot"): (0.87, f"{ANOTHER}, 1,200 updates"),
    ("glyphs", "test/5_way_1_shot_pixels"): (0.61, "measured by other code"),
    ("glyphs", "test/20_way_1_shot_pixels"): (0.41, "measured by other code"),
}

GENERATIVE: dict[tuple[str, str], tuple[float, str]] = {
    ("digits as bits", "test/nats"): (18.10, "FVSBN in raster order; 60 products of Bernoullis, mixed by EM: 17.94"),
}
