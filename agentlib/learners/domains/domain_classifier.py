"""Classification from several domains, for one that is not among them.

    erm          L = 1/N sum_i CE_i                                 (Gulrajani and Lopez-Paz 2021, arXiv:2007.01434)
    importance   L = 1/N sum_i r(x_i) CE_i,   r = p_target / p_source                                (Shimodaira 2000)
    dann         L = CE + CE(domain | R(z)),  R the reversed gradient        (Ganin et al. 2016, arXiv:1505.07818)
    coral        L = CE + weight mean |C_a - C_b|^2 / 4 d^2         (Sun and Saenko 2016, arXiv:1607.01719)
    mmd          L = CE + weight mean MMD^2(z_a, z_b)               (Li et al. 2018)
    irm          L = CE + weight mean |d R_a(w z) / dw|^2, w = 1    (Arjovsky et al. 2019, arXiv:1907.02893)
    group_dro    L = sum_g q_g CE_g,   q_g <- q_g exp(eta CE_g)     (Sagawa et al. 2020, arXiv:1911.08731)
    mixup        L = s CE(f(x'), y1) + (1 - s) CE(f(x'), y2),  x1 and x2 of two domains   (Yan et al. 2020)
    arm          L = CE(f(x, c_d)), c_d the mean context of a domain's examples    (Zhang et al. 2021, arXiv:2007.02931)
    ttt          L = CE + weight CE(turn(x), by which quarter x is turned)         (Sun et al. 2020, arXiv:1909.13231)

z are the features, a and b domains; of "dann", "coral" and "mmd" the targets are domains, too, where there are any. The
rules are in `rules.py`. Resampling is the batches': balance="groups". The discriminator of "dann" learns in the same
step as all else, and its reversed gradient grows as 2 / (1 + exp(-10 p)) - 1 with the share p of the run. A penalty
above 1 divides the whole loss, so that it does not change the size of steps (the authors' code for IRM does so).
"arm" and "ttt" are adapted by the examples of a domain (`adaptation.py`). Contexts are read from features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import NonNegative, Range, Whole
from agentlib.data.datasets import Dataset
from agentlib.data.domains import DomainExamples, Domains
from agentlib.data.mixing import beta_shares, mixup
from agentlib.families.domains import AcrossDomains, DomainFacts, on_domains
from agentlib.learners.domains import rules
from agentlib.learners.domains.adaptation import adapted
from agentlib.learners.domains.parts import policy_of, ratio_of
from agentlib.learners.supervised.classifier import cross_entropy
from agentlib.learners.supervised.mixtures import mixed_losses
from agentlib.learners.supervised.regularization import penalized, penalty
from agentlib.policies import CategoricalPolicy, RotationPolicy
from agentlib.policies.base import require_no_memory

ALIGNED = ("dann", "coral", "mmd")  # make domains alike, those of the targets among them


@dataclass(frozen=True, kw_only=True)
class DomainsConfig(AcrossDomains):
    """The numbers of a run on several domains."""

    method: Literal["erm", "importance", "dann", "coral", "mmd", "irm", "group_dro", "mixup", "arm", "ttt"] = "erm"
    """How it is prepared for another domain."""
    weight: NonNegative = 1.0
    """Weight of the penalty of "coral", "mmd" and "irm", of the domain's loss of "dann" and of the turns' of "ttt"."""
    anneal: Whole = 0
    """Updates before which the penalty of "irm" has a weight of at most 1."""
    ratio: Literal["logistic", "ulsif", "gaussian"] = "logistic"
    """How "importance" learns the ratio of the densities."""
    step_size: NonNegative = 0.01
    """Step eta of the weights of groups of "group_dro"."""
    per_class: bool = False
    """Take the examples of each class of a domain for a group of "group_dro"."""
    alpha: Annotated[float, Range(0.01)] = 0.2
    """Of the shares of "mixup", Beta(alpha, alpha)."""
    l2: NonNegative = 0.0
    """Strength of the penalty l2 sum W^2."""


class DomainClassifier(Learner):
    """A classifier from several domains; the actions of `policy` are the classes.

    Args:
        policy: a classifier.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.
        n_domains: number of domains, for "dann" the targets' among them.
        ratio: of each training example, for "importance", `(N,)`.

    Raises:
        ValueError: the policy has memory, or there is one domain where two are needed.
    """

    shares: Tensor
    ratio: Tensor | None

    def __init__(
        self,
        policy: CategoricalPolicy,
        optimizer: Optimizer,
        config: DomainsConfig = DomainsConfig(),
        n_domains: int = 2,
        ratio: Tensor | None = None,
    ) -> None:
        super().__init__()
        require_no_memory(policy, "a classifier")
        if n_domains < 2 and config.method in (*ALIGNED, "irm", "mixup", "arm"):
            raise ValueError(f"{config.method} compares domains, and there is one: give two at least, or take erm")
        self.config, self.policy, self.n_domains = config, policy, n_domains
        layers = [nn.Linear(policy.feature_dim, 64), nn.ReLU(), nn.Linear(64, n_domains)]
        self.discriminator = nn.Sequential(*layers) if config.method == "dann" else None
        n_groups = n_domains * (policy.n_actions if config.per_class else 1)
        self.register_buffer("shares", torch.full((n_groups,), 1.0 / n_groups, dtype=torch.float32))
        self.register_buffer("ratio", ratio)
        trained = nn.ModuleList([policy, *([] if self.discriminator is None else [self.discriminator])])
        self.step = Step(trained, optimizer, config.max_grad_norm)
        self.matrices = penalized(policy)

    @property
    def adapts(self) -> bool:
        """Whether it sees the targets' examples, without labels."""
        return self.config.method in (*ALIGNED, "importance")

    @classmethod
    def build(cls, backbone: nn.Module, config: DomainsConfig, facts: DomainFacts) -> Self:
        """A classifier on a backbone; the ratio of densities is learned here.

        Raises:
            ValueError: what `policy_of` and `ratio_of` of `parts.py` raise.
        """
        ratio = ratio_of(config.ratio, config.balance, facts) if config.method == "importance" else None
        aligned = config.method in ALIGNED and len(facts.target_x) > 0
        policy = policy_of(config.method, backbone, facts)
        return cls(policy, config.optimizer(), config, facts.n_domains + aligned, ratio)

    def predict(self, x: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        return self.policy(x)[0]  # type: ignore[no-any-return]

    def adapted(self, x: Tensor) -> Any:
        """The policy as it is used on a domain of which examples `(N, ...)` are known, without labels."""
        return adapted(self.policy, x)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy `(B,)` of logits with labels."""
        return cross_entropy(output, target)

    def update(self, batch: DomainExamples) -> Update:
        """One step on the loss of a batch; `per_sample` holds the cross-entropies `(N,)`."""
        n, y = len(batch.y), batch.y
        share = beta_shares(self.config.alpha, n, y.device) if self.config.method == "mixup" else None
        x = batch.x if share is None else mixup(batch.x, share)
        masks = (rules.masks_of(batch.domain, self.n_domains),) if self.config.method == "arm" else ()
        features: Tensor = self.policy.backbone(torch.cat([x, batch.target_x]), *masks)
        logits = self.policy.output_of(features[:n])  # (N, K)
        losses = mixed_losses(lambda labels: cross_entropy(logits, labels), y, share)
        loss, extra, scale = self.objective(losses, logits, features, batch)
        total = (loss + scale * extra) / scale.clamp_min(1.0)
        norm = self.step(total + penalty(self.matrices, 0.0, self.config.l2), batch.clock)
        accuracy = (logits.detach().argmax(1) == y).float().mean()
        metrics = {"loss": loss.detach(), "penalty": extra.detach(), "accuracy": accuracy, "grad_norm": norm}
        return Update(metrics, losses.detach())

    def objective(
        self, losses: Tensor, logits: Tensor, features: Tensor, batch: DomainExamples
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the penalty and its weight, each 0-dim; features are `(N + M, d)`, those of the targets last."""
        config, method, y = self.config, self.config.method, batch.y
        scale = torch.full_like(losses[0], config.weight).detach()
        nothing = torch.zeros_like(scale)
        domain = functional.pad(batch.domain, (0, len(features) - len(y)), value=self.n_domains - 1)
        if method == "importance":
            assert self.ratio is not None
            return (self.ratio[batch.index] * losses).mean(), nothing, nothing
        if method == "group_dro":
            group = batch.domain * self.policy.n_actions + y if config.per_class else batch.domain
            by_group = rules.means(losses, rules.masks_of(group, len(self.shares)))
            self.shares.copy_(rules.tilted(self.shares, by_group, config.step_size))
            return (self.shares.clone() * by_group).sum(), nothing, nothing
        if method == "irm":
            scale = torch.where(torch.as_tensor(batch.clock.updates) >= config.anneal, scale, scale.clamp_max(1.0))
            slopes = rules.irm_penalty(logits, y, rules.masks_of(batch.domain, self.n_domains))
            return losses.mean(), slopes.mean(), scale
        if self.discriminator is not None:
            rate = torch.tanh(5.0 * torch.as_tensor(batch.clock.fraction)).to(features)  # 2 / (1 + exp(-10 p)) - 1
            guesses = self.discriminator(rules.reversed_gradient(features, rate))
            return losses.mean(), functional.cross_entropy(guesses, domain), scale
        if isinstance(self.policy, RotationPolicy):
            images, turn = rules.turned_apart(batch.x)
            return losses.mean(), functional.cross_entropy(self.policy.turns(self.policy.backbone(images)), turn), scale
        if method in ("coral", "mmd"):
            rule = rules.coral if method == "coral" else rules.mmd
            return losses.mean(), rule(features, rules.masks_of(domain, self.n_domains)), scale
        return losses.mean(), nothing, nothing

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: two clouds of points in each of two domains, the second moved, one layer of 16."""
        labels, generator = torch.arange(64) % 2, torch.Generator().manual_seed(0)
        clouds = 2.0 * labels[:, None] * torch.tensor([1.0, 0.5]) + torch.randn(64, 2, generator=generator)
        parts = {name: Dataset(clouds + move, labels, ("left", "right")) for name, move in (("a", 0.0), ("b", 1.0))}
        config = DomainsConfig(method="group_dro", batch_size=32, net_arch=(16,), learning_rate=1e-2, l2=1e-4)
        return RECIPE.tiny(cls, config, seed, data=Domains(parts, seed=0))


SUMMARY = "a classifier for domains that it has not seen: DANN, CORAL, IRM, group DRO and others as options"
RECIPE = Recipe("domains", DomainClassifier, DomainsConfig, on_domains, SUMMARY, steps=2_000)
