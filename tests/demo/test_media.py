"""What a visitor drops gives frames at the promised times, or one clear line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.cards import strip_html
from demo.media import Limits, frame_strip, read_medium, read_parts
from tests.demo.conftest import HEIGHT_PX, WIDTH_PX, brightness_of, write_clip


def frame_numbers(medium) -> list[int]:
    return [round((float(np.asarray(frame).mean()) - brightness_of(0)) / 7) for frame in medium.frames]


def test_a_clip_gives_the_middle_frame_of_equal_parts(clip):
    medium = read_medium(clip, 3, Limits())
    assert frame_numbers(medium) == [5, 15, 25], "30 frames in three parts of 10; at a border the later frame shows"
    assert medium.frames[0].size == (WIDTH_PX, HEIGHT_PX)


def test_a_colon_in_a_name_is_no_address(clip, tmp_path, monkeypatch):
    shutil.copy(clip, tmp_path / "Part1: intro.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read_medium(Path("Part1: intro.mp4"), 3, limits=None).frames) == 3


def test_a_clip_shorter_than_the_frames_asked_for_repeats_some(tmp_path):
    medium = read_medium(write_clip(tmp_path / "short.mp4", 2), 5, None)
    assert len(medium.frames) == 5
    assert frame_numbers(medium) == [0, 0, 1, 1, 1]


def test_parts_cover_the_video_in_order(clip):
    parts = list(read_parts(clip, 2, 1.3))  # 3 s: three parts of 1 s
    assert [part.name for part in parts] == [
        "grey.mp4 0:00.0-0:01.0",
        "grey.mp4 0:01.0-0:02.0",
        "grey.mp4 0:02.0-0:03.0",
    ]
    assert [frame_numbers(part) for part in parts] == [[2, 7], [12, 17], [22, 27]]


def test_a_json_file_beside_a_video_names_its_clips(tmp_path, clip):
    video = tmp_path / "told.mp4"
    video.write_bytes(clip.read_bytes())
    spans = [{"start_s": 1.6, "end_s": 2.4}, {"start_s": 0.0, "end_s": 2.0}]  # neither in order nor apart
    video.with_suffix(".json").write_text(json.dumps({"steps": spans}))
    parts = list(read_parts(video, 2, 1.0))
    assert [part.name for part in parts] == ["told.mp4 0:00.0-0:02.0", "told.mp4 0:01.6-0:02.4"]
    assert [part.span for part in parts] == [(0.0, 2.0), (1.6, 2.4)]
    assert [frame_numbers(part) for part in parts] == [[5, 15], [18, 22]]
    video.with_suffix(".json").write_text('{"steps": [{"from": 1}]}')
    with pytest.raises(ValueError, match=r"told\.json holds no clips"):
        list(read_parts(video, 2, 1.0))


def test_a_part_comes_as_soon_as_it_is_decoded(clip, monkeypatch):
    converted = []
    monkeypatch.setattr("demo.media._shrink", lambda picture: converted.append(picture) or picture)
    parts = read_parts(clip, 2, 0.5)
    next(parts)
    assert len(converted) == 2, "of twelve frames"


def test_a_picture_is_one_upright_frame(tmp_path):
    picture = Image.new("RGBA", (31, 17), (255, 0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees, as phones store it
    picture.save(tmp_path / "turned.png", exif=exif)
    medium = read_medium(tmp_path / "turned.png", 7, Limits())
    assert [frame.size for frame in medium.frames] == [(17, 31)]
    assert medium.frames[0].mode == "RGB"


def test_a_picture_with_another_one_inside_is_that_picture(tmp_path):
    """Phones and cameras write such files: the first picture is the one to show, and has the orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    first, second = Image.new("RGB", (31, 17), "red"), Image.new("RGB", (31, 17), "blue")
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second], exif=exif)
    [frame] = read_medium(tmp_path / "phone.jpg", 7, Limits()).frames
    assert frame.size == (17, 31)
    assert frame.getpixel((8, 15))[0] > 250


def test_an_animated_picture_is_a_clip(tmp_path):
    greys = [Image.new("L", (20, 20), 60 * index) for index in range(4)]
    greys[0].save(tmp_path / "moving.gif", save_all=True, append_images=greys[1:], duration=200)
    assert len(read_medium(tmp_path / "moving.gif", 4, Limits()).frames) == 4


def test_what_is_no_picture_or_clip_is_named(tmp_path, clip):
    (tmp_path / "letter.mp4").write_text("dear model")
    with pytest.raises(ValueError, match=r"letter\.mp4 cannot be read as a video or picture"):
        read_medium(tmp_path / "letter.mp4", 3, Limits())
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"half\.mp4"):
        read_medium(tmp_path / "half.mp4", 3, Limits())
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"torn\.png is a damaged picture"):
        read_medium(tmp_path / "torn.png", 3, Limits())
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(
        ValueError, match=r"page\.png cannot be read as a video or picture"
    ):  # no external program is started
        read_medium(tmp_path / "page.png", 3, Limits())


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        (Limits(max_file_bytes=100), "at most 0 MB"),
        (Limits(max_duration_s=2.0), "lasts 3 s; at most 2 s"),
        (Limits(max_side_px=40), "48 x 32 pixels; at most 40"),
    ],
)
def test_limits_are_said(clip, limits, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_medium(clip, 3, limits)
    assert read_medium(clip, 3, None).frames, "a limit holds for strangers only"


def test_the_size_of_a_picture_is_checked_before_it_is_decoded(tmp_path):
    Image.new("L", (50, 9)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="50 x 9 pixels"):
        read_medium(tmp_path / "wide.png", 3, Limits(max_side_px=49))


def test_the_strip_shows_the_frames_in_order(clip):
    strip = frame_strip(read_medium(clip, 3, None), height_px=32)
    row = np.asarray(strip)[16].mean(axis=-1)
    assert strip.height == 32
    middles = [row[24], row[24 + 52], row[24 + 104]]  # 48 px wide, 4 px between
    assert [round((value - brightness_of(0)) / 7) for value in middles] == [5, 15, 25]


@pytest.mark.parametrize("size", [(4096, 1), (1, 4096), (1, 1)])
def test_the_strip_of_a_thin_picture_can_be_shown(size, tmp_path):
    Image.new("RGB", size).save(tmp_path / "thin.png")
    strip = frame_strip(read_medium(tmp_path / "thin.png", 3, Limits()), height_px=160)
    assert strip.height == 160
    assert "base64" in strip_html(strip, "")
