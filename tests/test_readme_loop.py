"""README.md's loop of one's own, as it stands there."""

import re
import textwrap
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from support.loop import zoo
from support.tiny import state_copy

import sdkd_plugin

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_readmes_loop_trains():
    section = README.read_text().split("\n## In a notebook\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    image = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    target = torch.arange(8)
    given = {
        "student": zoo("resnet8"),
        "teacher": zoo("resnet14"),
        "loader": [(image, target)],
    }
    before = state_copy(given["student"])
    with redirect_stdout(StringIO()) as output:
        exec(textwrap.dedent(block), {"sdkd_plugin": sdkd_plugin, **given})
    lines = output.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [[str(epoch), "1"] for epoch in range(1, 31)]
    assert float(lines[-1].split()[2]) < float(lines[0].split()[2])
    assert any(not v.equal(before[k]) for k, v in given["student"].state_dict().items())
