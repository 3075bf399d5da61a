"""What is in a node fits together: no program asks for a newer C library than the node has."""

import os
import re
import struct
from pathlib import Path

NEEDS = re.compile(rb"GLIBC_(\d+)\.(\d+)(?:\.\d+)?\0")
PT_INTERP, PT_DYNAMIC = 3, 2


def node_root(service):
    """Of a node that runs, seen through its PID 1."""
    for file in Path(service.home, "run").glob("i-*.pid"):
        pid = int(re.search(r'"pid": *(\d+)', file.read_text())[1])
        return Path(f"/proc/{pid}/root")
    raise AssertionError("no node runs")


def is_dynamic(data):
    """Whether the loader has something to do for this 64-bit ELF file."""
    offset, = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    return any(struct.unpack_from("<I", data, offset + i * size)[0] in (PT_INTERP, PT_DYNAMIC) for i in range(count))


def programs(root):
    for top in ["usr", "opt", "bin", "sbin", "lib", "lib64"]:
        if (root / top).is_symlink():
            continue
        for directory, names, files in os.walk(root / top):
            for name in files:
                path = Path(directory, name)
                if path.is_symlink() or not path.is_file():
                    continue
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield path


def test_nothing_needs_a_newer_c_library(service, cluster):
    root = node_root(service)
    (libc,) = root.glob("usr/lib/*-linux-gnu/libc.so.6")
    version = lambda data: max((int(a), int(b)) for a, b in NEEDS.findall(data))  # noqa: E731
    has = version(libc.read_bytes())
    seen, dynamic = set(), set()
    for path in programs(root):
        data = path.read_bytes()
        seen.add(path.name)
        if is_dynamic(data) and NEEDS.search(data):
            dynamic.add(path.name)
            assert version(data) <= has, f"{path} needs {version(data)}, the node has {has}"
    ours = {"ekstra-node", "kubelet", "containerd", "containerd-shim-runc-v2", "runc", "ptp", "host-local"}
    assert ours <= seen, ours - seen
    # Ours would not mind any C library: they bring their own or none.
    assert not ours & dynamic, ours & dynamic
    assert "mount" in dynamic, "the search finds those that need one"
