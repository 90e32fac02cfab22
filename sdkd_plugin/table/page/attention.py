"""Where networks look: what `attention` wrote beside the runs."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from sdkd_plugin.table.grids import EMPTY, Cell, Grid
from sdkd_plugin.table.page.looks import ATTENTION, Reader, Row, number
from sdkd_plugin.table.page.section import Picture, Section

WIDEST = 1600  # pixels of a picture on the page
QUALITY = 80  # of its WebP, in percent
NUMBERS = ("images", "mean", "sd", "low_quartile", "median", "high_quartile", "other_image_mean")


def attention_section(folders: Sequence[str | Path], reader: Reader) -> Section:
    """The picture and the numbers of each folder of runs that has a folder `attention`."""
    pictures = []
    grids: list[Grid] = []
    for folder in map(Path, folders):
        place = folder / ATTENTION
        rows = reader.read(place / f"{ATTENTION}.csv", NUMBERS)
        if not rows or "network" not in rows[0]:
            continue
        grids.append(_grid(f"attention-{len(grids)}", str(place), rows))
        drawn = _embedded(place / f"{ATTENTION}.png", reader)
        if drawn is not None:
            pictures.append(Picture(drawn, f"{place}: Grad-CAM on the same images.", wide=True))

    notes = []
    if not grids:
        notes.append(
            f"`attention RUN RUN ... --output RUNS/{ATTENTION}` fills this, with RUNS a folder "
            "that is given to the table"
        )
    return Section("attention", "Where networks look", notes, pictures, grids)


def _grid(name: str, label: str, rows: Sequence[Row]) -> Grid:
    cells = []
    for row in rows:
        images, *others = (number(row, each) for each in NUMBERS)
        cells.append(
            [
                Cell(row["network"]),
                EMPTY if images is None else Cell(f"{images:.0f}", images),
                *(EMPTY if each is None else Cell(f"{each:.3f}", each) for each in others),
            ]
        )
    head = ["network", "images", "mean", "sd", "quartile", "median", "quartile", "other image"]
    notes = [
        "Spearman's correlation of each network's maps with the teacher's, over images; other "
        "image: with the teacher's map of another image"
    ]
    return Grid(name, f"{label}: rank correlation of maps with the teacher's", head, cells, notes)


def _embedded(path: Path, reader: Reader) -> Markup | None:
    """A picture as a part of the page, drawn anew: no byte of the file comes along."""
    from PIL import Image  # a table on the screen has no use for it

    try:
        with Image.open(path, formats=["PNG"]) as opened:
            opened.thumbnail((WIDEST, WIDEST * 4))
            drawn = io.BytesIO()
            opened.convert("RGB").save(drawn, "WEBP", quality=QUALITY)
    except (OSError, Image.DecompressionBombError) as error:
        reader.faults.append(f"{path} cannot be read: {error}; make it again")
        return None
    data = base64.b64encode(drawn.getvalue()).decode()
    alt = "Images with each network's Grad-CAM over them, its prediction and its confidence"
    return Markup('<img alt="{}" src="data:image/webp;base64,{}">').format(alt, data)
