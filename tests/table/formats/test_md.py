from support.tables import report_of, table

from sdkd_plugin.table.formats.md import render
from sdkd_plugin.table.grids import Cell, Grid


def test_markdown(mixed_runs):
    lines = table(mixed_runs, "md", versus="sdkd").splitlines()
    assert lines[2:8] == [
        "| method | resnet56/resnet20 |",
        "| :-- | --: |",
        "| teacher | 72.34 |",
        "| student | 69.00 ± 1.00 (3) |",
        "| KD | 71.00 ± 2.00 (3) |",
        "| SDKD | **73.50 (1)†‡** |",
    ]

    shown = "\n".join(lines)
    kd = "| resnet56/resnet20 | KD | 3 | 71.00 ± 2.00 (3) | 2 | +2.00 | 70.66¶ | 0.5 | "
    assert kd in shown
    assert "| SDKD | 1 | **73.50 (1)†‡** | 1 | +4.50§ | 72.11¶ | 1 | " in shown
    assert "| resnet56/resnet20 | KD | 1 | +4.50 | n = 1 | 1.0000 | 1.0000 |  |" in lines
    assert "- ¶ resnet56/resnet20: SOLVER.EPOCHS 2 (published: 240)" in lines


def test_markdown_keeps_pipes_in_their_cell():
    assert "| a\\|b |" in render(report_of(Grid("g", "t", ["m"], [[Cell("a|b")]])))
