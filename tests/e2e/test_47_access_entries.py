"""Access entries and access policies: who of IAM is who in a cluster, and may what. Stock clients only."""

import json

import pytest
from ekstra_service import ACCOUNT, REGION, never_refused, refusal, wait

POLICY = "arn:aws:eks::aws:cluster-access-policy/AmazonEKS{}Policy"
PRINCIPAL = f"arn:aws:iam::{ACCOUNT}:role/team/developer"
EVERYTHING = {"Effect": "Allow", "Action": "*", "Resource": "*"}


@pytest.fixture(scope="module", autouse=True)
def entries(service, cluster):
    """The cluster has access entries from now on, and its nodes stay nodes."""
    service.client("eks").update_cluster_config(name=cluster, accessConfig={"authenticationMode": "API_AND_CONFIG_MAP"})
    service.wait_cluster(cluster)


@pytest.fixture(scope="module")
def kubectl(service, cluster):
    """kubectl of a session of a role that has a path; it answers what was said."""
    iam = service.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
    document = lambda statement: json.dumps({"Version": "2012-10-17", "Statement": statement})  # noqa: E731
    iam.create_role(RoleName="developer", Path="/team/", AssumeRolePolicyDocument=document(trust))
    iam.put_role_policy(RoleName="developer", PolicyName="all", PolicyDocument=document(EVERYTHING))
    session = service.client("sts").assume_role(RoleArn=PRINCIPAL, RoleSessionName="ada")["Credentials"]
    env = service.plain_env(
        AWS_ACCESS_KEY_ID=session["AccessKeyId"],
        AWS_SECRET_ACCESS_KEY=session["SecretAccessKey"],
        AWS_SESSION_TOKEN=session["SessionToken"],
        AWS_ENDPOINT_URL=service.aws_env()["AWS_ENDPOINT_URL"],
        AWS_DEFAULT_REGION=REGION,
        KUBECONFIG=f"{service.work}/developer",
    )
    service.run("aws", "eks", "update-kubeconfig", "--name", cluster, env=env)

    def kubectl(*words):
        said = service.run("kubectl", *words, env=env, check=False)
        return said.stdout + said.stderr

    for namespace in ("team-blue", "team-green", "others"):
        service.kubectl("create", "namespace", namespace)
    yield kubectl
    for namespace in ("team-blue", "team-green", "others"):
        service.kubectl("delete", "namespace", namespace, "--wait=false")
    iam.delete_role_policy(RoleName="developer", PolicyName="all")
    iam.delete_role(RoleName="developer")


def test_aggregated_apis_know_who_asks(service, cluster):
    """metrics-server asks the API server in the name of its user, of whom it knows by HTTP headers."""
    top = lambda: service.kubectl("top", "nodes", "--no-headers", check=False)  # noqa: E731
    wait("figures of each node", lambda: (len((t := top()).stdout.splitlines()) == len(service.nodes()), t), 60)


@pytest.fixture
def entry(service, cluster, kubectl):
    """The role's entry, with neither groups nor policies."""
    eks = service.client("eks")
    made = eks.create_access_entry(clusterName=cluster, principalArn=PRINCIPAL, tags={"of": "tests"})["accessEntry"]
    yield made
    try:
        eks.delete_access_entry(clusterName=cluster, principalArn=PRINCIPAL)
    except eks.exceptions.ResourceNotFoundException:
        pass


def may(kubectl, *words):
    """Whether it is allowed now: answers of before are remembered for ten seconds at most."""
    return lambda: ((said := kubectl("auth", "can-i", *words)).startswith("yes"), said)


def may_not(kubectl, *words):
    return lambda: ((said := kubectl("auth", "can-i", *words)).startswith("no"), said)


