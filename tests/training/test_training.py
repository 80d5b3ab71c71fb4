"""The training loop."""

import math

import pytest
import torch
from torch import nn

from captum_quantum import VQCLayer
from captum_quantum.training import accuracy, fit, predict

N = 60


@pytest.fixture
def data():
    inputs = torch.rand(N, 4, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] > inputs[:, 1]).long()


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 2)
        )


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_fit_learns(data):
    model = network()
    losses = fit(model, *data, epochs=30, batch_size=16, lr=0.05)
    assert len(losses) == 30
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy(model, *data) > 0.9


def test_fit_trains_a_quantum_layer(data):
    model = nn.Sequential(VQCLayer(4, n_layers=1, observables=["Z0", "Z1"]))
    before = model[0].weights.clone()
    losses = fit(model, *data, epochs=4, batch_size=20, lr=0.1)
    assert losses[-1] < losses[0]
    assert not torch.equal(model[0].weights, before)


def test_first_loss_is_the_cross_entropy(data):
    model = nn.Linear(4, 2)
    probabilities = predict(model, data[0])
    wanted = -probabilities[torch.arange(N), data[1]].log().mean()
    assert fit(model, *data, epochs=1, batch_size=N)[0] == pytest.approx(float(wanted), rel=1e-5)


def test_fit_is_adam_with_a_cosine_schedule(data):
    model, by_hand = nn.Linear(4, 2), nn.Linear(4, 2)
    by_hand.load_state_dict(model.state_dict())
    fit(model, *data, epochs=5, batch_size=N, lr=0.1)
    optimizer = torch.optim.Adam(by_hand.parameters())
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * step / 5)) / 2
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(data[0]), data[1]).backward()
        optimizer.step()
    torch.testing.assert_close(model.weight, by_hand.weight, atol=1e-4, rtol=1e-3)


def test_batches_are_of_nearly_equal_size(data):
    sizes = []

    class Spy(nn.Linear):
        def forward(self, x):
            if self.training:
                sizes.append(len(x))
            return super().forward(x)

    fit(Spy(4, 2), *data, epochs=2, batch_size=59)
    assert sizes == [30, 30, 30, 30]


def test_epochs_see_every_example_once_in_a_new_order():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(x[:, 0].int().tolist())
            return super().forward(x)

    fit(Spy(1, 2), torch.arange(12.0)[:, None], torch.zeros(12).long(), epochs=2, batch_size=12)
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(12))
    assert seen[0] != seen[1]
    assert seen[0] != sorted(seen[0])


def test_seed_fixes_everything(data):
    models = [network() for _ in range(3)]
    losses = []
    for model, seed in zip(models, (1, 1, 2), strict=True):
        losses.append(fit(model, *data, epochs=2, seed=seed))
        torch.rand(3)  # the global state does not matter
    assert losses[0] == losses[1] != losses[2]
    assert same(models[0].state_dict(), models[1].state_dict())


def test_global_random_state_mode_and_gradients_are_left_alone(data):
    model = network().eval()
    model[1].train()
    model[0].weight.grad = kept = torch.ones(8, 4)
    modes = [module.training for module in model.modules()]
    before = torch.random.get_rng_state()
    fit(model, *data, epochs=1)
    predict(model, data[0])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert model[0].weight.grad is kept
    assert torch.equal(kept, torch.ones(8, 4))
    assert model[0].bias.grad is None


