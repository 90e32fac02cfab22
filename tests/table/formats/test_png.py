import struct
import sys

import pytest
from support.tables import report_of, table

from sdkd_plugin.__main__ import main
from sdkd_plugin.errors import UserError
from sdkd_plugin.table.formats.png import render


def size(picture: bytes) -> tuple[int, int]:
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", picture[16:24])


def test_png_is_a_picture(mixed_runs):
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    width, height = size(table(mixed_runs, "png", title="title"))
    assert width > 500 and height > 300


def test_the_title_is_drawn(mixed_runs):
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    assert table(mixed_runs, "png", title="one") != table(mixed_runs, "png", title="two")


def test_the_command_line_writes_it(mixed_runs, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    path = tmp_path / "table.png"
    assert main(["table", str(mixed_runs), "--format", "png", "--output", str(path)]) == 0
    assert size(path.read_bytes()) > (500, 300)
    assert main(["table", str(mixed_runs), "--format", "png"]) == 2
    told = capsys.readouterr()
    assert told.err == "error: --format png cannot be printed; give --output, such as table.png\n"
    assert told.out == ""


def test_png_without_matplotlib_names_the_extra(mixed_runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        UserError, match=r"matplotlib; install it with: pip install 'sdkd-plugin\[plots\]'"
    ):
        table(mixed_runs, "png")


def test_a_published_table_alone_has_nothing_to_draw():
    with pytest.raises(UserError, match="--format png draws runs; a published table has none"):
        render(report_of())
