"""Pictures stored in the rows (PNG or JPEG): only whole colour pictures of 8 bits are taken, judged by the stream's own header.

A depth picture of 16 bits, or of one channel, would be turned into a grey colour picture by the decoder without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from rdvla_ros.learning.data.lerobot import DatasetError

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
PNG_COLOUR = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
END_BYTES = 64  # what may follow the end of a picture


def check_feature(place: str, entry: Mapping[str, Any]) -> None:
    """A camera's entry of info.json: 8 bit colour. Depth maps are marked by LeRobot in `info`, or have one channel."""
    notes = [entry.get(name) for name in ("info", "video_info")]  # older sets use the second
    if any(isinstance(note, Mapping) and note.get(mark) for note in notes for mark in ("is_depth_map", "video.is_depth_map")):
        raise DatasetError(f"{place}: expected a colour camera, found a depth map (is_depth_map). Choose a colour camera.")
    if entry["dtype"] not in ("video", "image"):
        raise DatasetError(
            f"{place}: 'dtype': expected video or image, found {entry['dtype']}: numbers, not colour pictures. Choose "
            "a colour camera."
        )
    shape, names = list(entry["shape"]), entry.get("names")
    named = [str(name) for name in names] if isinstance(names, list) and len(names) == len(shape) else []
    channel = next((i for i, name in enumerate(named) if name.startswith("channel")), None)
    if channel is None:
        channel = 0 if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4) else len(shape) - 1
    if len(shape) != 3 or shape[channel] not in (3, 4):
        raise DatasetError(
            f"{place}: 'shape': expected [height, width, 3] of a colour camera, found {shape}. Choose a colour camera."
        )


def decode(data: bytes, place: str) -> np.ndarray:
    """PNG or JPEG bytes -> (height, width, 3) uint8 RGB; DatasetError where they are no whole 8 bit colour picture."""
    advice = "Choose a colour camera, or remove the episode."
    if not data:
        raise DatasetError(f"{place}: expected a PNG or JPEG picture, found 0 bytes. {advice}")
    try:
        if problem := _problem(data):
            raise DatasetError(f"{place}: expected a whole colour picture of 8 bits, found {problem}. {advice}")
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DatasetError(f"{place}: expected a PNG or JPEG picture, found {error.err or error}. {advice}") from error
    if picture is None:
        raise DatasetError(f"{place}: expected a PNG or JPEG picture, found {len(data)} bytes of another kind. {advice}")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _problem(data: bytes) -> str:
    """What the header says against it; empty: nothing."""
    if data.startswith(PNG):
        if len(data) < 33:
            return f"a PNG of {len(data)} bytes"
        bits, colour = data[24], data[25]
        if bits > 8 or colour not in (2, 3, 6):
            return f"a PNG of {bits} bits, {PNG_COLOUR.get(colour, f'colour type {colour}')}"
        return "" if b"IEND" in _tail(data) else "a PNG that ends too early"
    if data.startswith(JPEG):
        bits, components = _jpeg_frame(data)
        if (bits, components) != (8, 3):
            return f"a JPEG of {components} components of {bits} bits" if components else "a JPEG without a frame header"
        return "" if b"\xff\xd9" in _tail(data) else "a JPEG that ends too early"
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is not None and (raw.dtype != np.uint8 or raw.ndim != 3 or raw.shape[2] not in (3, 4)):
        return f"{raw.dtype} of {1 if raw.ndim == 2 else raw.shape[2]} channels"
    return ""


def _tail(data: bytes) -> bytes:
    """The last bytes, without padding."""
    return data.rstrip(b"\0")[-END_BYTES:]


def _jpeg_frame(data: bytes) -> tuple[int, int]:
    """(bits, components) of the frame header; (0, 0): none found."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[at + 4], data[at + 9]
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0
