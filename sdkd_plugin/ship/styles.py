"""The formats that `export` writes, and what runs them again."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdkd_plugin.errors import UserError
from sdkd_plugin.ship.deployed import Deployed

NOTE = "sdkd_plugin.json"  # the metadata's place in a file
INPUT, OUTPUT = "image", "logits"

Run = Callable[[Tensor], Tensor]  # images [N, 3, H, W], any N, to logits [N, K]
About = Mapping[str, Any]


@dataclass(frozen=True)
class Style:
    """One format.

    Args:
        write: puts the network and what is to know about it into a file; `example` is two images.
        load: what runs the file, on the CPU.
        suffix: of the file.
    """

    write: Callable[[Deployed, Tensor, Path, About], None]
    load: Callable[[Path], Run]
    suffix: str


def write_torchscript(network: Deployed, example: Tensor, path: Path, about: About) -> None:
    """By tracing: no network of this package branches on what it sees."""
    with _quiet():
        traced = torch.jit.trace(network, example)
        torch.jit.save(traced, str(path), _extra_files={NOTE: json.dumps(about)})


def load_torchscript(path: Path) -> Run:
    with _quiet():
        return torch.jit.load(str(path), map_location="cpu")


def write_pt2(network: Deployed, example: Tensor, path: Path, about: About) -> None:
    """By torch.export, for any number of images."""
    with _quiet():
        program = torch.export.export(network, (example,), dynamic_shapes=(_any_number(),))
        torch.export.save(program, str(path), extra_files={NOTE: json.dumps(about)})


def load_pt2(path: Path) -> Run:
    with _quiet():
        return torch.export.load(str(path)).module()


def write_onnx(network: Deployed, example: Tensor, path: Path, about: About) -> None:
    """By torch's exporter, for any number of images; the weights lie in the file itself.

    Raises:
        UserError: what it needs is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401, torch's exporter asks for it
    except ImportError as error:
        raise _needs_extra(error) from error
    with _quiet():
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(_any_number(),),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {NOTE: json.dumps(about)})
    onnx.save(model, str(path))


def load_onnx(path: Path) -> Run:
    """onnxruntime with as many threads as torch has here."""
    try:
        import onnxruntime
    except ImportError as error:
        raise _needs_extra(error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: image.numpy()})
        return torch.from_numpy(logits)

    return run


STYLES = {
    "pt2": Style(write_pt2, load_pt2, "pt2"),
    "onnx": Style(write_onnx, load_onnx, "onnx"),
    "torchscript": Style(write_torchscript, load_torchscript, "pt"),
}


def _any_number() -> dict[int, Any]:
    return {0: torch.export.Dim("n", min=1, max=65535)}


def _needs_extra(error: ImportError) -> UserError:
    return UserError(
        f"--format onnx needs {error.name}; install it with: pip install 'sdkd-plugin[onnx]', or "
        "take --format pt2"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings on its own exporters, which a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
