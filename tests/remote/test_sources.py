"""Sources at URLs are read as those on disk, and what is wrong with them is named."""

from __future__ import annotations

import io
import sys
import tarfile

import pytest

from hybrid.errors import DataError, MissingExtraError
from hybrid.images import remote
from hybrid.images.pipeline import read_each
from hybrid.images.sources import scan


def records(*sources, **options):
    """Label and split of every image, by the last parts of its path."""
    found = scan(list(sources), **options).records
    return {"/".join(record.path.split("/")[-2:]): (record.label, record.split) for record in found}


def contents(*sources):
    return [image.sha256 or image.reason for image in read_each(scan(list(sources)).records, None)]


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_folders_are_read_as_on_disk(bucket, image_folder, objects, s3):
    folder = image_folder({"train/cat": 2, "train/dog": 1, "val/cat": 1, ".hidden/x": 1, "@eaDir/x": 1})
    (folder / "notes.txt").write_text("x")
    url = bucket({f"photos/{name}": data for name, data in objects(folder).items()} | {"other/1.jpg": b"x"})
    s3.watch()
    there, here = scan([f"{url}/photos/"]), scan([folder])
    assert records(f"{url}/photos") == records(folder)
    assert there.sources == (f"{url}/photos",)
    assert {record.source for record in there.records} == {f"{url}/photos"}
    assert [note.replace(url, str(folder.parent)) for note in there.notes] == list(here.notes)
    assert s3.reads() == []
    assert contents(f"{url}/photos") == contents(folder)
    # One of them, a pattern, braces, and a chain through a cache of fsspec's.
    for source in (f"{url}/photos/train/cat/000.jpg", f"simplecache::{url}/photos/train/cat/000.jpg"):
        assert contents(source) == contents(folder / "train/cat/000.jpg")
    for pattern in ("train/*/000.jpg", "{train,val}/cat/000.jpg", "train/**/*.jpg", "train/c*"):
        assert contents(f"{url}/photos/{pattern}") == contents(folder / pattern)


def test_manifests_name_urls(bucket, image_folder, objects, web, tmp_path):
    folder = image_folder({"cat": 2})
    (_, site, address), data = web, objects(folder)
    site.files |= {f"/{name}": content for name, content in data.items()}
    url = bucket({**data, "lists/list.csv": b"path,label\n../cat/000.jpg,a\ncat/gone.jpg,b\n"})
    assert contents(f"{url}/lists/list.csv") == [*contents(folder)[:1], "does not exist"]
    site.files["/list.csv"] = f"url,label\n{address}/cat/000.jpg,a\ncat/001.jpg,b\n".encode()
    assert contents(f"{address}/list.csv") == contents(folder)
    mixed = folder / "list.csv"
    mixed.write_text(f"path,label\n{url}/cat/000.jpg,a\ncat/001.jpg,b\n{address}/cat/000.jpg?size=1,c\n")
    found = scan([mixed], each_row=True).records
    assert [(r.path, r.label) for r in found] == [
        (f"{url}/cat/000.jpg", "a"),
        (str(folder / "cat/001.jpg"), "b"),
        (f"{address}/cat/000.jpg?size=1", "c"),
    ]
    assert sorted(contents(mixed)) == sorted(contents(folder)[i] for i in (0, 1, 0))


@pytest.mark.parametrize(
    "row", ["http://169.254.169.254/latest", "file:///etc/passwd", "/etc/passwd", "~/x.jpg", "s3://other/x.jpg"]
)
def test_a_manifest_from_afar_names_its_own_place_only(bucket, row):
    url = bucket({"list.csv": f"path\n{row}\n".encode()})
    with pytest.raises(DataError, match=r"line 2: a manifest at a URL names photos of its own place only"):
        scan([f"{url}/list.csv"])


