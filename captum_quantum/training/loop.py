"""A plain training loop, and predictions in batches."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from captum_quantum import _checks


def fit(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 5e-3,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Trains a classifier with Adam and cross entropy; the learning rate falls as a half cosine to 0.

    Everything random comes from ``seed``: the order of the examples and what the model itself draws,
    such as dropout. The global random state, the model's mode and its ``.grad`` are left as they
    were.

    Args:
        model (nn.Module): Batches of inputs to logits ``(batch, n_classes)``; changed in place.
        inputs (Tensor): Shape ``(n, ...)``; batches are moved to the model's device.
        targets (Tensor): Classes, shape ``(n,)``, int64.
        epochs (int): Number of passes over the data.
        batch_size (int): Number of examples in a step; the last step of an epoch takes what is left.
        lr (float): Learning rate at the start.
        seed (int): Fixes the training.
        progress (bool): Whether to show a progress bar on stderr.

    Returns:
        list[float]: The mean training loss of each epoch.

    Raises:
        TypeError, ValueError: If an argument is wrong; the model is then as it was.

    Examples:
        >>> import torch
        >>> from captum_quantum.training import fit
        >>> model = torch.nn.Linear(3, 2)
        >>> inputs = torch.rand(40, 3)
        >>> losses = fit(model, inputs, (inputs[:, 0] > 0.5).long(), epochs=3, batch_size=10)
        >>> len(losses), losses[-1] < losses[0]
        (3, True)
    """
    _check_data(inputs, targets)
    _checks.check_int("epochs", epochs, 1)
    _checks.check_int("batch_size", batch_size, 1)
    _checks.check_int("seed", seed, 0)
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 < lr < float("inf"):
        _checks.wrong_value("lr", "a positive number", lr)
    device = _device(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        _checks.wrong_value("model", "a module with parameters to train", model)

    n_steps = -(-len(inputs) // batch_size)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * n_steps)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    with _seeded(seed, device), _training(model), tqdm(
        total=epochs * n_steps, desc="training", unit="step", disable=not progress, leave=False
    ) as bar:
        for _ in range(epochs):
            # Summed on the device and read once an epoch, so that steps on a GPU do not wait.
            total = torch.zeros((), device=device)
            for rows in torch.randperm(len(inputs), generator=generator).split(batch_size):
                batch = inputs[rows.to(inputs.device)].to(device)
                answers = targets[rows.to(targets.device)].to(device)
                loss = F.cross_entropy(model(batch), answers)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                _step(optimizer, parameters, gradients)
                schedule.step()
                total += loss.detach() * len(rows)
                bar.update()
            losses.append(float(total) / len(inputs))
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses


def predict(model: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Class probabilities (softmax of the logits), in evaluation mode and in batches.

    Args:
        model (nn.Module): Batches of inputs to logits ``(batch, n_classes)``.
        inputs (Tensor): Shape ``(n, ...)``.
        batch_size (int): Number of examples at a time.

    Returns:
        Tensor: Shape ``(n, n_classes)``, on the model's device.

    Examples:
        >>> import torch
        >>> from captum_quantum.training import predict
        >>> predict(torch.nn.Linear(3, 2), torch.rand(5, 3)).sum(dim=1).allclose(torch.ones(5))
        True
    """
    _checks.check_int("batch_size", batch_size, 1)
    device = _device(model)
    with torch.no_grad(), _mode(model, training=False):
        logits = [model(batch.to(device)) for batch in inputs.split(batch_size)]
    return torch.cat(logits).softmax(dim=1)
