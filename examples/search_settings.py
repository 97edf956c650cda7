"""Search hyperparameters of DQN in some minutes, and see whether the best ones beat the usual ones on fresh seeds.

python examples/search_settings.py [--trials 8] [--steps 10000] [--out sweep]

Needs the extra `sweep`; writes into the folder --out. It takes about 3 minutes, since it trains 14 agents.
"""

import argparse

import agentlib

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "gamma": {"low": 1e-3, "high": 0.1, "log": True, "one_minus": True},  # one minus gamma is drawn
    "train_freq": [4, 16, 64],
    "gradient_steps": {"choices": [1, 2, 4], "divisor_of": "train_freq"},  # as many as train_freq, or a part of them
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--fresh", type=int, default=3, help="seeds of the comparison")
    parser.add_argument("--out", default="sweep")
    options = parser.parse_args()
    found = agentlib.sweep(
        "dqn",
        env="CartPole-v1",
        steps=options.steps,
        trials=options.trials,
        space=SPACE,
        compare_seeds=options.fresh,
        out=options.out,
    )
    print(found)
    print("by importance:", ", ".join(f"{name} {share:.2f}" for name, share in found.importance.items()) or "unknown")
    print(f"the report is {found.folder / 'report.html'}")
