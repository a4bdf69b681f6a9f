"""What a microVM boots: a kernel, an initramfs with cube-init in it, and a command line."""

from cube.cubelet.runtime.microvm.boot.command_line import command_line
from cube.cubelet.runtime.microvm.boot.files import BootFiles

__all__ = ["BootFiles", "command_line"]
