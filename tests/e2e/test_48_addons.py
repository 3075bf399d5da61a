"""Add-ons of EKS: what they are called, what they write into a cluster, whose values hold, and how they are. Stock clients only."""

import json

import pytest
from ekstra_service import ACCOUNT, IMAGE, refusal, wait

DEPLOYMENT = ("get", "deployment", "coredns", "-n", "kube-system")


@pytest.fixture(scope="module")
def eks(service):
    return service.client("eks")


def addon_of(eks, cluster, name):
    return eks.describe_addon(clusterName=cluster, addonName=name)["addon"]


def settled(eks, cluster, name, *statuses, timeout=90):
    """The add-on, once it is what it becomes."""
    look = lambda: (addon_of(eks, cluster, name))  # noqa: E731
    wait(f"{name} {statuses}", lambda: ((a := look())["status"] in statuses, a), timeout)
    return look()


def updated(eks, cluster, name, **change):
    """Asks for a change; the update as it ends."""
    update = eks.update_addon(clusterName=cluster, addonName=name, **change)["update"]
    assert update["type"] == "AddonUpdate" and update["status"] == "InProgress"
    look = lambda: eks.describe_update(name=cluster, updateId=update["id"], addonName=name)["update"]  # noqa: E731
    wait("the update", lambda: ((u := look())["status"] != "InProgress", u), 150)
    return look()


def test_which_there_are(service, cluster, eks):
    told = json.loads(service.aws("eks", "describe-addon-versions", "--kubernetes-version", "1.36").stdout)["addons"]
    assert [addon["addonName"] for addon in told] == ["coredns", "eks-pod-identity-agent", "kube-proxy", "metrics-server", "vpc-cni"]
    for addon in told:
        assert (addon["publisher"], addon["owner"], addon["defaultNamespace"]) == ("eks", "aws", "kube-system")
        (version,) = addon["addonVersions"]
        (compatibility,) = version["compatibilities"]
        assert compatibility == {"clusterVersion": "1.36", "platformVersions": ["*"], "defaultVersion": True}
        schema = eks.describe_addon_configuration(addonName=addon["addonName"], addonVersion=version["addonVersion"])
        assert "resources" in json.loads(schema["configurationSchema"])["properties"]
    pages = eks.get_paginator("describe_addon_versions").paginate(PaginationConfig={"PageSize": 2})
    assert len([addon for page in pages for addon in page["addons"]]) == 5
    assert eks.describe_addon_versions(addonName="vpc-lattice")["addons"] == []
    assert eks.describe_addon_versions(types=["observability"])["addons"][0]["addonName"] == "metrics-server"
    assert eks.describe_addon_versions(owners=["aws-marketplace"])["addons"] == []
    assert "ResourceNotFound" in refusal(eks.describe_addon_configuration, addonName="coredns", addonVersion="v0.0.1")


def test_what_nobody_managed_is_taken_over(service, cluster, eks):
    listed = lambda: service.kubectl_json("get", "pods", "-l", "k8s-app=kube-dns", "-n", "kube-system")["items"]  # noqa: E731
    pods = lambda: sorted(pod["metadata"]["uid"] for pod in listed())  # noqa: E731
    before = pods()
    made = eks.create_addon(clusterName=cluster, addonName="coredns", tags={"team": "a"}, clientRequestToken="once")["addon"]
    assert made["status"] == "CREATING" and made["addonArn"].startswith(f"arn:aws:eks:us-east-1:{ACCOUNT}:addon/{cluster}/coredns/")
    again = eks.create_addon(clusterName=cluster, addonName="coredns", tags={"team": "a"}, clientRequestToken="once")["addon"]
    assert again["addonArn"] == made["addonArn"]
    assert "ResourceInUseException: Addon already exists." == refusal(eks.create_addon, clusterName=cluster, addonName="coredns")
    now = settled(eks, cluster, "coredns", "ACTIVE")
    assert now["health"]["issues"] == [] and now["addonVersion"].startswith("v1.15.0-eksbuild.")
    assert pods() == before, "nothing has changed for its pods"
    assert service.kubectl_json("get", "pdb", "coredns", "-n", "kube-system")["spec"]["maxUnavailable"] == 1
    assert eks.list_addons(clusterName=cluster)["addons"] == ["coredns"]
    eks.tag_resource(resourceArn=made["addonArn"], tags={"more": "b"})
    another = made["addonArn"].rpartition("/")[0] + "/9ac3ad40-0000-0000-0000-000000000000"
    assert refusal(eks.tag_resource, resourceArn=another, tags={"more": "c"}).startswith("NotFoundException"), "not by its name alone"
    assert addon_of(eks, cluster, "coredns")["tags"] == {"team": "a", "more": "b"}


