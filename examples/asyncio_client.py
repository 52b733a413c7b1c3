"""Keycluster from asyncio: the same client, and what it does when things go wrong.

keycluster dev --dir my-region &
python examples/asyncio_client.py my-region/endpoints.json
"""

import asyncio
import sys

from keycluster import KeyClient, errors


async def main(endpoints: str) -> None:
    async with KeyClient.from_endpoints(endpoints, az="us-east-1b") as client:  # Nodes of one's own zone are preferred.
        key_id = (await client.create_key(description="asyncio example")).key_metadata.key_id
        await client.create_alias(alias_name=f"alias/{key_id}", target_key_id=key_id)
        alias = f"alias/{key_id}"
        print("made key", key_id)

        texts = [b"one", b"two", b"three"]
        sealed = await asyncio.gather(*(client.encrypt(key_id=alias, plaintext=text) for text in texts))
        opened = await asyncio.gather(*(client.decrypt(ciphertext_blob=one.ciphertext_blob) for one in sealed))
        print("decrypted", [one.plaintext.decode() for one in opened])

        # One line of text for a configuration file: encrypted data key and data together.
        line = await client.encrypt_text(b"database password", key_id=alias)
        print("text form", line[:40] + "…", "->", (await client.decrypt_text(line)).decode())

        # When this has returned, no node of the region uses the key: nobody has to wait and see.
        await client.disable_key(key_id=key_id)
        try:
            await client.encrypt(key_id=alias, plaintext=b"x")
        except errors.DisabledException:
            print("disabled everywhere")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
