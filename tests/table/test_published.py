import csv
from pathlib import Path

import pytest

from sdkd_plugin.config import load_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.errors import UserError
from sdkd_plugin.table.published import (
    CIFAR100,
    SCHEDULE,
    Published,
    departures,
    find_published,
    is_cifar100,
    load_published,
    published_grid,
    published_table,
)

PAPERS = {"data": CIFAR100, **SCHEDULE}


def read_shared(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def test_poster_ends_with_the_computed_gain():
    grid = published_grid(published_table("poster"))
    first, last = grid.rows[0], grid.rows[-1]
    assert [cell.text for cell in last] == ["Gain", "2.59", "3.02", "3.05", "3.07", "3.10"]
    assert [cell.text for cell in first] == ["teacher", "75.61", "75.61", "72.34", "74.31", "74.31"]
    assert grid.rows[1][0].text == "student"
    assert "Gain" not in {row.method for row in load_published()}


def test_best_of_a_column_is_marked_whoever_owns_it():
    grid = published_grid(published_table("poster"))
    cells = [(row, at, cell) for row in grid.rows for at, cell in enumerate(row)]
    marked = [(row[0].text, grid.head[at]) for row, at, cell in cells if cell.best]
    assert marked == [
        ("SimKD", "wrn_40_2/wrn_40_1"),
        ("DistPro", "wrn_40_2/wrn_16_2"),
        ("SDKD", "resnet56/resnet20"),
        ("SDKD", "resnet110/resnet20"),
        ("SDKD", "resnet110/resnet32"),
    ]


def test_a_teacher_is_no_contestant():
    number = ("a", "b", "70.00", "last", None, "s")
    rows = [Published("t", method, *number) for method in ("teacher", "KD")]
    best = [[cell.best for cell in row] for row in published_grid(rows).rows]
    assert best == [[False, False], [False, True]]


def test_poster_is_the_checked_table(shared):
    theirs = {}
    for row in read_shared(shared / "published" / "cifar100_poster_table.csv"):
        method = row.pop("method")
        theirs.update({(method, pair): value for pair, value in row.items() if value})
    rows = published_table("poster")
    assert {(row.method, f"{row.teacher}/{row.student}"): row.value for row in rows} == theirs


def test_motivation_is_the_checked_table(shared):
    ours = {(row.method, row.teacher, row.student): row for row in published_table("motivation")}
    theirs = read_shared(shared / "published" / "cifar100_poster_motivation.csv")
    assert len(ours) == 3 * len(theirs)
    for row in theirs:
        pair = row["teacher"], row["student"]
        assert ours["teacher", *pair].value == row["teacher_acc"]
        assert ours["student", *pair].value == row["student_acc"]
        assert ours["KD", *pair].value == row["kd_acc"]
        told = f"temperature {row['tau']}, test cross-entropy at it {row['teacher_ce_at_tau']}"
        assert told in ours["teacher", *pair].source
        assert ours["student", *pair].source.endswith(f"cross-entropy {row['student_ce']}")


def test_repdistiller_holds_the_collected_numbers(shared):
    text = (shared / "methods.md").read_text()
    lines = text[text.index("| method | r32x4") :].splitlines()[2:]
    end = next(at for at, line in enumerate(lines) if not line.startswith("|"))
    pairs = [("resnet32x4", "resnet8x4"), ("vgg13", "vgg8"), ("resnet56", "resnet20")]

    theirs = {}
    for line in lines[:end]:
        first, *values = (part.strip() for part in line.strip("|").split("|"))
        names = first.split(" (")[0].removesuffix(" f=2").split(" / ")
        if first.startswith("teacher"):
            names = ["teacher", "student"]
        for pair, value in zip(pairs, values, strict=True):
            for name, number in zip(names, value.split(" (")[0].split(" / "), strict=False):
                if number != "–":
                    theirs[name, *pair] = number

    assert len(theirs) > 50
    rows = published_table("repdistiller")
    assert {(row.method, row.teacher, row.student): row.value for row in rows} == theirs


def test_newer_is_the_checked_list_without_what_nobody_checked(shared):
    theirs = read_shared(shared / "published" / "newer.csv")
    ours = published_table("newer")
    assert [(row.method, row.teacher, row.student, row.value, row.statistic) for row in ours] == [
        (row["method"], row["teacher"], row["student"], row["top1"], row["statistic"])
        for row in theirs
        if row["mark"] in ("V", "S")
    ]
    for row, other in zip(ours, theirs, strict=True):
        assert ("listed in" in row.source or "listing" in row.source) == (other["mark"] == "S")


def test_numbers_of_different_epochs_are_no_contest():
    number = ("a", "b", "70.00")
    same = [Published("t", name, *number, "best", None, "s") for name in ("KD", "DKD")]
    assert all(row[1].best for row in published_grid(same).rows)
    mixed = [*same, Published("t", "AT", *number, "last", None, "s")]
    rows = published_grid(mixed).rows
    assert not any(row[1].best for row in rows)
    assert [row[1].text + row[1].marks for row in rows] == ["70.00◊", "70.00◊", "70.00"]


def test_a_printed_table_says_which_numbers_have_a_schedule_of_their_own():
    notes = published_grid(published_table("newer")).notes
    assert [note for note in notes if "schedule, 240" in note] == [
        "MLLD: as listed in sunshangquan/logit-standardization-KD@f6e5aa5 README; epoch: best; its "
        "authors' own schedule, 240 or 480 epochs, and a second, augmented view"
    ]


def test_numbers_of_unknown_epochs_compare_within_one_source_only():
    number = ("a", "b", "70.00", "unknown", None)
    same = [Published("t", "KD", *number, "one; a"), Published("t", "AT", *number, "one; b")]
    grid = published_grid(same)
    assert all(row[1].best for row in grid.rows)
    assert not any("no best is marked" in note for note in grid.notes)

    other_schedule = Published("t", "SP", *number, "one", "480 epochs")
    assert not any(row[1].best for row in published_grid([*same, other_schedule]).rows)

    grid = published_grid([*same, Published("t", "SP", *number, "another")])
    assert not any(row[1].best for row in grid.rows)
    assert any(note.startswith("no best is marked in a/b: numbers of") for note in grid.notes)


@pytest.mark.parametrize(
    "student, gain",
    [(("unknown", "s"), "2.00"), (("last", "s"), ""), (("unknown", "other"), ""), (None, "")],
)
def test_a_gain_is_of_two_numbers_of_one_kind(student, gain):
    rows = [Published("t", "SDKD", "a", "b", "72.00", "unknown", None, "s")]
    if student is not None:
        statistic, source = student
        rows.append(Published("t", "student", "a", "b", "70.00", statistic, None, source))
    rows.append(Published("t", "student", "c", "d", "70.00", "last", None, "s"))
    last = published_grid(rows).rows[-1]
    assert [cell.text for cell in last] == ["Gain", gain, ""]


@pytest.mark.parametrize("name, comparable", [("poster", 5), ("newer", 0)])
def test_bests_stand_where_all_numbers_of_a_column_are_of_one_kind(name, comparable):
    grid = published_grid(published_table(name))
    columns = range(1, len(grid.head))
    marked = [at for at in columns if any(row[at].best for row in grid.rows)]
    assert len(marked) == comparable
    told = [note for note in grid.notes if note.startswith("no best is marked in ")]
    names = [note.removeprefix("no best is marked in ").split(": ")[0] for note in told]
    others = [grid.head[at] for at in columns if at not in marked]
    assert names == ([", ".join(others)] if others else [])


def test_every_number_says_where_it_is_from_and_what_it_is():
    for row in load_published():
        assert row.source and row.statistic in ("last", "best", "unknown")
        assert row.value == f"{float(row.value):.2f}"


def test_unknown_table_names_the_nearest():
    with pytest.raises(UserError, match="'postr' in --published: did you mean 'poster'"):
        published_table("postr")


def test_methods_are_found_without_case():
    assert find_published(load_published(), "FITNET", "resnet56", "resnet20").value == "69.21"
    assert find_published(load_published(), "FITNET", "resnet20", "resnet56") is None


def test_departures_name_what_differs():
    assert departures(PAPERS, "resnet20") == []
    assert departures({**PAPERS, "SOLVER.EPOCHS": 10}, "resnet20") == [
        "SOLVER.EPOCHS 10 (published: 240)"
    ]
    assert departures({**PAPERS, "SOLVER.LR": 0.01}, "ShuffleV1") == []
    # a transform is recorded only where it is not cifar
    unsaid = {key: value for key, value in PAPERS.items() if key != "DATASET.TRANSFORM"}
    resized = {**unsaid, "DATASET.TRANSFORM": "imagenet"}
    assert departures(unsaid, "resnet20") == []
    assert departures(resized, "resnet20") == ["DATASET.TRANSFORM imagenet (published: cifar)"]
    assert departures(PAPERS, "ShuffleV1") == ["SOLVER.LR 0.05 (published: 0.01)"]


def test_published_numbers_are_of_whole_cifar100_only():
    whole = {
        "data": "x",
        "DATASET.TYPE": "cifar100",
        "DATASET.SUBSET": 1.0,
        "DATASET.VAL_FRACTION": 0.0,
        "DATASET.IMAGE_SIZE": 0,
    }
    assert is_cifar100(PAPERS) and is_cifar100(whole)
    for key, value in {
        "DATASET.TYPE": "npz",
        "DATASET.SUBSET": 0.5,
        "DATASET.VAL_FRACTION": 0.1,
        "DATASET.IMAGE_SIZE": 16,
    }.items():
        assert not is_cifar100({**whole, key: value})


@pytest.mark.slow
def test_cifar100_is_known_by_its_hash(shared):
    path = shared / "data" / "cifar100.npz"
    cfg = load_config(None, ["DATASET.TYPE", "npz", "DATASET.ROOT", str(path)])
    assert load_dataset(cfg).fingerprint == CIFAR100
