"""Files of `torch.save` (.pth, .pt, .bin), read without PyTorch and without running the pickle in them.

Since PyTorch 1.6 such a file is a zip archive, nothing in it compressed: NAME/data.pkl, a pickle of the dictionary
in which every tensor is a view (offset, shape, strides) of a storage, and the storages, NAME/data/KEY.
"""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from resjax import paths, pickles
from resjax.errors import BadInput

LARGEST_PICKLE = 10**7  # bytes; a network of a thousand layers needs a tenth
MOST_AXES = 8
STORAGES = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
# Where training scripts keep the weights among other things.
WITHIN = ("state_dict", "model", "model_state_dict")
LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the magic number of PyTorch 0.4 to 1.5
SAVE_AGAIN = (
    'save it again with PyTorch: torch.save(torch.load(FILE, map_location="cpu", weights_only=True), NEW_FILE)'
)
SAVE_WEIGHTS = "save the weights alone, with PyTorch: torch.save(model.state_dict(), NEW_FILE)"


class Storage(NamedTuple):
    """What tensors are views of: its type and its name in the archive."""

    dtype: np.dtype
    key: str


class View(NamedTuple):
    """A tensor before its storage is read; nothing of it is checked yet."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any


def read(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of a state dictionary by name, and what a person should know about them.

    Raises:
        BadInput: for another format (the message names it), a damaged file, or one that asks for more than tensors.
    """
    _check_format(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path.stat().st_size)
            found = pickles.follow(archive.read(members["data.pkl"]), KNOWN, _build, _persistent)
            views, notes = _state(found)
            storages: dict[str, np.ndarray] = {}
            tensors = {}
            for name, view in views.items():
                dtype, key = view.storage
                if key not in storages:
                    storages[key] = np.frombuffer(archive.read(members[f"data/{key}"]), np.uint8)
                if len(storages[key]) % dtype.itemsize:
                    raise ValueError(f"storage {paths.short(key)} does not hold whole elements")
                tensors[name] = _strided(storages[key].view(dtype), view, name)
    except BadInput:
        raise
    except Exception as error:  # a damaged archive or pickle can raise nearly anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(
            f"{path} is not a plain file of tensors ({reason}): get it again, or {SAVE_WEIGHTS}"
        ) from error
    return tensors, notes


def _check_format(path: Path) -> None:
    """Raises BadInput for what is not a zip archive, naming what it is."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})") from error
    if head.startswith(b"PK\x03\x04"):
        return
    if head.startswith(LEGACY):
        raise BadInput(f"{path} is in the format of PyTorch 0.4 to 1.5, which is not read here: {SAVE_AGAIN}")
    if head[257:262] == b"ustar":
        raise BadInput(f"{path} is a tar archive, as PyTorch before 0.4 wrote: {SAVE_AGAIN}")
    raise BadInput(f"{path} is neither safetensors nor a zip archive of torch.save: give one of these")


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by their name within the archive's one folder, if reading them takes no more than the file."""
    infos = archive.infolist()
    found = {info.filename.partition("/")[2]: info for info in infos}
    if "constants.pkl" in found:
        raise ValueError("it is TorchScript: code with weights")
    if sum(info.file_size for info in infos) > size or any(info.compress_type for info in infos):
        raise ValueError("it unpacks to more than it holds, or is compressed, which torch.save does not do")
    if len(found) != len(infos):
        raise ValueError("two members have one name")
    if "data.pkl" not in found:
        raise ValueError("it holds no data.pkl")
    if found["data.pkl"].file_size > LARGEST_PICKLE:
        raise ValueError(f"its data.pkl takes more than {LARGEST_PICKLE:,} bytes")
    if "byteorder" in found and archive.read(found["byteorder"]).strip() != b"little":
        raise ValueError("its numbers are big-endian")
    return found


def _state(found: Any) -> tuple[dict[str, View], tuple[str, ...]]:
    """The tensors of the dictionary, or of the one in it that a training script keeps the weights in."""
    state, notes = pickles.of(dict, found), []
    for key in WITHIN:
        if type(state.get(key)) is dict:
            state = state[key]
            notes.append(f"of its entries only {key!r} is taken")
            break
    for name, value in state.items():
        if type(name) is not str or type(value) is not View:
            raise ValueError(f"its entry {pickles.said(name)} is a {type(value).__name__} and not a tensor")
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): view for name, view in state.items()}
        notes.append("its names begin with 'module.', by torch.nn.DataParallel, which is left out")
    return state, tuple(notes)


def _strided(storage: np.ndarray, view: View, name: str) -> np.ndarray:
    """The view of its storage, read-only, if it stays within it and is no larger."""
    shape, strides, offset = pickles.of(tuple, view.shape), pickles.of(tuple, view.strides), view.offset
    if len(shape) != len(strides) or len(shape) > MOST_AXES:
        raise ValueError(f"{paths.short(name)} has {len(shape)} axes and {len(strides)} strides")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
        raise ValueError(f"the shape of {paths.short(name)} is not of whole numbers from 0 on")
    count = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) if count else 0
    if count > len(storage) or last >= max(1, len(storage)):
        raise ValueError(f"{paths.short(name)} reaches beyond its storage of {len(storage)} elements")
    if not count:
        return np.zeros(shape, storage.dtype)
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _persistent(identifier: Any) -> Storage:
    """A storage: ('storage', its type, its key, its device, its number of elements)."""
    kind, storage, key, *_ = pickles.of(tuple, identifier)
    dtype = STORAGES.get(pickles.of(pickles.Named, storage).name)
    if kind != "storage" or dtype is None or type(key) is not str:
        raise ValueError("it refers to something that is not a storage")
    return Storage(dtype, key)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
    return View(pickles.of(Storage, storage), offset, shape, strides)


def _parameter(tensor: Any, *_: Any) -> View:
    return pickles.of(View, tensor)


def _refuse(*_: Any) -> Any:
    raise ValueError("it makes a storage by hand")


# The names that a state dictionary asks for, and what is done for them.
KNOWN: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": lambda: {},
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch Size": lambda sides: pickles.of(tuple, sides),
    **dict.fromkeys(STORAGES, _refuse),
}


def _build(value: Any, state: Any) -> None:
    """The attributes of a dictionary (`_metadata`) are left out; nothing else has any."""
    pickles.of(dict, value)
