"""Reads a TensorBoard event file as TensorBoard does: length, its checksum, an Event message, its checksum."""

import struct
from collections import defaultdict

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event


def scalars(content: bytes) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) in the order written; a damaged record fails an assertion."""
    points, at = defaultdict(list), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        assert struct.unpack_from("<I", content, at + 8)[0] == _masked(content[at : at + 8])
        message = content[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", content, at + 12 + length)[0] == _masked(message)
        event = Event.FromString(message)
        for value in event.summary.value:
            points[value.tag].append((event.step, value.simple_value))
        at += 16 + length
    return dict(points)


def _masked(content: bytes) -> int:
    checksum = crc32c(content)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
