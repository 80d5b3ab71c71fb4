"""Comparison of methods: values, statistics, and runs that are killed, resumed and shared."""

import csv
import errno
import functools
import gc
import json
import math
import os
import random
import re
import subprocess
import sys
import textwrap
import time
import tracemalloc
import weakref

import numpy as np
import pytest
import scipy.stats
import torch
from captum.attr import (
    IntegratedGradients,
    LayerActivation,
    LayerGradCam,
    NoiseTunnel,
    Saliency,
)
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from captum_quantum import QuantumLayerGradCam, VQCLayer, _results, compare
from captum_quantum._report import Report, SeedReport, bootstrap_mean, paired_p_value
from captum_quantum.evaluate import World, _read_device, randomization_quantum
from captum_quantum.models import HybridClassifier

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


# --- values -------------------------------------------------------------------------------------


def test_values_are_those_of_a_loop_over_single_samples():
    model, (images, labels) = small_model().eval(), samples()
    report = compare(
        two_methods(model), batches(), {"energy": energy, "score": score}, progress=False
    )
    for name, method in two_methods(model).items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            found = method.attribute(image[None], target=int(label)).detach()
            assert report.values["energy"][name][i] == pytest.approx(
                float(found.abs().sum()), rel=1e-5
            )
            expected = float(model(image[None])[0, label].detach())
            assert report.values["score"][name][i] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert report.metrics == {"energy": False, "score": True}
    assert report.labels.tolist() == report.targets.tolist() == labels.tolist()
    assert report.index.tolist() == list(range(23))
    assert len(report) == 23


def test_maps_are_computed_once_for_each_method_and_batch():
    seen = []

    def method(inputs, target):
        seen.append(len(inputs))
        return inputs * target.reshape(-1, 1, 1, 1)

    model = small_model()
    metrics = {f"energy {k}": energy for k in range(4)}
    compare({"one": (method, model), "two": (method, model)}, batches(), metrics, progress=False)
    assert seen == [5, 5, 5, 5, 5, 5, 5, 5, 3, 3]


def test_metrics_get_what_they_ask_for_by_name():
    model = small_model()
    seen = {}

    def greedy(model, inputs, attributions, target, masks, attribute, *, option=7):
        seen.update(locals())
        return torch.zeros(len(inputs))

    images, labels = samples(4)
    masks = torch.rand(4, 6, 6) > 0.5
    report = compare(
        {"saliency": Saliency(model)},
        [(images, labels, masks)],
        {"greedy": greedy, "option": functools.partial(greedy, option=8)},
        progress=False,
    )
    assert seen["model"] is model
    assert seen["option"] == 8
    torch.testing.assert_close(seen["inputs"], images)
    torch.testing.assert_close(seen["masks"], masks)
    torch.testing.assert_close(seen["target"], labels)
    again = seen["attribute"](images, labels)
    torch.testing.assert_close(again, seen["attributions"])
    assert not again.requires_grad
    assert report.metrics == {"greedy": None, "option": None}


def test_direction_of_partial_metrics_is_found():
    bound = functools.partial(functools.partial(score), model=small_model())
    model = small_model(1)
    report = compare({"s": Saliency(model)}, batches(4), {"bound": bound}, progress=False)
    assert report.metrics == {"bound": True}
    # The bound model is asked, not the method's.
    images, labels = samples(4)
    expected = small_model()(images).gather(1, labels[:, None])[:, 0]
    np.testing.assert_allclose(report.values["bound"]["s"], expected.detach(), rtol=1e-5)


def test_named_metrics_are_those_of_the_package():
    from captum_quantum import metrics

    model = small_model()
    report = compare(two_methods(model), batches(), ["average_drop", "deletion"], progress=False)
    assert list(report.metrics.items()) == [("average_drop", False), ("deletion", False)]
    images, labels = samples()
    maps = LayerGradCam(model, model[1]).attribute(images, labels)
    expected = metrics.average_drop(model, images, maps, labels)
    np.testing.assert_allclose(report.values["average_drop"]["gradcam"], expected, rtol=1e-4)


def test_predicted_targets_are_those_of_the_first_method_for_all():
    first, second = small_model(0), small_model(3)
    images, labels = samples()
    report = compare(
        {"first": Saliency(first), "second": Saliency(second)},
        batches(),
        {"score": score},
        target="predicted",
        progress=False,
    )
    predicted = first(images).argmax(dim=1)
    assert (second(images).argmax(dim=1) != predicted).any()
    assert report.targets.tolist() == predicted.tolist()
    assert report.labels.tolist() == labels.tolist()
    expected = second(images).gather(1, predicted[:, None])[:, 0].detach()
    np.testing.assert_allclose(report.values["score"]["second"], expected, rtol=1e-5)


def test_a_map_that_is_not_finite_has_no_value():
    model = small_model()

    def broken(inputs, target):
        maps = inputs.clone()
        maps[1, 0, 0, 0] = torch.nan
        maps[3, 0, 2, 2] = torch.inf
        return maps

    images, labels = samples(5)
    report = compare(
        {"broken": (broken, model), "good": (lambda x, target: x, model)},
        [(images, labels, images > 0.5)],
        {"energy": energy, "score": score, "inside": inside},
        progress=False,
    )
    expected = energy(images)
    for metric in report.metrics:
        undefined = np.isnan(report.values[metric]["broken"])
        assert undefined.tolist() == [False, True, False, True, False]
        assert not np.isnan(report.values[metric]["good"]).any()
    np.testing.assert_allclose(report.values["energy"]["broken"][[0, 2, 4]], expected[[0, 2, 4]])
    scores = model(images).gather(1, labels[:, None])[:, 0].detach()
    np.testing.assert_allclose(
        report.values["score"]["broken"][[0, 2, 4]], scores[[0, 2, 4]], rtol=1e-5
    )
    kept = report.values["inside"]
    np.testing.assert_allclose(kept["broken"][[0, 2, 4]], kept["good"][[0, 2, 4]], rtol=1e-6)
    entry = next(s for s in report.scores if (s.metric, s.method) == ("energy", "broken"))
    assert (entry.n, entry.undefined) == (3, 2)
    assert entry.mean == pytest.approx(float(expected[[0, 2, 4]].mean()))
    pair = report.differences[0]
    assert (pair.n, pair.undefined, pair.ties, pair.p_value) == (3, 2, 3, 1.0)


def test_all_maps_undefined():
    model = small_model()
    report = compare(
        {"nan": (lambda x, target: x * torch.nan, model), "x": (lambda x, target: x, model)},
        batches(6),
        {"energy": energy},
        progress=False,
    )
    assert math.isnan(report.scores[0].mean)
    assert report.scores[0].n == 0
    assert math.isnan(report.differences[0].p_value)
    assert "(6 undefined)" in str(report)
    assert json.loads(_results.to_json(report.to_dict()))["scores"][0]["mean"] is None
    report.figure()


# --- methods ------------------------------------------------------------------------------------


def test_captum_methods_of_all_kinds():
    model = small_model()
    gradients = IntegratedGradients(model)
    methods = {
        "quantum": QuantumLayerGradCam(model, model[1]),
        "layer": LayerGradCam(model, model[1]),
        "no target": LayerActivation(model, model[1]),
        "primary": gradients,
        "few steps": functools.partial(gradients.attribute, n_steps=3),
        "noise": functools.partial(NoiseTunnel(Saliency(model)).attribute, nt_samples=2),
    }
    report = compare(methods, batches(), {"energy": energy}, progress=False)
    images, labels = samples()
    np.testing.assert_allclose(
        report.values["energy"]["no target"], energy(model[:2](images)).detach(), rtol=1e-5
    )
    few = gradients.attribute(images, target=labels, n_steps=3)
    np.testing.assert_allclose(report.values["energy"]["few steps"], energy(few), rtol=1e-4)
    np.testing.assert_allclose(
        report.values["energy"]["quantum"], report.values["energy"]["layer"], rtol=1e-5
    )
    described = report.configuration["methods"]
    assert described["primary"]["options"]["_multiply_by_inputs"] == "True"
    assert described["noise"]["options"]["Saliency"]
    assert {name: m["kind"] for name, m in described.items()} == {
        "quantum": "QuantumLayerGradCam at 1",
        "layer": "LayerGradCam at 1",
        "no target": "LayerActivation at 1",
        "primary": "IntegratedGradients",
        "few steps": "IntegratedGradients {'n_steps': 3}",
        "noise": "NoiseTunnel of Saliency {'nt_samples': 2}",
    }


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


