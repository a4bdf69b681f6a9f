"""What has to be changed in libraries of the image, done when the user's code imports them."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from IPython.display import display  # type: ignore[import-not-found]


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module right after its first import."""

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self._actions = actions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders give, with the action tied to its loader."""
        action = self._actions.pop(fullname, None)
        if action is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, action)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, action: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._action = action

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._action(module)


def install() -> None:
    """Watch for the imports that need something."""
    sys.meta_path.insert(0, AfterImport({"PIL.Image": _show_saved_images, "getpass": _refuse_passwords}))


def _show_saved_images(module: Any) -> None:
    """``Image.save(path)`` also shows the image, as E2B's interpreter does; matplotlib's own files do not count."""
    save = module.Image.save

    def save_and_show(self: Any, fp: Any, *args: Any, **kwargs: Any) -> None:
        save(self, fp, *args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not hasattr(fp, "write") and not caller.startswith("matplotlib"):
            display(self)

    module.Image.save = save_and_show


class StdinNotImplementedError(NotImplementedError):
    """The name under which Jupyter reports that nobody can type."""


def refuse_input(prompt: object = "", *_: Any, **__: Any) -> str:
    """Stands for ``input``."""
    __tracebackhide__ = True
    raise StdinNotImplementedError(
        "input() has no one to ask: a cell has no standard input; put the value into the code"
    )


def _refuse_passwords(module: Any) -> None:
    module.getpass = refuse_input
