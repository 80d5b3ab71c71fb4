"""What a data set is, and the table of those that the command line offers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

# Torch is imported where it is used, so that the command line's --help answers at once.
if TYPE_CHECKING:
    from torch import Tensor

    from captum_quantum.datasets.mosaics import Mosaics
    from captum_quantum.models import HybridClassifier


@dataclass(frozen=True)
class Dataset:
    """A data set with the model that is trained on it.

    Attributes:
        name (str): What ``--dataset`` calls it.
        description (str): What it consists of, such as ``"handwritten digits"``.
        noun (str): What one example shows, in the singular, such as ``"digit"``.
        classes (Mapping[str, str]): The name of every class, in the order of the labels, and the
            same within a sentence: ``{"7": "a 7", "8": "an 8"}``.
        load (Callable): ``load(seed)`` returns training inputs, training labels, test inputs and
            test labels. The seed fixes the split; inputs ``(n, ...)`` are floating-point, labels
            ``(n,)`` int64. The commands draw inputs ``(n, channels, height, width)``.
        model (Callable): ``model(seed=seed, **config)`` returns an untrained `HybridClassifier`
            that `save_model` can write. The seed fixes its weights. ``config`` is empty, or the
            ``config`` of such a model, of which another one with new weights is wanted.
        training (Mapping[str, Any]): The arguments ``epochs``, ``batch_size`` and ``lr`` of
            `captum_quantum.training.fit`.
        read (Callable, optional): ``read(path)`` returns a user's own file as one input
            ``(1, ...)``, or raises ValueError. If it has the parameter ``invert``,
            ``read(path, invert=True)`` swaps dark and bright.
        read_help (str): What the user's file should look like, in whole sentences.
        mosaics (Callable, optional): ``mosaics(inputs, labels, n, seed)`` returns n inputs that
            show several classes at known places, for metrics of localization; for images, usually
            `captum_quantum.datasets.mosaics`.

    Examples:
        >>> import torch
        >>> from captum_quantum.datasets import Dataset
        >>> from captum_quantum.models import digits_model
        >>> def load(seed):
        ...     generator = torch.Generator().manual_seed(seed)
        ...     labels = torch.arange(60) % 2
        ...     images = torch.rand(60, 1, 8, 8, generator=generator)
        ...     images[:, 0, :, :4] += labels[:, None, None]
        ...     return images[:40], labels[:40], images[40:], labels[40:]
        >>> def model(seed=0, **config):
        ...     return digits_model(**{"n_qubits": 2, "n_classes": 2, **config}, seed=seed)
        >>> halves = Dataset(
        ...     name="halves",
        ...     description="images that are dark or bright on the left",
        ...     noun="half",
        ...     classes={"dark": "a dark half", "bright": "a bright half"},
        ...     load=load,
        ...     model=model,
        ...     training={"epochs": 5, "batch_size": 10, "lr": 0.01},
        ... )
    """

    name: str
    description: str
    noun: str
    classes: Mapping[str, str]
    load: "Callable[[int], tuple[Tensor, Tensor, Tensor, Tensor]]"
    model: "Callable[..., HybridClassifier]"
    training: Mapping[str, Any]
    read: "Callable[..., Tensor] | None" = None
    read_help: str = ""
    mosaics: "Callable[[Tensor, Tensor, int, int], Mosaics] | None" = None


_TABLE: dict[str, Dataset] = {}


def register_dataset(dataset: Dataset) -> Dataset:
    """Offers a data set to the commands ``demo``, ``explain`` and ``evaluate``.

    Args:
        dataset (Dataset): The data set.

    Returns:
        Dataset: The same.

    Raises:
        TypeError: If it is not a `Dataset`.
        ValueError: If its name is taken.

    Examples:
        >>> from captum_quantum.cli import main
        >>> from captum_quantum.datasets import register_dataset
        >>> register_dataset(halves)  # doctest: +SKIP
        >>> main(["demo", "--dataset", "halves"])  # doctest: +SKIP
    """
    if not isinstance(dataset, Dataset):
        from captum_quantum import _checks

        _checks.wrong_type("dataset", "a Dataset", dataset)
    if dataset.name in _TABLE:
        from captum_quantum import _checks

        _checks.wrong_value("dataset.name", "a name that is not taken", dataset.name)
    _TABLE[dataset.name] = dataset
    return dataset


def named_datasets() -> Mapping[str, Dataset]:
    """The registered data sets.

    Returns:
        Mapping[str, Dataset]: A read-only view.

    Examples:
        >>> from captum_quantum.datasets import named_datasets
        >>> named_datasets()["digits"].classes["8"]
        'an 8'
    """
    return MappingProxyType(_TABLE)
