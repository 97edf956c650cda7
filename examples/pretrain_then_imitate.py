"""Imitation with an encoder that has watched the game before; it takes one to two minutes, since three CNNs learn.

Five demonstrations teach more if SimCLR has seen frames of random play.

python examples/pretrain_then_imitate.py [--frames 8000] [--updates 800] [--demonstrations 5] [--cloning 3000]
    [--episodes 50]

No label, no reward and no expert is needed to pretrain. Two views of a moment are two frames, up to three steps apart:
what they share is where the ball is going and where the paddle is, and that is what a player has to know. The usual
views would do harm: a shifted or a flipped frame is another state of the game, where another action is right.

Five demonstrations remain few: most balls are still missed. A Q-learner, to which the file can be given as well, gains
more; docs/results.md has both.

Needs no extra. Writes the encoder, runs/encoder.safetensors.
"""

import argparse

import agentlib
from agentlib.backbones import NatureCNN, adam, load_backbone, save_backbone
from agentlib.core import Cosine
from agentlib.core.randomness import fresh_weights
from agentlib.data import Batches, frames
from agentlib.data.augmentation import RandomFrame
from agentlib.envs.experts import catch_expert
from agentlib.experience import record_episodes
from agentlib.learners import SimCLR, SimCLRConfig, run
from agentlib.learners.self_supervised.simclr import Projector

CATCH = "agentlib/Catch-v0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8_000)
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--demonstrations", type=int, default=5)
    parser.add_argument("--cloning", type=int, default=3_000, help="updates of each imitator")
    parser.add_argument("--episodes", type=int, default=50, help="of the evaluation")
    arguments = parser.parse_args()

    watched = frames(CATCH, arguments.frames, window=4)
    config = SimCLRConfig(temperature=0.1)
    with fresh_weights(0):
        network = Projector(NatureCNN((1, 36, 36)), config.projection_dim)
    views = Batches(watched, config.batch_size, transform=RandomFrame(), views=2)
    for clock, update in run(SimCLR(network, adam(Cosine(2e-3, 0.0)), config), views, arguments.updates):
        if clock.updates % 100 == 0:
            print(f"update {clock.updates}: {update.metrics['accuracy']:.0%} of the views find their partner")
    encoder = save_backbone(network.backbone, "runs/encoder.safetensors")

    demos = record_episodes(catch_expert, CATCH, arguments.demonstrations)
    print(f"BC from {len(demos)} demonstrations (10 is the best return, random play gets -0.8):")
    # What was learned from thousands of frames is not to be spoilt by 500 labels: only the head learns, and fast.
    frozen = load_backbone(encoder).requires_grad_(False)
    for name, backbone, rate in (("from scratch", "nature_cnn", 1e-3), ("pretrained", frozen, 1e-2)):
        agent = agentlib.train(
            "bc",
            demos=demos,
            backbone=backbone,
            steps=arguments.cloning,
            learning_rate=rate,
            progress=False,
            threads="auto",
        )
        print(f"  {name}:", agentlib.evaluate(agent, CATCH, episodes=arguments.episodes))
    print("the same file serves a Q-learner: agentlib train dqn --env", CATCH, "--backbone", encoder)


if __name__ == "__main__":
    main()
