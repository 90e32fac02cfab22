"""What studies left in run folders, on the page: values by hand, and files of every wrong kind."""

import base64
import io
import re

import pytest
from PIL import Image
from support.tables import report_of_runs

from sdkd_plugin.runs.record import ACCURACIES
from sdkd_plugin.table.page import looks
from sdkd_plugin.table.page.attention import attention_section
from sdkd_plugin.table.page.calibration import (
    calibration_section,
    fidelity_section,
    reliability,
)
from sdkd_plugin.table.page.classes import class_accuracies, classes_section
from sdkd_plugin.table.page.looks import Reader


@pytest.fixture
def pair(make_run):
    return [make_run("KD", seed, [70.0]) for seed in (0, 1)]


def write(run, name, text):
    (run / looks.STUDIES).mkdir(exist_ok=True)
    (run / looks.STUDIES / name).write_text(text)


def texts(grid):
    return [[cell.text for cell in row] for row in grid.rows]


def test_accuracy_by_class_is_the_mean_over_the_examined_runs(pair, tmp_path):
    head = "class,images,student,teacher,taken_for,times\n"
    write(pair[0], "per_class.csv", head + "cat,10,50.0,80.0,dog,5\nowl,0,,,,0\n")
    write(pair[1], "per_class.csv", head + "cat,10,70.0,80.0,,0\nowl,1,100.0,0.0,,0\n")
    comparison = report_of_runs(tmp_path).comparison
    reader = Reader()
    assert class_accuracies(comparison, 0, reader) == {
        "teacher": {"cat": 80.0, "owl": 0.0},
        "KD": {"cat": 60.0, "owl": 100.0},
    }
    section = classes_section(comparison, reader)
    assert section.grids[0].head == ["class", "teacher", "KD"]
    assert texts(section.grids[0]) == [["cat", "80.0", "60.0"], ["owl", "0.0", "100.0"]]
    assert len(section.pictures) == 1 and reader.faults == []


def test_bins_of_two_runs_are_weighted_by_their_images(pair, tmp_path):
    head = "network,low,high,images,confidence,accuracy\n"
    other = "teacher,90.0,100.0,9,99.0,99.0\nstudent,10.0,20.0,0,,\n"
    write(pair[0], "calibration.csv", head + "student,50.0,60.0,3,52.0,40.0\n" + other)
    write(pair[1], "calibration.csv", head + "student,50.0,60.0,1,56.0,80.0\n" + other)
    comparison = report_of_runs(tmp_path).comparison
    # (3 * 52 + 56) / 4, (3 * 40 + 80) / 4
    assert reliability(comparison, 0, Reader()) == {0: [(53.0, 50.0)]}
    assert len(calibration_section(comparison, Reader()).pictures) == 1


def test_the_records_own_calibration_needs_no_study(make_run, tmp_path):
    for seed, ece in enumerate((4.0, 6.0)):
        make_run("KD", seed, [70.0], scores={"ece": [ece]})
    section = calibration_section(report_of_runs(tmp_path).comparison, Reader())
    (grid,) = section.grids
    assert texts(grid) == [["resnet56/resnet20", "KD", "2", "5.00 ± 1.41", "1.0000 ± 0.0000"]]
    assert section.notes == [
        "`examine RUN --only calibration` adds reliability diagrams: it writes "
        "RUN/studies/calibration.csv"
    ]


def test_agreement_is_the_mean_and_nan_counts_as_nothing(pair, tmp_path):
    head = "agreement,agreement_teacher_right,agreement_teacher_wrong,kl\n"
    write(pair[0], "fidelity.csv", head + "80.0,90.0,nan,0.5\n")
    write(pair[1], "fidelity.csv", head + "84.0,90.0,30.0,0.7\n")
    (grid,) = fidelity_section(report_of_runs(tmp_path).comparison, Reader()).grids
    assert texts(grid)[0][2:] == ["2", "82.00 ± 2.83", "90.00 ± 0.00", "30.00", "0.600 ± 0.141"]


