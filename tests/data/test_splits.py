"""Slices of splits mean what they mean in TFDS."""

import pytest

from resjax.data.splits import Slice, parse_slice
from resjax.errors import BadInput

SIZES = {"train": 1003, "test": 7}


@pytest.mark.parametrize(
    "text",
    ["train", "test", "train[:450]", "train[450:]", "train[-3:]", "train[10:-10]", "train[33%:67%]", "train[:-50%]",
     "train[:1%]", "test[50%:]", "train[:1003]"],
)  # fmt: skip
def test_slices_agree_with_tfds(text):
    import tensorflow_datasets as tfds

    infos = {
        name: tfds.core.SplitInfo(
            name=name,
            shard_lengths=[size],
            num_bytes=0,
            filename_template=tfds.core.ShardedFileTemplate(
                dataset_name="x", data_dir="/", split=name, filetype_suffix="array_record"
            ),
        )
        for name, size in SIZES.items()
    }
    [expected] = tfds.core.ReadInstruction.from_spec(text).to_absolute(infos)
    part = parse_slice("f", text, SIZES)
    assert (part.base, part.start, part.stop) == (
        expected.splitname, expected.from_ or 0, SIZES[part.base] if expected.to is None else expected.to
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tets", "there is no split 'tets'; use one of test, train"),
        ("train[:", "is not a split"),
        ("train+test", "is not a split"),
        ("", "is not a split"),
        ("train[5:5]", "selects no record"),
        ("train[:2000]", "2000 is outside the split's 1003 records"),
        ("train[-2000:]", "-2000 is outside"),
        ("train[:101%]", "101% is outside"),
    ],
)
def test_slices_that_cannot_work(text, message):
    with pytest.raises(BadInput, match=r"^data\.train_split=") as error:
        parse_slice("data.train_split", text, SIZES)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_overlap_is_to_share_a_record():
    slices = [Slice("train", start, stop) for start in range(5) for stop in range(start + 1, 6)]
    for a in slices:
        for b in slices:
            shared = set(range(a.start, a.stop)) & set(range(b.start, b.stop))
            assert a.overlaps(b) == bool(shared), (a, b)
            assert not a.overlaps(Slice("test", b.start, b.stop))
