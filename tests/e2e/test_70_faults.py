"""kill -9 of anything at any time: it converges, and whoever does not need the dead does not notice."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ekstra_service import BINARY, holds, processes, token_time, wait


def end(service, program):
    """Killed; `gate` is started again by `serve`."""
    service.kill(program)
    if program == "serve":
        service.start()


@pytest.mark.parametrize("program,until", [
    ("serve", "accepted"), ("serve", "a child runs"), ("serve", "the API server runs"),
    ("gate", "accepted"), ("gate", "the API server runs"),
])
def test_it_dies_while_a_cluster_is_created(service, cluster, program, until):
    name = f"born-{program}-" + until.split()[-1]
    before, slots = (set(os.listdir(f"{service.home}/{d}")) for d in ("run", "slots"))

    def reached():
        new = set(os.listdir(f"{service.home}/run")) - before
        wanted = {"accepted": "", "a child runs": "etcd.pid", "the API server runs": "apiserver.pid"}[until]
        return until == "accepted" or any(n.endswith(wanted) for n in new), new

    service.create_cluster(name)
    wait(until, reached, 30, 0.01)
    end(service, program)
    service.wait_cluster(name)
    config = f"{service.work}/{name}"
    service.cli("update-kubeconfig", "--name", name, "--kubeconfig", config)
    assert "default" in service.kubectl("--kubeconfig", config, "get", "ns").stdout
    # And while it is deleted.
    service.client("eks").delete_cluster(name=name)
    end(service, program)
    eks = service.client("eks")
    service.wait_gone(lambda: eks.describe_cluster(name=name)["cluster"]["status"], name)
    wait("its pid files gone", lambda: ((left := set(os.listdir(f"{service.home}/run")) - before) == set(), left), 30)
    left = lambda: set(os.listdir(f"{service.home}/slots")) - slots  # noqa: E731
    wait("its slot gone", lambda: (not left(), left()), 30)


@pytest.mark.parametrize("program", ["serve", "gate"])
@pytest.mark.parametrize("then", ["accepted", "an instance runs"])
def test_it_dies_while_nodes_are_made_and_ended(service, cluster, program, then):
    before = set(os.listdir(f"{service.home}/run"))
    service.create_nodegroup(cluster, "extra", 1)
    if then == "an instance runs":
        new = lambda: set(os.listdir(f"{service.home}/run")) - before  # noqa: E731
        wait(then, lambda: (any(n.startswith("i-") for n in new()), new()), 30, 0.01)
    end(service, program)
    service.wait_nodegroup(cluster, "extra")
    service.wait_nodes(3)
    eks = service.client("eks")
    eks.delete_nodegroup(clusterName=cluster, nodegroupName="extra")
    end(service, program)
    service.wait_gone(
        lambda: eks.describe_nodegroup(clusterName=cluster, nodegroupName="extra")["nodegroup"], "extra"
    )
    service.wait_nodes(2)
    wait("its pid files gone", lambda: ((left := set(os.listdir(f"{service.home}/run")) - before) == set(), left), 30)


def test_gate_dies_when_idle(service, cluster, web):
    dead = service.service_pids("gate")
    service.kill("gate")
    wait("kubectl", lambda: ("default" in service.kubectl("get", "ns", timeout=5).stdout, ""), 15)
    assert service.service_pids("gate") != dead
    service.wait_nodes(2, 30)
    name = web[0]["metadata"]["name"]
    wait("DNS", lambda: ("10.100.0.1" in (t := service.exec(name, "nslookup kubernetes.default.svc.cluster.local").stdout), t), 30)


def everything_works(service, name):
    """Fresh sign-in, nodes, DNS, exec. A token is new every second, so that no cached review answers for it."""
    token = json.loads(service.cli("token", "--cluster-name", "e2e", "--region", "us-east-1").stdout)["status"]["token"]
    config = json.loads(service.kubectl("config", "view", "--raw", "--minify", "-o", "json").stdout)
    config["users"][0]["user"] = {"token": token}
    path = Path(service.work, "fresh-token")
    path.write_text(json.dumps(config))
    listed = service.kubectl("--kubeconfig", path, "get", "ns", check=False, timeout=20)
    looked = service.exec(name, "nslookup web.default.svc.cluster.local", check=False, timeout=20)
    nodes = service.nodes()
    good = listed.returncode == 0 and looked.returncode == 0 and len(nodes) == 2
    return good, {"ns": listed.stderr, "dns": looked.stdout + looked.stderr, "nodes": nodes, "token": token_time(token)}


def without_serve(service, web, seconds):
    name = web[0]["metadata"]["name"]
    # Alone, this case is the first to look: CoreDNS may still be starting.
    wait("the cluster", lambda: everything_works(service, name), 60)
    service.kill("serve")
    try:
        holds("the cluster without serve", lambda: everything_works(service, name), seconds, 2)
        assert not service.service_pids("serve")
        # New work, too: a pod is scheduled, pulled, started.
        service.run_pod("orphan", "sleep 600")
        service.delete_pod("orphan")
    finally:
        service.start()


def test_a_minute_without_serve(service, cluster, web):
    """Shorter than the webhook cache's two minutes; fresh tokens make up for that. Longer than the controller
    manager's grace period for nodes (50 s). The five minutes are below."""
    without_serve(service, web, 65)
    service.wait_nodes(2)


