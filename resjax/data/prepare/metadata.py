"""What TFDS says of a set of photographs: dataset_info.json, features.json and the class names beside them."""

from dataclasses import dataclass
from pathlib import Path

from resjax.data.prepare.build import Place
from resjax.data.prepare.shards import Written


@dataclass(frozen=True)
class Description:
    """What is said of a set beside its records.

    Attributes:
        text: of the set.
        config_text: of its config, if it has one.
        class_names: in label order.
        encoding: 'jpeg' if every image is one, else None.
        shuffled: whether the order of the records is a random one.
        release_notes, homepage, citation: as in `tfds.core.DatasetInfo`.
    """

    text: str
    class_names: tuple[str, ...]
    encoding: str | None = None
    config_text: str = ""
    shuffled: bool = True
    release_notes: dict[str, str] | None = None
    homepage: str = ""
    citation: str = ""


def write(place: Place, description: Description, folder: Path, splits: dict[str, list[Written]]) -> None:
    """Writes the metadata into the folder of a set whose shards are there."""
    import tensorflow_datasets as tfds

    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name=place.name,
            version=tfds.core.Version(place.version),
            data_dir=str(folder),
            module_name="resjax.data.prepare",
            config_name=place.config or None,
            config_description=description.config_text or None,
            release_notes=description.release_notes,
        ),
        description=description.text,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format=description.encoding),
                "label": tfds.features.ClassLabel(names=list(description.class_names)),
                "file_name": tfds.features.Text(),
            }
        ),
        supervised_keys=("image", "label"),
        disable_shuffling=not description.shuffled,
        homepage=description.homepage or None,
        citation=description.citation or None,
    )
    info.set_file_format("array_record")
    info.set_splits(
        tfds.core.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.records for shard in shards],
                    num_bytes=sum(shard.size for shard in shards),
                    filename_template=None,
                )
                for split, shards in splits.items()
            ]
        )
    )
    info.write_to_directory(folder)
