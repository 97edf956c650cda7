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
    arguments.page.write_text(page(json.loads((arguments.out / "results.json").read_text())))


def page(results):
    ours, sb3 = results["ours"], results["sb3"]
    lines = [
        "# Results",
        "",
        "Written by `make results`.",
        "",
        f"## DQN on {results['environment']} beside Stable-Baselines3",
        "",
        f"The RL Zoo's settings, {results['steps']:,} steps, {len(ours)} seeds, {results['threads']} thread(s); each "
        f"final agent plays {results['episodes']} episodes on seeds that no training saw.",
        "",
        "| seed | agentlib | Stable-Baselines3 |",
        "|---|---|---|",
    ]
    lines += [f"| {a['seed']} | {a['mean']:.1f} | {b['mean']:.1f} |" for a, b in zip(ours, sb3, strict=True)]
    iqm, difference = results["iqm"], results["difference"]
    lines += [
        f"| interquartile mean [95% interval] | {estimate(iqm['ours'])} | {estimate(iqm['sb3'])} |",
        "",
        f"Paired difference, ours less theirs, mean over seeds [95% interval]: {estimate(difference)}.",
        "",
        f"Versions: {', '.join(f'{name} {version}' for name, version in results['versions'].items())}.",
        "",
    ]
    return "\n".join(lines)


def estimate(result):
    return f"{result['value']:.1f} [{result['interval']['low']:.1f}, {result['interval']['high']:.1f}]"


if __name__ == "__main__":
    main()
