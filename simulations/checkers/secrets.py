"""No clear key material in anything sent or stored: a search for many secrets at once, in streams cut anywhere.

Half a secret found is a secret found, so what is looked for is each secret's first and last 16 bytes, in every form in
which it might be written: raw, hexadecimal, Base64 at any place in a longer text, Python's repr.

How it is fast with any number of secrets: however a stream is aligned, a form of 16 bytes covers one whole aligned word
of 8 bytes of it. So every 8 bytes of each form, from each of its places, go into one set; a stream's aligned words are
looked up there, one look-up for 8 bytes; and only where one is found is each form looked for in earnest.
"""

import base64
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from keycluster.simulations.runs import Failure

CHECKER: Final = "secrecy"

HALF_BYTES: Final = 16
"""Half a key found is a key found."""
_WORD_BYTES: Final = 8
_FORM_BYTES_MIN: Final = 2 * _WORD_BYTES - 1


def forms(secret: bytes) -> list[bytes]:
    """How it might be written: raw, hex, Base64 in both alphabets at any place in a longer text, Python's repr."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode(), repr(secret)[2:-1].encode()]
    for before in range(3):
        whole = base64.b64encode(bytes(before) + secret + bytes(2))
        part = whole[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        found += [part, part.replace(b"+", b"-").replace(b"/", b"_")]
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Found:
    """A secret where it must not be. Its name, never itself."""

    secret: str
    place: str

    def failure(self, at_ns: int | None = None) -> Failure:
        return Failure(CHECKER, f"{self.secret} stands in the clear in {self.place}", at_ns)


class SecretSearch:
    """Looks for secrets in streams (`feed`) and in whole contents (`look_in`).

    A secret that is learned late is looked for in what comes after it: nothing holds a secret before it was made.
    """

    def __init__(self, secrets: Mapping[str, bytes] | None = None) -> None:
        self._forms: dict[bytes, str] = {}
        self._words: set[int] = set()
        self._longest = 0
        self._tails: dict[str, bytes] = {}
        self._found: dict[Found, None] = {}
        for name, secret in (secrets or {}).items():
            self.add(name, secret)

    def add(self, name: str, secret: bytes) -> None:
        """Raises `ValueError` for one so short that chance would find it."""
        if len(secret) < HALF_BYTES:
            raise ValueError(f"{name} has {len(secret)} bytes; less than {HALF_BYTES} can't be told from chance")
        for half in (secret[:HALF_BYTES], secret[-HALF_BYTES:]):
            for form in forms(half):
                if form not in self._forms:
                    self._add_form(name, form)

    def _add_form(self, name: str, form: bytes) -> None:
        if len(form) < _FORM_BYTES_MIN:
            raise ValueError(f"a form of {len(form)} bytes needn't cover a whole word")
        self._forms[form] = name
        self._longest = max(self._longest, len(form))
        for start in range(len(form) - _WORD_BYTES + 1):
            self._words.add(int.from_bytes(form[start : start + _WORD_BYTES], sys.byteorder))

    def feed(self, stream: str, chunk: bytes) -> list[Found]:
        """What is found in `stream` with this chunk at its end, and wasn't before. Streams are told apart by name."""
        content = self._tails.get(stream, b"") + chunk
        self._tails[stream] = content[-(self._longest - 1) :] if self._longest > 1 else b""
        return self._note(stream, content)

    def end(self, stream: str) -> None:
        """Forgets a stream's tail: what comes under that name later is another stream."""
        self._tails.pop(stream, None)

    def look_in(self, place: str, content: bytes) -> list[Found]:
        """What is found in a whole content, and wasn't there before."""
        return self._note(place, content)

    @property
    def found(self) -> list[Found]:
        """All so far, in order."""
        return list(self._found)

    def _note(self, place: str, content: bytes) -> list[Found]:
        new = []
        for name in self._names_in(content):
            found = Found(name, place)
            if found not in self._found:
                self._found[found] = None
                new.append(found)
        return new

    def _names_in(self, content: bytes) -> Iterable[str]:
        whole = len(content) - len(content) % _WORD_BYTES
        if self._words.isdisjoint(memoryview(content[:whole]).cast("Q")):
            return ()
        return dict.fromkeys(name for form, name in self._forms.items() if form in content)