def note(seen, attributions):
    seen.append(attributions)
    return energy(attributions)


def test_cams_of_pytorch_grad_cam():
    model = small_model().train()
    cam = Cam(model, [model[1]])
    seen = []
    metrics = {"note": functools.partial(note, seen)}
    compare({"cam": cam}, batches(), metrics, progress=False)
    images, labels = samples()
    expected = LayerGradCam(model, model[1]).attribute(images, labels, relu_attributions=True)
    expected = nn.functional.interpolate(expected, (6, 6), mode="bilinear")
    expected = expected - expected.amin(dim=(1, 2, 3), keepdim=True)
    expected = expected / (1e-7 + expected.amax(dim=(1, 2, 3), keepdim=True))
    torch.testing.assert_close(torch.cat(seen), expected.detach(), atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for p in model.parameters())


def real_cam():
    return pytest.importorskip("pytorch_grad_cam").GradCAM


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("find", [lambda: Cam, real_cam], ids=["ours", "theirs"])
def test_a_cam_keeps_nothing_of_what_metrics_do(find, fails):
    model = small_model()
    cam = find()(model=model, target_layers=[model[1]])
    store, images = cam.activations_and_grads, samples()[0]
    before = cam(images[:2], [lambda o: o[0]] * 2)
    kept, hooks = list(store.activations), list(model[1]._forward_hooks)
    seen = []

    def busy(model, inputs, attribute, target):
        again = attribute(inputs, target)
        for _ in range(5):
            model(inputs)
        seen.append((len(store.activations), len(model[1]._forward_hooks)))
        if fails:
            raise KeyError("broken metric")
        return again.flatten(1).sum(dim=1)

    methods = {"cam": cam, "twice": cam, "other": Saliency(model)}
    if fails:
        with pytest.raises(KeyError, match="broken metric"):
            compare(methods, batches(), {"busy": busy}, progress=False)
    else:
        compare(methods, batches(), {"busy": busy}, progress=False)
    assert set(seen) == {(1, 0)}  # what the user's own call has left
    assert [a is b for a, b in zip(store.activations, kept, strict=True)] == [True]
    assert list(model[1]._forward_hooks) == hooks
    np.testing.assert_array_equal(cam(images[:2], [lambda o: o[0]] * 2), before)
    store.release()
    assert not model[1]._forward_hooks


def test_maps_of_the_real_pytorch_grad_cam():
    real = pytest.importorskip("pytorch_grad_cam")
    model = small_model()
    maps = []
    for kind in (Cam, real.GradCAM):
        seen = []
        metrics = {"note": functools.partial(note, seen)}
        compare({"c": kind(model, [model[1]])}, batches(), metrics, progress=False)
        maps.append(torch.cat(seen))
    assert maps[1].shape == (23, 1, 6, 6)
    torch.testing.assert_close(maps[1], maps[0], atol=1e-4, rtol=1e-3)
    others = {
        name: getattr(real, name)(model=model, target_layers=[model[1]])
        for name in ("ScoreCAM", "GradCAMPlusPlus", "EigenCAM", "AblationCAM", "LayerCAM")
    }
    report = compare(others, batches(6), {"energy": energy}, progress=False)
    assert not np.isnan(everything(report)).any()
    assert report.configuration["methods"]["AblationCAM"]["options"]["batch_size"] == "32"


def test_hybrid_and_its_twin_side_by_side():
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    hybrid = HybridClassifier(backbone, VQCLayer(3), n_features=4, n_classes=4)
    other = small_model()
    report = compare(
        {"hybrid": QuantumLayerGradCam(hybrid, backbone), "other": LayerGradCam(other, other[1])},
        batches(),
        {"score": score},
        progress=False,
    )
    images, labels = samples()
    for name, model in (("hybrid", hybrid), ("other", other)):
        expected = model(images).gather(1, labels[:, None])[:, 0].detach()
        np.testing.assert_allclose(report.values["score"][name], expected, rtol=1e-4, atol=1e-6)


# --- models as before ---------------------------------------------------------------------------


