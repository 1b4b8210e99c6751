"""`halspan score`: score any number of captions with a detector."""

from enum import StrEnum
from typing import Annotated

import typer

from halspan.cli import score_runs as runs
from halspan.cli.corpora import ExtraKeysOption, OnExtraKeys, OnProblem
from halspan.core.errors import ConfigError
from halspan.data.stores.paths import parse_place


class Launcher(StrEnum):
    """What places shards on workers."""

    ray = "ray"


class Dtype(StrEnum):
    """Precision of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


_Detector = Annotated[str | None, typer.Option("--detector", "-d", help="Folder or hub id of an exported detector.")]
_Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        "-i",
        help="Captions or predictions, .jsonl, .jsonl.gz or .parquet, also s3://...; - reads standard input.",
    ),
]
_Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Predictions to write, .jsonl, .jsonl.gz or .parquet, also s3://...; - is standard output.",
    ),
]
_Images = Annotated[
    str | None,
    typer.Option("--images", help="Folder that relative image paths start from. Default: the input's folder."),
]
_Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, if there is one.")]
_Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a finished output, or start an unfinished one again.")
]
_Shard = Annotated[
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Score only part I of N (every N-th block of 256 records); the part stays beside the output for --merge.",
    ),
]
_Merge = Annotated[
    str | None, typer.Option("--merge", metavar="OUTPUT", help="Join the parts of all shards beside this output.")
]
_Threads = Annotated[
    int, typer.Option("--threads", min=1, help="CPU threads of a scorer; the last bits of scores depend on it.")
]
_Devices = Annotated[
    int | None, typer.Option("--devices", min=1, help="Score on so many GPUs of this machine, or CPU processes.")
]
_Launch = Annotated[
    Launcher | None, typer.Option("--launch", help="Place shards on a Ray cluster (pip install 'halspan[ray]').")
]
_Workers = Annotated[int, typer.Option("--workers", min=1, help="Actors on the Ray cluster, each with a detector.")]
_Address = Annotated[
    str | None,
    typer.Option("--address", help="Address of the Ray cluster. Default: the running one, or one on this machine."),
]
_Shards = Annotated[
    int | None, typer.Option("--shards", min=2, help="Number of shards with --devices or --launch. Default: 4 each.")
]
_Plan = Annotated[
    bool, typer.Option("--plan", help="Score a sample, show what the whole input takes, and write nothing.")
]
_MaxPIncorrect = Annotated[
    float | None,
    typer.Option(
        "--max-p-incorrect", min=0, max=1, help="Keep only captions whose sentences all have at most this P(incorrect)."
    ),
]
_BatchTokens = Annotated[int, typer.Option("--batch-tokens", min=1, help="Number of tokens in a forward pass.")]
_Device = Annotated[
    str | None, typer.Option("--device", help="Device, such as cpu or cuda:1. Default: a GPU if there is one.")
]
_DtypeOption = Annotated[
    Dtype | None, typer.Option("--dtype", help="Precision of the weights. Default: the detector's.")
]
_OnError = Annotated[
    OnProblem, typer.Option("--on-error", help="Set aside and count unusable records and images, or stop at the first.")
]


def score(
    detector: _Detector = None,
    input_: _Input = None,
    output: _Output = None,
    images: _Images = None,
    resume: _Resume = False,
    overwrite: _Overwrite = False,
    shard: _Shard = "1/1",
    merge: _Merge = None,
    devices: _Devices = None,
    launch: _Launch = None,
    workers: _Workers = 1,
    address: _Address = None,
    shards: _Shards = None,
    plan: _Plan = False,
    max_p_incorrect: _MaxPIncorrect = None,
    batch_tokens: _BatchTokens = 16_384,
    device: _Device = None,
    dtype: _DtypeOption = None,
    threads: _Threads = 1,
    extra_keys: ExtraKeysOption = OnExtraKeys.stop,
    on_error: _OnError = OnProblem.skip,
) -> None:
    r"""Score captions: P(incorrect) of each sentence, and the hallucinated words.

    A record needs `text` and an image: `image` (a path, absolute or from the
    input's folder) or, inside the record, `image_base64`; in Parquet also
    `image_bytes`, or `image` as a struct of bytes and path. Without `id`,
    `generator` and `direction` a caption gets its line's number, "unknown"
    and "image_to_text". Labels, types, votes and spans are carried along;
    those that cannot be used are left out and counted.

    Image paths are rewritten to start from the output's folder; an image
    inside a record becomes sha256:HASH. Unusable records and images are
    counted, and go to scored.rejected.jsonl beside scored.jsonl, with line
    and reason. With standard output, paths start from the current folder,
    and unusable records are reported on standard error.

    Captions of one image among 256 records share its encoding. With --resume,
    a killed run continues, and its output has the same bytes as that of an
    uninterrupted one. So has the merged output of shards, wherever they ran:
    give all of them the same --output, then --merge it. --devices and
    --launch ray do all of that in one command.

    --input, --output, --images and --merge may be in an object store: s3://,
    gs://, az://, abfs:// or hf://, with the credentials that its own tools
    use, and its package (the extra s3, gcsfs, adlfs). An input is copied to
    this machine once; an output is made in ~/.cache/halspan and put there
    when it is whole. Records may name images only below --images.

    Examples:
      halspan score -d exports/shapes -i captions.jsonl -o scored.jsonl
      halspan score -d exports/shapes -i captions.parquet -o clean.parquet \
        --max-p-incorrect 0.2 --resume
      halspan score -d exports/shapes -i captions.jsonl.gz \
        -o scored.jsonl.gz --images photos --shard 2/4
      halspan score --merge scored.jsonl.gz
      halspan score -d exports/shapes -i captions.jsonl -o scored.jsonl \
        --launch ray --workers 8
      halspan score -d exports/shapes -i s3://bucket/captions.jsonl \
        -o s3://bucket/scored.jsonl --images s3://bucket/photos --resume
      generate | halspan score -d exports/shapes -i - -o - | keep
    """
    if merge is not None:
        runs.merge(parse_place(merge, "--merge"), others=(detector, input_, output))
        return
    if detector is None or input_ is None or output is None:
        raise ConfigError("--detector, --input and --output are needed: what scores, what is scored, and where to")
    from halspan.data.streams.records import Shard
    from halspan.scoring.job import Job

    job = Job(
        detector=detector,
        input_=parse_place(input_, "--input"),
        output=parse_place(output, "--output"),
        images=None if images is None else parse_place(images, "--images"),
        restarts=overwrite,
        max_p_incorrect=max_p_incorrect,
        batch_tokens=batch_tokens,
        device=device,
        dtype=None if dtype is None else dtype.value,
        threads=threads,
        ignore_extra_keys=extra_keys is OnExtraKeys.ignore,
        stop_on_error=on_error is OnProblem.stop,
        say=runs.say,
    )
    part = Shard.parse(shard)
    runs.check_workers(plan=plan, devices=devices, launch=launch, workers=workers, address=address, shards=shards)
    if plan:
        runs.show_plan(job, devices or workers)
        return
    runs.check(job, resume=resume, overwrite=overwrite)
    with runs.answered_ctrl_c(job, part):
        if launch is None and devices is None:
            runs.score_one(job, part, resume=resume, overwrite=overwrite)
        else:
            launcher = runs.find_launcher(job, part, devices=devices, launch=launch, address=address)
            runs.score_all(job, devices or workers, launcher, n_shards=shards, resume=resume, overwrite=overwrite)
