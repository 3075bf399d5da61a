"""EKS Pod Identity: who may have which role, and how a pod comes to its credentials. Stock clients only."""

import json
import sys

import pytest
from ekstra_service import ACCOUNT, REGION, pod, refusal, wait
from test_44_trust import policy, trust

PODS = {"Service": "pods.eks.amazonaws.com"}
AGENT = "eks-pod-identity-agent"
READ = {"Effect": "Allow", "Action": "eks:DescribeCluster", "Resource": "*"}
#: What an SDK does: the token in a header, the answer as JSON.
ASK = (
    'timeout 10 wget -q -O - --header "Authorization: $(cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE)"'
    " $AWS_CONTAINER_CREDENTIALS_FULL_URI"
)


@pytest.fixture(scope="module")
def eks(service):
    return service.client("eks")


@pytest.fixture(scope="module")
def roles(service):
    """Makes roles; they go with the module."""
    iam, made = service.client("iam"), []

    def make(name, trusts, *statements):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusts)
        made.append((name, bool(statements)))
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy(*statements))
        return f"arn:aws:iam::{ACCOUNT}:role/{name}"

    yield make
    for name, has_policy in made:
        if has_policy:
            iam.delete_role_policy(RoleName=name, PolicyName="own")
        iam.delete_role(RoleName=name)


@pytest.fixture(scope="module")
def trusted(roles):
    """Reads clusters as long as its pod is of the namespace `default`."""
    condition = {"StringEquals": {"aws:PrincipalTag/kubernetes-namespace": "default"}}
    return roles("pods", trust(PODS, ["sts:AssumeRole", "sts:TagSession"]), {**READ, "Condition": condition})


@pytest.fixture(scope="module")
def agent(service, cluster, eks):
    eks.create_addon(clusterName=cluster, addonName=AGENT)
    status = lambda: eks.describe_addon(clusterName=cluster, addonName=AGENT)["addon"]  # noqa: E731
    wait("the agent", lambda: ((a := status())["status"] == "ACTIVE", a), 90)
    yield AGENT
    eks.delete_addon(clusterName=cluster, addonName=AGENT)
    service.wait_gone(status, "the agent")


def associate(eks, cluster, account, role, **more):
    asked = {"clusterName": cluster, "namespace": "default", "serviceAccount": account, "roleArn": role, **more}
    return eks.create_pod_identity_association(**asked)["association"]


def run_pod(service, name, account, **spec):
    service.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": "default"}},
        pod(name, "sleep 3600", serviceAccountName=account, **spec),
    )
    service.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def client_of(service, name, answer):
    own = {
        "aws_access_key_id": answer["AccessKeyId"],
        "aws_secret_access_key": answer["SecretAccessKey"],
        "aws_session_token": answer["Token"],
    }
    return service.client(name, **own)


def test_associations(service, cluster, eks, trusted):
    made = associate(eks, cluster, "app", trusted, tags={"team": "a"}, clientRequestToken="once")
    assert made["associationArn"] == f"arn:aws:eks:{REGION}:{ACCOUNT}:podidentityassociation/{cluster}/{made['associationId']}"
    assert made["associationId"].startswith("a-") and len(made["associationId"]) == 19
    assert not made["disableSessionTags"] and "externalId" not in made
    again = associate(eks, cluster, "app", trusted, tags={"team": "a"}, clientRequestToken="once")
    assert again["associationId"] == made["associationId"]
    asked = {"clusterName": cluster, "namespace": "default", "serviceAccount": "app", "roleArn": trusted}
    known = f"ResourceInUseException: Association already exists: {made['associationId']}"
    assert refusal(eks.create_pod_identity_association, **asked) == known
    other = {**asked, "serviceAccount": "other"}
    for change, words in [
        ({"roleArn": f"arn:aws:iam::{ACCOUNT}:role/nobody"}, "Role provided in the request does not exist."),
        ({"roleArn": "nonsense"}, "not a valid role ARN"),
        ({"targetRoleArn": "nonsense"}, "not a valid role ARN"),
        ({"policy": policy(READ)}, "disableSessionTags must be true"),
        ({"policy": "{", "disableSessionTags": True}, "policy is invalid"),
        ({"namespace": "Not A Name"}, "not a name of Kubernetes"),
    ]:
        assert words in refusal(eks.create_pod_identity_association, **{**other, **change}), change
    assert "ResourceNotFound" in refusal(eks.create_pod_identity_association, **{**other, "clusterName": "none"})

    listed = lambda **more: [  # noqa: E731
        known["serviceAccount"] for known in eks.list_pod_identity_associations(clusterName=cluster, **more)["associations"]
    ]
    assert listed() == ["app"] and listed(namespace="other") == [] and listed(serviceAccount="app") == ["app"]

    which = {"clusterName": cluster, "associationId": made["associationId"]}
    target = f"arn:aws:iam::{ACCOUNT}:role/target"
    changed = eks.update_pod_identity_association(**which, targetRoleArn=target)["association"]
    assert changed["targetRoleArn"] == target and changed["externalId"] and changed["roleArn"] == trusted
    changed = eks.update_pod_identity_association(**which, targetRoleArn="")["association"]
    assert "targetRoleArn" not in changed and "externalId" not in changed
    eks.tag_resource(resourceArn=made["associationArn"], tags={"more": "b"})
    assert eks.list_tags_for_resource(resourceArn=made["associationArn"])["tags"] == {"team": "a", "more": "b"}
    told = json.loads(
        service.aws(
            "eks", "describe-pod-identity-association", "--cluster-name", cluster, "--association-id", made["associationId"]
        ).stdout
    )["association"]
    assert told["tags"] == {"team": "a", "more": "b"} and told["modifiedAt"] >= told["createdAt"]
    assert eks.delete_pod_identity_association(**which)["association"]["associationId"] == made["associationId"]
    assert "ResourceNotFoundException: Association not found" in refusal(eks.describe_pod_identity_association, **which)
    assert "Association not found" in refusal(eks.delete_pod_identity_association, **which)