class Moody(nn.Module):
    """Has everything that an evaluation could disturb."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(36, 4)

    def forward(self, inputs):
        return self.last(self.drop(self.norm(inputs)).flatten(1))


@pytest.mark.parametrize("fails", [False, True])
def test_models_come_back_as_they_were(fails):
    model = Moody().train()
    model.norm.eval()
    model.last.bias.requires_grad_(False)
    model(samples()[0]).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    values = {n: g.clone() for n, g in grads.items() if g is not None}
    state = {n: v.clone() for n, v in model.state_dict().items()}
    pointers = {n: v.data_ptr() for n, v in model.state_dict().items()}
    random_state = torch.get_rng_state()
    modes = []

    def metric(model, inputs):
        modes.extend(m.training for m in model.modules())
        model(inputs).sum().backward()
        model.zero_grad(set_to_none=False)
        torch.rand(3)
        if fails:
            raise KeyError("broken metric")
        return torch.zeros(len(inputs))

    def run():
        compare({"s": Saliency(model)}, batches(), {"m": metric}, device="cpu", progress=False)

    if fails:
        with pytest.raises(KeyError, match="broken metric"):
            run()
    else:
        run()
    assert modes
    assert not any(modes)
    assert [m.training for m in model.modules()] == [True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]
    for name, parameter in model.named_parameters():
        assert parameter.grad is grads[name]
        if name in values:
            torch.testing.assert_close(parameter.grad, values[name], rtol=0, atol=0)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
        assert value.data_ptr() == pointers[name]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("output", [False, True])
def test_models_are_moved_to_the_gpu_for_the_duration(output, tmp_path):
    model = Moody()
    parameters, buffers = list(model.parameters()), list(model.buffers())
    pointers = [p.data_ptr() for p in parameters]
    seen = []

    def where(model, inputs, attributions, target):
        tensors = [*model.parameters(), *model.buffers(), inputs, attributions, target]
        seen.extend(tensor.device for tensor in tensors)
        return score(model, inputs, target)

    arguments = {"loader": batches(), "metrics": {"where": where}, "progress": False}
    here = compare({"s": Saliency(model)}, **arguments)
    assert {device.type for device in seen} == {"cpu"}
    seen.clear()
    folder = tmp_path / "out" if output else None
    there = compare({"s": Saliency(model)}, **arguments, device="cuda", output=folder)
    assert set(seen) == {torch.device("cuda", torch.cuda.current_device())}
    np.testing.assert_allclose(here.values["where"]["s"], there.values["where"]["s"], rtol=1e-4)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(a is b for a, b in zip(model.buffers(), buffers, strict=True))
    assert [p.data_ptr() for p in model.parameters()] == pointers
    if output:
        with pytest.raises(FileExistsError, match=r'methods.s.device = "cuda" in'):
            compare({"s": Saliency(model)}, **arguments, output=folder)


def test_each_process_has_its_own_gpu(monkeypatch):
    tried = []

    def empty(*size, device):
        tried.append(device)
        raise RuntimeError("no GPU here")

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 5)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    monkeypatch.setenv("LOCAL_RANK", "1")
    for device in ("cuda", "cuda:3", "cpu"):
        with pytest.raises(ValueError, match="device must be a device that torch knows"):
            _read_device(device)
    assert tried == [torch.device("cuda", 1), torch.device("cuda", 3), torch.device("cpu")]


@pytest.mark.gpu
def test_nccl(tmp_path):
    alone = run(tmp_path / "alone", device="cuda")
    torch.distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        world = World()
        world.size = 2  # so that nothing is skipped
        assert world.first_does(lambda: {"a": 1}) == {"a": 1}
        with pytest.raises(KeyError, match="broken"), world.failing_together():
            raise KeyError("broken")
        world.size = 1
        world.check_same({"seed": 0})
        report = run(tmp_path / "nccl", device="cuda")
    finally:
        torch.distributed.destroy_process_group()
    np.testing.assert_array_equal(everything(report), everything(alone))


@pytest.mark.gpu
def test_a_cam_made_on_the_cpu_works_on_the_gpu():
    model = small_model()
    cam = Cam(model, [model[1]])
    report = compare({"cam": cam}, batches(), {"e": energy}, device="cuda", progress=False)
    assert cam.device == torch.device("cpu")
    alone = compare({"cam": cam}, batches(), {"e": energy}, progress=False)
    np.testing.assert_allclose(report.values["e"]["cam"], alone.values["e"]["cam"], rtol=1e-3)


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError("Unable to allocate 3 GiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_batches_are_cut_until_they_fit(error):
    model, sizes = small_model(), []

    def hungry(inputs):
        sizes.append(len(inputs))
        if len(inputs) > 3:
            raise error
        return inputs.flatten(1).sum(dim=1)

    def method(inputs, target):
        if len(inputs) > 6:
            raise error
        return inputs

    images, labels = samples(23)
    report = compare(
        {"m": (method, model)},
        [(images[i:j], labels[i:j]) for i, j in ((0, 9), (9, 18), (18, 23))],
        {"hungry": hungry, "energy": energy},
        progress=False,
    )
    np.testing.assert_allclose(
        report.values["hungry"]["m"], images.flatten(1).sum(dim=1), rtol=1e-6
    )
    np.testing.assert_allclose(report.values["energy"]["m"], energy(images), rtol=1e-6)
    # Halved from 9 to 5 to 3, and 3 is remembered for the next batch of 9.
    assert sizes == [9, 5, 3, 3, 3, 3, 3, 3, 5, 3, 2]


def test_a_run_that_goes_on_cuts_batches_as_an_undisturbed_one(tmp_path):
    def hungry(attributions):
        if len(attributions) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.rand(len(attributions))

    images, labels = samples(24)
    cut = [*zip(images[:20].split(10), labels[:20].split(10), strict=True)]
    cut.append((images[20:], labels[20:]))  # after pieces of 3, one of 4 that fits
    metrics = {"hungry": hungry}
    whole = run(None, loader=cut, metrics=metrics)
    for n_done in (1, 2):
        folder = tmp_path / str(n_done)
        with pytest.raises(KeyboardInterrupt):
            run(folder, loader=Sized(stop_after(n_done, among=cut), 3), metrics=metrics)
        report = run(folder, loader=cut, metrics=metrics)
        np.testing.assert_array_equal(everything(report), everything(whole))


def test_a_sample_that_does_not_fit_alone():
    def hungry(inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = small_model()
    with pytest.raises(MemoryError, match="a single sample does not fit in memory: CUDA out of"):
        compare({"s": Saliency(model)}, batches(), {"hungry": hungry}, progress=False)


def test_other_runtime_errors_are_not_retried():
    calls = []

    def faulty(inputs):
        calls.append(len(inputs))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model = small_model()
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        compare({"s": Saliency(model)}, batches(), {"faulty": faulty}, progress=False)
    assert calls == [5]
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == [
            "in metric 'faulty' of method 's', batch of 5 samples from sample 0 on"
        ]


# --- randomness ---------------------------------------------------------------------------------


def test_seed_fixes_what_is_drawn_and_methods_share_it():
    model = small_model()
    metrics = {"noisy": noisy, "again": noisy}

    def run(seed):
        torch.rand(5)  # the global state does not matter
        report = compare(two_methods(model), batches(), metrics, seed=seed, progress=False)
        return report.values["noisy"]

    first = run(0)
    np.testing.assert_array_equal(first["gradcam"], first["saliency"])
    np.testing.assert_array_equal(first["gradcam"], run(0)["gradcam"])
    assert not np.isin(first["gradcam"], run(1)["gradcam"]).any()
    assert len(set(first["gradcam"])) == 23


# --- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 7, 300])
def test_bootstrap_is_that_of_scipy(n):
    values = np.random.default_rng(5).exponential(size=n) ** 2
    found = bootstrap_mean(values, confidence=0.9, seed=3, n_resamples=2000)
    if n == 300:  # the same resamples: both draw (n_resamples, n) indices
        expected = scipy.stats.bootstrap(
            (values,), np.mean, confidence_level=0.9, n_resamples=2000, rng=np.random.default_rng(3)
        ).confidence_interval
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20000, rng=np.random.default_rng(9)
    ).confidence_interval
    np.testing.assert_allclose(found, expected, rtol=0.1)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_mean(rng.exponential(size=60), seed=trial, n_resamples=400)
        hits += low <= 1 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_bootstrap_draws_large_samples_in_parts():
    values = np.random.default_rng(1).normal(size=3_000_000)
    low, high = bootstrap_mean(values, n_resamples=3)
    assert low <= high
    assert abs(low - values.mean()) < 5e-3


def test_bootstrap_without_spread_or_samples():
    assert bootstrap_mean(np.full(9, 0.25)) == (0.25, 0.25)
    assert all(math.isnan(end) for end in bootstrap_mean(np.array([1.0])))
    assert all(math.isnan(end) for end in bootstrap_mean(np.array([])))


def test_p_value_is_that_of_scipy():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=40), rng.normal(0.3, size=40)
    none = np.zeros(40, dtype=bool)
    assert paired_p_value(a - b, none) == scipy.stats.wilcoxon(a, b).pvalue
    # By hand: of six differences all positive, the chance of that or the reverse is 2 / 2^6.
    assert paired_p_value(np.arange(1.0, 7), none[:6]) == pytest.approx(2 / 64)
    b[:5] = a[:5]
    assert paired_p_value(a - b, a == b) == scipy.stats.wilcoxon(a[5:], b[5:]).pvalue
    assert paired_p_value(a - a, a == a) == 1.0
    assert math.isnan(paired_p_value(np.array([]), none[:0]))


def batch(number, values, start=None):
    values = np.asarray(values, dtype=float)
    size = values.shape[1]
    labels = np.arange(size) % 3
    start = size * number if start is None else start
    return _results.Batch(number, f"{number:08x}", start, labels, labels, values)


def test_rounding_is_no_difference():
    rng = np.random.default_rng(0)
    values = rng.normal(size=50)
    near = values + 1e-7  # all differences of one sign
    report = Report(["a", "b"], {"m": None}, [batch(0, np.stack([values, near])[:, :, None])])
    assert scipy.stats.wilcoxon(values, near).pvalue < 1e-6
    assert report.differences[0].p_value == 1.0
    assert report.differences[0].ties == 50


def test_ties_are_a_matter_of_each_pair_and_of_the_typical_value():
    #          typical  equal     outlier       tiny: rounding   zero   differs
    a = np.array([1.0, 2.0 + 1e-7, 1e9 + 100.0, 1e-9, 0.0, 1.0 + 1e-4, 0.0])
    b = np.array([1.0, 2.0, 1e9, 2e-9, 0.0, 1.0, 1e-4])
    values = np.stack([a, b])[:, :, None]
    report = Report(["a", "b"], {"m": None}, [batch(0, values)])
    assert report.differences[0].ties == 5
    # Without a typical value other than 0 there is still one of those that are not.
    few = np.zeros((2, 9, 1))
    few[:, 0, 0], few[:, 1, 0], few[:, 2, 0] = (5.0, 5.0), (3.0, 4.0), (1e-8, 0.0)
    assert Report(["a", "b"], {"m": None}, [batch(0, few)]).differences[0].ties == 8


def test_small_drops_are_differences_of_large_percentages():
    drops = np.array([0.5, 0.4, 0.6, 0.5])
    scores = np.float32(0.3) * (1 - drops.astype(np.float32) / 100)  # after, of 0.3 before
    others = np.nextafter(scores, np.float32(1))
    values = 100 * (1 - np.stack([scores, others]).astype(float) / 0.3)[:, :, None]
    for metric, ties in (("average_drop", 4), ("average_gain", 4), ("m", 0)):
        report = Report(["a", "b"], {metric: False}, [batch(0, values)])
        assert report.differences[0].ties == ties
    values[1] += 1e-3
    report = Report(["a", "b"], {"average_drop": False}, [batch(0, values)])
    assert report.differences[0].ties == 0


def test_seeds_that_differ_by_rounding_count_for_neither_method():
    values = np.random.default_rng(0).normal(size=(2, 30, 1))
    reports = {}
    for seed, away in enumerate([1e-9, 1e-9, 1e-9, -1e-9, -1e-9, 0.5, np.nan]):
        both = np.stack([values[0] + away, values[0]])
        reports[seed] = [Report(["a", "b"], {"m": None}, [batch(0, both)])]
    found = SeedReport(reports)
    pair = found.differences[0]
    assert (pair.above, pair.below, pair.tied) == (1, 0, 5)
    assert found.to_dict()["differences"][0]["tied"] == 5
    header, _, row = str(found).splitlines()[-3:]
    assert header.endswith("seeds above 0  below 0  tied")
    assert row.split()[-3:] == ["1", "0", "5"]
    assert found.markdown().rstrip().endswith("| 1 | 0 | 5 |")


def test_report_of_known_numbers(tmp_path):
    a = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0])
    b = np.array([0.0, 1.0, 1.0, 2.0, 7.0, np.nan])
    values = np.stack([np.stack([a, b], axis=1), np.stack([b, a], axis=1)])
    report = Report(METHODS, METRICS, [batch(0, values)], {"seed": 0})
    one = report.scores[0]
    assert (one.metric, one.method, one.higher_is_better) == ("high", "a", True)
    assert (one.mean, one.n, one.undefined) == (16 / 5, 5, 1)
    assert one.low < one.mean < one.high
    pair = report.differences[0]
    assert (pair.first, pair.second, pair.n, pair.undefined) == ("a", "b", 4, 2)
    assert (pair.mean, pair.ties) == (6 / 4, 0)
    assert pair.p_value == scipy.stats.wilcoxon([1.0, 1.0, 2.0, 2.0]).pvalue
    assert report.differences[1].mean == -6 / 4
    text = str(report)
    assert "3.200 [" in text
    assert text.count("(1 undefined)") == 4
    assert "a - b" in text
    assert "high    ↑" in text
    assert "low     ↓" in text
    assert "| high | ↑ | 3.200 [" in report.markdown()
    report.save(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "report.json").read_text())
    assert saved["scores"][0]["mean"] == 16 / 5
    assert saved["configuration"] == {"seed": 0}
    assert (tmp_path / "new" / "report.md").read_text() == report.markdown()
    assert (tmp_path / "new" / "report.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "new" / "values.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["high"]) for r in rows if r["method"] == "a"][:4] == [1, 2, 3, 4]
    assert len(rows) == 12


def test_a_report_is_not_saved_among_the_results_of_another(tmp_path):
    run(tmp_path / "one").save(tmp_path / "one")
    before = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
    other = run(None, seed=1)
    with pytest.raises(FileExistsError, match="seed = 0 in configuration.json, now seed = 1"):
        other.save(tmp_path / "one")
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == before
    other.save(tmp_path / "two")


def test_a_single_method_has_no_differences():
    report = Report(["a"], {"m": None}, [batch(0, np.ones((1, 4, 1)))])
    assert report.differences == []
    assert "Paired" not in str(report) + report.markdown()


# --- results on disk ----------------------------------------------------------------------------


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


def test_results_are_written_as_they_come_and_merged(tmp_path):
    whole = run(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == [
        ".lock",
        "configuration.json",
        "values.csv",
    ]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", loader=Sized(stop_after(3)))
    text = (tmp_path / "cut" / "part-0.csv").read_text()
    assert text == "".join(
        (tmp_path / "whole" / "values.csv").read_text().splitlines(keepends=True)[: 1 + 3 * 10]
    )
    plain = compare(
        two_methods(small_model()), batches(), {"energy": energy, "noisy": noisy}, progress=False
    )
    np.testing.assert_array_equal(everything(whole), everything(plain))


class Sized:
    """An iterator that has a length: by default that of `batches`."""

    def __init__(self, iterator, length=5):
        self._iterator, self._length = iterator, length

    def __iter__(self):
        return self._iterator

    def __len__(self):
        return self._length


def count_maps(monkeypatch):
    seen = []
    original = Saliency.attribute

    @functools.wraps(original)
    def counting(self, inputs, *args, **kwargs):
        seen.append(len(inputs))
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(Saliency, "attribute", counting)
    return seen


def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", loader=Sized(stop_after(3)))
    seen = count_maps(monkeypatch)
    report = run(tmp_path / "cut")
    assert seen == [5, 3]
    np.testing.assert_array_equal(everything(report), everything(whole))
    for name in ("values.csv", "configuration.json"):
        here, there = ((tmp_path / f / name).read_bytes() for f in ("cut", "whole"))
        assert here == there
    # And once more: nothing is left to do.
    report = run(tmp_path / "cut")
    assert seen == [5, 3]
    np.testing.assert_array_equal(everything(report), everything(whole))


def test_every_cut_of_a_file_is_read_as_the_batches_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # hundreds of cuts
    table = _results.Table(METHODS, tuple(METRICS))
    rng = np.random.default_rng(0)
    written = [batch(number, rng.normal(size=(2, 2, 2)).round(3)) for number in range(3)]
    written[1].values[0, 1, 1] = np.nan
    part = _results.Part(tmp_path, table, 4)
    ends = []
    for one in written:
        part.append(one)
        ends.append(part.path.stat().st_size)
    part.close()
    data = part.path.read_bytes()
    for cut in range(len(data) + 1):
        part.path.write_bytes(data[:cut])
        found = _results.recover(tmp_path, table)
        n_whole = sum(end <= cut for end in ends)
        assert sorted(found) == list(range(n_whole))
        assert all(found[number].same(written[number]) for number in found)
        # What was torn is gone, so that the next batch begins on a line of its own.
        header_end = len(table.header) + 1
        assert part.path.stat().st_size in {0, header_end, *ends[:n_whole]}
        again = _results.Part(tmp_path, table, 4)
        again.append(batch(7, np.ones((2, 2, 2)), start=21))
        again.close()
        assert sorted(_results.recover(tmp_path, table)) == [*range(n_whole), 7]
    # After a power failure, zeros may stand in the place of the last lines.
    part.path.write_bytes(data[: ends[0] + 5] + bytes(40))
    assert sorted(_results.recover(tmp_path, table)) == [0]


def test_numbers_survive_the_file_bit_for_bit(tmp_path):
    table = _results.Table(METHODS, tuple(METRICS))
    numbers = [1 / 3, 5e-324, -1.7976931348623157e308, np.nan, np.inf, -0.0, 0.1 + 0.2, 1e22]
    one = batch(0, np.array(numbers).reshape(2, 2, 2))
    part = _results.Part(tmp_path, table, 0)
    part.append(one)
    part.close()
    back = _results.recover(tmp_path, table)[0]
    assert back.values.tobytes() == one.values.tobytes()


def test_a_kill_between_the_merged_file_and_the_removal_of_the_parts(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", loader=Sized(stop_after(4)))
    part = (tmp_path / "a" / "part-0.csv").read_bytes()
    whole = run(tmp_path / "a")
    (tmp_path / "a" / "part-0.csv").write_bytes(part)
    report = run(tmp_path / "a")
    np.testing.assert_array_equal(everything(report), everything(whole))
    assert not (tmp_path / "a" / "part-0.csv").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.replace("gradcam", "gradcan", 1), "line 2 or one after it is wrong"),
        (lambda t: re.sub(r"\n0,5,(\w+),1,", r"\n0,5,\1,2,", t), "not the next line of its batch"),
        (lambda t: re.sub(r"\n0,5,\w+,1,", "\n0,5,0,1,", t), "not the next line of its batch"),
        (lambda t: t.replace("energy", "ennui", 1), "other columns than those asked for"),
        (lambda t: t.replace("\n", "\nx", 2), "line 2 or one after it is wrong"),
    ],
)
def test_damage_that_no_kill_explains_is_an_error(damage, message, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=Sized(stop_after(3)))
    path = tmp_path / "part-0.csv"
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(OSError, match=message):
        run(tmp_path)
    assert path.read_bytes() == before


def test_two_files_that_disagree_are_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=Sized(stop_after(3)))
    text = (tmp_path / "part-0.csv").read_text()
    lines = text.splitlines()
    lines[1] = lines[1].rsplit(",", 1)[0] + ",0.5"
    (tmp_path / "part-1.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(OSError, match="batch 0 differs from what another file says of it"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"seed = 0 in configuration.json, now seed = 1"),
        ({"target": "predicted"}, r'target = "label" in configuration.json, now'),
        ({"metrics": {"energy": energy}}, r'metrics.noisy = ".*" in .* now metrics.noisy = null'),
        ({"metrics": {"noisy": noisy, "energy": energy}}, r"order of metrics = .* now order of"),
        ({"loader": batches(seed=2)}, r"first_batch = .* now first_batch = "),
        ({"loader": batches()[:3]}, r"n_batches = 5 in .* now n_batches = 3"),
    ],
)
def test_another_configuration_is_refused_and_results_stay(change, message, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=Sized(stop_after(3)))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=message):
        run(tmp_path, **change)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_other_weights_are_another_configuration(tmp_path):
    run(tmp_path)
    other = two_methods(small_model(5))
    with pytest.raises(FileExistsError, match=r"methods.gradcam.model = "):
        compare(
            other, batches(), {"energy": energy, "noisy": noisy}, output=tmp_path, progress=False
        )


def scaled(by):
    return lambda attributions: energy(attributions) * by


def largest(attributions):
    return attributions.flatten(1).abs().amax(dim=1)


def total(attributions):
    return attributions.flatten(1).abs().sum(dim=1)


class Power:
    def __init__(self, exponent):
        self.exponent = exponent

    def __call__(self, attributions):
        return energy(attributions) ** self.exponent


def renamed(function):
    function.__qualname__ = function.__name__ = "metric"
    return function


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda attributions: energy(attributions), lambda attributions: 2 * energy(attributions)),
        (renamed(largest), renamed(total)),
        (renamed(torch.no_grad()(largest)), renamed(torch.no_grad()(total))),
        (scaled(1), scaled(2)),
        (scaled(torch.ones(1)), scaled(torch.zeros(1))),
        (Power(1), Power(2)),
        (functools.partial(inside, masks=torch.ones(1)), functools.partial(inside, masks=-1)),
        (
            functools.partial(inside, masks=torch.arange(5000.0).reshape(-1, 1, 1, 1)[:1]),
            functools.partial(inside, masks=torch.arange(5000.0).reshape(-1, 1, 1, 1)[1:2]),
        ),
    ],
)
def test_a_metric_that_computes_something_else_is_another_configuration(one, other, tmp_path):
    arguments = {"output": tmp_path, "progress": False}
    methods = {"s": Saliency(small_model())}
    compare(methods, batches(), {"m": one}, **arguments)
    compare(methods, batches(), {"m": one}, **arguments)
    with pytest.raises(FileExistsError, match=r"metrics.m = "):
        compare(methods, batches(), {"m": other}, **arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda model, changed: IntegratedGradients(model, multiply_by_inputs=not changed),
        lambda model, changed: LayerGradCam(model, model[0] if changed else model[1]),
        lambda model, changed: NoiseTunnel(IntegratedGradients(model, not changed)),
        lambda model, changed: Cam(model, [model[0] if changed else model[1]]),
        lambda model, changed: functools.partial(
            IntegratedGradients(model).attribute, baselines=torch.full((1, 1, 6, 6), int(changed))
        ),
        lambda model, changed: Saliency(
            (lambda x: model(x)) if changed else (lambda x: model(x) ** 2)
        ),
        lambda model, changed: Saliency(nn.Sequential(model, nn.Softmax(0 if changed else 1))),
        lambda model, changed: (
            (lambda inputs, target: inputs + 1) if changed else (lambda inputs, target: inputs),
            model,
        ),
    ],
)
def test_a_method_made_otherwise_is_another_configuration(make, tmp_path):
    model = small_model()
    arguments = {"loader": batches(), "metrics": {"e": energy}, "output": tmp_path}
    compare({"m": make(model, False)}, **arguments, progress=False)
    compare({"m": make(model, False)}, **arguments, progress=False)
    with pytest.raises(FileExistsError, match=r"methods.m.(kind|options|model)"):
        compare({"m": make(model, True)}, **arguments, progress=False)


def test_the_gradient_rule_of_a_quantum_method_is_part_of_the_configuration(tmp_path):
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    hybrid = HybridClassifier(backbone, VQCLayer(2), n_features=4, n_classes=4)
    arguments = {"loader": batches(6), "metrics": {"e": energy}, "output": tmp_path}
    compare({"q": QuantumLayerGradCam(hybrid, backbone)}, **arguments, progress=False)
    other = QuantumLayerGradCam(hybrid, backbone, gradient="parameter-shift")
    with pytest.raises(FileExistsError, match=r"methods.q.options.gradient = "):
        compare({"q": other}, **arguments, progress=False)


def test_other_versions_are_another_configuration(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(torch, "__version__", "0.1")
    with pytest.raises(FileExistsError, match=r'now versions.torch = "0.1"'):
        run(tmp_path)


def test_methods_in_another_order_are_another_configuration(tmp_path):
    run(tmp_path)
    gradcam, saliency = two_methods(small_model()).items()
    metrics = {"energy": energy, "noisy": noisy}
    with pytest.raises(FileExistsError, match=r'order of methods = \["gradcam", "saliency"\] in'):
        compare(dict([saliency, gradcam]), batches(), metrics, output=tmp_path, progress=False)


FUNCTIONS = """
from captum_quantum.evaluate import _plain
print(_plain(lambda x, k={"b", "a"}: x.sum() if k in {"c", "d", "e", "f"} else [y for y in x]))
"""


def test_functions_have_the_same_description_in_every_process():
    words = set()
    for seed in range(3):
        done = subprocess.run(
            [sys.executable, "-c", FUNCTIONS],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        )
        words.add(done.stdout)
    assert len(words) == 1


def test_results_without_configuration_are_refused(tmp_path):
    run(tmp_path)
    (tmp_path / "configuration.json").unlink()
    with pytest.raises(FileExistsError, match=r"values.csv but no configuration.json"):
        run(tmp_path)
    (tmp_path / "configuration.json").write_text("{")
    with pytest.raises(FileExistsError, match=r"a configuration.json that is not JSON"):
        run(tmp_path)


def test_other_data_later_on_are_noticed(tmp_path):
    for place in (0, 1, 2):
        changed = [(*one, one[0] > 0.5) for one in batches()]
        folder = tmp_path / str(place)
        with pytest.raises(KeyboardInterrupt):
            run(folder, loader=Sized(stop_after(3, among=changed)))
        changed[1] = tuple(part.clone() for part in changed[1])
        if place == 0:
            changed[1][0][4, 0, 5, 5] += 0.1
        elif place == 1:
            changed[1][1][4] = (changed[1][1][4] + 1) % 4
        else:
            changed[1][2][4, 0, 5, 5] = ~changed[1][2][4, 0, 5, 5]
        before = (folder / "part-0.csv").read_bytes()
        with pytest.raises(ValueError, match="as the run that is resumed; got another batch 1"):
            run(folder, loader=changed)
        assert (folder / "part-0.csv").read_bytes() == before


def test_a_loader_that_has_become_shorter_is_noticed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=stop_after(3))
    with pytest.raises(ValueError, match="resumed; got 2 batches, and results of batch 2"):
        run(tmp_path, loader=iter(batches()[:2]))
    assert not (tmp_path / "values.csv").exists()
    assert len(run(tmp_path, loader=iter(batches()))) == 23


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error(tmp_path):
    (tmp_path / "part-0.csv").symlink_to("/dev/full")
    part = _results.Part(tmp_path, _results.Table(METHODS, tuple(METRICS)), 0)
    with pytest.raises(OSError, match="No space left on device; the results so far") as caught:
        part.append(batch(0, np.ones((2, 3, 2))))
    assert caught.value.errno == errno.ENOSPC
    part.close()


def test_a_disk_that_fills_within_a_batch_leaves_the_batch_before(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    size = (tmp_path / "whole" / "values.csv").stat().st_size
    real_write = os.write
    for room in range(1, size, 397):
        left = room

        def write(handle, data):
            nonlocal left
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = real_write(handle, data[:left])
            left -= written
            return written

        folder = tmp_path / str(room)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(OSError, match="No space left on device"):
                run(folder)
        text = (folder / "part-0.csv").read_text()
        assert (tmp_path / "whole" / "values.csv").read_text().startswith(text)
        assert text == "" or text.endswith("\n")
        np.testing.assert_array_equal(everything(run(folder)), everything(whole))


def test_a_merged_file_that_cannot_be_written_leaves_the_parts(tmp_path, monkeypatch):
    real = _results.replace

    def replace(path, content):
        if path.name == "values.csv":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(_results, "replace", replace)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path)
    assert (tmp_path / "part-0.csv").exists()
    assert not (tmp_path / "values.csv").exists()
    run(tmp_path)
    assert (tmp_path / "values.csv").exists()


def test_a_replaced_file_is_never_a_part(tmp_path, monkeypatch):
    path = tmp_path / "file"
    _results.replace(path, "old")

    def fail(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        _results.replace(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file" / "below")
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file")


@pytest.mark.parametrize("function", ["open", "write"])
def test_a_folder_without_permission(function, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=Sized(stop_after(3)))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = getattr(os, function)

    def refuse(file, *arguments):
        if function == "write" or str(file).endswith("part-0.csv"):
            raise PermissionError(errno.EACCES, "Permission denied", "part-0.csv")
        return real(file, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        with pytest.raises(PermissionError, match="Permission denied"):
            run(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert len(run(tmp_path)) == 23


LOCK = """
import sys
from pathlib import Path
from captum_quantum import _results
with _results.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_processes_on_one_folder(tmp_path):
    command = [sys.executable, "-c", LOCK, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError, match="a folder that no other process is writing to"):
            run(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
        other.kill()
        other.wait()
        run(tmp_path)  # the lock has ended with the process


# --- killed, and shared -------------------------------------------------------------------------

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

def run(folder):
    return compare(
        {"gradcam": LayerGradCam(model, model[1]), "saliency": Saliency(model)},
        batches, {"energy": energy, "noisy": noisy}, output=folder, progress=False,
    )
"""

KILL = """
import random, shutil, signal
from pathlib import Path

def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}

