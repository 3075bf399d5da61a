"""The test image: Debian's busybox with its libc, packed without any registry.

Dynamic on purpose: Debian's static busybox crashes when it resolves names. And its `wget -T` crashes, always: say
`timeout 5 wget`.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ekstra_service import IMAGE, kept

PACKAGES = ["busybox", "libc6"]


def rootfs():
    """Made once, kept in the component cache."""
    target = kept() / "busybox-1"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        work = Path(work)
        work.chmod(0o755)
        subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=work, check=True, capture_output=True)
        root = work / "root"
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, root], check=True)
        shutil.rmtree(root / "usr/share", ignore_errors=True)
        shutil.rmtree(root / "usr/lib/x86_64-linux-gnu/gconv", ignore_errors=True)
        for name in ["tmp", "www", "etc", "proc", "sys", "dev", "root"]:
            (root / name).mkdir(exist_ok=True)
        applets = subprocess.run(["chroot", root, "/bin/busybox", "--list"], check=True, capture_output=True, text=True)
        for applet in applets.stdout.split():
            link = root / "bin" / applet
            if not link.exists():
                os.symlink("busybox", link)
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        (root / "etc/nsswitch.conf").write_text("hosts: files dns\n")
        root.rename(target)
    return target


def pack(service):
    return service.cli("image", "pack", rootfs(), "--name", IMAGE)
