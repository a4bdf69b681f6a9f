"""Which image of a layout or archive is taken, and what its configuration says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cube.master.templates.blobs import open_blobs
from cube.master.templates.oci import Image, resolve
from cube.model.errors import InvalidInput
from support.oci_images import (
    ARCHITECTURE,
    INDEX,
    LAYER,
    MANIFEST,
    Layout,
    archive_of,
    digest,
    file,
    layer,
    make_layout,
    make_saved,
)

HERE = {"platform": {"os": "linux", "architecture": ARCHITECTURE}}
ELSEWHERE = {"platform": {"os": "linux", "architecture": "s390x"}}
FILES = layer(file("a"))


def resolved(path: Path, tag: str = "") -> Image:
    with open_blobs(path) as blobs:
        return resolve(blobs, tag)


def test_layout_archive_and_saved_image_are_the_same_image(tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", FILES, Env=["A=1"])
    images = [
        resolved(layout),
        resolved(archive_of(layout, tmp_path / "layout.tar")),
        resolved(make_saved(tmp_path / "saved.tar", FILES, Env=["A=1"])),
    ]
    assert len({image.digest for image in images}) == 1
    assert {image.layers[0].diff_id for image in images} == {digest(FILES)}
    assert all(image.config.env == {"A": "1"} for image in images)


def test_configuration(tmp_path: Path) -> None:
    env = ["PATH=/bin", "EQUALS=a=b", "EMPTY=", "novalue", "=noname"]
    image = resolved(make_layout(tmp_path / "i", FILES, Env=env, User="app:staff", WorkingDir="/srv/app"))
    assert image.config.env == {"PATH": "/bin", "EQUALS": "a=b", "EMPTY": ""}
    assert (image.config.user, image.config.workdir) == ("app", "/srv/app")


def test_an_image_without_configuration_runs_as_root(tmp_path: Path) -> None:
    assert resolved(make_layout(tmp_path / "i", FILES)).config.user == "root"


@pytest.mark.parametrize("workdir", ["/proc/self/fd/8", "/proc", "/sys/x", "/dev/fd/3", "srv", "/srv/../../etc"])
def test_working_directories_that_lead_out_are_refused(tmp_path: Path, workdir: str) -> None:
    with pytest.raises(InvalidInput, match="working directory"):
        resolved(make_layout(tmp_path / "i", FILES, WorkingDir=workdir))


def test_the_manifest_for_this_machine_is_taken(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "i")
    ours = layout.image([FILES], **HERE)
    theirs = layout.image([layer(file("b"))], config={"architecture": "s390x"}, **ELSEWHERE)
    attestation = layout.image([layer(file("c"))], platform={"os": "unknown", "architecture": "unknown"})
    inner = layout.json({"schemaVersion": 2, "manifests": [theirs, ours, attestation]}, INDEX)
    assert resolved(layout.index(inner)).layers[0].diff_id == digest(FILES)


def test_none_for_this_machine(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "i")
    with pytest.raises(InvalidInput, match="no image for linux"):
        resolved(layout.index(layout.image([FILES], **ELSEWHERE)))


def test_a_wrong_architecture_behind_a_missing_platform(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="s390x"):
        resolved(make_layout(tmp_path / "i", FILES, architecture="s390x"))


def test_a_tag_chooses_among_several(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "i")
    named = [
        layout.image([layer(file(name))], annotations={"org.opencontainers.image.ref.name": name}) for name in "ab"
    ]
    path = layout.index(*named)
    assert resolved(path, "b").layers[0].diff_id == digest(layer(file("b")))
    with pytest.raises(InvalidInput, match="2 images") as caught:
        resolved(path)
    assert caught.value.field == "tag"
    with pytest.raises(InvalidInput, match="no image"):
        resolved(path, "c")


def test_a_saved_image_by_tag(tmp_path: Path) -> None:
    path = make_saved(tmp_path / "saved.tar", FILES, FILES, tag="demo:2")
    assert [layer.diff_id for layer in resolved(path, "demo:2").layers] == [digest(FILES)] * 2
    with pytest.raises(InvalidInput, match="no image"):
        resolved(path, "demo:1")


@pytest.mark.parametrize("which", ["manifest", "config"])
def test_a_document_with_another_content_than_its_digest_is_refused(tmp_path: Path, which: str) -> None:
    layout = Layout(tmp_path / "i")
    descriptor = layout.image([FILES])
    manifest = json.loads((layout.path / "blobs" / descriptor["digest"].replace(":", "/")).read_text())
    wanted = descriptor["digest"] if which == "manifest" else manifest["config"]["digest"]
    blob = layout.path / "blobs" / wanted.replace(":", "/")
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(InvalidInput, match="damaged"):
        resolved(layout.index(descriptor))


@pytest.mark.parametrize("value", ["sha256:../../../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32, "", "x"])
def test_a_digest_never_becomes_a_path(tmp_path: Path, value: str) -> None:
    layout = Layout(tmp_path / "i")
    with pytest.raises(InvalidInput, match="digest"):
        resolved(layout.index({"mediaType": MANIFEST, "digest": value, "size": 1}))


def test_links_of_a_layout_do_not_lead_out_of_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    layout = Layout(tmp_path / "i")
    blob = layout.path / "blobs/sha256" / ("0" * 64)
    blob.symlink_to(secret)
    with pytest.raises(InvalidInput, match="lacks"):
        resolved(layout.index({"mediaType": MANIFEST, "digest": "sha256:" + "0" * 64, "size": 2}))


def test_a_pipe_in_a_layout_does_not_block(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "i")
    os.mkfifo(layout.path / "index.json")
    with pytest.raises(InvalidInput, match="regular"):
        resolved(layout.path)


def test_layers_and_their_digests_must_be_equally_many(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "i")
    descriptor = layout.image([FILES])
    manifest = json.loads((layout.path / "blobs" / descriptor["digest"].replace(":", "/")).read_text())
    manifest["layers"].append(layout.blob(b"x", LAYER))
    with pytest.raises(InvalidInput, match="number of layers"):
        resolved(layout.index(layout.json(manifest, MANIFEST)))


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"manifests":{}}', b'{"manifests":[{}]}', b"[" * 100_000])
def test_malformed_indexes(tmp_path: Path, document: bytes) -> None:
    (tmp_path / "index.json").write_bytes(document)
    with pytest.raises(InvalidInput):
        resolved(tmp_path)


def test_an_oversized_index_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(InvalidInput, match="larger"):
        resolved(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"not a tar" * 100, b"\x1f\x8b\x08rest"])
def test_what_is_no_image(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "image"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput):
        resolved(path)