pause, folder = 0.0, Path(sys.argv[1])
run(folder / "whole")
pause = 0.004  # 75 batches of two maps each: at least 0.6 s
moments = random.Random(int(sys.argv[2]))
kills, sizes = 0, set()
while kills < 20:
    child = os.fork()
    if not child:
        run(folder / "killed")
        os._exit(0)
    time.sleep(moments.uniform(0, 0.08))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        kills += 1
        sizes.add(sum(p.stat().st_size for p in (folder / "killed").glob("part-*.csv")))
    else:  # it was done before: the next ones begin anew
        assert os.WEXITSTATUS(status) == 0
        assert files(folder / "killed") == files(folder / "whole")
        shutil.rmtree(folder / "killed")
pause = 0.0
run(folder / "killed")
print(kills, len(sizes))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_nothing_is_lost_or_repeated(tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    command = [sys.executable, "-c", SETUP + KILL, str(tmp_path), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (seed, done.stderr)
    n_kills, n_sizes = map(int, done.stdout.split())
    assert n_kills == 20, seed
    assert n_sizes >= 4, seed  # they did fall into the work
    for name in ("values.csv", "configuration.json"):
        whole, killed = ((tmp_path / f / name).read_bytes() for f in ("whole", "killed"))
        assert whole == killed, seed
    with (tmp_path / "killed" / "values.csv").open() as file:
        rows = [(int(r["index"]), r["method"]) for r in csv.DictReader(file)]
    assert sorted(rows) == [(i, m) for i in range(300) for m in ("gradcam", "saliency")]
    assert not list((tmp_path / "killed").glob("part-*"))


SHARE = """
import numpy as np
from torch import distributed

pause, folder, store, size = 0.0, sys.argv[1], sys.argv[2], int(sys.argv[3])
children = []
for rank in range(size):
    child = os.fork()
    if not child:
        distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size
        )
        calls.clear()
        report = run(folder)
        # 75 batches in turn, the metric once for each of two methods.
        if len(calls) != 2 * len(range(rank, 75, size)):
            os._exit(2)
        lone = run(None)
        same = all(
            np.array_equal(report.values[k][m], lone.values[k][m])
            for k in report.metrics for m in report.methods
        )
        distributed.barrier()
        os._exit(0 if same and len(report) == 300 else 1)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_several_processes_give_the_numbers_of_one(tmp_path):
    alone = SETUP + "\npause = 0.0\nrun(sys.argv[1])"
    for code, arguments in (
        (alone, [str(tmp_path / "one")]),
        (SETUP + SHARE, [str(tmp_path / "many"), str(tmp_path / "store"), "2"]),
    ):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, many = ((tmp_path / f / "values.csv").read_bytes() for f in ("one", "many"))
    assert one == many


FAILING = """
from datetime import timedelta
from torch import distributed
from captum_quantum import _results

where, victim, folder, store, rank = sys.argv[1], int(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5])
pause = 0.0
distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(days=30)
)

