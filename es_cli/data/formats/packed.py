"""What packed bytes unpack to, found out before anybody unpacks them: decoders trust what a stream says of itself."""

from __future__ import annotations

import struct
import zlib

ZSTD = b"\x28\xb5\x2f\xfd"
GZIP, ZLIB = b"\x1f\x8b", b"\x78"
BLOSC_HEADER = 16  # bytes
STEP = 1 << 20
DEFLATE = 1032  # one byte of deflate is never more


def unpacks_to(held: bytes, limit: int) -> int:
    """How many bytes `held` unpacks to as blosc, zstd, gzip or zlib, as far as that is more than `limit`; else a number up to `limit`.

    Where one of them does not say, it is unpacked piece by piece, without being kept.
    """
    if len(held) >= BLOSC_HEADER:
        claimed, _, packed = struct.unpack("<III", held[4:BLOSC_HEADER])
        if packed == len(held):
            return int(claimed)
    if held.startswith(ZSTD):
        return _zstd(held)
    if held.startswith((GZIP, ZLIB)) and len(held) * DEFLATE > limit:
        return _deflate(held, limit)
    return len(held)


def _zstd(held: bytes) -> int:
    """What the header of the frame says, 0 where it says nothing. Source: RFC 8878, section 3.1.1.1."""
    if len(held) < 18:
        return 0
    flags = held[4]
    single, width = flags >> 5 & 1, (0, 2, 4, 8)[flags >> 6]
    width = width or single
    start = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(held[start : start + width], "little") + (256 if width == 2 else 0)


def _deflate(held: bytes, limit: int) -> int:
    unpacker, total = zlib.decompressobj(47), 0  # 47: gzip or zlib, whichever it is
    try:
        while total <= limit and not unpacker.eof:
            part = unpacker.decompress(held, STEP)
            total, held = total + len(part), unpacker.unconsumed_tail
            if not part and not held:
                break
    except zlib.error:
        return total  # the decoder says what is wrong with it
    return total
