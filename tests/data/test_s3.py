"""Tars in a bucket, asked for in S3's own protocol: a server of moto's answers it on this machine as Amazon would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs
from inplacekit import both, photos, prepared
from moto.server import ThreadedMotoServer

from limoe.data.prepared import Prepared
from limoe.data.schema import TRAIN
from limoe.errors import Reported, UserError

BUCKET, ROWS = "photos", ["key", "image", "captions"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    """With an empty bucket; s3fs and boto3 find it as they find any other store that is not Amazon's, by the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "nobody", "SECRET_ACCESS_KEY": "nothing"}
    for name, value in (settings | {"DEFAULT_REGION": "us-east-1", "MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield server
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def upload(folder: Path) -> Any:
    """All of its files below sub/ in the bucket; the client that did it."""
    client = boto3.client("s3")
    for path in sorted(folder.iterdir()):
        client.upload_file(str(path), BUCKET, f"sub/{path.name}")
    return client


@pytest.mark.parametrize("pattern", ["*.tar", "{00000..00002}.tar", ""])
@pytest.mark.usefixtures("server")
def test_a_set_in_a_bucket_is_that_of_the_disk(tmp_path: Path, pattern: str) -> None:
    copied, _ = both(tmp_path)
    upload(tmp_path / "copied" / "data" / "raw" / "photos")
    for in_place in (True, False):
        far = prepared(tmp_path / f"far-{in_place}", in_place, path=f"s3://{BUCKET}/sub/{pattern}".rstrip("/"))
        assert far.table(TRAIN, ROWS).equals(copied.table(TRAIN, ROWS))
        assert far.table("val", ROWS).equals(copied.table("val", ROWS))


def test_what_has_changed_or_cannot_be_reached(tmp_path: Path, server: ThreadedMotoServer) -> None:
    """Another tar of that name, no such tar, and a server that is gone: each says so, and whose fault it is."""
    folder = photos(tmp_path / "tars")
    client = upload(folder)
    prepared(tmp_path / "far", True, path=f"s3://{BUCKET}/sub/*.tar")
    place = rf"s3://{BUCKET}/sub/00000\.tar"

    def again() -> Prepared:
        return Prepared(tmp_path / "far" / "data" / "prepared")

    client.put_object(Bucket=BUCKET, Key="sub/00000.tar", Body=(folder / "00001.tar").read_bytes())
    with pytest.raises(UserError, match=rf"^{place}: no longer holds the picture of photos/00000/sub/00000 that was prepared"):
        again().table(TRAIN, ["image"])
    client.delete_object(Bucket=BUCKET, Key="sub/00000.tar")
    with pytest.raises(UserError, match=rf"^{place}: cannot be read .* holds the picture of photos/00000/sub/00000; run `limoe"):
        again().table(TRAIN, ["image"])
    server.stop()
    with pytest.raises(Reported, match=rf"^{place}: cannot be read now .* holds the picture of photos/00000/sub/00000") as caught:
        again().table(TRAIN, ["image"])
    assert caught.value.kind == "machine"