def test_the_creator_and_the_nodes_have_entries(service, cluster):
    eks = service.client("eks")
    creator, nodes = f"arn:aws:iam::{ACCOUNT}:user/admin", service.role("eksNodeRole")
    assert {creator, nodes} <= set(eks.list_access_entries(clusterName=cluster)["accessEntries"])
    of = lambda arn: eks.describe_access_entry(clusterName=cluster, principalArn=arn)["accessEntry"]  # noqa: E731
    assert (of(creator)["type"], of(creator)["username"]) == ("STANDARD", creator)
    assert (of(nodes)["type"], of(nodes)["kubernetesGroups"]) == ("EC2_LINUX", ["system:nodes"])
    (policy,) = eks.list_associated_access_policies(clusterName=cluster, principalArn=creator)["associatedAccessPolicies"]
    assert (policy["policyArn"], policy["accessScope"]["type"]) == (POLICY.format("ClusterAdmin"), "cluster")
    assert eks.list_access_entries(clusterName=cluster, associatedPolicyArn=POLICY.format("ClusterAdmin"))["accessEntries"] == [creator]
    assert service.kubectl("auth", "can-i", "*", "*", "-A").stdout.strip() == "yes"
    service.wait_nodes(2)
    assert "InvalidParameterException" in refusal(eks.update_access_entry, clusterName=cluster, principalArn=creator, username="system:root")


