"""Every Kubernetes minor on offer gives a cluster of that minor."""

import os
import re
import subprocess
from datetime import datetime, timezone

import pytest
from ekstra_service import BINARY

ALL = os.environ.get("E2E_ALL_VERSIONS") == "1"


def offered(service):
    found = service.client("eks").describe_cluster_versions()["clusterVersions"]
    return {v["clusterVersion"]: v for v in found}


def test_versions_are_told(service):
    found = offered(service)
    (default,) = [v for v in found.values() if v["defaultVersion"]]
    assert default["clusterVersion"] == "1.36"
    assert list(found) == ["1.37", "1.36", "1.35", "1.34"], "the newest first"
    assert all(v["kubernetesPatchVersion"].startswith(f"{minor}.") for minor, v in found.items())
    # Support of 1.34 and of no other version on offer ends in 2026; EKS's own calendar has no 1.37 yet.
    ends = {minor: v.get("endOfStandardSupportDate") for minor, v in found.items()}
    assert [minor for minor, end in ends.items() if end and end.year == 2026] == ["1.34"]
    assert ends["1.37"] is None
    for minor, end in ends.items():
        is_over = end is not None and end < datetime.now(timezone.utc)
        assert found[minor]["versionStatus"] == ("EXTENDED_SUPPORT" if is_over else "STANDARD_SUPPORT")


def test_a_control_plane_of_another_minor(service):
    """Built by the service itself, as for whoever asks with `aws` alone; takes minutes on a machine that has it not."""
    service.create_cluster("newer", version="1.37")
    service.wait_cluster("newer", timeout=1500)
    config = f"{service.work}/newer"
    service.cli("update-kubeconfig", "--name", "newer", "--kubeconfig", config)
    version = service.kubectl_json("--kubeconfig", config, "version")["serverVersion"]
    assert (version["major"], version["minor"]) == ("1", "37")
    assert re.fullmatch(r"v1\.37\.\d+", version["gitVersion"])
    service.kubectl("--kubeconfig", config, "create", "deployment", "web", "--image=x")
    assert "CoreDNS" not in service.kubectl("--kubeconfig", config, "get", "--raw", "/readyz").stderr
    service.delete_cluster("newer")


@pytest.mark.skipif(not ALL, reason="`cargo xtask test --all-versions` runs it")
@pytest.mark.parametrize("minor", ["1.37", "1.35", "1.34"])
def test_nodes_of_another_minor(service, minor):
    subprocess.run([BINARY, "components", "ensure", "--version", minor], check=True, timeout=2400)
    name = f"of-{minor.replace('.', '-')}"
    service.create_cluster(name, version=minor)
    service.wait_cluster(name)
    config = f"{service.work}/{name}"
    service.cli("update-kubeconfig", "--name", name, "--kubeconfig", config)
    service.create_nodegroup(name, "ng", 1)
    service.wait_nodegroup(name, "ng")
    (node,) = service.kubectl_json("--kubeconfig", config, "get", "nodes")["items"]
    assert node["status"]["nodeInfo"]["kubeletVersion"].startswith(f"v{minor}.")
    for workload in ("deployment/coredns", "deployment/metrics-server", "daemonset/kube-proxy", "daemonset/aws-node"):
        waited = ("rollout", "status", workload, "-n", "kube-system", "--timeout=120s")
        service.kubectl("--kubeconfig", config, *waited, timeout=150)
    service.delete_nodegroup(name, "ng")
    service.delete_cluster(name)
