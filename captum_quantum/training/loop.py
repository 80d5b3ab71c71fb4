"""A training loop, and predictions in batches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from captum_quantum import _checks
from captum_quantum._state import evaluation_mode, grads_kept, seeded, training_mode


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
    """Trains a classifier with Adam and cross entropy.

    The learning rate falls to 0 along half a cosine. Each epoch is split into batches of nearly
    equal size. ``seed`` fixes all random numbers: the order of the examples and those that the
    model draws, such as dropout. The global random state, the mode of every submodule and the
    ``.grad`` of the parameters are restored. A submodule whose parameters are all frozen runs in
    evaluation mode, so that the statistics of a frozen BatchNorm are frozen, too.

    Args:
        model (nn.Module): Batches of inputs to logits ``(batch, n_classes)``; trained in place.
        inputs (Tensor): Shape ``(n, ...)``; batches are moved to the model's device.
        targets (Tensor): Classes, shape ``(n,)``, int64.
        epochs (int): Number of passes over the data.
        batch_size (int): Largest number of examples in a step.
        lr (float): Initial learning rate.
        seed (int): Fixes the training.
        progress (bool): Whether to show a progress bar on stderr.

    Returns:
        list[float]: The mean training loss of each epoch.

    Raises:
        TypeError, ValueError: If an argument is wrong; the model is not changed.

    Examples:
        >>> import torch
        >>> from captum_quantum.training import fit
        >>> model = torch.nn.Linear(3, 2)
        >>> inputs = torch.rand(40, 3)
        >>> losses = fit(model, inputs, (inputs[:, 0] > 0.5).long(), epochs=3, batch_size=10)
        >>> len(losses)
        3
    """
    _checks.check_int("epochs", epochs, 1)
    _checks.check_int("batch_size", batch_size, 1)
    _checks.check_int("seed", seed, 0)
    _checks.check_number("lr", lr, "a positive number", lambda rate: 0 < rate < float("inf"))
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        _checks.wrong_value("model", "a module with parameters to train", model)
    check_data(model, inputs, targets)

    device = parameters[0].device
    n_batches = -(-len(inputs) // batch_size)
    n_steps = epochs * n_batches
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    bar = tqdm(total=n_steps, desc="training", unit="step", mininterval=0.5, disable=not progress)
    with bar, seeded(seed, device), training_mode(model), grads_kept(parameters):
        for _ in range(epochs):
            # Summed on the device and read once in an epoch: no synchronization in each step.
            total = torch.zeros((), device=device)
            order = torch.randperm(len(inputs), generator=generator)
            for rows in order.tensor_split(n_batches):
                batch = inputs[rows.to(inputs.device)].to(device)
                labels = targets[rows.to(targets.device)].to(device)
                loss = F.cross_entropy(model(batch), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach() * len(rows)
                bar.update()
            losses.append(float(total) / len(inputs))
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses


def predict(model: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Computes class probabilities (softmax of the logits), in evaluation mode and in batches.

    Args:
        model (nn.Module): Batches of inputs to logits ``(batch, n_classes)``; its mode is restored.
        inputs (Tensor): Shape ``(n, ...)``, n at least 1; batches are moved to the model's device.
        batch_size (int): Largest number of examples in a batch.

    Returns:
        Tensor: Shape ``(n, n_classes)``, on the model's device.

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum.training import predict
        >>> predict(torch.nn.Linear(3, 2), torch.rand(5, 3)).shape
        torch.Size([5, 2])
    """
    _checks.check_int("batch_size", batch_size, 1)
    if _checks.check_real("inputs", inputs).dim() == 0 or len(inputs) == 0:
        _checks.wrong_value("inputs", "at least one example", inputs)
    device = next((p.device for p in model.parameters()), inputs.device)
    with torch.no_grad(), evaluation_mode(model):
        logits = [model(batch.to(device)) for batch in inputs.split(batch_size)]
    return torch.cat(logits).softmax(dim=1)


def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int = 256) -> float:
    """Computes the share of examples whose most probable class is the true one.

    Args:
        model (nn.Module): Batches of inputs to logits ``(batch, n_classes)``; its mode is restored.
        inputs (Tensor): Shape ``(n, ...)``, n at least 1; batches are moved to the model's device.
        targets (Tensor): True classes, shape ``(n,)``, int64.
        batch_size (int): Largest number of examples in a batch.

    Returns:
        float: A number in [0, 1].

    Raises:
        TypeError, ValueError: If an argument is wrong.

    Examples:
        >>> import torch
        >>> from captum_quantum.training import accuracy
        >>> accuracy(torch.nn.Identity(), torch.eye(3), torch.tensor([0, 1, 0])) == 2 / 3
        True
    """
    check_data(model, inputs, targets)
    predicted = predict(model, inputs, batch_size).argmax(dim=1)
    return int((predicted == targets.to(predicted.device)).sum()) / len(targets)


def check_data(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Raises TypeError or ValueError for wrong data; one example tells the number of classes."""
    if _checks.check_real("inputs", inputs).dim() == 0 or len(inputs) == 0:
        _checks.wrong_value("inputs", "at least one example", inputs)
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
        _checks.wrong_type("targets", "a tensor of int64", targets)
    if targets.shape != inputs.shape[:1]:
        _checks.wrong_value("targets", f"of shape ({len(inputs)},), one for each example", targets)
    n_classes = predict(model, inputs[:1]).shape[1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= n_classes:
        wrong = low if low < 0 else high
        _checks.wrong_value("targets", f"classes in [0, {n_classes - 1}]", wrong)
