"""The service is killed after its first step, started, killed after its second step, and so on, until it comes through:
between each two steps of creating, using and deleting a cluster there is a moment at which it was killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import closing, new_service
from ekstra_service import BINARY, WEB, deployment, wait
from test_25_storage import SNAPSHOT_CLASS, claim, snapshot, snapshot_status, with_volume
from test_27_services import balancer
from test_70_faults import programs
from test_80_damage import has, slot, spoil
import images

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def mortal():
    service = new_service()
    service.start()
    images.pack(service)
    yield from closing(service)


def lives(service, what, is_so, most=250):
    """How often it took, each life one step longer than the one before."""
    service.cli("stop", check=False)
    log = open(Path(service.work, "lives.log"), "ab")
    for steps in range(1, most):
        env = service.plain_env(EKSTRA_CRASH_AFTER=str(steps))
        command = [BINARY, "--home", service.home, "serve"]
        serve = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while serve.poll() is None and time.monotonic() < deadline:
            if is_so():
                serve.kill()
                serve.wait()
                service.start()
                print(f"{what}: after {steps} lives")
                return
            time.sleep(0.05)
        if serve.poll() is None:
            serve.kill()
            serve.wait()
            raise AssertionError(f"{what}: nothing happens any more\n{service.logs()}")
        assert serve.returncode == -signal.SIGKILL, service.logs()
    raise AssertionError(f"{what}: not after {most} lives\n{service.logs()}")


def said(call):
    """A call to a service that may be dead."""
    try:
        return call()
    except Exception:  # whatever a client makes of it
        return None


def settled(service):
    """Nothing is planned when everything is as it should be, and a new life has seen that it is."""
    time.sleep(5)
    log = Path(service.home, "logs/serve.log")
    before = log.stat().st_size
    time.sleep(12)
    with open(log, "rb") as file:
        file.seek(before)
        new = file.read().decode(errors="replace")
    assert "action=" not in new and "trying again" not in new, new[-2000:]


def test_a_whole_life(mortal):
    service = mortal
    eks = service.client("eks")
    ec2 = service.client("ec2")

    service.create_cluster("c")
    status = lambda: said(lambda: eks.describe_cluster(name="c")["cluster"]["status"])  # noqa: E731
    lives(service, "a cluster", lambda: status() == "ACTIVE")
    service.cli("update-kubeconfig", "--name", "c", "--kubeconfig", service.kubeconfig)
    settled(service)

    service.kubectl("create", "configmap", "kept")
    # Takes a snapshot of etcd.
    service.cli("backup", Path(service.work, "backup.tar.gz"))
    service.cli("stop")
    pid = programs(service)["etcd"]
    os.kill(pid, signal.SIGSTOP)
    spoil(slot(service) / "etcd/member/snap/db")
    os.kill(pid, signal.SIGKILL)
    # Whether it was damaged is told once it is whole again.
    restored = lambda: said(lambda: eks.describe_cluster(name="c")["cluster"]["health"]["issues"]) and has(service, "kept")[0]  # noqa: E731
    lives(service, "etcd's last snapshot in the place of damaged data", restored)
    settled(service)

    service.create_nodegroup("c", "ng", 1)
    group = lambda: said(lambda: eks.describe_nodegroup(clusterName="c", nodegroupName="ng")["nodegroup"]["status"])  # noqa: E731
    lives(service, "a node group", lambda: group() == "ACTIVE")
    service.wait_nodes(1)
    settled(service)

    ready = lambda: (said(service.nodes), group())  # noqa: E731
    for size in (2, 1):
        scaling = {"minSize": 0, "maxSize": 2, "desiredSize": size}
        eks.update_nodegroup_config(clusterName="c", nodegroupName="ng", scalingConfig=scaling)
        lives(service, f"the group at {size}", lambda: (r := ready())[1] == "ACTIVE" and len(r[0] or []) == size)
        service.wait_nodes(size)
        settled(service)

    dns = {"clusterName": "c", "addonName": "coredns"}
    addon = lambda: said(lambda: eks.describe_addon(**dns)["addon"]["status"])  # noqa: E731
    eks.create_addon(**dns, configurationValues='{"replicaCount": 1}')
    lives(service, "an add-on", lambda: addon() == "ACTIVE")
    settled(service)
    eks.delete_addon(**dns)
    lives(service, "its end", lambda: said(lambda: eks.list_addons(clusterName="c")["addons"]) == [])
    settled(service)

    before = programs(service)["kube-apiserver"]
    eks.update_cluster_config(name="c", kubeApiServerConfig={"eventTtl": "30m"})
    lives(service, "other settings of the API server", lambda: status() == "ACTIVE")
    after = programs(service)["kube-apiserver"]
    assert after != before and b"--event-ttl=30m\0" in Path(f"/proc/{after}/cmdline").read_bytes()
    settled(service)

    pod = deployment("data", 1, WEB, spread=False)
    spec = pod["spec"]["template"]["spec"]
    more = with_volume("data")
    spec["volumes"] = spec.get("volumes", []) + more["volumes"]
    spec["containers"][0].setdefault("volumeMounts", []).extend(more["container"]["volumeMounts"])
    service.apply(claim("data"), pod, balancer("data", "data"))

    def served():
        told = service.kubectl("get", "deployment/data", "service/data", "-o", "jsonpath={.items[*].status}", check=False, timeout=10)
        return '"availableReplicas":1' in told.stdout and '"ip":' in told.stdout

    lives(service, "a volume and a load balancer", served)
    settled(service)

    service.apply(SNAPSHOT_CLASS, snapshot("moment", "data"))
    lives(service, "a snapshot", lambda: (said(lambda: snapshot_status(service, "moment")) or {}).get("readyToUse"))
    settled(service)

    service.kubectl("delete", "volumesnapshot/moment", "service/data", "deployment/data", "pvc/data", "--wait=false")
    left = lambda: service.kubectl("get", "service,pvc,pv,volumeattachment,volumesnapshot,volumesnapshotcontent", "-o", "name", check=False, timeout=10)  # noqa: E731

    def cleared():
        told = left()
        names = [n for n in told.stdout.split() if n != "service/kubernetes"]
        records = said(lambda: ec2.describe_volumes()["Volumes"] + ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"])
        return told.returncode == 0 and not names and records == []

    lives(service, "their end", cleared)
    settled(service)

    eks.delete_nodegroup(clusterName="c", nodegroupName="ng")
    gone = lambda: said(lambda: eks.list_nodegroups(clusterName="c")["nodegroups"]) == []  # noqa: E731
    lives(service, "the end of the node group", gone)
    wait("no node", lambda: (not (n := service.nodes()), n), 60)
    settled(service)

    eks.delete_cluster(name="c")
    lives(service, "the end of the cluster", lambda: said(lambda: eks.list_clusters()["clusters"]) == [])
    settled(service)
    wait("nothing left", lambda: (not (t := only_the_service(service)), t), 60)


def only_the_service(service):
    own = ("serve", "gate", "tables", "range", "cgroups", "pid files", "processes")
    return {kind: items for kind, items in service.traces().items() if kind not in own}
