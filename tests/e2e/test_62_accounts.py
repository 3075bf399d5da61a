"""Accounts and regions are worlds apart: what is in one is nothing in another."""

import re

import pytest
from botocore.exceptions import ClientError
from ekstra_service import ACCOUNT, REGION

OTHER = "111122223333"


@pytest.fixture
def other(service):
    """Keys of another account, made when they are first asked for."""
    exports = dict(re.findall(r"^export (AWS_\w+)=(\S+)$", service.cli("env", "--account", OTHER).stdout, re.M))
    assert exports == dict(re.findall(r"^export (AWS_\w+)=(\S+)$", service.cli("env", "--account", OTHER).stdout, re.M))
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", exports["AWS_ACCESS_KEY_ID"])
    return {
        "aws_access_key_id": exports["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": exports["AWS_SECRET_ACCESS_KEY"],
    }


def test_another_account(service, cluster, other):
    assert service.client("sts", **other).get_caller_identity()["Account"] == OTHER
    eks, ec2, iam = (service.client(name, **other) for name in ("eks", "ec2", "iam"))
    assert eks.list_clusters()["clusters"] == []
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    assert vpc["OwnerId"] == OTHER
    subnets = [s["SubnetId"] for s in ec2.describe_subnets()["Subnets"]]
    assert not set(subnets) & set(service.subnets())
    role = iam.get_role(RoleName="eksClusterRole")["Role"]["Arn"]
    assert role == f"arn:aws:iam::{OTHER}:role/eksClusterRole"
    # The same name twice, and nobody takes the other's parts.
    request = {"name": cluster, "roleArn": role, "resourcesVpcConfig": {"subnetIds": service.subnets()}}
    with pytest.raises(ClientError):
        eks.create_cluster(**request)
    made = eks.create_cluster(**request | {"resourcesVpcConfig": {"subnetIds": subnets}})["cluster"]
    try:
        assert made["arn"] == f"arn:aws:eks:{REGION}:{OTHER}:cluster/{cluster}"
        own = service.client("eks").describe_cluster(name=cluster)["cluster"]
        assert own["arn"].split(":")[4] == ACCOUNT and own["status"] == "ACTIVE"
        with pytest.raises(ClientError):
            service.client("eks").list_tags_for_resource(resourceArn=made["arn"])
    finally:
        eks.delete_cluster(name=cluster)
        service.wait_gone(lambda: eks.describe_cluster(name=cluster)["cluster"]["status"], "the other account's")
    assert service.client("eks").list_clusters()["clusters"] == [cluster]
    service.wait_nodes(2)


def test_its_keys_do_not_open_another_account_s_cluster(service, cluster, other):
    token = service.run(
        "aws", "eks", "get-token", "--cluster-name", cluster,
        env=service.plain_env(
            AWS_ENDPOINT_URL=service.aws_env()["AWS_ENDPOINT_URL"],
            AWS_DEFAULT_REGION=REGION,
            AWS_ACCESS_KEY_ID=other["aws_access_key_id"],
            AWS_SECRET_ACCESS_KEY=other["aws_secret_access_key"],
        ),
    ).stdout
    token = re.search(r"k8s-aws-v1\.[\w-]+", token)[0]
    server = service.kubectl("config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}").stdout
    refused = service.kubectl(
        "--kubeconfig", "/dev/null", "--server", server, "--insecure-skip-tls-verify", "--token", token, "get", "ns", check=False
    )
    assert refused.returncode != 0 and "Unauthorized" in refused.stderr + refused.stdout, refused.stderr


def test_an_account_is_twelve_digits(service):
    for text in ["1", "abc", "1111222233334", "11112222333a"]:
        done = service.cli("env", "--account", text, check=False)
        assert done.returncode != 0 and "12 digits" in done.stderr, done.stderr
