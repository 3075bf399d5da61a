"""2 → 3 → 1 → 2 by UpdateNodegroupConfig, and evictions on the way."""

import time

import pytest
from ekstra_service import DRAIN_LIMIT, deployment, wait


def scale(service, cluster, size, timeout=120):
    eks = service.client("eks")
    update = eks.update_nodegroup_config(
        clusterName=cluster,
        nodegroupName="ng",
        scalingConfig={"minSize": 1, "maxSize": 4, "desiredSize": size},
    )["update"]

    def check():
        seen = eks.describe_update(name=cluster, nodegroupName="ng", updateId=update["id"])["update"]
        assert seen["status"] not in ("Failed", "Cancelled"), seen
        return seen["status"] == "Successful", seen

    wait(f"update to {size}", check, timeout)
    service.wait_nodes(size, timeout)
    service.wait_nodegroup(cluster, "ng")


@pytest.fixture
def movers(service, cluster):
    """Three replicas, evenly over the nodes."""
    service.apply(deployment("movers", 3))
    yield lambda: service.wait_pods("app=movers", 3, 90)
    service.kubectl("delete", "deployment", "movers", "--grace-period=1", "--wait=true")


def test_two_three_one(service, cluster, movers):
    movers()
    scale(service, cluster, 3)
    service.kubectl("scale", "deployment/movers", "--replicas=0")
    service.wait_pods("app=movers", 0)
    service.kubectl("scale", "deployment/movers", "--replicas=3")
    assert len({p["spec"]["nodeName"] for p in movers()}) == 3
    scale(service, cluster, 1)
    (node,) = service.nodes()
    assert {p["spec"]["nodeName"] for p in movers()} == {node}
    instances = service.client("ec2").describe_instances()["Reservations"]
    running = [i for r in instances for i in r["Instances"] if i["State"]["Name"] == "running"]
    assert [i["PrivateDnsName"] for i in running] == [node]
    scale(service, cluster, 2)


def test_the_command_line_scales(service, cluster):
    service.cli("scale", "nodegroup", "--cluster", cluster, "--name", "ng", "--nodes", "3")
    service.wait_nodes(3)
    service.cli("scale", "nodegroup", "--cluster", cluster, "--name", "ng", "--nodes", "2")
    service.wait_nodes(2)


def test_a_blocked_eviction_ends_at_the_limit(service, cluster):
    """A budget that allows nothing: the node goes all the same, and not before the limit."""
    service.create_nodegroup(cluster, "stuck", 1)
    service.wait_nodegroup(cluster, "stuck")
    service.wait_nodes(3)
    guarded = deployment("guarded", 1, spread=False)
    guarded["spec"]["template"]["spec"]["nodeSelector"] = {"eks.amazonaws.com/nodegroup": "stuck"}
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "guarded"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}},
    }
    service.apply(guarded, budget)
    service.wait_pods("app=guarded", 1)
    try:
        started = time.monotonic()
        service.delete_nodegroup(cluster, "stuck", timeout=DRAIN_LIMIT + 60)
        took = time.monotonic() - started
        assert took >= DRAIN_LIMIT - 1, f"evicted against the budget after {took:.1f} s"
        service.wait_nodes(2)
    finally:
        service.kubectl("delete", "deployment/guarded", "pdb/guarded", "--wait=false")