def test_an_entry_names_whom_groups_may_be_given_to(service, cluster, kubectl, entry):
    assert entry["username"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/developer/{{{{SessionName}}}}"
    assert f":access-entry/{cluster}/role/{ACCOUNT}/developer/" in entry["accessEntryArn"]
    eks = service.client("eks")
    assert eks.list_tags_for_resource(resourceArn=entry["accessEntryArn"])["tags"] == {"of": "tests"}
    wait("a name", lambda: ((said := kubectl("auth", "whoami")).find("assumed-role/developer/ada") >= 0, said), 20)
    assert "forbidden" in kubectl("get", "pods")
    eks.update_access_entry(clusterName=cluster, principalArn=PRINCIPAL, kubernetesGroups=["lookers"], username="dev:{{SessionName}}")
    service.kubectl("create", "clusterrolebinding", "lookers", "--clusterrole=view", "--group=lookers")
    try:
        wait("the group's rights", may(kubectl, "get", "pods"), 150, 1)
        assert "dev:ada" in kubectl("auth", "whoami")
    finally:
        service.kubectl("delete", "clusterrolebinding", "lookers")
    again = refusal(eks.create_access_entry, clusterName=cluster, principalArn=PRINCIPAL)
    assert again == "ResourceInUseException: " + again.split(": ", 1)[1] and "already in use" in again, again
    assert "InvalidParameterException" in refusal(eks.create_access_entry, clusterName=cluster, principalArn=f"{PRINCIPAL}s")
    linked = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/eks.amazonaws.com/AWSServiceRoleForAmazonEKS"
    assert "principalArn value of a Service Linked Role" in refusal(eks.create_access_entry, clusterName=cluster, principalArn=linked)


def test_a_policy_holds_in_its_namespaces_and_goes(service, cluster, kubectl, entry):
    eks = service.client("eks")
    where = {"type": "namespace", "namespaces": ["team-*"]}
    rules = ["get", "roles,rolebindings,clusterroles,clusterrolebindings", "-A", "-o", "name"]
    before = service.kubectl(*rules).stdout
    associate = lambda policy, scope: eks.associate_access_policy(  # noqa: E731
        clusterName=cluster, principalArn=PRINCIPAL, policyArn=POLICY.format(policy), accessScope=scope
    )
    associate("View", where)
    wait("a view", may(kubectl, "list", "pods", "-n", "team-blue"), 20, 0.5)
    assert "No resources" in kubectl("get", "pods", "-n", "team-green")
    for words in (["get", "secrets", "-n", "team-blue"], ["create", "pods", "-n", "team-blue"], ["get", "pods", "-n", "others"], ["get", "nodes"]):
        assert kubectl("auth", "can-i", *words).startswith("no"), words
    associate("Edit", where)
    wait("an editor", may(kubectl, "create", "pods", "-n", "team-blue"), 20, 0.5)
    assert "configmap/made created" in kubectl("create", "configmap", "made", "-n", "team-blue")
    assert "forbidden" in kubectl("create", "configmap", "made", "-n", "others")
    associate("ClusterAdmin", {"type": "cluster"})
    wait("everything", may(kubectl, "*", "*", "-A"), 20, 0.5)
    assert "healthz check passed" in kubectl("get", "--raw", "/healthz?verbose")
    for policy in ("ClusterAdmin", "Edit"):
        eks.disassociate_access_policy(clusterName=cluster, principalArn=PRINCIPAL, policyArn=POLICY.format(policy))
    wait("a viewer again", may_not(kubectl, "create", "pods", "-n", "team-blue"), 30, 0.5)
    assert service.kubectl(*rules).stdout == before, "access policies leave nothing in a cluster"
    assert "InvalidParameterException" in refusal(
        eks.associate_access_policy, clusterName=cluster, principalArn=PRINCIPAL, policyArn=POLICY.format("Unheard"), accessScope=where
    )
    eks.delete_access_entry(clusterName=cluster, principalArn=PRINCIPAL)
    wait("nobody", lambda: ("Unauthorized" in (said := kubectl("get", "pods")) or "logged in" in said, said), 150, 1)
    assert "ResourceNotFoundException" in refusal(eks.describe_access_entry, clusterName=cluster, principalArn=PRINCIPAL)


def aws_auth(**data):
    """The ConfigMap, of lists in YAML."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "aws-auth", "namespace": "kube-system"},
        "data": {name: text if isinstance(text, str) else yaml_of(text) for name, text in data.items()},
    }


def yaml_of(lines):
    """As eksctl writes it."""
    return "".join(
        "- " + "\n  ".join(f"{key}: {json.dumps(value)}" for key, value in line.items()) + "\n" for line in lines
    )


def whoami_of(service, cluster, user):
    """As `kubectl auth whoami` shows a user, by a key of its own."""
    iam = service.client("iam")
    if not iam.list_access_keys(UserName=user)["AccessKeyMetadata"]:
        iam.attach_user_policy(UserName=user, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
        whoami_of.key = iam.create_access_key(UserName=user)["AccessKey"]
    env = service.plain_env(
        AWS_ACCESS_KEY_ID=whoami_of.key["AccessKeyId"],
        AWS_SECRET_ACCESS_KEY=whoami_of.key["SecretAccessKey"],
        AWS_ENDPOINT_URL=service.aws_env()["AWS_ENDPOINT_URL"],
        AWS_DEFAULT_REGION=REGION,
        KUBECONFIG=f"{service.work}/{user}",
    )
    service.run("aws", "eks", "update-kubeconfig", "--name", cluster, env=env)
    return service.run("kubectl", "auth", "whoami", env=env, check=False).stdout


def forget(service, user):
    iam = service.client("iam")
    for key in iam.list_access_keys(UserName=user)["AccessKeyMetadata"]:
        iam.delete_access_key(UserName=user, AccessKeyId=key["AccessKeyId"])
    iam.detach_user_policy(UserName=user, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    iam.delete_user(UserName=user)


def test_an_entry_is_not_of_who_has_the_name_later(service, cluster):
    iam, eks = service.client("iam"), service.client("eks")
    arn = iam.create_user(UserName="first")["User"]["Arn"]
    eks.create_access_entry(clusterName=cluster, principalArn=arn, username="first")
    them = lambda: whoami_of(service, cluster, "first")  # noqa: E731
    wait("the user", lambda: ("first" in (told := them()), told), 20, 1)
    forget(service, "first")
    iam.create_user(UserName="first")
    try:
        assert "first" not in them()
        assert arn in eks.list_access_entries(clusterName=cluster)["accessEntries"]
        eks.delete_access_entry(clusterName=cluster, principalArn=arn)
        eks.create_access_entry(clusterName=cluster, principalArn=arn, username="first")
        wait("the later user", lambda: ("first" in (told := them()), told), 20, 1)
    finally:
        eks.delete_access_entry(clusterName=cluster, principalArn=arn)
        forget(service, "first")


def test_aws_auth_names_whom_no_entry_names(service, cluster, kubectl):
    """The ConfigMap's role has no path, as aws-iam-authenticator wants it."""
    role = f"arn:aws:iam::{ACCOUNT}:role/developer"
    whoami = lambda: kubectl("auth", "whoami")  # noqa: E731
    said = lambda *words: (lambda: (all(word in (told := whoami()) for word in words), told))  # noqa: E731
    unknown = lambda: ("Unauthorized" in (told := whoami()) or "logged in" in told, told)  # noqa: E731
    wait("nobody", unknown, 150, 1)
    service.apply(aws_auth(mapRoles=[{"rolearn": role, "username": "dev:{{SessionName}}", "groups": ["lookers"]}]))
    wait("the map's name", said("dev:ada", "lookers"), 20)
    # A list that cannot be read locks nobody out, and does not keep the others from being read.
    user = service.client("iam").create_user(UserName="mapped")["User"]["Arn"]
    service.apply(aws_auth(mapRoles="- rolearn: [\n", mapUsers=[{"userarn": user, "username": "other", "groups": []}]))
    wait("the user of the good list", lambda: ("other" in (told := whoami_of(service, cluster, "mapped")), told), 20, 1)
    assert "dev:ada" in whoami()
    # An entry comes before the map.
    eks = service.client("eks")
    eks.create_access_entry(clusterName=cluster, principalArn=PRINCIPAL, username="entry:{{SessionName}}")
    wait("the entry's name", said("entry:ada"), 20)
    eks.delete_access_entry(clusterName=cluster, principalArn=PRINCIPAL)
    wait("the map's name again", said("dev:ada"), 20)
    # Everybody of an account, in no group.
    service.apply(aws_auth(mapAccounts=f'- "{ACCOUNT}"\n'))
    wait("the role itself", said(role), 20)
    service.kubectl("delete", "configmap", "aws-auth", "-n", "kube-system")
    wait("nobody again", unknown, 20)
    service.wait_nodes(2)
    forget(service, "mapped")


def test_modes_go_forward_only_and_lock_nobody_out(fresh_service):
    own = fresh_service
    own.start()
    eks = own.client("eks")
    own.create_cluster("modes", accessConfig={"authenticationMode": "CONFIG_MAP"})
    own.wait_cluster("modes")
    own.cli("update-kubeconfig", "--name", "modes", "--kubeconfig", own.kubeconfig)
    known = lambda: own.kubectl("get", "namespaces", check=False).returncode == 0  # noqa: E731
    wait("the creator", lambda: (known(), ""), 20)
    assert "authentication mode must be set" in refusal(eks.list_access_entries, clusterName="modes")
    # Somebody else is known by aws-auth, until the mode is API.
    other = own.client("iam").create_user(UserName="other")["User"]["Arn"]
    them = lambda: whoami_of(own, "modes", "other")  # noqa: E731
    own.apply(aws_auth(mapUsers=[{"userarn": other, "username": "mapped", "groups": []}]))
    wait("the other", lambda: ("mapped" in (told := them()), told), 20)
    update = lambda mode: eks.update_cluster_config(name="modes", accessConfig={"authenticationMode": mode})  # noqa: E731
    assert "InvalidParameterException" in refusal(update, mode="API")
    # Each command has a token of its own, which is asked for anew.
    look = lambda: own.kubectl("get", "namespaces", check=False, timeout=20)  # noqa: E731
    with never_refused(look):
        assert update("API_AND_CONFIG_MAP")["update"]["type"] == "AccessConfigUpdate"
        own.wait_cluster("modes")
        assert known() and known()
    assert eks.list_access_entries(clusterName="modes")["accessEntries"] == [f"arn:aws:iam::{ACCOUNT}:user/admin"]
    assert known() and "mapped" in them()
    with never_refused(look):
        update("API")
        own.wait_cluster("modes")
        assert known() and known()
    assert known() and "InvalidParameterException" in refusal(update, mode="API_AND_CONFIG_MAP")
    # Of the ConfigMap nothing is read any more; a token of the same second is still remembered.
    wait("the other is nobody", lambda: ("mapped" not in (told := them()), told), 5, 1)
    assert eks.describe_cluster(name="modes")["cluster"]["accessConfig"]["authenticationMode"] == "API"
    own.delete_cluster("modes")
