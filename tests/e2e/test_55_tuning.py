"""Settings of a control plane's programs: chosen when it is made, changed while it serves."""

import json
from pathlib import Path

import pytest
from conftest import started
from ekstra_service import never_refused, refusal, wait

CLUSTER = "tuned"


@pytest.fixture(scope="module")
def service():
    """With a control plane that keeps events for less than an hour."""
    yield from started(control_plane=CLUSTER, kubeApiServerConfig={"eventTtl": "30m"})


@pytest.fixture(scope="module")
def eks(service):
    return service.client("eks")


def pids(service):
    records = Path(service.home, "run").glob("cp-*.pid")
    return {record.stem.split("-", 2)[2]: json.loads(record.read_text())["pid"] for record in records}


def words(service, program):
    """The command line of one that runs."""
    return Path(f"/proc/{pids(service)[program]}/cmdline").read_text().split("\0")


def updated(service, eks, **change):
    update = eks.update_cluster_config(name=CLUSTER, **change)["update"]
    assert (update["type"], update["status"]) == ("ControlPlaneComponentConfigUpdate", "InProgress")
    # One at a time.
    another = refusal(eks.update_cluster_config, name=CLUSTER, deletionProtection=True)
    assert another.startswith(f"ResourceInUseException: Cannot update cluster {CLUSTER} in status UPDATING"), another
    look = lambda: eks.describe_update(name=CLUSTER, updateId=update["id"])["update"]  # noqa: E731
    wait("the update", lambda: ((u := look())["status"] != "InProgress", u), 60)
    assert look()["status"] == "Successful"
    return {param["type"]: json.loads(param["value"]) for param in look()["params"]}


def node_port(service, port):
    ports = [{"port": 80, "nodePort": port}]
    made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"p{port}"}, "spec": {"type": "NodePort", "ports": ports}}
    return service.kubectl("create", "-f", "-", stdin=json.dumps(made), check=False)


def test_what_was_chosen_holds(service, eks):
    known = eks.describe_cluster(name=CLUSTER)["cluster"]
    assert known["kubeApiServerConfig"] == {"eventTtl": "30m", "serviceNodePortRange": {"minPort": 30000, "maxPort": 32767}}
    assert known["kubeSchedulerConfig"]["nodeResourcesFit"]["scoringStrategy"]["type"] == "LeastAllocated"
    assert "--event-ttl=30m" in words(service, "kube-apiserver")
    assert "not in the valid range" in node_port(service, 20000).stderr


def test_an_api_server_is_exchanged_and_no_request_fails(service, eks):
    before, ports = pids(service), {"minPort": 20000, "maxPort": 32767}
    with never_refused(lambda: service.kubectl("get", "--raw", "/api/v1/namespaces/kube-system", check=False, timeout=20)):
        params = updated(service, eks, kubeApiServerConfig={"serviceNodePortRange": ports})
    assert params == {"KubeApiServerConfig": {"eventTtl": "30m", "serviceNodePortRange": ports}}
    after = pids(service)
    assert after["kube-apiserver"] != before["kube-apiserver"]
    assert after["etcd"] == before["etcd"]
    assert node_port(service, 20000).returncode == 0
    assert "--event-ttl=30m" in words(service, "kube-apiserver"), "what was not said stays"


def test_the_scheduler_and_the_controller_manager(service, eks):
    before = pids(service)
    strategy = {"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}]}
    params = updated(
        service,
        eks,
        kubeSchedulerConfig={"nodeResourcesFit": {"scoringStrategy": strategy}},
        kubeControllerManagerConfig={"podGcControllerConfig": {"terminatedPodGcThreshold": 100}},
    )
    assert set(params) == {"KubeSchedulerConfig", "KubeControllerManagerConfig"}
    known = eks.describe_cluster(name=CLUSTER)["cluster"]
    assert known["kubeSchedulerConfig"]["nodeResourcesFit"]["scoringStrategy"] == strategy
    assert known["kubeControllerManagerConfig"]["podGcControllerConfig"]["terminatedPodGcThreshold"] == 100
    after = pids(service)
    assert after["kube-apiserver"] == before["kube-apiserver"] and after["etcd"] == before["etcd"]
    assert "--terminated-pod-gc-threshold=100" in words(service, "kube-controller-manager")
    (config,) = [word.split("=", 1)[1] for word in words(service, "kube-scheduler") if word.startswith("--config=")]
    (profile,) = json.loads(Path(config).read_text())["profiles"]
    assert profile["pluginConfig"][0]["args"]["scoringStrategy"] == strategy
    # It schedules: a pod without nodes is told why.
    service.kubectl("run", "waiting", "--image=x")
    why = lambda: service.kubectl("get", "pod", "waiting", "-o", "jsonpath={.status.conditions[0].message}").stdout  # noqa: E731
    wait("the scheduler", lambda: ("no nodes available" in (said := why()), said), 30)


def test_what_is_refused(eks):
    change = lambda **asked: refusal(eks.update_cluster_config, name=CLUSTER, **asked)  # noqa: E731
    for asked, said in [
        ({"kubeApiServerConfig": {"eventTtl": "2h"}}, "eventTtl"),
        ({"kubeApiServerConfig": {"eventTtl": "soon"}}, "eventTtl"),
        ({"kubeApiServerConfig": {"serviceNodePortRange": {"minPort": 80, "maxPort": 90}}}, "serviceNodePortRange"),
        ({"kubeApiServerConfig": {"serviceNodePortRange": {"minPort": 31000, "maxPort": 30000}}}, "serviceNodePortRange"),
        (
            {"kubeControllerManagerConfig": {"horizontalPodAutoscalerControllerConfig": {"horizontalPodAutoscalerSyncPeriod": "10s"}}},
            "provisioned",
        ),
        ({"kubeApiServerConfig": {"eventTtl": "30m"}}, "already at the desired configuration"),
        ({"kubeApiServerConfig": {"eventTtl": "20m"}, "deletionProtection": True}, "Only one type of update"),
    ]:
        told = change(**asked)
        assert told.startswith("InvalidParameterException") and said in told, told
