"""Networks from observations to features, and what trains them: optimizer rules and schedules."""

from __future__ import annotations

from agentlib.backbones.adaptation import lora, merged
from agentlib.backbones.attention import with_gradient_checkpointing
from agentlib.backbones.base import Backbone, Observation, SequenceBackbone, State
from agentlib.backbones.bidirectional import BidirectionalLSTM
from agentlib.backbones.cnn import CNN, NatureCNN
from agentlib.backbones.combine import Chain, Nested, OneHot, RunningNorm, Table, WithContext
from agentlib.backbones.decoders import Critic, Generator, MLPDecoder
from agentlib.backbones.denoisers import MLPDenoiser, UNetDenoiser
from agentlib.backbones.diffusion import DiffusionModel
from agentlib.backbones.encoder_decoder import EncoderDecoder
from agentlib.backbones.files import load_backbone, save_backbone
from agentlib.backbones.layers import initialize
from agentlib.backbones.luong import LuongAttention, RecurrentEncoderDecoder
from agentlib.backbones.map_tokens import MapTokens
from agentlib.backbones.mlp import MLP
from agentlib.backbones.optimizers import Optimized, adagrad, adam, adamw, lars, rmsprop, sgd
from agentlib.backbones.pixel_cnn import GatedPixelCNN
from agentlib.backbones.pixel_transformer import PixelTransformer
from agentlib.backbones.recurrent import GRU, LSTM, RNN
from agentlib.backbones.resnet import ResNet
from agentlib.backbones.return_conditioned import Prompt, ReturnConditioned
from agentlib.backbones.sequence import AfterAction, WholeSequence, WithMemory
from agentlib.backbones.specs import BACKBONES, Described, Spec, described, from_spec, spec_of
from agentlib.backbones.transformer import TransformerDecoder, TransformerEncoder
from agentlib.backbones.unet import MapDecoder, UNet
from agentlib.backbones.vision_transformer import Swin, ViT

__all__ = [
    "BACKBONES",
    "CNN",
    "GRU",
    "LSTM",
    "MLP",
    "RNN",
    "AfterAction",
    "Backbone",
    "BidirectionalLSTM",
    "Chain",
    "Critic",
    "Described",
    "DiffusionModel",
    "EncoderDecoder",
    "GatedPixelCNN",
    "Generator",
    "LuongAttention",
    "MLPDecoder",
    "MLPDenoiser",
    "MapDecoder",
    "MapTokens",
    "NatureCNN",
    "Nested",
    "Observation",
    "OneHot",
    "Optimized",
    "PixelTransformer",
    "Prompt",
    "RecurrentEncoderDecoder",
    "ResNet",
    "ReturnConditioned",
    "RunningNorm",
    "SequenceBackbone",
    "Spec",
    "State",
    "Swin",
    "Table",
    "TransformerDecoder",
    "TransformerEncoder",
    "UNet",
    "UNetDenoiser",
    "ViT",
    "WholeSequence",
    "WithContext",
    "WithMemory",
    "adagrad",
    "adam",
    "adamw",
    "described",
    "from_spec",
    "initialize",
    "lars",
    "load_backbone",
    "lora",
    "merged",
    "rmsprop",
    "save_backbone",
    "sgd",
    "spec_of",
    "with_gradient_checkpointing",
]

_NETWORKS: tuple[type[Described], ...] = (
    MLP, NatureCNN, CNN, ResNet, UNet, OneHot, Table, Nested, Chain, RunningNorm, RNN, LSTM, GRU, TransformerEncoder,
    TransformerDecoder, EncoderDecoder, ViT, Swin, WithMemory, WholeSequence, ReturnConditioned, MLPDecoder, Generator,
    MLPDenoiser, UNetDenoiser, DiffusionModel, RecurrentEncoderDecoder, BidirectionalLSTM, GatedPixelCNN,
    PixelTransformer, WithContext, MapTokens,
)  # fmt: skip
BACKBONES |= {network.kind: network for network in _NETWORKS}
