"""Null maps: what they are, whatever divides the batches, and who wins against them."""

import csv

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, Saliency
from comparison import (
    NULLS,
    Sized,
    batches,
    energy,
    everything,
    inside,
    run,
    samples,
    score,
    small_model,
    stop_after,
    two_methods,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_quantum import compare
from captum_quantum.evaluation import storage
from captum_quantum.evaluation.adapters import read_methods
from captum_quantum.evaluation.batches import Batch
from captum_quantum.evaluation.nulls import NULLS as KINDS
from captum_quantum.evaluation.nulls import Explained
from captum_quantum.evaluation.report import Report
from captum_quantum.metrics._noise import Noise


def weighted(attributions):
    """A number that every pixel of a map changes."""
    flat = attributions.flatten(1).double()
    return flat @ torch.arange(flat.shape[1], dtype=torch.float64).cos()


weighted.higher_is_better, weighted.version = True, 1


def all_values(report):
    """The values of the methods and of their null maps."""
    nulls = report.null_values.values()
    return np.array(
        [*everything(report).ravel()]
        + [v for m in nulls for by in m.values() for array in by.values() for v in array]
    )


def run_nulls(folder=None, nulls=NULLS, **options):
    return run(folder, **{"metrics": {"weighted": weighted}, **options}, nulls=nulls)


def maps_of(methods, loader, nulls, **options):
    """The maps that a metric gets, by the names of the rows."""
    seen = []

    def spy(attributions):
        seen.append(attributions.clone())
        return attributions.flatten(1).sum(dim=1)

    spy.higher_is_better = True
    compare(methods, loader, {"spy": spy}, nulls=nulls, progress=False, **options)
    rows = storage.Table(list(methods), (), nulls).rows
    return {row: torch.cat(seen[k :: len(rows)]) for k, row in enumerate(rows)}


def single_maps(method, images, targets):
    """The maps of single images."""
    return torch.cat(
        [method.attribute(x[None], target=int(t)) for x, t in zip(images, targets, strict=True)]
    ).detach()


def test_noise_shows_as_much_as_the_map():
    model, (images, _) = small_model(), samples()
    methods = {
        "flat": (lambda inputs, target: -torch.ones_like(inputs), model),
        "gradcam": LayerGradCam(model, model[1]),
        "sharp": (lambda inputs, target: inputs**8, model),
        "dull": (lambda inputs, target: 1 - (1 - inputs) ** 8, model),
    }
    seen = maps_of(methods, batches(), ("area-noise",))
    noise = seen["flat | area-noise"]  # without a mask the noise itself
    assert noise.shape == (23, 1, 6, 6)
    assert noise.flatten(1).amin(dim=1).tolist() == [0] * 23
    assert noise.flatten(1).amax(dim=1).tolist() == [1] * 23
    assert 0.4 < float(noise.mean()) < 0.6
    assert len(noise.flatten().unique()) > 0.9 * noise.numel()
    powers = {name: [] for name in ("gradcam", "sharp", "dull")}
    for name, found_powers in powers.items():
        rows = zip(seen[name], noise.double(), seen[f"{name} | area-noise"], strict=True)
        for map_, u, found in rows:
            p = power(map_.double(), u)
            torch.testing.assert_close(found.double(), u**p, rtol=1e-4, atol=1e-6)
            found_powers.append(p)
    assert max(powers["dull"]) < 1 < min(powers["sharp"])
    # The numbers that infidelity draws for the same image are others.
    drawn = Noise(images, 0).draw(23, 36)
    assert abs(np.corrcoef(drawn.flatten(), noise.flatten())[0, 1]) < 0.15
    other = maps_of(methods, batches(), ("area-noise",), seed=1)["flat | area-noise"]
    assert float((other == noise).float().mean()) < 0.02


def power(map_, u):
    """The power that gives noise (1, 6, 6) the mean of the map's mask."""
    positive = map_.sum(dim=0, keepdim=True).clamp_min(0)
    mask = F.interpolate(positive[None], u.shape[1:], mode="bilinear")[0]
    mean = float(((mask - mask.min()) / (mask.max() - mask.min())).mean())
    return np.exp(
        scipy.optimize.brentq(lambda log: float((u ** np.exp(log)).mean()) - mean, -12, 12)
    )


def test_a_map_that_is_not_finite_loses_to_any_noise():
    def broken(inputs, target):
        maps = inputs.clone()
        maps[inputs == samples(5)[0][1, 0, 0, 0]] = torch.nan  # a pixel of the second image
        return maps

    methods = {"broken": (broken, small_model())}
    report = compare(methods, batches(5), {"w": weighted}, nulls=NULLS[:2], progress=False)
    for null, undefined in (("area-noise", []), ("other-image", [0])):
        values = report.null_values["w"]["broken"][null]
        assert np.isnan(values).nonzero()[0].tolist() == undefined
        assert report.outcomes("w", "broken", null)[1] == 0
    assert report.outcomes("w", "broken", "other-image")[0] == 1


@pytest.mark.parametrize("n_on", [1, 35])
def test_noise_for_masks_of_one_pixel(n_on):
    def corner(inputs, target):
        flat = torch.zeros_like(inputs).flatten(1)
        flat[:, :n_on] = 1
        return flat.reshape(inputs.shape)

    found = maps_of({"m": (corner, small_model())}, batches(), ("area-noise",))["m | area-noise"]
    np.testing.assert_allclose(found.flatten(1).mean(dim=1), n_on / 36, rtol=1e-6)


def test_noise_of_images_in_one_dimension_and_of_one_pixel():
    labels = torch.tensor([0, 1])
    for shape in ((1, 7), (3, 1), (2, 3, 4, 5)):
        inputs = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
        model = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 3))
        found = maps_of({"s": Saliency(model)}, [(inputs, labels)], ("area-noise",))
        assert found["s | area-noise"].shape == (2, 1, *shape[1:])
        if shape == (3, 1):
            assert found["s | area-noise"].tolist() == [[[1]], [[1]]]


