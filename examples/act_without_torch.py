"""A trained policy in a program that has no torch: ONNX, numpy, and nothing of agentlib.

    python examples/act_without_torch.py [--policy policy.onnx] [--episodes 3]

Without a file another process first trains a small agent for a few seconds, and exports it to
runs/act_without_torch.onnx.

Needs the extra `export`: pip install -c constraints.txt -e '.[export]'. It takes about 10 seconds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np

try:
    import onnxruntime
except ImportError:
    raise SystemExit("onnxruntime is not here: pip install 'agentlib-rl[export]'") from None

TRAIN = """
import sys, agentlib
agent = agentlib.train(
    "dqn", env="CartPole-v1", steps=int(sys.argv[2]), net_arch=(64, 64), progress=False, threads="auto"
)
agent.export(sys.argv[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, default=None, help="an exported policy; by default one is trained")
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15_000, help="training steps where no file is given")
    arguments = parser.parse_args()

    path = arguments.policy
    if path is None:
        path = Path("runs/act_without_torch.onnx")
        path.parent.mkdir(exist_ok=True)
        done = subprocess.run([sys.executable, "-c", TRAIN, str(path), str(arguments.steps)], check=False)
        if done.returncode:
            raise SystemExit("no policy could be trained and exported: the lines above say why")

    session = onnxruntime.InferenceSession(path)
    env = gymnasium.make("CartPole-v1")
    for episode in range(arguments.episodes):
        obs, info = env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            (actions,) = session.run(["action"], {"observation": np.asarray(obs)[None]})
            obs, reward, terminated, truncated, info = env.step(actions[0])
            total += float(reward)
            over = terminated or truncated
        print(f"episode {episode}: return {total:.0f}")
    env.close()
    print(f"torch was {'imported' if 'torch' in sys.modules else 'not imported'}")


if __name__ == "__main__":
    main()
