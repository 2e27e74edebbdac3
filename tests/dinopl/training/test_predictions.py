from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule
from tiny import Tiny, loader, make_trainer, tensors
from torch import Tensor

from dinopl.training import PredictionWriter, RunFolder
from dinopl.training.predictions import in_order, to_arrays


@pytest.mark.filterwarnings(
    "ignore:Your `predict_dataloader`'s sampler has shuffling enabled:UserWarning:lightning.pytorch"
)
def test_the_file_is_in_the_order_of_the_data_set(tmp_path: Path) -> None:
    run, writer, model = RunFolder(), PredictionWriter(), Tiny()
    make_trainer(tmp_path, run, writer).predict(model, loader(13, shuffle=True), return_predictions=False)
    assert run.path is not None
    assert writer.paths == [run.path / "predictions.npz"]
    x, y, index = tensors(13).tensors
    with np.load(writer.paths[0], allow_pickle=False) as arrays:
        assert list(arrays) == ["index", "label", "embedding", "output"]
        np.testing.assert_array_equal(arrays["index"], index)
        np.testing.assert_array_equal(arrays["label"], y)
        np.testing.assert_array_equal(arrays["embedding"], x)
        with torch.no_grad():
            np.testing.assert_allclose(arrays["output"], model.eval().net(x), rtol=1e-5, atol=1e-6)


def test_several_loaders_have_a_file_each(tmp_path: Path) -> None:
    writer = PredictionWriter("out.npz", folder=str(tmp_path / "here"))
    make_trainer(tmp_path, writer).predict(Tiny(), [loader(5), loader(9)], return_predictions=False)
    assert [path.name for path in writer.paths] == ["out-0.npz", "out-1.npz"]
    assert [len(np.load(path)["index"]) for path in writer.paths] == [5, 9]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["out-0.npz", "out-1.npz"]


def test_without_a_run_folder_it_goes_to_the_root_and_replaces_what_is_there(tmp_path: Path) -> None:
    writer = PredictionWriter()
    for n in (5, 7):
        make_trainer(tmp_path, writer).predict(Tiny(), loader(n), return_predictions=False)
        assert len(np.load(tmp_path / "predictions.npz")["index"]) == n
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.zeros(4), "must return a dict of tensors with 'index'"),
        ({"label": torch.zeros(4)}, "must return a dict of tensors with 'index'"),
        ({"index": torch.arange(4), "loss": torch.tensor(1.0)}, r"'loss' is not a tensor with one entry .* \(4\)"),
        ({"index": torch.arange(4), "name": ["a"] * 4}, "'name' is not a tensor"),
    ],
)
def test_other_predictions_are_refused(tmp_path: Path, prediction: Any, message: str) -> None:
    class Other(Tiny):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return prediction

    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, PredictionWriter()).predict(Other(), loader(4))
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=5), max_size=5))
def test_in_order_sorts_and_keeps_the_first_of_each_index(indices: list[list[int]]) -> None:
    expected: dict[int, int] = {}
    batches, position = [], 0
    for batch in indices:
        batches.append({"index": np.array(batch), "value": np.arange(position, position + len(batch))})
        for index in batch:
            expected.setdefault(index, position)
            position += 1
    ordered = in_order(batches)
    if not batches:
        assert ordered == {}
        return
    assert ordered["index"].tolist() == sorted(expected)
    assert ordered["value"].tolist() == [expected[index] for index in sorted(expected)]


def test_bfloat16_becomes_float32_and_nothing_keeps_the_graph() -> None:
    output: Tensor = torch.tensor([0.5, 1.25], dtype=torch.bfloat16, requires_grad=True)
    arrays = to_arrays({"index": torch.arange(2), "output": output * 1})
    assert arrays["output"].dtype == np.float32
    assert arrays["output"].tolist() == [0.5, 1.25]


@pytest.mark.parametrize("filename", ["predictions.csv", "sub/predictions.npz", ""])
def test_other_file_names_are_refused(filename: str) -> None:
    with pytest.raises(ValueError, match=r"must be a file name .* ends in \.npz"):
        PredictionWriter(filename)


def test_the_names_that_the_data_know_are_beside_the_predictions(tmp_path: Path) -> None:
    class Named(LightningDataModule):
        def predict_dataloader(self) -> Any:
            return loader(5)

        def prediction_names(self) -> dict[str, list[str]]:
            return {"path": [f"{place}.png" for place in "abcde"], "class_names": ["ant", "bee"]}

    writer = PredictionWriter(folder=str(tmp_path))
    trainer = make_trainer(tmp_path, writer)
    trainer.predict(Tiny(), datamodule=Named(), return_predictions=False)
    with np.load(writer.paths[0], allow_pickle=False) as arrays:
        assert arrays["path"].tolist() == [f"{'abcde'[index]}.png" for index in arrays["index"]]
        assert arrays["class_names"].tolist() == ["ant", "bee"]
