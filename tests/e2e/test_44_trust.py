"""Instance profiles, OpenID Connect providers and sessions of users, by stock clients. No cluster is needed."""

import json
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
