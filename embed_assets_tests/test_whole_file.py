"""A file is written whole or not at all."""

import pytest

from embed_assets.storage.whole_file import whole_file, write_whole


def test_a_failure_while_a_file_is_written_leaves_the_old_one_and_nothing_else(tmp_path):
    file = tmp_path / "known.txt"

    def write(parts):
        with whole_file(file) as out:
            for part in parts:
                out.write(part)

    write([b"old"])
    with pytest.raises(TypeError):
        write([b"new, but not all of it", None])
    assert [f.name for f in tmp_path.iterdir()] == ["known.txt"]
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_that_is_there_already_is_replaced_only_if_it_may_be(tmp_path, replace):
    file = tmp_path / "entry.npy"
    for raw in (b"first", b"second"):
        write_whole(file, tmp_path / ".entry.tmp", raw, replace=replace)
    assert file.read_bytes() == (b"second" if replace else b"first")
    assert [f.name for f in tmp_path.iterdir()] == ["entry.npy"]
