"""Volumes: EC2's operations, and the storage driver that uses them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from ekstra_service import BINARY, SLEEP, holds, output, wait


def claim(name, size="1Gi", storage_class="gp3", modes=("ReadWriteOnce",), **spec):
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": list(modes),
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": size}},
            **spec,
        },
    }


def with_volume(claim_name, **spec):
    return {
        "container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim_name}}],
        **spec,
    }


def volume_of(service, claim_name):
    """EC2's description of the volume behind a claim."""
    pv = service.kubectl_json("get", "pvc", claim_name)["spec"]["volumeName"]
    handle = service.kubectl_json("get", "pv", pv)["spec"]["csi"]["volumeHandle"]
    (volume,) = service.client("ec2").describe_volumes(VolumeIds=[handle])["Volumes"]
    return volume


def node_of(service, pod_name):
    return service.kubectl_json("get", "pod", pod_name)["spec"]["nodeName"]


def events(service, name):
    found = service.kubectl_json("get", "events", "--field-selector", f"involvedObject.name={name}")["items"]
    return [f"{e['reason']}: {e['message']}" for e in found]


def end_pod(service, name):
    """Gently: what it wrote is written."""
    service.kubectl("delete", "pod", name, "--grace-period=1", "--wait=true")


def may_grow_mounted():
    """CAP_SYS_RESOURCE, which the kernel asks for."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")]
    return bool(int(line.split()[1], 16) >> 24 & 1)


def loops(service):
    return [line for line in output("losetup", "-a").splitlines() if f"{service.home}/volumes/" in line]


def test_ec2_volumes(service, cluster):
    ec2 = service.client("ec2")
    instances = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    instance = next(i for i in instances if i["State"]["Name"] == "running")
    zone = instance["Placement"]["AvailabilityZone"]
    made = ec2.create_volume(
        AvailabilityZone=zone,
        Size=1,
        VolumeType="gp3",
        ClientToken="once",
        TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "k", "Value": "v"}]}],
    )
    again = {"AvailabilityZone": zone, "VolumeType": "gp3", "ClientToken": "once"}
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "k", "Value": "v"}]}]
    assert ec2.create_volume(Size=1, TagSpecifications=tags, **again)["VolumeId"] == made["VolumeId"]
    with pytest.raises(ec2.exceptions.ClientError, match="IdempotentParameterMismatch"):
        ec2.create_volume(Size=2, TagSpecifications=tags, **again)
    volume = made["VolumeId"]

    def look():
        (found,) = ec2.describe_volumes(Filters=[{"Name": "tag:k", "Values": ["v"]}])["Volumes"]
        return found

    wait("available", lambda: ((v := look())["State"] == "available", v), 20)
    assert look()["Iops"] == 3000 and not look()["Encrypted"]
    ec2.attach_volume(VolumeId=volume, InstanceId=instance["InstanceId"], Device="/dev/xvdba")
    wait("attached", lambda: ((a := look()["Attachments"]) and a[0]["State"] == "attached", a), 20)
    assert len([line for line in loops(service) if volume in line]) == 1
    for error, call in [
        ("VolumeInUse", lambda: ec2.delete_volume(VolumeId=volume)),
        ("VolumeInUse", lambda: ec2.attach_volume(VolumeId=volume, InstanceId=instance["InstanceId"], Device="/dev/xvdbb")),
        ("InvalidVolume.NotFound", lambda: ec2.delete_volume(VolumeId="vol-0123456789abcdef0")),
        ("InvalidVolume.NotFound", lambda: ec2.describe_volumes(VolumeIds=["vol-0123456789abcdef0"])),
        ("InvalidZone.NotFound", lambda: ec2.create_volume(AvailabilityZone="us-east-1z", Size=1)),
        ("InvalidParameterValue", lambda: ec2.create_volume(AvailabilityZone=zone, Size=1, VolumeType="st1")),
        ("MissingParameter", lambda: ec2.create_volume(AvailabilityZone=zone)),
        ("UnsupportedOperation", lambda: ec2.create_volume(AvailabilityZone=zone, Size=1, Encrypted=True)),
        ("InvalidSnapshot.NotFound", lambda: ec2.delete_snapshot(SnapshotId="snap-0123456789abcdef0")),
    ]:
        with pytest.raises(ec2.exceptions.ClientError, match=error):
            call()
    assert ec2.modify_volume(VolumeId=volume, Size=3)["VolumeModification"]["TargetSize"] == 3
    change = lambda: ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"][0]  # noqa: E731
    wait("modified", lambda: ((m := change())["ModificationState"] == "completed", m), 20)
    assert Path(service.home, "volumes", volume).stat().st_size == 3 << 30
    with pytest.raises(ec2.exceptions.ClientError, match="cannot be smaller"):
        ec2.modify_volume(VolumeId=volume, Size=2)
    ec2.detach_volume(VolumeId=volume)
    wait("detached", lambda: ((v := look())["State"] == "available", v), 20)
    assert not [line for line in loops(service) if volume in line]
    other = next(z for z in ("us-east-1a", "us-east-1b", "us-east-1c") if z != zone)
    elsewhere = ec2.create_volume(AvailabilityZone=other, Size=1)["VolumeId"]
    wait("available", lambda: ((v := ec2.describe_volumes(VolumeIds=[elsewhere])["Volumes"][0])["State"] == "available", v), 20)
    with pytest.raises(ec2.exceptions.ClientError, match="InvalidVolume.ZoneMismatch"):
        ec2.attach_volume(VolumeId=elsewhere, InstanceId=instance["InstanceId"], Device="/dev/xvdbc")
    for each in (volume, elsewhere):
        ec2.delete_volume(VolumeId=each)
        service.wait_gone(lambda: ec2.describe_volumes(VolumeIds=[each])["Volumes"], each, code="InvalidVolume.NotFound")
        assert not Path(service.home, "volumes", each).exists()


@pytest.fixture(scope="module")
def data(service, cluster):
    """A claim that a pod has written to."""
    service.apply(claim("data"))
    service.run_pod("writer", f"test -e /data/first || echo kept > /data/first; sync; {SLEEP}", **with_volume("data"))
    yield "data"
    for name in ("writer", "mover", "restored"):
        service.delete_pod(name)
    service.kubectl("delete", "pvc", "data", "restored", "--ignore-not-found", "--wait=false")


def test_a_claim_becomes_a_volume_of_its_pods_zone(service, data):
    volume = volume_of(service, data)
    node = service.kubectl_json("get", "node", node_of(service, "writer"))
    assert volume["AvailabilityZone"] == node["metadata"]["labels"]["topology.kubernetes.io/zone"]
    assert volume["State"] == "in-use" and volume["VolumeType"] == "gp3"
    tags = {t["Key"]: t["Value"] for t in volume["Tags"]}
    assert tags["kubernetes.io/created-for/pvc/name"] == data
    pv = service.kubectl_json("get", "pv", tags["CSIVolumeName"])
    (term,) = pv["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == [volume["AvailabilityZone"]]
    assert "ext4" in service.exec("writer", "grep ' /data ' /proc/mounts").stdout


def test_no_class_is_the_default_as_at_eks(service, cluster):
    classes = service.kubectl_json("get", "storageclasses")["items"]
    assert sorted(c["metadata"]["name"] for c in classes) == ["gp2", "gp3"]
    default = "storageclass.kubernetes.io/is-default-class"
    assert not any((c["metadata"].get("annotations") or {}).get(default) == "true" for c in classes), classes


def test_the_old_class_still_works(service, cluster):
    service.apply(claim("old", storage_class="gp2"))
    service.run_pod("old", f"echo x > /data/x; {SLEEP}", **with_volume("old"))
    assert volume_of(service, "old")["VolumeType"] == "gp2"
    end_pod(service, "old")
    volume = volume_of(service, "old")["VolumeId"]
    service.kubectl("delete", "pvc", "old")
    ec2 = service.client("ec2")
    service.wait_gone(lambda: ec2.describe_volumes(VolumeIds=[volume])["Volumes"], volume, code="InvalidVolume.NotFound")
    assert not Path(service.home, "volumes", volume).exists()
    assert not [line for line in loops(service) if volume in line]


def test_a_volume_grows_under_its_pod(service, data):
    size = lambda: int(service.exec("writer", "df -k /data | tail -1 | awk '{print $2}'").stdout)  # noqa: E731
    before = size()
    service.kubectl("patch", "pvc", data, "-p", json.dumps(claim(data, "2Gi")))
    if not may_grow_mounted():
        wait("a larger volume", lambda: ((v := volume_of(service, data))["Size"] == 2, v), 30)
        end_pod(service, "writer")
        service.run_pod("writer", SLEEP, **with_volume(data))
    wait("a larger file system", lambda: ((now := size()) > before * 1.8, now), 90, 0.5)
    capacity = lambda: service.kubectl_json("get", "pvc", data)["status"]["capacity"]["storage"]  # noqa: E731
    wait("2Gi", lambda: (capacity() == "2Gi", capacity()), 30)
    assert volume_of(service, data)["Size"] == 2


SNAPSHOT_CLASS = {
    "apiVersion": "snapshot.storage.k8s.io/v1",
    "kind": "VolumeSnapshotClass",
    "metadata": {"name": "ebs"},
    "driver": "ebs.csi.aws.com",
    "deletionPolicy": "Delete",
}


def snapshot(name, claim_name):
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name},
        "spec": {"volumeSnapshotClassName": "ebs", "source": {"persistentVolumeClaimName": claim_name}},
    }


def test_a_snapshot_is_of_its_moment(service, data):
    service.apply(SNAPSHOT_CLASS, snapshot("moment", data))
    status = lambda: service.kubectl_json("get", "volumesnapshot", "moment").get("status", {})  # noqa: E731
    wait("the snapshot", lambda: ((s := status()).get("readyToUse"), s), 60)
    service.exec("writer", "echo later > /data/later; sync")
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "moment"}
    service.apply(claim("restored", "3Gi", dataSource=source))
    service.run_pod("restored", SLEEP, **with_volume("restored"))
    assert service.exec("restored", "cat /data/first").stdout == "kept\n"
    assert "No such file" in service.exec("restored", "cat /data/later", check=False).stderr
    assert int(service.exec("restored", "df -k /data | tail -1 | awk '{print $2}'").stdout) > 2_500_000
    end_pod(service, "restored")
    service.kubectl("delete", "pvc", "restored")
    ec2 = service.client("ec2")
    (taken,) = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert taken["State"] == "completed" and taken["VolumeSize"] == 2
    service.kubectl("delete", "volumesnapshot", "moment", timeout=60)
    assert ec2.describe_snapshots()["Snapshots"] == []
    wait("its file gone", lambda: (not (left := list(Path(service.home, "snapshots").glob("*"))), left), 20)
    service.exec("writer", "echo again > /data/again; sync")


def snapshot_status(service, name):
    return service.kubectl_json("get", "volumesnapshot", name).get("status", {})


def test_snapshots_at_once_and_a_content_taken_away(service, data):
    """Two copies of one volume while its pod writes; then a bound content is deleted by hand."""
    service.apply(snapshot("one", data), snapshot("two", data))
    for name in ("one", "two"):
        wait(name, lambda: ((s := snapshot_status(service, name)).get("readyToUse"), s), 60)
        service.exec("writer", f"echo x > /data/{name}; sync", timeout=20)
    content = snapshot_status(service, "one")["boundVolumeSnapshotContentName"]
    handle = lambda: service.kubectl_json("get", "volumesnapshotcontent", content)["status"]["snapshotHandle"]  # noqa: E731
    before = handle()
    service.kubectl("delete", "volumesnapshotcontent", content, "--wait=false")
    holds("the bound snapshot", lambda: (handle() == before, handle()), 3)
    assert len(service.client("ec2").describe_snapshots(OwnerIds=["self"])["Snapshots"]) == 2
    # What EC2 has lost is told, and not taken anew of another moment.
    other = snapshot_status(service, "two")["boundVolumeSnapshotContentName"]
    lost = service.kubectl_json("get", "volumesnapshotcontent", other)["status"]["snapshotHandle"]
    service.client("ec2").delete_snapshot(SnapshotId=lost)
    service.kubectl("annotate", "volumesnapshotcontent", other, "look=again")
    wait("told", lambda: ("does not exist" in (s := snapshot_status(service, "two")).get("error", {}).get("message", ""), s), 30)
    assert len(service.client("ec2").describe_snapshots(OwnerIds=["self"])["Snapshots"]) == 1
    service.kubectl("delete", "volumesnapshot", "one", "two", timeout=60)
    assert service.client("ec2").describe_snapshots(OwnerIds=["self"])["Snapshots"] == []


def test_a_claim_that_goes_while_its_snapshot_is_taken(service, cluster):
    service.apply(claim("brief"))
    service.run_pod("brief", f"echo kept > /data/kept; sync; {SLEEP}", **with_volume("brief"))
    service.apply(snapshot("brief", "brief"))
    service.kubectl("delete", "pod,pvc", "brief", "--grace-period=1", "--wait=false")
    wait("the snapshot", lambda: ((s := snapshot_status(service, "brief")).get("readyToUse"), s), 60)
    gone = lambda: service.kubectl("get", "pvc", "brief", "--ignore-not-found", "-o", "name").stdout  # noqa: E731
    wait("the claim is gone", lambda: (not gone(), gone()), 60)
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "brief"}
    service.apply(claim("revived", dataSource=source))
    service.run_pod("revived", SLEEP, **with_volume("revived"))
    assert service.exec("revived", "cat /data/kept").stdout == "kept\n"
    end_pod(service, "revived")
    service.kubectl("delete", "pvc", "revived")
    service.kubectl("delete", "volumesnapshot", "brief", timeout=60)


def test_what_is_kept_is_kept(service, cluster):
    """Policy Retain, and a PersistentVolume that is deleted by hand."""
    service.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "kept"},
            "provisioner": "ebs.csi.aws.com",
            "reclaimPolicy": "Retain",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        claim("precious", storage_class="kept"),
    )
    service.run_pod("precious", f"echo kept > /data/kept; sync; {SLEEP}", **with_volume("precious"))
    volume = volume_of(service, "precious")
    pv = service.kubectl_json("get", "pvc", "precious")["spec"]["volumeName"]
    end_pod(service, "precious")
    service.kubectl("delete", "pvc", "precious")
    service.kubectl("delete", "pv", pv, timeout=60)
    ec2 = service.client("ec2")
    state = lambda: ec2.describe_volumes(VolumeIds=[volume["VolumeId"]])["Volumes"][0]["State"]  # noqa: E731
    wait("available", lambda: (state() == "available", state()), 30)
    # Longer than the sweep's period.
    holds("the volume", lambda: (state() == "available", state()), 25, 2)
    # And it can be had again, by hand.
    handle = {"driver": "ebs.csi.aws.com", "volumeHandle": volume["VolumeId"], "fsType": "ext4"}
    zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [volume["AvailabilityZone"]]}
    service.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "again"},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "csi": handle,
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}},
            },
        },
        claim("again", storage_class="", volumeName="again"),
    )
    service.run_pod("again", SLEEP, **with_volume("again"))
    assert service.exec("again", "cat /data/kept").stdout == "kept\n"
    # A claim that names a volume which is another's gets nothing of it.
    service.apply(claim("thief", "3Gi", storage_class="", volumeName="again"))
    holds("its size", lambda: ((v := ec2.describe_volumes(VolumeIds=[volume["VolumeId"]])["Volumes"][0])["Size"] == 1, v), 2)
    end_pod(service, "again")
    service.kubectl("delete", "pvc", "again", "thief")
    service.kubectl("delete", "pv", "again", timeout=60)
    wait("available", lambda: (state() == "available", state()), 30)
    ec2.delete_volume(VolumeId=volume["VolumeId"])
    service.kubectl("delete", "storageclass", "kept")


def test_a_frozen_file_system_thaws_with_whoever_froze_it(service, data):
    (point,) = [line.split()[1] for line in instance_mounts(service, "writer") if line.split()[1].endswith("/globalmount")]
    directory = os.open(instance_root(service, "writer") + point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        holder = subprocess.Popen([BINARY, "freeze"], stdin=directory, stdout=subprocess.PIPE)
    finally:
        os.close(directory)
    try:
        assert holder.stdout.readline() == b"frozen\n"
        # Whoever writes hangs in the kernel, and no timeout ends it.
        write = "rm -f /tmp/said; (echo x > /data/frozen; sync; echo written > /tmp/said) > /dev/null 2>&1 & sleep 2"
        service.exec("writer", write, timeout=30)
        assert service.exec("writer", "cat /tmp/said", check=False).stdout == ""
    finally:
        # As when it is killed: nobody reads any more.
        holder.stdout.close()
        holder.wait(10)
    said = lambda: service.exec("writer", "cat /tmp/said", check=False).stdout  # noqa: E731
    wait("the write goes on", lambda: ("written" in said(), ""), 20)


def instance_root(service, pod_name):
    """Where this machine sees the root of the instance that a pod runs on."""
    node = service.kubectl_json("get", "node", node_of(service, pod_name))
    instance = node["spec"]["providerID"].rsplit("/", 1)[-1]
    return f"/proc/{json.loads(Path(service.home, 'run', f'{instance}.pid').read_text())['pid']}/root"


def instance_mounts(service, pod_name):
    return Path(instance_root(service, pod_name)).parent.joinpath("mounts").read_text().splitlines()


def test_a_volume_follows_its_pod_to_another_node(service, cluster, data):
    zone = volume_of(service, data)["AvailabilityZone"]
    subnets = service.client("ec2").describe_subnets(Filters=[{"Name": "availability-zone", "Values": [zone]}])["Subnets"]
    before = node_of(service, "writer")
    eks = service.client("eks")
    eks.create_nodegroup(
        clusterName=cluster,
        nodegroupName="zonal",
        nodeRole=service.role("eksNodeRole"),
        subnets=[s["SubnetId"] for s in subnets],
        scalingConfig={"minSize": 1, "desiredSize": 1, "maxSize": 1},
        labels={"group": "zonal"},
    )
    service.wait_nodegroup(cluster, "zonal")
    end_pod(service, "writer")
    service.run_pod("mover", SLEEP, **with_volume(data, nodeSelector={"group": "zonal"}))
    assert node_of(service, "mover") != before
    assert service.exec("mover", "cat /data/first").stdout == "kept\n"
    # Away from a node that is drained and gone.
    service.kubectl("delete", "pod", "mover", "--wait=false")
    service.delete_nodegroup(cluster, "zonal")
    service.run_pod("writer", f"test -e /data/first; {SLEEP}", timeout=120, **with_volume(data))
    assert service.exec("writer", "cat /data/first").stdout == "kept\n"


@pytest.mark.parametrize("how", ["kill", "stop --all"])
def test_data_outlives_the_service(service, data, how):
    service.exec("writer", f"echo '{how}' > /data/how; sync")
    if how == "kill":
        service.kill("serve")
        assert service.exec("writer", "cat /data/how").stdout == f"{how}\n"
    else:
        service.cli("stop", "--all")
        assert loops(service) == [], "no device is left"
    service.start()
    read = lambda: service.exec("writer", "cat /data/how", check=False, timeout=20)  # noqa: E731
    wait("the pod with its data", lambda: ((r := read()).stdout == f"{how}\n", r), 120, 0.5)


def test_what_cannot_be_is_said(service, cluster):
    service.apply(
        claim("shared", modes=["ReadWriteMany"]),
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "secret"},
            "provisioner": "ebs.csi.aws.com",
            "parameters": {"encrypted": "true"},
        },
        claim("secret", storage_class="secret"),
    )
    service.apply(*[
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"wants-{name}"},
            "spec": {
                "containers": [{"name": "main", "image": "e2e/busybox:1", "command": ["sleep", "600"]}],
                **{k: v for k, v in with_volume(name).items() if k == "volumes"},
            },
        }
        for name in ("shared", "secret")
    ])
    for name, why in (("shared", "ReadWriteMany"), ("secret", "encrypted volumes are not supported yet")):

        def said():
            told = events(service, name)
            return any("ProvisioningFailed" in e and why in e for e in told), told

        wait(f"{why}, said", said, 30)
    service.kubectl("delete", "pod", "wants-shared", "wants-secret", "--grace-period=0", "--force")
    service.kubectl("delete", "pvc", "shared", "secret")
    service.kubectl("delete", "storageclass", "secret")