def test_names_lead_not_out_of_their_origin():
    for folder, name, url in (
        ("s3://bucket/a/b", "../../../c d.jpg", "s3://bucket/c d.jpg"),
        ("https://host/a", "https:evil/x.jpg", "https://host/a/https:evil/x.jpg"),
        ("hf://datasets/a/b/x", "../../../c/y.jpg", "hf://datasets/a/b/c/y.jpg"),
    ):
        assert remote.joined(folder, name) == url


def test_shards_are_read_by_ranges(bucket, image_folder, objects, s3, monkeypatch):
    folder = image_folder({"cat": 4})
    photos = list(objects(folder).values())
    # Behind each photo lies what nobody needs: of it nothing may be read.
    members = {
        f"{i}.{kind}": photos[i] if kind == "jpg" else b"a" * 300_000 for i in range(4) for kind in ("jpg", "npy")
    }
    members |= {f"{i}.cls": b"cat" for i in range(4)}
    url = bucket({"s-000.tar": tar_of(members), "s-001.tar": tar_of({"x.jpg": photos[0]})})
    found = scan([f"{url}/s-000.tar"]).records
    assert [(r.path, r.label, r.container) for r in found] == [
        (f"{url}/s-000.tar/{i}.jpg", "cat", f"{url}/s-000.tar") for i in range(4)
    ]
    reads = read_each(found, None)
    assert [image.sha256 for image in reads] == contents(folder)
    assert sum(request.sent for request in s3.requests) < 300_000
    assert records(f"{url}/s-{{000..001}}.tar") == records(f"{url}/*.tar") == records(url)
    with pytest.raises(DataError, match=r"shards that do not exist(.|\n)*s-002.tar"):
        scan([f"{url}/s-{{000..002}}.tar"])


def test_small_members_are_read_many_at_once(web, image_folder, objects):
    server, site, address = web
    site.files["/s.tar"] = tar_of({f"{i:04d}.jpg": b"x" * 900 for i in range(1000)})
    assert len(scan([f"{address}/s.tar"]).records) == 1000
    assert len(server.requests) < 20
    site.ranges = False
    with pytest.raises(DataError, match="the server gives whole files only"):
        scan([f"{address}/s.tar"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://no-such-bucket/x", "does not exist, nor does its bucket"),
        ("s3://{bucket}/no.jpg", "no.jpg does not exist"),
        ("s3://{bucket}/none/*.jpg", "as a pattern it matches nothing"),
        ("s3://{bucket}/a.txt", r"is not a source of photos(.|\n)*ending in .txt"),
        ("{web}/folder/", "servers on the web list no folders"),
        ("{web}/gone.jpg", "gone.jpg does not exist"),
        ("nothing://x/y.jpg", "nothing:// is not read"),
        ("ftp://me:pw@127.0.0.1/x", r"\Aftp://127.0.0.1/x was given with a password"),
        ("s3:/bucket/x", "lost a slash"),
    ],
)
def test_what_cannot_be_read_is_named(bucket, web, source, message):
    name = bucket({"a.txt": b"x"}).removeprefix("s3://")
    web[1].files["/folder/"] = b"<a href=1.jpg>"
    with pytest.raises(DataError, match=message) as caught:
        scan([source.replace("{bucket}", name).replace("{web}", web[2])])
    assert "fix:" in str(caught.value)


def test_credentials_and_rights(fresh_connections, bucket, s3, monkeypatch):
    url = bucket({"cat/1.jpg": b"x"})
    s3.fault = lambda request: 403
    with pytest.raises(DataError, match=r"cannot be read(.|\n)*no permission(.|\n)*AWS_PROFILE"):
        scan([url])
    remote._store.cache_clear()
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(DataError, match=r"no credentials were found(.|\n)*FSSPEC_S3_ANON=true"):
        scan([url])
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtraError, match=r"gs:// needs the package gcsfs(.|\n)*hybrid-classifier\[gcs\]"):
        scan(["gs://bucket/x.jpg"])
