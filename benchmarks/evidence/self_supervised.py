"""Features learned without labels, judged by few of them."""

import agentlib
from benchmarks.experiments import Claim, Experiment


def simclr(seed: int) -> dict[str, float]:
    result = agentlib.train("simclr", data="digits", seed=seed, progress=False)
    assert isinstance(result, agentlib.Result)
    found = {name.removeprefix("test/"): value for name, value in result.measures.items()}
    return found | {"above_random": found["probe"] - found["random_encoder"]}


EXPERIMENTS = [
    Experiment(
        name="simclr_digits",
        family="Self-supervision",
        data="digits, 70% without labels, 1,000 updates; 10 labels per class, nudged test images",
        measure=simclr,
        claims=(
            Claim("probe", "linear classifier on SimCLR's features", at_least=0.85, reference="0.888, another code"),
            Claim("above_random", "the same less that of an untrained encoder", at_least=0.30),
            Claim("random_encoder", "linear classifier on an untrained encoder's features"),
            Claim("pixels", "linear classifier on pixels"),
            Claim("pixels_1nn", "nearest neighbour on pixels"),
            Claim("nudged_labels", "linear classifier on pixels, labelled images nudged too"),
            Claim("nudged_labels_1nn", "nearest neighbour on pixels, labelled images nudged too"),
        ),
        note="Who may nudge the labelled images is ahead with nearest neighbours: features learned without labels are "
        "not the best that these labels allow, but the best that they allow as they are.",
    ),
]
