"""Results on disk: appended, merged, resumed, whatever fails."""

import errno
import functools
import os
import re

import numpy as np
import pytest
from captum.attr import Saliency
from comparison import (
    METHODS,
    METRICS,
    Sized,
    batch,
    batches,
    energy,
    everything,
    noisy,
    run,
    small_model,
    stop_after,
    two_methods,
)

from captum_quantum import _files, compare
from captum_quantum.evaluation import storage


def test_results_are_appended_after_each_batch_and_merged(tmp_path):
    whole = run(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == [
        ".lock",
        "configuration.json",
        "values.csv",
    ]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", loader=Sized(stop_after(3)))
    text = (tmp_path / "cut" / "part-0.csv").read_text()
    assert text == "".join(
        (tmp_path / "whole" / "values.csv").read_text().splitlines(keepends=True)[: 1 + 3 * 10]
    )
    plain = compare(
        two_methods(small_model()), batches(), {"energy": energy, "noisy": noisy}, progress=False
    )
    np.testing.assert_array_equal(everything(whole), everything(plain))


def count_maps(monkeypatch):
    seen = []
    original = Saliency.attribute

    @functools.wraps(original)
    def counting(self, inputs, *args, **kwargs):
        seen.append(len(inputs))
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(Saliency, "attribute", counting)
    return seen


def test_a_run_is_resumed_where_it_was_stopped(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", loader=Sized(stop_after(3)))
    seen = count_maps(monkeypatch)
    report = run(tmp_path / "cut")
    assert seen == [5, 3]
    np.testing.assert_array_equal(everything(report), everything(whole))
    for name in ("values.csv", "configuration.json"):
        here, there = ((tmp_path / f / name).read_bytes() for f in ("cut", "whole"))
        assert here == there
    # And once more: nothing is left to do.
    report = run(tmp_path / "cut")
    assert seen == [5, 3]
    np.testing.assert_array_equal(everything(report), everything(whole))


def test_every_cut_of_a_file_is_read_as_the_batches_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # hundreds of cuts
    table = storage.Table(METHODS, tuple(METRICS))
    rng = np.random.default_rng(0)
    written = [batch(number, rng.normal(size=(2, 2, 2)).round(3)) for number in range(3)]
    written[1].values[0, 1, 1] = np.nan
    part = storage.Part(tmp_path, table, 4)
    ends = []
    for one in written:
        part.append(one)
        ends.append(part.path.stat().st_size)
    part.close()
    data = part.path.read_bytes()
    for cut in range(len(data) + 1):
        part.path.write_bytes(data[:cut])
        found = storage.recover(tmp_path, table)
        n_whole = sum(end <= cut for end in ends)
        assert sorted(found) == list(range(n_whole))
        assert all(table.format(found[n]) == table.format(written[n]) for n in found)
        # What was torn is gone, so that the next batch begins on a line of its own.
        header_end = len(table.header)
        assert part.path.stat().st_size in {0, header_end, *ends[:n_whole]}
        again = storage.Part(tmp_path, table, 4)
        again.append(batch(7, np.ones((2, 2, 2)), start=21))
        again.close()
        assert sorted(storage.recover(tmp_path, table)) == [*range(n_whole), 7]
    # After a power failure, zeros may stand in the place of the last lines.
    part.path.write_bytes(data[: ends[0] + 5] + bytes(40))
    assert sorted(storage.recover(tmp_path, table)) == [0]


def test_numbers_survive_the_file_bit_for_bit(tmp_path):
    table = storage.Table(METHODS, tuple(METRICS))
    numbers = [1 / 3, 5e-324, -1.7976931348623157e308, np.nan, np.inf, -0.0, 0.1 + 0.2, 1e22]
    one = batch(0, np.array(numbers).reshape(2, 2, 2))
    part = storage.Part(tmp_path, table, 0)
    part.append(one)
    part.close()
    back = storage.recover(tmp_path, table)[0]
    assert back.values.tobytes() == one.values.tobytes()


def test_a_kill_between_the_merged_file_and_the_removal_of_the_parts(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", loader=Sized(stop_after(4)))
    part = (tmp_path / "a" / "part-0.csv").read_bytes()
    whole = run(tmp_path / "a")
    (tmp_path / "a" / "part-0.csv").write_bytes(part)
    report = run(tmp_path / "a")
    np.testing.assert_array_equal(everything(report), everything(whole))
    assert not (tmp_path / "a" / "part-0.csv").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.replace("gradcam", "gradcan", 1), "line 2 or a later one is wrong"),
        (lambda t: re.sub(r"\n0,5,(\w+),1,", r"\n0,5,\1,2,", t), "not the next line of its batch"),
        (lambda t: re.sub(r"\n0,5,\w+,1,", "\n0,5,0,1,", t), "not the next line of its batch"),
        (lambda t: t.replace("\n0,5,", "\n0,50,", 1), "not the next line of its batch"),
        (lambda t: t.replace("\n1,5,", "\n0,5,", 1), "not the next line of its batch"),
        (lambda t: t.replace("energy", "ennui", 1), "other columns than those of this call"),
        (lambda t: t.replace("\n", "\nx", 2), "line 2 or a later one is wrong"),
    ],
)
def test_damage_that_no_kill_explains_is_an_error(damage, message, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=Sized(stop_after(3)))
    path = tmp_path / "part-0.csv"
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(OSError, match=message):
        run(tmp_path)
    assert path.read_bytes() == before


