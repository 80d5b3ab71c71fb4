"""Data sets for hybrid models: real ones, small enough to come without a download."""

from captum_quantum.datasets.digits import Digits, load_digits, read_digit
from captum_quantum.datasets.mosaics import Mosaics, mosaics

__all__ = ["Digits", "Mosaics", "load_digits", "mosaics", "read_digit"]