def test_everything_is_restored_after_an_exception(data):
    class Failing(nn.Linear):
        def forward(self, x):
            if self.training:
                torch.rand(5)
                raise RuntimeError("out of order")
            return super().forward(x)

    model = Failing(4, 2).eval()
    before, weights = torch.random.get_rng_state(), state(model)
    with pytest.raises(RuntimeError, match="out of order"):
        fit(model, *data, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
    assert same(weights, model.state_dict())


def test_frozen_modules_stay_frozen(data):
    model = network()
    for parameter in model[:2].parameters():
        parameter.requires_grad = False
    before = state(model[:2])
    fit(model, *data, epochs=2)
    assert same(before, model[:2].state_dict())  # statistics of the normalization included


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar_is_on_stderr(data, capsys, progress):
    fit(network(), *data, epochs=2, progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("training" in err) is progress


def test_predict_is_the_same_in_batches(data):
    model = network()
    whole, parts = predict(model, data[0]), predict(model, data[0], batch_size=7)
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(N))
    assert not whole.requires_grad
    torch.testing.assert_close(whole, model.eval()(data[0]).softmax(dim=1))


def test_accuracy_counts():
    logits = torch.eye(4)
    assert accuracy(nn.Identity(), logits, torch.tensor([0, 1, 2, 0])) == 0.75


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be an integer >= 1; got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer >= 1; got 2.0"),
        ({"seed": None}, TypeError, "seed must be an integer >= 0; got None"),
        ({"lr": 0.0}, ValueError, "lr must be a positive number; got 0.0"),
        ({"lr": float("nan")}, ValueError, "lr must be a positive number; got nan"),
        ({"lr": "fast"}, TypeError, "lr must be a positive number; got 'fast'"),
        ({"model": nn.Tanh()}, ValueError, "model must be a module with parameters to train"),
        ({"inputs": torch.ones(N, 4).int()}, TypeError, "inputs must be a real floating-point"),
        ({"inputs": torch.rand(0, 4)}, ValueError, "inputs must be at least one example"),
        ({"targets": torch.zeros(N)}, TypeError, "targets must be a tensor of int64"),
        ({"targets": torch.zeros(N - 1).long()}, ValueError, r"targets must be of shape \(60,\)"),
        (
            {"targets": torch.full((N,), 2)},
            ValueError,
            r"targets must be classes in \[0, 1\]; got 2",
        ),
        ({"targets": torch.full((N,), -1)}, ValueError, r"targets must be classes in .* got -1"),
    ],
)
def test_wrong_arguments(data, arguments, error, message):
    model = network()
    before = state(model)
    given = {"model": model, "inputs": data[0], "targets": data[1], "epochs": 1}
    with pytest.raises(error, match=message):
        fit(**{**given, **arguments})
    assert same(before, model.state_dict())


def test_wrong_arguments_of_predict(data):
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1; got 0"):
        predict(network(), data[0], batch_size=0)
    with pytest.raises(ValueError, match="inputs must be at least one example"):
        predict(network(), data[0][:0])


@pytest.mark.gpu
def test_fit_on_a_gpu(data):
    models = [network().cuda() for _ in range(2)]
    before = torch.cuda.get_rng_state(), torch.random.get_rng_state()
    losses = [fit(model, *data, epochs=3, seed=1) for model in models]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert predict(models[0], data[0]).is_cuda
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_loss_is_the_given_one(data):
    model, by_hand = nn.Linear(4, 1), nn.Linear(4, 1)
    by_hand.load_state_dict(model.state_dict())
    targets = data[0][:, :1] * 2
    wanted = float((by_hand(data[0]) - targets).abs().mean().detach())
    losses = fit(model, data[0], targets, loss=nn.functional.l1_loss, epochs=1, batch_size=N)
    assert losses == [pytest.approx(wanted, rel=1e-5)]
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=5e-3)
    nn.functional.l1_loss(by_hand(data[0]), targets).backward()
    optimizer.step()
    torch.testing.assert_close(model.weight, by_hand.weight)


def test_loss_of_classes_equals_the_default(data):
    models = [network(), network()]
    default = fit(models[0], *data, epochs=2)
    assert fit(models[1], *data, epochs=2, loss=nn.CrossEntropyLoss()) == default
    assert same(models[0].state_dict(), models[1].state_dict())


def test_regression_learns_targets_of_any_shape(data):
    class Square(nn.Linear):
        def forward(self, x):
            return super().forward(x).unflatten(1, (2, 2))

    model, targets = Square(4, 4), data[0].unflatten(1, (2, 2))
    losses = fit(model, data[0], targets, loss=nn.functional.mse_loss, epochs=60, lr=0.1)
    assert losses[-1] < 0.01 * losses[0]


