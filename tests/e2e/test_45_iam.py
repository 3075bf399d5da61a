"""IAM decides: over AWS's operations by policies, over Kubernetes by who is somebody there. Stock clients only."""

import json
from contextlib import contextmanager

import pytest
from botocore.exceptions import ClientError
from ekstra_service import ACCOUNT, REGION, wait

CLUSTER = f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster"
LOOK = {"Effect": "Allow", "Action": ["eks:Describe*", "eks:List*"], "Resource": "*"}


def document(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trust(**principal):
    return document({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"})


def keys(made):
    return {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}


@contextmanager
def refused(code, *words):
    """What is done in it ends with this code and says these words."""
    with pytest.raises(ClientError) as caught:
        yield
    error = caught.value.response["Error"]
    assert error["Code"] == code and all(word in error["Message"] for word in words), error


@pytest.fixture(scope="module")
def iam(service):
    return service.client("iam")


@pytest.fixture(scope="module")
def reader(service, iam):
    """A user who may look, and its keys."""
    iam.create_user(UserName="looker", Path="/staff/")
    iam.put_user_policy(UserName="looker", PolicyName="look", PolicyDocument=document(LOOK))
    made = iam.create_access_key(UserName="looker")["AccessKey"]
    yield made
    for key in iam.list_access_keys(UserName="looker")["AccessKeyMetadata"]:
        iam.delete_access_key(UserName="looker", AccessKeyId=key["AccessKeyId"])
    with refused("DeleteConflict", "must delete policies first"):
        iam.delete_user(UserName="looker")
    iam.delete_user_policy(UserName="looker", PolicyName="look")
    iam.delete_user(UserName="looker")


def test_a_user_may_what_its_policy_says(service, cluster, reader):
    eks = service.client("eks", **keys(reader))
    assert service.client("sts", **keys(reader)).get_caller_identity()["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/staff/looker"
    assert cluster in eks.list_clusters()["clusters"]
    assert eks.describe_cluster(name=cluster)["cluster"]["status"] == "ACTIVE"
    who = f"User: arn:aws:iam::{ACCOUNT}:user/staff/looker is not authorized to perform:"
    with refused("AccessDeniedException", f"{who} eks:DeleteCluster on resource: {CLUSTER}/{cluster}", "because no identity-based policy"):
        eks.delete_cluster(name=cluster)
    assert service.client("eks").describe_cluster(name=cluster)["cluster"]["status"] == "ACTIVE"
    with refused("UnauthorizedOperation", f"{who} ec2:DescribeVpcs"):
        service.client("ec2", **keys(reader)).describe_vpcs()
    with refused("AccessDenied", f"{who} iam:ListUsers"):
        service.client("iam", **keys(reader)).list_users()


def test_what_is_changed_counts_at_once(service, cluster, iam, reader):
    eks = service.client("eks", **keys(reader))
    arn = iam.create_policy(PolicyName="no-look", PolicyDocument=document(LOOK | {"Effect": "Deny"}))["Policy"]["Arn"]
    try:
        iam.attach_user_policy(UserName="looker", PolicyArn=arn)
        with refused("AccessDeniedException", "with an explicit deny in an identity-based policy"):
            eks.describe_cluster(name=cluster)
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=document({**LOOK, "Effect": "Deny", "Resource": f"{CLUSTER}/other"}), SetAsDefault=True)
        eks.describe_cluster(name=cluster)
        with refused("DeleteConflict", "attached to entities"):
            iam.delete_policy(PolicyArn=arn)
        assert iam.get_policy(PolicyArn=arn)["Policy"]["AttachmentCount"] == 1
        assert iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"]["Statement"][0]["Effect"] == "Deny"
    finally:
        iam.detach_user_policy(UserName="looker", PolicyArn=arn)
        for version in iam.list_policy_versions(PolicyArn=arn)["Versions"]:
            if not version["IsDefaultVersion"]:
                iam.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])
        iam.delete_policy(PolicyArn=arn)
    iam.update_access_key(UserName="looker", AccessKeyId=reader["AccessKeyId"], Status="Inactive")
    with refused("UnrecognizedClientException"):
        eks.list_clusters()
    iam.update_access_key(UserName="looker", AccessKeyId=reader["AccessKeyId"], Status="Active")
    eks.list_clusters()


def test_a_group_and_a_boundary(service, cluster, iam, reader):
    eks = service.client("eks", **keys(reader))
    iam.create_group(GroupName="owners")
    iam.attach_group_policy(GroupName="owners", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    iam.add_user_to_group(GroupName="owners", UserName="looker")
    try:
        assert [u["UserName"] for u in iam.get_group(GroupName="owners")["Users"]] == ["looker"]
        eks.tag_resource(resourceArn=f"{CLUSTER}/{cluster}", tags={"seen": "yes"})
        iam.put_user_permissions_boundary(UserName="looker", PermissionsBoundary="arn:aws:iam::aws:policy/ReadOnlyAccess")
        with refused("AccessDeniedException", "because no permissions boundary allows the eks:UntagResource action"):
            eks.untag_resource(resourceArn=f"{CLUSTER}/{cluster}", tagKeys=["seen"])
    finally:
        iam.delete_user_permissions_boundary(UserName="looker")
        service.client("eks").untag_resource(resourceArn=f"{CLUSTER}/{cluster}", tagKeys=["seen"])
        iam.remove_user_from_group(GroupName="owners", UserName="looker")
        iam.detach_group_policy(GroupName="owners", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
        iam.delete_group(GroupName="owners")


def test_sessions_are_what_trust_and_their_policies_leave(service, cluster, iam, reader):
    arn = iam.create_role(RoleName="operator", AssumeRolePolicyDocument=trust(AWS=f"arn:aws:iam::{ACCOUNT}:user/staff/looker"))["Role"]["Arn"]
    iam.attach_role_policy(RoleName="operator", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    try:
        with refused("AccessDenied", f"is not authorized to perform: sts:AssumeRole on resource: {arn}"):
            service.client("sts").assume_role(RoleArn=arn, RoleSessionName="session")
        sts = service.client("sts", **keys(reader))
        narrow = sts.assume_role(RoleArn=arn, RoleSessionName="session", Policy=document(LOOK))["Credentials"]
        eks = service.client("eks", **keys(narrow), aws_session_token=narrow["SessionToken"])
        eks.describe_cluster(name=cluster)
        with refused("AccessDeniedException", "because no session policy allows the eks:TagResource action"):
            eks.tag_resource(resourceArn=f"{CLUSTER}/{cluster}", tags={"a": "b"})
        whole = sts.assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]
        service.client("iam", **keys(whole), aws_session_token=whole["SessionToken"]).list_users()
        # A condition of the trust.
        outside = document(
            {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole",
             "Condition": {"StringEquals": {"sts:ExternalId": "secret"}}}
        )
        iam.update_assume_role_policy(RoleName="operator", PolicyDocument=outside)
        admin = service.client("sts")
        with refused("AccessDenied", "sts:AssumeRole"):
            admin.assume_role(RoleArn=arn, RoleSessionName="session", ExternalId="guess")
        admin.assume_role(RoleArn=arn, RoleSessionName="session", ExternalId="secret")
    finally:
        iam.detach_role_policy(RoleName="operator", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
        iam.delete_role(RoleName="operator")


def test_roles_are_passed_to_whom_they_trust(service, iam, reader):
    iam.create_role(RoleName="somebody-s", AssumeRolePolicyDocument=trust(Service="lambda.amazonaws.com"))
    try:
        arn = service.role("somebody-s")
        network = {"subnetIds": service.subnets()}
        with refused("InvalidParameterException", f"Role with arn: {arn}, could not be assumed", "the trusted entity is not correct"):
            service.client("eks").create_cluster(name="never", roleArn=arn, resourcesVpcConfig=network)
        iam.put_user_policy(UserName="looker", PolicyName="make", PolicyDocument=document({**LOOK, "Action": "eks:*"}))
        with refused("AccessDeniedException", f"iam:PassRole on resource: {service.role('eksClusterRole')}"):
            eks = service.client("eks", **keys(reader))
            eks.create_cluster(name="never", roleArn=service.role("eksClusterRole"), resourcesVpcConfig=network)
    finally:
        iam.delete_user_policy(UserName="looker", PolicyName="make")
        iam.delete_role(RoleName="somebody-s")
    assert "never" not in service.client("eks").list_clusters()["clusters"]


def test_what_somebody_would_be_answered(service, cluster, iam, reader):
    asked = iam.simulate_principal_policy(
        PolicySourceArn=f"arn:aws:iam::{ACCOUNT}:user/staff/looker",
        ActionNames=["eks:DescribeCluster", "eks:DeleteCluster"],
        ResourceArns=[f"{CLUSTER}/{cluster}"],
    )
    decisions = {r["EvalActionName"]: r["EvalDecision"] for r in asked["EvaluationResults"]}
    assert decisions == {"eks:DescribeCluster": "allowed", "eks:DeleteCluster": "implicitDeny"}
    with refused("NoSuchEntity", "cannot be found"):
        iam.simulate_principal_policy(PolicySourceArn=f"arn:aws:iam::{ACCOUNT}:user/nobody", ActionNames=["eks:ListClusters"])


def test_boundaries_denials_and_contexts_are_simulated(service, iam):
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    boundary = iam.create_policy(PolicyName="within", PolicyDocument=document({**everything, "Action": "eks:*"}))["Policy"]["Arn"]
    statements = [
        everything,
        {"Effect": "Deny", "NotAction": ["eks:List*", "eks:Describe*", "ec2:*"], "Resource": "*"},
        {"Effect": "Deny", "Action": "eks:*", "Resource": "*", "Condition": {"StringEquals": {"aws:RequestTag/stage": "live"}}},
    ]
    iam.create_user(UserName="bounded", PermissionsBoundary=boundary)
    iam.put_user_policy(UserName="bounded", PolicyName="most", PolicyDocument=document(*statements))
    ask = dict(PolicySourceArn=f"arn:aws:iam::{ACCOUNT}:user/bounded")
    actions = ["eks:ListClusters", "eks:DeleteCluster", "ec2:DescribeVpcs"]
    live = [{"ContextKeyName": "aws:RequestTag/stage", "ContextKeyValues": ["live"], "ContextKeyType": "string"}]
    try:
        for context, expected in [([], ["allowed", "explicitDeny", "implicitDeny"]), (live, ["explicitDeny", "explicitDeny", "implicitDeny"])]:
            results = iam.simulate_principal_policy(**ask, ActionNames=actions, ContextEntries=context)["EvaluationResults"]
            assert [result["EvalDecision"] for result in results] == expected
        for name, value in [("CallerArn", ask["PolicySourceArn"]), ("PolicyInputList", [document(everything)])]:
            with refused("InvalidInput", name):
                iam.simulate_principal_policy(**ask, ActionNames=actions, **{name: value})
    finally:
        iam.delete_user_policy(UserName="bounded", PolicyName="most")
        iam.delete_user(UserName="bounded")
        iam.delete_policy(PolicyArn=boundary)


def test_users_are_tagged(iam):
    iam.create_user(UserName="tagged", Tags=[{"Key": "Team", "Value": "blue"}])
    try:
        # Keys of users and roles are the same in whatever letters; the newest are kept.
        iam.tag_user(UserName="tagged", Tags=[{"Key": "team", "Value": "red"}, {"Key": "stage", "Value": "test"}])
        assert iam.list_user_tags(UserName="tagged")["Tags"] == [{"Key": "stage", "Value": "test"}, {"Key": "team", "Value": "red"}]
        iam.untag_user(UserName="tagged", TagKeys=["TEAM"])
        assert iam.get_user(UserName="tagged")["User"]["Tags"] == [{"Key": "stage", "Value": "test"}]
        for keys_given, said in [(["aws:x"], "aws:"), (["a", "A"], "Duplicate tag keys found")]:
            with refused("InvalidInput", said):
                iam.tag_user(UserName="tagged", Tags=[{"Key": key, "Value": "x"} for key in keys_given])
        assert "Tags" not in next(user for user in iam.list_users()["Users"] if user["UserName"] == "tagged")
    finally:
        iam.delete_user(UserName="tagged")


def test_policies_and_roles_are_tagged(iam):
    made = iam.create_policy(PolicyName="tagged", PolicyDocument=document(LOOK), Tags=[{"Key": "team", "Value": "blue"}])
    arn = made["Policy"]["Arn"]
    try:
        iam.tag_policy(PolicyArn=arn, Tags=[{"Key": "stage", "Value": "test"}])
        assert iam.get_policy(PolicyArn=arn)["Policy"]["Tags"] == iam.list_policy_tags(PolicyArn=arn)["Tags"]
        iam.untag_policy(PolicyArn=arn, TagKeys=["team"])
        assert iam.list_policy_tags(PolicyArn=arn)["Tags"] == [{"Key": "stage", "Value": "test"}]
        aws = "arn:aws:iam::aws:policy/AmazonEKSClusterPolicy"
        assert iam.list_policy_tags(PolicyArn=aws)["Tags"] == []
        with refused("AccessDenied", "managed by AWS"):
            iam.tag_policy(PolicyArn=aws, Tags=[{"Key": "stage", "Value": "test"}])
        for other in (arn + "x", arn.replace(ACCOUNT, "111122223333")):
            with refused("NoSuchEntity", "was not found"):
                iam.tag_policy(PolicyArn=other, Tags=[])
    finally:
        iam.delete_policy(PolicyArn=arn)
    iam.create_role(RoleName="described", AssumeRolePolicyDocument=trust(Service="eks.amazonaws.com"), MaxSessionDuration=7200)
    try:
        told = iam.update_role_description(RoleName="described", Description="Anew")["Role"]
        # What UpdateRole would set back stays.
        assert (told["Description"], told["MaxSessionDuration"]) == ("Anew", 7200)
    finally:
        iam.delete_role(RoleName="described")


def test_documents_that_are_none(iam, reader):
    for bad, words in [
        ("{", "invalid Json"),
        (document({"Effect": "Allow", "Action": "ListClusters", "Resource": "*"}), "prefaced by a vendor"),
        (document({"Effect": "Allow", "Action": "eks:*"}), "must contain resources"),
        (document({**LOOK, "Condition": {"Sounds": {"aws:username": "x"}}}), "Invalid Condition"),
    ]:
        with refused("MalformedPolicyDocument", words):
            iam.put_user_policy(UserName="looker", PolicyName="bad", PolicyDocument=bad)
        with refused("MalformedPolicyDocument", words):
            iam.create_policy(PolicyName="bad", PolicyDocument=bad)
    assert iam.list_user_policies(UserName="looker")["PolicyNames"] == ["look"]
    with refused("NoSuchEntity", "does not exist or is not attachable"):
        iam.attach_user_policy(UserName="looker", PolicyArn=f"arn:aws:iam::{ACCOUNT}:policy/unheard")
    with refused("EntityAlreadyExists", "User with name looker already exists."):
        iam.create_user(UserName="looker")


def test_who_may_look_at_the_cluster_is_nobody_in_it(service, cluster, reader):
    """The creator is its administrator; what IAM allows is another matter."""
    env = service.plain_env(
        AWS_ACCESS_KEY_ID=reader["AccessKeyId"],
        AWS_SECRET_ACCESS_KEY=reader["SecretAccessKey"],
        AWS_ENDPOINT_URL=service.aws_env()["AWS_ENDPOINT_URL"],
        AWS_DEFAULT_REGION=REGION,
        KUBECONFIG=f"{service.work}/looker",
    )
    service.run("aws", "eks", "update-kubeconfig", "--name", cluster, env=env)

    def unauthorized():
        said = service.run("kubectl", "get", "pods", env=env, check=False)
        return said.returncode == 1 and "Unauthorized" in said.stderr, said.stderr

    wait("Unauthorized", unauthorized, 20)