def test_maps_of_the_next_image():
    model, other, (images, labels) = small_model(), small_model(3), samples()
    methods = {"gradcam": LayerGradCam(other, other[1]), "saliency": Saliency(model)}
    predicted = other(images).argmax(dim=1)
    assert (predicted != labels).any()
    for target, targets in (("label", labels), ("predicted", predicted)):
        seen = maps_of(methods, batches(), ("other-image",), target=target)
        for name, method in methods.items():
            expected = single_maps(method, images, targets).roll(-1, dims=0)
            torch.testing.assert_close(seen[f"{name} | other-image"], expected)
    seen = maps_of(methods, batches(), ("other-image",), target=lambda y: y[:, 0] - y[:, 1])
    expected = seen["saliency"].roll(-1, dims=0)
    torch.testing.assert_close(seen["saliency | other-image"], expected)


def test_maps_of_the_rival_class():
    model, other, (images, labels) = small_model(), small_model(3), samples()
    methods = {"gradcam": LayerGradCam(other, other[1]), "saliency": Saliency(model)}
    predicted = other(images).argmax(dim=1)
    for target, targets in (("label", labels), ("predicted", predicted)):
        seen = maps_of(methods, batches(), ("rival-class",), target=target)
        for name, own in (("gradcam", other), ("saliency", model)):
            rivals = []
            for image, chosen in zip(images, targets.tolist(), strict=True):
                scores = own(image[None])[0].tolist()
                rivals.append(max((s, k) for k, s in enumerate(scores) if k != chosen)[1])
            expected = single_maps(methods[name], images, rivals)
            torch.testing.assert_close(seen[f"{name} | rival-class"], expected)


def test_the_rival_is_another_class_even_if_no_other_has_a_score():
    class Sure(nn.Module):
        def forward(self, inputs):
            scores = torch.full((len(inputs), 3), -torch.inf)
            scores[:, 0] = 0
            return scores

    seen = []

    def method(inputs, target):
        seen.append(target.tolist())
        return inputs

    images = samples(5)[0]
    loader = [(images, torch.zeros(5, dtype=torch.int64))]
    maps_of({"m": (method, Sure())}, loader, ("rival-class",))
    assert seen == [[0] * 5, [1] * 5]


