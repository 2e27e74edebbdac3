"""Text windows, their data module under a fraction, and the causal Transformer."""

import re
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dinopl.core.moved import current_path
from dinopl.core.trust import resolve
from fprnn.baselines import CausalTransformer
from fprnn.tasks.text import PythonDocsText, TextFile, encode, windows
from kd.data import DataFraction
from kd.fractions import index_digest
from kd.networks import TextShape
from kd.samplers import token_index
from kd.text import TextDataModule

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


@given(texts)
@settings(max_examples=60, deadline=None)
def test_characters_and_bytes_can_be_read_back(text: str) -> None:
    tokens, vocabulary = encode(text, "characters")
    assert "".join(vocabulary[token] for token in tokens.tolist()) == text
    assert list(vocabulary) == sorted(set(text))
    tokens, vocabulary = encode(text, "bytes")
    assert bytes.fromhex("".join(vocabulary[token] for token in tokens.tolist())).decode() == text
    assert len(vocabulary) == 256


@given(st.integers(1, 90), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_windows_do_not_overlap_and_each_knows_the_next_token(count: int, length: int) -> None:
    cut = windows(torch.arange(count), length).tolist()
    assert len(cut) == (count - 1) // length
    assert list(chain(*(window[:-1] for window in cut))) == list(range(len(cut) * length))
    for window in cut:
        assert all(later == earlier + 1 for earlier, later in pairwise(window))


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    words = ["the", "cat", "sat", "on", "a", "mat"]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(words), (3000,), generator=generator).tolist()
    (tmp_path / "cats.txt").write_text(" ".join(words[i] for i in drawn))
    return tmp_path


def made(root: Path, **options: Any) -> TextDataModule:
    module = TextDataModule(TextFile("cats.txt"), str(root), **{"length": 16, "batch_size": 8, "seed": 0, **options})
    module.setup("fit")
    return module


def test_a_batch_predicts_each_next_token(text_file: Path) -> None:
    module = made(text_file)
    text = (text_file / "cats.txt").read_text()
    assert module.num_classes == module.vocab_size == len(set(text))
    assert module.input_shape == (len(set(text)), 16)
    seen: list[int] = []
    for batch in module.train_dataloader():
        for tokens, label, index in zip(batch["views"][0], batch["label"], batch["index"].tolist(), strict=True):
            assert "".join(module.vocabulary[t] for t in tokens) == text[index * 16 : index * 16 + 16]
            assert "".join(module.vocabulary[t] for t in label) == text[index * 16 + 1 : index * 16 + 17]
        seen += batch["index"].tolist()
    assert sorted(seen) == list(range(module.num_train))


@pytest.mark.parametrize(
    ("units", "order", "tokens"),
    [
        ("characters", "b8e6869c9396b26682e83340533f158ab843b393", "4cd53e6ec637ba1a813b0795ae15439dca840f2c"),
        ("bytes", "ba0880688311f418d413c7b27b2d65e3fce5de73", "360fb621ea26cc713742e4b9a444431ccd39409a"),
    ],
)
def test_tokens_and_their_order_are_those_that_earlier_figures_rest_on(
    tmp_path: Path, units: Any, order: str, tokens: str
) -> None:
    """Integer arithmetic alone decides, so the digests are constants on every machine."""
    (tmp_path / "cats.txt").write_text("Zoë naß: " * 300, encoding="utf-8")
    module = made(tmp_path, units=units, val_size=0.07, test_size=0.13, seed=5)
    seen = torch.cat([batch["index"] for batch in module.train_dataloader()])
    splits = [batch["views"][0].flatten() for loader in module.probe_dataloaders().values() for batch in loader]
    assert (index_digest(seen), index_digest(torch.cat(splits))) == (order, tokens)


def test_the_splits_are_parts_of_the_text_in_order_and_share_nothing(text_file: Path) -> None:
    module = made(text_file, val_size=0.2, test_size=0.3)
    text = (text_file / "cats.txt").read_text()
    shown = {}
    for name, loader in module.probe_dataloaders().items():
        tokens = torch.cat([batch["views"][0].flatten() for batch in loader])
        shown[name] = "".join(module.vocabulary[t] for t in tokens)
    start = len(text) - round(0.2 * len(text)) - round(0.3 * len(text))
    assert text.startswith(shown["train"])
    assert len(shown["train"]) > start - 32
    assert text[start:].startswith(shown["val"])
    assert text[len(text) - round(0.3 * len(text)) :].startswith(shown["test"])
    assert sorted(made(text_file, val_size=0).probe_dataloaders()) == ["test", "train"]


