"""One and two processes step slow environments while this one learns: steps per second of both, in two minutes."""

import time

import gymnasium

import agentlib


class Slow(gymnasium.Wrapper):
    """A step takes 2 ms, as a simulation would."""

    def step(self, action):
        time.sleep(0.002)
        return self.env.step(action)


def world():
    return Slow(gymnasium.make("CartPole-v1"))


def speed(actors, steps):
    times = []
    agentlib.train(
        "dqn",
        env=world,
        actors=actors,
        n_envs=2,
        steps=steps,
        learning_starts=512,
        train_freq=16,
        gradient_steps=1,
        callback=lambda clock, numbers: times.append((clock.steps, time.perf_counter())),
        progress=False,
    )
    (first, began), (last, ended) = times[0], times[-1]  # without Ray's start
    return (last - first) / (ended - began)


if __name__ == "__main__":
    for actors in (1, 2):
        print(f"{actors} actors: {speed(actors, steps=10_240):,.0f} steps per second")