def faulty(attributions):
    calls.append(len(attributions))
    if rank == victim and len(calls) == 7:
        raise KeyError("broken metric")
    return attributions.flatten(1).abs().sum(dim=1)

class Odd(Exception):
    pass

def fail(*arguments):
    raise Odd("no such thing")

if where == "metric":
    energy = faulty
elif rank == victim:
    if where == "loader":
        batches = map(fail, batches)
    else:
        setattr(_results, where, fail)
try:
    run(folder)
except Exception as error:  # whatever it is, the test compares its type and message
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.stdin.read()  # the process goes on, so that nobody hears of its end
"""


@pytest.mark.parametrize(
    ("where", "victim", "message"),
    [
        ("metric", 1, "KeyError: 'broken metric'"),
        ("loader", 0, "Odd: no such thing"),
        ("Part", 1, "Odd: no such thing"),
        ("recover", 0, "Odd: no such thing"),
        ("merge", 0, "Odd: no such thing"),
    ],
)
def test_if_one_process_fails_the_others_do_not_wait(where, victim, message, tmp_path):
    arguments = [where, str(victim), str(tmp_path / "out"), str(tmp_path / "store")]
    command = [sys.executable, "-c", SETUP + FAILING, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, rank], **pipes) for rank in "01"]
    try:
        other = processes[1 - victim].communicate(timeout=30)[0]
        own = processes[victim].communicate(timeout=30)[0]
    finally:
        for process in processes:
            process.kill()
    assert own == f"{message}\n"
    assert other == (
        "RuntimeError: all processes must be able to do their parts; "
        f"got {message}, in process {victim}\n"
    )
    if where == "metric":  # what was found before is there
        size = len((tmp_path / "out" / "part-1.csv").read_text().splitlines())
        assert size == 1 + 3 * 8


RANK = """
import numpy as np
from datetime import timedelta
from torch import distributed

