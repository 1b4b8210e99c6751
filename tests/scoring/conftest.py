import pytest
from tiny_llama4 import tiny_detector


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector") / "tiny"
    tiny_detector().save_pretrained(folder)
    return folder
