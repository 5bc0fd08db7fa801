"""Photos in folders: every layout, every kind of file, every mistake."""

import io
import json
import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resjax import checks, cli, main
from resjax.data import folders, listing, photo, scan
from resjax.data.loader import open_dataset
from resjax.data.splits import Slice
from resjax.errors import BadInput

SMOOTH = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)
PIXELS = np.stack(
    [3 * SMOOTH, 255 - 3 * SMOOTH, SMOOTH], -1
)  # 40 high, 30 wide: top and bottom, left and right differ


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(kind="JPEG", mode="RGB", orientation=None, pixels=PIXELS, **options):
    """A picture as the content of a file."""
    file, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[photo.ORIENTATION] = orientation
    image = Image.fromarray(pixels)
    image = image if mode is None else image.convert(mode)
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}), **options, exif=exif.tobytes())
    return file.getvalue()


def lay(root, *names, content=None):
    """Writes a photo, always another one, at each of `names` below `root`."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels=np.roll(PIXELS, 2 * i, axis=0)) if content is None else content)
    return root


def many(*classes, n=5, split=""):
    return [f"{split}{name}/{i}.jpg" for name in classes for i in range(n)]


@pytest.fixture
def photos(tmp_path):
    """PHOTOS/{train,val}/{cat,dog}."""
    return lay(
        tmp_path / "photos", *many("cat", "dog", n=6, split="train/"), *many("cat", "dog", n=2, split="val/")
    )


def refused(root, *parts, seed=0, skip=False):
    """What is said of a folder that cannot be used."""
    with pytest.raises(BadInput) as error:
        folders.source(str(root), seed, skip)
    said = str(error.value)
    assert "\n" not in said
    assert f"data.dir={root}" in said
    for part in parts:
        assert part in said, said
    return said


def opened(root, seed=0, skip=False):
    return folders.source(str(root), seed, skip)


# Pictures.


@pytest.mark.parametrize(
    ("kind", "mode", "close"),
    [
        *(("JPEG", mode, 3) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode, 0) for mode in ("RGB", "L", "RGBA", "LA")),
        ("PNG", "P", 30),  # a palette of 216 colours
        ("WEBP", "RGB", 8),
        *((kind, mode, 0) for kind in ("BMP", "TIFF", "PPM") for mode in ("RGB", "L")),
    ],
)
def test_every_kind_of_picture(kind, mode, close):
    found = photo.decode(encoded(kind, mode)).astype(int)
    expected = np.asarray(Image.fromarray(PIXELS).convert("L").convert("RGB")) if mode in ("L", "LA") else PIXELS
    assert found.shape == (40, 30, 3)
    assert np.abs(found - expected).mean() <= close


def test_files_are_given_as_they_are_stored(photos):
    records = folders.source(str(photos), 0, False).open(Slice("train", 2, 9))
    positions = np.array([5, 0, 3])
    images, _ = records.read(positions)
    for image, content in zip(images, records.encoded(positions), strict=True):
        np.testing.assert_array_equal(Image.open(io.BytesIO(content)), image)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_of_16_bits_the_upper_count(kind):
    """Pillow's own conversion would make nearly all of it white."""
    grey = SMOOTH.astype(np.uint16) * 256 + 255
    found = photo.decode(encoded(kind, None, pixels=grey))
    np.testing.assert_array_equal(found, np.repeat(SMOOTH[..., None], 3, axis=-1))


def test_transparency_is_dropped_as_pillow_drops_it():
    palette = Image.fromarray(PIXELS).quantize(16)
    alpha = Image.fromarray(np.dstack([PIXELS, SMOOTH]))
    for image, options in ((palette, {"transparency": b"\x00\x80" * 8}), (alpha, {})):
        file = io.BytesIO()
        image.save(file, "PNG", **options)
        np.testing.assert_array_equal(photo.decode(file.getvalue()), np.asarray(image.convert("RGB")))


def test_of_an_animation_it_is_the_first_picture():
    file = io.BytesIO()
    later = Image.fromarray(255 - PIXELS)
    Image.fromarray(PIXELS).save(file, "WEBP", save_all=True, append_images=[later], lossless=True)
    np.testing.assert_array_equal(photo.decode(file.getvalue()), PIXELS)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_photos_are_upright(kind, orientation):
    """As Pillow's own function turns them; 0 and 9 mean nothing."""
    content = encoded(kind, orientation=orientation)
    upright = Image.fromarray(photo.decode(encoded(kind)))
    upright.getexif()[photo.ORIENTATION] = orientation
    from PIL import ImageOps

    np.testing.assert_array_equal(photo.decode(content), np.asarray(ImageOps.exif_transpose(upright)))


