"""Users of an OpenID Connect provider in a cluster: associated, known, forgotten. A namespace plays the provider (`internet.py`)."""

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import started
from ekstra_service import ACCOUNT, REGION, refusal, wait
from internet import ISSUER, Internet

CLUSTER, AUDIENCE = "oidc", "kubernetes"
URL = f"https://{ISSUER}"
NAMED = {"type": "oidc", "name": "login"}


@pytest.fixture(scope="module")
def internet(tmp_path_factory):
    played = Internet(tmp_path_factory.mktemp("internet"))
    yield played
    played.end()


@pytest.fixture(scope="module")
def service(internet):
    """With a control plane alone, and the authority of whoever plays the issuer."""

    def start(service):
        internet.start(service)
        (Path(service.home) / "issuer-authorities.pem").write_text(internet.authority.read_text())

    try:
        yield from started(start, CLUSTER)
    except BaseException:
        print(internet.log.read_text())
        raise


@pytest.fixture(scope="module")
def eks(service):
    return service.client("eks")


def oidc(**more):
    return {"identityProviderConfigName": "login", "issuerUrl": URL, "clientId": AUDIENCE, **more}


def settled(eks, update, timeout=90):
    look = lambda: eks.describe_update(name=CLUSTER, updateId=update["id"])["update"]  # noqa: E731
    wait("the update", lambda: ((u := look())["status"] != "InProgress", u), timeout)
    return look()


def whoami(service, token):
    """The bearer as the API server sees it, without the kubeconfig's own sign-in; or what it is told."""
    config = json.loads(service.kubectl("config", "view", "--raw", "-o", "json").stdout)
    for user in config["users"]:
        user["user"] = {"token": token}
    file = Path(service.home) / "bearer.json"
    file.write_text(json.dumps(config))
    done = service.kubectl("--kubeconfig", file, "auth", "whoami", "-o", "json", check=False)
    file.unlink()
    return json.loads(done.stdout)["status"]["userInfo"] if done.returncode == 0 else done.stderr


def test_its_users_are_known(service, eks, internet):
    asked = oidc(groupsClaim="groups", groupsPrefix="oidc:", requiredClaims={"tenant": "blue"})
    begun = eks.associate_identity_provider_config(
        clusterName=CLUSTER, oidc=asked, tags={"team": "a"}, clientRequestToken="once"
    )
    assert begun["tags"] == {"team": "a"}
    update = begun["update"]
    assert (update["type"], update["status"]) == ("AssociateIdentityProviderConfig", "InProgress")
    again = eks.associate_identity_provider_config(
        clusterName=CLUSTER, oidc=asked, tags={"team": "a"}, clientRequestToken="once"
    )
    assert again["update"]["id"] == update["id"]
    assert settled(eks, update)["status"] == "Successful"
    found = eks.describe_identity_provider_config(clusterName=CLUSTER, identityProviderConfig=NAMED)
    found = found["identityProviderConfig"]["oidc"]
    assert found["status"] == "ACTIVE" and found["issuerUrl"] == URL and found["requiredClaims"] == {"tenant": "blue"}
    assert found["identityProviderConfigArn"].startswith(
        f"arn:aws:eks:{REGION}:{ACCOUNT}:identityproviderconfig/{CLUSTER}/oidc/login/"
    )
    assert eks.list_identity_provider_configs(clusterName=CLUSTER)["identityProviderConfigs"] == [NAMED]
    eks.tag_resource(resourceArn=found["identityProviderConfigArn"], tags={"more": "b"})
    assert eks.list_tags_for_resource(resourceArn=found["identityProviderConfigArn"])["tags"] == {"team": "a", "more": "b"}

    user = whoami(service, internet.token("alice", AUDIENCE, tenant="blue", groups=["devs"]))
    assert user["username"] == f"{URL}#alice" and "oidc:devs" in user["groups"]
    for token in (
        internet.token("alice", AUDIENCE, tenant="green"),
        internet.token("alice", "others", tenant="blue"),
        internet.token("alice", AUDIENCE, tenant="blue", exp=1),
        internet.token("alice", AUDIENCE, tenant="blue")[:-8] + "AAAAAAAA",
    ):
        assert "You must be logged in to the server" in whoami(service, token)
    # Whoever signs in by IAM still does.
    service.kubectl("get", "namespaces")