def test_a_fraction_of_the_windows_is_nested_and_keeps_its_index(text_file: Path) -> None:
    def fraction(kappa: float) -> DataFraction:
        module = DataFraction(made(text_file), kappa, steps_per_epoch=9, subset_seed=0)
        module.setup("fit")
        return module

    few, many = fraction(0.1), fraction(0.5)
    assert set(few.index.tolist()) < set(many.index.tolist())
    assert len(few.index) == round(0.1 * few.num_train)
    assert few.train_label is None
    assert few.input_shape == TextShape(few.num_classes, 16)
    assert few.fingerprint() == many.fingerprint() == made(text_file).fingerprint()
    tokens = torch.cat([batch["views"][0] for batch in few.cache_dataloader()])
    for batch in few.train_dataloader():
        assert set(batch["index"].tolist()) <= set(few.index.tolist())
        assert torch.equal(batch["views"][0], tokens[batch["index"]])
    assert len(list(few.train_dataloader())) == 9
    noisy = DataFraction(made(text_file), label_noise=0.1)
    with pytest.raises(ValueError, match=r"label_noise=0.1: these samples have no single class"):
        noisy.setup("fit")


def test_the_embedded_text_is_english_and_large() -> None:
    text = PythonDocsText().read(Path())
    assert len(text) > 100_000
    assert " the " in text
    assert TextDataModule(length=32).num_train > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length=0: must be at least 1"),
        ({"val_size": 0.6, "test_size": 0.4}, "test_size=0.4: must be above 0, and with val_size=0.6 leave"),
        ({"test_size": 0.0}, "test_size=0.0: must be above 0"),
        ({"length": 5000}, "length=5000: the val part of a text of"),
        ({"batch_size": 10_000}, "batch_size=10000: there are only"),
    ],
)
def test_impossible_options_are_refused(text_file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        made(text_file, **options)
    assert "\n" not in str(caught.value)


def test_a_text_that_is_not_there_or_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"TextFile: nothing at .*cats.txt"):
        made(tmp_path)
    (tmp_path / "cats.txt").write_bytes(b"caf\xe9 " * 9)
    with pytest.raises(ValueError, match=r"cats.txt is not UTF-8 text \(invalid continuation byte at byte 3\)"):
        made(tmp_path)


def test_features_depend_on_earlier_tokens_only() -> None:
    torch.manual_seed(0)
    network = CausalTransformer(TextShape(11, 12), width=16, depth=2, heads=2).eval()
    tokens = torch.randint(11, (3, 12))
    changed = tokens.clone()
    changed[:, 7] = (tokens[:, 7] + 1) % 11
    before, after = network(tokens), network(changed)
    assert before.shape == (3, 12, network.embed_dim)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert bool(((before - after)[:, 7:].abs().amax(dim=2) > 1e-4).all())
    torch.testing.assert_close(network(tokens[:, :5]), before[:, :5])


def test_attention_is_what_a_loop_computes() -> None:
    torch.manual_seed(0)
    block = CausalTransformer(TextShape(5, 6), width=8, depth=1, heads=2).blocks[0].double()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    normed = block.input_norm(x)
    query, key, value = block.attention.in_proj(normed).split(8, dim=2)
    mixed = torch.zeros_like(x)
    for b in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            for t in range(6):
                scores = key[b, : t + 1, head] @ query[b, t, head] / 2.0
                mixed[b, t, head] = scores.softmax(0) @ value[b, : t + 1, head]
    block.eval()
    y = x + block.attention.out_proj(mixed)
    wanted = y + block.mlp.out_proj(nn.functional.gelu(block.mlp.in_proj(block.norm(y))))
    torch.testing.assert_close(x + block(x), wanted)


