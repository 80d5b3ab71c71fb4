"""Splits of a data set into a training set and a test set."""

from typing import TYPE_CHECKING

# PyTorch is imported where it is used, so that the command line's --help answers at once.
if TYPE_CHECKING:
    from torch import Tensor


def check_split(seed: int, test_fraction: float) -> None:
    """Checks the arguments of a split.

    Args:
        seed (int): At least 0.
        test_fraction (float): In (0, 1).

    Raises:
        TypeError, ValueError: If one is wrong.
    """
    from captum_quantum import _checks

    _checks.check_int("seed", seed, 0)
    if not isinstance(test_fraction, float):
        _checks.wrong_type("test_fraction", "a number in (0, 1)", test_fraction)
    if not 0 < test_fraction < 1:
        _checks.wrong_value("test_fraction", "a number in (0, 1)", test_fraction)


def stratified(labels: "Tensor", test_fraction: float, seed: int) -> "list[Tensor]":
    """Splits examples such that every class has the same share in the training and the test set.

    With f the test fraction and N_c the number of examples of classes below c, the test set takes
    round(f * N_{c+1}) - round(f * N_c) examples of class c; all classes together make
    round(f * N).

    Args:
        labels (Tensor): Classes, shape ``(n,)``, int64.
        test_fraction (float): Share of the test set, in (0, 1).
        seed (int): Fixes the split. The global random state does not change.

    Returns:
        list[Tensor]: Indices of the training set and of the test set, each in random order.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[torch.argsort(labels[order], stable=True)]
    train, test, n_below = [], [], 0
    for members in order.split(torch.bincount(labels).tolist()):
        n_next = n_below + len(members)
        n_test = round(test_fraction * n_next) - round(test_fraction * n_below)
        test.append(members[:n_test])
        train.append(members[n_test:])
        n_below = n_next
    parts = [torch.cat(train), torch.cat(test)]
    return [part[torch.randperm(len(part), generator=generator)] for part in parts]
