"""Methods that `compare` takes: Captum's, those of pytorch-grad-cam, functions."""

import functools

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerActivation, LayerGradCam, NoiseTunnel, Saliency
from comparison import Cam, batches, energy, everything, samples, small_model
from torch import nn

from captum_quantum import QuantumLayerGradCam, compare


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
