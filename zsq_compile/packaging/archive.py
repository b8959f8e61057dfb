"""Pack a folder into one .tar.gz whose bytes depend only on the files in it, and on the version of zlib."""

import gzip
import tarfile
from pathlib import Path

from zsq_compile.packaging.verify import MANIFEST, MANIFEST_HASH


def pack(folder: Path, archive: Path) -> None:
    """Write all files of a folder into an archive: the manifest first, the others by name, with equal owners and times.

    ``verify.unpack`` reads it, and so does any tar.
    """
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    first = [name for name in (MANIFEST, MANIFEST_HASH) if name in names]
    with (
        archive.open("wb") as sink,
        gzip.GzipFile("", "wb", fileobj=sink, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as members,
    ):
        for name in [*first, *sorted(names.difference(first))]:
            member = tarfile.TarInfo(name)
            member.size, member.mode = (folder / name).stat().st_size, 0o644
            with (folder / name).open("rb") as data:
                members.addfile(member, data)