def test_nulls_are_measured_as_the_method_is():
    model, (images, labels) = small_model(), samples()
    masks = images > 0.5
    loader = list(zip(images.split(5), labels.split(5), masks.split(5), strict=True))
    seen = []

    def greedy(model, inputs, attributions, target, masks):
        seen.append((model, inputs, target, masks))
        return inside(attributions, masks)

    greedy.higher_is_better = True
    methods = {"saliency": Saliency(model)}
    compare(methods, loader, {"greedy": greedy}, nulls=NULLS, progress=False)
    assert len(seen) == 4 * 5
    for number, (own, inputs, target, own_masks) in enumerate(seen):
        assert own is model
        for found, given in zip((inputs, target, own_masks), loader[number // 4], strict=True):
            torch.testing.assert_close(found, given)


def test_one_more_map_for_each_batch():
    seen = []

    def method(inputs, target):
        seen.append(len(inputs))
        return inputs

    methods, metrics = {"m": (method, small_model())}, {"w": weighted}
    compare(methods, batches(), metrics, nulls=("other-image",), progress=False)
    assert seen == [5, 1, 5, 1, 5, 1, 5, 1, 3, 1]


def test_metrics_that_measure_no_nulls():
    def directionless(attributions):
        return attributions.flatten(1).sum(dim=1)

    def recomputed(attributions, attribute, inputs, target):
        return attribute(inputs, target).flatten(1).sum(dim=1)

    recomputed.higher_is_better = True
    metrics = {"none": directionless, "score": score, "again": recomputed, "w": weighted}
    arguments = {"nulls": ("area-noise",), "progress": False}
    report = compare(two_methods(small_model()), batches(), metrics, **arguments)
    assert list(report.null_values) == ["w"]
    assert {wins.metric for wins in report.wins} == {"w"}
    del metrics["w"]
    with pytest.raises(
        ValueError, match="metrics must be at least one with a direction that takes"
    ):
        compare(two_methods(small_model()), batches(), metrics, **arguments)


@pytest.fixture(scope="module")
def whole():
    return run_nulls()


@pytest.mark.parametrize("size", [1, 4, 23])
@pytest.mark.parametrize("kind", [list, iter, "loader"])
def test_values_do_not_depend_on_the_size_of_batches(kind, size, whole):
    if kind == "loader":
        loader = DataLoader(TensorDataset(*samples()), batch_size=size)
    else:
        loader = kind(batches(size=size))
    report = run_nulls(loader=loader)
    np.testing.assert_allclose(all_values(report), all_values(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 5])
def test_a_loader_may_fill_the_same_memory_with_the_next_batch(size, whole):
    def loader():
        buffers = [torch.empty_like(part[:size]) for part in samples()]
        for images, labels in batches(size=size):
            yield [
                buffer[: len(part)].copy_(part)
                for buffer, part in zip(buffers, (images, labels), strict=True)
            ]

    report = run_nulls(loader=loader())
    np.testing.assert_allclose(all_values(report), all_values(whole), rtol=1e-5, atol=1e-6)


def test_maps_with_random_numbers_are_those_of_the_next_batch():
    def random(inputs, target):
        return torch.rand(inputs.shape)

    seen = maps_of({"m": (random, small_model())}, batches(), ("other-image", "rival-class"))
    assert len(seen["m"].flatten(1)[:, 0].unique()) == 23
    torch.testing.assert_close(seen["m | other-image"], seen["m"].roll(-1, dims=0), rtol=0, atol=0)
    # Without regard to the class both maps are the same: a tie.
    torch.testing.assert_close(seen["m | rival-class"], seen["m"], rtol=0, atol=0)


@pytest.mark.parametrize("null", NULLS)
def test_pieces_of_a_batch_have_the_maps_of_the_whole(null):
    (method,) = read_methods({"s": Saliency(small_model())})
    images, labels = samples(6)
    batch = Batch(0, 0, images[:5], labels[:5], None)
    batch = batch.followed_by(Batch(1, 5, images[5:], labels[5:], None))
    maps = method.attribute(images, labels)
    explained = Explained(method, batch, labels[:5], maps[:5], maps[5:], 0)
    make = KINDS[null].make
    pieces = [make(explained, slice(k, min(k + 2, 5))) for k in (0, 2, 4)]
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(pieces), make(explained, slice(0, 5)))


def test_values_do_not_depend_on_a_lack_of_memory(monkeypatch):
    sizes = []
    original = Noise.__init__

    def hungry(self, inputs, seed):
        sizes.append(len(inputs))
        if len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        original(self, inputs, seed)

    def forward(inputs):  # for the scores of the rival class
        if not torch.is_grad_enabled() and len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(inputs)

    def saliency(inputs, target):
        return Saliency(model).attribute(inputs, target=target)

    def evaluate(model):
        methods = {"m": (saliency, model)}
        report = compare(methods, batches(8), {"w": weighted}, nulls=NULLS, progress=False)
        return all_values(report)

    model = small_model()
    whole = evaluate(model)
    monkeypatch.setattr(Noise, "__init__", hungry)
    np.testing.assert_allclose(evaluate(forward), whole, rtol=1e-5, atol=1e-6)
    assert sizes == [5, 3, 2, 3]


def test_a_resumed_run_has_the_same_numbers(tmp_path):
    metrics = {"weighted": weighted, "energy": energy}
    whole = run_nulls(tmp_path / "whole", metrics=metrics)
    data = TensorDataset(*samples())
    for n_done, loader in enumerate((batches(), DataLoader(data, batch_size=5)), start=2):
        folder = tmp_path / str(n_done)
        with pytest.raises(KeyboardInterrupt):
            run_nulls(folder, metrics=metrics, loader=Sized(stop_after(n_done)))
        lines = (folder / "part-0.csv").read_text().splitlines()
        assert len(lines) == 1 + (n_done - 1) * 5 * 8  # one batch ahead; 2 methods, 6 null maps
        report = run_nulls(folder, metrics=metrics, loader=loader)
        np.testing.assert_array_equal(all_values(report), all_values(whole))
        for name in ("values.csv", "configuration.json"):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with (tmp_path / "whole" / "values.csv").open() as file:
        rows = {row["method"] for row in csv.DictReader(file)}
    assert rows == {
        m + n for m in ("gradcam", "saliency") for n in ("", *(f" | {n}" for n in NULLS))
    }
    before = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    for nulls in ((), NULLS[:1], NULLS[::-1]):
        with pytest.raises(
            FileExistsError, match=r"nulls = .* in configuration.json, now nulls = "
        ):
            run_nulls(tmp_path / "whole", metrics=metrics, nulls=nulls)
    assert {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()} == before


def test_another_next_sample_is_noticed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_nulls(tmp_path, loader=Sized(stop_after(3)))
    changed = batches()
    changed[2] = tuple(part.clone() for part in changed[2])
    changed[2][0][0, 0, 0, 0] += 0.1
    with pytest.raises(ValueError, match="as the run that is resumed; got another batch 1"):
        run_nulls(tmp_path, loader=changed)


def test_a_run_without_nulls_is_what_it_was(tmp_path):
    report = run(tmp_path / "without", nulls=())
    names = ["format", "versions", "methods", "metrics", "target", "seed", "n_batches"]
    assert list(report.configuration) == [*names, "first_batch"]
    assert report.configuration["format"] == 3
    assert report.configuration["first_batch"] == run_nulls().configuration["first_batch"]
    lines = (tmp_path / "without" / "values.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 23
    assert (report.nulls, report.null_values, report.wins) == ((), {}, [])
    assert set(report.to_dict()) == {"n", "confidence", "scores", "differences", "configuration"}
    assert "null" not in str(report)
    report.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "wins.png").exists()


class Counting(TensorDataset):
    loaded: list

    def __getitem__(self, index):
        self.loaded.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("nulls", [("other-image",), ("area-noise", "rival-class")])
def test_a_data_loader_loads_just_the_next_sample(nulls):
    data = Counting(*samples(13))
    data.loaded = []
    run_nulls(loader=DataLoader(data, batch_size=5), nulls=nulls)
    first = [*range(5)]
    if nulls == ("other-image",):
        assert data.loaded == [*first, *range(5), 5, *range(5, 10), 10, *range(10, 13), 0]
    else:
        assert data.loaded == [*first, *range(13)]


def pooled_model():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)
    return nn.Sequential(*layers)


