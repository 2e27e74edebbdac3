"""Features of splits, evaluation mode and accuracies, without Lightning."""

import math

import pytest
import torch
from torch import nn

from dinopl.probes import Features, KNNProbe, LinearProbe, Probe, accuracies, extract_features

CPU = torch.device("cpu")


def test_features_are_of_the_first_view_flattened_in_float32():
    views = [torch.randn(4, 3, 2, 2, dtype=torch.float64), torch.randn(4, 3, 5, 5)]
    batch = {"views": views, "label": torch.tensor([0, 1, 2, 3]), "index": torch.arange(4)}
    x, y = extract_features(nn.Identity(), [batch, batch], CPU)
    assert torch.equal(x, views[0].flatten(1).float().repeat(2, 1))
    assert x.dtype == torch.float32
    assert y.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_plain_batches_and_a_single_sample_at_the_end():
    layer = nn.Linear(5, 2)
    images, labels = torch.randn(3, 5), torch.tensor([2, 0, 1])
    x, y = extract_features(layer, [(images[:2], labels[:2]), [images[2:], labels[2:]]], CPU)
    assert not x.requires_grad
    torch.testing.assert_close(x, images @ layer.weight.detach().T + layer.bias.detach())
    assert torch.equal(y, labels)


def test_a_split_without_batches_is_refused():
    with pytest.raises(ValueError, match="has no batches"):
        extract_features(nn.Identity(), [], CPU)


class Counting(Probe):
    """Predicts the feature itself; counts how often it is trained."""

    calls = 0

    def fit_predict(self, train_x, train_y, x, num_classes, seed):
        self.calls += 1
        return x[:, 0].long()


def test_a_probe_is_trained_once_for_all_splits():
    probe = Counting("exact")
    splits = {
        "val": Features(torch.tensor([[0.0], [1], [2]]), torch.tensor([0, 1, 0])),
        "test": Features(torch.tensor([[1.0], [1], [0], [3]]), torch.tensor([1, 1, 1, 3])),
    }
    train = Features(torch.zeros(2, 1), torch.tensor([0, 3]))
    assert accuracies([probe], train, splits, 4, seed=0) == {"val": {"exact": 2 / 3}, "test": {"exact": 0.75}}
    assert probe.calls == 1


def test_features_that_are_not_finite_have_no_accuracy():
    train = Features(torch.randn(30, 2), torch.arange(30) % 2)
    test = Features(torch.tensor([[1.0, math.inf]]), torch.tensor([1]))
    result = accuracies([LinearProbe(), KNNProbe()], train, {"test": test}, 2, seed=0)
    assert result["test"].keys() == {"linear", "knn"}
    assert all(math.isnan(value) for value in result["test"].values())
