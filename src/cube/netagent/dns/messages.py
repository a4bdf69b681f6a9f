"""DNS messages: what is taken from a sandbox, what is asked in its place, and what an answer says. No I/O.

Both sides are strangers: a message is parsed as a whole, with bounds, before anything of it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.IN.A
import dns.rrset

#: Bytes of a question; names take 255 at most.
LONGEST_QUESTION: Final = 1232
#: What we tell servers, and clients at most, that a datagram may hold: fits into every path's packets.
_DATAGRAM: Final = 1232
_SMALL_DATAGRAM: Final = 512
#: Addresses of one answer that count.
MOST_ADDRESSES: Final = 8
#: Names that lead to each other.
_LONGEST_CHAIN: Final = 16
#: Seconds that an address is good for at least, for connecting takes some, and at most.
_LEAST_SECONDS: Final = 5
_MOST_SECONDS: Final = 86400
_HEADER_BYTES: Final = 12


class Unusable(Exception):
    """A message that nothing can be done with."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a sandbox wants to know."""

    #: In lower case, without the final dot.
    name: str
    message: dns.message.Message
    #: The name as it was written, for clients that compare it letter by letter.
    written: bytes

    @property
    def datagram_bytes(self) -> int:
        """How large an answer over UDP may be."""
        if self.message.edns < 0:
            return _SMALL_DATAGRAM
        return max(_SMALL_DATAGRAM, min(self.message.payload, _DATAGRAM))

    def query(self, number: int) -> bytes:
        """The same question in words of our own, so that nothing else of the message travels on."""
        entry = self.message.question[0]
        query = dns.message.make_query(
            entry.name.canonicalize(),
            entry.rdtype,
            entry.rdclass,
            use_edns=0 if self.message.edns >= 0 else False,
            payload=_DATAGRAM,
            want_dnssec=bool(self.message.ednsflags & dns.flags.DO),
            id=number,
        )
        return query.to_wire()

    def refusal(self, code: dns.rcode.Rcode, why: str = "") -> bytes:
        """An answer without records; ``why`` is told to those who can read it."""
        answer = dns.message.make_response(self.message, recursion_available=True, our_payload=_DATAGRAM)
        answer.set_rcode(code)
        if why and self.message.edns >= 0:
            blocked = dns.edns.EDEOption(dns.edns.EDECode.BLOCKED, why)
            answer.use_edns(0, payload=_DATAGRAM, options=[blocked])
        return answer.to_wire()

    def truncated(self) -> bytes:
        """An answer that says: ask again over TCP."""
        answer = dns.message.make_response(self.message, recursion_available=True, our_payload=_DATAGRAM)
        answer.flags |= dns.flags.TC
        return answer.to_wire()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says."""

    wire: bytes
    truncated: bool
    #: Addresses of the name, through all names that it leads to, and for how many seconds they are good.
    addresses: tuple[IPv4Address, ...]
    seconds: int

    def to(self, question: Question) -> bytes:
        """The answer as the one who asked expects it: with its own number, and the name as it was written."""
        number, written = question.message.id.to_bytes(2), question.written
        return number + self.wire[2:_HEADER_BYTES] + written + self.wire[_HEADER_BYTES + len(written) :]


def read_question(data: bytes) -> Question:
    """What a sandbox has sent. Raises :class:`Unusable`."""
    if len(data) > LONGEST_QUESTION:
        raise Unusable("too long")
    message = _parse(data)
    if message.flags & dns.flags.QR or message.opcode() != dns.opcode.QUERY or len(message.question) != 1:
        raise Unusable("no question")
    entry = message.question[0]
    if entry.rdclass != dns.rdataclass.IN or entry.rdtype in (dns.rdatatype.AXFR, dns.rdatatype.IXFR):
        raise Unusable("not a question about a name of the internet")
    written = entry.name.to_wire()
    if written is None:
        raise Unusable("no name")
    return Question(_plain(entry.name), message, data[_HEADER_BYTES : _HEADER_BYTES + len(written)])


def read_answer(data: bytes, question: Question, number: int) -> Answer:
    """What a server has sent to a question that was asked under a number. Raises :class:`Unusable`."""
    message = _parse(data)
    asked = question.message.question[0]
    if message.id != number or not message.flags & dns.flags.QR or len(message.question) != 1:
        raise Unusable("not the answer")
    told = message.question[0]
    if (_plain(told.name), told.rdtype, told.rdclass) != (question.name, asked.rdtype, asked.rdclass):
        raise Unusable("an answer to something else")
    if data[_HEADER_BYTES : _HEADER_BYTES + len(question.written)].lower() != question.written.lower():
        raise Unusable("an answer in another form")
    addresses, seconds = _addresses(message, told.name)
    return Answer(data, bool(message.flags & dns.flags.TC), addresses, seconds)


def _parse(data: bytes) -> dns.message.Message:
    try:
        return dns.message.from_wire(data, one_rr_per_rrset=False)
    except (dns.exception.DNSException, ValueError, IndexError) as error:
        raise Unusable(str(error)) from error


def _plain(name: dns.name.Name) -> str:
    """A name for comparing. What no policy can speak of stays distinguishable: bytes outside of ASCII are escaped."""
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""


def _addresses(message: dns.message.Message, name: dns.name.Name) -> tuple[tuple[IPv4Address, ...], int]:
    if message.rcode() != dns.rcode.NOERROR:
        return (), 0
    lifetimes: list[int] = []
    for _ in range(_LONGEST_CHAIN):
        found = _records(message, name, dns.rdatatype.A)
        if found is not None:
            addresses = [IPv4Address(record.address) for record in found if isinstance(record, dns.rdtypes.IN.A.A)]
            seconds = min(found.ttl, *lifetimes) if lifetimes else found.ttl
            return tuple(addresses[:MOST_ADDRESSES]), max(_LEAST_SECONDS, min(seconds, _MOST_SECONDS))
        alias = _records(message, name, dns.rdatatype.CNAME)
        if alias is None:
            break
        lifetimes.append(alias.ttl)
        name = alias[0].target
    return (), 0


def _records(
    message: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
) -> dns.rrset.RRset | None:
    return message.get_rrset(dns.message.ANSWER, name, dns.rdataclass.IN, kind)
