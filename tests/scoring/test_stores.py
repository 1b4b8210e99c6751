"""Tests of inputs, images and outputs in an object store: a local server that speaks S3, and fsspec's client of it."""

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier

import fsspec
import psutil
import pytest
from small_scoring import arguments_of, damage, records, write_captions

from halspan.cli import main
from halspan.core.errors import ConfigError, DataError, ResourceError
from halspan.data.stores import access, copies
from halspan.data.stores.ahead import ReadAhead
from halspan.data.stores.paths import StorePath, parse_place
from halspan.data.streams import merging, stored
from halspan.data.streams import records as stream
from halspan.data.streams.merging import merge_parts
from halspan.data.streams.parts import part_of
from halspan.data.streams.records import ItemReader, Position, RawRecord, Shard
from halspan.data.streams.resumable import Paths, ResumableOutput, open_output
from halspan.data.streams.stored import StoredOutput
from halspan.scoring import processes, ray_actors
from halspan.scoring.endpoints import open_source
from halspan.scoring.job import Job
from halspan.scoring.shards import prepare, run_all

N = 40
KEYS = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server():
    """Start a server of an object store; give its address."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
            patch.setenv(name, value)
        yield server
    server.stop()


@pytest.fixture(scope="module")
def made(detector, tmp_path_factory):
    """Return captions, three of whose records cannot be used, and a folder where one process has scored them."""
    folder = tmp_path_factory.mktemp("made")
    captions = write_captions(folder / "in" / "captions.jsonl", N, per_image=7)
    damage(captions, 5, 17, 30)
    return captions


@pytest.fixture
def bucket(server, made, monkeypatch, tmp_path):
    """Give a bucket with captions and their images, as fsspec sees it, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stream, "BLOCK", 4)
    store = fsspec.filesystem("s3", use_listings_cache=False)
    if store.exists("bucket"):
        store.rm("bucket", recursive=True)
    store.mkdir("bucket")
    for path in made.parent.iterdir():
        store.put_file(str(path), f"bucket/in/{path.name}")
    yield store
    fsspec.filesystem("s3").invalidate_cache()


@pytest.fixture
def client(bucket):
    """Return the client that the code under test uses."""
    return fsspec.filesystem("s3")


@pytest.fixture
def run(detector, capsys):
    def run(*more, input_="s3://bucket/in/captions.jsonl", output="s3://bucket/out/scored.jsonl"):
        return status(capsys, *arguments_of(detector, input_, output, *more))

    return run