def test_a_pod_has_its_role(service, cluster, eks, agent, trusted):
    made = associate(eks, cluster, "reader", trusted)
    run_pod(service, "reader", "reader")
    answer = json.loads(service.exec("reader", ASK).stdout)
    assert answer["AccountId"] == ACCOUNT
    identity = client_of(service, "sts", answer).get_caller_identity()
    assert identity["Arn"].startswith(f"arn:aws:sts::{ACCOUNT}:assumed-role/pods/eks-{cluster}-reader-")
    # By a tag of its session.
    assert client_of(service, "eks", answer).describe_cluster(name=cluster)["cluster"]["name"] == cluster
    assert "AccessDenied" in refusal(client_of(service, "eks", answer).list_clusters)

    # Without session tags the condition does not hold.
    eks.update_pod_identity_association(clusterName=cluster, associationId=made["associationId"], disableSessionTags=True)
    answer = json.loads(service.exec("reader", ASK).stdout)
    assert "AccessDenied" in refusal(client_of(service, "eks", answer).describe_cluster, name=cluster)

    # A pod that was made without an association knows nothing of one.
    run_pod(service, "nobody", "nobody")
    assert "AWS_" not in service.exec("nobody", "env").stdout
    # What it is refused is said.
    eks.delete_pod_identity_association(clusterName=cluster, associationId=made["associationId"])
    refused = service.exec("reader", ASK, check=False)
    assert "404" in refused.stderr
    told = service.kubectl("logs", "-n", "kube-system", "-l", f"app.kubernetes.io/name={AGENT}", "--tail=50").stdout
    assert "(ResourceNotFoundException): No association found for service account reader in namespace default" in told
    service.delete_pod("reader")
    service.delete_pod("nobody")


def test_an_sdk_finds_them_by_itself(service, cluster, eks, agent, trusted, tmp_path):
    made = associate(eks, cluster, "sdk", trusted)
    run_pod(service, "sdk", "sdk")
    variables = dict(line.split("=", 1) for line in service.exec("sdk", "env").stdout.splitlines() if line.startswith("AWS_"))
    token = service.exec("sdk", "cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").stdout
    copied = tmp_path / "pod-token"
    copied.write_text(token)
    variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = str(copied)
    (node,) = {p["spec"]["nodeName"] for p in service.kubectl_json("get", "pods")["items"] if p["metadata"]["name"] == "sdk"}
    script = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
    # boto3 beside the pod, on its node, with nothing but what the pod is told.
    inside = service.in_node(node, sys.executable, "-c", script, env={"PATH": "/usr/bin", **variables})
    assert inside.stdout.startswith(f"arn:aws:sts::{ACCOUNT}:assumed-role/pods/eks-{cluster}-sdk-"), inside
    # Its call came from the node, which the record says, and not from the door that it came by.
    wanted = [{"AttributeKey": "EventName", "AttributeValue": "GetCallerIdentity"}]
    found = service.client("cloudtrail").lookup_events(LookupAttributes=wanted)["Events"]
    records = [json.loads(event["CloudTrailEvent"]) for event in found]
    (record, *_) = [record for record in records if record["userIdentity"]["arn"] == inside.stdout.strip()]
    (address,) = {
        a["address"] for a in service.kubectl_json("get", "node", node)["status"]["addresses"] if a["type"] == "InternalIP"
    }
    assert record["sourceIPAddress"] == address, record
    service.delete_pod("sdk")
    eks.delete_pod_identity_association(clusterName=cluster, associationId=made["associationId"])


