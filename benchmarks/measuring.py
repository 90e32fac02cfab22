"""What benchmarks share: command line, where they ran, a network to time, a figure's spread."""

import argparse
import json
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdkd_plugin.models import build_model
from sdkd_plugin.runs.environment import describe_environment


def command_line(doc: str | None, rounds: int, steps: int | None = None) -> argparse.ArgumentParser:
    """A parser that says what its module's docstring says; rounds and steps have these defaults.

    Args:
        steps: None: there is no such option.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    if steps is not None:
        parser.add_argument("--steps", type=int, default=steps)
    return parser


def add_real_inputs(parser: argparse.ArgumentParser) -> None:
    """Options for the real data and a trained teacher."""
    parser.add_argument("--data", required=True, help="CIFAR-100 as npz")
    parser.add_argument("--teacher", required=True, help="a trained resnet56")
    parser.add_argument("--size", type=int, default=32, help="image height and width")


def say_environment() -> None:
    """Prints command, commit, versions, device and threads as a json line."""
    print(json.dumps(describe_environment(torch.device("cpu"))), flush=True)


def settled(name: str, classes: int, image: Tensor) -> nn.Module:
    """A fresh network whose norms know these images [N, 3, H, W]: else its maps are thousands
    large, and many a loss overflows.
    """
    network = build_model(name, classes)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # running statistics become plain means
        norm.reset_running_stats()
    with torch.no_grad():
        network.train()(image)
    for norm in norms:
        norm.momentum = 0.1
    return network


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
