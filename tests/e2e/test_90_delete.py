"""Node group, cluster, service: what goes goes whole. The last file: it ends the shared cluster."""

import pytest
from ekstra_service import wait

KEPT = {"serve", "gate", "cgroups", "tables", "range", "pid files"}


def test_a_cluster_with_node_groups_stays(service, cluster):
    eks = service.client("eks")
    with pytest.raises(eks.exceptions.ResourceInUseException):
        eks.delete_cluster(name=cluster)
    assert eks.describe_cluster(name=cluster)["cluster"]["status"] == "ACTIVE"


def test_node_group_then_cluster(service, cluster):
    service.delete_nodegroup(cluster, "ng")
    service.wait_nodes(0)

    def no_instances():
        traces = service.traces()
        left = {k: v for k, v in traces.items() if k in ("loops", "instances")}
        # The API server lays a directory of its slot over /etc, in its own mount namespace, as long as it runs.
        left["mounts"] = [line for line in traces.get("mounts", []) if f"{service.home}/slots/" not in line]
        left = {kind: items for kind, items in left.items() if items}
        nodes = [n for n in traces.get("namespaces", []) if "-i-" in n]
        return not left and not nodes, (left, nodes)

    wait("nothing of the instances left", no_instances, 30)
    service.delete_cluster(cluster)


def test_nothing_is_left_but_the_service(service, cluster):
    def check():
        traces = service.traces()
        more = {kind: items for kind, items in traces.items() if kind not in KEPT}
        more["cgroups"] = [g for g in traces.get("cgroups", []) if g not in (".", "gate", "gate-2")]
        more["pid files"] = [f for f in traces.get("pid files", []) if f not in ("gate.pid", "gate-2.pid")]
        more = {kind: items for kind, items in more.items() if items}
        return not more, more

    wait("nothing left", check, 30)
    assert service.client("eks").list_clusters()["clusters"] == []


def test_stop_leaves_nothing_at_all(service, cluster):
    service.cli("stop", "--all")
    assert service.traces() == {}, "left behind"
    from ekstra_service import output

    assert service.settings()["address"] not in output("ip", "-o", "address", "show", "dev", "lo")
