"""The list of runs and what their configs have that others have not."""

import json
import shutil

from support.tables import report_of_runs

from sdkd_plugin.table.page.runs import runs_section


def sections(folder, split=()):
    return runs_section(report_of_runs(folder, split=split).comparison)


def settings(section):
    return {each.title: each.values for each in section.settings}


def test_a_setting_stands_where_it_is_not_everybodys(make_run, tmp_path):
    for seed in (0, 1):
        make_run("KD", seed, [70.0])
        make_run("CRD", seed, [71.0])
    _, section = sections(tmp_path)
    found = settings(section)
    assert list(found) == [
        "In every run",
        "KD, resnet56/resnet20: seeds 0, 1",
        "CRD, resnet56/resnet20: seeds 0, 1",
    ]
    common, kd, crd = found.values()
    assert common["SOLVER.LR"] == "0.05" and "SOLVER.SEED" not in common
    assert kd["DISTILLER.TYPE"] == "KD" and kd["KD.TEMPERATURE"] == "4.0"
    assert crd["DISTILLER.TYPE"] == "CRD" and "KD.TEMPERATURE" not in crd
    assert not common.keys() & kd.keys()


def test_runs_of_two_settings_are_two_configs(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    make_run("KD", 0, [71.0], ["KD.TEMPERATURE", "2.0"])
    _, section = sections(tmp_path, ("KD.TEMPERATURE",))
    _, *own = section.settings
    assert [each.values for each in own] == [{"KD.TEMPERATURE": "2.0"}, {"KD.TEMPERATURE": "4.0"}]
    assert len({each.anchor for each in own}) == 2


def test_a_fact_of_all_finished_runs_is_told_once(make_run, tmp_path):
    make_run("KD", 0, [70.0], device="cpu one")
    make_run("KD", 1, [70.0], device="cpu two")
    make_run("KD", 2, [70.0], ["SOLVER.EPOCHS", "2"], finished=False)
    grid = sections(tmp_path)[0].grids[0]
    assert "in all of them: commit abc1234" in grid.notes
    assert "commit" not in grid.head and "device" in grid.head
    place = grid.head.index("device")
    assert [row[place].text for row in grid.rows] == ["cpu one", "cpu two", ""]
    assert grid.rows[2][3].text == "unfinished, 1 epochs done, SOLVER.EPOCHS 2"


def test_a_permalink_stays_the_same_elsewhere_and_beside_others(make_run, tmp_path):
    run = make_run("KD", 0, [70.0])
    first = sections(tmp_path)[0].anchors["run-list"]
    assert first[0].startswith("run-kd-resnet56-resnet20-seed0-")
    moved = tmp_path / "elsewhere" / "other name"
    shutil.copytree(run, moved)
    make_run("CRD", 0, [70.0])
    make_run("KD", 1, [70.0])
    shutil.rmtree(run)
    anchors = sections(tmp_path, ("KD.TEMPERATURE",))[0].anchors["run-list"]
    assert first[0] in anchors and len(set(anchors)) == 3


def test_every_line_links_to_its_config(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    make_run("KD", 1, [70.0])
    make_run("CRD", 0, [70.0])
    listed, configs = sections(tmp_path)
    links = listed.links["run-list"]
    assert set(links) == {each.anchor for each in configs.settings[1:]}
    assert links[0] == links[1] != links[2]  # two seeds of KD, then CRD


def test_imported_code_is_a_fact_of_the_runs_that_had_some(make_run, tmp_path):
    ours = [{"module": "mine", "given": None, "sha256": "0123456789abcdef"}]
    path = make_run("KD", 0, [70.0]) / "result.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"environment": tree["environment"] | {"plugins": ours}}))
    make_run("KD", 1, [70.0])
    grid = sections(tmp_path)[0].grids[0]
    place = grid.head.index("imported code")
    assert [row[place].text for row in grid.rows] == ["mine 01234567", ""]