def test_configuration(service, cluster, eks):
    values = "replicaCount: 3\npodAnnotations: {a: b}\n"
    assert updated(eks, cluster, "coredns", configurationValues=values)["status"] == "Successful"
    deployment = service.kubectl_json(*DEPLOYMENT)
    assert deployment["spec"]["replicas"] == 3 and deployment["spec"]["template"]["metadata"]["annotations"] == {"a": "b"}
    assert addon_of(eks, cluster, "coredns")["configurationValues"] == values
    # What is not said stays, and what is taken back goes.
    assert updated(eks, cluster, "coredns", resolveConflicts="NONE")["status"] == "Successful"
    assert service.kubectl_json(*DEPLOYMENT)["spec"]["replicas"] == 3
    less = json.dumps({"podDisruptionBudget": {"enabled": False}})
    assert updated(eks, cluster, "coredns", configurationValues=less)["status"] == "Successful"
    deployment = service.kubectl_json(*DEPLOYMENT)
    assert deployment["spec"]["replicas"] == 2 and "annotations" not in deployment["spec"]["template"]["metadata"]
    assert "NotFound" in service.kubectl("get", "pdb", "coredns", "-n", "kube-system", check=False).stderr
    assert len(eks.list_updates(name=cluster, addonName="coredns")["updateIds"]) == 3


def test_whose_values_hold(service, cluster, eks):
    service.kubectl("scale", "deployment", "coredns", "-n", "kube-system", "--replicas=1")
    more = json.dumps({"podAnnotations": {"c": "d"}})
    failed = updated(eks, cluster, "coredns", configurationValues=more)
    (error,) = failed["errors"]
    assert failed["status"] == "Failed" and error["errorCode"] == "ConfigurationConflict", failed
    assert error["errorMessage"] == (
        "Conflicts found when trying to apply. Will not continue due to resolve conflicts mode. Conflicts:\n"
        "Deployment.apps coredns - .spec.replicas"
    )
    now = addon_of(eks, cluster, "coredns")
    assert now["status"] == "UPDATE_FAILED" and now["health"]["issues"][0]["code"] == "ConfigurationConflict"
    template = lambda: service.kubectl_json(*DEPLOYMENT)["spec"]["template"]["metadata"]  # noqa: E731
    assert "annotations" not in template(), "nothing was written"

    # However many they are.
    change = lambda *words: service.kubectl(*words, "-n", "kube-system")  # noqa: E731
    change("set", "resources", "deployment/coredns", "--limits=memory=300Mi", "--requests=cpu=110m,memory=80Mi")
    change("label", "deployment/coredns", "eks.amazonaws.com/component=mine", "kubernetes.io/name=Mine", "k8s-app=mine", "--overwrite")
    assert updated(eks, cluster, "coredns", configurationValues=more, resolveConflicts="PRESERVE")["status"] == "Successful"
    assert template()["annotations"] == {"c": "d"}
    deployment = service.kubectl_json(*DEPLOYMENT)
    assert deployment["spec"]["replicas"] == 1 and deployment["metadata"]["labels"]["kubernetes.io/name"] == "Mine"
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"limits": {"memory": "300Mi"}, "requests": {"cpu": "110m", "memory": "80Mi"}}
    assert updated(eks, cluster, "coredns", configurationValues="", resolveConflicts="OVERWRITE")["status"] == "Successful"
    assert service.kubectl_json(*DEPLOYMENT)["spec"]["replicas"] == 2 and "annotations" not in template()
    assert "configurationValues" not in addon_of(eks, cluster, "coredns")