def status(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0, capsys.readouterr().err


@pytest.fixture
def whole(run, bucket, tmp_path):
    """Return what one process writes to a disk."""
    output = tmp_path / "whole" / "scored.jsonl"
    assert run(output=output)[0] == 0
    return {name: (output.parent / name).read_bytes() for name in ("scored.jsonl", "scored.rejected.jsonl")}


def objects(bucket, folder="bucket/out"):
    return {name.removeprefix(f"{folder}/"): bucket.cat_file(name) for name in bucket.find(folder)}


def images_of(text):
    source = open_source(parse_place(text, "--input"))
    return [(record.content["id"], record.content["image"]) for record in source.read(Position(), Shard())]


def left_here(tmp_path):
    """Return what outputs have left in the cache; locks aside."""
    return [
        path.name for path in (tmp_path / "cache").rglob("outputs/**/*") if path.is_file() and path.suffix != ".lock"
    ]


def test_captions_and_images_of_a_store_are_scored_into_it(run, bucket, whole, made, tmp_path):
    code, err = run()
    assert code == 0
    assert f"{N + 3} records: {N} scored, 3 rejected (scored.rejected.jsonl says why)" in err
    assert "Written to s3://bucket/out/scored.jsonl." in err
    assert objects(bucket) == whole
    assert left_here(tmp_path) == []
    scored = [json.loads(line) for line in whole["scored.jsonl"].splitlines()]
    assert {record["image"] for record in scored} == {
        f"s3://bucket/in/{color}.png" for color in ("red", "green", "blue", "white")
    }


def test_scores_are_those_of_the_same_files_on_a_disk(run, made, whole, tmp_path):
    output = tmp_path / "disk" / "scored.jsonl"
    assert run(input_=made, output=output)[0] == 0
    on_disk, in_store = records(output), [json.loads(line) for line in whole["scored.jsonl"].splitlines()]
    assert len(on_disk) == N
    for one, other in zip(on_disk, in_store, strict=True):
        assert {**one, "image": None} == {**other, "image": None}


def test_what_is_scored_is_finished_and_is_not_replaced_unasked(run, bucket):
    assert run()[0] == 0
    bucket.rm_file("bucket/out/scored.rejected.jsonl")
    assert "s3://bucket/out/scored.jsonl is finished already" in run("--resume")[1]
    code, err = run()
    assert code == 2
    assert "s3://bucket/out/scored.jsonl exists already; --overwrite replaces it" in err
    assert "scored.rejected.jsonl" not in objects(bucket)
    assert run("--overwrite")[0] == 0
    assert "scored.rejected.jsonl" in objects(bucket)


def test_rejected_records_of_an_earlier_run_do_not_stay(run, bucket, made):
    assert run()[0] == 0
    bucket.pipe_file("bucket/in/captions.jsonl", made.read_bytes().replace(b"no record\n", b""))
    assert run("--overwrite")[0] == 0
    assert set(objects(bucket)) == {"scored.jsonl"}


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
def test_compressed_files_and_parquet_go_to_and_fro(run, bucket, tmp_path, suffix):
    here = tmp_path / "whole" / f"scored{suffix}"
    assert run(output=here)[0] == 0
    assert run(output=f"s3://bucket/out/scored{suffix}")[0] == 0
    assert objects(bucket)[f"scored{suffix}"] == here.read_bytes()
    # predictions are captions, whose images are below the folder by their full addresses
    again = f"s3://bucket/out/again{suffix}"
    assert run("--images", "s3://bucket/in", input_=f"s3://bucket/out/scored{suffix}", output=again)[0] == 0
    assert images_of(again) == images_of(str(here))


def test_an_input_is_copied_once_until_its_content_is_another(bucket, made):
    place = parse_place("s3://bucket/in/captions.jsonl", "--input")
    seen = []
    copy = copies.fetch(place, lambda n_bytes, size: seen.append((n_bytes, size)))
    assert copy.read_bytes() == made.read_bytes()
    assert seen[-1] == (made.stat().st_size, made.stat().st_size)
    inode = copy.stat().st_ino
    assert copies.fetch(place).stat().st_ino == inode
    bucket.pipe_file("bucket/in/captions.jsonl", made.read_bytes().replace(b"It is", b"It iz"))  # of the same length
    assert b"It iz" in copies.fetch(place).read_bytes()
    assert copy.read_bytes() == made.read_bytes()


def test_a_copy_that_breaks_off_is_no_copy(bucket, client, monkeypatch):
    place = parse_place("s3://bucket/in/captions.jsonl", "--input")

    def half(path, target, callback):
        Path(target).write_bytes(bucket.cat_file(path)[:100])

    with monkeypatch.context() as patch:
        patch.setattr(client, "get_file", half)
        with pytest.raises(ResourceError, match="was replaced while it was read"):
            copies.fetch(place)
    assert len(copies.fetch(place).read_bytes()) > 100


def test_what_a_killed_process_has_copied_is_removed_by_the_next(bucket, made):
    place = parse_place("s3://bucket/in/captions.jsonl", "--input")
    copy = copies.fetch(place)
    copy.unlink()
    half = copy.with_name(f".{copy.name}.1234567.tmp")
    half.write_bytes(b"half")
    assert copies.fetch(place) == copy
    assert not half.exists()


def test_shards_are_merged_in_the_store_into_the_bytes_of_one_process(run, bucket, whole, tmp_path, capsys):
    for index in (3, 1, 2):
        code, err = run("--shard", f"{index}/3", "--resume")
        assert code == 0
    assert "when all are, `halspan score --merge s3://bucket/out/scored.jsonl` joins them" in err
    assert "scored.jsonl" not in objects(bucket)
    assert len([name for name in objects(bucket) if name.endswith(".journal")]) == 3
    assert run("--shard", "2/3", "--resume") == (0, err)  # what it had counted
    refused = run("--shard", "2/3")
    assert refused[0] == 2
    assert "--resume continues it, --overwrite begins again" in refused[1]
    code, err = status(capsys, "score", "--merge", "s3://bucket/out/scored.jsonl")
    assert code == 0
    assert f"{N + 3} records: {N} scored, 3 rejected" in err
    assert objects(bucket) == whole
    assert left_here(tmp_path) == []


def test_a_part_with_other_settings_is_not_continued_but_replaced_where_that_is_asked(run, bucket):
    assert run("--shard", "2/3")[0] == 0
    code, err = run("--shard", "2/3", "--resume", "--batch-tokens", 9)
    assert code == 2
    assert "--resume: the interrupted run had --batch-tokens 16384, this one has 9" in err
    assert run("--shard", "2/3", "--overwrite", "--batch-tokens", 999)[0] == 0
    (journal,) = [data for name, data in objects(bucket).items() if name.endswith(".journal")]
    assert json.loads(journal.splitlines()[0])["settings"]["--batch-tokens"] == 999


OUTPUT = parse_place("s3://bucket/out/scored.jsonl", "--output")


def write_parts(count, *, name="block", resume=False, lacks=()):
    """Put parts into the store as shards do, of records that are their block's number."""
    output = StoredOutput(OUTPUT)
    for index in range(1, count + 1):
        shard = Shard(index, count)
        if index in lacks:
            continue
        output.begin(shard, resume=resume)
        settings = {"version": name, "--shard": str(shard)}
        with open_output(part_of(output.working, shard), settings=settings, resume=resume) as opened:
            blocks = [] if opened.mark.is_complete else range(index - 1, 8, count)
            for n, block in enumerate(blocks, 1):
                opened.append(
                    records=[{name: block}] * (block % 3),
                    rejected=[{"line": block}] * (block % 2),
                    position=Position(block * stream.BLOCK + 1),
                    counts={"scored": n},
                )
            opened.complete()
            output.put_part(opened.paths)


EXPECTED = {
    "scored.jsonl": b"".join(b'{"block": %d}\n' % block * (block % 3) for block in range(8)),
    "scored.rejected.jsonl": b"".join(b'{"line": %d}\n' % block for block in range(1, 8, 2)),
}


def die(*_, **__):
    raise KeyboardInterrupt


def dying_after(function, n):
    """Return a function that is killed instead of its n-th call."""
    calls = []

    def call(*arguments, **more):
        calls.append(arguments)
        return die() if len(calls) == n else function(*arguments, **more)

    return call


_STEPS = [(stored, "download", n) for n in range(1, 9)] + [(stored, "upload", n) for n in range(1, 6)]
_STEPS += [(stored, "remove", n) for n in range(1, 10)] + [(merging, "_join", 1), (merging, "write_merged", 2)]
_STEPS += [(ResumableOutput, "complete", 1), (Paths, "discard_unfinished", 2)]


@pytest.mark.parametrize(("where", "name", "n"), _STEPS)
def test_a_merge_that_is_killed_at_any_moment_can_be_repeated(bucket, where, name, n, monkeypatch, tmp_path):
    write_parts(3)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, dying_after(getattr(where, name), n))
        with pytest.raises(KeyboardInterrupt):
            merge_parts(OUTPUT)
    assert merge_parts(OUTPUT)["scored"] in (8, *range(1, 8))
    assert objects(bucket) == EXPECTED
    assert left_here(tmp_path) == []


