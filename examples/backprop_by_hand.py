"""Backpropagation written out for two layers, against autograd.

    z1 = x W1' + b1,   a1 = sigmoid(z1),   z2 = a1 W2' + b2,   L = mean of -log softmax(z2)[y]

Going back, d denotes the derivative of L by a quantity:

    dz2 = (softmax(z2) - onehot(y)) / N        dW2 = dz2' a1      db2 = sum of dz2 over the examples
    da1 = dz2 W2                               dW1 = dz1' x       db1 = sum of dz1
    dz1 = da1 * sigmoid'(z1),  sigmoid'(z) = sigmoid(z) (1 - sigmoid(z))

Each layer needs what came in on the way forward and what comes back from the layer above: that is all there is to it.

    python examples/backprop_by_hand.py [--steps 1000]

Needs no extra, and writes no file. It takes about 2 seconds.
"""

import argparse

import numpy as np
import torch
from torch.nn import functional

Arrays = dict[str, np.ndarray]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))  # large z would overflow
    return e / e.sum(axis=1, keepdims=True)


def loss_and_gradients(weights: Arrays, x: np.ndarray, y: np.ndarray) -> tuple[float, Arrays]:
    """Forward, then backward, by hand."""
    a1 = sigmoid(x @ weights["W1"].T + weights["b1"])  # (N, hidden)
    p = softmax(a1 @ weights["W2"].T + weights["b2"])  # (N, classes)
    loss = -np.log(p[np.arange(len(y)), y]).mean()

    dz2 = p.copy()
    dz2[np.arange(len(y)), y] -= 1
    dz2 /= len(y)
    da1 = dz2 @ weights["W2"]
    dz1 = da1 * a1 * (1 - a1)
    gradients = {"W1": dz1.T @ x, "b1": dz1.sum(0), "W2": dz2.T @ a1, "b2": dz2.sum(0)}
    return float(loss), gradients


def autograd_gradients(weights: Arrays, x: np.ndarray, y: np.ndarray) -> Arrays:
    """The same by autograd."""
    tensors = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in weights.items()}
    a1 = torch.sigmoid(functional.linear(torch.from_numpy(x), tensors["W1"], tensors["b1"]))
    z2 = functional.linear(a1, tensors["W2"], tensors["b2"])
    functional.cross_entropy(z2, torch.from_numpy(y)).backward()
    return {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def numeric_gradient(weights: Arrays, name: str, index: tuple, x: np.ndarray, y: np.ndarray, h: float = 1e-5) -> float:
    """(L(w + h) - L(w - h)) / 2h for one weight."""
    losses = []
    for sign in (1, -1):
        moved = {key: value.copy() for key, value in weights.items()}
        moved[name][index] += sign * h
        losses.append(loss_and_gradients(moved, x, y)[0])
    return (losses[0] - losses[1]) / (2 * h)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    steps = parser.parse_args().steps

    # Two interleaved spirals: no line separates them, so that the hidden layer has something to do.
    random = np.random.default_rng(0)
    turn = np.sqrt(random.random(200)) * 2 * np.pi
    y = np.arange(200) % 2
    angle = turn + np.pi * y
    x = np.stack([turn * np.cos(angle), turn * np.sin(angle)], axis=1) / 6 + 0.01 * random.normal(size=(200, 2))
    hidden = 32
    weights = {
        "W1": random.normal(size=(hidden, 2)) * 4,
        "b1": random.normal(size=hidden) * 2,
        "W2": random.normal(size=(2, hidden)) / hidden**0.5,
        "b2": np.zeros(2),
    }

    _, by_hand = loss_and_gradients(weights, x, y)
    automatic = autograd_gradients(weights, x, y)
    for name, gradient in by_hand.items():
        index = tuple(0 for _ in gradient.shape)
        numeric = numeric_gradient(weights, name, index, x, y)
        difference = np.abs(gradient - automatic[name]).max()
        print(f"d{name}: by hand and by autograd differ by at most {difference:.1e}; one of them: "
              f"{gradient[index]:+.10f}, and by small steps {numeric:+.10f}")  # fmt: skip
        assert difference < 1e-12
        assert abs(gradient[index] - numeric) < 1e-8

    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(steps + 1):
        loss, gradients = loss_and_gradients(weights, x, y)
        if step % max(steps // 5, 1) == 0:
            scores = sigmoid(x @ weights["W1"].T + weights["b1"]) @ weights["W2"].T + weights["b2"]
            print(f"step {step}: loss {loss:.3f}, accuracy {(scores.argmax(1) == y).mean():.3f}")
        for name, gradient in gradients.items():
            velocity[name] = 0.9 * velocity[name] + gradient
            weights[name] -= 1.0 * velocity[name]


if __name__ == "__main__":
    main()
