"""Pictures of one size with labels, in the files that MNIST comes in.

A folder holds IDX files (train-images-idx3-ubyte and three more, also .gz), a pickle three pairs of
arrays. A pickle may call any function of any module when it is opened; here it can name what arrays
are made of alone, and gets stand-ins of ours for that, which keep what they are given.
"""

import gzip
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

PICKLES = (".pkl", ".pkl.gz")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "validation": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
KINDS = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # third byte of an IDX file
DTYPE = re.compile("[fiu][1248]")


class Pictures(NamedTuple):
    """Pictures of one split, and their labels."""

    pixels: NDArray[np.float32]
    """(N, rows x columns)."""
    labels: NDArray[np.int64]
    """(N,)."""
    shape: tuple[int, int]
    """Rows and columns."""


def is_pictures(path: Path) -> bool:
    """Whether it may hold pictures: a folder, or a pickle by its name."""
    return path.is_dir() or path.name.endswith(PICKLES)


def read_pictures(path: Path) -> dict[str, Pictures]:
    """The splits `train` and `validation` of a folder of IDX files or of a pickle.

    Raises:
        ValueError: a file is missing, damaged, or holds something else.
    """
    splits = _from_pickle(path) if path.name.endswith(PICKLES) else _from_folder(path)
    train, validation = splits["train"], splits["validation"]
    if train.shape != validation.shape:
        raise ValueError(
            f"{path}: its training pictures are of {_size(train)} pixels and those for validation "
            f"of {_size(validation)}; give pictures of one size"
        )
    return splits


def _size(pictures: Pictures) -> str:
    return " x ".join(map(str, pictures.shape))


def _from_folder(folder: Path) -> dict[str, Pictures]:
    found = {}
    for split, names in FILES.items():
        files = []
        for name in names:
            present = [p for p in (folder / name, folder / f"{name}.gz") if p.is_file()]
            if not present:
                raise ValueError(
                    f"stage.data={folder} has no {name} or {name}.gz, which MNIST's folder has; "
                    "put it there, or give a table: stage.data=FILE.csv"
                )
            files.append(present[0])
        images, labels = map(read_idx, files)
        if images.ndim != 3 or labels.ndim != 1:
            raise ValueError(
                f"{files[0]} and {files[1]} hold arrays of {images.ndim} and {labels.ndim} "
                "dimensions; pictures have 3, labels 1"
            )
        found[split] = _pictures(files[0], images, labels, images.shape[1:])
    return found


def read_idx(path: Path) -> NDArray[Any]:
    """The array in an IDX file. Raises ValueError if it is damaged, or no such file."""
    with _opened(path) as file:
        try:
            content = file.read()
        except (OSError, EOFError) as error:
            raise ValueError(f"{path} can't be read to its end: {error}; replace it") from None
    zero, kind, dimensions = struct.unpack_from(">HBB", content) if len(content) > 3 else (1, 0, 0)
    start = 4 + 4 * dimensions
    if zero or kind not in KINDS or len(content) < start:
        raise ValueError(f"{path} is no IDX file: it begins with {content[:4].hex()}; replace it")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    expected = int(np.prod(shape, dtype=object)) * np.dtype(KINDS[kind]).itemsize
    if len(content) - start != expected:
        raise ValueError(
            f"{path} is damaged: it holds {len(content) - start:,} bytes of numbers, and its shape "
            f"{shape} needs {expected:,}; replace it"
        )
    return np.frombuffer(content, KINDS[kind], offset=start).reshape(shape)


def _from_pickle(path: Path) -> dict[str, Pictures]:
    """((images, labels), (images, labels), (images, labels)): training, validation and test.

    As MNIST's own training set is, the first two are for training; the last is its test set.
    """
    with _opened(path) as file:
        try:
            content = _Arrays(file, encoding="latin1").load()
            pairs = [(_array(images), _array(labels)) for images, labels in content]
        except (pickle.UnpicklingError, EOFError, OSError, TypeError, ValueError) as error:
            raise ValueError(
                f"stage.data={path}: {error}; give MNIST's pickle, which is three pairs of arrays"
            ) from None
    if len(pairs) != 3 or any(len(np.shape(images)) != 2 for images, _ in pairs):
        raise ValueError(f"stage.data={path} is no pickle of three pairs of arrays; replace it")
    widths = {images.shape[1] for images, _ in pairs}
    side = int(max(widths) ** 0.5)
    if widths != {side * side}:
        raise ValueError(
            f"stage.data={path} has pictures of {', '.join(map(str, sorted(widths)))} pixels, which"
            " are not the same square; give pictures of one size"
        )
    images, labels = (np.concatenate(parts) for parts in zip(*pairs[:2], strict=True))
    return {
        "train": _pictures(path, images, labels, (side, side)),
        "validation": _pictures(path, *pairs[2], (side, side)),
    }


def _pictures(
    path: Path, images: NDArray[Any], labels: NDArray[Any], shape: tuple[int, ...]
) -> Pictures:
    if len(images) != len(labels):
        raise ValueError(
            f"{path}: {len(images):,} pictures and {len(labels):,} labels; each needs one"
        )
    rows, columns = shape
    pixels = np.ascontiguousarray(images, dtype=np.float32).reshape(len(images), rows * columns)
    if not np.isfinite(pixels).all():
        raise ValueError(f"{path}: a pixel is not finite; replace the file")
    return Pictures(pixels, labels.astype(np.int64), (rows, columns))


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


class _Stand:
    """In the place of a numpy array: keeps what the pickle says of it, and makes nothing."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Kind(_Stand):
    """In the place of a numpy dtype."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name


class _Arrays(pickle.Unpickler):
    """Opens arrays of numbers, and nothing else: it never imports what a pickle names."""

    stands: dict[tuple[str, str], Callable[..., Any] | type] = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Stand(),
        ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Stand(),
        ("numpy", "ndarray"): _Stand,
        ("numpy", "dtype"): _Kind,
        ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for what is named; raises for anything that is no array."""
        if (module, name) not in self.stands:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
        return self.stands[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refused, as all that lies elsewhere."""
        raise pickle.UnpicklingError("it refers to something outside")


def _array(stand: Any) -> NDArray[Any]:
    """The array that a stand-in was told about. Raises ValueError, TypeError if it is none."""
    if not isinstance(stand, _Stand) or not isinstance(stand.state, tuple) or len(stand.state) != 5:
        raise ValueError("it holds something that is no array")
    _, shape, kind, fortran, content = stand.state
    name = getattr(kind, "name", None)
    if not isinstance(name, str) or not DTYPE.fullmatch(name):
        raise ValueError(f"it has an array of {name}, and only numbers are read")
    order = ">" if kind.state and kind.state[1] == ">" else "<"
    raw = content.encode("latin1") if isinstance(content, str) else content
    array = np.frombuffer(raw, np.dtype(order + name))
    return array.reshape(shape, order="F" if fortran else "C")
