"""H.264 whose frames are coded as two pictures, one per field, as television sends it; no encoder here writes that.

Every macroblock stores its samples as they are (I_PCM), so that a few lines of header make a stream that any decoder
reads: ITU-T H.264, sections 7.3.2.1 (sequence), 7.3.2.2 (picture), 7.3.3 (slice) and 7.3.5 (macroblock).
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av


SIDE_MB = 2  # frames of 32 x 32 samples, fields of 32 x 16
GROUP = 12  # frames from one key frame to the next
FIELD_TICKS = 1800  # of 90 kHz: 50 fields a second


def _unsigned(value: int) -> str:
    """ue(v), the Exp-Golomb code."""
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _unit(kind: int, referred_to: bool, bits: str) -> bytes:
    """A NAL unit with its start code; three zero bits in a row are kept from looking like one."""
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    content, zeros = bytearray(), 0
    for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
        if zeros >= 2 and byte <= 3:
            content.append(3)
            zeros = 0
        content.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([3 * referred_to << 5 | kind]) + bytes(content)


def _headers() -> bytes:
    """Main profile, 8 bits for frame numbers and order, not frames alone; no reordering deeper than one frame."""
    size = _unsigned(SIDE_MB - 1) + _unsigned(SIDE_MB // 2 - 1)
    order = _unsigned(0) + _unsigned(4) + _unsigned(0) + _unsigned(4)
    told = "0000" + "0" + "00" + "0" + "1" + "1" + _unsigned(0) * 2 + _unsigned(16) * 2 + _unsigned(1) + _unsigned(4)
    sequence = f"{77:08b}{0:08b}{30:08b}{order}{_unsigned(4)}0{size}0010" + "1" + told
    picture = _unsigned(0) * 2 + "00" + _unsigned(0) * 3 + "000" + _unsigned(0) * 3 + "000"
    return _unit(7, True, sequence) + _unit(8, True, picture)


def _field(level: int, *, bottom: bool, key: bool, referred_to: bool, frame_number: int, order: int) -> bytes:
    """One field of one grey level."""
    bits = _unsigned(0) + _unsigned(7) + _unsigned(0) + f"{frame_number:08b}" + "1" + str(int(bottom))
    bits += (_unsigned(0) if key else "") + f"{order:08b}"
    bits += ("00" if key else "0") if referred_to else ""
    bits += _unsigned(0)
    for _ in range(SIDE_MB * SIDE_MB // 2):
        bits += _unsigned(25)  # I_PCM
        bits += "0" * (-(len(bits)) % 8) + f"{level:08b}" * 256 + f"{128:08b}" * 128
    return _unit(5 if key else 1, referred_to, bits)


def _coded() -> list[tuple[int, bytes, bytes]]:
    """Display position and both fields of each frame, in decoding order; two of three frames are not needed."""
    coded = []
    for first in (0, GROUP):
        for number, place in enumerate(range(0, GROUP, 3)):
            for shown in (place, place - 2, place - 1) if place else (0,):
                level, key, kept = 20 + 5 * (first + shown), place == 0, shown == place
                fields = [
                    _field(
                        level + bottom,
                        bottom=bool(bottom),
                        key=key and not bottom,
                        referred_to=kept,
                        frame_number=number,
                        order=2 * shown + bottom,
                    )
                    for bottom in (0, 1)
                ]
                coded.append((first + shown, (_headers() if key else b"") + fields[0], fields[1]))
    places = {shown: place for place, shown in enumerate(sorted(shown for shown, *_ in coded))}
    return [(places[shown], top, bottom) for shown, top, bottom in coded]


def write_fields(path: Path) -> Sequence[float]:
    """A file with a packet per field, as recordings of television have them, copied or not into an mp4.

    Returns:
        The grey level of every frame in the order of showing, the mean of its fields.
    """
    coded, raw = _coded(), path.with_suffix(".h264")
    raw.write_bytes(b"".join(top + bottom for _, top, bottom in coded))
    with av.open(str(raw)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, (place, *fields) in enumerate(coded):
            for bottom, data in enumerate(fields):
                packet = av.Packet(data)
                packet.pts = (2 * place + bottom) * FIELD_TICKS
                packet.dts = (2 * (number - 3) + bottom) * FIELD_TICKS
                packet.time_base, packet.stream = Fraction(1, 90000), stream
                packet.is_keyframe = data.startswith(_headers())
                container.mux(packet)
    levels = sorted(20 + 5 * (first + place) + 0.5 for first in (0, GROUP) for place in range(GROUP - 2))
    return levels
