"""After a reboot every cluster is back with its data and its nodes.

A reboot is played: everything of the home ends at once, what only a running kernel holds is taken away, and what is
recorded is of another boot.
"""

import json
import os
import signal
from pathlib import Path

import pytest
from ekstra_service import output, wait
from test_25_storage import claim, with_volume
from test_80_damage import has, spare  # noqa: F401: a fixture


def reboot(service):
    own = service.home_id()
    ours = [
        pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
        if belongs(service, own, pid)
    ]
    for pid in ours:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    wait("all dead", lambda: (not (alive := [p for p in ours if belongs(service, own, p)]), alive), 30)
    for line in output("ip", "netns").splitlines():
        if line.startswith(f"ekstra-{own}-"):
            output("ip", "netns", "delete", line.split()[0])
    for line in output("ip", "-o", "link").splitlines():
        if f"ek{own}" in line:
            output("ip", "link", "delete", line.split(": ")[1].split("@")[0])
    output("nft", "delete", "table", "ip", f"ekstra_{own}")
    output("ip", "address", "del", f"{service.settings()['address']}/32", "dev", "lo")
    groups = [p for p in Path("/sys/fs/cgroup").glob("**/*") if p.is_dir() and f"ekstra-{own}" in p.as_posix()]
    for group in sorted(groups, key=lambda p: len(p.parts), reverse=True):
        wait(f"{group} gone", lambda: (not remove(group), group), 10)
    for file in Path(service.home, "run").glob("*.pid"):
        recorded = json.loads(file.read_text())
        recorded["boot_id"] = "00000000-0000-4000-8000-000000000000"
        file.write_text(json.dumps(recorded))


def belongs(service, own, pid):
    try:
        if f"ekstra-{own}/" in Path(f"/proc/{pid}/cgroup").read_text():
            return True
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return any(service.home.encode() in word for word in words)
    except OSError:
        return False


def remove(group):
    """Answers whether it is still there."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@pytest.fixture
def second(spare):  # noqa: F811
    """Another cluster of the same service, without nodes: its kubeconfig."""
    spare.create_cluster("second")
    spare.wait_cluster("second")
    config = f"{spare.work}/second"
    spare.cli("update-kubeconfig", "--name", "second", "--kubeconfig", config)
    yield config
    spare.delete_cluster("second")


def test_clusters_come_back_with_data_nodes_and_volumes(spare, second):  # noqa: F811
    spare.kubectl("create", "configmap", "before-the-reboot")
    spare.kubectl("--kubeconfig", second, "create", "configmap", "of-the-second")
    spare.apply(claim("disk"))
    spare.run_pod("survivor", "echo written > /kept; sleep 3600", **with_volume("disk"))
    # A power cut keeps what was synced.
    spare.exec("survivor", "echo stored > /data/kept && sync")
    pids = {file.stem: json.loads(file.read_text()) for file in Path(spare.home, "run").glob("*.pid")}
    reboot(spare)
    # Numbers are given again after a boot: the recorded ones are those of others now.
    assert not spare.traces().get("processes")
    spare.start()
    wait("its data", lambda: has(spare, "before-the-reboot"), 90, 0.5)
    spare.wait_nodes(1, 120)
    wait("its pod", lambda: ((t := spare.kubectl("get", "pod", "survivor", "-o", "jsonpath={.status.phase}", check=False).stdout) == "Running", t), 120)
    wait("exec", lambda: ((t := spare.kubectl("exec", "survivor", "--", "cat", "/kept", check=False, timeout=20).stdout) == "written\n", t), 60)
    assert spare.exec("survivor", "cat /data/kept").stdout == "stored\n"
    others = lambda: spare.kubectl("--kubeconfig", second, "get", "configmap", "of-the-second", check=False, timeout=20)  # noqa: E731
    wait("the second cluster's data", lambda: ((said := others()).returncode == 0, said), 60, 0.5)
    again = {file.stem: json.loads(file.read_text()) for file in Path(spare.home, "run").glob("*.pid")}
    assert set(again) == set(pids)
    assert all(again[name]["boot_id"] == pids[name]["boot_id"] for name in pids)
    assert all(again[name] != pids[name] for name in pids)
    spare.kubectl("delete", "pod/survivor", "pvc/disk", "--timeout=60s")
    # What is stopped ends for good, as ever.
    spare.run_pod("after", "sleep 600", timeout=90)
    spare.delete_pod("after")


def test_a_pid_file_that_a_crash_tore_is_of_no_boot(spare):  # noqa: F811
    reboot(spare)
    for file in Path(spare.home, "run").glob("*.pid"):
        file.write_text(file.read_text()[:9])
    spare.start()
    spare.wait_nodes(1, 120)
    wait("its data", lambda: has(spare, "before-the-reboot"), 60, 0.5)
    spare.kubectl("delete", "configmap", "before-the-reboot")