def test_damaged_exif_is_no_reason_to_stop():
    content = encoded(orientation=6)
    at = content.index(b"Exif\0\0")
    for cut in range(6, 30):
        broken = content[: at + cut] + b"\xff" * (30 - cut) + content[at + 30 :]
        assert photo.decode(broken).shape in ((40, 30, 3), (30, 40, 3))


# Layouts.


def test_splits_and_labels_are_those_of_torchvision(photos):
    lay(photos, "train/cat/kitten/small/9.PNG", content=encoded("PNG"))
    source = opened(photos)
    assert source.class_names == ("cat", "dog")
    for split in ("train", "val"):
        found = dict(zip(source.listing.splits[split].paths, source.listing.labels(split).tolist(), strict=True))
        theirs = {
            os.path.relpath(os.path.join(folder, name), photos): label
            for label, entry in enumerate(sorted(os.scandir(photos / split), key=lambda entry: entry.name))
            for folder, _, names in os.walk(entry.path)
            for name in names
        }
        assert found == theirs


def test_names_in_any_script_and_order(tmp_path):
    names = ["Žába", "cat", "Dog", "猫", "кот", "a b", "école", "10", "9"]
    source = opened(lay(tmp_path / "p", *many(*names)))
    assert source.class_names == tuple(sorted(names))
    saved = json.loads(json.dumps(source.listing.json()))
    assert listing.Listing.from_json(saved, "x") == source.listing


def test_what_is_hidden_or_no_photo_is_left_out(photos):
    lay(photos, "train/cat/.hidden.jpg", "train/.git/x/1.jpg", "__MACOSX/train/cat/1.jpg", ".DS_Store")
    lay(photos, "train/cat/Thumbs.db", "train/cat/a.txt", "train/dog/b.TXT", "train/dog/c.heic")
    source = opened(photos)
    assert source.sizes == {"train": 12, "val": 4}
    assert [note for note in source.notes if "left out: 2 .txt, 1 .heic" in note]
    assert source.class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test", "Test"])
def test_the_split_to_test_on(photos, name):
    (photos / "val").rename(photos / name)
    (photos / "train").rename(photos / "Train")
    data = open_dataset(**settings(photos))
    assert (data.train_size, data.test_size, data.parts["test"].base) == (12, 4, name.lower())


def test_a_test_split_without_labels_is_not_used(photos):
    lay(photos, "test/1.jpg", "test/2.jpg")
    source = opened(photos)
    assert source.sizes == {"train": 12, "val": 4}
    assert any("test has no class folders" in note for note in source.notes)


def test_a_class_may_be_called_train(tmp_path):
    assert opened(lay(tmp_path / "p", *many("car", "plane", "train"))).class_names == ("car", "plane", "train")


def test_links_are_followed_and_loops_end(photos):
    (photos / "train/cat/round").symlink_to(photos / "train/cat")
    (photos / "train/cat/up").symlink_to(photos)
    (photos / "train/cat/self").symlink_to("self")
    lay(photos.parent / "elsewhere", "1.jpg", "2.jpg")
    (photos / "train/dog/more").symlink_to(photos.parent / "elsewhere")
    found = opened(photos).listing
    dogs = [path for path in found.splits["train"].sizes if path.startswith("dog/")]
    assert len(dogs) == 8
    assert "dog/more/1.jpg" in dogs


# Splitting.


@pytest.mark.parametrize("inside", ["", "train/"])
def test_a_fifth_of_each_class_is_held_out(tmp_path, inside):
    names = [*many("a", n=20, split=inside), *many("b", n=7, split=inside), *many("c", "d", n=2, split=inside)]
    root = lay(tmp_path / "p", *names, f"{inside}e/1.jpg")
    source = opened(root)
    found = source.listing
    paths = {split: set(found.splits[split].paths) for split in ("train", "test")}
    assert paths["train"] | paths["test"] == {*names, f"{inside}e/1.jpg"}
    assert not paths["train"] & paths["test"]
    assert np.bincount(found.labels("test"), minlength=5).tolist() == [4, 1, 1, 1, 0]
    assert any("9 photos" not in note and "held out, 7 photos" in note for note in source.notes)
    assert any("of one photo, which is trained on: e" in note for note in source.notes)
    assert opened(root, seed=1).listing != found
    assert opened(root).listing == found


