"""Twenty kills of each process, under a client that journals what was acknowledged: none of it is lost."""

import os
import signal
import statistics
import threading
import time
from contextlib import contextmanager

import pytest
from conftest import closing, new_service
from ekstra_service import wait
from test_70_faults import machines, of_instances, programs
import images

pytestmark = pytest.mark.faults

KILLS = 20


@pytest.fixture(scope="module")
def target():
    service = new_service()
    service.start()
    images.pack(service)
    service.create_cluster("target")
    service.wait_cluster("target")
    service.create_nodegroup("target", "ng", 1)
    service.wait_nodegroup("target", "ng")
    service.cli("update-kubeconfig", "--name", "target", "--kubeconfig", service.kubeconfig)
    service.wait_nodes(1)
    yield from closing(service)


class Journal:
    """Writes to a cluster and to the service, and notes what was acknowledged."""

    def __init__(self, service):
        self.service, self.configmaps, self.tags, self.ended = service, [], {}, threading.Event()
        # Before anything is killed.
        self.arn = service.client("eks").describe_cluster(name="target")["cluster"]["arn"]
        self.threads = [threading.Thread(target=t) for t in (self.kubectl, self.aws)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join(60)

    def kubectl(self):
        number = 0
        while not self.ended.is_set():
            number += 1
            name = f"journal-{time.time_ns()}"
            made = self.service.kubectl("create", "configmap", name, check=False, timeout=40)
            if made.returncode == 0:
                self.configmaps.append(name)

    def aws(self):
        eks = self.service.client("eks")
        number = 0
        while not self.ended.is_set():
            number += 1
            key, value = f"journal-{number % 40}", str(number)
            try:
                eks.tag_resource(resourceArn=self.arn, tags={key: value})
                self.tags[key] = value
            except Exception:  # dead: it was not acknowledged, but it may have been done
                self.tags.pop(key, None)
                time.sleep(0.05)


def pids(service, what):
    if what in ("serve", "gate"):
        return service.service_pids(what)
    return [pid for name, pid in programs(service).items() if name == what]


@contextmanager
def nothing_lost(service):
    """Of what was acknowledged meanwhile."""
    with Journal(service) as journal:
        yield
    print(f"{len(journal.configmaps)} objects and {len(journal.tags)} tags journaled")
    assert journal.configmaps and journal.tags
    wait("the API server", lambda: (service.kubectl("get", "ns", check=False, timeout=20).returncode == 0, ""), 60)
    have = set(service.kubectl("get", "configmap", "-o", "jsonpath={.items[*].metadata.name}").stdout.split())
    assert not set(journal.configmaps) - have
    tags = service.client("eks").describe_cluster(name="target")["cluster"]["tags"]
    assert {k: v for k, v in journal.tags.items() if tags.get(k) != v} == {}


def kills(what, victims, is_back, patience=60, after=lambda: None):
    """Twenty; how long until it is back, each time."""
    took = []
    for _ in range(KILLS):
        wait(f"{what} runs", lambda: (bool(p := victims()), p), patience, 0.01)
        begun = time.monotonic()
        for pid in victims():
            os.kill(pid, signal.SIGKILL)
        after()
        wait(f"{what} is back", lambda: (is_back(), ""), patience, 0.02)
        took.append(time.monotonic() - begun)
        time.sleep(0.3)
    print(f"\n{what}: median {statistics.median(took):.2f} s, longest {max(took):.2f} s")


@pytest.mark.parametrize("what", ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "serve", "gate"])
def test_nothing_acknowledged_is_lost(target, what):
    def start_again():
        if what == "serve":
            time.sleep(0.2)
            target.start()

    is_ready = lambda: target.kubectl("get", "--raw", "/readyz", check=False, timeout=20).stdout == "ok"  # noqa: E731
    with nothing_lost(target):
        kills(what, lambda: pids(target, what), is_ready, after=start_again)
    target.wait_nodes(1, 90)


@pytest.mark.parametrize("what", ["kubelet", "containerd"])
def test_a_node_s_programs_come_back_and_pods_stay(target, what):
    target.run_pod("steady", "sleep 3600")
    uid = lambda: target.kubectl("get", "pod", "steady", "-o", "jsonpath={.metadata.uid}{.status.containerStatuses[0].restartCount}").stdout  # noqa: E731
    before = uid()
    into = lambda: target.kubectl("exec", "steady", "--", "echo", "here", check=False, timeout=20).stdout == "here\n"  # noqa: E731
    with nothing_lost(target):
        kills(what, lambda: of_instances(target, what), into)
    target.wait_nodes(1, 90)
    assert uid() == before, "the pod ran through it all"
    target.delete_pod("steady")


def test_a_machine_that_ends_is_replaced(target):
    """PID 1 is the machine: with it all of it ends, and its node group has another."""
    gone = []

    def is_replaced():
        # The API server learns of the end before the next machine is there.
        ready = target.nodes()
        return len(ready) == 1 and ready[0] not in gone

    def victims():
        gone.extend(n for n in target.nodes() if n not in gone)
        return machines(target)

    with nothing_lost(target):
        kills("ekstra-node", victims, is_replaced, 180)
    target.wait_nodes(1, 90)
