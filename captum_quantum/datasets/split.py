"""Splits into a training set and a test set."""

import torch
from torch import Tensor


def stratified(
    labels: Tensor, test_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices of a training and a test set that hold every class in the same share, shuffled.

    Of class c, with n_c examples, the test set takes those between round(f * N_<c) and
    round(f * N_<=c): so its whole size is round(f * N) too.
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[torch.argsort(labels[order], stable=True)]
    train, test = [], []
    start = 0
    for count in torch.bincount(labels).tolist():
        stop = start + count
        n_test = round(test_fraction * stop) - round(test_fraction * start)
        test.append(order[start : start + n_test])
        train.append(order[start + n_test : stop])
        start = stop
    parts = [torch.cat(part) for part in (train, test)]
    train_part, test_part = (p[torch.randperm(len(p), generator=generator)] for p in parts)
    return train_part, test_part