def test_every_slice_has_its_share_of_every_class(tmp_path):
    found = opened(lay(tmp_path / "p", *many("a", n=50), *many("b", n=25))).listing
    labels = found.labels("train")  # 40 and 20
    for start in range(0, 60, 6):
        assert abs((labels[start : start + 6] == 1).sum() - 2) <= 1
    names = [path for path in found.splits["train"].sizes if path.startswith("a/")]
    assert names != sorted(names)


# Damage.

DAMAGE = {
    "empty.jpg": lambda: b"",
    "cut.jpg": lambda: encoded()[:-200],
    "head.jpg": lambda: encoded()[:10],
    "thumbnail.jpg": lambda: with_thumbnail()[:-200],
    "cut.png": lambda: encoded("PNG")[:-20],
    "cut.webp": lambda: encoded("WEBP")[:-50],
    "cut.bmp": lambda: encoded("BMP")[:-100],
    "cut.tif": lambda: encoded("TIFF")[:-100],
    "packed.tif": lambda: encoded("TIFF", compression="tiff_lzw")[:-30],
    "cut.ppm": lambda: encoded("PPM")[:-100],
    "text.jpg": lambda: b"<html>not found</html>",
    "zeros.png": lambda: b"\0" * 1000,
    "fractions.tif": lambda: encoded("TIFF", None, pixels=SMOOTH.astype(np.float32)),
}


def with_thumbnail():
    """A JPEG with a whole small one in a segment before its first scan."""
    content, small = encoded(), encoded()
    return content[:2] + b"\xff\xe5" + (len(small) + 2).to_bytes(2, "big") + small + content[2:]


def test_damaged_files_are_named_before_training(photos):
    for name, content in DAMAGE.items():
        lay(photos, f"train/cat/{name}", content=content())
    (photos / "train/cat/nowhere.jpg").symlink_to("gone.jpg")
    found = refused(
        photos, "of 30 photos 14 are damaged: ", "(empty)", " and 4 more: ", "--config.data.skip_damaged=true"
    )
    assert found.count("train/cat/") == folders.SHOWN
    source = opened(photos, skip=True)
    assert source.sizes == {"train": 12, "val": 4}
    [note] = source.notes
    assert note.startswith("14 are damaged: ")


@pytest.mark.parametrize("name", DAMAGE)
def test_each_kind_of_damage_is_found(tmp_path, name):
    lay(tmp_path, name, content=DAMAGE[name]())
    assert scan.look(tmp_path, scan.File(name, (tmp_path / name).stat().st_size, 0))


