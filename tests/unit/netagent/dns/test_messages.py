from __future__ import annotations

import contextlib
import os
from pathlib import Path

import dns.edns
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.netagent.dns.messages import MOST_ADDRESSES, Question, Unusable, read_answer, read_question
from cube.netagent.dns.upstream import Servers, parse_resolv_conf


def question(name: str = "a.test", kind: str = "A", **options: object) -> Question:
    return read_question(dns.message.make_query(name, kind, **options).to_wire())  # type: ignore[arg-type]


def answer(asked: Question, *records: str, number: int = 7) -> bytes:
    reply = dns.message.make_response(dns.message.from_wire(asked.query(number)))
    for record in records:
        owner, ttl, kind, *values = record.split()
        reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, *values))
    return reply.to_wire()


def test_names_are_compared_in_lower_case_and_answered_as_they_were_written() -> None:
    asked = question("A.TeSt")
    assert asked.name == "a.test"
    told = read_answer(answer(asked, "a.test. 60 A 203.0.113.1"), asked, 7).to(asked)
    assert told[:2] == asked.message.id.to_bytes(2)
    assert b"\x01A\x04TeSt\x00" in told
    assert dns.message.from_wire(told).answer[0][0].address == "203.0.113.1"


def test_only_the_question_travels_on() -> None:
    """Whatever else a message carries, such as options, stays here."""
    asked = question(use_edns=0, options=[dns.edns.GenericOption(65001, b"secret")])
    sent = asked.query(99)
    assert b"secret" not in sent
    assert dns.message.from_wire(sent).id == 99


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 11,
        bytes(12),
        bytes(1300),
        dns.message.make_response(dns.message.make_query("a.test", "A")).to_wire(),
        dns.message.make_query("a.test", "A", rdclass="CH").to_wire(),
        dns.message.make_query("a.test", "AXFR").to_wire(),
        dns.message.make_query("a.test", "A").to_wire() + b"more",
    ],
    # Messages have random numbers: as names of tests they would differ at every collection.
    ids=["nothing", "too short", "zeroes", "too long", "an answer", "another class", "a transfer", "more behind it"],
)
def test_what_is_no_question(data: bytes) -> None:
    with pytest.raises(Unusable):
        read_question(data)


@given(st.binary(max_size=600))
def test_noise_is_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(Unusable):
        read_question(data)


@given(st.binary(max_size=600))
def test_noise_is_no_answer(data: bytes) -> None:
    asked = question()
    with pytest.raises(Unusable):
        read_answer(asked.query(7)[:2] + data, asked, 7)


@pytest.mark.parametrize(
    ("records", "addresses", "seconds"),
    [
        (["a.test. 60 A 203.0.113.1 203.0.113.2"], ["203.0.113.1", "203.0.113.2"], 60),
        (["a.test. 60 CNAME b.test.", "b.test. 30 A 203.0.113.1"], ["203.0.113.1"], 30),
        (["a.test. 10 CNAME b.test.", "b.test. 300 A 203.0.113.1"], ["203.0.113.1"], 10),
        (["b.test. 60 A 203.0.113.1"], [], 0),
        (["a.test. 60 CNAME b.test.", "c.test. 60 A 203.0.113.1"], [], 0),
        (["a.test. 60 CNAME b.test.", "b.test. 60 CNAME a.test."], [], 0),
        (["a.test. 0 A 203.0.113.1"], ["203.0.113.1"], 5),
        (["a.test. 999999 A 203.0.113.1"], ["203.0.113.1"], 86400),
        ([], [], 0),
    ],
)
def test_addresses_of_an_answer(records: list[str], addresses: list[str], seconds: int) -> None:
    asked = question()
    found = read_answer(answer(asked, *records), asked, 7)
    # Servers, and the library that plays one here, tell records in any order.
    assert sorted(str(address) for address in found.addresses) == addresses
    assert found.seconds == seconds


def test_a_long_chain_and_many_addresses_end_somewhere() -> None:
    asked = question("n0.test")
    chain = [f"n{n}.test. 60 CNAME n{n + 1}.test." for n in range(40)]
    assert read_answer(answer(asked, *chain, "n40.test. 60 A 203.0.113.1"), asked, 7).addresses == ()
    many = " ".join(f"203.0.113.{n}" for n in range(1, 40))
    found = read_answer(answer(asked, f"n0.test. 60 A {many}"), asked, 7)
    assert len(found.addresses) == MOST_ADDRESSES


def test_an_answer_to_something_else_is_none() -> None:
    asked = question()
    with pytest.raises(Unusable):
        read_answer(answer(asked, number=8), asked, 7)
    with pytest.raises(Unusable):
        read_answer(answer(question("b.test")), asked, 7)
    with pytest.raises(Unusable):
        read_answer(answer(question("a.test", "AAAA")), asked, 7)


def test_records_of_a_failure_do_not_count() -> None:
    asked = question()
    reply = dns.message.from_wire(answer(asked, "a.test. 60 A 203.0.113.1"))
    reply.set_rcode(dns.rcode.NXDOMAIN)
    assert read_answer(reply.to_wire(), asked, 7).addresses == ()


def test_refusals_say_why_to_those_who_can_read_it() -> None:
    plain = question().refusal(dns.rcode.REFUSED, "not spoken of")
    assert dns.message.from_wire(plain).rcode() == dns.rcode.REFUSED
    assert b"not spoken of" not in plain
    assert b"not spoken of" in question(use_edns=0).refusal(dns.rcode.REFUSED, "not spoken of")


def test_servers_of_the_host_are_read_again_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 203.0.113.53\n")
    servers = Servers(resolv_conf=path)
    assert servers.addresses() == ("203.0.113.53",)
    path.write_text("nameserver 203.0.113.54\n")
    os.utime(path, ns=(1, 1))
    assert servers.addresses() == ("203.0.113.54",)
    assert Servers(["9.9.9.9"], resolv_conf=path).addresses() == ("9.9.9.9",)


def test_resolv_conf() -> None:
    text = (
        "# comment\nsearch a.test\nnameserver 203.0.113.53\nnameserver ::1\nnameserver\nnameserver x\noptions edns0\n"
    )
    assert parse_resolv_conf(text) == ("203.0.113.53",)
