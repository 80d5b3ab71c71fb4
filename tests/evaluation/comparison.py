"""A small comparison that the tests of `captum_quantum.evaluation` share."""

import numpy as np
import torch
from captum.attr import LayerGradCam, Saliency
from torch import nn

from captum_quantum import compare
from captum_quantum.evaluation import storage

METHODS, METRICS = ("a", "b"), {"high": True, "low": False}


def energy(attributions):
    return attributions.flatten(1).abs().sum(dim=1)


def score(model, inputs, target):
    with torch.no_grad():
        return model(inputs).gather(1, target[:, None])[:, 0]


def noisy(attributions):
    return torch.rand(len(attributions))


def inside(attributions, masks):
    return (attributions * masks).flatten(1).sum(dim=1)


energy.higher_is_better = False
score.higher_is_better = True
for function in (energy, score, noisy, inside):
    function.version = "1"


def small_model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))


def samples(n=23, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, 1, 6, 6, generator=generator),
        torch.randint(0, 4, (n,), generator=generator),
    )


def batches(n=23, size=5, seed=1):
    images, labels = samples(n, seed)
    return list(zip(images.split(size), labels.split(size), strict=True))


def two_methods(model):
    return {"gradcam": LayerGradCam(model, model[1]), "saliency": Saliency(model)}


def everything(report):
    return np.array([[report.values[k][m] for m in report.methods] for k in report.metrics])


def batch(number, values, start=None):
    values = np.asarray(values, dtype=float)
    size = values.shape[1]
    labels = np.arange(size) % 3
    start = size * number if start is None else start
    return storage.BatchResult(number, f"{number:08x}", start, labels, labels, values)


def run(folder, *, seed=0, loader=None, metrics=None, **options):
    model = small_model()
    metrics = metrics or {"energy": energy, "noisy": noisy}
    loader = batches() if loader is None else loader
    return compare(
        two_methods(model), loader, metrics, output=folder, seed=seed, progress=False, **options
    )


def stop_after(n_batches, error=KeyboardInterrupt, among=None):
    """A loader that breaks off."""
    for number, one in enumerate(among or batches()):
        if number == n_batches:
            raise error
        yield one


class Sized:
    """An iterator that has a length: by default that of `batches`."""

    def __init__(self, iterator, length=5):
        self._iterator, self._length = iterator, length

    def __iter__(self):
        return self._iterator

    def __len__(self):
        return self._length


class Keeper:
    """`ActivationsAndGradients` of pytorch-grad-cam."""

    def __init__(self, model, target_layers):
        self.model = model
        self.activations, self.gradients, self.handles = [], [], []
        for layer in target_layers:
            self.handles.append(layer.register_forward_hook(self.save_activation))
            self.handles.append(layer.register_forward_hook(self.save_gradient))

    def save_activation(self, module, inputs, output):
        self.activations.append(output.cpu().detach())

    def save_gradient(self, module, inputs, output):
        def store(grad):
            self.gradients = [grad.cpu().detach(), *self.gradients]

        if output.requires_grad:
            output.register_hook(store)

    def __call__(self, inputs):
        self.activations, self.gradients = [], []
        return self.model(inputs)

    def release(self):
        self.activations.clear()
        self.gradients.clear()
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


class Cam:
    """What `compare` uses of pytorch-grad-cam's classes, with their habits: Grad-CAM, rectified,

    scaled to the image, from 0 to 1, as a NumPy array; gradients by `backward` into the model;
    hooks that stay on the layers and keep all that comes by.
    """

    def __init__(self, model, target_layers):
        self.model = model.eval()
        self.target_layers = target_layers
        self.device = next(model.parameters()).device
        self.activations_and_grads = Keeper(model, target_layers)

    def __call__(self, input_tensor, targets=None):
        self.outputs = outputs = self.activations_and_grads(input_tensor.to(self.device))
        self.model.zero_grad()
        sum(t(o) for t, o in zip(targets, outputs, strict=True)).backward(retain_graph=True)
        activations = self.activations_and_grads.activations[0]
        weights = self.activations_and_grads.gradients[0].mean(dim=(2, 3), keepdim=True)
        maps = (weights * activations).sum(dim=1, keepdim=True).relu()
        maps = nn.functional.interpolate(maps, input_tensor.shape[2:], mode="bilinear")
        maps = maps - maps.amin(dim=(1, 2, 3), keepdim=True)
        maps = maps / (1e-7 + maps.amax(dim=(1, 2, 3), keepdim=True))
        return maps[:, 0].detach().cpu().numpy()


SETUP = """
import os, sys, time
import torch
torch.set_num_threads(1)
from torch import nn
from captum.attr import LayerGradCam, Saliency
from captum_quantum import compare

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))
images, labels = torch.rand(300, 1, 6, 6), torch.randint(0, 4, (300,))
batches = list(zip(images.split(4), labels.split(4)))

calls = []

def energy(attributions):
    calls.append(len(attributions))
    time.sleep(pause)
    return attributions.flatten(1).abs().sum(dim=1)

def noisy(model, inputs):
    return (model(inputs + torch.randn(inputs.shape)) ** 2).sum(dim=1)

energy.version = noisy.version = 1
energy.higher_is_better = False
nulls = ()

def run(folder):
    return compare(
        {"gradcam": LayerGradCam(model, model[1]), "saliency": Saliency(model)},
        batches, {"energy": energy, "noisy": noisy}, output=folder, progress=False, nulls=nulls,
    )
"""
NULLS = ("area-noise", "other-image", "rival-class")
