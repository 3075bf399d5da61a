"""Bad input: AWS's error, or one line of the command line that says what to do."""

import json
import socket
import subprocess
import time

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.exceptions
import pytest
from ekstra_service import ACCOUNT, BINARY, Service

ROLE = f"arn:aws:iam::{ACCOUNT}:role/eksClusterRole"
NODE_ROLE = f"arn:aws:iam::{ACCOUNT}:role/eksNodeRole"


def code_of(call):
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        call()
    error = raised.value.response
    assert error["Error"]["Message"], error
    assert error["ResponseMetadata"].get("RequestId"), error
    return error["Error"]["Code"]


@pytest.fixture(scope="module")
def eks(service, cluster):
    return service.client("eks", validate=False)


SIGNATURE = {"SignatureDoesNotMatch", "InvalidSignatureException"}
UNKNOWN_KEY = {"UnrecognizedClientException", "InvalidClientTokenId", "AuthFailure"}


@pytest.mark.parametrize("name,call", [
    ("eks", lambda c: c.list_clusters()),
    ("sts", lambda c: c.get_caller_identity()),
    ("iam", lambda c: c.list_roles()),
    ("ec2", lambda c: c.describe_vpcs()),
])  # fmt: skip
def test_wrong_secret_and_unknown_key(service, name, call):
    wrong = service.client(name, aws_secret_access_key="wrong" * 8)
    assert code_of(lambda: call(wrong)) in SIGNATURE | ({"AuthFailure"} if name == "ec2" else set())
    unknown = service.client(name, aws_access_key_id="AKIAAAAAAAAAAAAAAAAA")
    assert code_of(lambda: call(unknown)) in UNKNOWN_KEY


@pytest.fixture(scope="module")
def own_role(service):
    """One that people of the account may assume, unlike the roles of services."""
    principal = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    made = service.client("iam").create_role(RoleName="developer", AssumeRolePolicyDocument=policy)
    return made["Role"]["Arn"]


def test_a_service_s_role_is_not_for_people(service):
    sts = service.client("sts")
    assert code_of(lambda: sts.assume_role(RoleArn=ROLE, RoleSessionName="e2e")) == "AccessDenied"


def test_corrupted_session_token(service, cluster, own_role):
    session = service.client("sts").assume_role(RoleArn=own_role, RoleSessionName="e2e")["Credentials"]
    keys = {"aws_access_key_id": session["AccessKeyId"], "aws_secret_access_key": session["SecretAccessKey"]}
    token = session["SessionToken"]
    good = service.client("sts", aws_session_token=token, **keys).get_caller_identity()
    assert good["Arn"].endswith(":assumed-role/developer/e2e")
    broken = token[:20] + ("A" if token[20] != "A" else "B") + token[21:]
    client = service.client("sts", aws_session_token=broken, **keys)
    assert code_of(client.get_caller_identity) in {"InvalidClientTokenId", "UnrecognizedClientException"}
    assert code_of(service.client("sts", **keys).get_caller_identity) in {"InvalidClientTokenId"}