def test_the_map_of_an_image_of_another_size_is_resized():
    model = pooled_model()
    loader = [(torch.rand(2, 1, n, n), torch.tensor([0, 1])) for n in (6, 9)]
    cam, saliency = LayerGradCam(model, model[1]), Saliency(model)
    seen = []

    def spy(attributions):
        seen.append(attributions.clone())
        return torch.zeros(len(attributions))

    spy.higher_is_better = True
    arguments = {"nulls": ("other-image",), "progress": False}
    compare({"gradcam": cam, "saliency": saliency}, loader, {"spy": spy}, **arguments)
    for number, (here, there, (images, labels)) in enumerate(
        [(seen[1], (4, 4), loader[1]), (seen[5], (7, 7), loader[0]), (seen[3], (6, 6), loader[1])]
    ):
        method = saliency if number == 2 else cam
        next_map = method.attribute(images[:1], target=labels[:1])
        expected = F.interpolate(next_map.detach(), there, mode="bilinear")
        torch.testing.assert_close(here[1:], expected)


class Summed(nn.Module):
    def forward(self, inputs):
        return inputs.flatten(1).sum(dim=1, keepdim=True) * torch.arange(3.0)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            ((2, 1, 6, 6), (2, 3, 6, 6)),
            "the loader's inputs must be of 4 dimensions and 1 channels",
        ),
        (((2, 1, 6, 6), (2, 1, 36)), "the loader's inputs must be of 4 dimensions and 1 channels"),
        (
            ((2, 4), (2, 5)),
            "the loader's inputs must be of 2 dimensions and 4 channels in all batc",
        ),
    ],
)
def test_images_of_other_channels_or_dimensions(shapes, message):
    loader = [(torch.rand(shape), torch.tensor([0, 1])) for shape in shapes]
    arguments = {"nulls": ("other-image",), "progress": False}
    with pytest.raises(
        ValueError, match=f"{message}.* for the null 'other-image'; got a torch.flo"
    ):
        compare({"s": Saliency(Summed())}, loader, {"w": weighted}, **arguments)


