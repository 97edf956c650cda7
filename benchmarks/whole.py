"""One whole run of a classifier on MNIST in a process of its own, from its start to the accuracy on the test images:

    python benchmarks/whole.py ours|compiled|plain mnist.npz STEPS

prints one JSON object. "ours" is `agentlib train classifier` with all that it does besides: validation, calibration,
pictures, the run's folder. "plain" is PyTorch as its own MNIST example has it (batches of 64, test images by 1,000),
with the same network and the same number of steps; it judges the test images, and draws and saves nothing.
"""

import json
import sys
import tempfile


def ours(data, steps, compile="auto"):
    import agentlib

    with tempfile.TemporaryDirectory() as out:
        run = {"data": data, "steps": steps, "compile": compile, "out": out, "progress": False}
        return agentlib.train("classifier", patience=None, **run).measures["test/accuracy"]


def plain(data, steps):
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional

    with np.load(data) as file:
        x, tested = (torch.from_numpy(file[name]).float().div_(255)[:, None] for name in ("x_train", "x_test"))
        y, truth = (torch.from_numpy(file[name]).long() for name in ("y_train", "y_test"))
    convolutions = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    convolutions += [nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    convolutions += [nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    rows = torch.cat([torch.randperm(len(x)) for _ in range(64 * steps // len(x) + 1)])
    for index in rows[: 64 * steps].split(64):
        optimizer.zero_grad()
        functional.cross_entropy(network(x[index]), y[index]).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        pairs = zip(tested.split(1_000), truth.split(1_000), strict=True)
        right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in pairs)
    return right / len(tested)


if __name__ == "__main__":
    side, data, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    found = plain(data, steps) if side == "plain" else ours(data, steps, True if side == "compiled" else "auto")
    print(json.dumps({"accuracy": found}))
