"""Files: never half written."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from support.faults import names, raising

from sdkd_plugin.files import sha256, write_atomic, write_text


def test_a_written_file_is_as_readable_as_any_other(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_the_bytes_are_on_disk_before_the_name_is_theirs(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (order.append(os.fstat(handle).st_size), fsync(handle))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    write_text(tmp_path / "file", "four")
    assert order == [4, "file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("cannot pickle")])
def test_other_errors_pass_and_leave_no_temporary_file(error, tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(type(error)):
        write_atomic(tmp_path / "file", raising(error))
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


def test_sha256_is_of_the_content(tmp_path):
    for name, content in (("a", b"1" * 10**6), ("b", b"1" * 10**6), ("c", b"1" * 10**6 + b"2")):
        (tmp_path / name).write_bytes(content)
    assert (
        sha256(tmp_path / "a")
        == sha256(tmp_path / "b")
        == hashlib.sha256(b"1" * 10**6).hexdigest()[:16]
    )
    assert sha256(tmp_path / "c") != sha256(tmp_path / "a")
