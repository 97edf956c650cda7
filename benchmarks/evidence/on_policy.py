"""PPO and A2C beside Stable-Baselines3's, with the same settings."""

from benchmarks.beside_sb3 import Task, experiment

TASKS = (
    Task(
        "ppo",
        "CartPole-v1",
        100_000,
        least=475,
        margin=25,
        deviation=15,
        source="three pairs of docs/benchmarks.md: 0, 0 and -26",
        reference="500 (RL Zoo, one agent)",
        seeds=10,
    ),
    Task(
        "a2c",
        "CartPole-v1",
        500_000,
        least=475,
        margin=100,
        deviation=150,
        source="a guess: five agents of SB3 in the benchmarks of rlox end between 112 and 500 at 100,000 steps",
        reference="500 (RL Zoo, one agent)",
    ),
    Task(
        "ppo",
        "Acrobot-v1",
        300_000,
        least=-100,
        margin=10,
        deviation=4.5,
        source="1.4 times that of five agents of SB3 in the benchmarks of rlox at 251,000 steps, -81 to -88",
        reference="-73.5 (RL Zoo, one agent, 1,000,000 steps)",
    ),
    Task(
        "ppo",
        "Pendulum-v1",
        100_000,
        least=-250,
        margin=50,
        deviation=33,
        source="of the first design's pairs",
        reference="-172 (RL Zoo, one agent)",
        seeds=10,
        first_seed=300,
        note="A first design, five seeds from 200 on and the same margin, assumed a deviation of 21 and was not met: "
        "-14 [-55, 27].",
    ),
    Task("ppo", "LunarLander-v3", 1_000_000, reference="242 (RL Zoo, one agent, LunarLander-v2)", seeds=1),
)

EXPERIMENTS = [experiment(task, "On-policy") for task in TASKS]
