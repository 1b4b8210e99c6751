import json
import math

import pytest

from halspan.core.files import replacing, write_json


def test_a_file_is_replaced_only_when_all_of_it_was_written(tmp_path):
    path = tmp_path / "folder" / "report.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012 -- the block is what is tested
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_json_keeps_letters_and_refuses_what_json_has_no_word_for(tmp_path):
    write_json(tmp_path / "a.json", {"text": "été"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "text": "été"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert json.loads((tmp_path / "a.json").read_text()) == {"text": "été"}