def test_replicas_follow_the_size_of_the_cluster(service, cluster, eks):
    autoscaling = lambda **more: json.dumps({"autoScaling": {"enabled": True, **more}})  # noqa: E731
    replicas = lambda: service.kubectl_json(*DEPLOYMENT)["spec"]["replicas"]  # noqa: E731
    inverted = autoscaling(minReplicas=4, maxReplicas=3)
    assert "is more than autoScaling.maxReplicas (3)" in refusal(
        eks.update_addon, clusterName=cluster, addonName="coredns", configurationValues=inverted
    )
    bounds = autoscaling(minReplicas=3, maxReplicas=5)
    assert updated(eks, cluster, "coredns", configurationValues=bounds)["status"] == "Successful"
    assert replicas() == 3
    large = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "large"},
        "spec": {"providerID": "test:///large"},
        "status": {"capacity": {"cpu": "2000", "memory": "1Gi", "pods": "1"}},
    }
    service.kubectl("create", "-f", "-", stdin=json.dumps(large))
    try:
        wait("replicas for its cores", lambda: ((r := replicas()) == 5, r), 30)
    finally:
        service.kubectl("delete", "node", "large", "--ignore-not-found")
    # The peak counts for a while, and what follows from the size is not somebody else's value.
    service.kubectl("scale", "deployment", "coredns", "-n", "kube-system", "--replicas=2")
    wait("replicas for the peak", lambda: ((r := replicas()) == 5, r), 30)
    lower = json.dumps({"autoScaling": {"enabled": True, "maxReplicas": 4}, "podAnnotations": {"e": "f"}})
    assert updated(eks, cluster, "coredns", configurationValues=lower, resolveConflicts="NONE")["status"] == "Successful"
    assert replicas() == 4
    # Nothing at all is written where something is somebody else's.
    service.kubectl("label", "deployment/coredns", "-n", "kube-system", "eks.amazonaws.com/component=mine", "--overwrite")
    (error,) = updated(eks, cluster, "coredns", configurationValues="", resolveConflicts="NONE")["errors"]
    assert error["errorCode"] == "ConfigurationConflict" and "replicas" not in error["errorMessage"], error
    assert replicas() == 4
    assert updated(eks, cluster, "coredns", configurationValues="", resolveConflicts="OVERWRITE")["status"] == "Successful"
    assert replicas() == 2


def test_what_was_never_written_stays_its_owner_s(service, cluster, eks):
    look = lambda: service.kubectl_json("get", "daemonset", "kube-proxy", "-n", "kube-system")["metadata"]  # noqa: E731
    label = ("label", "daemonset/kube-proxy", "-n", "kube-system", "--overwrite")
    service.kubectl(*label, "eks.amazonaws.com/component=mine")
    before = look()["uid"]
    eks.create_addon(clusterName=cluster, addonName="kube-proxy")
    (issue,) = settled(eks, cluster, "kube-proxy", "CREATE_FAILED")["health"]["issues"]
    assert issue["code"] == "ConfigurationConflict" and "DaemonSet.apps kube-proxy - .metadata.labels" in issue["message"]
    eks.delete_addon(clusterName=cluster, addonName="kube-proxy")
    wait("the record gone", lambda: ("kube-proxy" not in (a := eks.list_addons(clusterName=cluster)["addons"]), a), 20)
    assert look()["uid"] == before and look()["labels"]["eks.amazonaws.com/component"] == "mine"
    service.kubectl(*label, "eks.amazonaws.com/component=kube-proxy")


