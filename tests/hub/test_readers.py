"""Collections in repositories of the Hub are read in place, member by member, through hf:// addresses."""

import json

from tests.dataset_builder.make_videos import encode, story
from tests.dataset_builder.readers import make_collections as make


CODE = """
import json, sys
from huggingface_hub import HfApi
from dataset_builder.howto_interlink import HowtoInterlink, howto_interlink_shards
from dataset_builder.readers import image_text_pairs, obelics_documents

api = HfApi()
api.create_repo("tester/collections", repo_type="dataset")
api.upload_folder(repo_id="tester/collections", repo_type="dataset", folder_path=sys.argv[1])
top = "hf://datasets/tester/collections"
builder = HowtoInterlink("all_clips", annotations=top + "/lists", videos=top + "/videos", num_shards=3)
rows = [*builder.as_streaming_dataset("train")]
builder.download_and_prepare()
print(json.dumps({
    "streamed": [[row["video_id"], len(row["video"]["bytes"])] for row in rows],
    "prepared": builder.as_dataset("train").to_list() == rows,
    "summary": builder.summary().skipped,
    "tars": [row["video_id"] for row in howto_interlink_shards(top + "/tars")],
    "pairs": [row["document_id"] for row in image_text_pairs(top + "/pairs/*.tar")],
    "obelics": [len(row["images"]) for row in obelics_documents(top + "/obelics", images=top + "/obelics_images")],
}))
"""


def test_readers_read_from_the_hub(in_hub_process, tmp_path):
    folder = tmp_path / "collections"
    clips = make.howto_clips(("0:00:00 - 0:00:03", "first"))
    make.write_howto(folder / "lists" / make.HOWTO_TRAIN, [("a b/a.mp4", clips), ("gone.mp4", clips)])
    clip = encode(folder / "videos" / "a b" / "a.mp4", story(0))
    facts = json.dumps({"clips": clips}).encode()
    make.write_tar(folder / "tars" / "0.tar", [("0.mp4", clip.read_bytes()), ("0.json", facts)])
    keys = make.write_img2dataset(folder / "pairs", [2, 1])
    name, url = "train-00000-of-00001", "https://example.org/x"
    make.write_obelics(folder / "obelics" / f"{name}.parquet", [([url, None], [None, "Text."])])
    make.write_tar(folder / "obelics_images" / f"{name}.tar", [(f"{make.hashed(url)}.jpg", make.picture(1))])
    printed = in_hub_process(CODE, str(folder), project=True)
    assert json.loads(printed.splitlines()[-1]) == {
        "streamed": [["a b/a", clip.stat().st_size]],
        "prepared": True,
        "summary": {"missing video": 1},
        "tars": ["0"],
        "pairs": keys,
        "obelics": [2],
    }
