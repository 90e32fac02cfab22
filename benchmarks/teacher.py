"""How much faster a frozen teacher gets in another backend, in turn within one process.

    python benchmarks/teacher.py --data cifar100.npz --teacher resnet56.pth
        [--size 32] [--rounds 5] [--steps 20] [--backends folded compile onnxruntime openvino]

resnet56 -> resnet20, batch 64, KD's whole step with data, only the teacher's pass differs. Each
backend gives the logits and all maps; where it lies from the teacher in float64 is printed beside
that of eager torch. onnxruntime, openvino and onnx are needed for their rows only, a C++ compiler
for `compile`.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import add_real_inputs, command_line, say_environment, spread
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.utils._pytree import tree_flatten, tree_unflatten

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.build import build_distiller, build_teacher
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.trainer import Trainer

WARM_STEPS = 3
Forward = Callable[[Tensor], Any]


class Flat(nn.Module):
    """A network whose logits and maps come as one tuple of tensors, as exporters want them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree_flatten(self.network(image))[0])


def folded(network: nn.Module, image: Tensor) -> Forward:
    """Batch norms as part of the convolutions before them."""
    return fuse(network).to(memory_format=torch.channels_last)


def compiled(network: nn.Module, image: Tensor) -> Forward:
    """torch.compile with the weights as constants, which folds the norms as well."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    return torch.compile(network)


def exported(network: nn.Module, image: Tensor) -> bytes:
    """The network as ONNX, for any batch size."""
    import io

    file = io.BytesIO()
    flat = Flat(network).eval()
    count = len(flat(image))
    names = [f"out{i}" for i in range(count)]
    axes = {name: {0: "n"} for name in ("image", *names)}
    torch.onnx.export(
        flat,
        (image.contiguous(),),
        file,
        input_names=["image"],
        output_names=names,
        dynamic_axes=axes,
        dynamo=False,
    )
    return file.getvalue()


def in_onnxruntime(network: nn.Module, image: Tensor) -> Forward:
    """onnxruntime on the CPU, all its graph optimisations on."""
    import onnxruntime

    spec = tree_flatten(network(image))[1]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        exported(network, image), options, providers=["CPUExecutionProvider"]
    )

    def forward(image: Tensor) -> Any:
        arrays = session.run(None, {"image": image.contiguous().numpy()})
        return tree_unflatten([torch.from_numpy(array) for array in arrays], spec)

    return forward


def in_openvino(network: nn.Module, image: Tensor) -> Forward:
    """OpenVINO on the CPU in float32, its mode ACCURACY."""
    import openvino

    spec = tree_flatten(network(image))[1]
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    model = core.compile_model(core.read_model(exported(network, image)), "CPU", settings)

    def forward(image: Tensor) -> Any:
        given = model(image.contiguous().numpy(), share_inputs=True)
        return tree_unflatten([torch.from_numpy(given[i].copy()) for i in range(len(given))], spec)

    return forward


BACKENDS = {
    "folded": folded,
    "compile": compiled,
    "onnxruntime": in_onnxruntime,
    "openvino": in_openvino,
}


def distance(given: Any, wanted: Any) -> tuple[float, float]:
    """Largest difference relative to the largest value: of the logits, and of the worst map."""
    pairs = zip(tree_flatten(given)[0], tree_flatten(wanted)[0], strict=True)
    each = [float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs]
    return each[0], max(each)


def build(options: argparse.Namespace) -> Trainer:
    """KD's trainer in its only phase."""
    words = ["DATASET.TYPE", "npz", "DATASET.ROOT", options.data]
    words += ["DATASET.IMAGE_SIZE", str(options.size), "SOLVER.LR", "0.0001"]
    cfg = load_config(configs_folder() / "cifar100" / "kd" / "res56_res20.yaml", words)
    dataset = load_dataset(cfg)
    teacher = build_teacher(cfg, dataset.num_classes, options.teacher)
    trainer = Trainer(cfg, build_distiller(cfg, dataset, teacher), dataset, make_accelerator(cfg))
    trainer.reach(trainer.schedule[0][0])
    return trainer


def timed(trainer: Trainer, steps: int) -> float:
    """Seconds of so many whole steps."""
    running = trainer.begin(1)
    began = time.perf_counter()
    for batch in itertools.islice(trainer.train_batches.epoch(1), steps):
        trainer.take(running, batch)
    return time.perf_counter() - began


def main() -> None:
    """Prints for each backend: the step's time over eager's, the pass's, and the distances."""
    parser = command_line(__doc__, rounds=5, steps=20)
    add_real_inputs(parser)
    parser.add_argument("--backends", nargs="*", default=list(BACKENDS), choices=list(BACKENDS))
    options = parser.parse_args()

    trainer = build(options)
    teacher = trainer.method.teacher
    eager = teacher.forward
    image = next(iter(trainer.train_batches.epoch(1))).image
    with torch.no_grad():
        exact = teacher.double()(image.double())
        teacher.float()
        forwards: dict[str, Forward] = {"eager": eager}
        for name in options.backends:
            # of a copy, whose own `forward` stays; a module would become a part of the teacher
            forwards[name] = BACKENDS[name](copy.deepcopy(teacher), image).__call__
        far = {name: distance(forward(image), exact) for name, forward in forwards.items()}

    steps: dict[str, list[float]] = {name: [] for name in forwards}
    passes: dict[str, list[float]] = {name: [] for name in forwards}
    for number in range(options.rounds + 1):
        for name, forward in forwards.items():
            teacher.forward = forward
            seconds = timed(trainer, options.steps if number else WARM_STEPS)
            began = time.perf_counter()
            with torch.no_grad():
                for _ in range(options.steps):
                    forward(image)
            if number:
                steps[name].append(seconds / options.steps)
                passes[name].append((time.perf_counter() - began) / options.steps)

    say_environment()
    for name in forwards:
        told = []
        for label, times in (("step", steps), ("pass", passes)):
            pairs = zip(times["eager"], times[name], strict=True)
            ratios = [one / other for one, other in pairs]
            told.append(
                f"{label} {1000 * statistics.median(times[name]):6.1f} ms, eager / it "
                f"{spread(ratios, 3)}"
            )
        print(
            f"{name:12} {'; '.join(told)}; from float64: logits {far[name][0]:.1e}, "
            f"maps {far[name][1]:.1e}"
        )


if __name__ == "__main__":
    main()
