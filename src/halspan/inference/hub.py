"""Detectors on the Hugging Face hub: fetched into its cache, and put there."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from halspan.core.errors import ModelError
from halspan.models.artifacts import SUFFIXES


def download(repo_id: str, revision: str | None) -> tuple[Path, Path]:
    """Fetch a detector from the hub, or find it in the hub's cache.

    Args:
        repo_id: `owner/name`.
        revision: commit, tag or branch; None is the main branch.

    Returns:
        Its folder, whose files are links, and the folder that they lead to.

    Raises:
        ModelError: there is none of that name, or the hub cannot be reached.
    """
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[f"*{end}" for end in SUFFIXES]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"detector: {repo_id!r} is no folder, and as a hub id cannot be fetched "
            f"({' '.join(str(error).split())[:200]}); give a folder that export.py wrote, or download the hub id once "
            "where there is a network (`hf download`, HF_HUB_OFFLINE unset)"
        ) from None
    return folder, folder.parent.parent / "blobs"


def upload(
    folder: Path, repo_id: str, *, private: bool | None, revision: str | None, message: str, token: str | None
) -> str:
    """Put a folder into a repository on the hub, which is made if need be; give the address of the commit.

    Raises:
        ModelError: the hub refuses it or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    except Exception as error:  # of its own, or of whichever HTTP library it uses
        raise ModelError(
            f"push_to_hub: {repo_id!r}: {' '.join(str(error).split())[:300]}; log in (`hf auth login`) with the right "
            "to write there"
        ) from None
    return str(commit.commit_url)
