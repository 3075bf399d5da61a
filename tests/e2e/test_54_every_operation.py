"""One script that calls every operation of EKS that boto3 knows, on a cluster of its own, and looks at what each one did.
Where an operation only keeps a record, it looks at the place where that is said."""

import json

import pytest
from ekstra_service import ACCOUNT, IMAGE, REGION, refusal, wait
from test_44_trust import trust

CLUSTER = "every"


class Caller:
    """A client of EKS that remembers which operations it was used for."""

    def __init__(self, service):
        self.client, self.called = service.client("eks"), set()
        self.client.meta.events.register("before-call.eks", lambda model, **_: self.called.add(model.name))

    def __getattr__(self, operation):
        return getattr(self.client, operation)

    def missing(self):
        return set(self.client.meta.service_model.operation_names) - self.called


@pytest.fixture
def roles(service):
    iam = service.client("iam")
    services = {"every-pods": "pods.eks", "every-fargate": "eks-fargate-pods", "every-capability": "capabilities.eks"}
    for name, trusted in services.items():
        document = trust({"Service": f"{trusted}.amazonaws.com"}, ["sts:AssumeRole", "sts:TagSession"])
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)
    yield lambda name: f"arn:aws:iam::{ACCOUNT}:role/every-{name}"
    for name in services:
        iam.delete_role(RoleName=name)


@pytest.fixture
def kubeconfig(service):
    """Of a cluster of its own, beside the shared one."""
    return service.home + "/every.kubeconfig"


def test_every_operation(service, roles, kubeconfig):
    eks = Caller(service)
    kubectl = lambda *args, **options: service.kubectl("--kubeconfig", kubeconfig, *args, **options).stdout  # noqa: E731
    settle = lambda update, **of: settled(eks, update, **of)  # noqa: E731
    the_cluster(service, eks, kubectl, kubeconfig, settle)
    its_nodes(service, eks, kubectl, settle)
    who_may_what(eks, kubectl, roles, settle)
    its_addons(eks, kubectl, settle)
    its_state(eks)
    what_is_kept(service, eks, roles)
    tags(eks)
    # A second cluster's users are known by OpenID Connect: tests of that have an issuer (test_52).
    config = {"identityProviderConfigName": "login", "issuerUrl": "https://login.example.com", "clientId": "kube"}
    begun = eks.associate_identity_provider_config(clusterName=CLUSTER, oidc=config)["update"]
    assert begun["status"] == "InProgress"
    named = {"clusterName": CLUSTER, "identityProviderConfig": {"type": "oidc", "name": "login"}}
    assert eks.describe_identity_provider_config(**named)["identityProviderConfig"]["oidc"]["status"] == "CREATING"
    assert eks.list_identity_provider_configs(clusterName=CLUSTER)["identityProviderConfigs"]
    assert "CREATING" in refusal(eks.disassociate_identity_provider_config, **named)
    assert "cannot be cancelled" in refusal(eks.cancel_update, name=CLUSTER, updateId=begun["id"])

    assert eks.delete_nodegroup(clusterName=CLUSTER, nodegroupName="ng")["nodegroup"]["status"] == "DELETING"
    service.wait_gone(lambda: eks.describe_nodegroup(clusterName=CLUSTER, nodegroupName="ng"), "the node group")
    assert eks.delete_cluster(name=CLUSTER)["cluster"]["status"] == "DELETING"
    service.wait_gone(lambda: eks.describe_cluster(name=CLUSTER), "the cluster")
    assert eks.missing() == set()


def settled(eks, update, expected="Successful", **of):
    look = lambda: eks.describe_update(name=CLUSTER, updateId=update["id"], **of)["update"]  # noqa: E731
    wait(update["type"], lambda: ((u := look())["status"] != "InProgress", u), 120)
    assert look()["status"] == expected, look()


