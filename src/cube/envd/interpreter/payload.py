"""Sends the kernel programs into a sandbox: their source, over stdin, as the package ``cube_kernel``.

Nothing has to be installed in the image, and the source does not show up in its process list. The command line is a
loader of a few lines; what it reads is a JSON object of module sources and the name of the one to run.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import orjson

PACKAGE = "cube_kernel"

#: Reads exactly as many bytes from descriptor 0 as its argument says; what follows belongs to the program.
LOADER = """
import json, os, sys
from importlib.machinery import ModuleSpec
def take(missing):
    data = b""
    while missing > len(data):
        block = os.read(0, missing - len(data))
        if not block:
            sys.exit(0)
        data += block
    return json.loads(data)
class Modules:
    def __init__(self, sources):
        self.sources = sources
    def find_spec(self, name, path=None, target=None):
        if name in self.sources:
            return ModuleSpec(name, self, is_package=name == "cube_kernel")
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        name = module.__name__
        exec(compile(self.sources[name], "<" + name + ">", "exec", dont_inherit=True), module.__dict__)
payload = take(int(sys.argv.pop()))
sys.modules["__main__"].sources = payload["sources"]
sys.meta_path.insert(0, Modules(payload["sources"]))
__import__("cube_kernel." + payload["main"], fromlist=["main"]).main()
"""


@cache
def payload(main: str) -> bytes:
    """What makes the loader run ``cube_kernel.<main>.main()``."""
    return orjson.dumps({"sources": _sources(), "main": main})


def command(program: bytes) -> tuple[str, ...]:
    """The command line of the loader for a payload."""
    return ("python3", "-c", LOADER, str(len(program)))


@cache
def _sources() -> dict[str, str]:
    """Texts by name: modules by their full name in the sandbox, other files by their own."""
    files = resources.files("cube.envd.interpreter.kernels").iterdir()
    texts = {file.name: file.read_text() for file in files if file.name.endswith((".py", ".js", ".java", ".r"))}
    return {_name(file): text for file, text in texts.items()}


def _name(file: str) -> str:
    if not file.endswith(".py"):
        return file
    return PACKAGE if file == "__init__.py" else f"{PACKAGE}.{file[:-3]}"
