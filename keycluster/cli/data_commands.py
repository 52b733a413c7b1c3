"""`keycluster encrypt`, `decrypt`, `encrypt-file`, …: using keys.

Files are envelope-encrypted: a data key for each, made by the CMK and stored encrypted at the head of the output (the
AWS Encryption SDK's message format). The output is written beside its place and takes it only once it is whole and
verified.
"""

import argparse
import base64
import binascii
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from keycluster import KeyClient, Suite
from keycluster.cli.connection import add_connection_options, with_client
from keycluster.cli.key_commands import context_of
from keycluster.cli.output import CommandFailed, Output

PLAINTEXT_BYTES_MAX = 4096
SUITES = {"signed": Suite.SIGNED, "unsigned": Suite.UNSIGNED}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the data plane's commands."""
    encrypt = _command(commands, "encrypt", "encrypt up to 4,096 bytes under a key; prints Base64", _encrypt)
    encrypt.add_argument("--key", required=True, metavar="KEY", help="key id, ARN, alias or alias ARN")
    _input_option(encrypt, "the plaintext")
    decrypt = _command(commands, "decrypt", "decrypt what `encrypt` printed", _decrypt)
    decrypt.add_argument("--key", metavar="KEY", help="refuse anything that another key encrypted")
    _input_option(decrypt, "the ciphertext, Base64")
    re_encrypt = _command(commands, "re-encrypt", "decrypt and encrypt again under another key", _re_encrypt)
    re_encrypt.add_argument("--key", required=True, metavar="KEY", help="the key to encrypt under")
    _input_option(re_encrypt, "the ciphertext, Base64")
    data_key = _command(commands, "generate-data-key", "make a data key; prints it and its ciphertext", _data_key)
    data_key.add_argument("--key", required=True, metavar="KEY", help="key id, ARN, alias or alias ARN")
    data_key.add_argument("--without-plaintext", action="store_true", help="print the ciphertext alone")
    random = _command(commands, "random", "random bytes from the region; prints Base64", _random, context=False)
    random.add_argument("bytes", type=int, help="1 to 1024")
    for name, help_text, run in (
        ("encrypt-file", "encrypt a file of any size under a data key of its own", _encrypt_file),
        ("decrypt-file", "decrypt what `encrypt-file` wrote", _decrypt_file),
    ):
        parser = _command(commands, name, help_text, run)
        parser.add_argument("source", type=Path, metavar="FROM")
        parser.add_argument("sink", type=Path, metavar="TO", help="replaced if it is there, once the work is done")
        if name == "encrypt-file":
            parser.add_argument("--key", required=True, metavar="KEY", help="key id, ARN, alias or alias ARN")
            parser.add_argument(
                "--suite",
                choices=sorted(SUITES),
                default="signed",
                help="with a signature or without (default: signed)",
            )


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help_text: str,
    run: Callable[[argparse.Namespace, Output], None],
    *,
    context: bool = True,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    if context:
        parser.add_argument(
            "--context",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="encryption context: bound to the ciphertext, not secret; may be given several times",
        )
    add_connection_options(parser)
    parser.set_defaults(run=run)
    return parser


