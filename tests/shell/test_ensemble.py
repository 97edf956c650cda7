"""Several agents as one file: what they decide together, what they know in common, and what does not go together."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agentlib import Agent
from agentlib.backbones import MLP
from agentlib.core.randomness import fresh_weights
from agentlib.policies import CategoricalPolicy, EnsemblePolicy, Predictor
from agentlib.shell.ensemble import together
from agentlib.shell.main import main

SPACE = spaces.Box(-1.0, 1.0, (3,), np.float32)


def agent(seed=0, actions=4, space=SPACE, classes=("a", "b", "c", "d")):
    with fresh_weights(seed):
        policy = CategoricalPolicy(MLP(3, hidden=(8,)), actions)
        for parameter in policy.parameters():
            torch.nn.init.normal_(parameter)
    about = {"learner": "classifier", "seed": seed, "classes": list(classes)}
    return Agent(policy, space, spaces.Discrete(actions), about=about)


@pytest.mark.parametrize("vote", ["mean", "majority"])
def test_a_file_of_three_decides_as_their_policies_together(vote, tmp_path, capsys):
    x = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    agents = [agent(seed) for seed in range(3)]
    files = [str(one.save(tmp_path / f"{number}.safetensors")) for number, one in enumerate(agents)]
    out = tmp_path / "all.safetensors"
    assert main(["ensemble", *files, "--vote", vote, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 3 agents that decide by {vote}\n"
    found = Agent.load(out)
    assert found.about == {"learner": "classifier", "classes": ["a", "b", "c", "d"], "members": 3, "vote": vote}
    with torch.no_grad():
        each = torch.stack([one.policy(torch.from_numpy(x))[0].softmax(-1) for one in agents])  # (3, 50, 4)
    votes = torch.nn.functional.one_hot(each.argmax(-1), 4).sum(0)
    most = votes == votes.amax(-1, keepdim=True)
    expected = (each.mean(0) if vote == "mean" else each.mean(0) * most).argmax(-1)
    assert found.act(x).tolist() == expected.tolist()
    np.save(tmp_path / "x.npy", x[:2])
    assert main(["predict", str(out), str(tmp_path / "x.npy")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert isinstance(found.policy, EnsemblePolicy)
    apart = found.policy.disagreement(found.policy(torch.from_numpy(x[:2]))[0]).tolist()
    assert [line.rpartition(" ")[2] for line in lines] == [f"{one:.3f}" for one in apart]


def test_what_does_not_go_together_is_refused(tmp_path, capsys):
    first, names = agent(), ["one", "two"]
    with pytest.raises(ValueError, match="two has the actions Discrete"):
        together([first, agent(actions=3)], names)
    with pytest.raises(ValueError, match="two has the observations Box"):
        together([first, agent(space=spaces.Box(-2.0, 2.0, (3,), np.float32))], names)
    with pytest.raises(ValueError, match=r"two has the classes \['x', 'b', 'c', 'd'\], one has \['a', 'b', 'c', 'd'\]"):
        together([first, agent(classes="xbcd")], names)
    with pytest.raises(ValueError, match="real numbers have no majority"):
        together([Agent(Predictor(MLP(3), 1), SPACE, spaces.Box(-1, 1, (1,))) for _ in range(2)], names, "majority")
    assert main(["ensemble", str(first.save(tmp_path / "one"))]) == 2
    assert "two agents or more" in capsys.readouterr().err
