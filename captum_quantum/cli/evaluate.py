"""``captum-quantum evaluate``: compares attribution methods by metrics on the test set."""

import argparse
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from captum_quantum import _checks, _files, datasets, evaluation, models, visualization
from captum_quantum.cli import demo, options, output, parser, tested
from captum_quantum.evaluation import compare, fingerprint, storage
from captum_quantum.evaluation.nulls import NULLS, measures_nulls
from captum_quantum.metrics import insertion_deletion
from captum_quantum.metrics.registry import named_metrics, needs_masks, read_metric


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Checks the arguments and the content of the folders; returns the work."""
    names = options.read_names("--dataset", args.dataset, datasets.named_datasets())
    if args.weights is not None and len(names) > 1:
        must = "one data set with --weights, which are of one"
        _checks.wrong_value("--dataset", must, args.dataset)
    evaluations = []
    for name in names:
        one = argparse.Namespace(**vars(args))
        one.dataset = name
        one.output = args.output / name if len(names) > 1 else args.output
        evaluations.append(_read(one))
    with ExitStack() as stack:
        device = stack.enter_context(_processes(evaluations[0].args.device))
        world = evaluation.World()
        for work in evaluations:
            work.args.device = device
            world.first_does(functools.partial(_claim, work, stack))
        rest = stack.pop_all()

    def run() -> None:
        with rest:
            for work in evaluations:
                work.run(world)

    return run


def _read(args: argparse.Namespace) -> "_Evaluation":
    """Reads the options of the evaluation on one data set, and loads what it needs."""
    options.read_options(args)
    known, known_models = evaluation.named_methods(), models.named_models()
    methods = {name: known[name] for name in options.read_names("--methods", args.methods, known)}
    for name, method in methods.items():
        _checks.check_choice(f"the model of method {name!r}", method.model, known_models)
    metrics = _read_metrics(args.metrics, args.dataset)
    nulls: list[str] = []
    if args.nulls != "none":
        nulls = options.read_names("--nulls", args.nulls, NULLS)
    constant = [name for name, method in methods.items() if not method.uses_model]
    if constant and any(name.startswith("randomization_") for name in metrics):
        must = f"without {', '.join(constant)}, which no model randomizes"
        _checks.wrong_value("--methods", must, args.methods)
    if args.weights is not None and args.seeds > 1:
        _checks.wrong_value("--seeds", "1 with --weights, which are of one seed", args.seeds)
    for name, metric in metrics.items():
        fingerprint.check_versions(f"--metrics {name}", fingerprint.describe_function(metric))
    n_samples = len(args.dataset.load(args.seed)[3][: args.limit])
    ahead = [name for name in nulls if NULLS[name].looks_ahead]
    if ahead and n_samples < 2 and any(map(_measures_nulls, metrics.values())):
        must = f"at least 2, for the null {ahead[0]!r} (or choose others with --nulls)"
        _checks.wrong_value("--limit", must, n_samples)
    explained = [method.model for method in methods.values()]
    needed = dict.fromkeys(sorted(explained, key=lambda name: name != "hybrid"))
    given = None
    trained: dict[str, Any] = {"training": args.training}
    if args.weights is not None:
        given = _read_hybrid(args, bool(needed.keys() - {"hybrid"}))
        digest = hashlib.sha256(args.weights.read_bytes()).hexdigest()[:16]
        trained = {"weights": digest, "epochs_of_the_others": args.training["epochs"]}
    # What a run that resumes must have in common with the one before.
    configuration = {
        "versions": evaluation.versions(),
        "dataset": args.dataset.name,
        "methods": [*methods],
        "metrics": [*metrics],
        "nulls": nulls,
        **{name: getattr(args, name) for name in ("seed", "seeds", "limit", "batch_size")},
        "device": args.device.type,
        **trained,
    }
    made = {name: known_models[name] for name in needed}
    return _Evaluation(args, methods, metrics, nulls, made, given, configuration)


def _claim(one: "_Evaluation", stack: ExitStack) -> None:
    """Locks the folder of an evaluation, and checks what it holds."""
    folder = one.args.output
    options.make_folder(folder)
    stack.enter_context(_files.locked(folder))
    started = (folder / storage.CONFIGURATION).exists()
    if not started and (folder / output.WEIGHTS).exists():
        must = "a folder without results (to evaluate a model, use --weights)"
        got = f"{str(folder)!r}, which holds {output.WEIGHTS}"
        _checks.refuse("--output", must, got, FileExistsError)
    storage.check_configuration(folder, one.configuration)


@contextmanager
def _processes(device: torch.device) -> Iterator[torch.device]:
    """Joins the process group of torchrun, if there is one; yields the device of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "LOCAL_RANK" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        local, n_devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= n_devices:
            must = f"at most {n_devices}, the number of CUDA devices, or --device cpu"
            got = os.environ.get("LOCAL_WORLD_SIZE", str(local + 1))
            _checks.refuse("--nproc-per-node", must, got)
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # Processes wait for those that still train, however long that takes.
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(days=30))
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def _read_metrics(given: str | None, dataset: datasets.Dataset) -> dict[str, Callable[..., Any]]:
    """Reads --metrics. Metrics that need masks require a data set with mosaics."""
    known = named_metrics()
    names = options.read_names("--metrics", given or parser.DEFAULT_METRICS, known)
    masked = [name for name in names if dataset.mosaics is None and needs_masks(known[name])]
    if masked and given is not None:
        must = f"without {', '.join(masked)}: the data set {dataset.name} has no mosaics"
        _checks.wrong_value("--metrics", must, given)
    return {name: known[name] for name in names if name not in masked}


