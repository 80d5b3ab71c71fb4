"""``captum-quantum explain``: explains what a trained model sees in an image file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from captum_quantum.cli.maps import READING, closest_rival, explain_image, qubit_influence
from captum_quantum.cli.options import Work, add_common, check_device, check_folder
from captum_quantum.cli.output import WEIGHTS, article, environment, percent, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from captum_quantum.models import HybridClassifier

FIGURE, RESULTS = "explanation.png", "explanation.json"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "explain",
        help="explain what a trained model sees in an image of one's own",
        description="Loads the weights that the demo has written, reads one image and explains the "
        f"model's decision: prints it and writes {FIGURE} and {RESULTS}. The image "
        "may be of any size and is turned into gray and 32 x 32 pixels. The model knows digits "
        "that are bright on dark and fill the image from top to bottom; for dark ink on bright "
        "paper, use --invert.",
    )
    parser.add_argument("--weights", required=True, type=Path, help=f"a {WEIGHTS} of the demo")
    parser.add_argument("--image", required=True, type=Path, help="the image file")
    parser.add_argument(
        "--target", type=int, help="the class to explain (default: the most probable one)"
    )
    parser.add_argument(
        "--invert", action="store_true", help="swap dark and bright, for dark digits on bright"
    )
    add_common(parser, output="explain-output")
    parser.set_defaults(prepare=_prepare)


def _prepare(args: argparse.Namespace) -> Work:
    from captum_quantum import _checks

    _checks.check_int("--seed", args.seed, 0)
    device = check_device(args.device)
    from captum_quantum.datasets import read_digit
    from captum_quantum.models import load_model

    image = read_digit(args.image, invert=args.invert)
    model = load_model(args.weights, device=device)
    if args.target is not None:
        _checks.check_int("--target", args.target, 0, model.n_classes - 1)
    output = check_folder(args.output)
    return lambda: _explain(model, image.to(device), args, output)


def _explain(
    model: "HybridClassifier", image: "Tensor", args: argparse.Namespace, output: Path
) -> None:
    from captum_quantum.attr import QuantumLayerGradCam
    from captum_quantum.training import predict
    from captum_quantum.visualization import plot_explanations, save_figure

    probabilities = predict(model, image)[0]
    predicted = int(probabilities.argmax())
    target = predicted if args.target is None else args.target
    rival = closest_rival(probabilities, target)
    explainer = QuantumLayerGradCam(model, model.backbone)
    explanation = explain_image(
        explainer, image, f"the model sees {article(predicted)}", [target, rival], probabilities
    )
    influence = qubit_influence(explanation.qubit_maps[None])[0].tolist()
    figure = plot_explanations(
        [explanation],
        headers=[
            "your image,\nas the model gets it",
            "QGrad-CAM: why\nthis class?",
            "QGrad-CAM: why\nits closest rival?",
            f"QGrad-CAM qubit by qubit:\nthe {len(influence)} maps add up to the first",
        ],
        caption=f"{READING}\nPercentages are the model's probabilities. All maps share one colour "
        "scale.",
    )
    save_figure(figure, output / FIGURE)
    write_json(
        output / RESULTS,
        {
            "image": str(args.image),
            "weights": str(args.weights),
            "inverted": args.invert,
            "probabilities": probabilities.tolist(),
            "predicted": predicted,
            "target": target,
            "rival": rival,
            "qubit_influence": influence,
            "map": explanation.maps[0].tolist(),
            "qubit_maps": explanation.qubit_maps.tolist(),
            **environment(image.device),
        },
    )
    print(f"The model sees {article(predicted)}. Probabilities:")
    for digit, probability in enumerate(probabilities.tolist()):
        bar = "#" * round(40 * probability)
        print(f"  {digit}  {percent(probability):>8}  {bar}".rstrip())
    print(f"Most influential qubits (share of all evidence, for or against {article(target)}):")
    for qubit in sorted(range(len(influence)), key=lambda q: -influence[q])[:3]:
        print(f"  qubit {qubit}  {percent(influence[qubit]):>8}")
    if not args.invert and float(image.mean()) > 0.5:
        print("The image is mostly bright; if its digit is dark, use --invert.")
    print(f"{output / FIGURE}: the picture to look at")
    print(f"{output / RESULTS}: all numbers")
