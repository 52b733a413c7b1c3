"""What no honest client sends, made by chance from a seed."""

import random
from collections.abc import Callable, Sequence

import msgspec

DEPTH = 5_000
LONG = 300_000


class Garbage:
    """Bytes, msgpack, JSON and frames, malformed in every way that the issue lists."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)

    def some_bytes(self, count_max: int = 300) -> bytes:
        return self.choice.randbytes(self.choice.randrange(1, count_max))

    def mutated(self, real: bytes) -> bytes:
        """A real message with something done to it."""
        changed = bytearray(real)
        for _ in range(self.choice.choice((1, 1, 1, 2, 5))):
            at = self.choice.randrange(len(changed) + 1)
            match self.choice.randrange(6):
                case 0 if changed:
                    changed[at % len(changed)] ^= 1 << self.choice.randrange(8)
                case 1:
                    del changed[at:]
                case 2:
                    changed[at:at] = self.some_bytes(20)
                case 3:
                    changed[at : at + 4] = self.choice.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
                case 4:
                    changed[at:at] = changed[: self.choice.randrange(40)]
                case _:
                    del changed[at : at + self.choice.randrange(8)]
        return bytes(changed)

    def msgpack(self) -> bytes:
        """A value, or what looks like the beginning of one."""
        return self.choice.choice(
            (
                b"\x91" * DEPTH + b"\xc0",  # Deep arrays; deep maps.
                b"\x81\xa1a" * DEPTH + b"\xc0",
                b"\xdd\xff\xff\xff\xff",  # An array, a text, a map of four thousand million.
                b"\xdb\xff\xff\xff\xff" + self.some_bytes(),
                b"\xdf\xff\xff\xff\xff" + self.some_bytes(),
                b"\xc6\x7f\xff\xff\xff",
                b"\x82\xa5KeyId\xa1a\xa5KeyId\xa1b",  # One name twice.
                b"\x81\xa5KeyId\xa3\xff\xfe\xfd",  # No UTF-8.
                b"\x81\xa5KeyId\xa3\xed\xa0\x80",  # A lone surrogate.
                b"\x81\xc4\x02\xff\xfe\xa1b",
                b"\x81\xa5KeyId\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
                b"\x81\xa5KeyId\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # Not a number.
                b"\x81\xa5KeyId\xd9\xff" + b"k" * 255,
                b"\x81\xa9Plaintext\xc6" + LONG.to_bytes(4, "big") + bytes(LONG),
                b"\xc1",
                b"",
                self.some_bytes(),
            )
        )

    def json(self) -> bytes:
        return self.choice.choice(
            (
                b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
                b"[" * DEPTH,
                b'{"KeyId":"a","KeyId":"b"}',
                b'{"KeyId":"\xff\xfe"}',
                b'{"KeyId":"\\ud800"}',
                b'{"KeyId":1e999}',
                b'{"KeyId":' + b"9" * 5_000 + b"}",
                b'{"KeyId":null,"Plaintext":{}}',
                b'{"Plaintext":"' + b"A" * 200_000 + b'"}',
                b'{"Plaintext":"not base64!"}',
                b'{"EncryptionContext":{' + b",".join(b'"%d":"v"' % n for n in range(3_000)) + b"}}",
                b'{"KeyId":"x"} trailing',
                b"\xef\xbb\xbf{}",
                b"",
                b"NaN",
                self.some_bytes(),
            )
        )

    def framed(self, body: bytes) -> bytes:
        """With its length, or with a lie about it."""
        length = len(body)
        if self.choice.random() < 0.2:
            length = self.choice.choice((0, 1, length + 1, 1 << 20, (1 << 20) + 1, 1 << 31, (1 << 32) - 1))
        return length.to_bytes(4, "big") + body

    def tls(self, client_hello: bytes) -> bytes:
        """What a TLS port may get instead of a handshake."""
        return self.choice.choice(
            (
                self.mutated(client_hello),
                client_hello[: self.choice.randrange(len(client_hello))],
                b"\x16\x03\x01\xff\xff" + self.some_bytes(),
                b"\x15\x03\x03\x00\x02\x02\x28",  # An alert first of all.
                b"\x17\x03\x03\x40\x00" + bytes(200),
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"SSH-2.0-OpenSSH_9.0\r\n",
                self.some_bytes(2_000),
            )
        )

    def http(self, real: bytes) -> bytes:
        """What an HTTP port may get."""
        return self.choice.choice(
            (
                self.mutated(real),
                self.mutated(real),
                b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
                b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000,
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
                b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
                b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
                b"POST / HTTP/9.9\r\n\r\n",
                b"\r\n\r\n\r\n" * 50,
                b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
                b"\x16\x03\x01\x02\x00" + self.some_bytes(),
                self.some_bytes(5_000),
            )
        )

    def value_for(self, real: dict[str, object]) -> dict[str, object]:
        """A request's members, one of them of another type or out of its bounds."""
        changed = dict(real)
        name = self.choice.choice([*real, "KeyId", "Plaintext", "NoSuchMember"])
        odd: Sequence[Callable[[], object]] = (
            lambda: None,
            lambda: -1,
            lambda: 2**63,
            lambda: 1.5,
            lambda: True,
            lambda: "",
            lambda: "x" * 10_000,
            lambda: "\0\n\u202e",
            lambda: b"",
            lambda: self.some_bytes(5_000),
            lambda: [[]] * 50,
            lambda: {"a": {"b": ["c"]}},
            lambda: {f"k{n}": "v" for n in range(300)},
        )
        changed[name] = self.choice.choice(odd)()
        return changed

    def request_input(self, real: dict[str, object]) -> bytes:
        """In msgpack: well-formed with odd values, mutated, or garbage."""
        match self.choice.randrange(4):
            case 0:
                return self.msgpack()
            case 1:
                return self.mutated(msgspec.msgpack.encode(real))
            case _:
                return msgspec.msgpack.encode(self.value_for(real))

    def request_body(self, real: dict[str, object]) -> bytes:
        """In JSON, the same."""
        match self.choice.randrange(4):
            case 0:
                return self.json()
            case 1:
                return self.mutated(msgspec.json.encode(real))
            case _:
                return msgspec.json.encode(self.value_for(real))
