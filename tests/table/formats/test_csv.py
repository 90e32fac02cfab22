import csv
import io

from support.tables import table


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_all_digits(mixed_runs):
    rows = read(table(mixed_runs, "csv", versus="SDKD"))
    cells = {row["method"]: row for row in rows if row["status"] == "cell"}
    assert [row["status"] for row in rows[3:]] == ["invalid", "unfinished", "duplicate", "teacher"]

    kd = cells["KD"]
    assert (kd["last_mean"], kd["last_sd"]) == ("71.0", "2.0")
    assert (kd["gain"], kd["gain_same_seeds"]) == ("2.0", "True")
    # the poster does not say which epoch its numbers are of
    assert (kd["published"], kd["published_epoch"], kd["difference"]) == ("70.66", "unknown", "")
    assert (kd["versus"], kd["versus_n"]) == ("SDKD", "1")
    assert (kd["versus_difference"], kd["versus_p"]) == ("4.5", "1.0")

    sdkd = cells["SDKD"]
    assert (sdkd["n"], sdkd["unfinished"], sdkd["last_sd"]) == ("1", "1", "")
    assert sdkd["best_epoch_mean"] == "80.0"
    assert (sdkd["is_best"], sdkd["hours"]) == ("True", "1.0")
    assert (sdkd["seeds"], kd["seeds"]) == ("0", "0 1 2")
    assert "versus" not in table(mixed_runs, "csv").splitlines()[0]


def test_an_excluded_run_is_told_without_its_status(mixed_runs):
    notes = {row["status"]: row["note"] for row in read(table(mixed_runs, "csv"))}
    assert notes["unfinished"].startswith(f"{mixed_runs}/")
    assert notes["unfinished"].endswith(
        "/seed1: 1 epochs done, SOLVER.EPOCHS 2; go on with --resume"
    )
    assert "/copy/seed0 (69.00) is the same run as " in notes["duplicate"]


def test_the_last_column_names_the_metric(mixed_runs):
    for name in ("top1", "loss"):
        text = table(mixed_runs, "csv", metric=name, versus="KD")
        assert text.splitlines()[0].endswith(",versus_p_holm,metric")
        assert [row["metric"] for row in read(text) if row["status"] == "cell"] == [name] * 3
    assert table(mixed_runs, "csv").splitlines()[0].endswith(",differs,note,metric")
