"""Frames on a stream socket: four bytes of length, then JSON. Both ends use it; neither trusts the other's length."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

_HEAD = struct.Struct(">I")
CAP = 32 << 20
"""Bytes a frame may have. Tensors travel as files."""


class FrameError(Exception):
    """What arrived is no frame; its text says why in a few words."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One frame. Raises TypeError or ValueError for what JSON cannot say, FrameError above the cap."""
    body = json.dumps(message).encode()
    if len(body) > CAP:
        raise FrameError(f"{len(body)} bytes, above the limit of {CAP}")
    return _HEAD.pack(len(body)) + body


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a frame's body; FrameError when it is none."""
    try:
        # Decoded here: `json` would guess at other encodings, and lets encoded surrogates pass.
        message = json.loads(body.decode())
        if b"\\ud" in body.lower():
            # Half a surrogate pair is legal JSON that no file can hold.
            message = json.loads(json.dumps(message, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON ({type(error).__name__})") from None
    if not isinstance(message, dict):
        raise FrameError("not a JSON object")
    return message


class Reader:
    """Takes bytes as they come and gives frames back as they complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> dict[str, Any] | None:
        """The next complete frame, or None; FrameError when the bytes are no frame."""
        if len(self._buffer) < _HEAD.size:
            return None
        (length,) = _HEAD.unpack_from(self._buffer)
        if length > CAP:
            raise FrameError(f"{length} bytes announced, above the limit of {CAP}")
        end = _HEAD.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEAD.size : end])
        del self._buffer[:end]
        return parse(body)


def receive(sock: socket.socket, reader: Reader) -> dict[str, Any]:
    """Block until a frame is complete; EOFError when the other end is gone."""
    while (message := reader.take()) is None:
        data = sock.recv(1 << 16)
        if not data:
            raise EOFError("the other end of the channel is gone")
        reader.feed(data)
    return message
