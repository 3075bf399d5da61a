"""What is kept and not carried out: whoever asks is told so. boto3 alone; a control plane without workers."""

import pytest
from ekstra_service import ACCOUNT, REGION, refusal
from test_44_trust import trust


@pytest.fixture(scope="module")
def eks(service):
    return service.client("eks")


@pytest.fixture(scope="module")
def roles(service):
    """ARNs of roles that the services of Fargate, capabilities and connectors may take."""
    iam = service.client("iam")
    services = {"fargate": "eks-fargate-pods", "capability": "capabilities.eks", "connector": "ssm"}
    # As the user guide advises for Fargate.
    only = {"fargate": {"Condition": {"ArnLike": {"aws:SourceArn": arn("fargateprofile", "e2e", "*")}}}}
    for name, trusted in services.items():
        document = trust({"Service": f"{trusted}.amazonaws.com"}, **only.get(name, {}))
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)
    yield {name: f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in services}
    for name in services:
        iam.delete_role(RoleName=name)


def arn(kind, *parts):
    return f"arn:aws:eks:{REGION}:{ACCOUNT}:{kind}/{'/'.join(parts)}"


def test_fargate_profiles(service, cluster, eks, roles):
    asked = {
        "clusterName": cluster,
        "fargateProfileName": "serverless",
        "podExecutionRoleArn": roles["fargate"],
        "selectors": [{"namespace": "batch", "labels": {"size": "small"}}],
        "tags": {"team": "a"},
    }
    made = eks.create_fargate_profile(**asked, clientRequestToken="once")["fargateProfile"]
    assert made["status"] == "CREATE_FAILED" and made["subnets"] == service.subnets()
    (issue,) = made["health"]["issues"]
    assert "ekstra runs no pods on Fargate" in issue["message"]
    assert made["fargateProfileArn"].startswith(arn("fargateprofile", cluster, "serverless", ""))
    linked = service.client("iam").get_role(RoleName="AWSServiceRoleForAmazonEKSForFargate")["Role"]
    assert linked["Path"] == "/aws-service-role/eks-fargate.amazonaws.com/"
    again = eks.create_fargate_profile(**asked, clientRequestToken="once")["fargateProfile"]
    assert again["fargateProfileArn"] == made["fargateProfileArn"]
    assert "ResourceInUseException" in refusal(eks.create_fargate_profile, **asked)
    other = {**asked, "fargateProfileName": "other"}
    for change, words in [
        ({"podExecutionRoleArn": service.role("eksNodeRole")}, "eks-fargate-pods.amazonaws.com"),
        ({"selectors": []}, "selectors"),
        ({"selectors": [{"labels": {"a": "b"}}]}, "namespace"),
        ({"subnets": ["subnet-none"]}, "subnet-none"),
        ({"fargateProfileName": "-"}, "name"),
    ]:
        told = refusal(eks.create_fargate_profile, **{**other, **change})
        assert told.startswith("InvalidParameterException") and words in told, told
    which = {"clusterName": cluster, "fargateProfileName": "serverless"}
    assert eks.describe_fargate_profile(**which)["fargateProfile"]["selectors"] == asked["selectors"]
    assert eks.list_fargate_profiles(clusterName=cluster)["fargateProfileNames"] == ["serverless"]
    eks.tag_resource(resourceArn=made["fargateProfileArn"], tags={"more": "b"})
    assert eks.list_tags_for_resource(resourceArn=made["fargateProfileArn"])["tags"] == {"team": "a", "more": "b"}
    with pytest.raises(eks.exceptions.ResourceInUseException, match="Cluster has"):
        eks.delete_cluster(name=cluster)
    assert eks.delete_fargate_profile(**which)["fargateProfile"]["status"] == "DELETING"
    assert "ResourceNotFoundException: No Fargate Profile" in refusal(eks.describe_fargate_profile, **which)


