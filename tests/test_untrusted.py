"""Files that would take all time or memory, start a program, or never end: refused in one line, soon."""

import io
import os
import pickle
import shutil
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from consistency.data import cache
from consistency.data.decoding import decoded
from consistency.data.images import open_source
from consistency.errors import UserError
from consistency.files import pickles
from consistency.files.pickles import check_pickle, load_tensors
from consistency.lit.data.folder import ImageFolder
from consistency.metrics.features.inception import load_inception
from consistency.metrics.perceptual import WeightsFile
from consistency.tasks.make.inputs import list_files, open_image, read_mask_file
from consistency.tasks.show.compare import read_numbers as read_result
from consistency.teachers.checkpoint import checkpoint, read_checkpoint, read_trained
from consistency.teachers.edm import edm
from consistency.teachers.openai import openai
from tests.sessions import checkpoint as run
from tests.sessions import save_edited, session

pytestmark = pytest.mark.timeout(600, method="thread")  # whoever hangs fails

LEVELS = 60


def doubled():
    """A tuple whose hash, or any walk through it, visits 2^60 values."""
    value = ()
    for _ in range(LEVELS):
        value = (value, value)
    return value


def as_key():
    """A pickle of a dict with such a key, by memo."""
    tuples = b"".join(b"q%c" % i + b"h%c\x86" % i for i in range(LEVELS))
    return b"\x80\x02}" + b")" + tuples + b"Ns."


def thrown_away():
    """The same by copies of the top of the stack, in a dict that is taken off again."""
    return b"\x80\x02}" + b")" + b"2\x86" * LEVELS + b"Ns0}."


