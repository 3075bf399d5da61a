"""A machine with Debian's cloud kernel and control groups of version 2, emulated: no KVM is needed, and none is used.

Its disk has the base of the node image, the components of a bundle and ekstra: no Go, no compiler, no network card.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import images
from ekstra_service import BINARY, kept

HERE = Path(__file__).resolve().parent / "guest"
QEMU = "qemu-system-x86_64"
MODULES = [
    "virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci", "block/virtio_blk",
]
# Emulated processors lock each other up now and then, in the kernel and without an end: that ends the guest.
STUCK = "soft lockup"
BOOT = ["console=ttyS0", "loglevel=1", "panic=-1", "softlockup_panic=1", "watchdog_thresh=60"]
BOOTS = 3
DISK_BYTES = 4 << 30
MEMORY_MIB = 4096


def download(package):
    """Unpacked, kept beside the component cache."""
    target = kept() / package
    if not target.exists():
        work = kept() / f"{package}.partial"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=work, check=True, capture_output=True)
        (deb,) = work.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", deb, work / "root"], check=True)
        (work / "root").rename(target)
        shutil.rmtree(work)
    return target


def kernel():
    """The directory of the kernel that Debian's meta package names now."""
    shown = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"], check=True, capture_output=True, text=True)
    return download(re.search(r"linux-image-[0-9]\S*-cloud-amd64", shown.stdout)[0])


def bundle(work):
    """Packed from this machine's cache, taken into one that has nothing else."""
    path, cache = work / "components.tar.zst", work / "root/root/.cache/ekstra"
    run = lambda *args, **env: subprocess.run(  # noqa: E731
        [BINARY, *args], check=True, capture_output=True, text=True, env={**os.environ, **env}
    )
    packed = run("components", "bundle", "--output", path).stdout
    digest = re.search(r"^sha256:([0-9a-f]{64})$", packed, re.M)[1]
    run("components", "ensure", EKSTRA_CACHE=str(cache), EKSTRA_COMPONENTS=f"{path}@sha256:{digest}")
    path.unlink()
    return cache


def initrd(work, modules):
    """A cpio archive in the kernel's format (initramfs buffer format, Linux documentation)."""
    busybox = download("busybox-static") / "bin/busybox"
    files = {"init": HERE / "initrd.sh", "bin/busybox": busybox}
    files |= {Path(m).name + ".ko": modules / f"kernel/drivers/{m}.ko" for m in MODULES}
    entries = [(name, 0o040755, b"") for name in ("bin", "dev", "mnt")]
    entries += [(name, 0o100755, path.read_bytes()) for name, path in files.items()]
    padded = lambda data: data + b"\0" * (-len(data) % 4)  # noqa: E731
    target = work / "initrd"
    with target.open("wb") as out:
        for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
            fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
            header = "070701" + "".join(f"{field:08X}" for field in fields)
            out.write(padded(header.encode() + name.encode() + b"\0") + padded(data))
    return target


def build(work):
    """Answers QEMU's arguments."""
    linux = kernel()
    (modules,) = (linux / "lib/modules").iterdir()
    root = work / "root"
    cache = bundle(work)
    (base,) = cache.glob("node-images/*/rootfs")
    subprocess.run(["cp", "-a", f"{base}/.", root], check=True)
    shutil.copytree(modules, root / "usr/lib/modules" / modules.name, symlinks=True)
    subprocess.run(["chroot", root, "depmod", modules.name], check=True)
    shutil.copytree(HERE, root / "guest")
    shutil.copytree(images.rootfs(), root / "guest/rootfs", symlinks=True)
    shutil.copy2(BINARY, root / "guest/ekstra")
    for script in root.glob("guest/*.sh"):
        script.chmod(0o755)
    disk = work / "disk"
    disk.touch()
    os.truncate(disk, DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-d", root, disk], check=True)
    shutil.rmtree(root)
    (vmlinuz,) = linux.glob("boot/vmlinuz-*")
    return [
        QEMU, "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB),
        "-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{work}/serial",
        "-kernel", vmlinuz, "-initrd", initrd(work, modules), "-append", " ".join(BOOT),
        # Each boot begins with the same disk.
        "-drive", f"file={disk},if=virtio,format=raw,cache=unsafe,snapshot=on",
    ]


def boot(work, timeout):
    """Until the guest turns itself off. Answers what was said in each step, and its exit status."""
    words, serial = build(work), work / "serial"
    env = {**os.environ, "TMPDIR": str(work)}
    for _ in range(BOOTS):
        try:
            subprocess.run(words, check=True, timeout=timeout, capture_output=True, env=env)
        except subprocess.TimeoutExpired:
            said = serial.read_text(errors="replace") if serial.exists() else ""
            raise AssertionError(f"the guest did not end within {timeout} s; it said: {said[-4000:]}") from None
        said = serial.read_text(errors="replace").replace("\r", "")
        if STUCK not in said:
            break
    steps = re.findall(r"^== (\S+)\n(.*?)^== \1: (\d+)$", said, re.M | re.S)
    return {name: (int(status), text) for name, text, status in steps}, said