def test_what_is_refused(eks):
    known = {"clusterName": CLUSTER}
    another = refusal(eks.associate_identity_provider_config, **known, oidc=oidc(identityProviderConfigName="other"))
    assert another.startswith("ResourceInUseException") and "login" in another
    for change, words in [
        ({"issuerUrl": "http://login.example.com"}, "issuerUrl"),
        ({"issuerUrl": f"{URL}?x=y"}, "issuerUrl"),
        ({"clientId": ""}, "clientId"),
        ({"groupsPrefix": "system:"}, "groupsPrefix"),
        ({"identityProviderConfigName": "-"}, "name"),
        ({"requiredClaims": {str(n): "x" for n in range(6)}}, "claims"),
    ]:
        told = refusal(eks.associate_identity_provider_config, **known, oidc=oidc(**change))
        assert told.startswith("InvalidParameterException") and words in told, told
    missing = {"type": "oidc", "name": "none"}
    assert "ResourceNotFound" in refusal(eks.describe_identity_provider_config, **known, identityProviderConfig=missing)
    assert "ResourceNotFound" in refusal(eks.disassociate_identity_provider_config, **known, identityProviderConfig=missing)
    saml = {"type": "saml", "name": "login"}
    assert "must be oidc" in refusal(eks.describe_identity_provider_config, **known, identityProviderConfig=saml)
    (update, *_) = eks.list_updates(name=CLUSTER)["updateIds"]
    told = refusal(eks.cancel_update, name=CLUSTER, updateId=update)
    assert told.startswith("InvalidRequestException") and "cannot be cancelled" in told
    assert "ResourceNotFound" in refusal(eks.cancel_update, name=CLUSTER, updateId="none")


def test_it_holds_for_the_next_api_server(service, eks, internet):
    (record,) = Path(service.home, "run").glob("cp-*-kube-apiserver.pid")
    before = json.loads(record.read_text())["pid"]
    os.kill(before, signal.SIGKILL)
    wait("another API server", lambda: ((now := json.loads(record.read_text())["pid"]) != before, now), 30)
    token = internet.token("alice", AUDIENCE, tenant="blue")
    wait("alice", lambda: ("username" in (found := whoami(service, token)), found), 30)


def test_its_users_are_forgotten(service, eks, internet):
    token = internet.token("alice", AUDIENCE, tenant="blue")
    update = eks.disassociate_identity_provider_config(clusterName=CLUSTER, identityProviderConfig=NAMED)["update"]
    assert update["type"] == "DisassociateIdentityProviderConfig"
    assert settled(eks, update)["status"] == "Successful"
    assert "You must be logged in to the server" in whoami(service, token)
    assert "ResourceNotFound" in refusal(eks.describe_identity_provider_config, clusterName=CLUSTER, identityProviderConfig=NAMED)
    assert eks.list_identity_provider_configs(clusterName=CLUSTER)["identityProviderConfigs"] == []


@pytest.mark.long
def test_an_issuer_that_is_not_there_is_given_up(eks):
    begun = eks.associate_identity_provider_config(clusterName=CLUSTER, oidc=oidc(issuerUrl="https://nowhere.example.com"))
    update = settled(eks, begun["update"], 180)
    assert update["status"] == "Failed"
    (error,) = update["errors"]
    assert "https://nowhere.example.com" in error["errorMessage"] and "no such host" in error["errorMessage"]
    gone = lambda: eks.list_identity_provider_configs(clusterName=CLUSTER)["identityProviderConfigs"] == []  # noqa: E731
    wait("the config gone", lambda: (gone(), ""), 90)
