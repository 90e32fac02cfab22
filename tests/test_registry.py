"""Registries: found by name, loaded from their package, never two under one name."""

import importlib
import sys

import pytest

from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import DATASETS, METHODS, MODELS, Registry


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Registry:
    """A registry whose package has two files, each with one entry."""
    package = tmp_path / "zoo_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    head = "from test_zoo_registry import REGISTRY\n"
    (package / "lion.py").write_text(
        head + "@REGISTRY.register('lion', legs=4)\nclass Lion:\n    pass\n"
    )
    (package / "ant.py").write_text(
        head + "@REGISTRY.register('ant')\ndef ant():\n    return 'ant'\n"
    )
    (tmp_path / "test_zoo_registry.py").write_text(
        "from sdkd_plugin.registry import Registry\n"
        "REGISTRY = Registry('animal', 'CAGE.ANIMAL', 'zoo_of_tests')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("test_zoo_registry").REGISTRY
    for name in ("test_zoo_registry", "zoo_of_tests", "zoo_of_tests.lion", "zoo_of_tests.ant"):
        sys.modules.pop(name, None)


def test_every_file_of_the_package_registers_itself(registry):
    # sorted, whatever the files are called
    assert [entry.name for entry in registry] == ["ant", "lion"]
    assert registry["lion"].info == {"legs": 4}
    assert registry["ant"].build() == "ant"


def test_a_missing_entry_names_the_nearest_the_known_and_the_key(registry):
    with pytest.raises(
        UserError,
        match=r"unknown animal 'lino' in CAGE\.ANIMAL: did you mean 'lion'\? known: ant, lion",
    ):
        registry["lino"]


def test_a_second_entry_of_one_name_names_both_places(registry, tmp_path):
    registry.load()
    with pytest.raises(KeyError) as caught:

        @registry.register("lion")
        class Other:
            pass

    message = str(caught.value)
    # the command line prints it, and prints it as it is
    assert isinstance(caught.value, UserError) and message.startswith("animal 'lion' is registered")
    assert "animal 'lion' is registered twice" in message
    assert f"{tmp_path / 'zoo_of_tests' / 'lion.py'}:2" in message and __file__ in message
    assert registry["lion"].build.__name__ == "Lion"


def test_what_has_no_source_is_still_named(registry):
    with pytest.raises(KeyError, match="built-in function len"):
        registry.register("ant")(len)
        registry.load()


@pytest.mark.parametrize(
    "registry_of_package", [METHODS, MODELS, DATASETS], ids=lambda registry: registry.kind
)
def test_the_packages_registries_load_and_say_where_entries_stand(registry_of_package):
    entries = list(registry_of_package)
    assert len(entries) >= 4
    for entry in entries:
        assert "sdkd_plugin" in entry.place and entry.place.rsplit(":", 1)[1].isdigit(), entry.name