def presigned(service, at, expires):
    """A URL of GetCallerIdentity that was signed at another time."""
    env = service.aws_env()
    session = boto3.session.Session(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
    request = botocore.awsrequest.AWSRequest(
        "GET", env["AWS_ENDPOINT_URL"] + "/?Action=GetCallerIdentity&Version=2011-06-15"
    )
    import datetime
    from unittest import mock

    moment = datetime.datetime.fromtimestamp(at, datetime.UTC).replace(tzinfo=None)
    with mock.patch("botocore.auth.get_current_datetime", lambda *a, **k: moment, create=True):
        botocore.auth.SigV4QueryAuth(session.get_credentials(), "sts", "us-east-1", expires).add_auth(request)
    return request.prepare().url


def curl(url):
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = opener.open(url, timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.read().decode()


def test_expired_presigned_url(service):
    now = time.time()
    status, text = curl(presigned(service, now, 60))
    assert status == 200 and "user/admin" in text, text
    status, text = curl(presigned(service, now - 120, 60))
    assert status in (400, 403) and "expired" in text.lower(), (status, text)


NO_CLUSTER = [
    ("describe_cluster", {"name": "nope"}),
    ("delete_cluster", {"name": "nope"}),
    ("list_nodegroups", {"clusterName": "nope"}),
    ("describe_nodegroup", {"clusterName": "nope", "nodegroupName": "ng"}),
    ("describe_nodegroup", {"clusterName": "e2e", "nodegroupName": "nope"}),
    ("delete_nodegroup", {"clusterName": "e2e", "nodegroupName": "nope"}),
    ("describe_update", {"name": "e2e", "updateId": "3b1e7a0c-0000-4000-8000-000000000000"}),
    ("update_nodegroup_config", {"clusterName": "e2e", "nodegroupName": "nope", "scalingConfig": {"desiredSize": 1}}),
]


@pytest.mark.parametrize("operation,arguments", NO_CLUSTER, ids=lambda v: v if isinstance(v, str) else "")
def test_unknown_names(eks, operation, arguments):
    assert code_of(lambda: getattr(eks, operation)(**arguments)) == "ResourceNotFoundException"


@pytest.mark.parametrize("name", ["", "-dash", "under score", "a/b", "ü", "x" * 101, "<script>", "_under"])
def test_bad_cluster_names(service, eks, name):
    code = code_of(
        lambda: eks.create_cluster(name=name, roleArn=ROLE, resourcesVpcConfig={"subnetIds": service.subnets()})
    )
    assert code in {"InvalidParameterException", "ValidationException"}, code


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1.99"},
        {"version": "1.2.3"},
        {"version": "latest"},
        {"version": ""},
        {"roleArn": "not-an-arn"},
        {"roleArn": f"arn:aws:iam::{ACCOUNT}:role/nope"},
        {"resourcesVpcConfig": {"subnetIds": ["subnet-00000000"]}},
        {"resourcesVpcConfig": {"subnetIds": []}},
        {"resourcesVpcConfig": {}},
        {"resourcesVpcConfig": None},
        {"roleArn": None},
    ],
    ids=str,
)
def test_bad_clusters(service, eks, change):
    request = {"name": "bad", "roleArn": ROLE, "resourcesVpcConfig": {"subnetIds": service.subnets()}} | change
    request = {k: v for k, v in request.items() if v is not None}
    code = code_of(lambda: eks.create_cluster(**request))
    assert code in {"InvalidParameterException", "ValidationException", "SerializationException"}, code
    assert "bad" not in eks.list_clusters()["clusters"]


@pytest.mark.parametrize(
    "scaling",
    [
        {"minSize": 3, "desiredSize": 2, "maxSize": 4},
        {"minSize": 1, "desiredSize": 5, "maxSize": 4},
        {"minSize": 3, "desiredSize": 3, "maxSize": 2},
        {"minSize": -1, "desiredSize": 1, "maxSize": 2},
        {"minSize": 0, "desiredSize": 0, "maxSize": 0},
        {"minSize": 1, "desiredSize": "two", "maxSize": 2},
        {"minSize": 1, "desiredSize": 1, "maxSize": 10**12},
    ],
    ids=str,
)
def test_bad_sizes(service, eks, scaling):
    request = {"clusterName": "e2e", "nodegroupName": "bad", "nodeRole": NODE_ROLE, "subnets": service.subnets()}
    codes = {"InvalidParameterException", "ValidationException", "SerializationException"}
    assert code_of(lambda: eks.create_nodegroup(**request, scalingConfig=scaling)) in codes
    assert "bad" not in eks.list_nodegroups(clusterName="e2e")["nodegroups"]
    change = {"clusterName": "e2e", "nodegroupName": "ng", "scalingConfig": scaling}
    assert code_of(lambda: eks.update_nodegroup_config(**change)) in codes


@pytest.mark.parametrize(
    "change",
    [
        {"nodeRole": "x"},
        {"nodeRole": f"arn:aws:iam::{ACCOUNT}:role/nope"},
        {"subnets": []},
        {"subnets": ["subnet-00000000"]},
        {"instanceTypes": ["m5.unheard-of"]},
        {"diskSize": -1},
        {"nodegroupName": "x" * 64},
        {"nodegroupName": ""},
        {"labels": {"a b": "c"}},
        {"labels": {"team": "-"}},
        {"labels": {"node-role.kubernetes.io/worker": ""}},
        {"taints": [{"key": "a b", "effect": "NO_SCHEDULE"}]},
        {"releaseVersion": "1.36.3-20260101"},
    ],
    ids=str,
)
def test_bad_nodegroups(service, eks, change):
    request = {
        "clusterName": "e2e",
        "nodegroupName": "bad",
        "nodeRole": NODE_ROLE,
        "subnets": service.subnets(),
        "scalingConfig": {"minSize": 1, "desiredSize": 1, "maxSize": 1},
    } | change
    code = code_of(lambda: eks.create_nodegroup(**request))
    assert code in {"InvalidParameterException", "ValidationException", "InvalidRequestException"}, code
    assert eks.list_nodegroups(clusterName="e2e")["nodegroups"] == ["ng"]


