"""Random splits of a data set into a training set and a test set."""

import torch
from torch import Tensor


def stratified(
    labels: Tensor, test_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Splits examples such that every class has the same share in the training and the test set.

    With f the test fraction and N_c the number of examples of classes below c, the test set takes
    round(f * N_{c+1}) - round(f * N_c) examples of class c; all classes together make
    round(f * N).

    Args:
        labels (Tensor): Classes, shape ``(n,)``, int64.
        test_fraction (float): Share of the test set, in (0, 1).
        generator (torch.Generator): Source of the random numbers.

    Returns:
        tuple[Tensor, Tensor]: Indices of the training set and of the test set, in random order.
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
