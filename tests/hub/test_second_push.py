"""A second push of another size leaves nothing from the first that could be loaded as the model."""

import json

import pytest
import torch

from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from tests.hub.test_publish import PUSH, read_folder


SHARDED = "100KB"
WITH_TRANSFORMERS = """
import json
import sys
from huggingface_hub import HfApi
from transformers import AutoModelForImageTextToText, AutoProcessor
known = {"trust_remote_code": True}
whole, sharded, size = sys.argv[1:]
AutoProcessor.from_pretrained(whole, **known).push_to_hub("tester/cosmo")
for folder, size in ((whole, "50GB"), (sharded, size), (whole, "50GB")):
    model = AutoModelForImageTextToText.from_pretrained(folder, **known)
    model.push_to_hub("tester/cosmo", max_shard_size=size)
    loaded = AutoModelForImageTextToText.from_pretrained("tester/cosmo", **known).state_dict()
    same = all(value.equal(loaded[name]) for name, value in model.state_dict().items())
    print(json.dumps({"files": HfApi().list_repo_files("tester/cosmo"), "same": same}))
"""


@pytest.fixture(scope="module")
def folders(tiny_model_folder, tmp_path_factory):
    """The same architecture twice: in one file, and with other weights in several files."""
    root = tmp_path_factory.mktemp("pushes")
    processor = CosmoProcessor.from_pretrained(tiny_model_folder)
    model = CosmoForConditionalGeneration.from_pretrained(tiny_model_folder)
    for name, size in (("whole", "50GB"), ("sharded", SHARDED)):
        model.save_pretrained(root / name, max_shard_size=size)
        processor.save_pretrained(root / name)
        (root / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny CosMo\n")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
    return {name: root / name for name in ("whole", "sharded")}


def weights(names):
    return {name for name in names if "safetensors" in name}


@pytest.mark.parametrize(("first", "second"), [("sharded", "whole"), ("whole", "sharded")])
def test_publishing_again_deletes_shards_and_code_of_before(hub, in_hub_process, folders, first, second):
    old, new = folders[first], folders[second]
    (old / "renamed_since_cosmo.py").write_text("x = 1\n")
    in_hub_process(PUSH, "model", str(old), "tester/cosmo", "main", project=True)
    (old / "renamed_since_cosmo.py").unlink()
    assert "renamed_since_cosmo.py" in hub.files("model", "tester/cosmo")
    assert weights(hub.files("model", "tester/cosmo")) == weights(read_folder(old))
    in_hub_process(PUSH, "model", str(new), "tester/cosmo", "main", project=True)
    uploaded = hub.files("model", "tester/cosmo")
    del uploaded[".gitattributes"]
    assert uploaded == read_folder(new), "what the folder holds, and nothing else"


def test_push_to_hub_of_transformers_deletes_weights_of_before(in_hub_process, folders):
    """Left-over shards would only take up space; a left-over whole file would be loaded instead of new shards."""
    printed = in_hub_process(WITH_TRANSFORMERS, str(folders["whole"]), str(folders["sharded"]), SHARDED)
    pushes = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert len(weights(read_folder(folders["sharded"]))) > 3
    for push, name in zip(pushes, ("whole", "sharded", "whole"), strict=True):
        assert weights(push["files"]) == weights(read_folder(folders[name]))
        assert push["same"], "what loads is what was pushed last"
        kept = {"processing_cosmo.py", "processor_config.json", "tokenizer.json", "README.md", "config.json"}
        assert kept <= set(push["files"]), "only weights are deleted"
