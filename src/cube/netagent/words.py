"""What policies look like to the kernel's rules: numbers that say what a sandbox may do, and where an address leads."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

#: Which part of a packet's mark is ours while the packet passes through this machine.
MARK_MASK: Final = 0xFFFF0000
#: Its policy lets the packet out.
PASSED: Final = 0xCE010000
#: The packet is for the gateway that judges HTTP and HTTPS.
DIVERTED: Final = 0xCE020000
#: The packet is a question for a name.
RESOLVER: Final = 0xCE030000
#: Set in all of these and in nothing else that we write: the packet has been judged.
JUDGED: Final = 0x80000000

#: Bit of a connection's mark, beside the generation of the policy that let it through.
DIVERTED_FLOW: Final = 0x0100_0000
#: Generations count up to here and begin again; 0 is none.
LAST_GENERATION: Final = 0x00FF_FFFF


class Word(IntFlag):
    """What is said of a sandbox as a whole."""

    #: What no list names may be reached, private addresses apart.
    OPEN = 0x01
    #: Lists and names are to be looked through.
    LISTED = 0x02
    #: The resolver of its gateway may be asked.
    NAMES = 0x04
    #: HTTP and HTTPS to whatever may be reached is judged by the gateway.
    EVERYTHING_DIVERTED = 0x08


class Target(IntEnum):
    """What is said of an address or network of the world for one sandbox."""

    PASS = 1
    REFUSE = 2
    #: It may be reached over HTTP and HTTPS, by way of the gateway, and in no other way.
    GATEWAY_ONLY = 3
    #: HTTP and HTTPS go by way of the gateway, everything else passes.
    GATEWAY = 4
