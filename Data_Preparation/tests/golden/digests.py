"""SHA-256 of output files, without what legitimately differs between two runs, machines or versions of the package.

Left out of a digest: the temporary folder's path, the port of a local server, and the version of this package in a
file's metadata. A manifest repeats the checksum and size of files, so those of files whose bytes hold a version are
replaced by the digest that is recorded for them. Everything else counts byte for byte. In stages whose numbers come
from matrix products or logarithms, which differ in the last bits between processors, floats are rounded.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq

DIGITS = 4
"""Significant digits of a float that is rounded."""

_FLOAT = re.compile(rb"-?\d+\.\d+(?:[eE][-+]?\d+)?")
_PORT = re.compile(rb"127\.0\.0\.1:\d+")
_FINGERPRINT = re.compile(rb'"(fingerprint|upstream)": "[0-9a-f]{64}"')
DISTANCES = re.compile(rb'"(kcenter_radius|mean_distance|mean_deviation|mmd2)": [^,\s]+')
"""Small differences of large sums in a selection's manifest, whose last digits are those of a processor."""

_PACKAGE_VERSION = re.compile(rb'"package_version":\s*"[^"]*"')


def digests(folder, root, rounded=False, ids_only=(), of_vectors=()):
    """Digest of every file in a folder but logs, locks and caches, by its path.

    Args:
        folder: the folder of outputs.
        root: the temporary folder, whose path is left out.
        rounded: round the floats of JSON, JSON Lines, Markdown and parquet files.
        ids_only: patterns of parquet files of which only `text_id` counts.
        of_vectors: patterns of manifests whose fingerprints are made from the checksums of embedding files, and so
            change with the version of this package, which is in the files.

    Returns:
        Digest by path, and every fingerprint of the manifests by path and place.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _counts(path.relative_to(folder))]
    manifests = [path for path in files if path.name == "manifest.json"]
    found, aliases = {}, {}
    for path in [path for path in files if path not in manifests] + manifests:
        name = path.relative_to(folder).as_posix()
        ids = any(path.match(pattern) for pattern in ids_only)
        content = _content(path, root, rounded, ids, aliases)
        if any(path.match(pattern) for pattern in of_vectors):
            content = _FINGERPRINT.sub(rb'"\1": "<fingerprint>"', content)
        found[name] = _sha256(content)
        raw = _sha256(path.read_bytes())
        if raw != found[name]:
            aliases[raw] = found[name]
    fingerprints = {}
    for path in manifests:
        if any(path.match(pattern) for pattern in of_vectors):
            continue
        _collect(json.loads(path.read_bytes()), path.relative_to(folder).as_posix(), fingerprints)
    return dict(sorted(found.items())), fingerprints


def _counts(path):
    return "logs" not in path.parts and not any(part.startswith(".") for part in path.parts)


def _content(path, root, rounded, ids, aliases):
    if path.suffix == ".h5":
        return _hdf5(path)
    if path.suffix == ".safetensors":
        return _safetensors(path.read_bytes())
    if path.suffix == ".parquet":
        return _table(path, ids) if rounded or ids else path.read_bytes()
    content = path.read_bytes()
    for text in {str(root), str(root.resolve()), json.dumps(str(root))[1:-1]}:
        content = content.replace(text.encode(), b"<root>")
    content = _PORT.sub(b"127.0.0.1:<port>", content)
    for raw, digest in aliases.items():
        content = re.sub(rb'("%s"[^{}]*?"bytes": )\d+' % raw.encode(), rb"\g<1>0", content)
        content = content.replace(raw.encode(), digest.encode())
    if not rounded:
        return content
    content = DISTANCES.sub(rb'"\1": "<number>"', content)
    return _FLOAT.sub(lambda match: _rounded(match[0]), content)


def _rounded(number):
    return b"%.*g" % (DIGITS, float(number))


def _safetensors(content):
    """The header without the version and its padding, and the tensors' bytes."""
    length = int.from_bytes(content[:8], "little")
    header = _PACKAGE_VERSION.sub(b'"package_version":""', content[8 : 8 + length]).rstrip()
    return header + b"\n" + content[8 + length :]


def _table(path, ids):
    table = pq.read_table(path, columns=["text_id"] if ids else None)
    rows = [json.dumps(row, default=str, ensure_ascii=False) for row in table.to_pylist()]
    text = "\n".join([str(table.schema.remove_metadata()), *rows]).encode()
    return text if ids else _FLOAT.sub(lambda match: _rounded(match[0]), text)


def _hdf5(path):
    """Names, types, values and attributes of all groups and datasets; HDF5 files themselves hold times."""
    parts = []

    def add(name, item):
        attributes = {key: str(value) for key, value in item.attrs.items() if key != "package_version"}
        parts.append(json.dumps([name, dict(sorted(attributes.items()))]))
        if isinstance(item, h5py.Dataset):
            values = item.asstr()[:].tolist() if h5py.check_string_dtype(item.dtype) else item[:]
            plain = values if isinstance(values, list) else _sha256(np.ascontiguousarray(values).tobytes())
            parts.append(json.dumps([str(item.dtype), item.shape, item.chunks, item.compression, plain]))

    with h5py.File(path, "r") as file:
        add("/", file)
        file.visititems(add)
    return "\n".join(parts).encode()


def _collect(value, place, into):
    if isinstance(value, dict):
        for key, part in value.items():
            if key in {"fingerprint", "upstream"} and isinstance(part, str) and part:
                into[f"{place}:{key}"] = part
            else:
                _collect(part, f"{place}:{key}", into)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            _collect(part, f"{place}:{number}", into)


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def copied(source, target):
    """A copy of a folder, which may be written to."""
    return Path(shutil.copytree(source, target))
