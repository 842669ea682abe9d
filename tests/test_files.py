"""Files before they are read: pipes, devices, and what would unpack to more than it can be."""

from __future__ import annotations

import io
import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from structprune.data import read_images
from structprune.errors import InputError, StructpruneError
from structprune.files import UNREADABLE, check_archive, check_regular, counted, read_arrays, read_text, shown
from structprune.hardware.profile import read_profile
from structprune.models import read
from structprune.models.results.plan_file import PLAN, read_plan
from structprune.models.results.rebuild import WEIGHTS, check_header


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


KINDS = {"a named pipe": _pipe, "a folder": Path.mkdir, "a device": lambda path: path.symlink_to(os.devnull)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_named(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "model.pt")  # type: ignore[operator]
    with pytest.raises(InputError, match=rf"model\.pt is {kind}; expected a regular file"):
        check_regular(tmp_path / "model.pt")


def test_a_socket_is_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    _socket(Path("model.pt"))
    with pytest.raises(InputError, match="is a socket"):
        check_regular(Path("model.pt"))


def test_a_link_to_a_regular_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    (tmp_path / "link").symlink_to("file")
    assert check_regular(tmp_path / "link").st_size == 5


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".npz", ""])
def test_a_pipe_is_no_network(ending: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"model{ending}")
    with pytest.raises(InputError, match="named pipe"):
        read(str(tmp_path / f"model{ending}"))


def test_a_pipe_is_nothing_else_that_is_read(tmp_path: Path) -> None:
    for name in (PLAN, WEIGHTS, "profile.json", "images.npz"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="named pipe"):
        read_plan(tmp_path)
    with pytest.raises(InputError, match="named pipe"):
        check_header(None, tmp_path / WEIGHTS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="named pipe"):
        read_profile(tmp_path / "profile.json")
    with pytest.raises(InputError, match="named pipe"):
        read_images(tmp_path / "images.npz")


def test_text_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("12345")
    assert read_text(tmp_path / "plan.json", most=5) == "12345"
    with pytest.raises(InputError, match=r"plan\.json has 5 bytes; expected 4 bytes at most"):
        read_text(tmp_path / "plan.json", most=4)


def test_names_from_files_stay_on_one_line() -> None:
    assert shown("layer1.0.weight") == "layer1.0.weight"
    assert shown("a\nb\x1b[31m\ud800") == r"a\nb\x1b[31m\ud800"
    assert len(shown("x" * 10**6)) < 100


@pytest.mark.parametrize(("size", "words"), [(16, "16 bytes"), (3_200_000, "3.2 MB"), (4 * 10**12, "4 TB")])
def test_sizes_are_readable(size: int, words: str) -> None:
    assert counted(size) == words


def test_an_archive_may_pack_zeros_but_not_gigabytes_of_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small.npy", bytes(10_000_000))
        assert len(archive.infolist()) == 1
    assert check_archive(tmp_path / "some.npz")[0].file_size == 10_000_000
    _claim(tmp_path / "some.npz", 3_000_000_000)
    with pytest.raises(InputError, match=r"unpack to 3 GB, of which small\.npy is 3 GB"):
        check_archive(tmp_path / "some.npz")


def _claim(path: Path, size: int) -> None:
    """Write another size into the directory of a zip with one member, which spares the test the gigabytes."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    path.write_bytes(content)


def test_members_that_are_larger_than_their_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, w=np.zeros(100))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 24] = (10**9).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        check_archive(path)


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("shape", [(10**12,), (1 << 40, 1 << 40), (17,)])
def test_arrays_are_no_larger_than_what_is_there(shape: tuple[int, ...], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        archive.writestr("w.npy", _header(shape) + bytes(64))
    (tmp_path / "some.npy").write_bytes(_header(shape) + bytes(64))
    for name in ("some.npz", "some.npy"):
        with pytest.raises(InputError, match=r"its shape .* takes .*, and there are 64 bytes"):
            read_arrays(tmp_path / name)
    with pytest.raises(InputError, match="64 bytes"):
        read(str(tmp_path / "some.npz"))


@pytest.mark.parametrize("text", [b"(" * 9_990, b"-" * 9_989 + b"1", b"[" * 5_000 + b"]" * 4_990])
def test_headers_of_ten_thousand_levels_are_sentences(text: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        archive.writestr("labels.npy", b"")
    for reader in (read, read_images):
        with pytest.raises(StructpruneError, match=r"some\.npz") as caught:
            reader(str(tmp_path / "some.npz"))
        assert "\n" not in str(caught.value)


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b.c": np.array(3), "empty": np.zeros((0, 2), np.uint8)}
    np.savez_compressed(tmp_path / "some.npz", **arrays)  # type: ignore[arg-type]
    np.save(tmp_path / "some.npy", arrays["a"])
    found = read_arrays(tmp_path / "some.npz")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert np.array_equal(read_arrays(tmp_path / "some.npy")[""], arrays["a"])
    assert list(read_arrays(tmp_path / "some.npz", ["b.c"])) == ["b.c"]


def test_pickled_arrays_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "some.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UNREADABLE, match="allow_pickle=False"):
        read_arrays(tmp_path / "some.npy")
