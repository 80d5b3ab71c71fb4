"""What a data set is, and the table of data sets that the command line offers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

# Torch is imported where it is used, so that the command line's --help answers at once.
if TYPE_CHECKING:
    from torch import Tensor

    from captum_quantum.datasets.mosaics import Mosaics
    from captum_quantum.models import HybridClassifier


@dataclass(frozen=True)
class Dataset:
    """A data set together with the default model for it.

    Attributes:
        name (str): The name, for ``--dataset``.
        description (str): What the data set contains, such as ``"handwritten digits"``.
        noun (str): What one example shows, such as ``"digit"``.
        classes (Mapping[str, str]): The names of the classes in the order of the labels; each name
            maps to the words for it in a sentence: ``{"7": "a 7", "8": "an 8"}``.
        load (Callable): ``load(seed)`` returns training inputs, training labels, test inputs and
            test labels. The seed fixes the split; inputs ``(n, ...)`` are floating-point, labels
            ``(n,)`` int64. The commands draw inputs ``(n, channels, height, width)``.
        model (Callable): ``model(seed=seed)`` returns an untrained `HybridClassifier` that
            `save_model` can write; the seed fixes its weights. ``model(seed=seed,
            **other.config)`` returns an untrained model with the configuration of another one.
        training (Mapping[str, Any]): The arguments ``epochs``, ``batch_size`` and ``lr`` of
            `captum_quantum.training.fit`.
        read (Callable, optional): ``read(path)`` returns a user's file as one input ``(1, ...)``,
            or raises ValueError if it cannot. With a parameter ``invert``, ``read(path,
            invert=True)`` swaps dark and bright.
        read_help (str): One or more sentences on what a user's file should contain.
        mosaics (Callable, optional): ``mosaics(inputs, labels, n, seed)`` returns n `Mosaics`,
            inputs that show several classes in known cells, for localization metrics. For images,
            this is usually `captum_quantum.datasets.mosaics`.

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


_DATASETS: dict[str, Dataset] = {}


def register_dataset(dataset: Dataset) -> Dataset:
    """Adds a data set to the table, so that the commands offer it.

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
        >>> _ = register_dataset(halves)  # doctest: +SKIP
        >>> main(["demo", "--dataset", "halves"])  # doctest: +SKIP
        0
    """
    if not isinstance(dataset, Dataset) or dataset.name in _DATASETS:
        from captum_quantum import _checks  # imports PyTorch

        if not isinstance(dataset, Dataset):
            _checks.wrong_type("dataset", "a Dataset", dataset)
        _checks.wrong_value("dataset.name", "a new name", dataset.name)
    _DATASETS[dataset.name] = dataset
    return dataset


def named_datasets() -> dict[str, Dataset]:
    """The data sets of the table.

    Returns:
        dict[str, Dataset]: The data sets by name, in the order in which they were registered.

    Examples:
        >>> from captum_quantum.datasets import named_datasets
        >>> named_datasets()["digits"].classes["8"]
        'an 8'
    """
    return dict(_DATASETS)
