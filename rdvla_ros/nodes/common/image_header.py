"""What a compressed image says of itself, read from its first bytes: before a decoder allocates whatever the header asks for."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

PNG = b"\x89PNG\r\n\x1a\n"
PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
HEADER_BYTES = 65536 * 2 + 64  # the frame header of a JPEG comes after at most two large segments of notes
# Words of CompressedImage.format that name what is no colour picture: depth, single channels, more bits than a pixel has here.
NOT_COLOUR = re.compile(r"mono\d+|(8|16|32|64)[USF]C[12]|(16|32|64)[USF]C[34]|compressedDepth|rvl", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """kind: 'JPEG' or 'PNG'. width, height [px]. bits: of one channel. colour: the kind of pixels in words; is_colour: whether
    they are RGB or YCbCr, with or without alpha."""

    kind: str
    width: int
    height: int
    bits: int
    colour: str
    is_colour: bool

    @property
    def problem(self) -> str:
        """Why these pixels are not those of a colour camera; empty where they are."""
        if self.is_colour and self.bits == 8:
            return ""
        return f"a {self.kind} of {self.bits} bits, {self.colour}"


def read_header(data: bytes) -> Header | None:
    """The header of a JPEG or PNG; None where none can be read."""
    if data[:8] == PNG and len(data) >= 33 and zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big"):
        width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
        return Header("PNG", width, height, bits, PNG_COLOURS.get(colour, f"colour type {colour}"), colour in (2, 6))
    if data[:2] == b"\xff\xd8":
        return _jpeg_header(data)
    return None


def _jpeg_header(data: bytes) -> Header | None:
    """From the frame header; the segments before it are skipped by their lengths."""
    at = 2
    while at + 10 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in WITHOUT_LENGTH:
            at += 2
        elif marker in START_OF_FRAME:
            length, bits, height, width, channels = struct.unpack(">HBHHB", data[at + 2 : at + 10])
            if length != 8 + 3 * channels or not 0 < channels <= 4 or bits not in (8, 12, 16):
                return None  # lost bytes, not another kind of picture
            return Header("JPEG", width, height, bits, f"{channels} channel{'s' * (channels != 1)}", channels == 3)
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def named_otherwise(format_: str) -> str:
    """The word of CompressedImage.format ('16UC1; png compressed') that names something else than colour; empty: none does."""
    return next((word for word in re.findall(r"\w+", format_) if NOT_COLOUR.fullmatch(word)), "")


def flaw(data: bytes | memoryview, kind: str) -> str:
    """What shows without decoding that bytes of a JPEG or PNG are lost or changed; empty: nothing."""
    return _png_flaw(memoryview(data)) if kind == "PNG" else _jpeg_flaw(bytes(data))


def _jpeg_flaw(data: bytes) -> str:
    return "" if b"\xff\xd9" in data else "the end of the JPEG is missing"


def _png_flaw(data: memoryview) -> str:
    """By the checksum of each chunk, which OpenCV does not insist on."""
    at, names = len(PNG), []
    while at + 12 <= len(data):
        (length,), name = struct.unpack(">I", data[at : at + 4]), bytes(data[at + 4 : at + 8])
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"the checksum of chunk {_printable(name)} does not fit"
        names.append(name)
        at = end
        if name == b"IEND":
            return ""
    return "the end of the PNG is missing"


def _printable(name: Sequence[int]) -> str:
    return "".join(chr(c) if chr(c).isalnum() and c < 128 else "?" for c in name)
