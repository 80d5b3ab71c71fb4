"""Data sets for hybrid models: real ones, small enough to come without a download."""

from captum_quantum.datasets.digits import Digits, Mosaics, load_digits, mosaics, read_digit

__all__ = ["Digits", "Mosaics", "load_digits", "mosaics", "read_digit"]
