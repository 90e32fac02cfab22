import shutil

import pytest

from sdkd_plugin import demo
from sdkd_plugin.config import configs_folder
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.report import TableOptions, make_report


@pytest.mark.parametrize(
    ("module", "package"), [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")]
)
def test_missing_package_names_the_extra(tmp_path, monkeypatch, module, package):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == module else object())
    told = rf"the demo needs {package}; install it with: pip install 'sdkd-plugin\[demo\]'"
    with pytest.raises(UserError, match=told):
        demo.run_demo(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_configs_of_the_demo_exist():
    folder = configs_folder() / "cifar100"
    for name in (demo.TEACHER, *(f"{name}.yaml" for name in demo.STUDENTS)):
        assert (folder / name).is_file()


def test_the_demos_tables_are_those_of_the_command(make_run, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra demo")
    runs = (make_run("NONE", 0, [69.0]), make_run("KD", 0, [70.0]))
    options = TableOptions(folders=runs, title=demo.TITLE)
    demo._write_tables(options, tmp_path)
    report = make_report(options)
    page = (tmp_path / "table.md").read_text()
    assert page == f"## {demo.TITLE}\n\n{demo.CAVEAT}\n\n{FORMATS['md'].build(report)}"
    picture = (tmp_path / "table.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and picture == FORMATS["png"].build(report)


@pytest.mark.slow
def test_demo_ends_in_a_table_and_goes_on_after_an_interruption(tmp_path, monkeypatch, capsys):
    """One epoch a run: the shape of the demo, not its accuracies."""
    pytest.importorskip("sklearn", reason="needs the extra demo")
    pytest.importorskip("matplotlib", reason="needs the extra demo")
    monkeypatch.setattr(demo, "TEACHER_EPOCHS", 1)
    monkeypatch.setattr(demo, "STUDENT_EPOCHS", 1)
    train, done = demo.train, []

    def interrupted(cfg, resume):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(train(cfg, resume))
        return done[-1]

    monkeypatch.setattr(demo, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(str(tmp_path))
    monkeypatch.setattr(demo, "train", train)
    demo.run_demo(str(tmp_path))
    shown = capsys.readouterr().out
    assert "run 1 of 16: the teacher" in shown and "run 16 of 16: sdkd/res56_res20, seed 2" in shown
    assert demo.CAVEAT in shown and str(tmp_path) in shown
    table = (tmp_path / "table.md").read_text()
    for method in ("student", "KD", "DKD", "CRD", "SDKD"):
        assert f"| {method} | " in table and f"│ {method} " in shown
    assert table.count("(3)") >= 5 and demo.CAVEAT in table
    assert (tmp_path / "table.png").stat().st_size > 10_000
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/seed*/result.json")}
    assert len(results) == 16
    lost = next(path for path in results if "sdkd" in str(path))
    shutil.rmtree(lost.parent)
    demo.run_demo(str(tmp_path))
    changed = {path for path in results if path.stat().st_mtime_ns != results[path]}
    assert changed == {lost} and (tmp_path / "table.md").read_text() != ""