SOUND = {
    "appended.jpg": lambda: encoded() + b"\0film" * 5000,
    "thumbnail.jpg": with_thumbnail,
    "fill.jpg": lambda: encoded()[:2] + b"\xff\xff\xff" + encoded()[2:],
    "progressive.jpg": lambda: encoded(progressive=True),
    "renamed.jpg": lambda: encoded("PNG"),
    "appended.png": lambda: encoded("PNG") + b"\0" * 9000,
    "packed.tif": lambda: encoded("TIFF", compression="tiff_lzw"),
    "packed.bmp": lambda: encoded("BMP", "P"),
    "one.bmp": lambda: encoded("BMP", "1"),
    **{f"plain.{kind}": lambda kind=kind: encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")},
    "deep.pgm": lambda: encoded("PPM", None, pixels=SMOOTH.astype(np.uint16) * 256),
    "cmyk.jpg": lambda: encoded(mode="CMYK"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_files_are_not_called_damaged(tmp_path, name):
    lay(tmp_path, name, content=SOUND[name]())
    assert scan.look(tmp_path, scan.File(name, (tmp_path / name).stat().st_size, 0)) == scan.SOUND
    assert photo.decode(SOUND[name]()).shape == (40, 30, 3)


def test_a_file_is_looked_at_once(photos, cache, monkeypatch):
    lay(photos, "train/cat/bad.jpg", content=b"x")
    opened(photos, skip=True)
    looked, look = [], scan.look

    def counted(root, file):
        looked.append(file.path)
        return look(root, file)

    monkeypatch.setattr(scan, "look", counted)
    refused(photos, "train/cat/bad.jpg (not a picture)")
    assert looked == []
    lay(photos, "train/cat/new.jpg")
    lay(photos, "train/cat/bad.jpg", content=encoded())
    opened(photos)
    assert sorted(looked) == ["train/cat/bad.jpg", "train/cat/new.jpg"]
    looked.clear()
    os.utime(photos / "train/dog/1.jpg", ns=(0, 1))  # of the same size, but written anew
    opened(photos)
    assert looked == ["train/dog/1.jpg"]
    [kept] = cache.rglob("*.json")
    assert not list(photos.rglob("*.json"))
    for damage in ("", "[]", '{"layout": 1, "files": {"train/cat/0.jpg": 3}}', "\x00"):
        kept.write_text(damage)
        looked.clear()
        assert opened(photos).sizes["train"] == 14
        assert len(looked) == 18
    shutil.rmtree(cache)
    cache.write_text("not a folder")
    assert opened(photos).sizes["train"] == 14


def test_a_photo_that_cannot_be_decoded_is_named(photos):
    data = open_dataset(**settings(photos))
    path = photos / "train/dog/3.jpg"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : -2] = b"\xff\xc4" * ((len(content) - len(content) // 2 - 2) // 2)
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"train/dog/3\.jpg cannot be read"):
        list(data.evaluate("train", 4))


# Mistakes.


def test_folders_that_cannot_be_used(tmp_path, photos):
    base = tmp_path / "m"
    with pytest.raises(BadInput, match=r"data\.dir is empty: .*--config\.data\.dir=PHOTOS"):
        folders.source("", 0, False)
    refused(base / "nothing", "there is no such folder")
    refused(lay(base, "archive.zip") / "archive.zip", "this is a file")
    (base / "empty").mkdir()
    refused(base / "empty", "no photos in", "CLASS")
    refused(lay(base / "heic", "a/1.heic", "b/2.HEIC"), "no photos in", "there are 2 .heic", "JPEG")
    refused(lay(base / "flat", "1.jpg", "2.jpg"), "2 photos lie directly in", "flat/CLASS/*.jpg")
    refused(lay(base / "loose", *many("a", "b"), "1.jpg"), "1 photos lie directly in")
    refused(lay(base / "unsorted", "train/1.jpg", "val/2.jpg"), "lie directly in", "unsorted/train", "train/CLASS")
    refused(lay(base / "one", *many("a")), "one class only, a,")
    refused(lay(base / "single", *many("a", "b", n=1)), "each class has one photo")
    refused(lay(base / "deep", *many("a", "b", split="PHOTOS/train/")), f"--config.data.dir={base}/deep/PHOTOS")
    refused(lay(base / "deeper", *many("a", "b", split="PHOTOS/")), f"--config.data.dir={base}/deeper/PHOTOS")
    refused(lay(base / "names", *many("a", "b", split="Training/"), *many("a", "b", split="Testing/")),
            "Testing, Training look like splits", "on train")  # fmt: skip
    refused(lay(base / "no-train", *many("a", "b", split="val/")), "no-train/val")
    (photos / "train/bird").mkdir()
    refused(photos, "no photos of the class bird in", "photos/train")
    (photos / "train/bird").rmdir()
    lay(photos, *many("emu", n=1, split="val/"))
    refused(photos, "val has the class emu, which train lacks; train has cat, dog", "make them equal")
    lay(photos, *many("cat", "dog", "emu", n=20, split="val/"))
    refused(photos, "exchange the names train and val")
    lay(base / "control", *many("a", "b\n"))
    with pytest.raises(BadInput, match=r"class folder's name.* holds the control character"):
        opened(base / "control")
    for i in range(5):
        lay(base / "bad", f"a/{i}.jpg", content=b"x")
    refused(lay(base / "bad", *many("b")), "no photo of class a can be trained on", skip=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into everything")
def test_no_permission(photos):
    (photos / "train/cat").chmod(0)
    try:
        refused(photos, "train/cat cannot be looked into (no permission)")
    finally:
        (photos / "train/cat").chmod(0o700)


def test_a_name_that_is_a_folder(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    for name in (str(photos), "photos", "./photos"):
        with pytest.raises(BadInput, match=r"--config=configs/photos\.py --config\.data\.dir=.*photos"):
            open_dataset(**settings(photos) | {"name": name, "dir": ""})
    with pytest.raises(BadInput, match=r"for the photos there, --config\.data\.name=folder"):
        open_dataset(**settings(photos) | {"name": "imagenet2012"})


def settings(photos, **changes):
    """Arguments of open_dataset."""
    return checks.default().data.to_dict() | {"name": "folder", "dir": str(photos), "image_size": 16} | changes


# Runs.

ROOT = Path(__file__).parents[2]


@pytest.fixture
def train(photos, tmp_path, call):
    """Trains a tiny network on the photos: (exit code, stdout, stderr)."""

    def run(*more, workdir=tmp_path / "run", **options):
        return call(
            "--config=configs/photos.py",
            f"--config.data.dir={photos}",
            "--config.data.image_size=16",
            *("--config.model.units=1,1", "--config.model.widths=4,8", "--config.model.stem_width=4"),
            *("--config.model.unit=basic", "--config.batch_size=8", "--config.mesh.data=1"),
            *("--config.total_epochs=4", "--config.schedule.warmup_epochs=1", "--config.eval_every_epochs=2"),
            f"--workdir={workdir}",
            *more,
            **options,
        )

    return run


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


@pytest.mark.usefixtures("quick_compilation")
def test_a_run_keeps_to_its_photos(train, photos, tmp_path, call):
    """A photo that comes later changes neither the rest of a run nor its evaluation; one that goes stops both."""
    shutil.rmtree(photos / "val")  # so that its test split is made
    code, _, err = train()
    assert code == 0, err
    assert f"folder {photos}: 10 training, 0 validation, 2 test images of 16 x 16 x 3 in 2 classes" in err
    assert "note      no split to test on: a fifth of each class is held out, 2 photos in all" in err
    whole = summary(tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["test_split"] == "test"

    begun = tmp_path / "begun"
    shutil.copytree(tmp_path / "run", begun)
    (begun / "summary.json").unlink()
    latest = max((p for p in (begun / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    shutil.rmtree(latest)
    lay(photos, "train/cat/later.jpg", "train/emu/later.jpg")
    code, _, err = train(workdir=begun)
    assert code == 0, err
    assert "resumed  from step" in err
    assert summary(begun)["state_digest"] == whole["state_digest"]

    code, out, err = call("--mode=eval", f"--workdir={begun}")
    assert code == 0
    assert json.loads(out)["test_accuracy"] == whole["test_accuracy"]

    shutil.rmtree(photos / "train/emu")
    moved = photos.rename(tmp_path / "moved")  # the same photos in another place are the run's own
    code, out, err = call("--mode=eval", f"--workdir={begun}", f"--config.data.dir={moved}")
    assert code == 0, err
    assert json.loads(out)["test_accuracy"] == whole["test_accuracy"]
    assert "listed anew" not in err
    other = lay(tmp_path / "other", *many("cat", "dog", n=10, split="train/"), *many("cat", "dog", split="test/"))
    code, out, err = call("--mode=eval", f"--workdir={begun}", f"--config.data.dir={other}")
    assert code == 0, err
    assert f"{other} holds other photos than the run's own: they are listed anew" in err
    moved.rename(photos)

    lost = next(iter(json.loads((begun / "files.json").read_text())["splits"]["train"]["files"]))
    (photos / "train" / lost).unlink()
    for command in (lambda: train(workdir=begun), lambda: call("--mode=eval", f"--workdir={begun}")):
        code, _, err = command()
        assert code == 2
        assert f"data.dir={photos}: train/{lost} is gone since this run began: restore" in err
        assert len(err.strip().splitlines()) == 1
    (photos / "train" / lost).write_bytes(b"x")
    code, _, err = train(workdir=begun)
    assert code == 2
    assert f"train/{lost} has 1 bytes and had " in err
    (begun / "files.json").unlink()
    code, _, err = train(workdir=begun)
    assert code == 2
    assert "files.json is gone" in err
    (begun / "files.json").write_text(
        '{"classes": ["cat"], "splits": {"train": {"folder": "", "files": {"x/1": 1}}}}'
    )
    code, _, err = train(workdir=begun)
    assert code == 2
    assert "files.json is not a list of photos" in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--config.batch_size=64"],
            "batch_size=64, but only 12 photos to train on: add some, or give --config.batch_size=8",
        ),
        (["--config.data.dir="], "data.dir is empty"),
        (["--config.data.dir={photos}/train/cat/0.jpg"], "this is a file"),
    ],
)
def test_nothing_is_written_for_bad_input(train, photos, tmp_path, flags, said):
    code, _, err = train(*[flag.format(photos=photos) for flag in flags])
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_processes_that_see_other_photos_do_not_train(photos):
    class Two:
        """A job in which the other process sees other photos."""

        def gather(self, tag, value):
            return [value, "other"]

    data = open_dataset(**settings(photos))
    run = types.SimpleNamespace(dataset=data, config=types.SimpleNamespace(data=types.SimpleNamespace(dir="P")))
    with pytest.raises(BadInput, match=r"data\.dir=P: processes see different photos"):
        main.check_listing(run, Two())


def test_a_folder_is_described(photos, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = cli.load(["--config=configs/photos.py", f"--config.data.dir={photos}"])
    model = checks.described(config).model
    assert (model.num_classes, model.input_size, model.input_channels) == (2, 224, 3)
    config = cli.load(["--config=configs/imagenet.py", f"--config.data.dir={photos}", "--config.data.name=folder"])
    assert checks.described(config).model.num_classes == 2