folder, store, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
pause = float(sys.argv[4])
distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
run(folder)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_processes_is_killed(victim, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    alone = SETUP + "\npause = 0.0\nrun(sys.argv[1])"
    subprocess.run([sys.executable, "-c", alone, str(tmp_path / "whole")], check=True)

    def start(number, pause):
        store = tmp_path / f"store-{number}"
        arguments = [str(tmp_path / "killed"), str(store), "rank", pause]
        command = [sys.executable, "-c", SETUP + RANK, *arguments]
        return [
            subprocess.Popen(
                [rank if a == "rank" else a for a in command], stderr=subprocess.DEVNULL
            )
            for rank in ("0", "1")
        ]

    def size():
        return sum(p.stat().st_size for p in (tmp_path / "killed").glob("part-*.csv"))

    for number in range(3):
        processes, before = start(number, "0.02"), size()
        while size() == before:  # until the work goes on
            assert processes[victim].poll() is None, seed
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        processes[victim].kill()
        # The other one finishes its own batches, finds that nobody is there, and fails.
        assert [p.wait(timeout=60) for p in processes][1 - victim] != 0, seed
        assert not (tmp_path / "killed" / "values.csv").exists()
    assert [p.wait(timeout=60) for p in start(3, "0")] == [0, 0], seed
    for name in ("values.csv", "configuration.json"):
        whole, killed = ((tmp_path / f / name).read_bytes() for f in ("whole", "killed"))
        assert whole == killed, seed


def test_a_run_of_several_processes_can_be_finished_by_one(tmp_path):
    whole = run(tmp_path / "whole")
    lines = (tmp_path / "whole" / "values.csv").read_text().splitlines(keepends=True)
    folder = tmp_path / "parts"
    run(folder)
    (folder / "values.csv").unlink()
    (folder / "part-0.csv").write_text("".join(lines[:1] + lines[21:31]))  # batch 2
    torn = lines[0] + "".join(lines[11:21]) + "".join(lines[31:35]) + lines[35][:9]
    (folder / "part-1.csv").write_text(torn)  # batch 1 and a half of batch 3
    report = run(folder)
    np.testing.assert_array_equal(everything(report), everything(whole))
    assert (folder / "values.csv").read_text() == "".join(lines)


# --- memory does not grow ---------------------------------------------------------------------


def test_batches_are_let_go(tmp_path):
    model, seen, alive = small_model(), [], []

    def loader():
        for inputs, labels in batches(60):
            inputs = inputs.clone()
            seen.append(weakref.ref(inputs))
            yield inputs, labels.clone()
            del inputs, labels
            gc.collect()
            alive.append(sum(ref() is not None for ref in seen))

    report = compare(
        two_methods(model), loader(), {"energy": energy}, output=tmp_path, progress=False
    )
    assert len(report) == 60
    assert len(seen) == 12
    # The one at hand, and the first, which is looked at before.
    assert max(alive) <= 2


MEMORY = """
import sys
import torch
from torch import nn
from captum_quantum import compare

torch.set_num_threads(1)
folder, keep = sys.argv[1], sys.argv[2] == "keep"
kept = []

def maps(inputs, target):
    if keep:
        kept.append(inputs)
    return inputs

def loader(n):
    for _ in range(n):
        yield torch.rand(4, 1, 256, 256), torch.arange(4)  # 1 MB

def first(attributions):
    return attributions[:, 0, 0, 0]

def peak(n):
    compare({"m": (maps, nn.Flatten())}, loader(n), {"first": first}, output=f"{folder}/{n}",
            progress=False)
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))

before = peak(10)
print((peak(200) - before) / 1024)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
@pytest.mark.parametrize("keep", ["keep", "let go"])
def test_twenty_times_the_data_need_no_more_memory(keep, tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path), keep]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if keep == "keep":  # the measurement would see it
        assert float(done.stdout) > 150
    else:
        assert float(done.stdout) < 20


def test_a_merged_file_is_never_whole_in_memory(tmp_path):
    table = _results.Table(METHODS, tuple(METRICS))
    one = batch(0, np.random.default_rng(0).normal(size=(2, 50, 2)))
    many = (one._replace(number=number, start=50 * number) for number in range(400))
    tracemalloc.start()
    try:
        _results.merge(tmp_path, table, many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / "values.csv").stat().st_size / 5


# --- loaders ------------------------------------------------------------------------------------


class Counting(TensorDataset):
    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.loaded = []

    def __getitem__(self, index):
        self.loaded.append(index)
        return super().__getitem__(index)


def test_a_data_loader_loads_only_what_is_still_to_be_done(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    data = Counting(*samples())

    def failing(self, batch):
        if len(data.loaded) > 5 + 14:  # the first batch is read twice
            raise KeyError
        append(self, batch)

    append = _results.Part.append
    with monkeypatch.context() as patch:
        patch.setattr(_results.Part, "append", failing)
        with pytest.raises(KeyError):
            run(tmp_path / "cut", loader=DataLoader(data, batch_size=5))
    data.loaded.clear()
    report = run(tmp_path / "cut", loader=DataLoader(data, batch_size=5))
    assert data.loaded == [0, 1, 2, 3, 4, *range(10, 23)]
    np.testing.assert_array_equal(everything(report), everything(whole))


def test_data_loader_with_workers(tmp_path):
    whole = run(tmp_path / "whole")
    loader = DataLoader(TensorDataset(*samples()), batch_size=5, num_workers=1)
    np.testing.assert_array_equal(everything(run(tmp_path / "b", loader=loader)), everything(whole))


def test_iterators_and_generators():
    whole = run(None)
    for loader in (iter(batches()), (one for one in batches()), tuple(batches())):
        np.testing.assert_array_equal(everything(run(None, loader=loader)), everything(whole))


def test_a_shuffled_loader_is_refused_where_order_counts(tmp_path):
    data = TensorDataset(*samples())
    shuffled = RandomSampler(data)
    for loader in (
        DataLoader(data, batch_size=5, shuffle=True),
        DataLoader(data, batch_sampler=BatchSampler(shuffled, 5, False)),
        DataLoader(data, batch_size=5, sampler=SubsetRandomSampler(range(23))),
        DataLoader(data, batch_size=5, sampler=WeightedRandomSampler([1] * 23, 23)),
    ):
        assert len(run(None, loader=loader)) == 23
        with pytest.raises(ValueError, match="a DataLoader with shuffle=True or a .*RandomSampler"):
            run(tmp_path / "new", loader=loader)
        assert not (tmp_path / "new").exists()


class Backwards(BatchSampler):
    def __iter__(self):
        return iter([*super().__iter__()][::-1])


class Last(SequentialSampler):
    def __iter__(self):
        return iter(range(len(self.data_source) - 1, -1, -1))


def test_samplers_of_ones_own_are_asked_themselves(tmp_path):
    images, labels = samples()
    data = TensorDataset(images, labels)
    whole = run(None)
    for number, (loader, order) in enumerate(
        [
            (DataLoader(data, batch_sampler=[[3, 1], [0, 7, 22]]), [3, 1, 0, 7, 22]),
            (
                DataLoader(data, batch_sampler=BatchSampler(range(22, -1, -1), 5, False)),
                range(22, -1, -1),
            ),
            (
                DataLoader(data, batch_sampler=Backwards(SequentialSampler(data), 20, False)),
                [*range(20, 23), *range(20)],
            ),
            (DataLoader(data, batch_size=5, sampler=Last(data)), range(22, -1, -1)),
        ]
    ):
        for _ in range(2):
            report = run(tmp_path / str(number), loader=loader)
            np.testing.assert_array_equal(report.labels, labels[list(order)])
            expected = whole.values["energy"]["saliency"][list(order)]
            found = report.values["energy"]["saliency"]
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_progress_bar(capsys):
    model = small_model()
    compare({"s": Saliency(model)}, batches(), {"energy": energy})
    assert "evaluation: 100%" in capsys.readouterr().err
    compare({"s": Saliency(model)}, batches(), {"energy": energy}, progress=False)
    assert capsys.readouterr().err == ""


# --- bad input ----------------------------------------------------------------------------------


def good():
    model = small_model()
    return {"methods": {"s": Saliency(model)}, "loader": batches(), "metrics": {"energy": energy}}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": {}}, ValueError, "methods must be at least one method; got {} (dict)"),
        ({"methods": [1]}, TypeError, "methods must be a mapping from names"),
        ({"methods": {1: None}}, TypeError, "names without commas, quotes and line breaks; got 1"),
        ({"methods": {"a,b": None}}, ValueError, "names without commas"),
        ({"methods": {" ": None}}, ValueError, "names without commas"),
        ({"methods": {"s": 3}}, TypeError, "methods['s'] must be an attribution object with"),
        ({"methods": {"s": len}}, TypeError, "(inputs, target) -> attributions and its model; got"),
        ({"metrics": {}}, ValueError, "metrics must be at least one metric"),
        ({"metrics": []}, ValueError, "metrics must be at least one metric"),
        ({"metrics": "energy"}, TypeError, "metrics must be names of metrics, or a mapping"),
        ({"metrics": ["averagedrop"]}, ValueError, "did you mean 'average_drop'?"),
        ({"metrics": {"e": 3}}, TypeError, "metrics['e'] must be a function; got 3 (int)"),
        (
            {"metrics": {"e": lambda maps, labels: maps}},
            TypeError,
            "whose parameters without default are among attribute, attributions, inputs, masks, "
            "model, target; got",
        ),
        ({"metrics": {"i": inside}}, ValueError, "(inputs, labels, masks), for i; got 'no masks'"),
        ({"loader": 3}, TypeError, "loader must be an iterable of batches; got 3 (int)"),
        ({"loader": []}, ValueError, "loader must be at least one batch; got 'none'"),
        ({"loader": [torch.ones(3)]}, TypeError, "each batch of the loader must be (inputs, lab"),
        (
            {"loader": [(torch.ones(3, 1), torch.ones(3))]},
            TypeError,
            "the loader's labels must be a tensor of integers; got a torch.float32 tensor",
        ),
        (
            {"loader": [(torch.ones(3, 1), torch.ones(2).long())]},
            ValueError,
            "the loader's labels must be of shape (3,); got",
        ),
        (
            {"loader": [(torch.ones(3, 1), torch.tensor([0, -2, 1]))]},
            ValueError,
            "the loader's labels must be classes, none negative; got -2 (int)",
        ),
        (
            {"loader": [(torch.ones(3, 1).long(), torch.ones(3).long())]},
            TypeError,
            "the loader's inputs must be a real floating-point tensor; got",
        ),
        (
            {"loader": [(torch.ones(0, 1), torch.ones(0).long())]},
            ValueError,
            "the loader's inputs must be at least one sample; got",
        ),
        (
            {"loader": [(torch.ones(2, 1), torch.ones(2).long(), torch.ones(3))]},
            ValueError,
            "the loader's masks must be 2, one a sample; got",
        ),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0; got -1"),
        ({"target": "labels"}, ValueError, "target must be one of label, predicted"),
        ({"confidence": 95.0}, ValueError, "confidence must be a number in (0, 1); got 95.0"),
        ({"confidence": 1}, TypeError, "confidence must be a number in (0, 1); got 1"),
        ({"device": "gpu"}, ValueError, "device must be a device that torch knows"),
        ({"device": 0}, TypeError, "device must be a device that torch knows"),
    ],
)
def test_wrong_arguments(change, error, message, tmp_path):
    with pytest.raises(error) as caught:
        compare(**{**good(), **change}, output=tmp_path / "new", progress=False)
    assert message in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (lambda x, target: x[:2], "what method 's' returns must be a tensor of 5 maps; got a"),
        (lambda x, target: (x, x), "what method 's' returns must be a tensor of 5 maps; got ("),
        (lambda x, target: x.long(), "what method 's' returns must be a real floating-point"),
    ],
)
def test_wrong_maps(maps, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        compare({**good(), "methods": {"s": (maps, small_model())}}["methods"], **rest())
    assert message in str(caught.value)


def rest():
    return {"loader": batches(), "metrics": {"energy": energy}, "progress": False}


@pytest.mark.parametrize(
    "values",
    [
        lambda attributions: attributions,
        lambda attributions: attributions.sum(),
        lambda attributions: 3.0,
        lambda attributions: attributions.flatten(1)[:, 0] * 1j,
    ],
)
def test_wrong_values_of_a_metric(values):
    with pytest.raises(ValueError, match=r"what metric 'm' returns must be 5 numbers, of shape"):
        compare(good()["methods"], batches(), {"m": values}, progress=False)


def test_randomization_of_what_is_no_module():
    images, labels = samples(3)
    with pytest.raises(TypeError, match="model must be an nn.Module, for randomization_quantum"):
        randomization_quantum(lambda x: x, lambda x, target: x, images, labels)


def test_figure_of_reports_of_other_methods():
    from captum_quantum.visualization import plot_comparison

    one, two = (
        Report(methods, {"m": None}, [batch(0, np.ones((1, 4, 1)))]) for methods in (["a"], ["b"])
    )
    with pytest.raises(ValueError, match="reports must be of the same methods"):
        plot_comparison([one, two])
    with pytest.raises(ValueError, match="reports must be at least one report"):
        plot_comparison([])


def test_figure_has_a_panel_for_each_metric():
    values = np.random.default_rng(0).normal(size=(2, 9, 4))
    names = ["one_metric", "b", "c", "d"]
    report = Report(METHODS, dict.fromkeys(names, True), [batch(0, values)])
    figure = report.figure()
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"{n} (higher is better)" for n in ("one metric", "b", "c", "d")]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == list(METHODS)
    # The points are the means.
    points = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    means = [float(line.get_xdata()[0]) for line in points]
    np.testing.assert_allclose(means, values[:, :, 1].mean(axis=1))


def test_evaluation_imports_no_matplotlib():
    code = textwrap.dedent("""
        import sys
        from captum_quantum import compare, Report
        print("matplotlib" in sys.modules)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
