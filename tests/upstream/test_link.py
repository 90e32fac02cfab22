"""`link` and `unlink` on a copy of the real checkout."""

import hashlib
from pathlib import Path

import pytest

from sdkd_plugin.__main__ import main
from sdkd_plugin.upstream.link import BEGIN, HOOK, RECORD


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below, with the hash of its content."""
    files = {
        str(p.relative_to(folder)): p for p in folder.rglob("*") if "__pycache__" not in p.parts
    }
    return {
        name: hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for name, p in files.items()
    }


def test_link_and_unlink_leave_every_byte_as_it_was(checkout, capsys):
    before = tree(checkout)
    assert main(["link", str(checkout), "--dry-run"]) == 0
    assert tree(checkout) == before and BEGIN in capsys.readouterr().out
    assert main(["link", str(checkout)]) == 0
    linked = tree(checkout)
    assert {name for name in before if linked[name] != before[name]} == {HOOK}
    brought = linked.keys() - before.keys()
    assert RECORD in brought and "configs/cifar100/sdkd/res56_res20.yaml" in brought
    assert not any(
        name.startswith(("configs/cifar100/dkd", "configs/cifar100/kd")) for name in brought
    )
    assert main(["unlink", str(checkout), "--dry-run"]) == 0
    assert tree(checkout) == linked
    assert main(["unlink", str(checkout)]) == 0
    assert tree(checkout) == before


def test_a_second_link_is_refused(checkout, capsys):
    main(["link", str(checkout)])
    linked = tree(checkout)
    assert main(["link", str(checkout)]) == 2
    assert "is linked already" in capsys.readouterr().err
    assert tree(checkout) == linked


def test_what_was_there_or_was_changed_since_is_kept(checkout, capsys):
    own = checkout / "configs/cifar100/sdkd/res56_res20.yaml"
    own.parent.mkdir()
    own.write_text("mine: 1\n")
    main(["link", str(checkout)])
    assert own.read_text() == "mine: 1\n"
    changed = checkout / "configs/cifar100/sdkd/res110_res32.yaml"
    changed.write_text(changed.read_text() + "# tuned\n")
    assert main(["unlink", str(checkout)]) == 0
    assert own.read_text() == "mine: 1\n" and changed.read_text().endswith("# tuned\n")
    assert "kept, it was changed since" in capsys.readouterr().out
    assert not (checkout / "configs/cifar100/sdkd/res110_res20.yaml").exists()


def test_an_edited_block_is_refused(checkout, capsys):
    main(["link", str(checkout)])
    hook = checkout / HOOK
    hook.write_text(
        hook.read_text().replace("_register_sdkd_plugin()", "_register_sdkd_plugin(replace=True)")
    )
    edited = tree(checkout)
    assert main(["unlink", str(checkout)]) == 2
    assert "was edited" in capsys.readouterr().err
    assert tree(checkout) == edited


def test_edits_outside_the_block_survive_unlinking(checkout):
    main(["link", str(checkout)])
    hook = checkout / HOOK
    hook.write_text("# my line\n" + hook.read_text() + "# another\n")
    main(["unlink", str(checkout)])
    text = hook.read_text()
    assert text.startswith("# my line\n") and text.endswith("}\n# another\n") and BEGIN not in text


def test_another_version_is_refused_with_the_parts_that_match(checkout, capsys):
    trainer = checkout / "mdistiller/engine/trainer.py"
    trainer.write_text(trainer.read_text() + "\n")
    before = tree(checkout)
    assert main(["link", str(checkout)]) == 2
    error = capsys.readouterr().err
    assert (
        "not mdistiller at a08d46f: mdistiller/engine/trainer.py differ" in error
        and "tools/train.py matches" in error
    )
    assert len(error.strip().splitlines()) == 1 and tree(checkout) == before


@pytest.mark.parametrize("command", ["link", "unlink"])
def test_a_folder_that_is_no_mdistiller_is_refused(tmp_path, command, capsys):
    assert main([command, str(tmp_path)]) == 2
    assert "is no checkout of mdistiller" in capsys.readouterr().err


def test_unlink_without_link_is_refused(checkout, capsys):
    assert main(["unlink", str(checkout)]) == 2
    assert "there is no block" in capsys.readouterr().err


def test_a_linked_checkout_outlives_this_package(checkout, call, tmp_path):
    main(["link", str(checkout)])
    gone = tmp_path / "gone" / "sdkd_plugin"
    gone.mkdir(parents=True)
    (gone / "__init__.py").write_text("raise ImportError('uninstalled')\n")
    done = call(
        checkout,
        "-c",
        "from mdistiller.distillers import distiller_dict as d; print(sorted(d))",
        path=str(gone.parent),
    )
    first, second = done.stdout.strip().splitlines()
    assert (
        first
        == "warning: sdkd_plugin is linked into this checkout but does not import (uninstalled): "
        f"its methods are missing; install it again, or remove this block from "
        f"{checkout / HOOK} and the files that {RECORD} names"
    )
    assert "'DKD'" in second and "SDKD" not in second.replace("KDSVD", "")


DAMAGED = {
    "torn": '{"block": "',
    "list": "[1]",
    "null": "null",
    "deep": "[" * 100_000,
    "lacks": '{"block": "x"}',
    "kinds": '{"block": 1, "files": [], "folders": {}}',
    "leads out": '{"block": "%s", "files": {"../outside": "%s"}, "folders": []}',
    "absolute": '{"block": "%s", "files": {"/outside": "%s"}, "folders": []}',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_told_in_a_line_and_nothing_is_touched(checkout, capsys, text):
    outside = checkout.parent / "outside"
    outside.write_text("mine")
    main(["link", str(checkout)])
    if "%s" in text:
        text = text % (BEGIN, hashlib.sha256(b"mine").hexdigest())
    (checkout / RECORD).write_text(text)
    before = tree(checkout.parent)
    capsys.readouterr()
    assert main(["unlink", str(checkout)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the record of the link is damaged (")
    assert error.count("\n") == 1 and "by hand" in error
    assert tree(checkout.parent) == before


def test_a_hook_that_is_a_link_stays_one(checkout):
    hook, real = checkout / HOOK, checkout / "real_init.py"
    hook.rename(real)
    hook.symlink_to(real)
    before = tree(checkout)
    assert main(["link", str(checkout)]) == 0
    assert hook.is_symlink() and BEGIN in real.read_text()
    assert main(["unlink", str(checkout)]) == 0
    assert hook.is_symlink() and tree(checkout) == before


def test_link_says_when_to_unlink(checkout, capsys):
    main(["link", str(checkout)])
    assert "unlink before you uninstall this package" in capsys.readouterr().out