@pytest.mark.long
def test_five_minutes_without_serve(service, cluster, web):
    without_serve(service, web, 300)
    service.wait_nodes(2)


@pytest.mark.parametrize("child", ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"])
def test_a_control_plane_process_dies(service, cluster, child):
    mark = f"before-{child}-{time.time_ns()}"
    pid = lambda: [pid for pid, args in control_plane(service) if child in args[0] or child in args[1:2]]  # noqa: E731
    service.kubectl("create", "configmap", mark)
    (old,) = pid()
    started = time.monotonic()
    os.kill(old, signal.SIGKILL)
    wait(f"{child} again", lambda: (bool(p := pid()) and p != [old], p), 20, 0.02)
    wait("its data", lambda: (mark in service.kubectl("get", "configmap", "-o", "name", timeout=20).stdout, ""), 30)
    print(f"{child}: back after {time.monotonic() - started:.1f} s")
    service.kubectl("delete", "configmap", mark)
    service.wait_nodes(2)
    # What the others do for a living goes on.
    service.kubectl("create", "deployment", "after", "--image=e2e/busybox:1", "--", "sleep", "600")
    service.wait_pods("app=after", 1)
    service.kubectl("delete", "deployment", "after", "--grace-period=1")


@pytest.mark.parametrize("moment", ["before", "as soon as it answers", "as soon as the API server answers"])
def test_etcd_dies_while_a_new_serve_takes_the_cluster_over(service, cluster, moment):
    """Whatever the new service is doing with the API server must not keep it from starting etcd again."""
    etcd = lambda: [pid for pid, args in control_plane(service) if args[0].endswith("/etcd")]  # noqa: E731
    service.kill("serve")
    (old,) = etcd()
    if moment == "before":
        os.kill(old, signal.SIGKILL)
    service.start()
    if moment == "as soon as the API server answers":
        service.kubectl("create", "configmap", f"moment-{time.time_ns()}")
    if moment != "before":
        os.kill(old, signal.SIGKILL)
    wait("etcd again", lambda: (bool(p := etcd()) and p != [old], p), 20, 0.02)
    wait("the API server", lambda: ("default" in service.kubectl("get", "ns", timeout=20).stdout, ""), 30)
    service.wait_nodes(2)


def control_plane(service):
    """Children of the one cluster that these cases share."""
    (slot,) = os.listdir(f"{service.home}/slots")
    home = f"{service.home}/slots/{slot}/"
    return [(pid, args) for pid, args in processes() if any(home in a for a in args[1:])]


def programs(service):
    """The same, by name."""
    return {Path(args[0]).name: pid for pid, args in control_plane(service)}


def of_instances(service, name):
    """Programs of that name on any node."""
    group = f"ekstra-{service.home_id()}/"
    return [pid for pid, args in processes() if args and args[0].endswith(f"/{name}") and group in cgroup(pid)]


def machines(service):
    """PID 1 of each node."""
    return [json.loads(file.read_text())["pid"] for file in Path(service.home, "run").glob("i-*.pid")]


def kubelets(service):
    return of_instances(service, "kubelet")


def test_a_node_process_dies(service, cluster, web):
    """PID 1 of an instance keeps its kubelet; the machine is Ready again by itself."""
    first, second = kubelets(service)
    os.kill(first, signal.SIGKILL)

    def again():
        now = kubelets(service)
        return len(now) == 2 and second in now and first not in now, now

    wait("a new kubelet", again, 30)
    service.wait_nodes(2)
    service.run_pod("after-kubelet", "sleep 600")
    service.delete_pod("after-kubelet")


def cgroup(pid):
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def test_stop_all_and_start(service, cluster):
    """As after a reboot: everything comes back with its data."""
    service.kubectl("create", "configmap", "survivor")
    service.cli("stop", "--all")
    traces = service.traces()
    assert set(traces) <= {"slots", "instances", "volumes"}, traces
    service.start()
    wait("its data", lambda: ("survivor" in service.kubectl("get", "configmap", "-o", "name", timeout=20).stdout, ""), 60)
    service.wait_nodes(2, 120)
    service.run_pod("after-start", "sleep 600", timeout=120)
    service.delete_pod("after-start")


def test_stop_all_interrupted(service, cluster):
    """What was begun is finished at the next start: the same instances boot again, with their disks."""
    def instances():
        found = service.client("ec2").describe_instances()
        alive = ("pending", "running")
        return sorted(i["InstanceId"] for r in found["Reservations"] for i in r["Instances"] if i["State"]["Name"] in alive)

    before = instances()
    (serve,) = service.service_pids("serve")
    command = [BINARY, "--home", service.home, "stop", "--all"]
    stopping = subprocess.Popen(command, env=service.plain_env(), stderr=subprocess.DEVNULL)
    wait("the stop has begun", lambda: (Path(service.home, "run/stopping").exists(), ""), 30, 0.002)
    os.kill(serve, signal.SIGKILL)
    assert stopping.wait(60) != 0
    service.start()
    service.wait_nodes(2, 120)
    assert instances() == before
    assert not Path(service.home, "run/stopping").exists()


def test_a_new_program_takes_over(service, cluster):
    """`ekstra restart` with another build: clusters go on, sign-ins too, and what the service was started with holds."""
    new = Path(service.work, "newer")
    new.write_bytes(BINARY.read_bytes() + b"another build")
    new.chmod(0o755)
    words = lambda: Path(f"/proc/{service.service_pids('serve')[0]}/cmdline").read_bytes().split(b"\0")  # noqa: E731
    before, children = words(), {file.name: file.read_text() for file in Path(service.home, "run").glob("[ci]*-*.pid")}
    assert b"--drain-limit" in before
    env = service.plain_env()
    del env["EKSTRA_DRAIN_LIMIT"]
    ended, failed = threading.Event(), []

    def ask():
        while not ended.is_set():
            asked = service.kubectl("get", "ns", "-o", "name", check=False, timeout=30)
            if "namespace/default" not in asked.stdout:
                failed.append(asked.stderr)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        service.run(new, "restart", env=env)
        same = lambda what: [Path(f"/proc/{pid}/exe").stat().st_size for pid in service.service_pids(what)]  # noqa: E731
        for what in ("serve", "gate"):
            # An older gate may be there as long as connections of its own are.
            wait(f"{what} is the new one", lambda: (new.stat().st_size in (s := same(what)), s), 30)
    finally:
        ended.set()
        asking.join(60)
    assert not failed, failed
    assert words()[3:] == before[3:]
    assert {file.name: file.read_text() for file in Path(service.home, "run").glob("[ci]*-*.pid")} == children
    service.wait_nodes(2)
    # And back, for the cases after this one.
    service.cli("restart")
