"""Damaged data: what the service does by itself, what it asks for, and what a backup brings back."""

import hashlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import closing, new_service
from ekstra_service import BINARY, pod, refusal, wait
from test_70_faults import programs
import images


@pytest.fixture(scope="module")
def spare():
    """A service of these cases alone, with a cluster of one node."""
    service = new_service()
    try:
        service.start()
        images.pack(service)
        service.create_cluster("spare")
        service.wait_cluster("spare")
        service.create_nodegroup("spare", "ng", 1)
        service.wait_nodegroup("spare", "ng")
        service.cli("update-kubeconfig", "--name", "spare", "--kubeconfig", service.kubeconfig)
        service.wait_nodes(1)
    except BaseException:
        print(service.logs())
        service.close()
        raise
    yield from closing(service)


def slot(service):
    (only,) = Path(service.home, "slots").iterdir()
    return only


def has(service, name):
    listed = service.kubectl("get", "configmap", "-o", "name", check=False, timeout=20)
    return name in listed.stdout, listed.stdout + listed.stderr


def spoil(path, offset=0, length=1 << 16):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(os.urandom(length))


@pytest.mark.parametrize("part", ["the database", "its log"])
def test_etcd_s_damaged_data_become_those_of_the_last_snapshot(spare, part):
    before, after = (f"{when}-{part.split()[-1]}" for when in ("before", "after"))
    spare.kubectl("create", "configmap", before)
    # With a snapshot as of now.
    backup = Path(spare.work, f"backup-{before}.tar.gz")
    spare.cli("backup", backup)
    backup.unlink()
    spare.kubectl("create", "configmap", after)
    member = slot(spare) / "etcd/member"
    pid = programs(spare)["etcd"]
    os.kill(pid, signal.SIGSTOP)
    if part == "the database":
        spoil(member / "snap/db")
    else:
        for log in (member / "wal").glob("*.wal"):
            spoil(log, 4096)
    os.kill(pid, signal.SIGKILL)
    wait("what was before", lambda: has(spare, before), 120, 0.5)
    assert not has(spare, after)[0]
    told = spare.client("eks").describe_cluster(name="spare")["cluster"]
    (issue,) = told["health"]["issues"]
    assert "damaged" in issue["message"] and told["status"] == "ACTIVE"
    assert list(slot(spare).glob("etcd.damaged-*")), "it is kept"
    spare.wait_nodes(1, 90)
    spare.run_pod("restored", "sleep 600", timeout=90)
    spare.delete_pod("restored")


def test_a_damaged_state_is_refused_untouched_and_restored(spare):
    spare.kubectl("create", "configmap", "kept")
    wait("a copy of the state", lambda: (bool(c := list(Path(spare.home, "backups").glob("state-*.db"))), c), 90, 1)
    spare.cli("stop")
    state = Path(spare.home, "state.db")
    # Either alone is made whole by the other, and by what `gate` knows of them.
    for file in (state, Path(spare.home, "state.db-wal")):
        if file.exists():
            spoil(file, 0, file.stat().st_size)
    digest = hashlib.sha256(state.read_bytes()).hexdigest()
    refused = spare.cli("start", check=False)
    assert refused.returncode != 0 and "ekstra restore" in refused.stderr, refused
    assert hashlib.sha256(state.read_bytes()).hexdigest() == digest
    told = spare.cli("restore").stdout
    assert "ekstra start" in told
    (aside,) = Path(spare.home).glob("replaced-*/state.db")
    assert hashlib.sha256(aside.read_bytes()).hexdigest() == digest
    spare.start()
    wait("its data", lambda: has(spare, "kept"), 90, 0.5)
    spare.wait_nodes(1, 120)
    again = spare.cli("restore", check=False)
    assert again.returncode != 0 and "runs" in again.stderr


