"""Who called what: CloudTrail's records of the AWS endpoint's calls."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from ekstra_service import ACCOUNT, REGION, wait
from test_44_trust import trust
from test_45_iam import keys


def lookup(service, name, **more):
    """The records of an operation, the newest first."""
    by_name = [{"AttributeKey": "EventName", "AttributeValue": name}]
    answer = service.client("cloudtrail").lookup_events(LookupAttributes=by_name, **more)
    return answer, [json.loads(event["CloudTrailEvent"]) for event in answer["Events"]]


@pytest.fixture(scope="module")
def traced(service):
    """A user who may nothing, and its key."""
    iam = service.client("iam")
    iam.create_user(UserName="traced", Tags=[{"Key": "team", "Value": "blue"}])
    key = iam.create_access_key(UserName="traced")["AccessKey"]
    yield key
    iam.delete_access_key(UserName="traced", AccessKeyId=key["AccessKeyId"])
    iam.delete_user(UserName="traced")


def test_who_what_from_where(service, traced):
    wait("the record", lambda: (bool(lookup(service, "CreateUser")[1]), ""), 10)
    answer, (record, *_) = lookup(service, "CreateUser")
    assert record["userIdentity"]["arn"] == f"arn:aws:iam::{ACCOUNT}:user/admin" and record["userIdentity"]["type"] == "IAMUser"
    assert record["requestParameters"] == {"userName": "traced", "tags": [{"key": "team", "value": "blue"}]}
    assert (record["eventSource"], record["awsRegion"]) == ("iam.amazonaws.com", REGION)
    assert record["sourceIPAddress"] == "127.0.0.1" and "Boto3" in record["userAgent"]
    assert record["errorCode"] is None and record["readOnly"] is False
    event = answer["Events"][0]
    assert (event["Username"], event["ReadOnly"]) == ("admin", "false")
    assert abs(datetime.now(timezone.utc) - event["EventTime"]) < timedelta(minutes=5)


def test_what_was_refused_and_why(service, traced):
    keys = {"aws_access_key_id": traced["AccessKeyId"], "aws_secret_access_key": traced["SecretAccessKey"]}
    with pytest.raises(ClientError, match="not authorized to perform: eks:ListClusters"):
        service.client("eks", **keys).list_clusters()
    by_user = [{"AttributeKey": "Username", "AttributeValue": "traced"}]
    found = lambda: service.client("cloudtrail").lookup_events(LookupAttributes=by_user)["Events"]  # noqa: E731
    wait("the record", lambda: (bool(found()), ""), 10)
    record = json.loads(found()[0]["CloudTrailEvent"])
    assert (record["eventName"], record["errorCode"]) == ("ListClusters", "AccessDeniedException")
    assert "because no identity-based policy allows" in record["errorMessage"]
    # Who may not look is told so, and that is recorded, too.
    with pytest.raises(ClientError, match="cloudtrail:LookupEvents"):
        service.client("cloudtrail", **keys).lookup_events()


def test_pages(service, traced):
    for _ in range(2):
        service.client("ec2").describe_subnets()
    wait("two records", lambda: (len(lookup(service, "DescribeSubnets")[1]) >= 2, ""), 10)
    first, (newest,) = lookup(service, "DescribeSubnets", MaxResults=1)
    _, (next_one,) = lookup(service, "DescribeSubnets", MaxResults=1, NextToken=first["NextToken"])
    assert newest["eventID"] != next_one["eventID"] and newest["eventTime"] >= next_one["eventTime"]
    with pytest.raises(ClientError, match="InvalidNextTokenException"):
        lookup(service, "DescribeSubnets", NextToken="nonsense")
    with pytest.raises(ClientError, match="InvalidTimeRangeException"):
        lookup(service, "DescribeSubnets", StartTime=datetime(2026, 2, 1), EndTime=datetime(2026, 1, 1))


def test_a_session_s_record_names_its_role(service):
    iam = service.client("iam")
    role = iam.create_role(RoleName="walker", AssumeRolePolicyDocument=trust({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}))["Role"]
    try:
        session = service.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="trip")["Credentials"]
        with pytest.raises(ClientError, match="AccessDenied"):
            service.client("eks", **session_keys(session)).list_nodegroups(clusterName="nowhere")
        record = next(r for r in lookup(service, "ListNodegroups")[1] if r["userIdentity"]["type"] == "AssumedRole")
        assert record["userIdentity"]["arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/walker/trip"
        issuer = record["userIdentity"]["sessionContext"]["sessionIssuer"]
        assert (issuer["arn"], issuer["principalId"]) == (role["Arn"], role["RoleId"])
        assert record["userIdentity"]["accessKeyId"] == session["AccessKeyId"]
    finally:
        iam.delete_role(RoleName="walker")


def session_keys(made):
    return {**keys(made), "aws_session_token": made["SessionToken"]}


def test_secrets_are_in_no_record(service, traced, cluster):
    session = service.client("sts", **keys(traced)).get_session_token()["Credentials"]
    # It travels with every call, and here with one that is recorded as refused.
    with pytest.raises(ClientError, match="AccessDenied"):
        service.client("eks", **session_keys(session)).list_clusters()
    token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.a-secret-of-a-pod"
    with pytest.raises(ClientError):
        service.client("eks-auth").assume_role_for_pod_identity(clusterName=cluster, token=token)
    (record, *_) = lookup(service, "AssumeRoleForPodIdentity")[1]
    assert record["requestParameters"]["clusterName"] == cluster
    with pytest.raises(ClientError):
        service.client("sts").assume_role_with_web_identity(
            RoleArn=f"arn:aws:iam::{ACCOUNT}:role/any", RoleSessionName="somebody", WebIdentityToken=token
        )
    secrets = [traced["SecretAccessKey"], service.aws_env()["AWS_SECRET_ACCESS_KEY"], "a-secret-of-a-pod"]
    secrets += [session["SecretAccessKey"], session["SessionToken"], session["SessionToken"][-40:]]
    files = list(Path(service.home, "events").iterdir())
    assert files and all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    text = "".join(file.read_text() for file in files)
    assert traced["AccessKeyId"] in text and not any(secret in text for secret in secrets)


def test_the_command_line_shows_them(service, traced):
    said = service.cli("events", "--name", "CreateUser").stdout.splitlines()
    assert said[0].split() == ["TIME", "USER", "FROM", "SERVICE", "EVENT", "ERROR"]
    assert "user/admin" in said[1] and "iam.amazonaws.com  CreateUser" in said[1]
    # Whoever names an operation wants it, though it changes nothing.
    service.client("eks").describe_cluster_versions()
    named = service.cli("events", "--name", "DescribeClusterVersions").stdout
    assert "eks.amazonaws.com  DescribeClusterVersions" in named, named
    records = json.loads(service.cli("events", "--user", "traced", "--all", "-o", "json").stdout)
    assert {"ListClusters", "LookupEvents"} <= {record["eventName"] for record in records}


def test_what_is_not_served_is_refused_by_its_name(service):
    for call, words in [
        (lambda: service.client("iam").list_server_certificates(), "ListServerCertificates"),
        (lambda: service.client("cloudtrail").describe_trails(), "DescribeTrails"),
        (lambda: service.client("ec2").describe_key_pairs(), "DescribeKeyPairs"),
    ]:
        with pytest.raises(ClientError, match=words) as refused:
            call()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 404)
