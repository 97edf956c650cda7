"""One small network, or several, for each name in BACKBONES; `test_every_backbone.py` runs over all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from agentlib.backbones import (
    CNN,
    GRU,
    LSTM,
    MLP,
    RNN,
    AfterAction,
    BidirectionalLSTM,
    Chain,
    DiffusionModel,
    EncoderDecoder,
    GatedPixelCNN,
    Generator,
    MapTokens,
    MLPDecoder,
    MLPDenoiser,
    NatureCNN,
    Nested,
    OneHot,
    PixelTransformer,
    Prompt,
    RecurrentEncoderDecoder,
    ResNet,
    ReturnConditioned,
    RunningNorm,
    Swin,
    Table,
    TransformerDecoder,
    TransformerEncoder,
    UNet,
    UNetDenoiser,
    ViT,
    WholeSequence,
    WithContext,
    WithMemory,
)


@dataclass(frozen=True)
class Example:
    """A network, what goes in, and what it is excused from."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Any, ...]]
    """The arguments of `forward` for a batch of so many."""
    shape: Callable[[int, int], tuple[int, ...]] = lambda batch, width: (batch, width)
    """Shape of the features, from the batch size and `feature_dim`."""
    fails: Mapping[str, str] = field(default_factory=dict)
    """Checks that must fail, and what the error says."""


def vectors(*shape: int) -> Callable[[int], tuple[Tensor]]:
    return lambda batch: (torch.randn(batch, *shape),)


def pixels(*shape: int) -> Callable[[int], tuple[Tensor]]:
    return lambda batch: (torch.randint(0, 256, (batch, *shape), dtype=torch.uint8),)


def observed_norm() -> RunningNorm:
    norm = RunningNorm((3, 2))
    norm.observe(3.0 + 2.0 * torch.randn(20, 3, 2))
    return norm


def stirred(network: nn.Module) -> nn.Module:
    """With weights that are not at their start, where some are zero and keep gradients from others."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def noisy(batch: int) -> tuple[Any, ...]:
    """Samples, times and conditions."""
    return torch.randn(batch, 2, 3), torch.rand(batch), torch.randn(batch, 4)


def nested_inputs(batch: int) -> tuple[dict[str, Any]]:
    return ({"place": torch.randn(batch, 2), "goal": torch.randint(1, 4, (batch,))},)


def with_resets(build: Callable[[], Any]) -> Callable[[int], tuple[Any, ...]]:
    """Sequences that go on from a state, with new episodes inside."""

    def inputs(batch: int) -> tuple[Any, ...]:
        with torch.no_grad():
            _, state = build()(torch.randn(batch, 5, 3))
        return torch.randn(batch, 6, 3), state, torch.rand(batch, 6) < 0.3

    return inputs


def reading_actions() -> WithMemory:
    return WithMemory(MLP(3, (4,)), GRU(6, 5), previous_action=2)


def six_steps(batch: int) -> Tensor:
    return torch.arange(6).expand(batch, 6).contiguous()


def after_actions(batch: int) -> tuple[Any, ...]:
    start = torch.rand(batch, 6) < 0.3
    previous = torch.randint(0, 2, (batch, 6)).masked_fill(start, -1)
    return AfterAction(torch.randn(batch, 6, 3), previous), reading_actions().initial_state(batch), start


BATCH = {
    "independent": "a sample's output depends on the others",
    "vmap over samples": r"in-place operation .* would mutate a captured Tensor",
}
"""What batch normalization cannot do: it mixes the samples of a batch."""
SPECTRAL = {"repeats": "the second pass differs"}
"""What spectral normalization cannot do in training mode: each pass moves its estimate of the singular vector."""


def of_steps(batch: int, width: int) -> tuple[int, ...]:
    """Shape of the features of networks that read six steps and give features of each."""
    return batch, 6, width


FUSED = dict.fromkeys(("vmap over networks", "vmap over samples"), "not yet implemented the batching rule")
"""torch's fused attention is slow under vmap, and says so; `second_order=True` is what goes there."""

