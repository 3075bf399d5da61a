"""What hangs is ended and started again: a stopped process takes connections and says nothing."""

import json
import os
import signal
import time
from contextlib import contextmanager

import pytest
from ekstra_service import alive, processes, wait
from test_70_faults import everything_works, kubelets, machines, of_instances, programs


@contextmanager
def stopped(*pids):
    """Whatever becomes of the case, nobody stays stopped."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass


def gone(*pids):
    return lambda: (not (left := [pid for pid in pids if alive(pid)]), left)


def test_programs_that_serve_nobody_directly(service, cluster, web):
    """All at once: each is found out by whoever looks after it."""
    name = web[0]["metadata"]["name"]
    # The case before this one has stopped everything; controller manager and scheduler come last.
    running = wait("all programs", lambda: (len(p := programs(service)) == 4, p), 60)
    kubelet, containerd = kubelets(service)[0], of_instances(service, "containerd")[-1]
    hung = [running["kube-controller-manager"], running["kube-scheduler"], *service.service_pids("gate"), kubelet, containerd]
    # Nodes' programs that have just been started are given a minute.
    time.sleep(30)
    started = time.monotonic()
    with stopped(*hung):
        wait("all of them ended", gone(*hung), 150, 0.5)
    print(f"ended after {time.monotonic() - started:.0f} s")
    service.wait_nodes(2, 120)
    wait("everything", lambda: everything_works(service, name), 60, 1)
    service.kubectl("create", "deployment", "after", "--image=e2e/busybox:1", "--", "sleep", "600")
    service.wait_pods("app=after", 1)
    service.kubectl("delete", "deployment", "after", "--grace-period=1")


def test_who_looks_after_the_others(service, cluster, web):
    """Nobody ends the service or a machine's PID 1 for hanging: what they look after goes on, and so do they."""
    assert len(machines(service)) == 2
    with stopped(*service.service_pids("serve"), *machines(service)):
        time.sleep(15)
        assert everything_works(service, web[0]["metadata"]["name"])[0]
        status = service.cli("status", check=False, timeout=60)
        assert status.returncode != 0 and "does not answer" in status.stderr, status
    service.client("eks").describe_cluster(name=cluster)
    kubelet = kubelets(service)[0]
    os.kill(kubelet, signal.SIGKILL)
    wait("a kubelet again", lambda: (len(now := kubelets(service)) == 2 and kubelet not in now, now), 30)
    service.wait_nodes(2, 60)


@pytest.mark.faults
def test_the_api_server_and_its_data(service, cluster, web):
    service.kubectl("create", "configmap", "before-the-hang")
    for child in ("kube-apiserver", "etcd"):
        pid = programs(service)[child]
        started = time.monotonic()
        with stopped(pid):
            wait(f"{child} ended", gone(pid), 90, 0.5)
        read = lambda: service.kubectl("get", "configmap", "-o", "name", timeout=20, check=False).stdout  # noqa: E731
        wait("its data", lambda: ("before-the-hang" in (t := read()), t), 60)
        print(f"{child}: ended and back after {time.monotonic() - started:.0f} s")
        service.wait_nodes(2, 60)
    service.kubectl("delete", "configmap", "before-the-hang")


@pytest.mark.faults
def test_a_machine_that_slept(service, cluster, web):
    """Everything stops for longer than any lease, as in a suspended machine, and goes on."""
    everyone = [pid for pid, args in processes() if any(service.home in a for a in args)]
    everyone += [pid for name in ("kubelet", "containerd", "kube-proxy", "coredns") for pid in of_instances(service, name)]
    with stopped(*everyone):
        time.sleep(75)
    service.wait_nodes(2, 60)
    wait("everything", lambda: everything_works(service, web[0]["metadata"]["name"]), 60, 1)
    assert len(json.loads(service.kubectl("get", "nodes", "-o", "json").stdout)["items"]) == 2
