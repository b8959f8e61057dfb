"""Pack a folder into one .tar.gz whose bytes depend on nothing but the files in it (and on the version of zlib)."""

import hashlib
import io
import struct
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import IO

from zsq_compile.packaging.verify import GZIP_HEADER, MANIFEST, MANIFEST_HASH

_LEVEL, _MEMORY = 9, 9
_CHUNK = 1 << 20


def pack(folder: Path, archive: Path) -> None:
    """Write all files of a folder into an archive that any tar reads and that ``verify.unpack`` holds to its digest.

    Names are sorted behind the manifest; owners, modes and times are the same for all. Gzip has a checksum of the data,
    but none of its own header or of padding bits, so the header's extra field has a SHA-256 of what follows.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    first = [name for name in (MANIFEST, MANIFEST_HASH) if name in names]
    with tempfile.TemporaryFile(dir=archive.parent) as tar:
        with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as members:
            for name in [*first, *(name for name in names if name not in first)]:
                member = tarfile.TarInfo(name)
                member.size, member.mode = (folder / name).stat().st_size, 0o644
                with (folder / name).open("rb") as data:
                    members.addfile(member, data)
        tar.seek(0)
        with archive.open("wb") as sink:
            sink.write(GZIP_HEADER + bytes(32))
            digest = _deflate(tar, sink)
            sink.seek(len(GZIP_HEADER))
            sink.write(digest)


def _deflate(source: IO[bytes], sink: io.BufferedWriter) -> bytes:
    """Write the compressed data and gzip's trailer; returns the SHA-256 of both."""
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, _MEMORY)
    digest, checksum, size = hashlib.sha256(), 0, 0
    while chunk := source.read(_CHUNK):
        checksum, size = zlib.crc32(chunk, checksum), size + len(chunk)
        data = deflater.compress(chunk)
        digest.update(data)
        sink.write(data)
    data = deflater.flush() + struct.pack("<II", checksum, size & 0xFFFFFFFF)
    digest.update(data)
    sink.write(data)
    return digest.digest()
