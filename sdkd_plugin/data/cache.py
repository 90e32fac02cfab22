"""Decoded images on disk: DATASET.CACHE/<stamp>/ holds one split, and is mapped, not loaded.

pixels       every image, one after another, uint8
index.npz    their sizes and digests, the levels of their pixels, what was left out

While it is built the folder ends in .part and holds a journal instead of the index: a line for each
piece whose pixels are on the disk already. Whoever comes next goes on after the last of them.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
import torch
from filelock import FileLock, Timeout

from sdkd_plugin.data.pictures import DIGEST
from sdkd_plugin.data.reading import Reading, Split, Tally, assemble, read_pixels
from sdkd_plugin.data.source import Source
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_atomic, write_text

PIXELS, INDEX, JOURNAL = "pixels", "index.npz", "journal"
PIECE = 256  # images after which what was decoded is kept, whatever happens
_VERSION = 1  # of this layout, and of what becomes of a file
_LOCK_WAIT = 1  # seconds, after which somebody is told that another process is at it


def load_cached(source: Source, reading: Reading, folder: str) -> Split:
    """A split out of the cache, which is built first where it is not there.

    Raises:
        UserError: the disk is too small or cannot be written to, the cache is damaged, or an image
            cannot be decoded.
    """
    place = Path(folder) / cache_stamp(source, reading)
    if not (place / INDEX).is_file():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with _alone(place):
                if not (place / INDEX).is_file():
                    _build(source, reading, place)
        except OSError as error:
            raise unbuildable(place, error) from error
    return _open(source, reading, place)


def cache_stamp(source: Source, reading: Reading) -> str:
    """First 16 hex digits of a SHA-256 of all that decides what a cache holds."""
    decides = [_VERSION, PIL.__version__, reading.size, reading.several, reading.skip]
    text = "\n".join([*map(str, decides), source.stamp()])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _alone(place: Path) -> FileLock:
    """The lock of a cache's builder; says so where it must be waited for."""
    lock = FileLock(place.with_suffix(".lock"))
    try:
        lock.acquire(timeout=_LOCK_WAIT)
        lock.release()
    except Timeout:
        print(f"{place} is being built by another process; waiting for it")
    return lock


def _build(source: Source, reading: Reading, place: Path) -> None:
    if place.exists():  # what is built is renamed to it whole
        raise _damaged(place, f"it has no {INDEX}")
    part = place.with_suffix(".part")
    part.mkdir(exist_ok=True)
    tally = _resume(part)
    first = len(tally.kept) + len(tally.broken)
    if first:
        print(f"{part}: {first} of {len(source)} images of {source.title} are decoded already")

    with (
        open(part / PIXELS, "ab") as pixels,
        open(part / JOURNAL, "a", encoding="utf-8") as journal,
    ):
        told = (len(tally.kept), len(tally.broken))
        for number, image in enumerate(read_pixels(source, reading, tally, first), start=first):
            if image is not None:
                if len(tally.kept) == 1:
                    _require_disk(part, len(source) * image.nbytes, source.title)
                pixels.write(image.data)
            if (number + 1) % PIECE == 0:
                told = _note(tally, told, pixels, journal)
        _note(tally, told, pixels, journal)

    write_atomic(part / INDEX, lambda file: _write_index(tally, file))
    (part / JOURNAL).unlink()
    part.rename(place)


def _note(
    tally: Tally, told: tuple[int, int], pixels: IO[bytes], journal: IO[str]
) -> tuple[int, int]:
    """Writes down what was read since `told`, after its pixels are on the disk."""
    _flush(pixels)
    journal.write(json.dumps(_described(tally, *told)) + "\n")
    _flush(journal)
    return len(tally.kept), len(tally.broken)


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _described(tally: Tally, kept: int = 0, broken: int = 0) -> dict[str, Any]:
    """A tally as json, from these numbers on; the levels are of everything."""
    return {
        "kept": tally.kept[kept:],
        "sizes": tally.sizes[kept:],
        "digests": [digest.hex() for digest in tally.digests[kept:]],
        "levels": tally.levels.tolist(),
        "broken": tally.broken[broken:],
    }