EXAMPLES: dict[str, Example] = {
    "mlp": Example(lambda: MLP(6, (8, 5)), vectors(2, 3)),
    "mlp: no layers": Example(lambda: MLP(6, ()), vectors(6)),
    "mlp: all options": Example(
        lambda: MLP(6, (8, 8, 5), "gelu", norm="layer", dropout=0.2, residual=True, init="orthogonal"), vectors(6)
    ),
    "mlp: rms": Example(lambda: MLP(6, (8, 5), norm="rms", init="he"), vectors(6)),
    "mlp: weight": Example(lambda: MLP(6, (8, 5), "tanh", norm="weight"), vectors(6)),
    "mlp: batch": Example(lambda: MLP(6, (8, 5), "tanh", norm="batch"), vectors(6), fails=BATCH),
    "mlp: spectral": Example(lambda: MLP(6, (32, 16), "tanh", norm="spectral"), vectors(6), fails=SPECTRAL),
    "nature_cnn": Example(lambda: NatureCNN((2, 36, 37), 16), pixels(2, 36, 37)),
    "nature_cnn: stacked": Example(lambda: NatureCNN((2, 36, 36, 3), 16, channels_last=True), pixels(2, 36, 36, 3)),
    "cnn": Example(lambda: CNN((1, 8, 8), (4, "max", (8, 3, 1), "average"), 16), vectors(1, 8, 8)),
    "cnn: pooled": Example(
        lambda: CNN((9, 7, 3), (8, "max", 16), None, norm="channel", channels_last=True), pixels(9, 7, 3)
    ),
    "cnn: batch": Example(
        lambda: CNN((1, 8, 8), (4, "max", 8), 16, "elu", norm="batch"), vectors(1, 8, 8), fails=BATCH
    ),
    "resnet": Example(lambda: ResNet.named("resnet_small", (1, 8, 8), width=16), vectors(1, 8, 8)),
    "resnet: bottleneck": Example(
        lambda: ResNet((3, 40, 33), (1, 1), 8, bottleneck=True, norm="layer", activation="silu"), pixels(3, 40, 33)
    ),
    "resnet: spectral": Example(
        lambda: ResNet.named("resnet_small", (1, 8, 8), width=8, norm="spectral"), vectors(1, 8, 8), fails=SPECTRAL
    ),
    "unet": Example(
        lambda: UNet((1, 9, 11), 3, widths=(8, 16)), vectors(1, 9, 11), lambda batch, width: (batch, width, 9, 11)
    ),
    "unet: conditioned": Example(
        lambda: UNet((8, 8, 3), widths=(8, 16, 16), condition_dim=5, norm="channel", channels_last=True),
        lambda batch: (torch.rand(batch, 8, 8, 3), torch.randn(batch, 5)),
        lambda batch, width: (batch, width, 8, 8),
    ),
    "rnn": Example(lambda: RNN(3, 5, layers=2, nonlinearity="relu"), vectors(6, 3), of_steps),
    "lstm": Example(lambda: LSTM(3, 5), vectors(6, 3), of_steps),
    "gru": Example(lambda: GRU(3, 5, bidirectional=True), vectors(6, 3), of_steps),
    "transformer_encoder": Example(lambda: TransformerEncoder(3, 8, 2, 2, second_order=True), vectors(6, 3)),
    "transformer_encoder: fused": Example(
        lambda: TransformerEncoder(dim=8, heads=2, vocabulary=7, positions="sinusoidal", norm_first=False),
        lambda batch: (torch.randint(0, 7, (batch, 6)),),
        fails=FUSED,
    ),
    "transformer_decoder": Example(
        lambda: TransformerDecoder(3, 8, 2, 2, window=4, second_order=True), vectors(6, 3), of_steps
    ),
    "encoder_decoder": Example(
        lambda: EncoderDecoder(
            TransformerEncoder(3, 8, 1, 2, second_order=True),
            TransformerDecoder(2, 8, 1, 2, cross=True, second_order=True),
        ),
        lambda batch: (torch.randn(batch, 5, 3), torch.randn(batch, 6, 2)),
        of_steps,
    ),
    "recurrent_encoder_decoder": Example(
        lambda: RecurrentEncoderDecoder(7, 8, 2, "concat"),
        lambda batch: (torch.randint(0, 7, (batch, 5)), torch.randint(0, 7, (batch, 6))),
        of_steps,
    ),
    "recurrent_encoder_decoder: pictures": Example(
        lambda: RecurrentEncoderDecoder(
            7, 8, 2, "general", encoder=MapTokens(CNN((1, 8, 8), (4, "max"), None), (1, 8, 8), 8)
        ),
        lambda batch: (torch.rand(batch, 1, 8, 8), torch.randint(0, 7, (batch, 6))),
        of_steps,
    ),
    "map_tokens": Example(lambda: MapTokens(CNN((1, 8, 8), (4, "max"), None), (1, 8, 8), 6), vectors(1, 8, 8)),
    "bidirectional_lstm": Example(
        lambda: BidirectionalLSTM(7, 6),
        lambda batch: (torch.randint(0, 7, (batch, 5)),),
        lambda batch, width: (batch, width),
    ),
    "lstm: resets": Example(lambda: LSTM(3, 5, layers=2), with_resets(lambda: LSTM(3, 5, layers=2)), of_steps),
    "transformer_decoder: resets": Example(
        lambda: TransformerDecoder(3, 8, 2, 2, window=4, positions="learned", second_order=True),
        with_resets(lambda: TransformerDecoder(3, 8, 2, 2, window=4)),
        of_steps,
    ),
    "with_memory": Example(reading_actions, after_actions, of_steps),
    "whole_sequence": Example(lambda: WholeSequence(GRU(3, 4), "mean"), vectors(5, 3)),
    "return_conditioned": Example(
        lambda: ReturnConditioned(MLP(3, (4,)), 2, dim=8, layers=1, heads=2, context=6, dropout=0.0),
        lambda batch: (
            Prompt(torch.randn(batch, 6, 3), torch.randint(0, 2, (batch, 6)), torch.randn(batch, 6), six_steps(batch)),
        ),
        of_steps,
        fails=FUSED,
    ),
    "vit": Example(lambda: ViT((1, 8, 8), patch=4, dim=8, layers=2, heads=2, second_order=True), vectors(1, 8, 8)),
    "vit: fused": Example(
        lambda: ViT((1, 8, 8), patch=4, dim=8, layers=2, heads=2, pool="mean"), vectors(1, 8, 8), fails=FUSED
    ),
    "swin": Example(
        lambda: Swin((3, 16, 16), 2, dim=8, depths=(2, 2), heads=(1, 2), window=4, second_order=True), pixels(3, 16, 16)
    ),
    "swin: fused": Example(
        lambda: Swin((3, 16, 16), 2, dim=8, depths=(2, 2), heads=(1, 2), window=4),
        pixels(3, 16, 16),
        fails={"vmap over networks": "not differentiable with respect to argument 'attn_mask'"},
    ),
    "mlp_decoder": Example(lambda: MLPDecoder(5, (2, 3), (8,)), vectors(5), lambda batch, width: (batch, 2, 3)),
    "generator": Example(
        lambda: Generator(MLPDecoder(5, (6,), (8,), squash=True), latent_dim=2, n_classes=3),
        lambda batch: (torch.randn(batch, 2), torch.randint(0, 3, (batch,))),
        lambda batch, width: (batch, 6),
    ),
    "mlp_denoiser": Example(lambda: MLPDenoiser((2, 3), (8,), 4), noisy, lambda batch, width: (batch, 2, 3)),
    "unet_denoiser": Example(
        lambda: stirred(UNetDenoiser((1, 7, 8), (8, 16), embedding_dim=8)),
        lambda batch: (torch.randn(batch, 1, 7, 8), torch.rand(batch)),
        lambda batch, width: (batch, 1, 7, 8),
    ),
    "diffusion": Example(
        lambda: DiffusionModel(MLPDenoiser((2, 3), (8,)), (2, 3), noise_steps=20),
        lambda batch: (torch.randn(batch, 2, 3), torch.randint(0, 20, (batch,))),
        lambda batch, width: (batch, 2, 3),
    ),
    "gated_pixel_cnn": Example(
        lambda: GatedPixelCNN((2, 5, 6), 3, 4, 2, 3, n_classes=3),
        lambda batch: (torch.rand(batch, 2, 5, 6), torch.randint(0, 3, (batch,))),
        lambda batch, width: (batch, 3, 5, 6),
    ),
    "pixel_transformer": Example(
        lambda: PixelTransformer((2, 3, 4), 3, 8, 1, 2, n_classes=3),
        lambda batch: (torch.rand(batch, 2, 3, 4), torch.randint(0, 3, (batch,))),
        lambda batch, width: (batch, 3, 3, 4),
        fails=FUSED,
    ),
    "one_hot": Example(lambda: OneHot([3, 4], [0, 1]), lambda batch: (torch.randint(1, 3, (batch, 2)),)),
    "table": Example(lambda: Table([3, 4], [0, 1]), lambda batch: (torch.randint(1, 3, (batch, 2)),)),
    "running_norm": Example(observed_norm, vectors(3, 2), lambda batch, width: (batch, 3, 2)),
    "nested": Example(lambda: Nested({"place": MLP(2, (4,)), "goal": OneHot([3], [1])}), nested_inputs),
    "with_context": Example(lambda: WithContext(MLP(6, (8,)), 3), vectors(6), fails=BATCH),
    "chain": Example(lambda: Chain([observed_norm(), MLP(6, (8,), norm="layer")]), vectors(3, 2)),
}