def test_maps_of_other_channels():
    methods = {"s": (lambda inputs, target: inputs.expand(-1, len(inputs), -1, -1), Summed())}
    loader = [*batches(4, 2), *batches(1, 1)]
    with pytest.raises(
        ValueError, match="what method 's' returns must be of 4 dimensions and 2 ch"
    ):
        compare(methods, loader, {"w": weighted}, nulls=("other-image",), progress=False)


def of_output(output):
    return output[:, 0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"nulls": "area-noise"}, TypeError, "nulls must be names of null maps, such as"),
        ({"nulls": 3}, TypeError, "nulls must be names of null maps, such as"),
        (
            {"nulls": ("noise",)},
            ValueError,
            "one of area-noise, other-image, rival-class; got 'noi",
        ),
        ({"nulls": (1,)}, TypeError, "nulls must be one of area-noise"),
        ({"nulls": ("area-noise",) * 2}, ValueError, "nulls must be different names; got ('area-"),
        (
            {"nulls": ("rival-class",), "target": of_output},
            ValueError,
            "target must be 'label' or 'predicted' for the null 'rival-class', which needs classes",
        ),
        ({"metrics": {"s": score}}, ValueError, "metrics must be at least one with a direction"),
        (
            {"methods": {"a": None, "a | other-image": None}},
            ValueError,
            "methods must be names that are not those of null maps; got 'a | other-image' (str)",
        ),
        (
            {"loader": [(torch.rand(3, 36), torch.tensor([0, 1, 2]))], "nulls": ("area-noise",)},
            ValueError,
            "the loader's inputs, for the null 'area-noise', must be of shape (batch, channels, *",
        ),
        ({"loader": batches(1)}, ValueError, "loader must be at least two samples, for the null"),
        ({"loader": iter(batches(1))}, ValueError, "for the null 'other-image'; got a single one"),
        (
            {"loader": DataLoader(TensorDataset(*samples(1)))},
            ValueError,
            "for the null 'other-image'; got a single one",
        ),
    ],
)
def test_wrong_arguments(change, error, message, tmp_path):
    def untouched(inputs, target):
        raise AssertionError("a map is computed")

    untouched.version = 1
    given = {"methods": {"a": None}, "loader": batches(), "metrics": {"w": weighted}, **change}
    methods = dict.fromkeys(given.pop("methods"), (untouched, small_model()))
    arguments = {"nulls": ("other-image",), **given, "output": tmp_path / "new", "progress": False}
    with pytest.raises(error) as caught:
        compare(methods, **arguments)
    assert message in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_single_class_has_no_rival():
    loader = [(torch.rand(3, 1, 6, 6), torch.zeros(3, dtype=torch.int64))]
    methods = {"s": Saliency(nn.Sequential(nn.Flatten(), nn.Linear(36, 1)))}
    arguments = {"nulls": ("rival-class",), "progress": False}
    with pytest.raises(
        ValueError, match="the output of the model of 's' must be scores of at leas"
    ):
        compare(methods, loader, {"w": weighted}, **arguments)
    loader = [(torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 4]))]
    methods = {"m": (lambda inputs, target: inputs, small_model())}
    with pytest.raises(ValueError, match=r"target must be an index in \[0, 3\] for an output of"):
        compare(methods, loader, {"w": weighted}, **arguments)