def _write_index(tally: Tally, file: IO[bytes]) -> None:
    np.savez(
        file,
        kept=np.array(tally.kept, np.int64),
        sizes=np.array(tally.sizes, np.int64).reshape(-1, 2),
        digests=np.frombuffer(b"".join(tally.digests), np.uint8).reshape(-1, DIGEST),
        levels=tally.levels.numpy(),
        broken=np.array(tally.broken, np.str_),
    )


def _read_index(index: Path) -> Tally:
    with np.load(index) as told:  # which loads no pickles
        kept, sizes, digests = (told[key] for key in ("kept", "sizes", "digests"))
        if not len(kept) == len(sizes) == len(digests):
            raise ValueError("its lists differ in length")
        return Tally(
            kept=kept.tolist(),
            sizes=[(height, width) for height, width in sizes.tolist()],
            digests=[digest.tobytes() for digest in digests],
            levels=torch.from_numpy(told["levels"]).view(3, 256),
            broken=told["broken"].tolist(),
        )


def _extend(tally: Tally, described: dict[str, Any]) -> None:
    sizes = [(int(height), int(width)) for height, width in described["sizes"]]
    digests = [bytes.fromhex(digest) for digest in described["digests"]]
    if not len(described["kept"]) == len(sizes) == len(digests):
        raise ValueError("its lists differ in length")
    tally.kept += [int(number) for number in described["kept"]]
    tally.sizes += sizes
    tally.digests += digests
    tally.levels = torch.tensor(described["levels"], dtype=torch.int64).view(3, 256)
    tally.broken += described["broken"]


def _resume(part: Path) -> Tally:
    """What an interrupted build had done; its files are cut back to that."""
    tally = Tally()
    lines = list(_whole_lines(part / JOURNAL))
    for line in lines:
        _extend(tally, json.loads(line))
    done = _bytes(tally)
    pixels = part / PIXELS
    held = pixels.stat().st_size if pixels.exists() else 0
    if held < done:  # somebody else's doing
        lines, tally, done = [], Tally(), 0
    if held > done:
        with open(pixels, "r+b") as file:
            file.truncate(done)
    write_text(part / JOURNAL, "".join(f"{line}\n" for line in lines))
    return tally


def _whole_lines(journal: Path) -> Iterator[str]:
    """The lines of a journal up to the first that is torn."""
    if not journal.exists():
        return
    for line in journal.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        try:
            _extend(Tally(), json.loads(line))
        except (ValueError, TypeError, KeyError):
            return
        yield line


def _bytes(tally: Tally) -> int:
    return sum(3 * height * width for height, width in tally.sizes)


def _open(source: Source, reading: Reading, place: Path) -> Split:
    try:
        tally = _read_index(place / INDEX)
        held, wanted = (place / PIXELS).stat().st_size, _bytes(tally)
        if held != wanted:
            raise ValueError(f"{PIXELS} has {held} bytes, not {wanted}")
    except Exception as error:  # damaged bytes make zipfile fail in every way there is
        raise _damaged(place, " ".join(str(error).split())) from error

    buffer = np.empty(0, np.uint8)
    if held:
        buffer = np.memmap(place / PIXELS, np.uint8, mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has no tensors that cannot be written to
        return assemble(source, reading, tally, np.asarray(buffer), mapped=True)


def unbuildable(place: Path, error: OSError) -> UserError:
    """What is said where the system does not let a part of the cache be written."""
    return UserError(
        f"the cache {place} cannot be built: {error}; make room there, or point DATASET.CACHE "
        "elsewhere"
    )


def _damaged(place: Path, reason: str) -> UserError:
    return UserError(f"the cache {place} is damaged: {reason}; remove it, and it is built again")


def _require_disk(folder: Path, needed: int, title: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{title!r} decoded needs about {needed / 2**30:.1f} GiB on the disk of DATASET.CACHE, "
            f"{free / 2**30:.1f} GiB are free; name a folder elsewhere, or set "
            "DATASET.DECODE always"
        )