def test_what_is_not_there_is_one_line_with_the_command(pair, tmp_path):
    comparison = report_of_runs(tmp_path).comparison
    reader = Reader()
    for section, command in (
        (classes_section(comparison, reader), "examine RUN --only per-class"),
        (fidelity_section(comparison, reader), "examine RUN --only fidelity"),
        (attention_section([tmp_path], reader), "attention RUN RUN ... --output RUNS/attention"),
    ):
        assert section.grids == [] and section.pictures == []
        (note,) = section.notes
        assert note.startswith(f"`{command}` fills this")
    assert reader.faults == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"class,images\ncat,1\n", "has no column student"),
        (b"", "has no column student"),
        (b"class,student\ncat,fifty\n", "line 2: student is 'fifty', not a number"),
        (b"class,student\ncat,inf\n", "line 2: student is 'inf', not a number"),
        (b"class,student\ncat\n", "line 2, is not as wide as its head"),
        (b"class,student\ncat,1,2\n", "line 2, is not as wide as its head"),
        (b'class,student\n"cat,1\n', "cannot be read"),
        (b"class,student\n\xff,1\n", "cannot be read"),
        (b"class,student\n" + b"cat,1\n" * 6000, "has more than 5000 rows"),
        (b"x" * (2**20 + 1), "is larger than 1 MiB"),
    ],
)
def test_a_file_of_every_wrong_kind_is_told_by_name(pair, tmp_path, text, fault):
    write(pair[0], "per_class.csv", "")
    path = pair[0] / looks.STUDIES / "per_class.csv"
    path.write_bytes(text)
    reader = Reader()
    section = classes_section(report_of_runs(tmp_path).comparison, reader)
    assert section.grids == []
    (told,) = reader.faults
    assert told.startswith(str(path)) and fault in told


ATTENTION = (
    "network,images,undefined,mean,sd,low_quartile,median,high_quartile,other_image_mean\n"
    "KD seed 0,500,0,0.25,0.125,0.1,0.2,0.3,nan\n"
)


def test_attention_is_the_picture_and_the_numbers(tmp_path):
    folder = tmp_path / "attention"
    folder.mkdir()
    (folder / "attention.csv").write_text(ATTENTION)
    Image.new("RGB", (3000, 100), (200, 10, 10)).save(folder / "attention.png")
    reader = Reader()
    section = attention_section([tmp_path], reader)
    assert texts(section.grids[0]) == [
        ["KD seed 0", "500", "0.250", "0.125", "0.100", "0.200", "0.300", ""]
    ]
    data = re.search(r"base64,([^\"]+)", section.pictures[0].drawn).group(1)
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (1600, 53)  # no larger than a screen
    red, green, blue = shown.getpixel((800, 20))
    assert abs(red - 200) < 8 and green < 20 and blue < 20 and reader.faults == []


def test_a_picture_that_is_none_is_told(tmp_path):
    folder = tmp_path / "attention"
    folder.mkdir()
    (folder / "attention.csv").write_text(ATTENTION)
    (folder / "attention.png").write_text("<svg onload=alert(1)>")
    reader = Reader()
    section = attention_section([tmp_path], reader)
    assert section.pictures == [] and len(section.grids) == 1
    (told,) = reader.faults
    assert told.startswith(f"{folder / 'attention.png'} cannot be read")


def test_records_without_calibration_are_left_out_and_told(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    make_run("KD", 1, [70.0], metrics=ACCURACIES)
    make_run("DKD", 0, [70.0], metrics=ACCURACIES)
    (grid,) = calibration_section(report_of_runs(tmp_path).comparison, Reader()).grids
    assert texts(grid) == [["resnet56/resnet20", "KD", "1", "5.00", "1.0000"]]
    assert grid.notes[-1].endswith("of a version that has neither: DKD")
