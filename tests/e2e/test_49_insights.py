"""Insights: what a cluster would be told before its next version, of what is really in it. By boto3 and `aws`."""

import json

import pytest
from botocore.exceptions import ClientError
from ekstra_service import wait

PROXY = ("daemonset/kube-proxy", "-n", "kube-system")


@pytest.fixture(scope="module")
def eks(service):
    return service.client("eks")


def refreshed(eks, cluster):
    """All insights, made anew, by name."""
    began = eks.start_insights_refresh(clusterName=cluster)
    assert began["status"] == "IN_PROGRESS"
    look = lambda: eks.describe_insights_refresh(clusterName=cluster)  # noqa: E731
    wait("the refresh", lambda: ((r := look())["status"] == "COMPLETED", r), 20)
    told = look()
    assert told["startedAt"] <= told["endedAt"]
    return {insight["name"]: insight for insight in eks.list_insights(clusterName=cluster)["insights"]}


def test_a_cluster_in_order(service, cluster, eks):
    insights = refreshed(eks, cluster)
    assert set(insights) == {
        "Kubelet version skew", "kube-proxy version skew", "EKS add-on version compatibility", "Cluster health issues", "Deprecated APIs",
    }  # fmt: skip
    for insight in insights.values():
        assert insight["category"] == "UPGRADE_READINESS" and insight["kubernetesVersion"] == "1.37"
        assert insight["insightStatus"]["status"] == "PASSING", insight
    of_nodes = eks.describe_insight(clusterName=cluster, id=insights["Kubelet version skew"]["id"])["insight"]
    nodes = {f"/api/v1/nodes/{name}" for name in service.nodes()}
    assert {resource["kubernetesResourceUri"] for resource in of_nodes["resources"]} == nodes
    of_addons = eks.describe_insight(clusterName=cluster, id=insights["EKS add-on version compatibility"]["id"])["insight"]
    details = {d["name"]: d["compatibleVersions"] for d in of_addons["categorySpecificSummary"]["addonCompatibilityDetails"]}
    assert set(details) == set(eks.list_addons(clusterName=cluster)["addons"])
    assert details["coredns"] == ["v1.15.0-eksbuild.1"]


def test_what_is_too_old_is_an_error_as_long_as_it_is_there(service, cluster, eks):
    before = refreshed(eks, cluster)["kube-proxy version skew"]
    strategy = lambda kind: json.dumps({"spec": {"updateStrategy": {"$retainKeys": ["type"], "type": kind}}})  # noqa: E731
    daemons = service.kubectl_json("get", *PROXY)
    (image,) = [c["image"] for c in daemons["spec"]["template"]["spec"]["containers"]]
    # Its pods stay as they are: only what is said of them changes.
    service.kubectl("patch", *PROXY, "-p", strategy("OnDelete"))
    service.kubectl("set", "image", *PROXY, "kube-proxy=registry.k8s.io/kube-proxy:v1.32.0")
    try:
        old = refreshed(eks, cluster)["kube-proxy version skew"]
        assert old["id"] == before["id"] and old["lastTransitionTime"] > before["lastTransitionTime"]
        assert old["insightStatus"] == {"status": "ERROR", "reason": "kube-proxy v1.32.0 is too old for Kubernetes 1.37."}
        errors = json.loads(service.aws("eks", "list-insights", "--cluster-name", cluster, "--filter", "statuses=ERROR").stdout)
        assert [insight["name"] for insight in errors["insights"]] == ["kube-proxy version skew"]
    finally:
        service.kubectl("set", "image", *PROXY, f"kube-proxy={image}")
        service.kubectl("patch", *PROXY, "-p", strategy("RollingUpdate"))
    assert refreshed(eks, cluster)["kube-proxy version skew"]["insightStatus"]["status"] == "PASSING"


def test_filters_and_what_is_not_there(cluster, eks):
    names = lambda **of: [i["name"] for i in eks.list_insights(clusterName=cluster, filter=of)["insights"]]  # noqa: E731
    assert len(names(categories=["UPGRADE_READINESS"], kubernetesVersions=["1.37"], statuses=["PASSING"])) == 5
    assert names(categories=["MISCONFIGURATION"]) == names(kubernetesVersions=["1.40"]) == names(statuses=["WARNING"]) == []
    pages = eks.get_paginator("list_insights").paginate(clusterName=cluster, PaginationConfig={"PageSize": 2})
    assert [len(page["insights"]) for page in pages] == [2, 2, 1]
    for call, arguments in (
        (eks.describe_insight, {"clusterName": cluster, "id": "none"}),
        (eks.list_insights, {"clusterName": "none"}),
        (eks.start_insights_refresh, {"clusterName": "none"}),
    ):
        with pytest.raises(ClientError) as caught:
            call(**arguments)
        assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
