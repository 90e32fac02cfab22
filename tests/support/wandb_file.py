"""Reads what wandb keeps offline: LevelDB's log of protobuf records, by its published format."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = struct.Struct("<IHB")  # checksum, length, kind
START = 7  # bytes before the first record: :W&B, a number, a version
WHOLE, LAST = 1, 4  # kinds; the others are to be continued


def records(path: Path) -> Iterator[Any]:
    """Each record of a .wandb file; one that is cut off at the end is left out."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, text = path.read_bytes(), START, b""
    assert data[:4] == b":W&B"
    while place + HEADER.size <= len(data):
        if BLOCK - place % BLOCK < HEADER.size:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, place)
        place += HEADER.size
        text += data[place : place + length]
        place += length
        if kind in (WHOLE, LAST) and place <= len(data):
            yield Record.FromString(text)
            text = b""