def test_a_role_for_its_service_account(service, cluster, eks):
    iam = service.client("iam")
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "eks.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    role = iam.create_role(RoleName="dns", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    account = lambda: service.kubectl_json("get", "sa", "coredns", "-n", "kube-system")["metadata"].get("annotations", {})  # noqa: E731
    assert updated(eks, cluster, "coredns", serviceAccountRoleArn=role)["status"] == "Successful"
    assert account()["eks.amazonaws.com/role-arn"] == role and addon_of(eks, cluster, "coredns")["serviceAccountRoleArn"] == role
    assert updated(eks, cluster, "coredns")["status"] == "Successful"
    assert "eks.amazonaws.com/role-arn" not in account() and "serviceAccountRoleArn" not in addon_of(eks, cluster, "coredns")
    iam.delete_role(RoleName="dns")


def test_the_network_is_an_addon_that_is_there_from_the_start(service, cluster, eks):
    daemons = service.kubectl_json("get", "daemonset", "aws-node", "-n", "kube-system")["status"]
    assert daemons["numberReady"] == daemons["desiredNumberScheduled"] > 0
    eks.create_addon(clusterName=cluster, addonName="vpc-cni", addonVersion="v1.23.2-eksbuild.1")
    settled(eks, cluster, "vpc-cni", "ACTIVE")
    eks.delete_addon(clusterName=cluster, addonName="vpc-cni", preserve=True)


def test_its_health_is_that_of_its_pods(service, cluster, eks):
    settled(eks, cluster, "coredns", "ACTIVE")
    service.kubectl("set", "image", "deployment/coredns", "coredns=nowhere.invalid/x:1", "-n", "kube-system")
    (issue,) = settled(eks, cluster, "coredns", "DEGRADED")["health"]["issues"]
    assert issue["code"] == "InsufficientNumberOfReplicas" and "desired number of replicas" in issue["message"]
    assert updated(eks, cluster, "coredns", resolveConflicts="OVERWRITE")["status"] == "Successful"
    assert addon_of(eks, cluster, "coredns")["health"]["issues"] == []


def test_deleted_with_its_objects_or_without(service, cluster, eks):
    absent = lambda: refusal(eks.describe_addon, clusterName=cluster, addonName="metrics-server")  # noqa: E731
    gone = lambda: ("ResourceNotFound" in str(said := said_of(absent)), said)  # noqa: E731
    there = lambda: service.kubectl("get", "deployment", "metrics-server", "-n", "kube-system", check=False).returncode == 0  # noqa: E731
    eks.create_addon(clusterName=cluster, addonName="metrics-server")
    settled(eks, cluster, "metrics-server", "ACTIVE")
    eks.delete_addon(clusterName=cluster, addonName="metrics-server", preserve=True)
    wait("the record gone", gone, 20)
    assert there()
    eks.create_addon(clusterName=cluster, addonName="metrics-server")
    settled(eks, cluster, "metrics-server", "ACTIVE")
    assert eks.delete_addon(clusterName=cluster, addonName="metrics-server")["addon"]["status"] == "DELETING"
    wait("the record gone", gone, 20)
    wait("its deployment gone", lambda: (not there(), ""), 20)
    # And back, for who comes after.
    eks.create_addon(clusterName=cluster, addonName="metrics-server")
    wait("its deployment", lambda: (there(), ""), 20)


def said_of(call):
    try:
        return call()
    except BaseException as other:  # it is not refused: it is still there
        return other


