from support.tables import table


def test_another_teacher_than_the_published_is_named(make_run, tmp_path):
    path = make_run("KD", 0, [70.0]) / "result.json"
    assert "teacher 72.34" not in table(tmp_path)
    path.write_text(path.read_text().replace('"top1": 72.34', '"top1": 65.04'))
    assert "teacher 65.04 % (published: 72.34)" in table(tmp_path)


def test_costs_of_different_devices_are_marked(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    assert "do not compare them" not in table(tmp_path)
    make_run("SDKD", 0, [71.0], device="cuda Big")
    shown = table(tmp_path)
    assert "cpu Test with 1 threads and on cuda Big with 1 threads" in shown
    assert "do not compare them" in shown
