"""Roles of instances and services, OpenID Connect providers and sessions of users, by stock clients."""

import json
import re
from contextlib import contextmanager

import pytest
from ekstra_service import ACCOUNT, REGION, refusal
from test_45_iam import keys

ISSUER = f"oidc.eks.{REGION}.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF"
PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"
THUMBPRINT = "9e99a48a9960b14926bb7f3b02e22da2b0ab7280"


@pytest.fixture(scope="module")
def iam(service):
    return service.client("iam")


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trust(principal, action="sts:AssumeRole", **more):
    return policy({"Effect": "Allow", "Principal": principal, "Action": action, **more})


@contextmanager
def user(iam, name, *statements):
    """Its keys, for as long as it is there."""
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy(*statements))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    try:
        yield keys(key)
    finally:
        iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
        iam.delete_user_policy(UserName=name, PolicyName="own")
        iam.delete_user(UserName=name)


def names(profiles):
    return [profile["InstanceProfileName"] for profile in profiles["InstanceProfiles"]]


def test_instance_profiles(iam):
    tags = [{"Key": "team", "Value": "a"}]
    made = iam.create_instance_profile(InstanceProfileName="nodes", Path="/karpenter/", Tags=tags)["InstanceProfile"]
    assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:instance-profile/karpenter/nodes"
    assert made["InstanceProfileId"].startswith("AIPA") and made["Roles"] == [] and made["Tags"] == tags
    again = refusal(iam.create_instance_profile, InstanceProfileName="nodes")
    assert again == "EntityAlreadyExists: Instance Profile nodes already exists."

    iam.create_role(RoleName="worker", AssumeRolePolicyDocument=trust({"Service": "ec2.amazonaws.com"}))
    iam.add_role_to_instance_profile(InstanceProfileName="nodes", RoleName="worker")
    (role,) = iam.get_instance_profile(InstanceProfileName="nodes")["InstanceProfile"]["Roles"]
    assert role["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/worker" and "AssumeRolePolicyDocument" in role
    another = refusal(iam.add_role_to_instance_profile, InstanceProfileName="nodes", RoleName="eksNodeRole")
    assert another == "LimitExceeded: Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1"
    assert names(iam.list_instance_profiles_for_role(RoleName="worker")) == ["nodes"]
    assert names(iam.list_instance_profiles(PathPrefix="/karpenter/")) == ["nodes"]
    assert names(iam.list_instance_profiles(PathPrefix="/other/")) == []

    iam.tag_instance_profile(InstanceProfileName="nodes", Tags=[{"Key": "more", "Value": "b"}])
    iam.untag_instance_profile(InstanceProfileName="nodes", TagKeys=["team"])
    assert iam.list_instance_profile_tags(InstanceProfileName="nodes")["Tags"] == [{"Key": "more", "Value": "b"}]

    for call, arguments in ((iam.delete_instance_profile, {"InstanceProfileName": "nodes"}), (iam.delete_role, {"RoleName": "worker"})):
        assert refusal(call, **arguments) == "DeleteConflict: Cannot delete entity, must remove roles from instance profile first."
    iam.remove_role_from_instance_profile(InstanceProfileName="nodes", RoleName="worker")
    gone = refusal(iam.remove_role_from_instance_profile, InstanceProfileName="nodes", RoleName="worker")
    assert gone == "NoSuchEntity: The role with name worker cannot be found."
    iam.delete_role(RoleName="worker")
    iam.delete_instance_profile(InstanceProfileName="nodes")
    assert refusal(iam.get_instance_profile, InstanceProfileName="nodes") == "NoSuchEntity: Instance Profile nodes cannot be found."


def test_a_profile_gives_a_role_only_to_whom_it_may_be_passed(service, iam):
    with user(iam, "launcher", {"Effect": "Allow", "Action": "iam:*InstanceProfile", "Resource": "*"}) as key:
        theirs = service.client("iam", **key)
        theirs.create_instance_profile(InstanceProfileName="theirs")
        denied = refusal(theirs.add_role_to_instance_profile, InstanceProfileName="theirs", RoleName="eksNodeRole")
        assert denied.startswith("AccessDenied") and "iam:PassRole" in denied
    iam.delete_instance_profile(InstanceProfileName="theirs")


def test_who_comes_later_under_a_name_is_not_trusted(service, iam):
    arn = f"arn:aws:iam::{ACCOUNT}:user/visitor"
    nobody = refusal(iam.create_role, RoleName="host", AssumeRolePolicyDocument=trust({"AWS": arn}))
    assert nobody == f'MalformedPolicyDocument: Invalid principal in policy: "AWS":"{arn}"'
    look = {"Effect": "Allow", "Action": "eks:ListClusters", "Resource": "*"}
    with user(iam, "visitor", look) as key:
        host = iam.create_role(RoleName="host", AssumeRolePolicyDocument=trust({"AWS": arn}))["Role"]["Arn"]
        service.client("sts", **key).assume_role(RoleArn=host, RoleSessionName="session")
        first = iam.get_user(UserName="visitor")["User"]["UserId"]
    try:
        (statement,) = iam.get_role(RoleName="host")["Role"]["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Principal"] == {"AWS": first}
        with user(iam, "visitor", look) as key:
            denied = refusal(service.client("sts", **key).assume_role, RoleArn=host, RoleSessionName="session")
            assert denied.startswith("AccessDenied"), denied
    finally:
        iam.delete_role(RoleName="host")


def test_oidc_providers(iam):
    url = f"https://{ISSUER}"
    made = iam.create_open_id_connect_provider(
        Url=url, ClientIDList=["sts.amazonaws.com"], ThumbprintList=[THUMBPRINT], Tags=[{"Key": "cluster", "Value": "c"}]
    )
    assert made["OpenIDConnectProviderArn"] == PROVIDER
    again = refusal(iam.create_open_id_connect_provider, Url=url)
    assert again == f"EntityAlreadyExists: Provider with url {url} already exists."
    found = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=PROVIDER)
    assert (found["Url"], found["ClientIDList"], found["ThumbprintList"]) == (ISSUER, ["sts.amazonaws.com"], [THUMBPRINT])
    assert iam.list_open_id_connect_providers()["OpenIDConnectProviderList"] == [{"Arn": PROVIDER}]

    one = {"OpenIDConnectProviderArn": PROVIDER}
    iam.add_client_id_to_open_id_connect_provider(**one, ClientID="other")
    iam.add_client_id_to_open_id_connect_provider(**one, ClientID="other")
    iam.remove_client_id_from_open_id_connect_provider(**one, ClientID="sts.amazonaws.com")
    iam.update_open_id_connect_provider_thumbprint(**one, ThumbprintList=[THUMBPRINT[::-1]])
    iam.tag_open_id_connect_provider(**one, Tags=[{"Key": "more", "Value": "b"}])
    iam.untag_open_id_connect_provider(**one, TagKeys=["cluster"])
    found = iam.get_open_id_connect_provider(**one)
    assert (found["ClientIDList"], found["ThumbprintList"]) == (["other"], [THUMBPRINT[::-1]])
    assert iam.list_open_id_connect_provider_tags(**one)["Tags"] == [{"Key": "more", "Value": "b"}]

    # What a role for a service account trusts, as eksctl and Terraform write it.
    condition = {"StringEquals": {f"{ISSUER}:sub": "system:serviceaccount:default:app", f"{ISSUER}:aud": "sts.amazonaws.com"}}
    federated = trust({"Federated": PROVIDER}, "sts:AssumeRoleWithWebIdentity", Condition=condition)
    iam.create_role(RoleName="irsa", AssumeRolePolicyDocument=federated)
    iam.delete_role(RoleName="irsa")

    for bad in ("http://example.com", "https://", "example.com"):
        assert refusal(iam.create_open_id_connect_provider, Url=bad) == "ValidationError: Invalid Open ID Connect Provider URL"
    many = refusal(iam.create_open_id_connect_provider, Url="https://example.com", ThumbprintList=[THUMBPRINT] * 6)
    assert many == "InvalidInput: Thumbprint list must contain fewer than 5 entries."
    iam.delete_open_id_connect_provider(**one)
    iam.delete_open_id_connect_provider(**one)
    assert "NoSuchEntity" in refusal(iam.get_open_id_connect_provider, **one)
    assert "NoSuchEntity" in refusal(iam.get_open_id_connect_provider, OpenIDConnectProviderArn=f"arn:aws:iam::{ACCOUNT}:role/eksNodeRole")