def test_two_files_that_disagree_are_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=Sized(stop_after(3)))
    text = (tmp_path / "part-0.csv").read_text()
    lines = text.splitlines()
    lines[1] = lines[1].rsplit(",", 1)[0] + ",0.5"
    (tmp_path / "part-1.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(OSError, match="batch 0 differs from that in another file"):
        run(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error(tmp_path):
    (tmp_path / "part-0.csv").symlink_to("/dev/full")
    part = storage.Part(tmp_path, storage.Table(METHODS, tuple(METRICS)), 0)
    with pytest.raises(OSError, match="No space left on device; the results so far") as caught:
        part.append(batch(0, np.ones((2, 3, 2))))
    assert caught.value.errno == errno.ENOSPC
    part.close()


def test_a_disk_that_fills_within_a_batch_leaves_the_batch_before(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    size = (tmp_path / "whole" / "values.csv").stat().st_size
    real_write = os.write
    for room in range(1, size, 397):
        left = room

        def write(handle, data):
            nonlocal left
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = real_write(handle, data[:left])
            left -= written
            return written

        folder = tmp_path / str(room)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(OSError, match="No space left on device"):
                run(folder)
        text = (folder / "part-0.csv").read_text()
        assert (tmp_path / "whole" / "values.csv").read_text().startswith(text)
        assert text == "" or text.endswith("\n")
        np.testing.assert_array_equal(everything(run(folder)), everything(whole))


def test_a_merged_file_that_cannot_be_written_leaves_the_parts(tmp_path, monkeypatch):
    real = _files.replace

    def replace(path, content):
        if path.name == "values.csv":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(_files, "replace", replace)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path)
    assert (tmp_path / "part-0.csv").exists()
    assert not (tmp_path / "values.csv").exists()
    run(tmp_path)
    assert (tmp_path / "values.csv").exists()


def test_a_replaced_file_is_never_a_part(tmp_path, monkeypatch):
    path = tmp_path / "file"
    _files.replace(path, "old")

    def fail(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        _files.replace(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file" / "below")
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file")


@pytest.mark.parametrize("function", ["open", "write"])
def test_a_folder_without_permission(function, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=Sized(stop_after(3)))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = getattr(os, function)

    def refuse(file, *arguments):
        if function == "write" or str(file).endswith("part-0.csv"):
            raise PermissionError(errno.EACCES, "Permission denied", "part-0.csv")
        return real(file, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        with pytest.raises(PermissionError, match="Permission denied"):
            run(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert len(run(tmp_path)) == 23
