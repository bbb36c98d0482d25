"""Decode only what some moments need: skip frames that none of them shows and no other frame refers to.

In H.264 and HEVC, most B-frames can be skipped. The packets' times say which frame a moment shows before anything is
decoded; docs/benchmarks.md has the time that this saves.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from av import Packet, VideoStream
from av.container import InputContainer
from av.video.frame import VideoFrame


TOLERANCE_S = 1e-6  # a frame that begins this little after a moment counts as shown then
LONGEST_RUN = 16  # packets that are decoded together; in a longer run (no B-frames at all) nothing is skipped


def decode_needed(stream: VideoStream, container: InputContainer, times_s: Sequence[float]) -> Iterator[VideoFrame]:
    """Yield frames in display order from the current position on; at least those shown at the given moments.

    Args:
        stream: a stream that decodes in one thread and whose container stores times.
        container: read to its end, or as far as the caller iterates.
        times_s: moments, ascending, in seconds from the stream's first frame.
    """
    time_base, origin = stream.time_base or Fraction(1, 1000), stream.start_time or 0
    moments = [origin + (time_s + TOLERANCE_S) / float(time_base) for time_s in times_s]
    if not stream.codec_context.is_open:
        stream.codec_context.open()  # before skip_frame is set: dav1d reads it only here, for the whole file
    for packet, is_needed in _tell_needed(container.demux(stream), moments):
        stream.codec_context.skip_frame = "DEFAULT" if is_needed else "NONREF"
        yield from packet.decode()


def _tell_needed(packets: Iterable[Packet], moments: Sequence[float]) -> Iterator[tuple[Packet, bool]]:
    """Yield each packet, and whether its frame is shown at one of the moments (in the stream's own time unit).

    A frame is shown until the next one begins. The next one is certain once a packet is decoded later than that frame
    is shown; until then packets wait, a few at most. If a file's times break these rules, all that follows is decoded.

    Packets that are neighbours both in decoding order and in display order are decoded together or not at all: they
    may be the two fields of one H.264 frame, and a single field would be paired with a field of another frame.
    """
    waiting: deque[tuple[Packet, int]] = deque()
    run: list[Packet] = []
    run_is_needed = False
    begins: list[int] = []  # start times of all frames so far, ascending
    latest: int | None = None  # decoding time of the last packet
    packets = iter(packets)
    for packet in packets:
        if not packet.size or not _is_regular(packet, latest):  # the end, or broken times
            yield from ((held, True) for held in run)
            yield from ((held, True) for held, _ in waiting)
            yield packet, True
            yield from ((rest, True) for rest in packets)
            return
        assert packet.pts is not None
        latest = packet.dts
        insort(begins, packet.pts)
        waiting.append((packet, packet.pts))
        while True:  # the packet read last stays: its successor is never certain
            held, begin = waiting[0]
            following = _following(begin, begins)
            if following is None or latest is None or following > latest:
                break
            waiting.popleft()
            run.append(held)
            run_is_needed |= _shows(begin, following, moments)
            goes_on = begin <= waiting[0][1] <= following
            if goes_on and len(run) < LONGEST_RUN:
                continue
            yield from ((one, run_is_needed or goes_on) for one in run)
            run, run_is_needed = [], goes_on


def _is_regular(packet: Packet, latest: int | None) -> bool:
    """Whether a packet is decoded after the previous one and no later than it is shown, as the standards require.

    Matroska stores no decoding times; FFmpeg knows them from about the third packet on.
    """
    if packet.pts is None or packet.dts is None:
        return packet.pts is not None and latest is None
    return packet.dts <= packet.pts and (latest is None or packet.dts > latest)


def _following(begin: int, begins: Sequence[int]) -> int | None:
    """When the next frame begins; None if none has been read yet."""
    index = bisect_right(begins, begin)
    return begins[index] if index < len(begins) else None


def _shows(begin: int, following: int, moments: Sequence[float]) -> bool:
    """Whether a frame is on screen at one of the moments."""
    index = bisect_left(moments, begin)
    return index < len(moments) and moments[index] < following
