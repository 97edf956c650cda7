"""A network in eval mode for a while, also where several threads act with it."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn


def in_eval_mode(policy: nn.Module) -> Any:
    """A context in which the policy acts: no gradients, eval mode; its mode is put back afterwards.

    Of several threads that act at once, the first switches the mode and the last puts it back.
    """
    return _EvalMode(policy)


_ACTING: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""How many act at this moment with a policy that is otherwise in training mode."""
_LOCK = threading.Lock()


def _forget_other_threads() -> None:
    """After a fork: the threads of the parent, which may just have been acting, are not here."""
    global _LOCK
    _LOCK = threading.Lock()
    for policy in list(_ACTING):
        policy.train()
    _ACTING.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_other_threads)


class _EvalMode:
    def __init__(self, policy: nn.Module) -> None:
        self.policy, self.no_grad, self.switched = policy, torch.no_grad(), False

    def __enter__(self) -> None:
        self.no_grad.__enter__()
        with _LOCK:
            self.switched = self.policy.training or self.policy in _ACTING
            if self.switched:
                _ACTING[self.policy] = _ACTING.get(self.policy, 0) + 1
                self.policy.eval()

    def __exit__(self, *error: Any) -> None:
        if self.switched:
            with _LOCK:
                _ACTING[self.policy] -= 1
                if _ACTING[self.policy] == 0:
                    del _ACTING[self.policy]
                    self.policy.train()
        self.no_grad.__exit__(*error)
