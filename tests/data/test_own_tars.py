from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from layoutkit import tar
from preparekit import picture

from limoe.config import SetParams
from limoe.data.sources import Candidate, Rejected, candidates
from limoe.data.sources.places import find
from limoe.data.sources.tars import members
from limoe.data.sources.webdataset import WebDataset
from limoe.errors import Reported, UserError

FLICKR = Path(__file__).resolve().parents[3] / "shared" / "data" / "flickr8k"


def read(root: Path, path: str = "set", **changes: Any) -> tuple[list[Candidate], list[tuple[str, str, str]]]:
    found = list(candidates(WebDataset("mine", SetParams(path=path, kind="webdataset", **changes), root)))
    rejected = [(r.key.removeprefix("mine/"), r.reason, r.detail) for r in found if isinstance(r, Rejected)]
    return [c for c in found if isinstance(c, Candidate)], rejected


def sample(seed: int, **parts: bytes) -> Mapping[str, bytes]:
    return {"jpg": picture(seed), **parts}


def told(**values: Any) -> bytes:
    return json.dumps(values).encode()


def test_img2datasets_layout_and_its_relatives(tmp_path: Path) -> None:
    tar(
        tmp_path / "set",
        {
            "000000000": sample(
                0, txt=b"a cat\n", json=told(caption="a  cat", key="000000000", status="success", url="http://x")
            ),
            "000000001": {"PNG": picture(1), "txt": b"a dog"},
            "sub/000000002": sample(2, json=told(captions=["one", "two"], label=3, group="g", split="validation")),
            "000000003": sample(3, cls=b"7\n"),
        },
        name="00000",
    )
    found, rejected = read(tmp_path)
    assert rejected == []
    assert [(c.key, c.captions, c.label, c.split_group) for c in found] == [
        ("mine/00000/000000000", ("a cat",), None, "00000/000000000"),
        ("mine/00000/000000001", ("a dog",), None, "00000/000000001"),
        ("mine/00000/sub/000000002", ("one", "two"), "3", "g"),
        ("mine/00000/000000003", ("a photo of a 7",), "7", "00000/000000003"),
    ]
    assert [c.image for c in found] == [picture(n) for n in range(4)]
    assert found[2].split == "val"


