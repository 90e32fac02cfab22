import shutil

import pytest

from sdkd_plugin import demo
from sdkd_plugin.config import configs_folder
from sdkd_plugin.errors import UserError


@pytest.mark.parametrize(
    ("module", "package"), [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")]
)
def test_missing_package_names_the_extra(tmp_path, monkeypatch, module, package):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(
        UserError,
        match=rf"the demo needs {package}; install it with: pip install 'sdkd-plugin\[demo\]'",
    ):
        demo.run_demo(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_configs_of_the_demo_exist():
    folder = configs_folder() / "cifar100"
    for name in (demo.TEACHER, *(f"{name}.yaml" for name in demo.STUDENTS)):
        assert (folder / name).is_file()


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
    assert "run 1 of 11: the teacher" in shown and "run 11 of 11: sdkd/res56_res20, seed 1" in shown
    assert demo.CAVEAT in shown and str(tmp_path) in shown
    table = (tmp_path / "table.md").read_text()
    for method in ("student", "KD", "DKD", "CRD", "SDKD"):
        assert f"| {method} | " in table and f"│ {method} " in shown
    assert table.count("(2)") >= 5 and demo.CAVEAT in table
    assert (tmp_path / "table.png").stat().st_size > 10_000
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/seed*/result.json")}
    assert len(results) == 11
    lost = next(path for path in results if "sdkd" in str(path))
    shutil.rmtree(lost.parent)
    demo.run_demo(str(tmp_path))
    changed = {path for path in results if path.stat().st_mtime_ns != results[path]}
    assert changed == {lost} and (tmp_path / "table.md").read_text() != ""