def test_capabilities(cluster, eks, roles):
    asked = {
        "clusterName": cluster,
        "capabilityName": "gitops",
        "type": "ARGOCD",
        "roleArn": roles["capability"],
        "deletePropagationPolicy": "RETAIN",
        "configuration": {
            "argoCd": {
                "namespace": "argocd",
                "awsIdc": {"idcInstanceArn": "arn:aws:sso:::instance/ssoins-1"},
                "rbacRoleMappings": [{"role": "ADMIN", "identities": [{"id": "u1", "type": "SSO_USER"}]}],
            }
        },
    }
    made = eks.create_capability(**asked)["capability"]
    assert made["status"] == "DEGRADED" and "ekstra runs no capabilities" in made["health"]["issues"][0]["message"]
    assert made["arn"].startswith(arn("capability", cluster, "argocd", "gitops", ""))
    assert "gitops" in refusal(eks.create_capability, **{**asked, "capabilityName": "another"})
    misfit = {**asked, "capabilityName": "ack", "type": "ACK"}
    assert "does not fit" in refusal(eks.create_capability, **misfit)
    assert "does not trust" in refusal(eks.create_capability, **{**misfit, "configuration": {}, "roleArn": roles["fargate"]})
    which = {"clusterName": cluster, "capabilityName": "gitops"}
    viewers = [{"role": "VIEWER", "identities": [{"id": "g1", "type": "SSO_GROUP"}]}]
    change = {"argoCd": {"rbacRoleMappings": {"addOrUpdateRoleMappings": viewers}}}
    update = eks.update_capability(**which, configuration=change)["update"]
    assert (update["type"], update["status"]) == ("CapabilityUpdate", "Successful")
    found = eks.describe_update(name=cluster, updateId=update["id"], capabilityName="gitops")["update"]
    assert found["params"][0]["type"] == "RoleMappingsToAddOrUpdate"
    assert "ResourceNotFound" in refusal(eks.describe_update, name=cluster, updateId=update["id"])
    assert eks.list_updates(name=cluster, capabilityName="gitops")["updateIds"] == [update["id"]]
    known = eks.describe_capability(**which)["capability"]
    mappings = known["configuration"]["argoCd"]["rbacRoleMappings"]
    assert {mapping["role"] for mapping in mappings} == {"ADMIN", "VIEWER"}
    assert [one["capabilityName"] for one in eks.list_capabilities(clusterName=cluster)["capabilities"]] == ["gitops"]
    assert eks.delete_capability(**which)["capability"]["status"] == "DELETING"
    assert "ResourceNotFound" in refusal(eks.describe_capability, **which)


def test_connected_clusters(service, cluster, eks, roles):
    config = {"roleArn": roles["connector"], "provider": "GKE"}
    made = eks.register_cluster(name="elsewhere", connectorConfig=config, tags={"team": "a"})["cluster"]
    assert made["status"] == "PENDING" and made["arn"] == arn("cluster", "elsewhere")
    assert made["connectorConfig"]["activationId"] and made["connectorConfig"]["activationCode"]
    assert "ekstra has no connector" in made["health"]["issues"][0]["message"]
    assert "ResourceInUse" in refusal(eks.register_cluster, name="elsewhere", connectorConfig=config)
    assert "ResourceInUse" in refusal(eks.register_cluster, name=cluster, connectorConfig=config)
    vpc = {"subnetIds": service.subnets()}
    role = service.role("eksClusterRole")
    assert "ResourceInUse" in refusal(eks.create_cluster, name="elsewhere", roleArn=role, resourcesVpcConfig=vpc)
    assert eks.describe_cluster(name="elsewhere")["cluster"]["connectorConfig"]["provider"] == "GKE"
    assert "elsewhere" not in eks.list_clusters()["clusters"]
    assert "elsewhere" in eks.list_clusters(include=["all"])["clusters"]
    assert eks.list_tags_for_resource(resourceArn=made["arn"])["tags"] == {"team": "a"}
    assert "ResourceNotFound" in refusal(eks.list_nodegroups, clusterName="elsewhere")
    assert eks.deregister_cluster(name="elsewhere")["cluster"]["status"] == "DELETING"
    assert "ResourceNotFound" in refusal(eks.describe_cluster, name="elsewhere")
    assert "ResourceNotFound" in refusal(eks.deregister_cluster, name=cluster)