def with_pickle(path, content):
    """A file of torch.save whose pickle is another."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        kept = {m.filename: archive.read(m) for m in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, old in kept.items():
            archive.writestr(name, content if name.endswith("data.pkl") else old)
    return path


HEAVY = {"as a key": as_key(), "thrown away": thrown_away(), "as a value": pickle.dumps([doubled()], 2)}
READERS = {
    "ckpt": read_checkpoint,
    "teacher": checkpoint,
    "openai": lambda path: openai(path, nn.Identity()),
    "edm": lambda path: edm(path, nn.Identity()),
    "inception": load_inception,
    "lpips": lambda path: WeightsFile(path).read(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("heavy", HEAVY)
@pytest.mark.parametrize("archive", [True, False], ids=["zip", "pickle"])
def test_nested_tuples_are_refused_before_they_are_built(reader, heavy, archive, tmp_path):
    path = tmp_path / "x.pt"
    if archive:
        with_pickle(path, HEAVY[heavy])
    else:
        path.write_bytes(HEAVY[heavy])
    with pytest.raises(UserError, match=r"x\.pt"):
        READERS[reader](path)


def test_inside_the_storages_of_an_edm_file(tmp_path):
    stored = pickle.dumps(as_key(), 2)[2:-1]
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02ctorch.storage\n_load_from_bytes\n" + stored + b"\x85R.")
    with pytest.raises(UserError, match=r"x\.pkl"):
        edm(tmp_path / "x.pkl", nn.Identity())


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_what_torch_writes_is_read(how, tmp_path):
    shared = torch.randn(3)
    content = {
        "a": {str(i): torch.randn(2, 2) for i in range(300)}, "b": [shared, shared], "c": ("x", 1, None, 2.5),
        "d": {"e": [True, 2**70, -5, b"bytes"]}, "f": nn.Linear(2, 2).state_dict(),
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pt", **how)
    for file in (tmp_path / "x.pt", io.BytesIO((tmp_path / "x.pt").read_bytes())):
        back = load_tensors(file)
        assert torch.equal(back["b"][1], shared)
        assert back["c"] == content["c"]
        assert back["d"] == content["d"]
        assert back["a"].keys() == content["a"].keys()


def test_the_number_of_opcodes_is_bounded(monkeypatch):
    monkeypatch.setattr(pickles, "OPCODES", 100)
    with pytest.raises(pickle.UnpicklingError, match="too many values"):
        check_pickle(io.BytesIO(pickle.dumps(list(range(200)))))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02.", b"\x80\x02h\x01.", b"\x80\x02(0.", b"\x80\x02\x86.", b"N"]
)
def test_a_pickle_that_takes_what_is_not_there_is_damaged(content):
    with pytest.raises(ValueError, match=r"\S"):
        check_pickle(io.BytesIO(content))


def test_a_compressed_archive_is_refused(tmp_path):
    save_edited(
        {"state_dict": {"x": torch.zeros(2**20)}, "config": {}, "callbacks": {}, "global_step": 1},
        tmp_path / "x.ckpt",
    )
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive:
        kept = {m.filename: archive.read(m) for m in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
    assert (tmp_path / "bomb.ckpt").stat().st_size < 2**16
    read_checkpoint(tmp_path / "x.ckpt")
    for read in (read_checkpoint, lambda path: openai(path, nn.Identity())):
        with pytest.raises(UserError, match=r"bomb\.ckpt"):
            read(tmp_path / "bomb.ckpt")


def test_members_that_share_bytes_are_refused(tmp_path):
    """Two entries of the directory, one content."""
    save_edited(
        {"state_dict": {"x": torch.zeros(2**16)}, "config": {}, "callbacks": {}, "global_step": 1},
        tmp_path / "x.ckpt",
    )
    with zipfile.ZipFile(tmp_path / "x.ckpt", "a") as archive:
        info = next(m for m in archive.infolist() if m.file_size > 2**17)
        for i in range(8):
            twin = zipfile.ZipInfo(f"{info.filename}{i}")
            twin.header_offset, twin.file_size, twin.CRC = info.header_offset, info.file_size, info.CRC
            twin.compress_size = info.compress_size
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True
    with pytest.raises(UserError, match="was not loaded"):
        read_checkpoint(tmp_path / "x.ckpt")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale showpage\n%%EOF\n"


@pytest.fixture
def started(monkeypatch):
    """Programs that were started."""
    found = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: found.append(a) or pytest.fail("started"))
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: found.append(a))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    return found


def pictures(root, count=3):
    root.mkdir()
    for i in range(count):
        Image.fromarray(np.full((8, 8), 30 * i, np.uint8)).save(root / f"{i}.png")
    return root


def data(root, **more):
    return ImageFolder(str(root), 8, channels=1, batch_size=2, **more)


def archived(root):
    return Path(shutil.make_archive(str(root), "zip", root))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_postscript_file_called_png_starts_nothing(packed, tmp_path, started):
    root = pictures(tmp_path / "root")
    (root / "x.png").write_bytes(EPS)
    with pytest.raises(UserError, match=r"x\.png is not an image"):
        data(archived(root) if packed else root).real()
    for use in (
        lambda: open_image(root / "x.png", "input"),
        lambda: read_mask_file(str(root / "x.png"), (8, 8)),
    ):
        with pytest.raises(UserError, match=r"x\.png is not an image"):
            use()
    assert not started


@pytest.mark.parametrize("form", ["PPM", "ICO", "TGA", "PDF"])
def test_only_six_decoders(form, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", form)
    with pytest.raises(UserError, match="is not an image"):
        open_image(tmp_path / "x.png", "input")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"])
def test_these_six(form, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", form)
    assert open_image(tmp_path / "x.png", "input").size == (16, 16)


def huge_png(path, width, height):
    """The beginning of a PNG file of so many pixels."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b""))


@pytest.mark.parametrize("size", [(10_000, 10_000), (100_000, 100_000)])
def test_an_image_of_too_many_pixels_is_refused(size, tmp_path):
    root = pictures(tmp_path / "root")
    huge_png(root / "x.png", *size)
    with pytest.raises(UserError, match=r"x\.png is not an image .*exceeds limit"):
        data(root).real()
    with pytest.raises(UserError, match=r"x\.png is not an image"):
        open_image(root / "x.png", "input")


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_file_that_is_too_large_for_an_image_is_not_read(packed, tmp_path, monkeypatch):
    root = pictures(tmp_path / "root")
    (root / "x.png").write_bytes(bytes(10_000))
    monkeypatch.setattr("consistency.data.images.LARGEST", 9_999)
    with pytest.raises(UserError, match=r"x\.png is not an image \(10,000 bytes"):
        data(archived(root) if packed else root).real()


@pytest.fixture(params=["pipe", "socket"])
def endless(request, tmp_path, monkeypatch):
    """A path at which reading would wait for ever."""
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    if request.param == "pipe":
        os.mkfifo("x.png")
        yield tmp_path / "x.png"
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.png")
            yield tmp_path / "x.png"


