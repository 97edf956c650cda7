"""Trains what docs/results.md claims, and writes that page: `make results`.

The comparison with Stable-Baselines3 on CartPole-v1 with the RL Zoo's settings: 5 seeds, 50,000 steps.
"""

import argparse
import json
from pathlib import Path

import agentlib

ROOT = Path(__file__).parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "results" / "dqn_cartpole")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    arguments = parser.parse_args()
    comparison = agentlib.compare(
        "dqn",
        env="CartPole-v1",
        steps=arguments.steps,
        seeds=arguments.seeds,
        threads=arguments.threads,
        out=arguments.out,
    )
    print(comparison)
    arguments.page.write_text(
        page(json.loads((arguments.out / "results.json").read_text()) | {"text": str(comparison)})
    )


def page(results):
    ours, sb3 = results["ours"], results["sb3"]
    lines = [
        "# Results",
        "",
        "Written by `make results`.",
        "",
        f"## DQN on {results['environment']} beside Stable-Baselines3",
        "",
        f"The RL Zoo's settings, {results['steps']:,} steps, {len(ours)} seeds, {results['threads']} thread(s); each final "
        f"agent plays {results['episodes']} episodes on seeds that no training saw.",
        "",
        "| seed | return, ours | return, SB3 | seconds, ours | seconds, SB3 |",
        "|---|---|---|---|---|",
    ]
    for mine, theirs in zip(ours, sb3, strict=True):
        lines.append(
            f"| {mine['seed']} | {mine['mean']:.1f} | {theirs['mean']:.1f} "
            f"| {mine['seconds']:.1f} | {theirs['seconds']:.1f} |"
        )
    return "\n".join([*lines, "", f"    {'    '.join(str(results['text']).splitlines(keepends=True))}", ""])


if __name__ == "__main__":
    main()
