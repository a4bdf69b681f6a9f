"""What a local OCI image says about itself: which manifest fits this machine, its layers, its configuration."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cube.master.templates.blobs import Blobs, read_small
from cube.model.errors import InvalidInput
from cube.model.template import ImageConfig

_DIGEST = r"^sha256:[0-9a-f]{64}$"
_REF_NAME = "org.opencontainers.image.ref.name"
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MAX_LAYERS = 500
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its file in the image, and what the file and its unpacked form must hash to."""

    name: str
    #: Of the file as it lies there; unknown in what ``docker save`` wrote before it wrote layouts.
    digest: str | None
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """One image for this machine."""

    #: Digest of the configuration: it names all layers by content.
    digest: str
    layers: tuple[Layer, ...]
    config: ImageConfig


class _Model(BaseModel):
    """Documents of the image specification; fields that we do not use are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Platform(_Model):
    architecture: str = ""
    os: str = ""


class _Descriptor(_Model):
    digest: str = Field(pattern=_DIGEST)
    media_type: str = Field("", alias="mediaType")
    platform: _Platform | None = None
    annotations: dict[str, str] = {}


class _Index(_Model):
    manifests: list[_Descriptor]


class _Manifest(_Model):
    config: _Descriptor
    layers: list[_Descriptor] = Field(max_length=_MAX_LAYERS)


class _Saved(_Model):
    """One entry of ``manifest.json`` of ``docker save``."""

    config: str = Field(alias="Config")
    layers: list[str] = Field(alias="Layers", max_length=_MAX_LAYERS)
    tags: list[str] | None = Field(None, alias="RepoTags")


class _Saves(_Model):
    entries: list[_Saved]


class _Runtime(_Model):
    env: list[str] | None = Field(None, alias="Env")
    user: str | None = Field(None, alias="User")
    workdir: str | None = Field(None, alias="WorkingDir")


class _RootFs(_Model):
    diff_ids: list[str] = Field(max_length=_MAX_LAYERS)


class _Config(_Model):
    architecture: str
    os: str
    config: _Runtime | None = None
    rootfs: _RootFs


M = TypeVar("M", bound=_Model)


def resolve(blobs: Blobs, tag: str = "") -> Image:
    """The image with this tag (empty: the only one) for this machine.

    Raises ``InvalidInput`` when there is none or several, or a document is malformed or has the wrong digest.
    """
    if blobs.has("index.json"):
        return _from_layout(blobs, tag)
    if blobs.has("manifest.json"):
        return _from_saved(blobs, tag)
    raise InvalidInput("this is neither an OCI layout nor an archive of `docker save`", field="path")


def _from_layout(blobs: Blobs, tag: str) -> Image:
    index = _parse(_Index, read_small(blobs, "index.json"), "index.json")
    entries = [entry for entry in index.manifests if not tag or entry.annotations.get(_REF_NAME) == tag]
    entry = _for_this_machine(entries)
    if entry.media_type in _INDEXES:
        entry = _for_this_machine(_document(blobs, _Index, entry).manifests)
    manifest = _document(blobs, _Manifest, entry)
    config = _document(blobs, _Config, manifest.config)
    names: list[tuple[str, str | None]] = [(_blob(layer.digest), layer.digest) for layer in manifest.layers]
    return _image(manifest.config.digest, config, names)


def _from_saved(blobs: Blobs, tag: str) -> Image:
    text = b'{"entries":%s}' % read_small(blobs, "manifest.json")
    saved = [entry for entry in _parse(_Saves, text, "manifest.json").entries if not tag or tag in (entry.tags or [])]
    if len(saved) != 1:
        raise _ambiguous(len(saved))
    data = read_small(blobs, saved[0].config)
    return _image(_sha256(data), _parse(_Config, data, saved[0].config), [(name, None) for name in saved[0].layers])


def _for_this_machine(entries: list[_Descriptor]) -> _Descriptor:
    """The one entry for Linux on this processor; one without a platform counts, its configuration tells later."""
    wanted = _Platform(os="linux", architecture=_architecture())
    fitting = [entry for entry in entries if entry.platform in (wanted, None, _Platform())]
    if len(fitting) != 1:
        raise _ambiguous(len(fitting))
    return fitting[0]


def _ambiguous(count: int) -> InvalidInput:
    what = "no image" if count == 0 else f"{count} images"
    return InvalidInput(f"{what} for linux/{_architecture()} found: name one with `tag`", field="tag")


def _image(digest: str, config: _Config, names: list[tuple[str, str | None]]) -> Image:
    if (config.os, config.architecture) != ("linux", _architecture()):
        raise InvalidInput(f"the image is for {config.os}/{config.architecture}, not for linux/{_architecture()}")
    if len(names) != len(config.rootfs.diff_ids):
        raise InvalidInput("the image has another number of layers than its configuration says")
    layers = (Layer(name, known, diff_id) for (name, known), diff_id in zip(names, config.rootfs.diff_ids, strict=True))
    return Image(digest, tuple(layers), _image_config(config.config or _Runtime()))


def _image_config(config: _Runtime) -> ImageConfig:
    pairs = (entry.partition("=") for entry in config.env or [])
    env = {name: value for name, equals, value in pairs if name and equals and "\0" not in name + value}
    workdir = config.workdir or ""
    parts = workdir.split("/")
    # A descriptor of the host once leaked through a working directory below /proc (CVE-2024-21626).
    if workdir and (not workdir.startswith("/") or ".." in parts or parts[1] in ("proc", "sys", "dev")):
        raise InvalidInput(f"the image has {workdir!r} as its working directory, which is not allowed")
    return ImageConfig(env=env, user=(config.user or "root").partition(":")[0] or "root", workdir=workdir)


def _document(blobs: Blobs, model: type[M], descriptor: _Descriptor) -> M:
    data = read_small(blobs, _blob(descriptor.digest))
    if _sha256(data) != descriptor.digest:
        raise InvalidInput(f"the image is damaged: {descriptor.digest} has another content")
    return _parse(model, data, descriptor.digest)


def _parse(model: type[M], data: bytes, name: str) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{name} of the image is malformed at {where!r}: {first['msg']}") from error


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())
