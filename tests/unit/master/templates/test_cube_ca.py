"""The egress CA in trees of all kinds, hostile ones too."""

from __future__ import annotations

from pathlib import Path

import pytest

from cube.egress.ca import Authority, open_authority
from cube.master.templates.cube_ca import ALONE, ANCHOR, BUNDLES, bake, environment
from cube.master.templates.tree import Tree
from cube.model.template import BakedCa

DEBIAN, FEDORA, OLDER = BUNDLES


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return open_authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return open_authority(tmp_path_factory.mktemp("other") / "ca").certificate_pem.decode()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


def put(tree: Path, path: str, content: str = "") -> Path:
    file = tree / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def baked(tree: Path, authority: Authority) -> BakedCa:
    with Tree(tree) as files:
        return bake(files, authority)


def copies(path: Path, authority: Authority) -> int:
    return path.read_bytes().count(authority.certificate_pem)


def test_e11_debian(tree: Path, authority: Authority, other: str) -> None:
    bundle = put(tree, DEBIAN, other)
    (tree / "usr/local/share/ca-certificates").mkdir(parents=True)

    for _ in range(2):
        found = baked(tree, authority)

    assert copies(bundle, authority) == 1
    assert bundle.read_text().startswith(other)
    assert (tree / "usr/local/share/ca-certificates" / ANCHOR).read_bytes() == authority.certificate_pem
    assert found.targets_written == (f"/{DEBIAN}", f"/usr/local/share/ca-certificates/{ANCHOR}", f"/{ALONE}")
    assert found.fingerprint == authority.fingerprint


def test_e11_fedora_whose_older_path_is_a_link(tree: Path, authority: Authority, other: str) -> None:
    bundle = put(tree, FEDORA, other)
    (tree / "etc/pki/ca-trust/source/anchors").mkdir(parents=True)
    (tree / OLDER).parent.mkdir(parents=True)
    (tree / OLDER).symlink_to("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem")

    for _ in range(2):
        found = baked(tree, authority)

    assert copies(bundle, authority) == 1
    assert (tree / OLDER).is_symlink()
    assert f"/etc/pki/ca-trust/source/anchors/{ANCHOR}" in found.targets_written
    assert found.bundle == f"/{FEDORA}"


def test_e11_an_image_without_any_gets_a_bundle(tree: Path, authority: Authority) -> None:
    for _ in range(2):
        found = baked(tree, authority)

    assert (tree / DEBIAN).read_bytes() == authority.certificate_pem
    assert found.targets_written == (f"/{DEBIAN}", f"/{ALONE}")


def test_e11_distroless_has_a_bundle_and_no_directory_for_anchors(tree: Path, authority: Authority, other: str) -> None:
    bundle = put(tree, DEBIAN, other.rstrip("\n"))

    baked(tree, authority)

    assert bundle.read_text() == other + authority.certificate_pem.decode()


def test_the_same_certificate_in_another_form_is_known(tree: Path, authority: Authority) -> None:
    body = "".join(authority.certificate_pem.decode().splitlines()[1:-1])
    text = f"# ours\n-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
    bundle = put(tree, DEBIAN, text)

    baked(tree, authority)

    assert bundle.read_text() == text


def test_a_new_authority_is_added_beside_the_old_one(tree: Path, authority: Authority, tmp_path: Path) -> None:
    newer = open_authority(tmp_path / "newer")
    baked(tree, authority)

    found = baked(tree, newer)

    assert copies(tree / DEBIAN, authority) == copies(tree / DEBIAN, newer) == 1
    assert (tree / ALONE).read_bytes() == newer.certificate_pem
    assert found.fingerprint == newer.fingerprint


def test_broken_certificates_of_others_are_left_alone(tree: Path, authority: Authority) -> None:
    broken = "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"
    bundle = put(tree, DEBIAN, broken)

    baked(tree, authority)

    assert bundle.read_text() == broken + authority.certificate_pem.decode()


@pytest.mark.parametrize("target", ["/etc/shadow-of-the-host", "../../../../../../outside"])
def test_links_that_lead_out_of_the_tree_lead_nowhere(
    tree: Path, authority: Authority, tmp_path: Path, target: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("the host's")
    (tree / DEBIAN).parent.mkdir(parents=True)
    (tree / DEBIAN).symlink_to(target)
    (tree / FEDORA).parent.mkdir(parents=True)
    (tree / FEDORA).symlink_to(outside)

    baked(tree, authority)

    assert outside.read_text() == "the host's"
    assert copies(tree / DEBIAN, authority) == 1
    assert not (tree / DEBIAN).is_symlink()


def test_directories_that_lead_out_of_the_tree_stay_inside(tree: Path, authority: Authority, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "certs").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / "etc/ssl").symlink_to(outside)

    with pytest.raises(OSError):
        baked(tree, authority)

    assert list((outside / "certs").iterdir()) == []


def test_a_directory_in_the_place_of_a_bundle_is_no_bundle(tree: Path, authority: Authority) -> None:
    (tree / DEBIAN).mkdir(parents=True)

    baked(tree, authority)

    assert (tree / DEBIAN).read_bytes() == authority.certificate_pem


def test_programs_are_told_where_it_is(tree: Path, authority: Authority) -> None:
    found = baked(tree, authority)

    told = environment(found)

    assert told["SSL_CERT_FILE"] == f"/{DEBIAN}"
    assert told["NODE_EXTRA_CA_CERTS"] == f"/{ALONE}"