def the_cluster(service, eks, kubectl, kubeconfig, settle):
    vpc = {"subnetIds": service.subnets()}
    made = eks.create_cluster(
        name=CLUSTER, roleArn=service.role("eksClusterRole"), resourcesVpcConfig=vpc, accessConfig={"authenticationMode": "API"}
    )["cluster"]
    assert made["status"] == "CREATING"
    service.wait_cluster(CLUSTER)
    service.cli("update-kubeconfig", "--name", CLUSTER, "--kubeconfig", kubeconfig)
    assert "kube-system" in kubectl("get", "namespaces", "-o", "name")
    assert eks.describe_cluster(name=CLUSTER)["cluster"]["version"] in kubectl("version", "-o", "json")
    assert CLUSTER in eks.list_clusters()["clusters"]
    assert eks.describe_cluster_versions(defaultOnly=True)["clusterVersions"][0]["clusterVersion"] == made["version"]
    update = eks.update_cluster_config(name=CLUSTER, resourcesVpcConfig={"publicAccessCidrs": ["203.0.113.0/24"]})["update"]
    settle(update)
    # It holds at the front door.
    assert service.kubectl("--kubeconfig", kubeconfig, "get", "namespaces", "--request-timeout=3s", check=False).returncode != 0
    settle(eks.update_cluster_config(name=CLUSTER, resourcesVpcConfig={"publicAccessCidrs": ["0.0.0.0/0"]})["update"])
    assert kubectl("get", "namespaces")
    private = {"endpointPublicAccess": False, "endpointPrivateAccess": True}
    settle(eks.update_cluster_config(name=CLUSTER, resourcesVpcConfig=private)["update"])
    assert service.kubectl("--kubeconfig", kubeconfig, "get", "namespaces", "--request-timeout=3s", check=False).returncode != 0
    settle(eks.update_cluster_config(name=CLUSTER, resourcesVpcConfig={"endpointPublicAccess": True})["update"])
    assert kubectl("get", "namespaces")

    settle(eks.update_cluster_config(name=CLUSTER, deletionProtection=True)["update"])
    assert "InvalidRequestException" in refusal(eks.delete_cluster, name=CLUSTER)
    assert eks.describe_cluster(name=CLUSTER)["cluster"]["status"] == "ACTIVE"
    settle(eks.update_cluster_config(name=CLUSTER, deletionProtection=False)["update"])
    settle(eks.update_cluster_config(name=CLUSTER, upgradePolicy={"supportType": "STANDARD"})["update"])
    assert eks.describe_cluster(name=CLUSTER)["cluster"]["upgradePolicy"] == {"supportType": "STANDARD"}
    # What is not there is refused by name, and to leave it off is no change.
    for asked, said in [(True, "computeConfig.enabled (EKS Auto Mode) is not supported"), (False, "already at the desired")]:
        assert said in refusal(eks.update_cluster_config, name=CLUSTER, computeConfig={"enabled": asked})
    assert update["id"] in eks.list_updates(name=CLUSTER)["updateIds"]
    filters = [{"Name": "group-name", "Values": ["default"]}]
    (group,) = service.client("ec2").describe_security_groups(Filters=filters)["SecurityGroups"]
    settle(eks.update_cluster_config(name=CLUSTER, resourcesVpcConfig={"securityGroupIds": [group["GroupId"]]})["update"])
    assert eks.describe_cluster(name=CLUSTER)["cluster"]["resourcesVpcConfig"]["securityGroupIds"] == [group["GroupId"]]
    assert "cannot change a cluster's version yet" in refusal(eks.update_cluster_version, name=CLUSTER, version="1.37")


def its_nodes(service, eks, kubectl, settle):
    made = eks.create_nodegroup(
        clusterName=CLUSTER,
        nodegroupName="ng",
        subnets=service.subnets(),
        nodeRole=service.role("eksNodeRole"),
        scalingConfig={"minSize": 1, "maxSize": 2, "desiredSize": 1},
    )["nodegroup"]
    assert made["status"] == "CREATING"
    service.wait_nodegroup(CLUSTER, "ng")
    assert eks.list_nodegroups(clusterName=CLUSTER)["nodegroups"] == ["ng"]
    update = eks.update_nodegroup_config(clusterName=CLUSTER, nodegroupName="ng", labels={"addOrUpdateLabels": {"a": "b"}})["update"]
    settle(update, nodegroupName="ng")
    assert kubectl("get", "nodes", "-l", "a=b", "-o", "name").count("node/") == 1
    refused = refusal(eks.update_nodegroup_version, clusterName=CLUSTER, nodegroupName="ng")
    assert refused.startswith("InvalidRequestException")
    assert eks.describe_nodegroup(clusterName=CLUSTER, nodegroupName="ng")["nodegroup"]["health"]["issues"] == []


