"""The Java kernel: one JShell that keeps its variables from cell to cell, by ``java_program.java``."""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from typing import Any

from .answering import AnsweringDriver, require
from .channel import Channel
from .streams import Capture
from .supervisor import Child, run_host

#: A kernel waits for its user most of the time: it shall start soon and keep little.
_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Dfile.encoding=UTF-8")
#: The environment of a Java program is closed; a cell's own variables are put into it from inside.
_OPENED = ("--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED")


def _java() -> Child:
    place = tempfile.mkdtemp(prefix="java-kernel-")
    source = os.path.join(place, "CubeKernel.java")
    with open(source, "w", encoding="utf-8") as file:
        file.write(sys.modules["__main__"].sources["java_program.java"])

    def command(requests: int, answers: int) -> list[str]:
        return ["java", *_OPTIONS, *_OPENED, "--add-modules=jdk.jshell", source, str(requests), str(answers)]

    return Child(command)


def _request(request: dict[str, Any]) -> bytes:
    """The number of the cell, its code, and the variables as ``name=value``, all but the first in base64."""
    variables = (f"{name}={value}" for name, value in request["env"].items())
    fields = (base64.b64encode(text.encode("utf-8", "surrogatepass")) for text in (request["code"], *variables))
    return b"%d " % request["id"] + b" ".join(fields) + b"\n"


def _reseeding() -> str:
    """Code for what ``Math.random`` draws from; all other generators are made by the user's code."""
    seed = int.from_bytes(os.urandom(7), "big")
    holder = 'Class.forName("java.lang.Math$RandomNumberGeneratorHolder").getDeclaredField("randomNumberGenerator")'
    return f"{{ var held = {holder}; held.setAccessible(true); ((java.util.Random) held.get(null)).setSeed({seed}L); }}"


def _driver(channel: Channel, capture: Capture) -> AnsweringDriver:
    require("jshell", "openjdk-17-jdk-headless")
    return AnsweringDriver(channel, capture, "java", _java, _request, _reseeding)


def main() -> None:
    """Serve a Java context."""
    run_host(_driver)
