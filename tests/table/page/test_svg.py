"""matplotlib's pictures as parts of a page, and how methods look in them."""

import re
import sys

import pytest

from sdkd_plugin.table.page.style import COLOURS, look, swatch
from sdkd_plugin.table.page.svg import draw_svg, row_gid


def two_lines(axes):
    for row in (0, 1):
        axes.plot([1, 2, 3], [row, 2, 3], "o--", gid=row_gid(row))
        axes.fill_between([1, 2, 3], [0, 1, 2], [2, 3, 4], gid=row_gid(row))
    axes.set(xlabel="<b>&amp; $x^2$", ylabel="y")
    return {0: "KD <i>", 1: "SDKD"}


@pytest.fixture(scope="module")
def drawn():
    return draw_svg("first", 'one "two"', two_lines)


def test_what_is_drawn_for_a_row_has_its_class_and_its_tip(drawn):
    for row, tip in ((0, "KD &lt;i&gt;"), (1, "SDKD")):
        groups = re.findall(rf'<g class="row-{row}">\s*<title>([^<]*)</title>', drawn)
        assert groups == [tip, tip]  # its line and its band


def test_text_stays_text_and_is_escaped(drawn):
    assert "&lt;b&gt;&amp;amp; $x^2$" in drawn and "<b>" not in drawn
    assert 'aria-label="one &quot;two&quot;"' in drawn


def test_two_pictures_of_one_page_share_no_id(drawn):
    other = draw_svg("second", "other", two_lines)
    ids = re.findall(r' id="([^"]+)"', drawn + other)
    assert ids and len(ids) == len(set(ids))
    used = re.findall(r'(?:xlink:href="|url\()#([^")]+)', drawn)
    assert used and set(used) == set(re.findall(r' id="([^"]+)"', drawn))


def test_a_picture_brings_nothing_but_itself(drawn):
    assert drawn.startswith("<svg ") and "http" not in drawn
    assert "<style" not in drawn and "<metadata" not in drawn


def test_the_same_picture_is_the_same_text(drawn):
    assert drawn == draw_svg("first", 'one "two"', two_lines)


def test_without_matplotlib_a_picture_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw_svg("x", "x", two_lines) == (
        "<p>a picture needs matplotlib; install it with: pip install "
        "&#39;sdkd-plugin[plots]&#39;</p>"
    )
    assert swatch(0) == ""


def test_the_first_140_methods_differ_and_neighbours_in_every_way():
    looks = [look(row) for row in range(140)]
    assert len(set(looks)) == 140
    for one, two in zip(looks, looks[1:], strict=False):
        assert one.colour != two.colour and one.dash != two.dash and one.marker != two.marker


# Viénot, Brettel and Mollon, Digital video colourmaps for checking the legibility of displays by
# dichromats, 1999: what is left of linear red, green and blue for who has no L, or no M, cones.
DICHROMATS = {
    "protanope": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranope": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


@pytest.mark.parametrize("who", DICHROMATS)
def test_no_two_colours_are_alike_to_who_sees_two_primaries(who):
    def seen(colour):
        linear = [(int(colour[at : at + 2], 16) / 255) ** 2.2 for at in (1, 3, 5)]
        mixed = [sum(a * b for a, b in zip(row, linear, strict=True)) for row in DICHROMATS[who]]
        return [255 * max(value, 0) ** (1 / 2.2) for value in mixed]

    for place, one in enumerate(COLOURS):
        for two in COLOURS[:place]:
            apart = sum((a - b) ** 2 for a, b in zip(seen(one), seen(two), strict=True)) ** 0.5
            assert apart > 25, (one, two)