def who_may_what(eks, kubectl, roles, settle):
    reader = {"clusterName": CLUSTER, "principalArn": roles("pods")}
    made = eks.create_access_entry(**reader, kubernetesGroups=["readers"])["accessEntry"]
    assert made["username"].endswith("{{SessionName}}")
    changed = eks.update_access_entry(**reader, username="reader")["accessEntry"]
    assert changed["username"] == "reader" == eks.describe_access_entry(**reader)["accessEntry"]["username"]
    assert reader["principalArn"] in eks.list_access_entries(clusterName=CLUSTER)["accessEntries"]
    view = next(p["arn"] for p in eks.list_access_policies()["accessPolicies"] if p["name"] == "AmazonEKSViewPolicy")
    eks.associate_access_policy(**reader, policyArn=view, accessScope={"type": "namespace", "namespaces": ["default"]})
    (known,) = eks.list_associated_access_policies(**reader)["associatedAccessPolicies"]
    assert known["policyArn"] == view and known["accessScope"]["namespaces"] == ["default"]
    eks.disassociate_access_policy(**reader, policyArn=view)
    assert eks.list_associated_access_policies(**reader)["associatedAccessPolicies"] == []
    eks.delete_access_entry(**reader)
    assert "ResourceNotFound" in refusal(eks.describe_access_entry, **reader)

    account = {"clusterName": CLUSTER, "namespace": "default", "serviceAccount": "default"}
    pod = lambda: kubectl("run", "p", f"--image={IMAGE}", "--dry-run=server", "-o", "json")  # noqa: E731
    made = eks.create_pod_identity_association(**account, roleArn=roles("pods"))["association"]
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" in pod()
    which = {"clusterName": CLUSTER, "associationId": made["associationId"]}
    assert eks.update_pod_identity_association(**which, disableSessionTags=True)["association"]["disableSessionTags"]
    assert eks.describe_pod_identity_association(**which)["association"]["disableSessionTags"]
    assert eks.list_pod_identity_associations(clusterName=CLUSTER)["associations"][0]["associationId"] == made["associationId"]
    eks.delete_pod_identity_association(**which)
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" not in pod()


def its_addons(eks, kubectl, settle):
    dns = {"clusterName": CLUSTER, "addonName": "coredns"}
    replicas = lambda: kubectl("get", "deployment", "coredns", "-n", "kube-system", "-o", "jsonpath={.spec.replicas}")  # noqa: E731
    (told,) = eks.describe_addon_versions(addonName="coredns")["addons"]
    version = told["addonVersions"][0]["addonVersion"]
    schema = json.loads(eks.describe_addon_configuration(addonName="coredns", addonVersion=version)["configurationSchema"])
    assert "replicaCount" in schema["properties"]
    assert eks.create_addon(**dns, configurationValues='{"replicaCount": 1}')["addon"]["status"] == "CREATING"
    active = lambda: eks.describe_addon(**dns)["addon"]["status"] == "ACTIVE"  # noqa: E731
    wait("coredns", lambda: (active(), ""), 90)
    assert replicas() == "1" and eks.list_addons(clusterName=CLUSTER)["addons"] == ["coredns"]
    settle(eks.update_addon(**dns, configurationValues='{"replicaCount": 2}')["update"], addonName="coredns")
    assert replicas() == "2"
    eks.delete_addon(**dns, preserve=True)
    wait("coredns gone", lambda: (eks.list_addons(clusterName=CLUSTER)["addons"] == [], ""), 60)
    assert replicas() == "2"


def its_state(eks):
    eks.start_insights_refresh(clusterName=CLUSTER)
    done = lambda: eks.describe_insights_refresh(clusterName=CLUSTER)["status"] == "COMPLETED"  # noqa: E731
    wait("insights", lambda: (done(), ""), 60)
    (skew,) = [one for one in eks.list_insights(clusterName=CLUSTER)["insights"] if one["name"] == "Kubelet version skew"]
    assert eks.describe_insight(clusterName=CLUSTER, id=skew["id"])["insight"]["insightStatus"]["status"] == "PASSING"


