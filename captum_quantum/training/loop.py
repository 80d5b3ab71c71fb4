"""A training loop, and predictions in batches."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from captum_quantum import _checks
from captum_quantum._state import (
    evaluation_mode,
    grads_kept,
    random_state_kept,
    seeded,
    training_mode,
)

Loss = Callable[[Tensor, Tensor], Tensor]


def fit(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 5e-3,
    loss: Loss | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Trains a model with Adam, by default a classifier with cross entropy.

    The learning rate falls to 0 along half a cosine. Each epoch is split into batches of nearly
    equal size. ``seed`` fixes all random numbers: the order of the examples and those that the
    model, ``augment`` and ``loss`` draw, such as dropout. The global random state, the mode of
    every submodule and the ``.grad`` of the parameters are restored. A submodule whose parameters
    are all frozen runs in evaluation mode, so that the statistics of a frozen BatchNorm are frozen,
    too.

    Args:
        model (nn.Module): Batches of inputs to logits ``(batch, n_classes)``, with a ``loss`` to
            outputs ``(batch, ...)``; trained in place.
        inputs (Tensor): Shape ``(n, ...)``; batches are moved to the model's device.
        targets (Tensor): Classes, shape ``(n,)``, int64; with a ``loss`` any tensor of shape
            ``(n, ...)``. Floating-point targets have the outputs' dtype and, if they have as many
            numbers, their shape: ``(n, 1)`` for one output, not ``(n,)``, which the losses of
            PyTorch broadcast.
        epochs (int): Number of passes over the data.
        batch_size (int): Largest number of examples in a step.
        lr (float): Initial learning rate.
        loss (Callable, optional): The model's outputs ``(batch, ...)`` and the targets
            ``(batch, ...)`` to a scalar, the mean over the batch, such as
            ``torch.nn.functional.mse_loss`` for regression, where ``model.eval()(inputs)`` predicts
            and `predict` does not, as it takes the softmax. Default: cross entropy.
        augment (Callable, optional): Inputs ``(batch, ...)`` on the model's device to changed ones
            of the same shape, for every training batch. A random transform of torchvision draws one
            change for the whole batch; ``lambda batch: torch.stack([transform(x) for x in batch])``
            draws one for each image. It must draw from PyTorch's generators for ``seed`` to fix it.
            Default: no change.
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
        >>> noisy = lambda batch: batch + 0.01 * torch.randn_like(batch)
        >>> model = torch.nn.Linear(3, 1)  # regression
        >>> mse = torch.nn.functional.mse_loss
        >>> losses = fit(model, inputs, inputs[:, :1], loss=mse, augment=noisy, epochs=3)
    """
    _checks.check_int("epochs", epochs, 1)
    _checks.check_int("batch_size", batch_size, 1)
    _checks.check_int("seed", seed, 0)
    _checks.check_number("lr", lr, "a positive number", lambda rate: 0 < rate < float("inf"))
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        _checks.wrong_value("model", "a module with parameters to train", model)
    for name, function in (("loss", loss), ("augment", augment)):
        if function is not None and not callable(function):
            _checks.wrong_type(name, "a function or None", function)
    if loss is None:
        check_data(model, inputs, targets)
        loss = F.cross_entropy
    else:
        _check_loss(model, inputs, targets, loss)

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
                wanted = targets[rows.to(targets.device)].to(device)
                if augment is not None:
                    batch = _augmented(augment, batch)
                value = loss(model(batch), wanted)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
                total += value.detach() * len(rows)
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
    _check_inputs(inputs)
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
    _check_inputs(inputs)
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
        _checks.wrong_type("targets", "a tensor of int64", targets)
    if targets.shape != inputs.shape[:1]:
        _checks.wrong_value("targets", f"of shape ({len(inputs)},), one for each example", targets)
    n_classes = predict(model, inputs[:1]).shape[1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= n_classes:
        wrong = low if low < 0 else high
        _checks.wrong_value("targets", f"classes in [0, {n_classes - 1}]", wrong)


def _check_inputs(inputs: Tensor) -> None:
    if _checks.check_real("inputs", inputs).dim() == 0 or len(inputs) == 0:
        _checks.wrong_value("inputs", "at least one example", inputs)


def _check_loss(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> None:
    """Raises TypeError or ValueError for wrong data or a loss; one example tells."""
    _check_inputs(inputs)
    if not isinstance(targets, Tensor):
        _checks.wrong_type("targets", "a tensor", targets)
    if targets.shape[:1] != inputs.shape[:1]:
        _checks.wrong_value("targets", f"{len(inputs)} rows, one for each example", targets)
    device = next(model.parameters()).device
    row = targets[:1].to(device)
    with torch.enable_grad(), evaluation_mode(model), random_state_kept(device):
        output = model(inputs[:1].to(device))
        if not isinstance(output, Tensor):
            _checks.wrong_type("model's output", "a tensor", output)
        if row.is_floating_point():
            if row.dtype != output.dtype:
                _checks.wrong_type("targets", f"of the outputs' dtype, {output.dtype}", targets)
            if row.numel() == output.numel() and row.shape != output.shape:
                shape = (len(inputs), *output.shape[1:])
                _checks.wrong_value("targets", f"of shape {shape}, as the outputs", targets)
        value = loss(output, row)
    if not isinstance(value, Tensor):
        _checks.wrong_type("loss's result", "a tensor without dimensions", value)
    if value.dim() != 0:
        _checks.wrong_value("loss's result", "a tensor without dimensions", value)
    if not value.requires_grad:
        got = "one without a gradient"
        _checks.refuse("loss's result", "differentiable by the model's parameters", got)


def _augmented(augment: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Applies the user's function; raises TypeError or ValueError for another kind of result."""
    changed = _checks.check_real("augment's result", augment(batch))
    if changed.shape != batch.shape:
        _checks.wrong_value("augment's result", f"of shape {tuple(batch.shape)}", changed)
    return changed