def _read_hybrid(args: argparse.Namespace, others: bool) -> models.HybridClassifier:
    """Reads the model of --weights, and checks that it matches the other options."""
    model = options.load_weights(args, "cpu")
    if isinstance(model.vqc, models.ClassicalLayer):
        must = "the file of a hybrid model (its classical twin is trained here)"
        _checks.wrong_value("--weights", must, f"{args.weights}, a classical twin")
    trained, epochs = model.trained or {}, args.training["epochs"]
    if args.seed != trained.get("seed", args.seed):
        must = f"{trained['seed']}, that of the weights (another seed's test set was trained on)"
        _checks.wrong_value("--seed", must, args.seed)
    if others and epochs != trained.get("epochs", epochs):
        must = f"{trained['epochs']}, that of the weights, for other models that are trained alike"
        _checks.wrong_value("--epochs", must, epochs)
    return model


class _Evaluation(NamedTuple):
    """An evaluation on one data set, with one or several seeds.

    Attributes:
        args (argparse.Namespace): The options.
        methods (Mapping[str, NamedMethod]): The attribution methods by name.
        metrics (Mapping[str, Callable]): The metrics by name.
        nulls (Sequence[str]): The null maps that the methods have to beat.
        made (Mapping[str, NamedModel]): The models by name; ``"hybrid"`` is the first.
        given (HybridClassifier, optional): The trained hybrid model; None to train one.
        configuration (dict[str, Any]): What a run that resumes must have in common.
    """

    args: argparse.Namespace
    methods: Mapping[str, evaluation.NamedMethod]
    metrics: Mapping[str, Callable[..., Any]]
    nulls: Sequence[str]
    made: Mapping[str, models.NamedModel]
    given: models.HybridClassifier | None
    configuration: dict[str, Any]

    def run(self, world: evaluation.World) -> None:
        """Evaluates with every seed; the first process writes and prints the results.

        Args:
            world (World): The processes among which the work is shared.
        """
        folder, first, n_seeds = self.args.output, self.args.seed, self.args.seeds
        reports, described = {}, {}
        for seed in range(first, first + n_seeds):
            reports[seed], described[seed] = self._run_seed(seed, world)
        if world.rank != 0:
            return
        about = self._about([*described.values()])
        texts = [f"On {part}: {report}" for part, report in reports[first].items()]
        if n_seeds > 1:
            summary = evaluation.SeedReport({s: [*r.values()] for s, r in reports.items()})
            settings = {"configuration": self.configuration}
            content = {**settings, **summary.to_dict(), "models": described}
            self._write(folder, content, f"{about}\n\n{summary.markdown()}", summary)
            texts = [str(summary)]
        output.say("\n\n".join([about, *texts]))
        output.say(f"\n{folder / 'evaluation.png'}: the picture to look at")
        output.say(f"{folder / 'evaluation.md'}: the tables")
        output.say(
            f"{folder / 'evaluation.json'}: all numbers; those of every example in values.csv"
        )

    def _run_seed(
        self, seed: int, world: evaluation.World
    ) -> tuple[dict[str, evaluation.Report], dict[str, Any]]:
        """Evaluates with one seed and writes the results to a folder.

        Returns:
            The reports on images and on mosaics, each only if there are metrics for it; and what
            each model is.
        """
        data, device = self.args.dataset.load(seed), self.args.device
        folder = self.args.output / (f"seed-{seed}" if self.args.seeds > 1 else "")
        with world.failing_together():
            self._make_weights(folder, data, seed, world)
        world.gather({})  # all weights are there
        trained = {
            name: models.load_weights(self._untrained(name, seed), folder / _file(name))
            for name in self.made
        }
        for model in trained.values():
            model.to(device).eval()
        methods = {
            name: method.make(trained[method.model], trained[method.model].backbone)
            for name, method in self.methods.items()
        }
        reports = {}
        for part, masked in (("images", False), ("mosaics", True)):
            metrics = {n: m for n, m in self.metrics.items() if needs_masks(m) == masked}
            if metrics:
                samples = (s.split(self.args.batch_size) for s in self._samples(masked, data, seed))
                reports[part] = compare(
                    methods,
                    list(zip(*samples, strict=True)),
                    {name: _with_baseline(metric, data[0]) for name, metric in metrics.items()},
                    nulls=self.nulls if any(map(_measures_nulls, metrics.values())) else (),
                    output=folder / part,
                    seed=seed,
                )
        described: dict[str, Any] = {}
        if world.rank == 0:
            for name, model in trained.items():
                described[name] = tested.describe(model, data)
            for part, report in reports.items():
                report.save(folder / part)
            content = {
                "dataset": self.args.dataset.name,
                "seed": seed,
                "methods": {name: method.description for name, method in self.methods.items()},
                "models": described,
                "reports": {part: report.to_dict() for part, report in reports.items()},
            }
            tables = [f"## On {part}\n\n{report.markdown()}" for part, report in reports.items()]
            text = "\n".join([self._about([described]), "", *tables])
            self._write(folder, content, text, [*reports.values()])
        return reports, described

    def _about(self, described: Sequence[dict[str, Any]]) -> str:
        """What was compared: data set, methods, models; the accuracy of each, and a table."""
        dataset = self.args.dataset
        methods = (f"{name}: {method.description}" for name, method in self.methods.items())
        made = (f"{name}: {model.description}" for name, model in self.made.items())
        shares = (
            f"{name} {', '.join(output.percent(models[name]['accuracy']) for models in described)}"
            for name in described[0]
        )
        masked = [name for name, metric in self.metrics.items() if needs_masks(metric)]
        mosaics = f" Measured on mosaics: {', '.join(masked)}." if masked else ""
        return (
            f"Data set: {dataset.name}, {dataset.description}. Methods: {'; '.join(methods)}. "
            f"Models: {'; '.join(made)}.{mosaics}\n\nTest accuracy: {'; '.join(shares)}.\n\n"
            f"{tested.table(described)}"
        )

    def _untrained(self, name: str, seed: int) -> models.HybridClassifier:
        """A model with initial weights, of the configuration of the one that is given."""
        config = (self.given.config if self.given else None) or {}
        make = functools.partial(self.args.dataset.model, **config)
        return self.made[name].make(make, seed)

    def _make_weights(
        self, folder: Path, data: Sequence[Tensor], seed: int, world: evaluation.World
    ) -> None:
        """Trains this process's part of the models, all alike, unless the folder has weights."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in [*self.made][world.rank :: world.size]:
            path = folder / _file(name)
            if path.exists():
                continue
            if name == "hybrid" and self.given is not None:
                model = self.given
            else:
                model = self._untrained(name, seed)
                demo.train(model, data, self.args, seed, progress=world.rank == 0)
            save = models.save_weights if model.config is None else models.save_model
            save(model, path)

    def _samples(self, masked: bool, data: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
        """Returns inputs and labels of the test set, or as many mosaics, labels and masks.

        Of each mosaic only one class is explained, so that no two samples share a mosaic.
        """
        inputs, labels, n = data[2], data[3], len(data[3][: self.args.limit])
        if not masked:
            return inputs[:n], labels[:n]
        mosaics = self.args.dataset.mosaics(inputs, labels, n, seed)
        cells, rows = mosaics.cells, torch.arange(n)
        chosen = rows % len(cells)
        return mosaics.images, mosaics.labels[rows, chosen], cells[chosen]

    def _write(self, folder: Path, content: dict[str, Any], text: str, report: Any) -> None:
        """Writes numbers, tables and figures of one report over seeds, or of a list of reports."""
        content = {**content, **output.environment(self.args.device)}
        _files.replace(folder / "evaluation.json", _files.to_json(content))
        _files.replace(folder / "evaluation.md", text)
        several = isinstance(report, evaluation.SeedReport)
        figure = report.figure() if several else visualization.plot_comparison(report)
        _files.replace(folder / "evaluation.png", visualization.png(figure))
        for part in [report] if several else []:
            if part.wins:
                wins = visualization.png(visualization.plot_wins(part))
                _files.replace(folder / "wins.png", wins)


def _file(name: str) -> str:
    """The name of a model's weights file."""
    return output.WEIGHTS if name == "hybrid" else f"{name}.safetensors"


def _measures_nulls(metric: Callable[..., Any]) -> bool:
    return measures_nulls(read_metric("", metric, argument="--metrics"))


def _with_baseline(metric: Callable[..., Any], images: Tensor) -> Callable[..., Any]:
    """Gives `insertion_deletion` its baseline: the mean image of the training set."""
    if metric is not insertion_deletion:
        return metric
    return functools.partial(metric, baseline=images.mean(dim=0))
