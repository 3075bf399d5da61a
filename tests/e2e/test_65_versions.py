"""Every Kubernetes minor on offer gives a cluster of that minor."""

import os
import re
import subprocess

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
    assert set(found) == {"1.36", "1.37"}
    assert found["1.37"]["kubernetesPatchVersion"].startswith("1.37.")


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
def test_nodes_of_another_minor(service):
    subprocess.run([BINARY, "components", "ensure", "--version", "1.37"], check=True, timeout=1800)
    service.create_cluster("newest", version="1.37")
    service.wait_cluster("newest")
    config = f"{service.work}/newest"
    service.cli("update-kubeconfig", "--name", "newest", "--kubeconfig", config)
    service.create_nodegroup("newest", "ng", 1)
    service.wait_nodegroup("newest", "ng")
    (node,) = service.kubectl_json("--kubeconfig", config, "get", "nodes")["items"]
    assert node["status"]["nodeInfo"]["kubeletVersion"].startswith("v1.37.")
    service.kubectl("--kubeconfig", config, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s", timeout=150)
    service.delete_nodegroup("newest", "ng")
    service.delete_cluster("newest")
