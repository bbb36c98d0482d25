"""Decode what some moments need: frames that none of them shows and no other frame refers to are left out.

In H.264 and HEVC most B-frames are such frames. Which frame a moment shows is known from the packets' times before
anything is decoded, so the rest need not be: docs/benchmarks.md has what that saves.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from av import Packet, VideoStream
from av.container import InputContainer
from av.video.frame import VideoFrame


TOLERANCE_S = 1e-6  # a frame that begins this little after a moment is shown in it
LONGEST_RUN = 16  # packets that are decoded together; of a longer run (no B-frames at all) nothing is left out


def decode_needed(stream: VideoStream, container: InputContainer, times_s: Sequence[float]) -> Iterator[VideoFrame]:
    """Frames in the order of showing, from the current position on; at least those that the given moments show.

    Args:
        stream: a stream that decodes in one thread and whose container stores times.
        container: it is read to its end, or as far as the caller iterates.
        times_s: moments, ascending, in seconds from the stream's first frame.
    """
    time_base, origin = stream.time_base or Fraction(1, 1000), stream.start_time or 0
    moments = [origin + (time_s + TOLERANCE_S) / float(time_base) for time_s in times_s]
    if not stream.codec_context.is_open:
        stream.codec_context.open()  # now: dav1d reads only here what to skip, and would skip it in the whole file
    for packet, is_needed in _tell_needed(container.demux(stream), moments):
        stream.codec_context.skip_frame = "DEFAULT" if is_needed else "NONREF"
        yield from packet.decode()


def _tell_needed(packets: Iterable[Packet], moments: Sequence[float]) -> Iterator[tuple[Packet, bool]]:
    """Each packet, and whether its frame is shown at one of the moments (in the stream's own unit of time).

    A frame is shown until the next one begins. Which one that is, is certain once packets are decoded later than it is
    shown; until then packets wait, a few at most. A file whose times break these rules is decoded whole from there on.

    Packets that follow one another in decoding and in showing are needed together or not at all: they may be the two
    fields of one frame of H.264, and a field alone would be paired with that of another frame.
    """
    waiting: deque[tuple[Packet, int]] = deque()
    run: list[Packet] = []
    run_is_needed = False
    begins: list[int] = []  # of all frames so far, ascending
    latest: int | None = None  # time of decoding
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
        while True:  # the packet read last stays: what follows it is never certain
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
    """Decoded after the packet before it and not after it is shown, as the standards have it.

    Matroska stores no times of decoding; FFmpeg knows them from the third packet or so on.
    """
    if packet.pts is None or packet.dts is None:
        return packet.pts is not None and latest is None
    return packet.dts <= packet.pts and (latest is None or packet.dts > latest)


def _following(begin: int, begins: Sequence[int]) -> int | None:
    """When the next frame begins; None where none has come yet."""
    index = bisect_right(begins, begin)
    return begins[index] if index < len(begins) else None


def _shows(begin: int, following: int, moments: Sequence[float]) -> bool:
    """Whether a frame is on screen at one of the moments."""
    index = bisect_left(moments, begin)
    return index < len(moments) and moments[index] < following
