"""Options stand in one order, are all explained, and a shell can complete them."""

import argparse
import json
import subprocess

import pytest

from sdkd_plugin.__main__ import main
from sdkd_plugin.arguments import SHELLS, make_parser
from sdkd_plugin.commands import COMMANDS

# What is meant comes first, then what a command alone has; both in an order of its own.
OWN = "what only this command has"
# Then what several have: how it is done, what is only shown, how and where to it is written, what
# sweeps and plug-ins need.
ORDER = (
    *("-h", OWN, "--resume", "--train-teacher", "--jobs", "--executor", "--address", "--lockstep"),
    *("--lockstep-size", "--size", "--processes", "--dry-run", "--plan", "--commands"),
    *("--format", "--json", "--output", "--set", "--end-with-stdin", "--import"),
)


def commands() -> dict[str, argparse.ArgumentParser]:
    (sub,) = [a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(sub.choices)


@pytest.mark.parametrize("name", sorted(commands()))
def test_options_stand_in_one_order_and_are_explained(name):
    options = [a for a in commands()[name]._actions if a.option_strings]
    names = [action.option_strings[0] for action in options]
    places = [ORDER.index(name if name in ORDER else OWN) for name in names]
    assert places == sorted(places)
    assert all(action.help for action in commands()[name]._actions)


def test_every_command_that_is_offered_is_there():
    assert commands().keys() == COMMANDS.keys()


def test_the_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 done; 1 `verify` found a difference; 2 a mistake" in said


def test_bash_completes_commands_options_and_files(tmp_path, monkeypatch, capsys):
    pytest.importorskip("shtab", reason="needs the extra completion")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "sdkd.bash"
    script.write_text(capsys.readouterr().out)

    def complete(*words: str) -> set[str]:
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}"
        ask = f'source {script}; {line}; _shtab_sdkd; echo "${{COMPREPLY[@]}}"'
        return set(subprocess.check_output(["bash", "-c", ask], text=True).split())

    assert complete("sdkd", "ta") == {"table"}
    assert complete("sdkd", "table", "--ver") == {"--versus"}
    assert complete("sdkd", "export", "--format", "o") == {"onnx"}
    monkeypatch.chdir(tmp_path)
    assert complete("sdkd", "eval", "sdkd.b") == {"sdkd.bash"}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(shell, capsys):
    pytest.importorskip("shtab", reason="needs the extra completion")
    assert main(["completion", shell]) == 0
    assert "sdkd" in capsys.readouterr().out


def test_a_table_for_scripts_is_json_either_way(make_run, capsys):
    folder = str(make_run("KD", 0, [60.0, 70.25]).parents[1])
    assert main(["table", folder, "--json"]) == 0
    printed = capsys.readouterr().out
    assert main(["table", folder, "--format", "json"]) == 0
    assert capsys.readouterr().out == printed
    (record,) = json.loads(printed)["records"]
    assert (record["method"], record["n"], record["last_mean"]) == ("KD", 1, 70.25)
    assert record["last_sd"] is None


def test_a_published_table_alone_is_json_with_its_numbers(capsys):
    assert main(["table", "--published", "poster", "--json"]) == 0
    gain = json.loads(capsys.readouterr().out)["records"][-1]
    assert gain["method"] == "Gain" and gain["resnet110/resnet32"] == pytest.approx(3.10)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train --cfg x --res", "--res (did you mean --resume?)"),
        ("train --cfg x --resumee", "--resumee (did you mean --resume?)"),
        (
            "train --cfg x --trainteacher SOLVER.LR 1",
            "--trainteacher (did you mean --train-teacher?)",
        ),
        ("sweep x --lockstep-s 2", "--lockstep-s 2 (did you mean --lockstep-size?)"),
        ("sweep x --l", "--l (did you mean --lockstep?)"),
        ("sweep x --jbos=2", "--jbos=2 (did you mean --jobs?)"),
        ("table x --vers KD", "--vers KD (did you mean --versus?)"),
        ("table x --qqqqqqqq", "unrecognized arguments: --qqqqqqqq; see: "),
    ],
)
def test_no_option_is_taken_for_another_and_the_nearest_is_named(words, told, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and line.startswith("error: ") and told in line


@pytest.mark.parametrize("name", sorted(commands()))
def test_no_command_takes_abbreviations(name):
    assert not commands()[name].allow_abbrev