def test_a_part_is_a_tar_named_alike_wherever_the_set_lies(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "val-0", "other"):
        tar(tmp_path / "set" / "sub", {"a": sample(0, txt=b"x")}, name=name)
    source = WebDataset("mine", SetParams(path="set"), tmp_path)
    assert [part.name for part in source.parts] == [f"sub/{name}.tar" for name in ("other", "train-0", "train-1", "val-0")]
    assert [c.key for c in source.candidates(source.parts[1])] == ["mine/sub/train-0/a"]
    assert source.inputs(source.parts[1]) == (str(tmp_path / "set" / "sub" / "train-0.tar"),)
    chosen = read(tmp_path, "set/sub/{train-{0..1},val-0}.tar")[0]
    assert [(c.key, c.split) for c in chosen] == [
        ("mine/train-0/a", "train"),
        ("mine/train-1/a", "train"),
        ("mine/val-0/a", "val"),
    ]
    with pytest.raises(
        UserError, match=r"no such file as set/sub/train-2\.tar"
    ):  # one that braces name is not left out without a word
        read(tmp_path, "set/sub/train-{0..2}.tar")
    assert [c.key for c in read(tmp_path, "set/*/train-*.tar")[0]] == ["mine/sub/train-0/a", "mine/sub/train-1/a"]
    assert [c.key for c in read(tmp_path, "set/sub/other.tar")[0]] == ["mine/other/a"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars_are_read(tmp_path: Path, mode: str) -> None:
    tar(tmp_path, {"a": sample(0, txt=b"x")}, name="t", mode=mode)
    (tmp_path / "t.tar").rename(tmp_path / f"t.tar.{mode[2:]}")
    assert [c.key for c in read(tmp_path, ".")[0]] == ["mine/t/a"]


def test_any_address_of_fsspec_is_read(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    tar(tmp_path, {"a": sample(0, txt=b"x")}, name="t")
    for name in ("00000", "00001"):
        memory.pipe(f"/bucket/{name}.tar", (tmp_path / "t.tar").read_bytes())
    keys = ["mine/00000/a", "mine/00001/a"]
    source = WebDataset("mine", SetParams(path="memory://bucket"), tmp_path)
    assert [source.inputs(part) for part in source.parts] == [(f"memory:///bucket/{name}.tar",) for name in ("00000", "00001")]
    for path in ("memory://bucket", "memory://bucket/*.tar", "memory://bucket/{00000..00001}.tar"):
        assert [c.key for c in read(tmp_path, path)[0]] == keys
    assert [row[:2] for row in read(tmp_path, "memory://bucket/gone.tar")[1]] == [("gone.tar", "unreadable")]
    with pytest.raises(UserError, match=r"nosuch://x/a\.tar: cannot be reached"):
        list(candidates(WebDataset("mine", SetParams(path="nosuch://x/a.tar"), tmp_path)))


def test_a_chain_of_addresses_is_followed(tmp_path: Path) -> None:
    import fsspec

    tar(tmp_path, {"a": sample(0, txt=b"x")}, name="t")
    fsspec.filesystem("memory").pipe("/chain/sub/t.tar", (tmp_path / "t.tar").read_bytes())
    for path in ("simplecache::memory://chain", "simplecache::memory://chain/*/t.tar", "simplecache::memory://chain/sub/t.tar"):
        assert [c.image for c in read(tmp_path, path)[0]] == [picture(0)]


def test_a_connection_that_breaks_off_rejects_nothing(tmp_path: Path) -> None:
    """Another attempt may read it: the error must not be taken for the file's end, nor for a broken file."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 2000:
                raise ConnectionResetError("by peer")
            return super().read(size)

    class Flaky(MemoryFileSystem):
        protocol = "flaky"

        def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            return Broken((tmp_path / "t.tar").read_bytes())

    fsspec.register_implementation("flaky", Flaky, clobber=True)
    tar(tmp_path, {str(n): sample(n, txt=b"x") for n in range(30)}, name="t")
    with pytest.raises(Reported, match=r"flaky://.*t\.tar: broke off while it was read \(by peer\)") as caught:
        read(tmp_path, "flaky://flaky/t.tar")
    assert caught.value.kind == "machine"


@pytest.mark.parametrize(
    "key, parts, reason",
    [
        ("a", {"txt": b"x"}, "no-image"),
        ("a", {"jpg": b"x"}, "empty-caption"),
        ("a", {"jpg": b"x", "json": b"{"}, "bad-row"),
        ("a", {"jpg": b"x", "json": b"[" * 100_000}, "bad-row"),
        ("a", {"jpg": b"x", "json": b'["a"]'}, "bad-row"),
        ("a", {"jpg": b"x", "json": b'{"caption": "\\ud83d"}'}, "bad-row"),
        ("a", {"jpg": b"x", "json": b'{"caption": {"a": 1}}'}, "bad-row"),
        ("a", {"jpg": b"x", "txt": b"caf\xe9"}, "bad-row"),
        ("a", {"jpg": b"x", "txt": b"x", "json": b'{"split": "holdout"}'}, "bad-split"),
        ("../../a", {"jpg": b"x", "txt": b"x"}, "path-escape"),
        ("/etc/a", {"jpg": b"x", "txt": b"x"}, "path-escape"),
        ("a\udce9", {"jpg": b"x", "txt": b"x"}, "bad-key"),
        ("b" * 2000, {"jpg": b"x", "txt": b"x"}, "bad-key"),
    ],
)
def test_bad_samples_are_rejected_alone(tmp_path: Path, key: str, parts: Mapping[str, bytes], reason: str) -> None:
    tar(tmp_path, {key: parts, "good": sample(0, txt=b"\x00a\x00 b")}, name="t")
    found, rejected = read(tmp_path, ".")
    assert [c.captions for c in found] == [("a b",)]
    assert [row[1] for row in rejected] == [reason]
    assert rejected[0][0].encode()  # a text that a file can hold
    assert [path.name for path in tmp_path.iterdir()] == ["t.tar"]


def test_a_second_picture_of_a_sample_is_left_out_and_a_second_caption_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, content in (("a.png", b"1"), ("a.jpg", b"2"), ("a.txt", b"one"), ("a.txt", b"two")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    found, rejected = read(tmp_path, ".")
    assert [(c.image, c.captions) for c in found] == [(b"1", ("one",))]
    assert [row[1] for row in rejected] == ["duplicate-member"]


def flat(path: Path, *files: tuple[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("in_place", [False, True])
def test_pictures_with_a_dot_in_their_name_are_told(tmp_path: Path, in_place: bool) -> None:
    named = ("photo.1", "photo.2", "./deep.er/at 10.12.31", "photo.V3", "alone.1")
    pictures = [(f"{name}.{suffix}", b"p") for name, suffix in zip(named, ("jpg", "PNG", "webp", "jpeg", "gif"), strict=True)]
    texts = [(f"{name}.txt", b"x") for name in named[:-1]]
    fine = [("a.seg.png", b"mask"), ("a.jpg", b"good"), ("a.depth.png", b"depth"), ("a.txt", b"a cat")]
    flat(tmp_path / "set" / "t.tar", *sorted(pictures + texts), *fine)
    found, rejected = read(tmp_path, "set", in_place=in_place)
    assert [(c.key, c.image, c.captions) for c in found] == [("mine/t/a", b"good", ("a cat",))]
    told = ("t/deep.er/at 10.12.31", "t/alone.1", "t/photo.1", "t/photo.2", "t/photo.V3")
    assert [row[:2] for row in rejected] == [(key, "dotted-name") for key in told]
    assert rejected[2][2] == (
        "a dot in the name: a sample's name ends at the first one, so photo.1.jpg is the 1.jpg of a sample 'photo', which has no "
        "picture of its own; rename it and what belongs to it"
    )


def test_hidden_files_in_a_tar_are_passed_over(tmp_path: Path) -> None:
    flat(tmp_path / "t.tar", ("._a.jpg", b"finder"), ("a.jpg", b"1"), ("._a.txt", b"finder"), ("a.txt", b"x"), (".b.c.jpg", b"2"))
    found, rejected = read(tmp_path, ".")
    assert ([c.image for c in found], rejected) == ([b"1"], [])


def test_many_pictures_with_a_dot_in_their_name_are_not_kept(tmp_path: Path) -> None:
    flat(tmp_path / "t.tar", *((f"photo.{number}.jpg", b"") for number in range(20_000)))
    source = WebDataset("mine", SetParams(path="t.tar"), tmp_path)
    next(source.candidates(source.parts[0]))  # imports
    tracemalloc.start()
    assert sum(1 for _ in source.candidates(source.parts[0])) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_a_text_has_a_caption_a_line_and_counts_before_what_json_says(tmp_path: Path) -> None:
    lines = b"a cat sits\r\n\n a grey  cat \n"
    tar(
        tmp_path,
        {
            "a": sample(0, txt=lines),
            "b": sample(1, txt=b"real", json=told(text="OCR STOP", label=3, split="val")),
            "c": sample(2, txt=b" \n", json=told(text="said")),
            "d": {"json": told(txt="OCR"), "txt": b"real", "png": picture(3)},
        },
        name="t",
    )
    found, rejected = read(tmp_path, ".")
    assert rejected == []
    assert [c.captions for c in found] == [("a cat sits", "a grey cat"), ("real",), ("said",), ("real",)]
    assert (found[1].label, found[1].split) == ("3", "val")


@pytest.mark.parametrize("cut", [300, 700, 1500, 3000, -1600])
def test_a_tar_that_breaks_off_gives_what_stood_before(tmp_path: Path, cut: int) -> None:
    content = (tar(tmp_path, {str(n): sample(n, txt=b"x") for n in range(4)}, name="t") / "t.tar").read_bytes()
    whole = content.rstrip(b"\0")
    (tmp_path / "t.tar").write_bytes(whole[:cut])
    found, rejected = read(tmp_path, ".")
    assert [c.key for c in found] == [f"mine/t/{n}" for n in range(len(found))]
    assert len(found) < 4
    assert rejected[-1][:2] == ("t.tar", "broken-tar")
    flipped = bytearray(content)
    flipped[3 * 512 + (len(picture(0)) + 511) // 512 * 512 + 5] ^= 255  # in the third header
    (tmp_path / "t.tar").write_bytes(flipped)
    assert read(tmp_path, ".")[1][-1][1] == "broken-tar"


@pytest.mark.parametrize("content", [b"", b"no tar" * 200, b"\x1f\x8b" + b"x" * 600, b"BZh9" + b"x" * 600, bytes(range(256)) * 9])
def test_what_is_no_tar_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.tar").write_bytes(content)
    assert [row[:2] for row in read(tmp_path, ".")[1]] == [("t.tar", "broken-tar")]


def bomb(path: Path, kind: bytes, size: int) -> None:
    """A compressed tar of one entry of zeros."""
    entry = tarfile.TarInfo("a.jpg")
    entry.type, entry.size = kind, size
    with gzip.open(path, "wb", compresslevel=1) as handle:
        handle.write(entry.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size >> 20):
            handle.write(bytes(1 << 20))


@pytest.mark.parametrize("kind, reason", [(tarfile.REGTYPE, "too-many-bytes"), (b"x", "broken-tar"), (b"L", "broken-tar")])
def test_no_member_or_header_takes_more_memory_than_a_picture_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes, reason: str
) -> None:
    monkeypatch.setattr("limoe.data.sources.webdataset.MAX_BYTES", 8 << 20)
    bomb(tmp_path / "t.tar.gz", kind, 64 << 20)
    read(tmp_path, ".")  # imports
    tracemalloc.start()
    assert reason in [row[1] for row in read(tmp_path, ".")[1]]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


def test_the_headers_of_a_long_tar_are_not_kept(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for number in range(4000):
            archive.addfile(tarfile.TarInfo(f"{number}.other"))
    with (tmp_path / "t.tar").open("rb") as handle:
        tracemalloc.start()
        assert list(members(handle, lambda name: None)) == []
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 500_000  # they are four times as much


def test_links_and_folders_in_a_tar_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    assert read(tmp_path, ".") == ([], [])


def test_real_photos_arrive_as_they_are() -> None:
    if not FLICKR.is_dir():
        pytest.skip("the photos are not on this machine")
    source = WebDataset("flickr", SetParams(path=FLICKR.name), FLICKR.parent)
    assert [part.name for part in source.parts][:2] == ["test-00000.tar", "train-00000.tar"]
    found = list(source.candidates(source.parts[-1]))
    with tarfile.open(FLICKR / "val-00000.tar") as archive:
        wanted = {m.name[:-4]: archive.extractfile(m).read() for m in archive if m.name.endswith(".jpg")}
        captions = {m.name[:-5]: json.load(archive.extractfile(m))["captions"] for m in archive if m.name.endswith(".json")}
    assert {c.key.split("/")[-1]: c.image for c in found} == wanted
    assert {c.split for c in found} == {"val"}
    assert all(set(c.captions) == {" ".join(text.split()) for text in captions[c.key.split("/")[-1]]} for c in found)


@pytest.mark.parametrize("project", ["my [old] pets", "a*b", "x{1,2}", "plain"])
def test_the_projects_own_path_is_no_pattern(tmp_path: Path, project: str) -> None:
    root = tmp_path / project
    for name in ("set/one.tar", "set[1]/two.tar"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    expected = {"set/*.tar": "one.tar", "*/one.tar": "set/one.tar", "set[1]": "two.tar"}
    assert {given: find(root, given, (".tar",))[0].name for given in expected} == expected