def what_is_kept(service, eks, roles):
    """Records: each says where it is described that nothing stands behind it."""
    profile = {"clusterName": CLUSTER, "fargateProfileName": "f"}
    asked = {"podExecutionRoleArn": roles("fargate"), "selectors": [{"namespace": "batch"}]}
    eks.create_fargate_profile(**profile, **asked)
    known = eks.describe_fargate_profile(**profile)["fargateProfile"]
    assert known["status"] == "CREATE_FAILED" and "ekstra" in known["health"]["issues"][0]["message"]
    assert eks.list_fargate_profiles(clusterName=CLUSTER)["fargateProfileNames"] == ["f"]
    eks.delete_fargate_profile(**profile)
    assert eks.list_fargate_profiles(clusterName=CLUSTER)["fargateProfileNames"] == []

    capability = {"clusterName": CLUSTER, "capabilityName": "k"}
    eks.create_capability(**capability, type="KRO", roleArn=roles("capability"), deletePropagationPolicy="RETAIN")
    eks.update_capability(**capability, deletePropagationPolicy="RETAIN")
    known = eks.describe_capability(**capability)["capability"]
    assert known["status"] == "DEGRADED" and "ekstra" in known["health"]["issues"][0]["message"]
    assert eks.list_capabilities(clusterName=CLUSTER)["capabilities"][0]["status"] == "DEGRADED"
    eks.delete_capability(**capability)
    assert eks.list_capabilities(clusterName=CLUSTER)["capabilities"] == []

    config = {"roleArn": service.role("eksClusterRole"), "provider": "OTHER"}
    known = eks.register_cluster(name="every-other", connectorConfig=config)["cluster"]
    assert known["status"] == "PENDING" and "ekstra" in known["health"]["issues"][0]["message"]
    assert "every-other" in eks.list_clusters(include=["all"])["clusters"]
    eks.deregister_cluster(name="every-other")
    assert "every-other" not in eks.list_clusters(include=["all"])["clusters"]

    term = {"duration": 12, "unit": "MONTHS"}
    made = eks.create_eks_anywhere_subscription(name="every", term=term)["subscription"]
    eks.update_eks_anywhere_subscription(id=made["id"], autoRenew=True)
    known = eks.describe_eks_anywhere_subscription(id=made["id"])["subscription"]
    assert (known["status"], known["licenses"], known["autoRenew"]) == ("CREATING", [], True)
    assert made["id"] in [one["id"] for one in eks.list_eks_anywhere_subscriptions()["subscriptions"]]
    eks.delete_eks_anywhere_subscription(id=made["id"])
    assert eks.list_eks_anywhere_subscriptions()["subscriptions"] == []

    made = eks.create_certificate_authority(clusterName=CLUSTER)
    assert made["update"]["status"] == "Failed" and "ekstra" in made["update"]["errors"][0]["errorMessage"]
    successor = {"clusterName": CLUSTER, "certificateAuthorityId": made["certificateAuthority"]["id"]}
    known = eks.describe_certificate_authority(**successor)["certificateAuthority"]
    assert known["distributionStatus"] == "FAILED"
    assert len(eks.list_certificate_authorities(clusterName=CLUSTER)["certificateAuthorities"]) == 2
    assert "not distributed" in refusal(eks.activate_certificate_authority, **successor)
    eks.delete_certificate_authority(**successor)
    assert len(eks.list_certificate_authorities(clusterName=CLUSTER)["certificateAuthorities"]) == 1

    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/k"
    config = [{"resources": ["secrets"], "provider": {"keyArn": key}}]
    update = eks.associate_encryption_config(clusterName=CLUSTER, encryptionConfig=config)["update"]
    assert update["status"] == "Failed" and "ekstra" in update["errors"][0]["errorMessage"]


def tags(eks):
    arn = eks.describe_cluster(name=CLUSTER)["cluster"]["arn"]
    eks.tag_resource(resourceArn=arn, tags={"a": "b", "c": "d"})
    eks.untag_resource(resourceArn=arn, tagKeys=["a"])
    assert eks.list_tags_for_resource(resourceArn=arn)["tags"] == {"c": "d"}
    assert eks.describe_cluster(name=CLUSTER)["cluster"]["tags"] == {"c": "d"}
