"""``captum-quantum evaluate``: compares attribution methods by metrics on the test set."""

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_quantum import _checks, _files, evaluation, models
from captum_quantum.cli.models import load_weights, train
from captum_quantum.cli.options import Options, make_folder, read_names, read_options
from captum_quantum.cli.output import WEIGHTS, environment, percent, say
from captum_quantum.cli.parser import DEFAULT_METRICS
from captum_quantum.cli.torchrun import processes
from captum_quantum.datasets import Dataset
from captum_quantum.evaluation import storage
from captum_quantum.metrics.registry import named_metrics, needs_masks
from captum_quantum.models import HybridClassifier
from captum_quantum.training import accuracy
from captum_quantum.visualization import plot_comparison, png

TWIN_WEIGHTS = "twin.safetensors"


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Checks the arguments and the content of the folder; returns the work."""
    options = read_options(args)
    known = evaluation.named_methods()
    methods = {name: known[name] for name in read_names("--methods", args.methods, known)}
    metrics = _read_metrics(args.metrics, options.dataset)
    constant = [name for name, method in methods.items() if not method.uses_model]
    if constant and any(name.startswith("randomization_") for name in metrics):
        must = f"without {', '.join(constant)}, which no model randomizes"
        _checks.wrong_value("--methods", must, args.methods)
    if args.weights is not None and args.seeds > 1:
        _checks.wrong_value("--seeds", "1 with --weights, which are of one seed", args.seeds)
    options.dataset.load(args.seed)
    given = None
    trained: dict[str, Any] = {"training": options.training}
    if args.weights is not None:
        twin_needed = any(method.model == "twin" for method in methods.values())
        given = _read_hybrid(args, options, twin_needed)
        digest = hashlib.sha256(args.weights.read_bytes()).hexdigest()[:16]
        trained = {"weights": digest, "epochs_of_the_twin": options.training["epochs"]}
    # What a run that resumes must have in common with the one before.
    configuration = {
        "versions": evaluation.versions(),
        "dataset": args.dataset,
        "methods": [*methods],
        "metrics": [*metrics],
        **{name: getattr(args, name) for name in ("seed", "seeds", "limit", "batch_size")},
        "device": options.device.type,
        **trained,
    }
    with ExitStack() as stack:
        options = replace(options, device=stack.enter_context(processes(options.device)))
        world = evaluation.World()

        def claim() -> None:
            make_folder(args.output)
            stack.enter_context(_files.locked(args.output))
            started = (args.output / storage.CONFIGURATION).exists()
            if not started and (args.output / WEIGHTS).exists():
                must = "a folder without results (to evaluate a model, use --weights)"
                got = f"{str(args.output)!r}, which holds {WEIGHTS}"
                raise FileExistsError(_checks.sentence("--output", must, got))
            storage.check_configuration(args.output, configuration)

        world.first_does(claim)
        rest = stack.pop_all()
    command = _Evaluation(options, methods, metrics, given, args.limit, args.batch_size, world)

    def work() -> None:
        with rest:
            command.run(range(args.seed, args.seed + args.seeds))

    return work


def _read_metrics(given: str | None, dataset: Dataset) -> dict[str, Callable[..., Any]]:
    """Reads --metrics. Metrics that need masks require a data set with mosaics."""
    known = named_metrics()
    names = read_names("--metrics", given or DEFAULT_METRICS, known)
    masked = [name for name in names if dataset.mosaics is None and needs_masks(known[name])]
    if masked and given is not None:
        must = f"without {', '.join(masked)}: the data set {dataset.name} has no mosaics"
        _checks.wrong_value("--metrics", must, given)
    return {name: known[name] for name in names if name not in masked}


def _read_hybrid(args: argparse.Namespace, options: Options, twin_needed: bool) -> HybridClassifier:
    """Reads the model of --weights, and checks that it matches the other options."""
    model = load_weights(args.weights, options.dataset, "cpu")
    if isinstance(model.vqc, models.ClassicalLayer):
        must = "the file of a hybrid model (its classical twin is trained here)"
        _checks.wrong_value("--weights", must, f"{args.weights}, a classical twin")
    trained, epochs = model.trained or {}, options.training["epochs"]
    if args.seed != trained.get("seed", args.seed):
        must = f"{trained['seed']}, that of the weights (another seed's test set was trained on)"
        _checks.wrong_value("--seed", must, args.seed)
    if twin_needed and epochs != trained.get("epochs", epochs):
        must = f"{trained['epochs']}, that of the weights, for a twin that is trained alike"
        _checks.wrong_value("--epochs", must, epochs)
    return model


@dataclass(frozen=True)
class _Evaluation:
    """An evaluation with one or several seeds.

    Attributes:
        options (Options): Data set, device, training and folder.
        methods (Mapping[str, NamedMethod]): The attribution methods by name.
        metrics (Mapping[str, Callable]): The metrics by name.
        given (HybridClassifier, optional): The trained hybrid model; None to train one.
        limit (int, optional): Number of test examples; None for all.
        batch_size (int): Number of examples in a batch.
        world (World): The processes among which the work is shared.
    """

    options: Options
    methods: Mapping[str, evaluation.NamedMethod]
    metrics: Mapping[str, Callable[..., Any]]
    given: HybridClassifier | None
    limit: int | None
    batch_size: int
    world: evaluation.World

    def run(self, seeds: range) -> None:
        """Evaluates with every seed; the first process writes and prints the results."""
        output, reports, tested = self.options.output, {}, {}
        for seed in seeds:
            folder = output / f"seed-{seed}" if len(seeds) > 1 else output
            reports[seed], tested[seed] = self._run_seed(seed, folder)
        if self.world.rank != 0:
            return
        recognized = _accuracies([*tested.values()])
        if len(seeds) > 1:
            of_seeds = {seed: [*parts.values()] for seed, parts in reports.items()}
            summary = evaluation.SeedReport(of_seeds)
            content = {**summary.to_dict(), "models": tested}
            self._write(output, content, f"{recognized}\n\n{summary.markdown()}", summary.figure())
            say(f"{recognized}\n\n{summary}")
        else:
            say(f"{recognized}\n")
            say("\n\n".join(f"On {part}: {report}" for part, report in reports[seed].items()))
        say("")
        say(f"{output / 'evaluation.png'}: the picture to look at")
        say(f"{output / 'evaluation.md'}: the tables")
        say(f"{output / 'evaluation.json'}: all numbers; those of every example in values.csv")

    def _run_seed(
        self, seed: int, folder: Path
    ) -> tuple[dict[str, evaluation.Report], dict[str, Any]]:
        """Evaluates with one seed and writes the results to the folder.

        Returns:
            The reports on images and on mosaics, each only if there are metrics for it; and the
            accuracy and the numbers of parameters of each model.
        """
        data = self.options.dataset.load(seed)
        twin_needed = any(method.model == "twin" for method in self.methods.values())
        self.world.first_does(lambda: self._make_weights(folder, data, seed, twin_needed))
        trained = {"hybrid": models.load_model(folder / WEIGHTS, device=self.options.device)}
        if twin_needed:
            file = folder / TWIN_WEIGHTS
            trained["twin"] = models.load_model(file, device=self.options.device)
        methods = {
            name: method.make(trained[method.model], trained[method.model].backbone)
            for name, method in self.methods.items()
        }
        reports = {}
        for part, masked in (("images", False), ("mosaics", True)):
            metrics = {n: m for n, m in self.metrics.items() if needs_masks(m) == masked}
            if metrics:
                samples = (s.split(self.batch_size) for s in self._samples(masked, data, seed))
                batches = list(zip(*samples, strict=True))
                reports[part] = evaluation.compare(
                    methods, batches, metrics, output=folder / part, seed=seed
                )
        tested = {
            name: {
                "accuracy": accuracy(model, data[2], data[3]),
                "n_parameters": sum(p.numel() for p in model.parameters()),
                "n_parameters_of_the_circuit": sum(p.numel() for p in model.vqc.parameters()),
            }
            for name, model in trained.items()
        }
        if self.world.rank == 0:
            for part, report in reports.items():
                report.save(folder / part)
            content = {
                "dataset": self.options.dataset.name,
                "seed": seed,
                "methods": {name: method.description for name, method in self.methods.items()},
                "models": tested,
                "reports": {part: report.to_dict() for part, report in reports.items()},
            }
            tables = [_accuracies([tested]) + "\n"]
            tables += [f"## On {part}\n\n{report.markdown()}" for part, report in reports.items()]
            figure = plot_comparison([*reports.values()])
            self._write(folder, content, "\n".join(tables), figure)
        return reports, tested

    def _make_weights(
        self, folder: Path, data: Sequence[Tensor], seed: int, twin_needed: bool
    ) -> None:
        """Trains the hybrid model and its twin in the same way, unless the folder has weights."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / WEIGHTS).exists():
            hybrid = self.given
            if hybrid is None:
                hybrid = self.options.dataset.model(seed=seed)
                train(hybrid, data[0], data[1], self.options, seed)
            models.save_model(hybrid, folder / WEIGHTS)
        if twin_needed and not (folder / TWIN_WEIGHTS).exists():
            config = (self.given.config if self.given else None) or {}
            untrained = self.options.dataset.model(**config, seed=seed)
            twin = models.classical_twin(untrained, seed=seed)
            train(twin, data[0], data[1], self.options, seed)
            models.save_model(twin, folder / TWIN_WEIGHTS)

    def _samples(self, masked: bool, data: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
        """Returns inputs and labels of the test set, or as many mosaics, labels and masks.

        Of each mosaic only one class is explained, so that no two samples share a mosaic.
        """
        inputs, labels, n = data[2], data[3], len(data[3][: self.limit])
        make_mosaics = self.options.dataset.mosaics
        if not masked or make_mosaics is None:
            return inputs[:n], labels[:n]
        mosaics = make_mosaics(inputs, labels, n, seed)
        cells, rows = mosaics.cells, torch.arange(n)
        chosen = rows % len(cells)
        return mosaics.images, mosaics.labels[rows, chosen], cells[chosen]

    def _write(self, folder: Path, content: dict[str, Any], text: str, figure: Any) -> None:
        content = {**content, **environment(self.options.device)}
        _files.replace(folder / "evaluation.json", _files.to_json(content))
        _files.replace(folder / "evaluation.md", text)
        _files.replace(folder / "evaluation.png", png(figure))


def _accuracies(tested: Sequence[dict[str, Any]]) -> str:
    """Formats the accuracy of each model on the test set, seed by seed."""
    shares = [
        f"{name} {', '.join(percent(models[name]['accuracy']) for models in tested)}"
        for name in tested[0]
    ]
    return f"Test accuracy: {'; '.join(shares)}."