def test_pipes_and_sockets_are_not_waited_for(endless, tmp_path):
    root = pictures(tmp_path / "root")
    endless.rename(root / "x.png")
    path = root / "x.png"
    for use in (
        lambda: data(root).real(),
        lambda: open_source(path),
        lambda: data(path).real(),
        lambda: open_image(path, "input"),
        lambda: open_image(list_files([str(root)])[-1], "input"),
        lambda: read_mask_file(str(path), (8, 8)),
        lambda: read_trained(path),
        lambda: checkpoint(path),
        lambda: openai(path, nn.Identity()),
        lambda: edm(path, nn.Identity()),
        lambda: read_result(path),
    ):
        with pytest.raises(UserError, match=r"x\.png"):
            use()
    assert len(data(root, skip_broken=True).real()) == 3


class TestCaches:
    """What is removed to make room for a cache is a cache."""

    def test_a_folder_of_the_user_in_its_place_is_left_alone(self, tmp_path):
        root = pictures(tmp_path / "root")
        place = data(root, cache=str(tmp_path / "mine"))._places()[0]
        place.mkdir(parents=True)
        for name in ("thesis.tex", "images.npy"):
            (place / name).write_text("mine")
        for _ in range(2):
            with pytest.raises(UserError, match=r"thesis\.tex is not of a cache .*set data\.cache"):
                data(root, cache=str(tmp_path / "mine")).real()
        assert (place / "thesis.tex").read_text() == (place / "images.npy").read_text() == "mine"

    @pytest.mark.parametrize("suffix", ["", ".partial"])
    def test_nor_a_link_a_file_or_folders_inside(self, suffix, tmp_path):
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "images.npy").write_text("mine")
        for name in ("link", "file", "deep"):
            (tmp_path / f"{name}").mkdir()
        link = tmp_path / "link" / f"x{suffix}"
        link.symlink_to(tmp_path / "home")
        file = tmp_path / "file" / f"x{suffix}"
        file.write_text("mine")
        deep = tmp_path / "deep" / f"x{suffix}"
        (deep / "images.npy").mkdir(parents=True)
        for path in (link, file, deep):
            with pytest.raises(UserError, match="left alone"):
                cache.discard(path)
        assert (tmp_path / "home" / "images.npy").read_text() == file.read_text() == "mine"

    def test_a_pipe_in_a_cache_is_damage(self, tmp_path):
        root = pictures(tmp_path / "root")
        before = data(root).real().clone()
        place = data(root)._places()[0]
        for name in cache.FILES:
            (place / name).unlink()
            os.mkfifo(place / name)
            assert torch.equal(data(root).real(), before)


def test_decompressed_text_is_bounded():
    """Pillow's own limit, of chunks of text in a PNG file."""
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "PNG")
    text = b"zTXt" + b"a\0\0" + zlib.compress(bytes(2**26))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    content = out.getvalue()
    with pytest.raises(Exception, match="too large"):
        decoded(io.BytesIO(content[:33] + chunk + content[33:]))


def test_an_export_takes_the_place_of_exports_alone(tmp_path):
    from tests.test_bad_input import call

    ckpt = run(tmp_path)
    (tmp_path / "eval" / "safetensors").mkdir(parents=True)
    (tmp_path / "eval" / "safetensors" / "thesis.tex").write_text("mine")
    words = ["task=export", "export=safetensors", f"ckpt_path={ckpt}", "fabric=cpu", "task.patience=0.01"]
    assert call("eval", *words, f"run_dir={tmp_path}/eval") == 1
    assert (tmp_path / "eval" / "safetensors" / "thesis.tex").read_text() == "mine"
    for _ in range(2):
        assert call("eval", *words, f"run_dir={tmp_path}/again") == 0


def test_a_network_that_the_weights_do_not_fill_is_never_built(tmp_path):
    """A small file may describe a network of hundreds of gigabytes."""
    content = torch.load(run(tmp_path), weights_only=True)
    vast = {**content["config"]["net"], "width": 2**19}
    content["config"] |= {"net": vast, "model": {**content["config"]["model"], "net": vast}}
    save_edited(content, tmp_path / "x.ckpt")
    for opens in (lambda path: session(tmp_path / "eval", path).trained, checkpoint):
        with pytest.raises(UserError, match="is of another network"):
            opens(tmp_path / "x.ckpt")
