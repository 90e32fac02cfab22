from support.tables import report_of

from sdkd_plugin.table.formats.latex import ESCAPES, render
from sdkd_plugin.table.grids import MARKS, Cell, Grid
from sdkd_plugin.table.report import Excluded

EXPECTED = r"""
\begin{table}
\centering
\caption{100 \% of a\_b \& c}
\label{tab:id}
\begin{tabular}{lr}
\toprule
m & w\_40\_2 [a] \\
\midrule
x\# & \textbf{70.00 $\pm$ 1.00\textsuperscript{\dag}} \\
\bottomrule
\end{tabular}
\par\footnotesize \$1
\end{table}

% Runs that do not count:

% invalid: a_b: torn
"""


def test_latex_is_booktabs_and_escaped():
    rows = [[Cell("x#"), Cell("70.00 ± 1.00", 70.0, True, "†")]]
    grid = Grid("id", "100 % of a_b & c", ["m", "w_40_2 [a]"], rows, ["$1"])
    shown = render(report_of(grid, excluded=(Excluded("invalid", "a_b", "torn"),)))
    assert shown.split("\n\n", 1)[1] == EXPECTED.lstrip()


def test_every_mark_has_a_sign_in_latex():
    assert MARKS.keys() <= ESCAPES.keys()