def _input_option(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--in", dest="input", type=Path, metavar="FILE", help=f"{what} (default: standard input)")


def _read_input(options: argparse.Namespace, limit: int) -> bytes:
    if options.input is None:
        content = sys.stdin.buffer.read(limit + 1)
    else:
        with _open(options.input) as file:
            content = file.read(limit + 1)
    if len(content) > limit:
        raise CommandFailed(f"the input has more than {limit} bytes", hint="`keycluster encrypt-file` takes any size")
    return content


def _read_ciphertext(options: argparse.Namespace) -> bytes:
    try:
        return base64.b64decode(b"".join(_read_input(options, 16_384).split()), validate=True)
    except binascii.Error:
        raise CommandFailed("the input is not Base64") from None


def _encrypt(options: argparse.Namespace, output: Output) -> None:
    plaintext = _read_input(options, PLAINTEXT_BYTES_MAX)
    answer = with_client(
        options,
        lambda client: client.encrypt(
            key_id=options.key,
            plaintext=plaintext,
            encryption_context=context_of(options.context),
            timeout=options.timeout,
        ),
    )
    output.result(answer, lines=[base64.b64encode(answer.ciphertext_blob).decode()])


def _decrypt(options: argparse.Namespace, output: Output) -> None:
    ciphertext = _read_ciphertext(options)
    answer = with_client(
        options,
        lambda client: client.decrypt(
            ciphertext_blob=ciphertext,
            key_id=options.key,
            encryption_context=context_of(options.context),
            timeout=options.timeout,
        ),
    )
    if output.json:
        output.result(answer)
    else:
        sys.stdout.buffer.write(answer.plaintext or b"")
        sys.stdout.buffer.flush()


def _re_encrypt(options: argparse.Namespace, output: Output) -> None:
    ciphertext, context = _read_ciphertext(options), context_of(options.context)
    answer = with_client(
        options,
        lambda client: client.re_encrypt(
            ciphertext_blob=ciphertext,
            destination_key_id=options.key,
            source_encryption_context=context,
            destination_encryption_context=context,
            timeout=options.timeout,
        ),
    )
    output.result(answer, lines=[base64.b64encode(answer.ciphertext_blob).decode()])


def _data_key(options: argparse.Namespace, output: Output) -> None:
    async def act(client: KeyClient) -> Any:
        call = client.generate_data_key_without_plaintext if options.without_plaintext else client.generate_data_key
        return await call(
            key_id=options.key,
            key_spec="AES_256",
            encryption_context=context_of(options.context),
            timeout=options.timeout,
        )

    answer = with_client(options, act)
    lines = [base64.b64encode(answer.ciphertext_blob).decode()]
    if not options.without_plaintext:
        lines.insert(0, base64.b64encode(answer.plaintext).decode())
    output.result(answer, lines=lines)


def _random(options: argparse.Namespace, output: Output) -> None:
    answer = with_client(
        options, lambda client: client.generate_random(number_of_bytes=options.bytes, timeout=options.timeout)
    )
    output.result(answer, lines=[base64.b64encode(answer.plaintext or b"").decode()])


def _encrypt_file(options: argparse.Namespace, output: Output) -> None:
    async def work(client: KeyClient, source: BinaryIO, sink: BinaryIO, progress: Callable[[int], None]) -> Any:
        return await client.encrypt_stream(
            source,
            sink,
            key_id=options.key,
            encryption_context=context_of(options.context),
            suite=SUITES[options.suite],
            progress=progress,
        )

    _file_to_file(options, output, "encrypting", work)


def _decrypt_file(options: argparse.Namespace, output: Output) -> None:
    async def work(client: KeyClient, source: BinaryIO, sink: BinaryIO, progress: Callable[[int], None]) -> Any:
        return await client.decrypt_stream(
            source, sink, encryption_context=context_of(options.context), progress=progress
        )

    _file_to_file(options, output, "decrypting", work)


Work = Callable[[KeyClient, BinaryIO, BinaryIO, Callable[[int], None]], Awaitable[Any]]


def _file_to_file(options: argparse.Namespace, output: Output, verb: str, work: Work) -> None:
    with _open(options.source) as source:
        size = os.fstat(source.fileno()).st_size
        with _replaced(options.sink) as sink, _progress(f"{verb} {options.source.name}", size, output) as progress:
            result = with_client(options, lambda client: work(client, source, sink, progress))
    summary = {"From": str(options.source), "To": str(options.sink), "Bytes": size, "KeyId": result.key_id}
    output.result(summary, lines=[f"{options.source} → {options.sink}, {size:,} bytes read"])


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from None


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """A new file, 0600, that takes `path`'s place once the block ends well, and is gone if it doesn't."""
    target = path.resolve()  # A link's target is replaced, not the link.
    if target.exists() and not target.is_file():
        raise CommandFailed(f"{path} is not a regular file")  # Its replacement would be: think of /dev/null.
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def _progress(title: str, total: int, output: Output) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, for a terminal; called with the bytes done so far."""
    if output.json or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console  # Slow to import, and not needed for machines.
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)
