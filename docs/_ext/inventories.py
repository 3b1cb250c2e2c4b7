"""Intersphinx without a network: inventories of the few names that the pages link to.

`inventories.txt` lists them in the plain form of Sphinx's own inventories; `write` packs each
section as Sphinx reads it.
"""

import zlib
from pathlib import Path


def write(source: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """Pack every section ``[project] url`` of a list, and return the ``intersphinx_mapping``."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for section in source.read_text(encoding="utf-8").split("\n[")[1:]:
        title, *entries = section.strip().splitlines()
        project, url = title.split("] ")
        packed = folder / f"{project}.inv"
        header = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
        compressed = "# The remainder of this file is compressed using zlib.\n"
        body = zlib.compress("".join(f"{entry}\n" for entry in entries if entry).encode())
        packed.write_bytes((header + compressed).encode() + body)
        mapping[project] = (url, str(packed))
    return mapping
