"""Keycluster from trio: a key, a secret, a file.

keycluster dev --dir my-region &
python examples/trio_client.py my-region/endpoints.json
"""

import io
import sys

import trio

from keycluster import KeyClient, errors


async def main(endpoints: str) -> None:
    async with KeyClient.from_endpoints(endpoints) as client:
        key_id = (await client.create_key(description="trio example")).key_metadata.key_id
        print("made key", key_id)

        context = {"table": "customers"}  # Not secret, but needed again to decrypt: binds the text to its place.
        sealed = await client.encrypt(key_id=key_id, plaintext=b"4111 1111 1111 1111", encryption_context=context)
        opened = await client.decrypt(ciphertext_blob=sealed.ciphertext_blob, encryption_context=context)
        print("decrypted", opened.plaintext.decode())

        try:
            await client.decrypt(ciphertext_blob=sealed.ciphertext_blob, encryption_context={"table": "orders"})
        except errors.InvalidCiphertextException:
            print("refused under another context")

        # Calls made together share frames on one connection: 200 take about as long as ten.
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(lambda text: client.encrypt(key_id=key_id, plaintext=text), b"row %d" % number)
        print("encrypted 200 rows")

        # Of any size, in flat memory, readable by the AWS Encryption SDK too.
        source, message, back = io.BytesIO(b"a large file" * 100_000), io.BytesIO(), io.BytesIO()
        result = await client.encrypt_stream(source, message, key_id=key_id, encryption_context=context)
        message.seek(0)
        await client.decrypt_stream(message, back, encryption_context=context)
        print(f"file of {result.plaintext_bytes:,} bytes came back:", back.getvalue() == source.getvalue())


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
