"""DAgger with you as the expert, at this terminal.

python examples/dagger_with_you.py [--env FrozenLake-v1] [--takeover] [--rounds 3] [--typist]

You see where the student is and say what you would do: a key and Enter, or Enter alone for the same as before. With
--takeover you see what the student wants to do; Enter lets it, a key takes over. q or Ctrl-D ends it: the student
learns from what you have said so far. With --typist a program answers in your place, in about 3 seconds.

Needs no extra, and writes no file.
"""

import argparse
from typing import Any

import agentlib
from agentlib.envs.playing import Person, Terminal
from agentlib.learners import DAggerConfig

KEYS = {"a": 0, "s": 1, "d": 2, "w": 3}
"""Left, down, right, up."""
WAY = "ssdsdd" * 6
"""The way across the ice, six times."""


def typist() -> Terminal:
    """A terminal at which somebody types without looking."""
    lines = [f"{key}\n" for key in WAY]
    return Terminal(read=lambda: lines.pop(0) if lines else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="FrozenLake-v1", help="with four discrete actions")
    parser.add_argument("--takeover", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--typist", action="store_true")
    arguments = parser.parse_args()
    kwargs: dict[str, Any] = {"is_slippery": False} if arguments.env.startswith("FrozenLake") else {}
    you = Person(KEYS, typist() if arguments.typist else Terminal())
    config = DAggerConfig(
        rounds=arguments.rounds,
        rollout_round_min_episodes=1,
        rollout_round_min_timesteps=10,
        epochs=50,
        beta=1.0,  # you act; the student only watches
        gate="takeover" if arguments.takeover else None,
    )
    agent = agentlib.train(config, env=arguments.env, env_kwargs=kwargs, expert=you, progress=False, threads="auto")
    assert isinstance(agent, agentlib.Agent)
    print("\nWhat the student makes of it:", agentlib.evaluate(agent, lambda: make(arguments.env, kwargs), episodes=5))


def make(env_id: str, kwargs: dict[str, Any]) -> Any:
    """One environment."""
    import gymnasium

    return gymnasium.make(env_id, **kwargs)


if __name__ == "__main__":
    main()