def test_the_role_of_another(service, cluster, eks, agent, roles):
    target = f"arn:aws:iam::{ACCOUNT}:role/pods-target"
    first = roles(
        "pods-first",
        trust(PODS, ["sts:AssumeRole", "sts:TagSession"]),
        {"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"], "Resource": target},
    )
    made = associate(eks, cluster, "chained", first, targetRoleArn=target, disableSessionTags=True)
    condition = {"Condition": {"StringEquals": {"sts:ExternalId": made["externalId"]}}}
    roles(
        "pods-target",
        trust({"AWS": first}, "sts:AssumeRole", **condition),
        {"Effect": "Allow", "Action": ["eks:DescribeCluster", "eks:ListClusters"], "Resource": "*"},
    )
    run_pod(service, "chained", "chained")
    answer = json.loads(service.exec("chained", ASK).stdout)
    assert "assumed-role/pods-target/" in client_of(service, "sts", answer).get_caller_identity()["Arn"]
    assert cluster in client_of(service, "eks", answer).list_clusters()["clusters"]
    which = {"clusterName": cluster, "associationId": made["associationId"]}
    eks.update_pod_identity_association(**which, policy=policy(READ))
    answer = json.loads(service.exec("chained", ASK).stdout)
    assert client_of(service, "eks", answer).describe_cluster(name=cluster)
    assert "AccessDenied" in refusal(client_of(service, "eks", answer).list_clusters)

    # Who does not trust is not assumed.
    stranger = roles("pods-stranger", trust({"Service": "ec2.amazonaws.com"}))
    eks.update_pod_identity_association(**which, roleArn=stranger, targetRoleArn="", policy="")
    assert "400" in service.exec("chained", ASK, check=False).stderr
    eks.delete_pod_identity_association(**which)
    service.delete_pod("chained")


def test_an_addon_has_associations_of_its_own(service, cluster, eks, trusted, roles):
    cni = {"clusterName": cluster, "addonName": "vpc-cni"}
    (asked,) = eks.describe_addon_configuration(
        addonName="vpc-cni", addonVersion=eks.describe_addon_versions(addonName="vpc-cni")["addons"][0]["addonVersions"][0]["addonVersion"]
    )["podIdentityConfiguration"]
    assert asked["serviceAccount"] == "aws-node"
    wrong = [{"serviceAccount": "default", "roleArn": trusted}]
    assert "not supported for service account default" in refusal(eks.create_addon, **cni, podIdentityAssociations=wrong)
    own = [{"serviceAccount": "aws-node", "roleArn": trusted}]
    made = eks.create_addon(**cni, podIdentityAssociations=own)["addon"]
    active = lambda: eks.describe_addon(**cni)["addon"]["status"] == "ACTIVE"  # noqa: E731
    wait("vpc-cni", lambda: (active(), ""), 90)
    (arn,) = made["podIdentityAssociations"]
    which = {"clusterName": cluster, "associationId": arn.rsplit("/", 1)[-1]}
    known = eks.describe_pod_identity_association(**which)["association"]
    assert (known["ownerArn"], known["serviceAccount"], known["roleArn"]) == (made["addonArn"], "aws-node", trusted)
    for change in (eks.delete_pod_identity_association, eks.update_pod_identity_association):
        told = refusal(change, **which)
        assert told.startswith("InvalidRequestException") and "owned by" in told
    another = roles("pods-cni", trust(PODS, ["sts:AssumeRole", "sts:TagSession"]))
    eks.update_addon(**cni, podIdentityAssociations=[{"serviceAccount": "aws-node", "roleArn": another}])
    wait("vpc-cni again", lambda: (active(), ""), 90)
    (arn,) = eks.describe_addon(**cni)["addon"]["podIdentityAssociations"]
    changed = eks.describe_pod_identity_association(clusterName=cluster, associationId=arn.rsplit("/", 1)[-1])["association"]
    assert changed["roleArn"] == another
    eks.delete_addon(**cni, preserve=True)
    service.wait_gone(lambda: eks.describe_addon(**cni), "vpc-cni")
    (left,) = eks.list_pod_identity_associations(clusterName=cluster, serviceAccount="aws-node")["associations"]
    assert left["associationId"] == changed["associationId"] and "ownerArn" not in left, "it is its user's now"
    eks.delete_pod_identity_association(clusterName=cluster, associationId=left["associationId"])