def test_the_start_is_the_one_that_earlier_figures_rest_on() -> None:
    """GPT-2's, drawn in the order in which the parts are made, and once more in the order of the parameters."""
    torch.manual_seed(3)
    network = CausalTransformer(TextShape(7, 5), width=8, depth=2, heads=2)
    torch.manual_seed(3)
    tables = [nn.Embedding(7, 8), nn.Embedding(5, 8)]
    shapes = [(8, 24), (8, 8), (8, 32), (32, 8)] * 2
    linear = [nn.Linear(*shape) for shape in shapes]
    for index, layer in enumerate([*tables, *linear]):
        nn.init.normal_(layer.weight, std=0.02 * (0.5 if index in (3, 5, 7, 9) else 1.0))
    found = [parameter for parameter in network.parameters() if parameter.ndim == 2]
    for ours, theirs in zip(found, [*tables, *linear], strict=True):
        assert torch.equal(ours, theirs.weight)
    assert not any(parameter.any() for name, parameter in network.named_parameters() if name.endswith("bias"))


def test_checkpoints_of_before_the_blocks_were_shared_load() -> None:
    """Names and layout as they were when ``kd.transformer`` had a block of its own, at any place in a model."""
    torch.manual_seed(0)
    old = {"token.weight": torch.randn(7, 8), "position.weight": torch.randn(5, 8)}
    for block in range(2):
        for name, shape in (("qkv", (24, 8)), ("attention_out", (8, 8)), ("mlp_in", (32, 8)), ("mlp_out", (8, 32))):
            old |= {
                f"blocks.{block}.{name}.weight": torch.randn(shape),
                f"blocks.{block}.{name}.bias": torch.ones(shape[0]),
            }
        for name in ("attention_norm", "mlp_norm"):
            old |= {f"blocks.{block}.{name}.weight": torch.rand(8), f"blocks.{block}.{name}.bias": torch.rand(8)}
    old |= {"norm.weight": torch.rand(8), "norm.bias": torch.rand(8)}
    model = nn.Sequential(CausalTransformer(TextShape(7, 5), width=8, depth=2, heads=2)).eval()
    model.load_state_dict({f"0.{name}": tensor for name, tensor in old.items()})
    tokens = torch.randint(7, (3, 5))
    x = old["token.weight"][tokens] + old["position.weight"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.linear(x, old[f"{name}.weight"], old[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.layer_norm(x, (8,), old[f"{name}.weight"], old[f"{name}.bias"])

    for block in ("blocks.0", "blocks.1"):
        parts = linear(norm(x, f"{block}.attention_norm"), f"{block}.qkv").split(8, -1)
        query, key, value = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{block}.attention_out")
        x = x + linear(nn.functional.gelu(linear(norm(x, f"{block}.mlp_norm"), f"{block}.mlp_in")), f"{block}.mlp_out")
    torch.testing.assert_close(model(tokens), norm(x, "norm"), rtol=1e-4, atol=1e-4)
    again = CausalTransformer(TextShape(7, 5), width=8, depth=2, heads=2)
    again.load_state_dict(model[0].state_dict())  # and so does what is written now
    assert current_path("kd.CausalTransformer") == current_path("kd.transformer.CausalTransformer")
    assert resolve("kd.CausalTransformer") is CausalTransformer
    assert [resolve(f"kd.text.{name}") for name in ("TextFile", "PythonDocsText")] == [TextFile, PythonDocsText]
    assert resolve("kd.TextDataModule") is TextDataModule


def test_a_transformer_learns_what_a_fixed_mapping_is() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        CausalTransformer(TextShape(7, 16), width=32, depth=1, heads=2, dropout=0), nn.Linear(32, 7)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        tokens = torch.randint(7, (16, 16))
        label = torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1)  # the token before: needs attention
        loss = nn.functional.cross_entropy(network(tokens).flatten(0, 1), label.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2


def test_what_does_not_fit_a_transformer_is_refused() -> None:
    with pytest.raises(ValueError, match="heads=3: the width of CausalTransformer, 128, must be a multiple"):
        CausalTransformer(TextShape(5, 6), heads=3)
    with pytest.raises(ValueError, match="7 tokens: CausalTransformer was built for 6"):
        CausalTransformer(TextShape(5, 6), width=8, heads=2)(torch.zeros(1, 7, dtype=torch.int64))


def test_each_token_has_an_index_of_its_own() -> None:
    assert token_index(torch.tensor([3, 0]), 4).tolist() == [12, 13, 14, 15, 0, 1, 2, 3]