def test_a_label_that_no_node_can_have_does_not_stop_a_group(service, eks):
    change = {"addOrUpdateLabels": {"a b": "c"}}
    code = code_of(lambda: eks.update_nodegroup_config(clusterName="e2e", nodegroupName="ng", labels=change))
    assert code == "InvalidParameterException"
    assert eks.describe_nodegroup(clusterName="e2e", nodegroupName="ng")["nodegroup"]["status"] == "ACTIVE"


def test_what_goes_between_two_pages_hides_nothing(service, eks):
    names = [f"page-{letter}" for letter in "abcd"]
    for name in names:
        service.create_cluster(name)
    listed = eks.list_clusters(maxResults=2)
    seen = list(listed["clusters"])
    eks.delete_cluster(name="page-a")
    service.wait_gone(lambda: eks.describe_cluster(name="page-a")["cluster"]["status"], "page-a")
    while token := listed.get("nextToken"):
        listed = eks.list_clusters(maxResults=2, nextToken=token)
        seen += listed["clusters"]
    assert seen == sorted(["e2e", *names])
    assert code_of(lambda: eks.list_clusters(nextToken="no token")) == "InvalidParameterException"
    for name in names[1:]:
        service.delete_cluster(name)


def test_dry_runs_change_nothing(service):
    code = code_of(lambda: service.client("ec2").describe_vpcs(DryRun=True))
    assert code == "DryRunOperation"


def test_duplicates(service, eks):
    assert code_of(lambda: service.create_cluster("e2e")) == "ResourceInUseException"
    assert code_of(lambda: service.create_nodegroup("e2e", "ng", 2)) == "ResourceInUseException"


def test_unknown_region(service):
    code = code_of(lambda: service.client("eks", region="mars-north-1x").list_clusters())
    assert code in SIGNATURE | UNKNOWN_KEY


def test_the_same_token_twice_is_one_cluster(service, eks):
    request = {
        "name": "twice",
        "roleArn": ROLE,
        "resourcesVpcConfig": {"subnetIds": service.subnets()},
        "clientRequestToken": "0b1c2d3e-token",
    }
    try:
        first = eks.create_cluster(**request)["cluster"]
        second = eks.create_cluster(**request)["cluster"]
        assert (first["arn"], first["createdAt"]) == (second["arn"], second["createdAt"])
        other = request | {"clientRequestToken": "another"}
        assert code_of(lambda: eks.create_cluster(**other)) == "ResourceInUseException"
        # Pages, while there are two clusters.
        pages, token = [], None
        while True:
            more = {"nextToken": token} if token else {}
            answer = eks.list_clusters(maxResults=1, **more)
            assert len(answer["clusters"]) == 1
            pages += answer["clusters"]
            token = answer.get("nextToken")
            if not token:
                break
        assert sorted(pages) == ["e2e", "twice"]
        assert code_of(lambda: eks.list_clusters(nextToken="garbage")) in {
            "InvalidParameterException", "ValidationException", "InvalidRequestException",
        }  # fmt: skip
        assert code_of(lambda: eks.list_clusters(maxResults=0)) in {"InvalidParameterException", "ValidationException"}
    finally:
        service.wait_cluster("twice")
        service.delete_cluster("twice")


def test_tags(service, eks):
    arn = eks.describe_cluster(name="e2e")["cluster"]["arn"]
    eks.tag_resource(resourceArn=arn, tags={"team": "a", "stage": "test"})
    eks.untag_resource(resourceArn=arn, tagKeys=["stage"])
    assert eks.list_tags_for_resource(resourceArn=arn)["tags"] == {"team": "a"}
    eks.untag_resource(resourceArn=arn, tagKeys=["team"])
    missing = arn.replace("e2e", "nope")
    assert code_of(lambda: eks.list_tags_for_resource(resourceArn=missing)) in {"NotFoundException", "ResourceNotFoundException"}


