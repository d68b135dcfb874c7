"""Folders and archives of images become arrays once, and what is wrong with them is said in one line."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from consistency.data import cache
from consistency.data.decoding import square
from consistency.data.images import classes
from consistency.errors import UserError
from consistency.lit.data import folder
from consistency.lit.data.folder import ImageFolder

RNG = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three classes of two 8x8 images."""
    monkeypatch.setattr(folder, "SPARE", tmp_path / "spare")
    for kind in ("cat", "dog", "eel"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(pixels(8, 8)).save(tmp_path / "images" / kind / f"{i}.png")
    return tmp_path / "images"


def pixels(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def module(root, **options):
    return ImageFolder(**{"root": str(root), "resolution": 8, "batch_size": 2, **options})


def made(root):
    return root.with_name(root.name + ".consistency-cache") / "3x8"


def zipped(root, prefix=""):
    path = root.with_name("images.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, prefix + str(file.relative_to(root)))
    return path


def notices(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(("cache", "left out"))]


def content(image, format, **options):
    from io import BytesIO

    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# --- from a file to a square


def test_an_image_of_the_right_size_is_kept_to_the_bit():
    image = pixels(5, 5)
    assert np.array_equal(square(content(Image.fromarray(image), "PNG"), 5, 3), image.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_the_centre_is_cropped(shape):
    image = pixels(*shape)
    top, left = (shape[0] - 5) // 2, (shape[1] - 5) // 2
    expected = image[top : top + 5, left : left + 5].transpose(2, 0, 1)
    assert np.array_equal(square(content(Image.fromarray(image), "PNG"), 5, 3), expected)


def test_shrinking_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    small = square(content(Image.fromarray(stripes), "PNG"), 8, 1)
    assert abs(small.astype(int) - 127).max() < 10  # picking pixels would give black or white


def test_grey_and_colour_become_what_is_asked_for():
    grey = Image.fromarray(pixels(4, 4)[..., 0])
    assert (np.ptp(square(content(grey, "PNG"), 4, 3), axis=0) == 0).all()
    assert square(content(Image.fromarray(pixels(4, 4)), "PNG"), 4, 1).shape == (1, 4, 4)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_on_white(kind):
    image = Image.fromarray(np.zeros((4, 4, 4), np.uint8)).convert(kind)
    options = {"transparency": image.getpixel((0, 0))} if kind == "P" else {}
    assert (square(content(image, "PNG", **options), 4, 3) == 255).all()
    opaque = pixels(4, 4, 4)
    opaque[..., 3] = 255
    seen = square(content(Image.fromarray(opaque), "PNG"), 4, 3)
    assert np.array_equal(seen, opaque[..., :3].transpose(2, 0, 1))


def test_sixteen_bits_are_scaled_not_clipped():
    deep = (np.arange(16, dtype=np.uint16) * 4096).reshape(4, 4)
    assert np.array_equal(square(content(Image.fromarray(deep), "PNG"), 4, 1)[0], deep >> 8)


def test_a_photograph_is_turned_upright():
    image = Image.fromarray(pixels(4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must turn by a quarter clockwise
    turned = square(content(image, "PNG", exif=exif), 4, 3)
    assert np.array_equal(turned, np.rot90(np.asarray(image), -1).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b/1.png", "a/2.png"], ["b", "a"]),
        (["a/x/1.png", "b/1.png"], ["a", "b"]),
        (["all/b/1.png", "all/a/2.png"], ["b", "a"]),  # a zip archive of a folder
        (["a/1.png", "a/2.png"], None),
        (["1.png", "2.png"], None),
        (["a/1.png", "b/1.png", "2.png"], None),
        (["a/1.png"], None),
    ],
)
def test_classes_are_the_folders_that_divide_the_files(names, expected):
    assert classes(names) == expected


# --- the data set


def test_a_folder_of_class_folders(root):
    data = module(root, conditional=True)
    data.prepare_data()
    assert (data.shape, data.classes) == ((3, 8, 8), 3)
    assert data.data.label.tolist() == [0, 0, 1, 1, 2, 2]
    files = sorted(root.rglob("*.png"))
    expected = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
    assert np.array_equal(data.real().numpy(), expected)
    assert json.loads((made(root) / "manifest.json").read_text())["classes"] == ["cat", "dog", "eel"]
    assert np.array_equal(np.load(made(root) / "images.npy"), expected)
    assert next(iter(data.train_dataloader())).x.dtype == torch.uint8


@pytest.mark.parametrize("prefix", ["", "images/"])
def test_an_archive_is_the_folder_it_was_made_from(root, prefix):
    plain, packed = module(root, conditional=True), module(zipped(root, prefix), conditional=True)
    assert torch.equal(plain.real(), packed.real())
    assert torch.equal(plain.data.label, packed.data.label)


def test_hidden_files_and_extras_of_macos_are_no_images(root):
    (root / "cat" / "._0.png").write_bytes(b"not an image")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "0.png").write_bytes(b"not an image")
    path = zipped(root)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/cat/._0.png", b"not an image")
    assert len(module(root).data) == len(module(path).data) == 6


def test_links_are_followed_but_not_in_circles(root):
    (root / "dog" / "up").symlink_to(root, target_is_directory=True)
    (root / "eel" / "2.png").symlink_to(root / "cat" / "0.png")
    assert len(module(root).data) == 7


def test_a_large_array_is_mapped_and_equal(root, monkeypatch):
    loaded = module(root).real()
    monkeypatch.setattr(cache, "SMALL", 0)
    monkeypatch.setattr(cache, "BLOCK", 16)
    shutil.rmtree(made(root))
    mapped = module(root)
    assert torch.equal(mapped.real(), loaded)
    assert isinstance(np.load(made(root) / "images.npy", mmap_mode="c"), np.memmap)
    batch = next(iter(mapped.train_dataloader()))
    assert any(torch.equal(batch.x[0], image) for image in loaded)


# --- the cache


def test_a_second_start_decodes_nothing(root, monkeypatch, capsys):
    first = module(root).real()
    assert len(notices(capsys)) == 1
    monkeypatch.setattr(folder, "square", None)
    assert torch.equal(module(root).real(), first)
    assert notices(capsys) == []


@pytest.mark.parametrize("change", ["add", "remove", "touch", "rename"])
def test_a_changed_source_is_converted_again(root, change, capsys):
    before = module(root).real()
    capsys.readouterr()
    file = root / "cat" / "0.png"
    if change == "add":
        Image.fromarray(pixels(8, 8)).save(root / "dog" / "9.png")
    elif change == "remove":
        file.unlink()
    elif change == "touch":
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
        os.utime(file, ns=(1, 1))
    else:
        file.rename(root / "eel" / "9.png")
    after = module(root).real()
    assert len(after) == len(before) + {"add": 1, "remove": -1}.get(change, 0)
    assert after.shape != before.shape or not torch.equal(after, before)
    (notice,) = notices(capsys)
    assert "is of other files" in notice


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "turned", "gone"])
def test_a_damaged_cache_is_made_again(root, name, damage, capsys):
    before = module(root, conditional=True).data
    capsys.readouterr()
    path = made(root) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    {
        "cut": lambda: path.write_bytes(path.read_bytes()[:-1]),
        "turned": lambda: path.write_bytes(data),
        "gone": path.unlink,
    }[damage]()
    after = module(root, conditional=True).data
    assert torch.equal(after.x, before.x)
    assert torch.equal(after.label, before.label)
    # A manifest that lost its last line break is as good as before.
    harmless = (name, damage) == ("manifest.json", "cut")
    assert len(notices(capsys)) == (0 if harmless else 1)


def test_damage_to_the_ends_of_a_large_cache_is_found(root, monkeypatch, capsys):
    monkeypatch.setattr(cache, "SMALL", 0)
    monkeypatch.setattr(cache, "BLOCK", 16)
    before = module(root).real().clone()
    data = bytearray((made(root) / "images.npy").read_bytes())
    data[-16:] = bytes(16)
    (made(root) / "images.npy").write_bytes(data)
    assert torch.equal(module(root).real(), before)
    assert len(notices(capsys)) == 2


def test_a_conversion_that_ends_early_leaves_no_cache(root, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cache, "write_header", stop)
        with pytest.raises(KeyboardInterrupt):
            module(root).prepare_data()
    assert not made(root).exists()
    # What a killed process leaves behind is in nobody's way.
    made(root).with_name("3x8.partial").mkdir()
    (made(root).with_name("3x8.partial") / "images.npy").write_bytes(b"half")
    assert len(module(root).data) == 6
    assert not made(root).with_name("3x8.partial").exists()


def test_resolutions_and_channels_live_side_by_side(root, capsys):
    shapes = [module(root, resolution=r, channels=c).shape for r, c in [(8, 3), (4, 3), (4, 1), (8, 3)]]
    assert shapes == [(3, 8, 8), (3, 4, 4), (1, 4, 4), (3, 8, 8)]
    assert len(notices(capsys)) == 3


def test_the_cache_goes_where_it_is_told_or_where_it_can(root, tmp_path):
    module(root, cache=str(tmp_path / "chosen")).prepare_data()
    assert list((tmp_path / "chosen").rglob("images.npy"))
    made(root).parent.write_text("in the way")  # nothing can be made beside the source
    module(root).prepare_data()
    assert list((tmp_path / "spare").rglob("images.npy"))


# --- mistakes


def mistake(text, root, **options):
    with pytest.raises(UserError, match=text) as caught:
        module(root, **options).prepare_data()
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_a_text_file_called_png_is_named(root):
    (root / "cat" / "notes.png").write_text("hello")
    mistake(r"cat/notes\.png is not an image.*data\.skip_broken=true", root)
    assert not made(root).exists()


def test_broken_files_are_left_out_and_counted(root, capsys):
    whole = (root / "dog" / "1.png").read_bytes()
    (root / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    data = module(root, skip_broken=True, conditional=True)
    assert data.data.label.tolist() == [0, 0, 1, 2, 2]
    assert notices(capsys)[1:] == ["left out 2 of 7 files that cannot be read, the first: cat/gone.png"]
    assert len(np.load(made(root) / "images.npy")) == 5
    mistake(r"cat/gone\.png.*skip_broken", root)  # a cache that lacks files serves only who allows it
    capsys.readouterr()
    assert len(module(root, skip_broken=True).data) == 5
    again = capsys.readouterr().err
    assert again == f"data.root={root}: left out 2 of 7 files that cannot be read\n"  # from the cache


def test_nothing_but_broken_files(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("hello")
    mistake(r"data\.root=.*none of its 1 files", tmp_path / "images", skip_broken=True)


def test_a_root_that_is_not_there(tmp_path):
    mistake(r"data\.root=.*nowhere does not exist", tmp_path / "nowhere")


def test_a_root_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("hello")
    mistake(r"data\.root=.*holds no image.*\.png", tmp_path / "empty")


def test_a_damaged_archive(root):
    path = zipped(root)
    path.write_bytes(path.read_bytes()[:100])
    mistake(r"data\.root=.*images\.zip is a damaged zip archive", path)


def test_an_archive_of_another_kind(tmp_path):
    (tmp_path / "images.tar").write_bytes(b"ustar")
    mistake(r"data\.root=.*neither a folder nor a zip archive", tmp_path / "images.tar")


@pytest.mark.parametrize(("key", "value"), [("resolution", 0), ("channels", 2)])
def test_sizes_that_cannot_be(root, key, value):
    mistake(rf"data\.{key}={value}", root, **{key: value})


def test_nowhere_to_write_costs_a_line(root, tmp_path, capsys, monkeypatch):
    expected = module(root).real().clone()
    shutil.rmtree(made(root).parent)
    (tmp_path / "spare").write_text("in the way")
    made(root).parent.write_text("in the way")
    capsys.readouterr()
    again = module(root)
    assert torch.equal(again.real(), expected)
    assert capsys.readouterr().err.count("going on without a cache") == 1
    monkeypatch.setattr(cache, "SMALL", 10)
    mistake(r"cannot be written .*data\.cache", root)


def test_a_full_disk(root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_header", full)
    assert len(module(root).data) == 6  # in memory
    assert [path for path in made(root).parent.iterdir() if path.is_dir()] == []
    monkeypatch.setattr(cache, "SMALL", 10)
    mistake(r"No space left.*data\.cache", root)


def test_classes_asked_of_a_folder_that_has_none(root):
    mistake(r"data\.conditional=true.*one folder per class", root / "cat", conditional=True)


def test_paths_may_start_at_home(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(module(Path("~") / "images").data) == 6


def test_held_out_images_are_those_of_the_other_folder(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(kept := pixels(8, 8)).save(other / "a.png")
    assert module(root).load_held_out() is None
    with pytest.raises(UserError, match=r"data\.held_out=.*nowhere does not exist"):
        module(root, held_out=str(tmp_path / "nowhere")).load_held_out()
    found = module(root, held_out=str(other)).load_held_out()
    assert np.array_equal(found.x[0], kept.transpose(2, 0, 1))
