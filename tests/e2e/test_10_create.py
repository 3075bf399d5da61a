"""Created by the stock clients; every way to sign in."""

import json
import re
from pathlib import Path

from ekstra_service import REGION


def test_default_roles_exist(service):
    names = {r["RoleName"] for r in service.client("iam").list_roles()["Roles"]}
    assert {"eksClusterRole", "eksNodeRole"} <= names


def test_default_vpc_spans_three_zones(service):
    subnets = service.client("ec2").describe_subnets()["Subnets"]
    assert len({s["AvailabilityZone"] for s in subnets}) == 3
    vpcs = service.client("ec2").describe_vpcs()["Vpcs"]
    assert [v["CidrBlock"] for v in vpcs if v["IsDefault"]] == ["172.31.0.0/16"]


def test_cluster_and_nodes_come_up(service, cluster):
    description = service.client("eks").describe_cluster(name=cluster)["cluster"]
    assert description["status"] == "ACTIVE"
    assert description["endpoint"].startswith("https://")
    assert description["arn"].endswith(":cluster/e2e")
    assert len(service.wait_nodes(2)) == 2


def test_instances_are_described(service, cluster):
    reservations = service.client("ec2").describe_instances()["Reservations"]
    running = [i for r in reservations for i in r["Instances"] if i["State"]["Name"] == "running"]
    assert sorted(i["PrivateDnsName"] for i in running) == service.nodes()


def test_node_names_and_zones(service, cluster):
    for node in service.kubectl_json("get", "nodes")["items"]:
        name, labels = node["metadata"]["name"], node["metadata"]["labels"]
        assert re.fullmatch(r"ip-172-31-\d+-\d+\.ec2\.internal", name)
        assert re.fullmatch(REGION + "[a-z]", labels["topology.kubernetes.io/zone"])
        assert labels["topology.kubernetes.io/region"] == REGION
        assert labels["eks.amazonaws.com/nodegroup"] == "ng"
        assert labels["node.kubernetes.io/instance-type"]
        assert node["spec"]["providerID"].startswith(f"aws:///{labels['topology.kubernetes.io/zone']}/i-")
        assert not node["spec"].get("taints")


def test_aws_update_kubeconfig_signs_in(service, cluster):
    config = f"{service.work}/by-aws"
    service.aws("eks", "update-kubeconfig", "--name", cluster, "--kubeconfig", config)
    env = service.aws_env() | {"KUBECONFIG": config}
    assert "kube-system" in service.run("kubectl", "get", "ns", env=env).stdout
    who = service.run("kubectl", "auth", "can-i", "*", "*", "-A", env=env)
    assert who.stdout.strip() == "yes"


def test_aws_get_token_signs_in(service, cluster):
    credential = json.loads(service.aws("eks", "get-token", "--cluster-name", cluster).stdout)
    token = credential["status"]["token"]
    config = json.loads(service.kubectl("config", "view", "--raw", "--minify", "-o", "json").stdout)
    config["users"][0]["user"] = {"token": token}
    path = Path(service.work, "by-token")
    path.write_text(json.dumps(config))
    assert "default" in service.kubectl("--kubeconfig", path, "get", "ns").stdout


def test_own_plugin_needs_no_aws(service, cluster):
    config = f"{service.work}/own"
    env = service.plain_env(KUBECONFIG=config, PATH="/usr/bin:/bin")
    assert not [k for k in env if k.startswith("AWS_") and k != "AWS_EC2_METADATA_DISABLED"]
    service.cli("update-kubeconfig", "--name", cluster, "--kubeconfig", config)
    kubectl = (service.tools / "kubectl").resolve()
    assert "default" in service.run(kubectl, "get", "ns", env=env).stdout


def test_a_wrong_token_is_refused(service, cluster):
    config = json.loads(service.kubectl("config", "view", "--raw", "--minify", "-o", "json").stdout)
    config["users"][0]["user"] = {"token": "k8s-aws-v1.aHR0cHM6Ly9leGFtcGxlLmNvbS8"}
    path = Path(service.work, "wrong-token")
    path.write_text(json.dumps(config))
    refused = service.kubectl("--kubeconfig", path, "get", "ns", check=False)
    assert refused.returncode != 0 and "Unauthorized" in refused.stderr + refused.stdout


def test_anonymous_may_see_nothing_but_health(service, cluster):
    config = json.loads(service.kubectl("config", "view", "--raw", "--minify", "-o", "json").stdout)
    config["users"][0]["user"] = {}
    path = Path(service.work, "anonymous")
    path.write_text(json.dumps(config))
    refused = service.kubectl("--kubeconfig", path, "get", "pods", "-A", check=False, stdin="\n\n\n")
    assert refused.returncode != 0


def test_the_service_tells_what_it_runs(service, cluster):
    assert cluster in service.cli("get", "cluster", "-o", "json").stdout
    nodegroups = json.loads(service.cli("get", "nodegroup", "--cluster", cluster, "-o", "json").stdout)
    assert "ng" in json.dumps(nodegroups)
    assert service.cli("status").returncode == 0
