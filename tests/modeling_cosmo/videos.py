"""Write videos in which the brightness of every frame gives its number."""

from fractions import Fraction

import av
import numpy as np


STEP = 10
"""Brightness of frame i is `STEP` x i, so up to 25 frames can be told apart."""
HEIGHT, WIDTH = 16, 32


def write_video(path, num_frames, rate, *, noisy=False, codec="libx264", container=None, times=None, **options):
    """Write a video file and return its path.

    Args:
        path: determines the container.
        num_frames: how many, each of its own brightness (modulo 25 of them).
        rate: frames per second.
        noisy: random pixels instead, so that the file is large.
        codec: FFmpeg's name.
        container: options of the container.
        times: when each frame is shown, in milliseconds, instead of the even rate.
        options: of the codec.
    """
    draw = np.random.default_rng(0)
    with av.open(str(path), "w", container_options=container or {}) as output:
        quality = {} if codec in ("gif", "mpeg4") else {"crf": "1"}
        stream = output.add_stream(codec, rate=rate, options=quality | options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgb8" if codec == "gif" else "yuv420p"
        if times:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        output.start_encoding()  # a header even where no frame follows
        for index in range(num_frames):
            pixels = np.full((HEIGHT, WIDTH, 3), STEP * (index % 25), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(
                draw.integers(0, 256, pixels.shape, dtype=np.uint8) if noisy else pixels, format="rgb24"
            )
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def shown(frames):
    """Numbers of these frames; compression changes brightness by a few steps of 255."""
    return [round(float(frame.mean()) / STEP) for frame in frames]
