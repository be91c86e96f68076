"""Parcels: equal files make equal parcels, and a hostile one does no harm."""

import hashlib
import io
import os
import tarfile

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cluster.queue import parcel
from cluster.queue.parcel import ParcelRefused, keeps_secrets, pack, unpack

NAMES = st.lists(st.sampled_from(["a", "b", "c.py", "ü"]), min_size=1, max_size=3).map("/".join)


def hostile(*entries):
    """A parcel of these (TarInfo, content) pairs with the right hash: whoever made it knows how."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    plain = archive.getvalue()
    return zstandard.compress(plain), hashlib.sha256(plain).hexdigest()


def entry(name, kind=tarfile.REGTYPE, link=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=6))
def test_what_is_packed_comes_out_and_equal_files_make_an_equal_parcel(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("parcels")
    made = pack(files)
    assert pack(dict(reversed(files.items()))) == made
    try:
        out = unpack(made.data, made.id, folder)
    except ParcelRefused:  # a name is a file and a folder
        assert any(f"{one}/" == other[: len(one) + 1] for one in files for other in files)
        assert list(folder.iterdir()) == []
        return
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == files
    assert unpack(b"", made.id, folder) == out, "one that is there is not unpacked again"


def test_a_file_that_may_be_executed_still_may_and_times_and_owners_do_not_travel(tmp_path):
    script, text = tmp_path / "run", tmp_path / "text"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    text.write_text("x")
    made = pack({"run": script, "text": text})
    os.utime(script, (1, 1))
    text.chmod(0o600)
    assert pack({"run": script, "text": text}) == made
    out = unpack(made.data, made.id, tmp_path / "parcels")
    assert [os.access(out / name, os.X_OK) for name in ("run", "text")] == [True, False]


@pytest.mark.parametrize(
    "bad",
    [
        *(entry(name) for name in ("../up", "/absolute", "a/../../up", "a//b", "./a", ".", "a\nb")),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("hard", tarfile.LNKTYPE, "../up"),
        entry("pipe", tarfile.FIFOTYPE),
        entry("device", tarfile.CHRTYPE),
        entry("folder", tarfile.DIRTYPE),
    ],
    ids=lambda own: own.name,
)
def test_a_hostile_parcel_is_refused_and_leaves_nothing(bad, tmp_path):
    folder = tmp_path / "deep" / "parcels"
    data, name = hostile((entry("good.py"), b"1"), (bad, b""))
    with pytest.raises(ParcelRefused, match=r"does not stay inside|no ordinary file"):
        unpack(data, name, folder)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(folder.iterdir()) == []


def test_a_parcel_whose_second_file_goes_through_its_first_is_refused(tmp_path):
    for names in (("a", "a"), ("a", "a/b"), ("a/b", "a")):
        data, name = hostile(*((entry(own), b"1") for own in names))
        with pytest.raises((ParcelRefused, IsADirectoryError)):
            unpack(data, name, tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_bomb_is_refused_before_it_fills_memory_or_disk(tmp_path, monkeypatch):
    bomb = zstandard.compress(bytes(400 * 2**20))
    assert len(bomb) < 2**20
    with pytest.raises(ParcelRefused, match="more than 64 MiB"):
        unpack(bomb, "0" * 64, tmp_path)
    monkeypatch.setattr(parcel, "MOST_FILES", 3)
    data, name = hostile(*((entry(str(number)), b"") for number in range(4)))
    with pytest.raises(ParcelRefused, match="more than 3 files"):
        unpack(data, name, tmp_path)


def test_damage_another_name_and_nonsense_are_told(tmp_path):
    made = pack({"a": b"1"})
    for data, name, said in (
        (made.data, "0" * 64, "damaged"),
        (b"nonsense", made.id, "can't be unpacked"),
        (zstandard.compress(b"x" * 1024), hashlib.sha256(b"x" * 1024).hexdigest(), "no archive"),
        (made.data, "../" + made.id, "no name of a parcel"),
    ):
        with pytest.raises(ParcelRefused, match=said):
            unpack(data, name, tmp_path)


def test_too_large_says_what_is_large(tmp_path):
    big = tmp_path / "weights.bin"
    with big.open("wb") as file:
        file.truncate(70 * 2**20)
    with pytest.raises(ParcelRefused, match=r"largest: weights.bin 70.0 MiB, code.py .*gitignore"):
        pack({"code.py": b"1", "weights.bin": big})


def test_files_in_which_people_keep_secrets_are_known_by_their_names():
    kept = [".env", "deploy/.env.production", "prod.env", "id_rsa", "tls/server.KEY", ".netrc"]
    assert all(map(keeps_secrets, [*kept, "aws/credentials", "secrets.yaml"]))
    assert not any(map(keeps_secrets, ["env.py", "keys.py", "secrets_test.py", "conf/env.yaml"]))
