"""DAgger with a Stable-Baselines3 model as the expert, asked always, and asked only when the student is unsure.

python examples/dagger_with_sb3_expert.py [--expert FILE.zip] [--steps 20000] [--rounds 5]

Without a file a PPO is trained first. Nothing of a file is unpickled.

Without a file it needs the extra `sb3`: pip install -c constraints.txt -e '.[sb3]'. It writes no file. It
takes about 40 seconds.
"""

import argparse

import agentlib
from agentlib.learners import DAggerConfig

ENV = "CartPole-v1"


def train_expert(steps: int) -> object:
    """Stable-Baselines3's PPO, with the RL Zoo's settings for CartPole."""
    try:
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError:
        raise SystemExit("training the expert needs Stable-Baselines3: pip install 'agentlib-rl[sb3]'") from None

    settings = {"n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20}
    model = PPO("MlpPolicy", make_vec_env(ENV, 8, seed=0), learning_rate=1e-3, seed=0, device="cpu", **settings)
    return model.learn(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expert", help="a file that an SB3 model's save wrote")
    parser.add_argument("--steps", type=int, default=20_000, help="of the expert's training")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    expert = f"sb3:{arguments.expert}" if arguments.expert else train_expert(arguments.steps)
    for gate in (None, "unsure"):
        latest: dict[str, float] = {}
        config = DAggerConfig(rounds=arguments.rounds, gate=gate)
        agent = agentlib.train(
            config,
            env=ENV,
            expert=expert,
            callback=lambda clock, metrics, to=latest: to.update(metrics),
            threads="auto",
        )
        assert isinstance(agent, agentlib.Agent)
        print(f"gate {gate}: {latest['rollout/labels']:.0f} labels, {agentlib.evaluate(agent, ENV, episodes=20)}")


if __name__ == "__main__":
    main()