def one_line(done):
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert "panicked" not in done.stderr
    return lines[0]


CLI = [
    (["create", "cluster", "--name", "x"], "--managed"),
    (["create", "cluster", "--name", "e2e", "--managed"], "already"),
    (["create", "cluster", "--name=-x-", "--managed"], None),
    (["create", "cluster", "--name", "under_/score", "--managed"], None),
    (["create", "cluster", "--name", "x", "--managed", "--version", "1.99"], "1.99"),
    (["create", "cluster", "--name", "x", "--managed", "--region", "nowhere"], None),
    (["create", "nodegroup", "--cluster", "nope", "--managed"], "nope"),
    (["create", "nodegroup", "--cluster", "e2e", "--managed", "--name", "b", "--nodes", "3", "--nodes-max", "2"], None),
    (["get", "cluster", "--name", "nope"], "nope"),
    (["get", "nodegroup", "--cluster", "nope"], "nope"),
    (["scale", "nodegroup", "--cluster", "e2e", "--name", "nope", "--nodes", "2"], "nope"),
    (["scale", "nodegroup", "--cluster", "e2e", "--name", "ng", "--nodes", "200000"], None),
    (["delete", "cluster", "--name", "nope"], "nope"),
    (["delete", "nodegroup", "--cluster", "e2e", "--name", "nope"], "nope"),
    (["update-kubeconfig", "--name", "nope"], "nope"),
    (["create", "cluster", "--nam", "x"], "'--name'"),
    (["create", "clutser"], "'cluster'"),
    (["create", "cluster", "--managed"], "--name"),
    (["create", "cluster", "x", "--managed", "--nodes", "-1"], "--nodes"),
    (["create", "cluster", "x", "--managed", "--nodes", "3", "--nodes-max", "2"], "--nodes-max 2"),
    (["create", "cluster", "x", "--managed", "--node-type", "m5.unheard-of"], "m5.large"),
    (["create", "cluster", "x", "--managed", "--nodegroup-name", "b b"], "nodegroup name"),
    (["create", "cluster", "x", "--managed", "--kubeconfig", "/proc/nowhere/config"], "/proc/nowhere"),
    (["create", "cluster", "e2e", "--managed"], "create nodegroup --cluster e2e --managed"),
    (["create", "cluster", "x", "--managed", "--components", "https://127.0.0.1/x.tar.zst"], "@sha256:"),
    (["create", "cluster", "x", "--managed", "--components", "/nowhere@sha256:" + "0" * 64], "/nowhere"),
    (["image", "load", "/etc/passwd"], "not a readable tar"),
    (["create", "cluster", "x", "--managed", "--components", "/etc"], "--components /etc"),
    (["get", "clusters", "nope"], "nope"),
    (["delete", "cluster", "nope"], "nope"),
    (["image", "load", "/nowhere.tar"], "/nowhere.tar"),
    (["image", "pack", "/nowhere", "--name", "x"], "/nowhere"),
]


@pytest.mark.parametrize("arguments,says", CLI, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_command_line_says_it_in_one_line(service, cluster, arguments, says):
    line = one_line(service.cli(*arguments, check=False, timeout=60))
    if says:
        assert says in line
    assert service.client("eks").list_clusters()["clusters"] == [cluster]


def test_port_in_use(fresh_service):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", fresh_service.port))
        taken.listen()
        line = one_line(fresh_service.cli("start", check=False, timeout=60))
        assert str(fresh_service.port) in line and "EKSTRA_LISTEN" in line
    assert not fresh_service.service_pids("serve")
    fresh_service.start()


def test_commands_without_a_service(fresh_service):
    for arguments in (["env"], ["get", "cluster"], ["update-kubeconfig", "--name", "x"]):
        assert "ekstra start" in one_line(fresh_service.cli(*arguments, check=False, timeout=60)), arguments


def test_a_long_home_is_refused():
    done = subprocess.run([BINARY, "--home", "/tmp/" + "x" * 90, "start"], capture_output=True, text=True, timeout=60)
    assert "--home" in one_line(done)


def test_a_second_start_is_no_error(service):
    before = service.service_pids("serve")
    service.start()
    assert service.service_pids("serve") == before
    assert isinstance(service, Service)
