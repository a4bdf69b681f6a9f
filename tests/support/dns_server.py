"""A server for names in the internet of a test, and a client for the inside of a link."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.machine import Internet

#: Where it listens.
SERVER = "203.0.113.53"
#: Records by name: ``A`` addresses or one ``CNAME``, and ``ttl``; ``cut`` answers over UDP say: ask over TCP.
#: ``lies`` come before the truth: an answer under a wrong number, and one to another question.
_SERVER = """
import json, socket, struct, sys, threading
import dns.message, dns.rrset, dns.flags, dns.rcode
zone, log = json.loads(sys.argv[2]), open(sys.argv[3], 'a', buffering=1)
def answer(data, way):
    query = dns.message.from_wire(data)
    name = query.question[0].name.to_text(omit_final_dot=True)
    print(way, name, query.question[0].rdtype, file=log)
    reply = dns.message.make_response(query, recursion_available=True)
    seen = zone.get(name)
    if seen is None: reply.set_rcode(dns.rcode.NXDOMAIN); return [reply.to_wire()]
    if seen.get('silent'): return []
    if seen.get('cut') and way == 'udp': reply.flags |= dns.flags.TC; return [reply.to_wire()]
    lies = []
    if seen.get('lies'):
        fake = dns.message.make_response(query)
        fake.answer.append(dns.rrset.from_text(query.question[0].name, 60, 'IN', 'A', seen['lies']))
        wrong = bytearray(fake.to_wire()); wrong[0] ^= 255
        other = dns.message.make_response(dns.message.make_query('other.test', 'A', id=query.id))
        other.answer.append(dns.rrset.from_text('other.test.', 60, 'IN', 'A', seen['lies']))
        lies = [bytes(wrong), other.to_wire(), b'nonsense', b'']
    at = name
    while 'CNAME' in zone.get(at, {}):
        target = zone[at]['CNAME']
        reply.answer.append(dns.rrset.from_text(at + '.', zone[at].get('ttl', 60), 'IN', 'CNAME', target + '.'))
        at = target
    records = zone.get(at, {}).get('A', [])
    if records and query.question[0].rdtype == 1:
        reply.answer.append(dns.rrset.from_text(at + '.', zone[at].get('ttl', 60), 'IN', 'A', *records))
    return [*lies, reply.to_wire()]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind((sys.argv[1], 53))
tcp = socket.create_server((sys.argv[1], 53))
def streams():
    while True:
        client, _ = tcp.accept()
        data = client.recv(4096)
        for wire in answer(data[2:], 'tcp'): client.sendall(struct.pack('!H', len(wire)) + wire)
        client.close()
threading.Thread(target=streams, daemon=True).start()
print('up', flush=True)
while True:
    data, peer = udp.recvfrom(4096)
    for wire in answer(data, 'udp'): udp.sendto(wire, peer)
"""

#: Asks argv[1] for the A records of argv[2] over argv[3] (``udp`` or ``tcp``); prints the result's code and addresses.
DIG = """
name = b''.join(bytes([len(l)]) + l.encode() for l in sys.argv[2].split('.')) + b'\\0'
query = struct.pack('!HHHHHH', 4711, 0x0100, 1, 0, 0, 0) + name + struct.pack('!HH', 1, 1)
way = sys.argv[3] if len(sys.argv) > 3 else 'udp'
kind = socket.SOCK_DGRAM if way == 'udp' else socket.SOCK_STREAM
s = socket.socket(socket.AF_INET, kind); s.settimeout(wait)
try:
  s.connect((sys.argv[1], 53))
  s.send(query if way == 'udp' else struct.pack('!H', len(query)) + query)
  data = s.recv(65536) if way == 'udp' else s.makefile('rb').read(struct.unpack('!H', s.recv(2))[0])
except TimeoutError: print('TIMEOUT'); sys.exit()
except OSError as e: print(errno.errorcode[e.errno]); sys.exit()
number, flags, _, answers, _, _ = struct.unpack('!HHHHHH', data[:12])
assert number == 4711 and data[12:12 + len(name)] == name, data
at, found = 12 + len(name) + 4, []
for _ in range(answers):
  while data[at] and data[at] < 192: at += data[at] + 1
  at += 2 if data[at] >= 192 else 1
  kind, _, ttl, length = struct.unpack('!HHIH', data[at:at + 10]); at += 10
  if kind == 1: found.append(socket.inet_ntoa(data[at:at + 4]))
  at += length
codes = ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED']
print(codes[flags & 15], 'TC' if flags & 0x200 else '', *found)
"""


@contextmanager
def name_server(internet: Internet, zone: dict[str, Any], log: str, address: str = SERVER) -> Iterator[None]:
    """A server during the block; it writes what it is asked to ``log``."""
    internet.ip(f"address replace {address}/32 dev machine")
    with internet.program(_SERVER, address, json.dumps(zone), log):
        yield