def test_what_cannot_be_is_refused(cluster, eks):
    create = lambda **more: refusal(eks.create_addon, clusterName=cluster, **more)  # noqa: E731
    assert create(addonName="vpc-lattice").startswith("InvalidParameterException: Addon vpc-lattice specified is not supported in 1.36")
    assert "Addon version specified is not supported" in create(addonName="kube-proxy", addonVersion="v1.1.1-eksbuild.1")
    unknown = create(addonName="kube-proxy", configurationValues='{"replicas": 3}')
    assert "Json schema validation failed with error: [" in unknown and "replicas" in unknown
    assert "cannot be found" in create(addonName="kube-proxy", serviceAccountRoleArn=f"arn:aws:iam::{ACCOUNT}:role/none")
    assert "namespace" in create(addonName="kube-proxy", namespaceConfig={"namespace": "elsewhere"})
    elsewhere = refusal(eks.create_addon, clusterName="none", addonName="coredns")
    assert elsewhere.startswith("ResourceNotFoundException: No cluster found for name: none.")
    for call in (eks.describe_addon, eks.update_addon, eks.delete_addon):
        assert refusal(call, clusterName=cluster, addonName="kube-proxy") == (
            f"ResourceNotFoundException: No addon: kube-proxy found in cluster: {cluster}"
        )
    assert eks.list_addons(clusterName=cluster)["addons"] == ["coredns", "metrics-server"]


def test_a_cluster_that_begins_with_none(service, eks):
    service.create_cluster("bare", bootstrapSelfManagedAddons=False)
    early = refusal(eks.create_addon, clusterName="bare", addonName="coredns")
    assert "InvalidRequestException" in early and "not ACTIVE" in early
    service.wait_cluster("bare")
    for name in ("coredns", "kube-proxy"):
        eks.create_addon(clusterName="bare", addonName=name, resolveConflicts="OVERWRITE")
    settled(eks, "bare", "kube-proxy", "ACTIVE")
    look = lambda: addon_of(eks, "bare", "coredns")  # noqa: E731
    wait("told what is missing", lambda: ((a := look())["health"]["issues"], a), 20)
    assert look()["status"] == "CREATING", "nodes may still come"
    busy = refusal(eks.update_addon, clusterName="bare", addonName="coredns")
    assert busy == "ResourceInUseException: Addon coredns cannot be updated as it is currently in CREATING state"


def test_without_a_network_nodes_are_not_ready(service, eks):
    config = f"{service.work}/bare"
    service.cli("update-kubeconfig", "--name", "bare", "--kubeconfig", config)
    kubectl = lambda *words, **more: service.kubectl("--kubeconfig", config, *words, **more)  # noqa: E731
    service.create_nodegroup("bare", "ng", 1)

    def told():
        conditions = kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].message}").stdout
        return "cni plugin not initialized" in conditions, conditions

    wait("a node without a network", told, 60)
    values = json.dumps({"env": {"AWS_VPC_ENI_MTU": "1280", "ENABLE_PREFIX_DELEGATION": "true"}})
    eks.create_addon(clusterName="bare", addonName="vpc-cni", configurationValues=values)
    settled(eks, "bare", "vpc-cni", "ACTIVE")
    settled(eks, "bare", "coredns", "ACTIVE")
    service.wait_nodegroup("bare", "ng")
    kubectl("run", "small", f"--image={IMAGE}", "--restart=Never", "--", "sh", "-c", "cat /sys/class/net/eth0/mtu")
    wait("its MTU", lambda: ((t := kubectl("logs", "small", check=False)).stdout == "1280\n", t), 30)
    eks.delete_nodegroup(clusterName="bare", nodegroupName="ng")
    wait("no group", lambda: (not (g := eks.list_nodegroups(clusterName="bare")["nodegroups"]), g), 60)


def test_a_cluster_goes_with_its_addons(service, eks):
    eks.delete_cluster(name="bare")
    wait("gone", lambda: ("bare" not in (c := eks.list_clusters()["clusters"]), c), 60)
    # Another of its name begins with nothing.
    service.create_cluster("bare", bootstrapSelfManagedAddons=False)
    assert eks.list_addons(clusterName="bare")["addons"] == []
    service.wait_cluster("bare")
    eks.delete_cluster(name="bare")
    wait("gone", lambda: ("bare" not in (c := eks.list_clusters()["clusters"]), c), 60)
