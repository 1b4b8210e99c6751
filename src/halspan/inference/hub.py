"""Detectors on the Hugging Face hub: download into its cache, and upload."""

from pathlib import Path
from textwrap import shorten

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from halspan.core.errors import ModelError
from halspan.models.folder.safe_files import SUFFIXES


def download(repo_id: str, revision: str | None) -> tuple[Path, Path]:
    """Fetch a detector from the hub, or find it in the hub's cache.

    Args:
        repo_id: `owner/name`.
        revision: Commit, tag or branch; None is the main branch.

    Returns:
        Its folder, whose files are links, and the folder that the links lead to.

    Raises:
        ModelError: The repository does not exist, or the hub cannot be reached.
    """
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[f"*{end}" for end in SUFFIXES]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = shorten(str(error), 300, placeholder=" ...")
        raise ModelError(
            f"detector: {repo_id!r} is not a folder, and as a hub id cannot be fetched ({reason}); give a folder that "
            "export.py wrote, or download the hub id once where there is a network (`hf download`, HF_HUB_OFFLINE "
            "unset)"
        ) from None
    return folder, folder.parent.parent / "blobs"


def upload(
    folder: Path, repo_id: str, *, private: bool | None, revision: str | None, message: str, token: str | None
) -> str:
    """Upload a folder to a repository on the hub, created if necessary; return the address of the commit.

    Raises:
        ModelError: The hub refuses it or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    except Exception as error:  # its own exceptions, or those of its HTTP library
        raise ModelError(
            f"push_to_hub: {repo_id!r}: {shorten(str(error), 300, placeholder=' ...')}; log in (`hf auth login`) "
            "with the right to write there"
        ) from None
    return str(commit.commit_url)
