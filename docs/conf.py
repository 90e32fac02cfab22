"""The site, as `make docs` builds it with Sphinx. Its source is the repository, so that a relative
link leads to the same page here and on a Git host.
"""

import inspect
import re
import shlex
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx

from sdkd_plugin import __version__

project = "sdkd_plugin"
release = __version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "results/**", "examples/**", "benchmarks/**"]
exclude_patterns = [".*", "build", "data", "dist", "download_ckpts", "output"]  # not looked into

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # what `table --format md` prints begins with ###
highlight_language = "none"  # a block that is Python says so
smartquotes = False  # commands are to be copied
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_copyright = False
templates_path = ["templates"]
html_additional_pages = {"index": "start.html"}  # where a site is entered; leads to root_doc

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / project
# the command by which a page of results/ says what it prints below its line
TABLE = re.compile(r"python tools/table\.py results(?:[^`\n\\]|\\\n)+--format md(?:[^`\n\\]|\\\n)*")
CODE = re.compile(r"(`[^`]*`)")
MARK = re.compile(r"([*|\\]|_\b)")  # what reStructuredText would read more into


def add_reference(app: Sphinx, docname: str, source: list[str]) -> None:
    """A method's page is its card, then what its file offers."""
    folder, _, name = docname.rpartition("/")
    if folder == "docs/methods" and (PACKAGE / "distillers" / f"{name}.py").exists():
        source[0] += (
            "\n## Reference\n\n```{eval-rst}\n"
            f".. automodule:: {project}.distillers.{name}\n   :members:\n```\n"
        )


def add_report(app: Sphinx, docname: str, source: list[str]) -> None:
    """A page of results leads to the report that `write_reports` puts beside it."""
    if docname.startswith("results/") and TABLE.search(source[0]):
        link = '<a href="report.html">learning curves, ranks and pairs of methods</a>'
        source[0] = source[0].replace("\n---\n", f"\nWith {link} on one page.\n\n---\n", 1)


def write_reports(app: Sphinx, exception: Exception | None) -> None:
    """The html report of each page of results, by the page's own command."""
    if exception or app.builder.format != "html":
        return
    for page in sorted(ROOT.glob("results/**/README.md")):
        command = TABLE.search(page.read_text())
        if command:
            words = shlex.split(command[0].replace("\\\n", ""))[1:]
            words[words.index("md")] = "html"
            output = Path(app.outdir) / page.relative_to(ROOT).with_name("report.html")
            subprocess.run([sys.executable, *words, "--output", output], cwd=ROOT, check=True)


def keep_plain(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Docstrings are plain text with `code`; formulas and examples are indented."""
    if what == "function" and isinstance(obj, ModuleType):  # a package that can be called
        lines[:] = inspect.cleandoc(str(type(obj).__call__.__doc__)).split("\n")

    plain: list[str] = []
    margin = 0  # of the text above
    literal = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line and not (literal and indent > margin):
            literal = indent > margin and plain[-1:] == [""]
            if literal:
                plain += [" " * margin + "::", ""]
            else:
                margin = indent
                words, codes = CODE.split(line)[::2], CODE.findall(line)
                escaped = [MARK.sub(r"\\\1", part) for part in words]
                line = "".join(map("".join, zip_longest(escaped, codes, fillvalue="")))
        plain.append(line)
    lines[:] = plain


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_reference)
    app.connect("source-read", add_report)
    app.connect("build-finished", write_reports)
    app.connect("autodoc-process-docstring", keep_plain, priority=400)  # napoleon's is 500