def made_up(values, nulls, **options):
    """A report of one metric from values ``(method, 1 + null, n)``."""
    rows = np.asarray(values, dtype=float).reshape(-1, np.shape(values)[-1])[:, :, None]
    n = rows.shape[1]
    labels = np.zeros(n, dtype=np.int64)
    one = storage.BatchResult(0, "0" * 8, 0, labels, labels, rows)
    methods = ["a", "b", "c"][: len(values)]
    return Report(methods, {"m": False}, [one], nulls=nulls, **options)


def test_area_noise_is_not_the_noise_that_metrics_draw():
    """Else the order of its pixels would be that of the noise that ROAD puts in their place."""
    images, seed = torch.rand(1, 1, 8, 8), 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    seen = []

    def look(attributions):
        seen.append(attributions.flatten())
        return attributions.flatten(1)[:, 0]

    look.higher_is_better = True
    batches = [(images, torch.tensor([0]))]
    methods = {"a": (lambda inputs, target: inputs, model)}
    compare(methods, batches, {"m": look}, nulls=("area-noise",), seed=seed, progress=False)
    noise = Noise(images, seed).draw(1, 64).flatten()
    assert not torch.equal(seen[1].argsort(), noise.argsort())


def test_wins_by_hand():
    nan, inf = np.nan, np.inf
    #        wins loses ties  rounding  undefined: own  null  both  infinite
    own = [1.0, 2.0, 3.0, 4.0, nan, 1.0, nan, inf]
    null = [2.0, 1.0, 3.0, 4.0 + 1e-7, 1.0, nan, nan, 1.0]
    report = made_up([[own, null], [null, own]], ("area-noise",))
    expected = [1, 0, 0.5, 0.5, 0, 1, 0, 0]
    assert report.outcomes("m", "a", "area-noise").tolist() == expected
    assert report.outcomes("m", "b", "area-noise").tolist() == [0, 1, 0.5, 0.5, 1, 0, 0, 1]
    first, second = report.wins
    assert (first.metric, first.method, first.null, first.n) == ("m", "a", "area-noise", 8)
    assert (first.rate, second.rate) == (3 / 8, 4 / 8)
    assert 0 < first.low < first.rate < first.high < 1
    np.testing.assert_array_equal(report.null_values["m"]["b"]["area-noise"], own)
    # Differences within the rounding of percentages are ties.
    scaled = made_up([[own, [x + 5e-5 for x in own]]], NULLS[:1], rounding_scales={"m": 100.0})
    assert scaled.outcomes("m", "a", "area-noise").tolist() == [0.5, 0.5, 0.5, 0.5, 0, 0.5, 0, 0]


def test_each_null_and_method_has_its_values(tmp_path):
    values = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    report = made_up(values, NULLS)
    for i, method in enumerate("abc"):
        assert report.values["m"][method].tolist() == values[i, 0].tolist()
        for j, null in enumerate(NULLS, start=1):
            assert report.null_values["m"][method][null].tolist() == values[i, j].tolist()
    assert [(w.null, w.method, w.rate) for w in report.wins] == [
        (n, m, 1) for n in NULLS for m in "abc"
    ]
    header, _, *rows = str(report).splitlines()[-5:]
    assert header.split() == ["metric", "null", "map", "a", "b", "c"]
    assert [row.split()[:5] for row in rows] == [["m", n, "1.00", "[.48,", "1.00]"] for n in NULLS]
    assert ".5 is chance. Null maps: area-noise: noise that shows as much" in str(report)
    assert "| m | other-image | 1.00 [.48, 1.00] |" in report.markdown()
    low = pytest.approx(0.025**0.2)
    assert report.to_dict()["wins"][0] == {
        "metric": "m", "method": "a", "null": "area-noise", "rate": 1.0, "low": low, "high": 1.0,
        "n": 5,
    }  # fmt: skip
    report.save(tmp_path)
    assert (tmp_path / "wins.png").read_bytes().startswith(b"\x89PNG")
    table = storage.Table(report.methods, ("m",), NULLS)
    back = storage.recover(tmp_path, table)[0]
    assert back.values[:, :, 0].tolist() == values.reshape(12, 5).tolist()
    short = made_up([[[1.0, 1, 1, 9], [2, 2, 0, 0]]], NULLS[:1])
    assert "m         area-noise  .50 [" in str(short)