def test_only_tokens_for_pod_identity_are_taken(service, cluster, trusted):
    auth = service.client("eks-auth")
    token = lambda *more: service.kubectl("create", "token", "default", *more).stdout.strip()  # noqa: E731
    ask = lambda text: refusal(auth.assume_role_for_pod_identity, clusterName=cluster, token=text)  # noqa: E731
    assert "InvalidTokenException" in ask(token())
    unbound = ask(token("--audience", "pods.eks.amazonaws.com"))
    assert unbound.startswith("InvalidTokenException") and "not bound to a pod" in unbound
    assert "InvalidTokenException" in ask("a.b.c")
    missing = refusal(auth.assume_role_for_pod_identity, clusterName="none", token="a.b.c")
    assert missing.startswith("ResourceNotFoundException")


def test_the_webhook_comes_back(service, cluster):
    kind = ("mutatingwebhookconfiguration", "pod-identity-webhook")
    before = service.kubectl_json("get", *kind)["metadata"]["uid"]
    service.kubectl("delete", *kind)
    uid = lambda: service.kubectl("get", *kind, "-o", "jsonpath={.metadata.uid}", check=False).stdout  # noqa: E731
    wait("the webhook", lambda: ((found := uid()) not in ("", before), found), 30)


def whole_token(record):
    """What a record shows of the token that was sent: nothing."""
    return next((text for text in json.dumps(record["requestParameters"]).split('"') if text.count(".") == 2 and len(text) > 100), None)


def test_a_token_of_the_cluster_is_a_web_identity(service, cluster, eks, roles, tmp_path):
    """As IAM roles for service accounts have it: the cluster's issuer is a provider of the account."""
    iam, sts = service.client("iam"), service.client("sts", aws_access_key_id="none", aws_secret_access_key="none")
    issuer = eks.describe_cluster(name=cluster)["cluster"]["identity"]["oidc"]["issuer"]
    token = lambda audience: service.kubectl("create", "token", "default", "--audience", audience).stdout.strip()  # noqa: E731
    name = issuer.removeprefix("https://")
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{name}"
    subject = {"StringEquals": {f"{name}:sub": "system:serviceaccount:default:default", f"{name}:aud": "sts.amazonaws.com"}}
    role = roles("web", trust({"Federated": provider}, "sts:AssumeRoleWithWebIdentity", Condition=subject), READ)
    ask = lambda **more: sts.assume_role_with_web_identity(  # noqa: E731
        **{"RoleArn": role, "RoleSessionName": "web", "WebIdentityToken": token("sts.amazonaws.com"), **more}
    )
    unknown = refusal(ask)
    assert unknown == f"InvalidIdentityToken: No OpenIDConnect provider found in your account for {issuer}"
    iam.create_open_id_connect_provider(Url=issuer, ClientIDList=["sts.amazonaws.com"])
    made = ask()
    assert made["SubjectFromWebIdentityToken"] == "system:serviceaccount:default:default"
    assert (made["Provider"], made["Audience"]) == (provider, "sts.amazonaws.com")
    answer = {"Token": made["Credentials"]["SessionToken"], **made["Credentials"]}
    assert client_of(service, "eks", answer).describe_cluster(name=cluster)
    assert "AccessDenied" in refusal(client_of(service, "eks", answer).list_clusters)

    # Nobody signed it, and yet it is known who asked.
    events = lambda: service.client("cloudtrail").lookup_events(  # noqa: E731
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "AssumeRoleWithWebIdentity"}]
    )["Events"]
    wait("the record", lambda: (bool(events()), ""), 10)
    record = json.loads(events()[0]["CloudTrailEvent"])
    identity = record["userIdentity"]
    assert (identity["type"], identity["userName"]) == ("WebIdentityUser", "system:serviceaccount:default:default")
    assert identity["identityProvider"] == provider and whole_token(record) is None

    assert "Incorrect token audience" in refusal(ask, WebIdentityToken=token("others"))
    whole = token("sts.amazonaws.com")
    assert "InvalidIdentityToken" in refusal(ask, WebIdentityToken=whole[:-10] + "A" * 10)
    assert "not a valid JWT" in refusal(ask, WebIdentityToken="nonsense")
    another = service.kubectl("create", "token", "coredns", "-n", "kube-system", "--audience", "sts.amazonaws.com").stdout.strip()
    assert refusal(ask, WebIdentityToken=another) == "AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity"
    assert refusal(ask, RoleArn=service.role("eksNodeRole")).startswith("AccessDenied")

    # By itself, as every SDK does with these two variables.
    file = tmp_path / "token"
    file.write_text(token("sts.amazonaws.com"))
    script = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
    env = {
        "PATH": "/usr/bin",
        "AWS_ROLE_ARN": role,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(file),
        "AWS_ENDPOINT_URL": service.aws_env()["AWS_ENDPOINT_URL"],
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    said = service.run(sys.executable, "-c", script, env=env).stdout
    assert said.startswith(f"arn:aws:sts::{ACCOUNT}:assumed-role/web/")
    iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=provider)
