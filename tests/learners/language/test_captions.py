"""Captions: attention beside torch's, one vector in and a sequence out, words, step by step, and a trained result."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import agentlib
from agentlib.backbones import CNN, LSTM, MLP, EncoderDecoder, MapTokens, TransformerDecoder
from agentlib.backbones.attention import MultiHeadAttention
from agentlib.backbones.choice import space_of
from agentlib.core.recipe import Problem
from agentlib.data import Scenes, shape_scenes
from agentlib.data.parallel import END, SPECIAL
from agentlib.data.tokens import Words, tokenizer_from_json
from agentlib.families.captioning import inside
from agentlib.families.captions import CaptionFacts
from agentlib.learners.language.captions import Captions, CaptionsConfig
from agentlib.plots import pictures, scenes
from agentlib.policies.decoding import beam_search, decoded, sampled
from agentlib.runs.models import load_model
from agentlib.runs.plan import job_of
from agentlib.shell.main import main

TEXTS = ("a red circle", "a blue square and a red cross", "nothing")
KINDS = [("lstm", "general"), ("gru", "concat"), ("lstm", "none"), ("transformer", "none")]
each_kind = pytest.mark.parametrize(("decoder", "attention"), KINDS)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def captioner(decoder: Any = "lstm", attention: Any = "general", backbone: nn.Module | None = None) -> Any:
    """Weights so large that it is sure of some words."""
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    config = CaptionsConfig(decoder=decoder, attention=attention, embed_dim=16, n_layers=2, n_heads=2, max_length=10)
    network = CNN((3, 16, 16), (8, "max"), feature_dim=None) if backbone is None else backbone
    learner = Captions.build(network, config, CaptionFacts(space_of(images), TEXTS))
    for parameter in learner.network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return learner.network.eval()


def images(n: int = 3) -> torch.Tensor:
    return torch.randint(256, (n, 3, 16, 16), dtype=torch.uint8)


def test_words_of_a_text_give_the_text_back():
    words = Words.of(TEXTS, SPECIAL)
    for text in (*TEXTS, "a cross and nothing"):
        assert words.decode(words.encode(text)) == text.replace(" nothing", "")  # " nothing" is no word of theirs
    assert words.encode("a purple circle").tolist()[1] == SPECIAL.index("<unk>")
    again = tokenizer_from_json(words.to_json())
    assert again.digest == words.digest
    with pytest.raises(ValueError, match="<unk> among its special tokens"):
        Words(["a"], ())


def test_weights_of_many_heads_are_torchs():
    ours, theirs = MultiHeadAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    pairs = {"in_proj_weight": ours.inputs.weight, "in_proj_bias": ours.inputs.bias}
    theirs.load_state_dict(pairs | {"out_proj.weight": ours.output.weight, "out_proj.bias": ours.output.bias})
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, True]])
    _, expected = theirs(x, memory, memory, key_padding_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close(ours.weights(x, memory, mask[:, None, None]), expected)


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_weights_of_a_decoder_are_those_that_its_features_come_from(positions, norm_first):
    """By least squares: what each head of each layer read is its weights times its values."""
    decoder = TransformerDecoder(
        None, 8, 2, 2, vocabulary=7, positions=positions, norm_first=norm_first, cross=True, window=6
    )
    tokens, memory = torch.randint(7, (2, 5)), torch.randn(2, 4, 8)
    found: list[torch.Tensor] = []
    layers: Any = decoder.stack.layers
    for layer in layers:
        layer.cross.output.register_forward_pre_hook(lambda module, given: found.append(given[0]))
    decoder.whole(tokens, memory)
    means = decoder.weights(tokens, memory)
    each = []
    for layer, heads in zip(layers, found[:2], strict=True):  # (B, T, dim)
        values: Any = layer.cross.keys_and_values(memory)[1]
        each.append(torch.linalg.lstsq(values.mT, heads.unflatten(-1, (2, -1)).permute(0, 2, 3, 1)).solution.mT)
    assert [one.shape for one in each] == [(2, 2, 5, 4)] * 2
    torch.testing.assert_close(means, torch.stack(each).mean((0, 2)), atol=1e-4, rtol=1e-3)


@each_kind
def test_step_by_step_equals_all_at_once_and_no_word_sees_the_next(decoder, attention):
    model, x = captioner(decoder, attention), images()
    tokens = model.tokens(TEXTS)
    with torch.no_grad():
        whole = model(x, tokens[:, :-1])
        logits, state = model.begin(x)
        for place in range(1, tokens.shape[1]):
            torch.testing.assert_close(logits[:, END:], whole[:, place - 1, END:], rtol=1e-4, atol=1e-4)
            assert logits[:, :END].isneginf().all()  # padding and the start are never next
            logits, state = model.step(tokens[:, place], state)
        other = tokens[:, :-1].clone()
        other[1, 3] = (other[1, 3] + 1) % model.text.size
        changed = (model(x, other) - whole).abs().amax(-1)[1] > 1e-6
    assert not changed[:3].any()
    assert changed[3]


def test_without_attention_one_vector_is_all_that_is_known_of_a_picture():
    """The mean of all places; with attention each of them counts."""
    for attention, is_one in (("none", True), ("dot", False)):
        model = captioner("lstm", attention)
        x, tokens = images(1), model.tokens(TEXTS[:1])
        memory = model.backbone.encoder.maps(x)[-1]
        change = torch.randn_like(memory)
        found = list[torch.Tensor]()
        for one in (memory, memory + change - change.mean(1, keepdim=True)):
            model.backbone.encoder.maps = lambda x, one=one: [one]
            found.append(model(x, tokens))
        assert torch.allclose(found[0], found[1], atol=1e-5) == is_one
    with pytest.raises(ValueError, match="this network attends to nothing"):
        captioner("lstm", "none").attention(images(), TEXTS)


def test_features_alone_are_a_memory_of_one_place():
    model = captioner("lstm", "dot", backbone=MLP(3 * 16 * 16, (8,)))
    x, tokens = images(), model.tokens(TEXTS)
    assert model.backbone.weights(x, tokens[:, :-1]).eq(1.0).all()
    with pytest.raises(ValueError, match="attention is shown on maps"):
        model.attention(x, TEXTS)


@each_kind
def test_a_caption_without_an_end_is_shown_too(decoder, attention):
    """A model that has learned little writes on to the last token, and an empty caption has no word."""
    model, x = captioner(decoder, attention), images()
    with torch.no_grad():
        model.head.bias[END] = -1e9
        without_end = model.caption(x)
        model.head.bias[END] = 1e9
        assert model.caption(x) == [""] * 3
    if (decoder, attention) == ("lstm", "none"):
        return
    looks = model.attention(x, without_end)
    assert [len(words) for words, _ in looks] == [model.max_length] * 3
    torch.testing.assert_close(looks[0][1].sum((1, 2)), torch.ones(model.max_length))
    torch.testing.assert_close(model.attention(x, TEXTS)[0][1], model.attention(x[:1], TEXTS[:1])[0][1])
    assert [words for words, _ in model.attention(x, [""] * 3)] == [[]] * 3
    assert [len(words) for words, _ in model.attention(x, ["", without_end[1], "a"])] == [0, model.max_length, 1]


def test_a_result_has_attention_before_captions_end():
    job: Any = job_of("captions", Problem(data=shape_scenes(60, size=16, most=1), steps=1, device="cpu"), embed_dim=16)
    with torch.no_grad():
        job.learner.network.head.bias[END] = -1e9
        job.learner.network.head.bias[job.learner.network.tokens(["a circle"])[0, 2]] = 1e9
    assert "test/attention" in {measure.name for measure in job.judge.finish()}


def test_the_memory_is_the_map_place_by_place():
    cnn = CNN((3, 16, 8), (4, "max", 6), feature_dim=None)
    tokens = MapTokens(cnn, (3, 16, 8), 5)
    x = torch.rand(2, 3, 16, 8)
    found, last = tokens.maps(x)[-1], cnn.maps(x)[-1]
    assert tokens.grid == (8, 4)
    for row, column in ((0, 0), (3, 2), (7, 3)):
        place = 4 * row + column
        expected = tokens.linear(last[:, :, row, column]) + tokens.places[place]
        torch.testing.assert_close(found[:, place], expected)
    torch.testing.assert_close(tokens(x), found.mean(1))


def test_one_beam_is_drawn_and_more_are_searched():
    model, x = captioner(), images()
    with torch.no_grad():
        logits, state = model.begin(x)
    begun: Any = model.step, logits, state, 10
    greedy = torch.stack(list(sampled(*begun, end=END, temperature=0.0)), 1)
    assert torch.equal(decoded(*begun, end=END, temperature=0.0), greedy)
    best = beam_search(*begun, beams=3, end=END, length_penalty=1.0).tokens[:, 0]
    assert torch.equal(decoded(*begun, beams=3, end=END, length_penalty=1.0), best)
    assert model.caption(x) == [model.describe(row) for row in greedy]
    assert model.caption(x, beams=3, length_penalty=1.0) == [model.describe(row) for row in best]


def test_attention_is_counted_where_a_class_is_named():
    """On maps of 2 x 2 places the circle is above on the left, the square below on the right."""
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, 0, 0], masks[0, 3, 2:] = 1, 2
    boxes = torch.tensor([[[0.0, 0, 1, 1], [2, 3, 4, 4]]])
    labels = torch.tensor([[0, 1]])
    part = Scenes(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), boxes, labels, masks, classes=("circle", "square"))
    words = ["a", "circle", "and", "square", "circle"]
    weights = torch.zeros(5, 2, 2)
    weights[1, 0, 0] = weights[3, 0, 1] = weights[4, 0, 0] = 1.0  # the square is looked for in the wrong place
    assert np.allclose(inside([(words, weights)], part), (2 / 3, 1 / 4))


def test_what_does_not_fit_is_refused():
    model = captioner()
    with pytest.raises(ValueError, match="caption 2 has 12 tokens with its end, more than max_length=10"):
        model.tokens(["a red circle", "a red circle and a red circle and a red circle"])
    data = shape_scenes(40, size=16, most=1)
    job_of("captions", Problem(data=data, steps=1), embed_dim=15)  # no encoder has two directions
    with pytest.raises(ValueError, match="encoder and decoder have one width"):
        EncoderDecoder(MapTokens(MLP(4, (4,)), (4,), 8), TransformerDecoder(None, 16, vocabulary=5, cross=True))
    with pytest.raises(ValueError, match=r"captions.*memory|memory.*captions"):
        job_of("captions", Problem(data=data, steps=1, backbone=LSTM(4)))


def test_a_network_without_weights_is_read():
    flat = nn.Flatten()
    flat.feature_dim = 12  # type: ignore[assignment]
    tokens = MapTokens(flat, (3, 2, 2), 5)
    assert tokens.grid is None
    assert tokens(torch.rand(4, 3, 2, 2)).shape == (4, 5)


def test_a_picture_has_a_panel_for_each_word(tmp_path):
    looks: Any = [(["a", "circle"], torch.rand(2, 3, 3)), (["nothing"], torch.rand(1, 3, 3))]
    figure = scenes.captions(torch.rand(2, 3, 12, 12), looks)
    assert [axes.get_title() for axes in figure.axes] == ["", "a", "circle", "", "nothing", ""]
    assert pictures.save(figure, tmp_path / "captions.png").is_file()
    assert [one.get_title() for one in scenes.captions(torch.rand(1, 1, 8, 8), [(["a text"], None)]).axes] == ["a text"]


@pytest.mark.slow
def test_colours_and_shapes_are_named(tmp_path, capsys):
    """Sixteen captions, of which a guess is right in .06."""
    data = shape_scenes(1_000, size=24, most=1)
    settings: Any = {"steps": 300, "embed_dim": 64, "progress": False, "seed": 1}
    result: Any = agentlib.train("captions", data=data, out=tmp_path / "run", **settings)
    assert result.measures["test/exact"] > 0.3
    assert {"captions.png", "learning_curve.png"} <= {path.name for path in result.pictures}
    new = shape_scenes(50, 7, size=24, most=1)
    model: Any = load_model(tmp_path / "run")[0]
    assert model.caption(new.images) == result.model.caption(new.images)
    np.save(tmp_path / "new.npy", new.images.numpy())
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.npy")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2] for line in lines] == model.caption(new.images)
