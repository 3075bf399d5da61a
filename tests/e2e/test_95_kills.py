"""Twenty kills of each process, under a client that journals what was acknowledged: none of it is lost."""

import os
import signal
import statistics
import threading
import time

import pytest
from conftest import closing, new_service
from ekstra_service import wait
from test_70_faults import programs
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


@pytest.mark.parametrize("what", ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "serve", "gate"])
def test_nothing_acknowledged_is_lost(target, what):
    service, back = target, []
    with Journal(service) as journal:
        for _ in range(KILLS):
            wait(f"{what} runs", lambda: (bool(p := pids(service, what)), p), 30, 0.01)
            begun = time.monotonic()
            for pid in pids(service, what):
                os.kill(pid, signal.SIGKILL)
            if what == "serve":
                time.sleep(0.2)
                service.start()
            answered = lambda: (service.kubectl("get", "--raw", "/readyz", check=False, timeout=20).stdout == "ok", "")  # noqa: E731
            wait("readiness", answered, 60, 0.02)
            back.append(time.monotonic() - begun)
            time.sleep(0.3)
    print(f"\n{what}: median {statistics.median(back):.2f} s, longest {max(back):.2f} s, "
          f"{len(journal.configmaps)} objects and {len(journal.tags)} tags journaled")
    assert journal.configmaps and journal.tags
    wait("the API server", lambda: (service.kubectl("get", "ns", check=False, timeout=20).returncode == 0, ""), 60)
    have = set(service.kubectl("get", "configmap", "-o", "jsonpath={.items[*].metadata.name}").stdout.split())
    assert not set(journal.configmaps) - have
    tags = service.client("eks").describe_cluster(name="target")["cluster"]["tags"]
    assert {k: v for k, v in journal.tags.items() if tags.get(k) != v} == {}
    service.wait_nodes(1, 90)