@pytest.mark.parametrize("n", range(1, 15))
def test_a_part_that_replaces_another_and_is_killed_on_its_way_is_never_mixed(bucket, n, monkeypatch, tmp_path):
    write_parts(2, name="other")
    die_at_step = dying_after(lambda function, *arguments: function(*arguments), n)
    with monkeypatch.context() as patch:
        for name in ("upload", "remove"):
            patch.setattr(stored, name, partial(die_at_step, getattr(stored, name)))
        with pytest.raises(KeyboardInterrupt):
            write_parts(2)
    there = objects(bucket, "bucket/out/scored.jsonl.parts")
    for journal in [name for name in there if name.endswith(".journal")]:
        version = json.loads(there[journal].splitlines()[0])["settings"]["version"]
        lines = there[journal.replace(".journal", ".partial")].splitlines()
        assert all(version in json.loads(line) for line in lines)
        assert len(lines) == (3 if "1-of-2" in journal else 4)
    write_parts(2)
    merge_parts(OUTPUT)
    assert objects(bucket) == EXPECTED
    assert left_here(tmp_path) == []


@pytest.mark.parametrize("n", range(4, 15))
def test_a_part_that_is_killed_on_its_way_is_put_there_by_the_next_run(bucket, n, monkeypatch, tmp_path):
    die_at_step = dying_after(lambda function, *arguments: function(*arguments), n)
    with monkeypatch.context() as patch:
        for name in ("upload", "remove"):
            patch.setattr(stored, name, partial(die_at_step, getattr(stored, name)))
        with pytest.raises(KeyboardInterrupt):
            write_parts(2)
    write_parts(2, resume=True)
    merge_parts(OUTPUT)
    assert objects(bucket) == EXPECTED
    assert left_here(tmp_path) == []