def test_augment_changes_every_training_batch_alone(data):
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            seen.append((self.training, x.detach().clone()))
            return super().forward(x)

    inputs = data[0].clone()
    fit(Spy(4, 2), inputs, data[1], epochs=2, batch_size=20, augment=lambda x: x.add_(5))
    trained = [x for training, x in seen if training]
    assert len(trained) == 6
    assert all(bool((x >= 5).all()) for x in trained)
    assert all(bool((x < 5).all()) for training, x in seen if not training)
    assert torch.equal(inputs, data[0])  # although it works in place


def test_seed_fixes_augmentations(data):
    def noisy(batch):
        return batch + torch.randn_like(batch)

    losses = [fit(network(), *data, epochs=2, augment=noisy, seed=seed) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] != fit(network(), *data, epochs=2, seed=1)


def test_random_losses_and_augmentations_leave_the_global_random_state_alone(data):
    def noisy(outputs, targets):
        return nn.functional.cross_entropy(outputs + torch.randn_like(outputs), targets)

    before = torch.random.get_rng_state()
    fit(network(), *data, epochs=1, loss=noisy, augment=lambda batch: batch + torch.rand(()))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_torchvisions_transforms_per_batch_and_per_image():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    flip, n_changed = v2.RandomHorizontalFlip(), []
    images = torch.rand(16, 1, 4, 4)

    def per_image(batch):
        return torch.stack([flip(image) for image in batch])

    def counted(augment):
        def count(batch):
            changed = augment(batch)
            n_changed.append(int((changed != batch).flatten(1).any(1).sum()))
            return changed

        return count

    for augment in (flip, per_image):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        fit(model, images, torch.zeros(16).long(), epochs=6, augment=counted(augment))
    assert set(n_changed[:6]) == {0, 16}
    assert any(0 < n < 16 for n in n_changed[6:])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "mse"}, TypeError, r"loss must be a function or None; got 'mse'"),
        ({"augment": 3}, TypeError, r"augment must be a function or None; got 3"),
        ({"loss": lambda y, t: 1.0}, TypeError, "loss's result must be a tensor without dimens"),
        ({"loss": lambda y, t: y[:, 0]}, ValueError, "loss's result must be a tensor without dime"),
        ({"augment": lambda x: None}, TypeError, "augment's result must be a real floating-point"),
        ({"augment": lambda x: x.long()}, TypeError, "augment's result must be a real floating"),
        (
            {"augment": lambda x: x[:, :2]},
            ValueError,
            r"augment's result must be of shape \(60, 4\)",
        ),
        ({"loss": nn.MSELoss(), "targets": [0.0]}, TypeError, "targets must be a tensor"),
        (
            {"loss": nn.MSELoss(), "targets": torch.rand(3, 2)},
            ValueError,
            "targets must be 60 rows",
        ),
        ({"targets": torch.rand(N)}, TypeError, "targets must be a tensor of int64"),
        ({"loss": nn.MSELoss(), "inputs": torch.rand(0, 4)}, ValueError, "inputs must be at least"),
    ],
)
def test_wrong_losses_and_augmentations_change_nothing(data, options, error, message):
    model = network()
    before, random = state(model), torch.random.get_rng_state()
    given = {"inputs": data[0], "targets": data[1], "batch_size": N, **options}
    with pytest.raises(error, match=message):
        fit(model, **given)
    assert same(before, model.state_dict())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_outputs_that_are_no_tensor_are_refused(data):
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(TypeError, match="model's output must be a tensor; got"):
        fit(Pair(4, 4), data[0], data[0], loss=nn.MSELoss())


def test_targets_that_a_loss_would_broadcast_are_refused(data):
    model = nn.Linear(4, 1)
    before = state(model)
    with pytest.raises(ValueError, match=r"targets must be of shape \(60, 1\), as the outputs"):
        fit(model, data[0], data[0][:, 0], loss=nn.functional.mse_loss)
    with pytest.raises(ValueError, match=r"targets must be of shape \(60,\), as the outputs"):
        fit(nn.Sequential(model, nn.Flatten(0)), data[0], data[0][:, :1], loss=nn.MSELoss())
    assert same(before, model.state_dict())
