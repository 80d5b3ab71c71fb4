"""Loaders: what is loaded, in which order, and progress."""

import numpy as np
import pytest
from captum.attr import Saliency
from comparison import batches, energy, everything, run, samples, small_model
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from captum_quantum import compare
from captum_quantum.evaluation import storage


class Counting(TensorDataset):
    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.loaded = []

    def __getitem__(self, index):
        self.loaded.append(index)
        return super().__getitem__(index)


def test_a_data_loader_loads_only_batches_without_results(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    data = Counting(*samples())

    def failing(self, batch):
        if len(data.loaded) > 5 + 14:  # the first batch is read twice
            raise KeyError
        append(self, batch)

    append = storage.Part.append
    with monkeypatch.context() as patch:
        patch.setattr(storage.Part, "append", failing)
        with pytest.raises(KeyError):
            run(tmp_path / "cut", loader=DataLoader(data, batch_size=5))
    data.loaded.clear()
    report = run(tmp_path / "cut", loader=DataLoader(data, batch_size=5))
    assert data.loaded == [0, 1, 2, 3, 4, *range(10, 23)]
    np.testing.assert_array_equal(everything(report), everything(whole))


def test_data_loader_with_workers(tmp_path):
    whole = run(tmp_path / "whole")
    loader = DataLoader(TensorDataset(*samples()), batch_size=5, num_workers=1)
    np.testing.assert_array_equal(everything(run(tmp_path / "b", loader=loader)), everything(whole))


def test_iterators_and_generators():
    whole = run(None)
    for loader in (iter(batches()), (one for one in batches()), tuple(batches())):
        np.testing.assert_array_equal(everything(run(None, loader=loader)), everything(whole))


def test_a_shuffled_loader_is_refused_where_order_counts(tmp_path):
    data = TensorDataset(*samples())
    shuffled = RandomSampler(data)
    for loader in (
        DataLoader(data, batch_size=5, shuffle=True),
        DataLoader(data, batch_sampler=BatchSampler(shuffled, 5, False)),
        DataLoader(data, batch_size=5, sampler=SubsetRandomSampler(range(23))),
        DataLoader(data, batch_size=5, sampler=WeightedRandomSampler([1] * 23, 23)),
    ):
        assert len(run(None, loader=loader)) == 23
        with pytest.raises(ValueError, match="a DataLoader with shuffle=True or a .*RandomSampler"):
            run(tmp_path / "new", loader=loader)
        assert not (tmp_path / "new").exists()


class Backwards(BatchSampler):
    def __iter__(self):
        return iter([*super().__iter__()][::-1])


class Last(SequentialSampler):
    def __iter__(self):
        return iter(range(len(self.data_source) - 1, -1, -1))


def test_samplers_of_the_user_are_used(tmp_path):
    images, labels = samples()
    data = TensorDataset(images, labels)
    whole = run(None)
    for number, (loader, order) in enumerate(
        [
            (DataLoader(data, batch_sampler=[[3, 1], [0, 7, 22]]), [3, 1, 0, 7, 22]),
            (
                DataLoader(data, batch_sampler=BatchSampler(range(22, -1, -1), 5, False)),
                range(22, -1, -1),
            ),
            (
                DataLoader(data, batch_sampler=Backwards(SequentialSampler(data), 20, False)),
                [*range(20, 23), *range(20)],
            ),
            (DataLoader(data, batch_size=5, sampler=Last(data)), range(22, -1, -1)),
        ]
    ):
        for _ in range(2):
            report = run(tmp_path / str(number), loader=loader)
            np.testing.assert_array_equal(report.labels, labels[list(order)])
            expected = whole.values["energy"]["saliency"][list(order)]
            found = report.values["energy"]["saliency"]
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_progress_bar(capsys):
    model = small_model()
    compare({"s": Saliency(model)}, batches(), {"energy": energy})
    assert "evaluation: 100%" in capsys.readouterr().err
    compare({"s": Saliency(model)}, batches(), {"energy": energy}, progress=False)
    assert capsys.readouterr().err == ""
