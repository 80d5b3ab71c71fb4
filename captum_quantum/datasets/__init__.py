"""Data sets for hybrid models that need no download, and the table of data sets."""

from captum_quantum.datasets.digits import Digits, load_digits, read_digit
from captum_quantum.datasets.mnist import load_mnist
from captum_quantum.datasets.mosaics import Mosaics, mosaics
from captum_quantum.datasets.registry import Dataset, named_datasets, register_dataset

__all__ = [
    "Dataset", "Digits", "Mosaics", "load_digits", "load_mnist", "mosaics",
    "named_datasets", "read_digit", "register_dataset"
]  # fmt: skip
