"""Networks that runs leave: each is found by its learner's line in the catalog, and by no other."""

import importlib
import pkgutil
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

import agentlib.learners
from agentlib import catalog
from agentlib.backbones.specs import BACKBONES, Described
from agentlib.policies import POLICIES
from agentlib.runs.models import load_model, save_model


class Doubled(Described):
    """A network of a learner that is new."""

    kind = "doubled"

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.size, self.weight = size, nn.Parameter(torch.randn(size))


def test_a_new_learners_network_is_loaded_by_its_line_in_the_catalog(tmp_path, monkeypatch):
    path = save_model(Doubled(3), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="unknown network 'doubled'"):
        load_model(path)
    module = ModuleType("agentlib.learners.new")
    module.Network = Doubled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(catalog.LEARNERS, "new", ("new:RECIPE", "a new one"))
    assert load_model(path)[0].size == 3


def test_each_network_of_the_learners_is_among_them():
    found = set()
    for place in pkgutil.walk_packages(agentlib.learners.__path__, "agentlib.learners."):
        values = vars(importlib.import_module(place.name)).values()
        found |= {each.kind for each in values if isinstance(each, type) and issubclass(each, Described) and each.kind}
    assert len(found) > 30
    assert found <= set(catalog.networks()) | set(POLICIES) | set(BACKBONES)
