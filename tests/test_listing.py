"""Every file of a folder or an archive of images is read, or counted in a line, or refused."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from consistency.errors import UserError
from consistency.lit.data import folder
from consistency.lit.data.folder import ImageFolder
from consistency.tasks.make.inputs import list_files

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "SPARE", tmp_path / "spare")


@pytest.fixture
def root(tmp_path):
    """Two 8x8 images in each of two classes."""
    for kind in ("cat", "dog"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(2):
            image().save(tmp_path / "images" / kind / f"{i}.png")
    return tmp_path / "images"


def image(mode="RGB"):
    return Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)


def module(root, **options):
    return ImageFolder(**{"root": str(root), "resolution": 8, "batch_size": 2, **options})


def packed(root, name=lambda path: path, more=()):
    """The folder as an archive, its files by other names."""
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.writestr(zipfile.ZipInfo(name(str(file.relative_to(root)))), file.read_bytes())
        for other in more:
            archive.writestr(other, b"something")
    return path


def refusal(root, **options):
    with pytest.raises(UserError) as caught:
        module(root, **options).prepare_data()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
def test_tiff_is_read(tmp_path, mode, compression):
    (tmp_path / "images").mkdir()
    sixteen = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) << 10)
    kept = sixteen if mode == "I;16" else image(mode)
    kept.save(tmp_path / "images" / "0.TIF", "TIFF", compression=compression)
    read = module(tmp_path / "images").real()[0].movedim(0, -1).numpy()
    levels = np.asarray(sixteen) >> 8
    expected = np.stack([levels] * 3, -1) if mode == "I;16" else np.asarray(kept.convert("RGB"))
    assert np.array_equal(read, expected)


def test_tiff_of_several_pages_or_of_numbers_without_a_range_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    file = tmp_path / "images" / "0.tif"
    image().save(file, save_all=True, append_images=[image()])
    assert "0.tif is not an image (a TIFF file of several pages)" in refusal(tmp_path / "images")
    Image.fromarray(RNG.random((8, 8), dtype=np.float32)).save(file)
    assert "0.tif is not an image (a TIFF file of 32 bits" in refusal(tmp_path / "images")


def test_images_that_are_not_read_are_refused_or_left_out_on_request(root, capsys):
    for name in ("a.heic", "b.HEIC", "c.avif"):
        (root / "cat" / name).write_bytes(b"something")
    for path in (root, packed(root, more=["cat/a.heic", "b.HEIC", "cat/c.avif"])):
        message = refusal(path)
        assert f"data.root={path} holds images of kinds that are not read (2 .heic, 1 .avif)" in message
        assert "data.skip_broken=true" in message
        assert len(module(path, skip_broken=True).data) == 4
        assert f"data.root={path}: files that are not read: 2 .heic, 1 .avif" in capsys.readouterr().err


def test_other_files_are_counted_in_a_line_and_a_systems_own_are_not(root, capsys):
    others = ["labels.csv", "cat/0.txt", "dog/0.txt", "README"]
    silent = ["Thumbs.db", "cat/.DS_Store", "desktop.ini", "__MACOSX/._0.png", ".hidden"]
    path = packed(root, more=[*others, *silent])
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._0.png").write_bytes(b"something")
    for name in [*others, *(name for name in silent if not name.startswith("__"))]:
        (root / name).write_bytes(b"something")
    for place in (root, path):
        assert len(module(place).data) == 4
        said = [line for line in capsys.readouterr().err.splitlines() if "not read" in line]
        assert len(said) == 1
        line, _, counts = said[0].partition(" read: ")
        assert line == f"data.root={place}: files that are not"
        assert sorted(counts.split(", ")) == ["1 .csv", "1 without a suffix", "2 .txt"]


def test_held_out_images_are_listed_under_their_own_key(root, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.heic").write_bytes(b"something")
    with pytest.raises(UserError, match=r"^data\.held_out=.*other holds images of kinds"):
        module(root, held_out=str(tmp_path / "other")).load_held_out()


def test_names_that_begin_with_the_present_folder(root):
    dotted = module(packed(root, lambda name: f"./{name}"), conditional=True)
    assert torch.equal(dotted.data.label, module(root, conditional=True).data.label)


def test_backslashes_separate_in_archives(root):
    plain = module(root, conditional=True)
    windows = module(packed(root, lambda name: "images\\" + name.replace("/", "\\")), conditional=True)
    assert torch.equal(plain.data.x, windows.data.x)
    assert torch.equal(plain.data.label, windows.data.label)
    assert windows.class_names() == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (lambda name: "cat/0.png", "lists cat/0.png more than once"),
        (lambda name: "cat/0.png" if "0" in name else "cat\\0.png", "lists cat/0.png more than once"),
        (lambda name: f"../{name}", "no name within the archive"),
        (lambda name: f"..\\{name}", "no name within the archive"),
        (lambda name: f"/images/{name}", "no name within the archive"),
        (lambda name: f"C:\\images\\{name}", "no name within the archive"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_an_archive_cannot_have(root, name, words):
    message = refusal(packed(root, name))
    assert message.startswith("data.root=")
    assert words in message


def test_an_encrypted_archive(root):
    path = packed(root)
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(mark)
        content[start + offset] |= 1
    path.write_bytes(content)
    assert "lists cat/0.png, which is encrypted: unpack it" in refusal(path)


def test_a_folder_of_input_is_listed_likewise(root, capsys):
    (root / "notes.txt").write_text("something")
    assert len(list_files([str(root)])) == 4
    assert f"input={root}: files that are not read: 1 .txt" in capsys.readouterr().err
    (root / "a.heic").write_bytes(b"something")
    with pytest.raises(UserError, match=r"^input=.*images of kinds that are not read \(1 \.heic\)"):
        list_files([str(root)])
    assert list_files([str(root / "cat" / "0.png")]) == [root / "cat" / "0.png"]