def test_anywhere_subscriptions(eks):
    asked = {"name": "edge", "term": {"duration": 12, "unit": "MONTHS"}, "licenseQuantity": 2, "licenseType": "Cluster"}
    made = eks.create_eks_anywhere_subscription(**asked, tags={"team": "a"})["subscription"]
    assert made["status"] == "CREATING" and made["licenses"] == [] and not made["autoRenew"]
    assert made["arn"] == arn("eks-anywhere-subscription", made["id"])
    assert "ResourceInUse" in refusal(eks.create_eks_anywhere_subscription, **asked)
    for change in ({"term": {"duration": 7, "unit": "MONTHS"}}, {"licenseQuantity": 101}):
        assert "InvalidParameter" in refusal(eks.create_eks_anywhere_subscription, **{**asked, "name": "x", **change})
    assert eks.update_eks_anywhere_subscription(id=made["id"], autoRenew=True)["subscription"]["autoRenew"]
    assert eks.describe_eks_anywhere_subscription(id=made["id"])["subscription"]["autoRenew"]
    listed = lambda **more: [one["id"] for one in eks.list_eks_anywhere_subscriptions(**more)["subscriptions"]]  # noqa: E731
    assert listed() == [made["id"]] and listed(includeStatus=["ACTIVE"]) == []
    assert eks.list_tags_for_resource(resourceArn=made["arn"])["tags"] == {"team": "a"}
    eks.delete_eks_anywhere_subscription(id=made["id"])
    assert listed() == [] and "ResourceNotFound" in refusal(eks.describe_eks_anywhere_subscription, id=made["id"])


def test_certificate_authorities(cluster, eks):
    known = eks.describe_cluster(name=cluster)["cluster"]["certificateAuthority"]
    (own,) = eks.list_certificate_authorities(clusterName=cluster)["certificateAuthorities"]
    assert (own["id"], own["signingStatus"]) == (known["active"]["id"], "IN_USE")
    which = {"clusterName": cluster, "certificateAuthorityId": own["id"]}
    described = eks.describe_certificate_authority(**which)["certificateAuthority"]
    assert described["data"] == known["data"], "the very one that kubeconfigs have"
    assert described["validity"]["notBefore"] < described["createdAt"] < described["validity"]["notAfter"]
    assert "InvalidRequest" in refusal(eks.delete_certificate_authority, **which)

    made = eks.create_certificate_authority(clusterName=cluster)
    update, successor = made["update"], made["certificateAuthority"]
    assert (update["type"], update["status"]) == ("CertificateAuthorityUpdate", "Failed")
    assert "ekstra does not rotate" in update["errors"][0]["errorMessage"]
    assert (successor["signingStatus"], successor["distributionStatus"]) == ("NOT_USED", "FAILED")
    assert "ResourceLimitExceeded" in refusal(eks.create_certificate_authority, clusterName=cluster)
    assert len(eks.list_certificate_authorities(clusterName=cluster)["certificateAuthorities"]) == 2
    which = {"clusterName": cluster, "certificateAuthorityId": successor["id"]}
    refused = refusal(eks.activate_certificate_authority, **which)
    assert refused.startswith("InvalidParameterException") and "not distributed" in refused
    assert eks.delete_certificate_authority(**which)["update"]["status"] == "Successful"
    assert "ResourceNotFound" in refusal(eks.describe_certificate_authority, **which)


def test_encryption(cluster, eks):
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"
    config = [{"resources": ["secrets"], "provider": {"keyArn": key}}]
    update = eks.associate_encryption_config(clusterName=cluster, encryptionConfig=config)["update"]
    assert (update["type"], update["status"]) == ("AssociateEncryptionConfig", "Failed")
    assert "no KMS yet" in update["errors"][0]["errorMessage"]
    assert "encryptionConfig" not in eks.describe_cluster(name=cluster)["cluster"]
    for bad in ([{"resources": ["pods"], "provider": {"keyArn": key}}], [{"resources": ["secrets"], "provider": {"keyArn": "x"}}]):
        told = refusal(eks.associate_encryption_config, clusterName=cluster, encryptionConfig=bad)
        assert told.startswith("InvalidParameterException")
