"""``captum-quantum evaluate``: compares attribution methods by metrics on the test set."""

import argparse
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from captum_quantum import _checks, _files, datasets, evaluation, models, training, visualization
from captum_quantum.cli import demo, options, output, parser
from captum_quantum.evaluation import compare, fingerprint, storage
from captum_quantum.metrics.registry import named_metrics, needs_masks


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Checks the arguments and the content of the folder; returns the work."""
    options.read_options(args)
    known = evaluation.named_methods()
    methods = {name: known[name] for name in options.read_names("--methods", args.methods, known)}
    metrics = _read_metrics(args.metrics, args.dataset)
    constant = [name for name, method in methods.items() if not method.uses_model]
    if constant and any(name.startswith("randomization_") for name in metrics):
        must = f"without {', '.join(constant)}, which no model randomizes"
        _checks.wrong_value("--methods", must, args.methods)
    if args.weights is not None and args.seeds > 1:
        _checks.wrong_value("--seeds", "1 with --weights, which are of one seed", args.seeds)
    for name, metric in metrics.items():
        fingerprint.check_versions(f"--metrics {name}", fingerprint.describe_function(metric))
    args.dataset.load(args.seed)
    files = {"hybrid": output.WEIGHTS}
    if any(method.model == "twin" for method in methods.values()):
        files["twin"] = "twin.safetensors"
    given = None
    trained: dict[str, Any] = {"training": args.training}
    if args.weights is not None:
        given = _read_hybrid(args, "twin" in files)
        digest = hashlib.sha256(args.weights.read_bytes()).hexdigest()[:16]
        trained = {"weights": digest, "epochs_of_the_twin": args.training["epochs"]}
    # What a run that resumes must have in common with the one before.
    configuration = {
        "versions": evaluation.versions(),
        "dataset": args.dataset.name,
        "methods": [*methods],
        "metrics": [*metrics],
        **{name: getattr(args, name) for name in ("seed", "seeds", "limit", "batch_size")},
        "device": args.device.type,
        **trained,
    }
    with ExitStack() as stack:
        args.device = stack.enter_context(_processes(args.device))
        world = evaluation.World()

        def claim() -> None:
            options.make_folder(args.output)
            stack.enter_context(_files.locked(args.output))
            started = (args.output / storage.CONFIGURATION).exists()
            if not started and (args.output / output.WEIGHTS).exists():
                must = "a folder without results (to evaluate a model, use --weights)"
                got = f"{str(args.output)!r}, which holds {output.WEIGHTS}"
                _checks.refuse("--output", must, got, FileExistsError)
            storage.check_configuration(args.output, configuration)

        world.first_does(claim)
        rest = stack.pop_all()

    def work() -> None:
        with rest:
            _Evaluation(args, methods, metrics, files, given, world).run()

    return work


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
    # The other processes wait while the first one trains, however long that takes.
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


def _read_hybrid(args: argparse.Namespace, twin_needed: bool) -> models.HybridClassifier:
    """Reads the model of --weights, and checks that it matches the other options."""
    model = options.load_weights(args, "cpu")
    if isinstance(model.vqc, models.ClassicalLayer):
        must = "the file of a hybrid model (its classical twin is trained here)"
        _checks.wrong_value("--weights", must, f"{args.weights}, a classical twin")
    trained, epochs = model.trained or {}, args.training["epochs"]
    if args.seed != trained.get("seed", args.seed):
        must = f"{trained['seed']}, that of the weights (another seed's test set was trained on)"
        _checks.wrong_value("--seed", must, args.seed)
    if twin_needed and epochs != trained.get("epochs", epochs):
        must = f"{trained['epochs']}, that of the weights, for a twin that is trained alike"
        _checks.wrong_value("--epochs", must, epochs)
    return model


class _Evaluation(NamedTuple):
    """An evaluation with one or several seeds.

    Attributes:
        args (argparse.Namespace): The options.
        methods (Mapping[str, NamedMethod]): The attribution methods by name.
        metrics (Mapping[str, Callable]): The metrics by name.
        files (Mapping[str, str]): The names of the weights files of ``"hybrid"``, the hybrid model,
            and of ``"twin"``, its classical twin, if a method needs it.
        given (HybridClassifier, optional): The trained hybrid model; None to train one.
        world (World): The processes among which the work is shared.
    """

    args: argparse.Namespace
    methods: Mapping[str, evaluation.NamedMethod]
    metrics: Mapping[str, Callable[..., Any]]
    files: Mapping[str, str]
    given: models.HybridClassifier | None
    world: evaluation.World

    def run(self) -> None:
        """Evaluates with every seed; the first process writes and prints the results."""
        folder, first, n_seeds = self.args.output, self.args.seed, self.args.seeds
        reports, tested = {}, {}
        for seed in range(first, first + n_seeds):
            reports[seed], tested[seed] = self._run_seed(seed)
        if self.world.rank != 0:
            return
        recognized = _accuracies([*tested.values()])
        texts = [f"On {part}: {report}" for part, report in reports[first].items()]
        if n_seeds > 1:
            summary = evaluation.SeedReport({s: [*r.values()] for s, r in reports.items()})
            content = {**summary.to_dict(), "models": tested}
            self._write(folder, content, f"{recognized}\n\n{summary.markdown()}", summary.figure())
            texts = [str(summary)]
        output.say("\n\n".join([recognized, *texts]))
        output.say(f"\n{folder / 'evaluation.png'}: the picture to look at")
        output.say(f"{folder / 'evaluation.md'}: the tables")
        output.say(
            f"{folder / 'evaluation.json'}: all numbers; those of every example in values.csv"
        )

    def _run_seed(self, seed: int) -> tuple[dict[str, evaluation.Report], dict[str, Any]]:
        """Evaluates with one seed and writes the results to a folder.

        Returns:
            The reports on images and on mosaics, each only if there are metrics for it; and the
            accuracy and the numbers of parameters of each model.
        """
        data, device = self.args.dataset.load(seed), self.args.device
        folder = self.args.output / (f"seed-{seed}" if self.args.seeds > 1 else "")
        self.world.first_does(lambda: self._make_weights(folder, data, seed))
        trained = {n: models.load_model(folder / f, device=device) for n, f in self.files.items()}
        methods = {
            name: method.make(trained[method.model], trained[method.model].backbone)
            for name, method in self.methods.items()
        }
        reports = {}
        for part, masked in (("images", False), ("mosaics", True)):
            metrics = {n: m for n, m in self.metrics.items() if needs_masks(m) == masked}
            if metrics:
                samples = (s.split(self.args.batch_size) for s in self._samples(masked, data, seed))
                batches = list(zip(*samples, strict=True))
                reports[part] = compare(methods, batches, metrics, output=folder / part, seed=seed)
        tested = {
            name: {
                "accuracy": training.accuracy(model, data[2], data[3]),
                "n_parameters": sum(p.numel() for p in model.parameters()),
                "n_parameters_of_the_circuit": sum(p.numel() for p in model.vqc.parameters()),
            }
            for name, model in trained.items()
        }
        if self.world.rank == 0:
            for part, report in reports.items():
                report.save(folder / part)
            content = {
                "dataset": self.args.dataset.name,
                "seed": seed,
                "methods": {name: method.description for name, method in self.methods.items()},
                "models": tested,
                "reports": {part: report.to_dict() for part, report in reports.items()},
            }
            tables = [f"## On {part}\n\n{report.markdown()}" for part, report in reports.items()]
            figure = visualization.plot_comparison([*reports.values()])
            self._write(folder, content, "\n".join([_accuracies([tested]), "", *tables]), figure)
        return reports, tested

    def _make_weights(self, folder: Path, data: Sequence[Tensor], seed: int) -> None:
        """Trains the hybrid model and its twin in the same way, unless the folder has weights."""
        folder.mkdir(parents=True, exist_ok=True)
        config = (self.given.config if self.given else None) or {}
        for name, file in self.files.items():
            if (folder / file).exists():
                continue
            if name == "hybrid" and self.given is not None:
                model = self.given
            else:
                model = self.args.dataset.model(**config, seed=seed)
                if name == "twin":
                    model = models.classical_twin(model, seed=seed)
                demo.train(model, data, self.args, seed)
            models.save_model(model, folder / file)

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

    def _write(self, folder: Path, content: dict[str, Any], text: str, figure: Any) -> None:
        content = {**content, **output.environment(self.args.device)}
        _files.replace(folder / "evaluation.json", _files.to_json(content))
        _files.replace(folder / "evaluation.md", text)
        _files.replace(folder / "evaluation.png", visualization.png(figure))


def _accuracies(tested: Sequence[dict[str, Any]]) -> str:
    """Formats the accuracy of each model on the test set, seed by seed."""
    shares = [
        f"{name} {', '.join(output.percent(models[name]['accuracy']) for models in tested)}"
        for name in tested[0]
    ]
    return f"Test accuracy: {'; '.join(shares)}."
