"""Tiny collections in the layouts of their sources."""

import base64
import csv
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.dataset_builder.make_videos import encode, story


Members = Iterable[tuple[str | tarfile.TarInfo, bytes]]


def picture(number: int, kind: str = "JPEG", size: tuple[int, int] = (13, 7)) -> bytes:
    """An encoded picture (width, height) whose grey level is its number."""
    file = io.BytesIO()
    Image.new("RGB", size, (number, number, number)).save(file, kind)
    return file.getvalue()


def video(folder: Path, seed: int) -> bytes:
    """A video of 6 s."""
    return encode(folder / f"{seed}.mp4", story(seed)).read_bytes()


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_img2dataset(folder: Path, sizes: Sequence[int]) -> list[str]:
    """Shards `00000.tar` with `.jpg`, `.txt`, `.json`, each next to a Parquet and a JSON file of metadata."""
    keys = []
    for shard, size in enumerate(sizes):
        members: list[tuple[str | tarfile.TarInfo, bytes]] = []
        for index in range(size):
            key = f"{shard:05d}{index:04d}"
            keys.append(key)
            facts: dict[str, Any] = {
                "url": f"https://example.org/{key}.jpg",
                "caption": f"picture {key}",
                "status": "success",
            }
            facts |= {"key": key, "error_message": None, "width": 13, "height": 7, "exif": "{}"}
            members += [
                (f"{key}.jpg", picture(len(keys))),
                (f"{key}.txt", f"picture {key}".encode()),
                (f"{key}.json", json.dumps(facts, indent=4).encode()),
            ]
        write_tar(folder / f"{shard:05d}.tar", members)
        facts_table = pa.table({"url": ["https://example.org"] * size, "caption": ["facts only"] * size})
        pq.write_table(facts_table, folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return keys


def write_webvid(folder: Path, num_rows: int, videos: Sequence[int]) -> Path:
    """`results_2M_val.csv` and the videos `{page_dir}/{videoid}.mp4` of some of its rows."""
    for row in videos:
        encode(folder / "videos" / f"{row // 3:06d}_{row // 3 + 50:06d}" / f"{1000 + row}.mp4", story(row))
    path = folder / "results_2M_val.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])
        for row in range(num_rows):
            page = f"{row // 3:06d}_{row // 3 + 50:06d}"
            url = f"https://example.org/{row}.mp4"
            table.writerow([1000 + row, url, "PT00H00M06S", page, f'Scene, with comma and "quotes" {row}'])
    return path


def mmc4_page(
    number: int, sentences: Sequence[str], matrix: np.ndarray, images: Sequence[bytes | None]
) -> dict[str, Any]:
    """A line of MMC4 v1.1; pictures passed here are embedded in it, as in the shards that models train on."""
    infos = []
    for index, image in enumerate(images):
        info: dict[str, Any] = {
            "image_name": f"{number:04d}{index:08x}.jpg",
            "raw_url": f"https://example.org/{number}/{index}.jpg",
            "matched_text_index": int(matrix[index].argmax()),
            "matched_sim": float(matrix[index].max()),
            "face_detections": None,
        }
        if image is not None:
            info["image_base64"] = base64.b64encode(image).decode()
        infos.append(info)
    return {
        "url": f"https://example.org/page{number}",
        "text_list": list(sentences),
        "image_info": infos,
        "similarity_matrix": matrix.tolist(),
        "could_have_url_duplicate": 0,
    }


def write_mmc4_zip(path: Path, pages: Sequence[Any]) -> Path:
    """`docs_no_face_shard_N_v2.jsonl.zip` with one `.jsonl` inside; a page may also be a raw line of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [page if isinstance(page, str) else json.dumps(page) for page in pages]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.name.removesuffix(".zip"), "\n".join(lines) + "\n")
    return path


def write_obelics(path: Path, pages: Sequence[tuple[Sequence[str | None], Sequence[str | None]]]) -> Path:
    """A Parquet shard of OBELICS: URLs and texts in parallel lists, metadata as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "images": list(images),
            "metadata": json.dumps([image and {"src": image} for image in images]),
            "general_metadata": json.dumps({"url": f"https://example.org/{number}", "warc_filename": "x"}),
            "texts": list(texts),
        }
        for number, (images, texts) in enumerate(pages)
    ]
    strings = pa.list_(pa.string())
    schema = pa.schema({"images": strings, "metadata": pa.string(), "general_metadata": pa.string(), "texts": strings})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def hashed(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


HOWTO_TRAIN = "Howto-Interlink7M_subset_w_all_clips_train.tsv"
HOWTO_VALIDATION = "Howto-Interlink7M_subset_w_all_clips_val.tsv"


def howto_clips(*clips: tuple[str, str]) -> str:
    return json.dumps([{"clip": times, "caption": caption} for times, caption in clips])


def write_howto(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    """A published list: header, then path and JSON, quoted as pandas quotes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("path", "clips"), *rows])
    return path