def test_a_session_of_a_user_is_the_user_for_a_while(service, iam):
    with user(iam, "ada", {"Effect": "Allow", "Action": ["eks:ListClusters", "iam:*"], "Resource": "*"}) as key:
        sts = service.client("sts", **key)
        made = sts.get_session_token(DurationSeconds=900)["Credentials"]
        assert made["AccessKeyId"].startswith("ASIA")
        session = keys(made) | {"aws_session_token": made["SessionToken"]}
        client = lambda name: service.client(name, **session)  # noqa: E731
        assert client("sts").get_caller_identity()["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/ada"
        client("eks").list_clusters()
        assert "AccessDenied" in refusal(client("eks").describe_cluster, name="any")
        again = refusal(client("sts").get_session_token)
        assert again == "AccessDenied: Cannot call GetSessionToken with session credentials"
        assert "InvalidClientTokenId" in refusal(client("iam").list_users), "not without a second factor"
        service.client("iam", **key).list_users()
    assert "AccessDenied" in refusal(client("eks").list_clusters), "its policies end with the user"


def test_sessions_have_tags_and_hand_them_on(service, iam):
    """A chain of two roles: a tag that is handed on holds in the second, and nobody replaces it."""
    first, second = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("tagged", "chained"))
    assume = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    own = {"Effect": "Allow", "Action": assume, "Resource": "*"}
    of_team = {"Condition": {"StringEquals": {"aws:PrincipalTag/team": "blue"}}}
    blue_only = {"Condition": {"StringEqualsIfExists": {"aws:RequestTag/team": "blue"}}}
    with user(iam, "tagger", own) as key:
        iam.create_role(RoleName="tagged", AssumeRolePolicyDocument=trust({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, assume, **blue_only))
        iam.put_role_policy(RoleName="tagged", PolicyName="own", PolicyDocument=policy(own))
        iam.create_role(RoleName="chained", AssumeRolePolicyDocument=trust({"AWS": first}, assume))
        listing = {"Effect": "Allow", "Action": "eks:ListClusters", "Resource": "*", **of_team}
        iam.put_role_policy(RoleName="chained", PolicyName="own", PolicyDocument=policy(listing))
        sts = service.client("sts", **key)
        assume_first = lambda **more: sts.assume_role(RoleArn=first, RoleSessionName="first", **more)  # noqa: E731
        tag = lambda value: [{"Key": "team", "Value": value}]  # noqa: E731

        made = assume_first(Tags=tag("blue"), TransitiveTagKeys=["team"], SourceIdentity="me")
        assert made["SourceIdentity"] == "me"
        session = lambda made: keys(made["Credentials"]) | {"aws_session_token": made["Credentials"]["SessionToken"]}  # noqa: E731
        inner = service.client("sts", **session(made))
        chained = inner.assume_role(RoleArn=second, RoleSessionName="second")
        assert chained["SourceIdentity"] == "me"
        service.client("eks", **session(chained)).list_clusters()
        conflict = refusal(inner.assume_role, RoleArn=second, RoleSessionName="second", Tags=tag("green"))
        assert conflict.startswith("InvalidParameterValue: One of the specified transitive tag keys can't be set")
        another = refusal(inner.assume_role, RoleArn=second, RoleSessionName="second", SourceIdentity="you")
        assert another.startswith("AccessDenied")

        # Not handed on, it ends with its session.
        made = assume_first(Tags=tag("blue"))
        chained = service.client("sts", **session(made)).assume_role(RoleArn=second, RoleSessionName="second")
        assert "AccessDenied" in refusal(service.client("eks", **session(chained)).list_clusters)
        denied = refusal(assume_first, Tags=tag("green"))
        assert denied.startswith("AccessDenied") and "sts:AssumeRole" in denied
        for more, words in (
            ({"Tags": tag("blue") + [{"Key": "TEAM", "Value": "x"}]}, "Duplicate tag keys"),
            ({"Tags": [], "TransitiveTagKeys": ["team"]}, "must be included in the requested tags"),
        ):
            assert words in refusal(assume_first, **more), more
        iam.update_assume_role_policy(RoleName="tagged", PolicyDocument=trust({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}))
        iam.delete_user_policy(UserName="tagger", PolicyName="own")
        iam.put_user_policy(UserName="tagger", PolicyName="own", PolicyDocument=policy({**own, "Action": "sts:AssumeRole"}))
        denied = refusal(assume_first, Tags=tag("blue"))
        assert denied.startswith("AccessDenied") and "sts:TagSession" in denied
    for name in ("tagged", "chained"):
        iam.delete_role_policy(RoleName=name, PolicyName="own")
        iam.delete_role(RoleName=name)


SPOT = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"


def test_a_service_linked_role_is_its_service_s(iam):
    made = iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")["Role"]
    assert made["Arn"] == SPOT and iam.get_role(RoleName="AWSServiceRoleForEC2Spot")["Role"]["Path"] == made["Path"]
    assert made["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "spot.amazonaws.com"}
    (attached,) = iam.list_attached_role_policies(RoleName="AWSServiceRoleForEC2Spot")["AttachedPolicies"]
    assert iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["Path"] == "/aws-service-role/"

    again = refusal(iam.create_service_linked_role, AWSServiceName="spot.amazonaws.com")
    assert again == (
        "InvalidInput: Service role name AWSServiceRoleForEC2Spot has been taken in this account, please try a different suffix."
    )
    suffixed = refusal(iam.create_service_linked_role, AWSServiceName="spot.amazonaws.com", CustomSuffix="a")
    assert suffixed == "InvalidInput: Custom suffix is not allowed for spot.amazonaws.com"
    assert refusal(iam.create_service_linked_role, AWSServiceName="unheard.amazonaws.com").startswith("InvalidInput")

    one = {"RoleName": "AWSServiceRoleForEC2Spot"}
    everything = policy({"Effect": "Allow", "Action": "*", "Resource": "*"})
    for call, arguments in (
        (iam.attach_role_policy, {"PolicyArn": "arn:aws:iam::aws:policy/AdministratorAccess"}),
        (iam.detach_role_policy, {"PolicyArn": attached["PolicyArn"]}),
        (iam.put_role_policy, {"PolicyName": "own", "PolicyDocument": everything}),
        (iam.put_role_permissions_boundary, {"PermissionsBoundary": "arn:aws:iam::aws:policy/ReadOnlyAccess"}),
        (iam.update_assume_role_policy, {"PolicyDocument": trust({"AWS": "*"})}),
        (iam.delete_role, {}),
    ):
        assert refusal(call, **one, **arguments) == (
            "UnmodifiableEntity: Cannot perform the operation on the protected role 'AWSServiceRoleForEC2Spot' - this role is only modifiable by AWS"
        )
    assert [p["PolicyArn"] for p in iam.list_attached_role_policies(**one)["AttachedPolicies"]] == [attached["PolicyArn"]]
    foreign = refusal(iam.attach_role_policy, RoleName="eksNodeRole", PolicyArn=attached["PolicyArn"])
    assert foreign == "PolicyNotAttachable: Cannot attach a Service Role Policy to a Customer Role."
    posing = refusal(
        iam.create_role, RoleName="mine", Path="/aws-service-role/spot.amazonaws.com/", AssumeRolePolicyDocument=trust({"AWS": "*"})
    )
    assert posing.startswith("InvalidInput")

    task = iam.delete_service_linked_role(**one)["DeletionTaskId"]
    assert task.startswith("task/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot/")
    assert iam.get_service_linked_role_deletion_status(DeletionTaskId=task)["Status"] == "SUCCEEDED"
    assert refusal(iam.get_role, **one).startswith("NoSuchEntity")
    assert refusal(iam.delete_service_linked_role, **one).startswith("NoSuchEntity")
    assert refusal(iam.delete_service_linked_role, RoleName="eksNodeRole").startswith("NoSuchEntity")
    unheard = task[:-1] + ("0" if task[-1] != "0" else "1")
    assert refusal(iam.get_service_linked_role_deletion_status, DeletionTaskId=unheard).startswith("NoSuchEntity")


def test_who_may_make_the_role_of_one_service(service, iam):
    """As eksctl's minimal policies have it."""
    only = {"StringEquals": {"iam:AWSServiceName": "autoscaling.amazonaws.com"}}
    with user(iam, "linker", {"Effect": "Allow", "Action": "iam:*ServiceLinkedRole*", "Resource": "*", "Condition": only}) as key:
        theirs = service.client("iam", **key)
        made = theirs.create_service_linked_role(AWSServiceName="autoscaling.amazonaws.com", CustomSuffix="theirs")["Role"]
        assert made["RoleName"] == "AWSServiceRoleForAutoScaling_theirs"
        denied = refusal(theirs.create_service_linked_role, AWSServiceName="spot.amazonaws.com")
        assert denied.startswith("AccessDenied") and SPOT in denied
        task = theirs.delete_service_linked_role(RoleName=made["RoleName"])["DeletionTaskId"]
        assert theirs.get_service_linked_role_deletion_status(DeletionTaskId=task)["Status"] == "SUCCEEDED"


def test_the_first_cluster_makes_the_role_of_eks(service, cluster, iam):
    name = "AWSServiceRoleForAmazonEKS"
    role = iam.get_role(RoleName=name)["Role"]
    assert role["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/eks.amazonaws.com/{name}"
    task = iam.delete_service_linked_role(RoleName=name)["DeletionTaskId"]
    ended = iam.get_service_linked_role_deletion_status(DeletionTaskId=task)
    (used,) = [usage for usage in ended["Reason"]["RoleUsageList"] if usage["Region"] == REGION]
    assert ended["Status"] == "FAILED"
    assert service.client("eks").describe_cluster(name=cluster)["cluster"]["arn"] in used["Resources"]
    assert iam.get_role(RoleName=name)["Role"]["RoleId"] == role["RoleId"]


def test_who_may_not_make_the_role_makes_no_cluster(service):
    """In an account that has none yet."""
    exports = dict(re.findall(r"^export (AWS_\w+)=(\S+)$", service.cli("env", "--account", "333344445555").stdout, re.M))
    admin = {"aws_access_key_id": exports["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": exports["AWS_SECRET_ACCESS_KEY"]}
    iam, ec2 = service.client("iam", **admin), service.client("ec2", **admin)
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    allowed = {"Effect": "Allow", "Action": ["eks:CreateCluster", "iam:PassRole"], "Resource": "*"}
    with user(iam, "maker", allowed) as key:
        make = service.client("eks", **key).create_cluster
        role = "arn:aws:iam::333344445555:role/eksClusterRole"
        denied = refusal(make, name="never", roleArn=role, resourcesVpcConfig={"subnetIds": subnets})
    assert denied.startswith("AccessDeniedException") and "iam:CreateServiceLinkedRole" in denied
    assert service.client("eks", **admin).list_clusters()["clusters"] == []
