"""Two services on one machine: the same VPC CIDR, the same names, nothing shared."""

import json
from pathlib import Path

import botocore.exceptions
import pytest


@pytest.fixture(scope="module")
def other(second_service, cluster):
    """A cluster of the same name in the second service, by the one command of the README."""
    done = second_service.cli("create", "cluster", "--name", "e2e", "--managed", "--nodes", "1")
    assert "kubectl" in done.stdout + done.stderr
    return second_service


def test_both_have_their_nodes(service, cluster, other):
    assert len(other.wait_nodes(1)) == 1
    assert len(service.wait_nodes(2)) == 2
    for one in (service, other):
        vpcs = one.client("ec2").describe_vpcs()["Vpcs"]
        assert [v["CidrBlock"] for v in vpcs] == ["172.31.0.0/16"]
    a, b = service.settings(), other.settings()
    for key in ("home_id", "address", "port", "first_cluster_port", "transit"):
        assert a[key] != b[key], key


def config(service):
    return json.loads(service.kubectl("config", "view", "--raw", "--minify", "-o", "json").stdout)


def test_each_signs_in_only_to_its_own(service, cluster, other):
    for one, another in [(service, other), (other, service)]:
        mixed = config(another)
        mixed["users"][0]["user"] = config(one)["users"][0]["user"]
        path = Path(one.work, "mixed")
        path.write_text(json.dumps(mixed))
        refused = one.kubectl("--kubeconfig", path, "get", "ns", check=False)
        assert refused.returncode != 0 and "Unauthorized" in refused.stderr, refused.stderr
        assert "default" in one.kubectl("get", "ns").stdout
        keys = one.aws_env()
        stranger = another.client(
            "eks",
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )
        with pytest.raises(botocore.exceptions.ClientError) as raised:
            stranger.list_clusters()
        assert raised.value.response["Error"]["Code"] == "UnrecognizedClientException"


def test_stopping_one_leaves_the_other(service, cluster, other):
    other.cli("stop", "--all")
    assert len(service.wait_nodes(2)) == 2
    assert "serve" not in other.traces()
    other.start()
    other.wait_nodes(1, timeout=90)
    other.cli("delete", "cluster", "--name", "e2e")
    assert len(service.wait_nodes(2)) == 2
    assert "e2e" not in Path(other.kubeconfig).read_text()
