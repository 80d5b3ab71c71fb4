"""Models after a comparison are as they were, wherever it ran."""

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from comparison import Cam, batches, energy, everything, run, samples, score, small_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_quantum import compare
from captum_quantum.evaluation.processes import World, read_device


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


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_random_state_after_a_data_loader_is_that_before(shuffle):
    loader = DataLoader(TensorDataset(*samples()), batch_size=5, shuffle=shuffle)
    before = torch.get_rng_state()
    run(None, loader=loader)
    assert torch.equal(torch.get_rng_state(), before)


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

    where.version = 1
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
            read_device(device)
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
