"""Files of a folder from elsewhere are refused before anything in them is read."""

import json
import os
import pickle
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from halspan.core.errors import ModelError
from halspan.models.backbones.loading import load_backbone
from halspan.models.backbones.shards import INDEX, WHOLE, commit_of, fingerprint, open_checkpoint
from halspan.models.folder.safe_files import check_folder, plain_name, read_header, read_json
from halspan.testing.tiny_models import MakeSpec


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (f"touch {self.mark}",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of one sound file of each kind."""
    folder = tmp_path / "folder"
    (folder / "backbone").mkdir(parents=True)
    save_file(
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, folder / "heads.safetensors"
    )
    save_file({"c": torch.zeros(0)}, folder / "backbone" / WHOLE, {"format": "pt"})
    (folder / "detector.json").write_text('{"vocab": {"_target_": 3, "auto_map": 4}}')  # tokens, which choose nothing
    (folder / "README.md").write_text("")
    return folder


def test_a_sound_folder_passes(folder: Path):
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("")
    check_folder(folder)


def test_a_header_says_where_each_tensor_lies(folder: Path):
    entries, about = read_header(folder / "heads.safetensors")
    raw = (folder / "heads.safetensors").read_bytes()
    assert entries["a"].shape == (2, 3)
    stored = torch.frombuffer(bytearray(raw[entries["a"].start : entries["a"].stop]), dtype=torch.float32)
    assert stored.tolist() == [0, 1, 2, 3, 4, 5]
    assert (entries["b"].dtype, entries["b"].stop - entries["b"].start) == ("BF16", 4)
    assert about == {}
    assert read_header(folder / "backbone" / WHOLE)[1] == {"format": "pt"}


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.bin", "weights.pt", "data.pkl"])
def test_a_pickle_is_refused_whatever_its_name_and_not_run(folder: Path, tmp_path: Path, name: str):
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ModelError, match=name):
        check_folder(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("claim", [10 * 2**30, 2**63, 2**64 - 1, 1000])
def test_a_header_that_claims_more_than_the_file_has_is_refused_without_allocating_it(folder: Path, claim: int):
    (folder / "heads.safetensors").write_bytes(claim.to_bytes(8, "little") + b"{}")
    tracemalloc.start()
    with pytest.raises(ModelError, match=f"claims a header of {claim:,} bytes, and has 10 in all"):
        check_folder(folder)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"not json",
        b"[" * 100_000,
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1000]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": 3}',
    ],
)
def test_a_header_that_makes_no_sense_is_refused(folder: Path, header: bytes):
    (folder / "heads.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelError, match=r"heads\.safetensors is (not a safetensors file|incomplete)"):
        check_folder(folder)


def test_an_empty_file_is_no_safetensors_file(folder: Path):
    (folder / "heads.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="not a safetensors file"):
        check_folder(folder)


@pytest.mark.parametrize(
    "value",
    [
        {"_target_": "os.system", "command": "true"},
        {"a": [{"b": {"_target_": "os.system"}}]},
        {"auto_map": {"AutoModel": "modeling.Model"}},
        {"vision_config": {"_attn_implementation": "somebody/kernels"}},
    ],
)
def test_json_that_names_code_to_import_is_refused(folder: Path, value: object):
    (folder / "backbone" / "config.json").write_text(json.dumps(value))
    with pytest.raises(ModelError, match=r"config\.json names code to import"):
        check_folder(folder)


def test_json_that_is_too_large_or_too_deep_is_refused(tmp_path: Path):
    file = tmp_path / "config.json"
    with file.open("wb") as opened:
        opened.truncate(10 * 2**30)  # sparse: it takes no room
    with pytest.raises(ValueError, match="more than the"):
        read_json(file)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not JSON"):
        read_json(file)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (folder / "tokenizer.json").symlink_to(secret)
    with pytest.raises(ModelError, match=r"tokenizer\.json: is a link out of the folder"):
        check_folder(folder)
    check_folder(folder, blobs=tmp_path)


def test_a_folder_that_is_a_link_out_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    (folder / "more").symlink_to(tmp_path / "other")
    with pytest.raises(ModelError, match="is a link out of the folder"):
        check_folder(folder)


def test_what_is_no_plain_file_is_refused(folder: Path):
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelError, match="plain files only"):
        check_folder(folder)


@pytest.mark.parametrize(
    "name", ["../heads.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "..", "", 3, "a\\b.safetensors"]
)
def test_an_index_names_only_files_beside_it(tiny_llava: Path, tmp_path: Path, make_llava_spec: MakeSpec, name: object):
    with pytest.raises(ValueError, match="not a safetensors file in its folder"):
        plain_name(name, INDEX)
    (tmp_path / "config.json").write_text((tiny_llava / "config.json").read_text())
    for file in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_text((tiny_llava / file).read_text())
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
        load_backbone(make_llava_spec(backbone=str(tmp_path)))


def test_a_checkpoint_is_told_from_one_whose_weights_or_configuration_differ(tiny_llava: Path, tmp_path: Path):
    tensors = {name: tensor[...] for name, tensor in open_checkpoint(str(tiny_llava), None).items()}
    (tmp_path / "config.json").write_bytes((tiny_llava / "config.json").read_bytes())
    save_file(tensors, tmp_path / WHOLE)
    assert fingerprint(str(tmp_path), None) == fingerprint(str(tiny_llava), None)
    name = min(tensors)
    save_file(tensors | {name: tensors[name] + 1e-3}, tmp_path / WHOLE)
    assert fingerprint(str(tmp_path), None) != fingerprint(str(tiny_llava), None)
    save_file(tensors, tmp_path / WHOLE)
    (tmp_path / "config.json").write_bytes((tiny_llava / "config.json").read_bytes() + b" ")
    assert fingerprint(str(tmp_path), None) != fingerprint(str(tiny_llava), None)


def test_a_folder_has_no_commit(tiny_llava: Path):
    assert commit_of(str(tiny_llava), None) is None
