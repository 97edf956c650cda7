"""A network in eval mode for a while, also where several threads act with it."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn


def in_eval_mode(policy: nn.Module) -> Any:
    """A context in which the policy acts: no gradients, eval mode; the mode of each of its modules is put back.

    Of several threads that act at once, the first switches the modes and the last puts them back.
    """
    return _EvalMode(policy)


_ACTING: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
"""How many act at this moment with a policy that is otherwise in training mode, and those of its modules that are."""
_LOCK = threading.Lock()


def _forget_other_threads() -> None:
    """After a fork: the threads of the parent, which may just have been acting, are not here."""
    global _LOCK
    _LOCK = threading.Lock()
    for _, modules in _ACTING.values():
        _train(modules)
    _ACTING.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_other_threads)


def _train(modules: list[nn.Module]) -> None:
    for module in modules:  # not `train()`, which would reach those that their owner had put into eval mode
        module.training = True


class _EvalMode:
    def __init__(self, policy: nn.Module) -> None:
        self.policy, self.no_grad, self.switched = policy, torch.no_grad(), False

    def __enter__(self) -> None:
        self.no_grad.__enter__()
        with _LOCK:
            self.switched = self.policy.training or self.policy in _ACTING
            if self.switched:
                training = [module for module in self.policy.modules() if module.training]
                count, modules = _ACTING.get(self.policy, (0, training))
                _ACTING[self.policy] = count + 1, modules
                self.policy.eval()

    def __exit__(self, *error: Any) -> None:
        if self.switched:
            with _LOCK:
                count, modules = _ACTING.pop(self.policy)
                if count == 1:
                    _train(modules)
                else:
                    _ACTING[self.policy] = count - 1, modules
        self.no_grad.__exit__(*error)
