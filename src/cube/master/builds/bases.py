"""What a build starts from: a template of this machine, one that clients have built, or an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cube.master.builds.runner import AT_HOME, Base
from cube.master.sandboxes.catalogue import TemplateCatalogue
from cube.master.sandboxes.registry import Origin
from cube.model.builds import Recipe
from cube.model.errors import InvalidInput, NotFound, TemplateNotFound

#: E2B's own images, by the template that is the same here.
_SAME = {"e2bdev/base": "base", "e2bdev/code-interpreter": "code-interpreter-v1"}
#: The tag of an image that means none in particular.
_LATEST = ":latest"


@dataclass(frozen=True, slots=True)
class Bases:
    """Finds them."""

    catalogue: TemplateCatalogue
    #: The templates of clients.
    built: Callable[[str], Origin | None]

    def of(self, recipe: Recipe) -> Base:
        """What a recipe starts from. Raises ``InvalidInput``, ``TemplateNotFound``."""
        if bool(recipe.from_template) is bool(recipe.from_image):
            raise InvalidInput("give one of fromImage and fromTemplate", field="fromTemplate")
        if recipe.from_template:
            return _base(self._template(recipe.from_template))
        return self._image(recipe.from_image)

    def _template(self, reference: str) -> Origin:
        try:
            return Origin(self.catalogue.resolve(reference))
        except InvalidInput:
            raise InvalidInput(f"fromTemplate: {reference[:100]!r} is no reference", field="fromTemplate") from None
        except TemplateNotFound:
            origin = self.built(reference)
            if origin is None:
                raise
            return origin

    def _image(self, image: str) -> Base:
        """An image is a template of its name, which somebody has imported."""
        name = image.removeprefix("docker.io/").removeprefix("library/").removesuffix(_LATEST)
        for reference in (name, f"{name}{_LATEST}"):
            try:
                origin = Origin(self.catalogue.resolve(_SAME.get(reference, reference)))
            except (InvalidInput, NotFound):
                continue
            return Base(origin, origin.template.fingerprint + ":image", AT_HOME)
        raise NotFound(
            f"fromImage: {image[:200]!r} is not on this machine: `cube template import` it with this name, "
            "or start with `from_template`"
        )


def _base(origin: Origin) -> Base:
    snapshot = origin.snapshot
    return Base(origin, origin.template.fingerprint if snapshot is None else snapshot.snapshot_id)
