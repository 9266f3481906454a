"""What systems lack: each name removed or refused, and the other way gives the same."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.embeddings import tokens
from data_pipeline.embeddings.tokens import from_rows, spill
from data_pipeline.errors import ConfigError, StoreError
from data_pipeline.integrations.ml_filter import inputs
from data_pipeline.store import Coding, open_embedding_shard
from data_pipeline.store.embeddings import EmbeddingWriter
from data_pipeline.utils import atomic_write_bytes, folders, system


def refuse(error):
    def refuses(*_, **__):
        raise error

    return refuses


@pytest.fixture
def calls():
    """`linux_calls` is asked anew, before and after."""
    system.linux_calls.cache_clear()
    yield system.linux_calls
    system.linux_calls.cache_clear()


# Cores


def test_cores_are_those_of_the_process_where_the_system_says(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert system.usable_cores() == 2
    monkeypatch.setattr(os, "sched_getaffinity", refuse(OSError(errno.EPERM, "no")))
    assert system.usable_cores() == 64
    monkeypatch.delattr(os, "sched_getaffinity")
    assert system.usable_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.usable_cores() == 1


# Pushing to the disk


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EBADF, errno.EACCES, errno.ENOTSUP])
@pytest.mark.parametrize("name", ["open", "fsync"])
def test_a_folder_that_cannot_be_pushed_is_left_to_the_system(name, code, tmp_path, monkeypatch):
    monkeypatch.setattr(os, name, refuse(OSError(code, "no")))
    system.fsync_path(tmp_path)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO, errno.ENOSPC])
def test_a_file_that_cannot_be_pushed_is_an_error(code, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"1")
    monkeypatch.setattr(os, "fsync", refuse(OSError(code, "no")))
    with pytest.raises(OSError, match="no"):
        system.fsync_path(tmp_path / "file")
    if code != errno.EINVAL:  # the disk itself failed
        with pytest.raises(OSError, match="no"):
            system.fsync_path(tmp_path)


def test_windows_is_given_a_file_that_is_open_for_writing(tmp_path, monkeypatch):
    path, modes, own = tmp_path / "file", [], os.open
    path.write_bytes(b"1")
    monkeypatch.setattr(os, "open", lambda path, mode: modes.append(mode) or own(path, mode))
    system.fsync_path(path)
    monkeypatch.setattr(system, "_WINDOWS", True)
    system.fsync_path(path)
    assert [mode & (os.O_RDWR | os.O_WRONLY) for mode in modes] == [0, os.O_RDWR]


# Replacing a file that is open


def test_windows_waits_for_a_program_that_has_the_file_open(tmp_path, monkeypatch):
    new, old, own, tries = tmp_path / "new", tmp_path / "old", os.replace, []

    def until_closed(source, target):
        tries.append(1)
        if len(tries) < 4:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        own(source, target)

    monkeypatch.setattr(system, "_REPLACE_WAIT_S", 0)
    monkeypatch.setattr(os, "replace", until_closed)
    new.write_bytes(b"new")
    with pytest.raises(PermissionError):  # elsewhere it is the folder's permissions, and waiting is no use
        system.replace(new, old)
    monkeypatch.setattr(system, "_WINDOWS", True)
    system.replace(new, old)
    assert (old.read_bytes(), len(tries)) == (b"new", 4)


def test_a_file_that_cannot_be_replaced_is_named_with_the_way_on(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(StoreError, match=r"Cannot replace .*manifest.json \(Permission denied\).*kept as.*run again"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


# Writing at a place


@pytest.mark.parametrize("has_pwrite", [True, False])
@pytest.mark.parametrize("most", [1, 3, 1 << 20])
def test_all_bytes_are_written_where_they_belong(has_pwrite, most, tmp_path, monkeypatch):
    own_pwrite, own_write = getattr(os, "pwrite", None), os.write
    if has_pwrite and own_pwrite is None:
        pytest.skip("this system has no pwrite")
    # A system may take fewer bytes than it was given.
    monkeypatch.setattr(os, "write", lambda handle, data: own_write(handle, data[:most]))
    if has_pwrite:
        monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: own_pwrite(handle, data[:most], offset))
    else:
        monkeypatch.delattr(os, "pwrite", raising=False)
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer = EmbeddingWriter(tmp_path / "a.safetensors", 3, 4, Coding("float32"), {})
    for row in (2, 0, 1):
        writer.write(np.array([row]), vectors[[row]])
    writer.finish()
    np.testing.assert_array_equal(open_embedding_shard(tmp_path / "a.safetensors").stored, vectors)


def test_token_ids_stay_in_memory_where_files_cannot_be_mapped(tmp_path, monkeypatch):
    parts = [from_rows([[1, 2, 3], [4]], [False, True]), from_rows([[5, 6]], [False])]
    expected = spill(parts, tmp_path)
    monkeypatch.setattr(tokens.np, "memmap", refuse(OSError(errno.ENODEV, "No such device")))
    found = spill(parts, tmp_path)
    for name in ("ids", "offsets", "truncated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


# The C library


@pytest.mark.parametrize("change", ["macOS", "Windows", "MIPS", "32 bits", "no library", "no madvise"])
def test_without_the_calls_of_linux_there_are_none(change, calls, monkeypatch):
    if change in {"macOS", "Windows"}:
        monkeypatch.setattr(system.sys, "platform", {"macOS": "darwin", "Windows": "win32"}[change])
    elif change == "MIPS":
        monkeypatch.setattr(system.platform, "machine", lambda: "mips64")
    elif change == "32 bits":
        monkeypatch.setattr(system.ctypes, "sizeof", lambda _: 4)
    elif change == "no library":
        monkeypatch.setattr(system.ctypes, "CDLL", refuse(OSError("dynamic linking not supported")))
    else:
        monkeypatch.setattr(system.ctypes, "CDLL", lambda *_, **__: object())
    assert calls() is None


@pytest.mark.parametrize("calls_there", [None, object()], ids=["another system", "an older C library"])
def test_folders_are_replaced_in_two_steps_where_they_cannot_be_exchanged(calls_there, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "linux_calls", lambda: calls_there)
    folder = tmp_path / "data"
    for name, content in (("data", "old"), (".data.new", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ours").write_text(content)
    (folder / "theirs").write_text("kept")
    folders.replace_folder(folder, lambda name: name == "ours")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"ours": "new", "theirs": "kept"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# Names


def test_names_that_differ_in_case_only_are_found():
    assert system.same_file_names(["a", "B", "A", "b", "c", "a"]) == [("a", "A"), ("B", "b")]
    assert system.same_file_names(["Straße", "STRASSE"]) == [("Straße", "STRASSE")]
    assert system.same_file_names(["x", "x"]) == []


def test_whether_case_counts_is_found_by_trying(tmp_path, monkeypatch):
    here = not (tmp_path / "SOME").exists()
    (tmp_path / "some").mkdir()
    expected = (tmp_path / "SOME").exists()
    assert here
    assert system.ignores_case(tmp_path) is system.ignores_case(tmp_path / "not" / "there") is expected
    assert list(tmp_path.iterdir()) == [tmp_path / "some"]
    monkeypatch.setattr(system.tempfile, "NamedTemporaryFile", refuse(PermissionError(errno.EACCES, "no")))
    assert not system.ignores_case(tmp_path)


@pytest.mark.parametrize("ignored", [True, False])
def test_inputs_whose_outputs_would_be_one_file_are_refused_where_case_does_not_count(ignored, monkeypatch):
    monkeypatch.setattr(inputs, "ignores_case", lambda folder: ignored)
    found = [inputs.File(Path(name), name, Path("out") / f"{name}.h5") for name in ("A", "b", "a")]
    if ignored:
        with pytest.raises(ConfigError, match=r"A\.h5 and .*a\.h5 are one file here.*Rename an input"):
            inputs._checked(found, "")
    else:
        assert inputs._checked(found, "") == found


def test_a_file_that_a_reader_has_open_is_removed_the_next_time_on_windows(tmp_path, monkeypatch):
    path = tmp_path / "stale"
    path.write_bytes(b"1")
    with monkeypatch.context() as change:
        change.setattr(Path, "unlink", refuse(PermissionError(errno.EACCES, "no")))
        with pytest.raises(PermissionError):
            system.remove_unused(path)
        change.setattr(system, "_WINDOWS", True)
        system.remove_unused(path)
    system.remove_unused(path)
    assert not path.exists()


def test_a_folder_that_the_system_does_not_let_go_of_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "linux_calls", lambda: None)
    for name in ("data", ".data.new"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(os, "rename", refuse(PermissionError(errno.EACCES, "Access is denied")))
    with pytest.raises(
        StoreError, match=r"Cannot replace the folder .*data \(Access is denied\).*complete in.*run again"
    ):
        folders.replace_folder(tmp_path / "data", lambda name: True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.new", "data"]
