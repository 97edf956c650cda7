"""Networks from a code to an example; generators, and critics of the examples that they make."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from agentlib.backbones.base import Backbone
from agentlib.backbones.mlp import MLP
from agentlib.backbones.specs import Described


class MLPDecoder(Described):
    """Linear layers with an activation between them, from a code `(B, input_dim)` to an example `(B, *shape)`.

    Args:
        input_dim: numbers in one code.
        shape: of one example.
        hidden: widths of the layers before the last; empty for a linear decoder.
        activation: name of the nonlinearity.
        squash: the output goes through a sigmoid, for examples between 0 and 1.
    """

    kind = "mlp_decoder"

    def __init__(
        self,
        input_dim: int,
        shape: Sequence[int],
        hidden: Sequence[int] = (64, 64),
        activation: str = "relu",
        squash: bool = False,
    ) -> None:
        super().__init__()
        self.input_dim, self.shape, self.hidden = int(input_dim), tuple(shape), tuple(hidden)
        self.activation, self.squash = activation, bool(squash)
        self.trunk = MLP(self.input_dim, self.hidden, activation)
        self.head = nn.Linear(self.trunk.feature_dim, math.prod(self.shape))

    def forward(self, code: Tensor) -> Tensor:
        """Examples `(B, *shape)`."""
        output: Tensor = self.head(self.trunk(code)).unflatten(1, self.shape)  # (B, *shape)
        return output.sigmoid() if self.squash else output


class Generator(Described):
    """Noise, and perhaps a label, to examples: x = G(z, y), z ~ N(0, I).

    Args:
        decoder: takes codes `(B, latent_dim + n_classes)`.
        latent_dim: numbers in z.
        n_classes: of the labels; 0 for none.
    """

    kind = "generator"

    classes: Tensor

    def __init__(self, decoder: nn.Module, latent_dim: int, n_classes: int = 0) -> None:
        super().__init__()
        self.decoder, self.latent_dim, self.n_classes = decoder, int(latent_dim), int(n_classes)
        self.register_buffer("classes", torch.eye(self.n_classes), persistent=False)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Examples `(B, *shape)` for noise `(B, latent_dim)` and labels `(B,)`."""
        code = z if label is None else torch.cat([z, self.classes[label]], 1)
        examples: Tensor = self.decoder(code)
        return examples

    @torch.no_grad()
    def sample(self, n: int, label: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """n examples `(n, *shape)`, with the labels `(n,)` if the generator is conditional.

        Raises:
            ValueError: labels are missing, or the generator is not conditional.
        """
        if label is None and self.n_classes:
            raise ValueError(f"this generator needs a label from 0 to {self.n_classes - 1} for each example")
        if label is not None and not self.n_classes:
            raise ValueError("this generator is not conditional: leave out the labels")
        like = self.classes
        z = torch.randn(n, self.latent_dim, generator=generator, device=like.device, dtype=like.dtype)
        examples: Tensor = self(z, label)
        return examples


class Critic(nn.Module):
    """A number for each example: the log-odds that it is real, or the height of a Wasserstein critic.

    With labels, D(x, y) = v' phi(x) + w_y' phi(x) + b: the backbone sees the example only, so that any will do
    (projection; Miyato & Koyama 2018).

    Args:
        backbone: phi.
        n_classes: of the labels; 0 for none.
        spectral: the last layer, too, is divided by its largest singular value.
    """

    def __init__(self, backbone: Backbone | nn.Module, n_classes: int = 0, spectral: bool = False) -> None:
        super().__init__()
        self.backbone, self.n_classes = backbone, int(n_classes)
        head = nn.Linear(int(backbone.feature_dim), 1 + self.n_classes)  # type: ignore[arg-type]
        self.head = spectral_norm(head) if spectral else head

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """`(B,)` for examples `(B, ...)` and labels `(B,)`."""
        heights = self.head(self.backbone(x))  # (B, 1 + n_classes)
        height: Tensor = heights[:, 0]
        return height if label is None else height + heights.gather(1, 1 + label[:, None])[:, 0]