class Failing:
    """A store that fails in the middle of an upload."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_, **__):
        raise self.error


@pytest.mark.parametrize("more", [(), ("--shard", "1/1")])
def test_a_store_that_fails_during_the_upload_is_one_line_and_nothing_is_scored_again(
    run, bucket, client, whole, monkeypatch, more
):
    with monkeypatch.context() as patch:
        patch.setattr(client, "put_file", Failing(TimeoutError("no answer")))
        code, err = run(*more)
    assert code == 1
    assert "error: s3://bucket/out/scored.rejected.jsonl: cannot be written (no answer)" in err
    assert err.count("\n") == 1
    assert objects(bucket) == {}
    code, err = run()
    assert code == 2
    assert "--resume continues it" in err
    with monkeypatch.context() as patch:
        patch.setattr(Job, "loaded", property(die))  # which scoring would need
        assert run("--resume", *more)[0] == 0
    assert objects(bucket) == whole


def test_a_store_that_fails_during_the_upload_of_a_part_is_resumed(run, bucket, monkeypatch):
    upload, calls = access.upload, []

    def second_fails(source, path):
        calls.append(path)
        if len(calls) == 2:
            raise ResourceError("the store fails")
        upload(source, path)

    with monkeypatch.context() as patch:
        patch.setattr(stored, "upload", second_fails)
        assert run("--shard", "2/3") == (1, "error: the store fails\n")
    assert not [name for name in objects(bucket) if name.endswith(".journal")]
    with monkeypatch.context() as patch:
        patch.setattr(Job, "loaded", property(die))
        assert run("--shard", "2/3", "--resume")[0] == 0
    assert [name for name in objects(bucket) if name.endswith(".journal")]


def test_a_store_that_fails_while_images_are_read_ends_the_run_and_rejects_no_record(
    run, bucket, client, whole, monkeypatch
):
    cat, reads = client.cat_file, []

    def fourth_fails(path, **more):
        if path.endswith(".png"):
            reads.append(path)
            if len(reads) == 4:
                raise PermissionError("the token has expired")
        return cat(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(client, "cat_file", fourth_fails)
        code, err = run()
    assert code == 1
    assert "png: cannot be read: the store refuses it (the token has expired); check credentials" in err
    assert objects(bucket) == {}
    assert run("--resume")[0] == 0
    assert objects(bucket) == whole


def test_missing_buckets_and_credentials_are_one_line_before_anything_is_loaded(run, bucket, monkeypatch):
    monkeypatch.setattr(Job, "loaded", property(die))
    for more, message in {
        ("s3://nope/in/captions.jsonl", "s3://bucket/out/scored.jsonl"): "s3://nope/in/captions.jsonl: does not exist",
        ("s3://bucket/in/captions.jsonl", "s3://nope/scored.jsonl"): "s3://nope: does not exist; correct the address",
    }.items():
        code, err = run(input_=more[0], output=more[1])
        assert code == 1
        assert message in err
        assert err.count("\n") == 1
    code, err = run("--images", "s3://bucket/photos")
    assert (code, err.count("\n")) == (1, 1)
    assert "s3://bucket/photos: does not exist" in err


def test_a_cache_that_cannot_be_written_is_one_line(run, bucket, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    code, err = run()
    assert (code, err.count("\n")) == (1, 1)
    assert f"XDG_CACHE_HOME: {tmp_path}/file/halspan/inputs/" in err
    with pytest.raises(DataError, match=r"XDG_CACHE_HOME: .* cannot be written"):
        merge_parts(OUTPUT)


def test_who_may_read_but_not_list_is_not_refused(run, bucket, client, monkeypatch):
    info = client.info

    def refusing(path, **more):
        if path in ("bucket", "bucket/in"):
            raise PermissionError("Forbidden")
        return info(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(client, "info", refusing)
        assert run("--images", "s3://bucket/in")[0] == 0
    assert "scored.jsonl" in objects(bucket)


def test_what_is_left_here_of_a_run_with_other_settings_goes_where_that_is_asked(bucket, detector):
    shard = Shard(2, 3)
    part = part_of(StoredOutput(OUTPUT).working, shard)
    with open_output(part, settings={"--threads": 9}, resume=False) as opened:
        opened.append(records=[{"other": 1}], rejected=[], position=Position(5), counts={})
    job = Job(
        detector=str(detector), input_=parse_place("s3://bucket/in/captions.jsonl", ""), output=OUTPUT, device="cpu"
    )
    with pytest.raises(ConfigError, match="had --threads 9, this one has 1"):
        job.run(shard, resume=True)
    replace(job, restarts=True).run(shard, resume=True)
    assert b"other" not in b"".join(objects(bucket).values())


def test_without_credentials_it_says_so_in_one_line(run, bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    fresh = fsspec.filesystem("s3", skip_instance_cache=True)
    monkeypatch.setattr(access.fsspec, "filesystem", lambda _: fresh)
    code, err = run()
    assert (code, err.count("\n")) == (1, 1)
    assert "Unable to locate credentials" in err
    assert "s3://bucket: cannot be read" in err


@pytest.mark.parametrize(
    ("scheme", "hint"), [("s3", "pip install 'halspan[s3]'"), ("gs", "pip install gcsfs"), ("az", "pip install adlfs")]
)
def test_a_store_without_its_package_says_what_to_install(run, monkeypatch, scheme, hint):
    if scheme == "s3":
        monkeypatch.setattr(access.fsspec, "filesystem", Failing(ImportError("Install s3fs to access S3")))
    code, err = run(input_=f"{scheme}://bucket/captions.jsonl", output="scored.jsonl")
    assert code == 2
    assert hint in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/a.jsonl", "--input: ftp:// cannot be used; one of s3, gs, az, abfs, hf"),
        ("file:///etc/a.jsonl", "file:// cannot be used"),
        ("simplecache::s3://bucket/a.jsonl", "cannot be used"),
        ("S3://bucket/a.jsonl", "cannot be used"),
        ("s3://bucket//a.jsonl", "is no address of an object"),
        ("s3://bucket/../a.jsonl", "is no address of an object"),
        ("s3://", "is no address of an object"),
        ("s3://bucket/a\\b.jsonl", "is no address of an object"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_place(text, "--input")


@pytest.mark.parametrize(
    ("text", "name", "root"),
    [
        ("hf://datasets/me/photos/in/a.jsonl", "a.jsonl", "hf://datasets/me/photos"),
        ("hf://me/model/a.jsonl", "a.jsonl", "hf://me/model"),
        ("gs://bucket/a.jsonl.gz", "a.jsonl.gz", "gs://bucket"),
    ],
)
def test_addresses_are_parsed(text, name, root):
    place = parse_place(text, "--input")
    assert (str(place), place.name, str(place.root)) == (text, name, root)
    assert isinstance(place, StorePath)


def test_the_hub_without_a_network_is_one_line(run, monkeypatch):
    code, err = run(input_="hf://datasets/me/photos/captions.jsonl", output="scored.jsonl")
    assert (code, err.count("\n")) == (1, 1)
    assert "hf://datasets/me/photos/captions.jsonl: cannot be read" in err


def read(image, images="s3://bucket/in"):
    record = RawRecord(
        position=Position(1), content={"image": image, "text": "It is."}, problem=None, raw="", n_bytes=1
    )
    return ItemReader(parse_place(images, "--images"), parse_place("out", "--output")).read(record)


@pytest.mark.parametrize(
    "image",
    [
        "../other/red.png",
        "a/../../other/red.png",
        "/in/red.png",
        "/etc/passwd",
        "s3://other/red.png",
        "s3://bucket/in-other/red.png",
        "s3://bucket/in/../other/red.png",
        "s3://bucket/in//other",
        "s3://bucket/in",
        "S3://bucket/in/red.png",
        "gs://bucket/in/red.png",
        "file:///etc/passwd",
        "simplecache::s3://bucket/in/red.png",
        "..\\other\\red.png",
        "red.png\n",
        "\ud800.png",
        ".",
        "x" * 2000,
    ],
)
def test_records_name_only_images_below_the_folder(image):
    with pytest.raises(DataError, match=r"^image: "):
        read(image)


def test_records_reach_no_store_from_a_folder_of_this_machine():
    with pytest.raises(DataError, match=r"is in an object store; give its folder there as --images"):
        read("s3://bucket/in/red.png", images="photos")


@pytest.mark.parametrize(
    ("image", "address"),
    [
        ("red.png", "s3://bucket/in/red.png"),
        ("./a/red.png", "s3://bucket/in/a/red.png"),
        ("s3://bucket/in/ä b?versionId=1#%2e.png", "s3://bucket/in/ä b?versionId=1#%2e.png"),
    ],
)
def test_images_below_the_folder_are_called_by_their_address(image, address):
    item = read(image)
    assert (item.caption.image, str(item.key)) == (address, address)


def test_images_that_cannot_be_used_are_rejected_with_their_records_alone(run, bucket, made):
    bucket.pipe_file("bucket/in/red.png", b"")
    bucket.pipe_file("bucket/in/blue.png", b"no image")
    bucket.rm_file("bucket/in/green.png")
    lines = made.read_text().splitlines(keepends=True)
    foreign = json.dumps({"image": "s3://other/red.png", "text": "It is."}) + "\n"
    bucket.pipe_file("bucket/in/captions.jsonl", "".join([foreign, *lines]).encode())
    assert run()[0] == 0
    rejected = [json.loads(line) for line in objects(bucket)["scored.rejected.jsonl"].splitlines()]
    reasons = {reason["reason"].partition(";")[0] for reason in rejected}
    assert {
        "image: 's3://other/red.png' is not below s3://bucket/in, and records may name only images there",
        "image s3://bucket/in/red.png: is empty (0 bytes)",
        "s3://bucket/in/green.png: does not exist",
    } <= reasons
    assert any(reason.startswith("image s3://bucket/in/blue.png: is not an image") for reason in reasons)


def test_objects_are_read_a_few_ahead_and_each_only_once():
    paths = [parse_place(f"s3://bucket/{number}", "") for number in range(30)]
    together, begun = Barrier(8, timeout=20), []

    def read(path):
        begun.append(path)
        if len(begun) <= 8:
            together.wait()  # which fails unless eight are read at the same time
        return path.name.encode()

    ahead = ReadAhead([path for path in paths for _ in range(3)], read)
    assert ahead.read(paths[0]) == b"0"
    assert len(begun) == 8
    assert [ahead.read(path) for path in paths[1:]] == [path.name.encode() for path in paths[1:]]
    assert sorted(map(str, begun)) == sorted(map(str, paths))
    assert ahead.read(paths[3]) == b"3"


def test_images_beyond_the_largest_are_rejected(bucket, monkeypatch):
    with pytest.raises(DataError, match=r"s3://bucket/in/red.png: is larger than 9 bytes"):
        access.read_bytes(parse_place("s3://bucket/in/red.png", "--images"), 9)


def test_images_of_this_machine_are_called_by_their_absolute_path_in_a_store(run, bucket, made):
    assert run("--images", made.parent)[0] == 0
    scored = [json.loads(line) for line in objects(bucket)["scored.jsonl"].splitlines()]
    assert {record["image"] for record in scored} == {
        str(made.parent / f"{color}.png") for color in ("red", "green", "blue", "white")
    }


def test_a_plan_asks_for_the_sizes_of_images(run, bucket):
    assert run("--plan")[0] == 0
    assert objects(bucket) == {}


def test_parts_that_were_damaged_in_the_store_are_named(bucket):
    write_parts(2)
    name = next(name for name in bucket.find("bucket/out") if name.endswith("2-of-2.jsonl.partial"))
    bucket.pipe_file(name, bucket.cat_file(name)[:-1])
    with pytest.raises(DataError, match=rf"s3://{name}: has .* bytes, and its journal speaks of"):
        merge_parts(OUTPUT)


def test_what_others_write_into_the_store_is_seen(bucket):
    write_parts(2)
    output = StoredOutput(OUTPUT)
    assert [str(shard) for shard in output.finished()] == ["1/2", "2/2"]
    bucket.rm_file("bucket/out/scored.jsonl.parts/scored.jsonl.2-of-2.jsonl.journal")
    assert [str(shard) for shard in output.finished()] == ["1/2"]
    assert not access.exists(OUTPUT)
    bucket.pipe_file("bucket/out/scored.jsonl", b"")
    assert access.exists(OUTPUT)


def test_parts_that_are_missing_are_named_by_the_address(bucket):
    with pytest.raises(ConfigError, match=r"there are no parts beside s3://bucket/out/scored.jsonl"):
        merge_parts(OUTPUT)
    write_parts(3)
    StoredOutput(OUTPUT).remove_part(Shard(2, 3))
    with pytest.raises(ConfigError, match=r"s3://bucket/out/scored.jsonl lacks the shards 2/3"):
        merge_parts(OUTPUT)


@pytest.fixture
def many(bucket, detector, tmp_path, monkeypatch, run):
    """Put captions of almost four blocks of 256 into the bucket; return what one process writes of them to a disk."""
    monkeypatch.setattr(stream, "BLOCK", 256)
    captions = write_captions(tmp_path / "many" / "captions.jsonl", 3 * 256 + 10, per_image=100)
    damage(captions, 5, 300)
    bucket.put_file(str(captions), "bucket/in/captions.jsonl")
    output = tmp_path / "whole" / "scored.jsonl"
    assert run(output=output)[0] == 0
    return {name: (output.parent / name).read_bytes() for name in ("scored.jsonl", "scored.rejected.jsonl")}


def run_killing(detector, launch, name):
    """Score on two workers, one of which is killed once a block is finished."""
    job = Job(
        detector=str(detector), input_=parse_place("s3://bucket/in/captions.jsonl", ""), output=OUTPUT, device="cpu"
    )
    shards = prepare(job, workers=2, n_shards=3, resume=True, overwrite=False)
    killed = []

    def kill(n_lines):
        if n_lines and not killed:
            workers = [
                child for child in psutil.Process().children(recursive=True) if name in " ".join(child.cmdline())
            ]
            workers[0].kill()
            killed.append(workers[0])

    run_all(job, shards, workers=2, launch=launch, on_start=lambda _: None, on_progress=kill)
    assert killed


@pytest.mark.slow
def test_processes_that_are_killed_write_the_bytes_of_one_into_the_store(detector, bucket, many, tmp_path):
    run_killing(detector, processes.launch, "spawn_main")
    assert objects(bucket) == many
    assert left_here(tmp_path) == []


@pytest.mark.slow
def test_actors_that_are_killed_write_the_bytes_of_one_process_into_the_store(detector, bucket, many, tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        run_killing(detector, ray_actors.launch, "ray::Worker")
    finally:
        ray.shutdown()
    assert objects(bucket) == many
    assert left_here(tmp_path) == []


@pytest.mark.slow
def test_devices_are_given_to_the_command_as_for_files(run, bucket, many, tmp_path):
    assert run("--devices", 2, "--shards", 3)[0] == 0
    assert objects(bucket) == many
    assert "is finished already" in run("--devices", 2, "--resume")[1]