def test_a_home_is_made_again_of_a_backup(spare):
    spare.kubectl("create", "configmap", "in-the-backup")
    backup = Path(spare.work, "whole.tar.gz")
    assert backup.name in spare.cli("backup", backup).stdout
    assert backup.stat().st_mode & 0o777 == 0o600
    spare.kubectl("create", "configmap", "not-in-it")
    spare.cli("stop", "--all")
    refused = spare.cli("restore", backup, check=False)
    assert refused.returncode != 0 and "--force" in refused.stderr
    subprocess.run(["rm", "-rf", spare.home], check=True)
    spare.cli("restore", backup)
    spare.start()
    wait("its data", lambda: has(spare, "in-the-backup"), 90, 0.5)
    assert not has(spare, "not-in-it")[0]
    spare.wait_nodes(1, 120)
    spare.run_pod("again", "sleep 600", timeout=90)
    spare.delete_pod("again")
    assert spare.cli("restore", "/no/such/file", check=False).returncode != 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 900 MB, by a short path."""
    image, point = tmp_path / "disk", Path(tempfile.mkdtemp(prefix="ekd", dir="/tmp"))
    with open(image, "wb") as file:
        file.truncate(900 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)
        point.rmdir()


def test_a_full_disk_is_an_error_and_passes(small_disk):
    service = new_service(home=str(small_disk / "home"))
    try:
        service.start()
        service.create_cluster("tight")
        service.wait_cluster("tight")
        service.cli("update-kubeconfig", "--name", "tight", "--kubeconfig", service.kubeconfig)
        service.kubectl("create", "configmap", "early")
        filler = small_disk / "filler"
        with open(filler, "wb") as file:
            try:
                while True:
                    file.write(b"x" * (1 << 16))
                    file.flush()
            except OSError:
                pass
        eks = service.client("eks")
        with pytest.raises(eks.exceptions.ClientError) as refused:
            for number in range(200):
                eks.tag_resource(resourceArn=eks.describe_cluster(name="tight")["cluster"]["arn"], tags={f"k{number}": "v" * 200})
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
        assert eks.describe_cluster(name="tight")["cluster"]["status"] == "ACTIVE"
        # etcd has some room left in its log, of files that were made long enough at once; then it refuses, too.
        blob = Path(service.work, "blob")
        blob.write_bytes(os.urandom(700_000))
        acknowledged = []
        for number in range(150):
            large = ["configmap", f"large-{number}", f"--from-file={blob}", "--request-timeout=15s"]
            made = service.kubectl("create", *large, check=False, timeout=40)
            if made.returncode != 0:
                break
            acknowledged.append(f"large-{number}")
        assert len(acknowledged) < 150, "a full disk took everything"
        filler.unlink()
        tags = lambda: eks.tag_resource(resourceArn=eks.describe_cluster(name="tight")["cluster"]["arn"], tags={"late": "yes"})  # noqa: E731
        wait("writes again", lambda: (bool(tags()), ""), 30, 0.5)
        create = lambda: service.kubectl("create", "configmap", "late", check=False, timeout=20)  # noqa: E731
        wait("etcd again", lambda: ((r := create()).returncode == 0 or "already exists" in r.stderr, r), 90, 0.5)
        names = service.kubectl("get", "configmap", "-o", "jsonpath={.items[*].metadata.name}").stdout.split()
        assert {"early", *acknowledged} <= set(names), "nothing was lost, and nothing restored"
        assert not list(slot(service).glob("etcd.damaged-*"))
    finally:
        left = service.close()
    assert not left, left


def test_a_log_that_takes_nothing_costs_its_lines_alone():
    """As on a full disk."""
    service = new_service()
    try:
        with open("/dev/full", "w") as full:
            serve = subprocess.Popen([BINARY, "--home", service.home, "serve"], env=service.plain_env(), stdout=full, stderr=full)
        try:
            wait("credentials", lambda: (Path(service.home, "credentials.json").exists(), ""), 30)
            answers = lambda: service.client("eks").list_clusters()["clusters"] == []  # noqa: E731
            wait("an answer", lambda: (serve.poll() is None and answers(), serve.poll()), 30)
            # Refusals are lines of the log.
            for _ in range(3):
                assert "ResourceNotFoundException" in refusal(service.client("eks").describe_cluster, name="none")
            assert serve.poll() is None
        finally:
            serve.terminate()
            assert serve.wait(30) == 0
    finally:
        left = service.close()
    assert not left, left


@pytest.mark.faults
def test_a_node_s_full_disk_costs_the_pod_that_filled_it(spare):
    """As everywhere: the kubelet evicts; the node stays, and so does everybody else on it."""
    eks = spare.client("eks")
    spare.create_nodegroup("spare", "small", 1, diskSize=3)
    spare.wait_nodegroup("spare", "small")
    (node,) = spare.kubectl_json("get", "nodes", "-l", "eks.amazonaws.com/nodegroup=small")["items"]
    name = node["metadata"]["name"]
    there = {"nodeName": name, "tolerations": [{"operator": "Exists"}]}
    spare.run_pod("bystander", "sleep 3600", **there)
    spare.apply(pod("greedy", "dd if=/dev/zero of=/filling bs=1M; sleep 3600", restartPolicy="Never", **there))
    status = lambda: spare.kubectl_json("get", "pod", "greedy")["status"]  # noqa: E731
    wait("evicted", lambda: ((s := status()).get("reason") == "Evicted", s), 120, 1)
    assert "ephemeral-storage" in status()["message"]
    assert spare.exec("bystander", "echo here").stdout == "here\n"
    ready = lambda: [c["status"] for c in spare.kubectl_json("get", "node", name)["status"]["conditions"] if c["type"] == "Ready"]  # noqa: E731
    assert ready() == ["True"]
    spare.delete_pod("greedy")
    spare.delete_pod("bystander")
    eks.delete_nodegroup(clusterName="spare", nodegroupName="small")
    spare.wait_gone(lambda: eks.describe_nodegroup(clusterName="spare", nodegroupName="small")["nodegroup"], "small", 60)
