"""How requests and answers travel: packed, over TLS, with a name of their own, signed by a clock that is wrong."""

import datetime
import gzip
import http.client
import json
import unittest.mock
import urllib.parse

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.exceptions
import pytest
from ekstra_service import ACCOUNT, REGION


def packing(client, pack=gzip.compress, encoding="gzip"):
    """The client's bodies travel packed, and are signed so."""

    def before_sign(request, **_):
        body = request.body
        request.data = pack(body.encode() if isinstance(body, str) else body)
        request.headers["Content-Encoding"] = encoding

    client.meta.events.register("before-sign", before_sign)
    return client


def signed(service, method, name, path, body=b"", **headers):
    """Status, headers and the body as it travelled."""
    env = service.aws_env()
    url = env["AWS_ENDPOINT_URL"] + path
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=body, headers=headers)
    keys = botocore.credentials.Credentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
    botocore.auth.SigV4Auth(keys, name, REGION).add_auth(request)
    prepared = request.prepare()
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=10)
    connection.request(method, path, prepared.body, dict(prepared.headers.items()))
    answer = connection.getresponse()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def test_requests_may_be_packed(service, cluster):
    arn = f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/{cluster}"
    packing(service.client("eks")).tag_resource(resourceArn=arn, tags={"packed": "yes"})
    eks = service.client("eks")
    assert eks.list_tags_for_resource(resourceArn=arn)["tags"]["packed"] == "yes"
    eks.untag_resource(resourceArn=arn, tagKeys=["packed"])
    assert packing(service.client("sts")).get_caller_identity()["Account"] == ACCOUNT
    assert packing(service.client("ec2")).describe_subnets()["Subnets"]
    name = [{"AttributeKey": "EventName", "AttributeValue": "TagResource"}]
    assert packing(service.client("cloudtrail")).lookup_events(LookupAttributes=name)["Events"]


@pytest.mark.parametrize(
    ("pack", "encoding", "status", "code"),
    [
        (lambda body: body, "gzip", 400, "SerializationException"),
        (lambda body: gzip.compress(body)[:-9], "gzip", 400, "SerializationException"),
        (gzip.compress, "br", 415, "UnsupportedMediaTypeException"),
        (lambda _: gzip.compress(bytes(8 << 20)), "gzip", 413, "RequestEntityTooLargeException"),
    ],
)
def test_what_is_packed_wrongly_is_refused(service, cluster, pack, encoding, status, code):
    eks = packing(service.client("eks"), pack, encoding)
    arn = f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/{cluster}"
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        eks.tag_resource(resourceArn=arn, tags={"packed": "no"})
    said = refused.value.response
    assert (said["ResponseMetadata"]["HTTPStatusCode"], said["Error"]["Code"]) == (status, code)
    assert len(said["ResponseMetadata"]["RequestId"]) == 36
    # A service that speaks XML says it in XML.
    with pytest.raises(botocore.exceptions.ClientError, match=code):
        packing(service.client("sts"), pack, encoding).get_caller_identity()
    assert "packed" not in service.client("eks").list_tags_for_resource(resourceArn=arn)["tags"]


def test_a_body_that_is_too_large_is_told_so(service):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(service.aws_env()["AWS_ENDPOINT_URL"]).netloc, timeout=10)
    connection.putrequest("POST", "/clusters")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(3 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (413, "RequestEntityTooLargeException")
    assert "too large" in json.loads(answer.read())["message"] and len(answer.headers["x-amzn-requestid"]) == 36


def test_the_signature_is_of_what_travels(service):
    """Packed after it was signed: somebody on the way has changed it."""
    sts = service.client("sts")

    def before_send(request, **_):
        request.body = gzip.compress(request.body.encode() if isinstance(request.body, str) else request.body)
        request.headers["Content-Encoding"] = "gzip"
        request.headers["Content-Length"] = str(len(request.body))

    sts.meta.events.register("before-send", before_send)
    with pytest.raises(botocore.exceptions.ClientError, match="SignatureDoesNotMatch"):
        sts.get_caller_identity()


def test_long_answers_are_packed_for_whom_takes_it(service):
    body = "Action=ListPolicies&Version=2010-05-08&MaxItems=1000"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, headers, plain = signed(service, "POST", "iam", "/", body, **form)
    assert status == 200 and "content-encoding" not in headers and len(plain) > 8 << 10
    status, headers, packed = signed(service, "POST", "iam", "/", body, **form, **{"Accept-Encoding": "gzip, deflate"})
    assert (status, headers["content-encoding"], headers["vary"]) == (200, "gzip", "accept-encoding")
    assert len(packed) < len(plain) / 4 and b"AmazonEKSClusterPolicy" in gzip.decompress(packed)
    status, headers, short = signed(service, "GET", "eks", "/clusters", **{"Accept-Encoding": "gzip"})
    assert status == 200 and "content-encoding" not in headers and "clusters" in json.loads(short)


def test_over_tls(service, cluster):
    env = service.aws_env()
    url = env["AWS_ENDPOINT_URL"].replace("http://", "https://")
    shown = ["--endpoint-url", url, "--ca-bundle", f"{service.home}/ca.crt"]
    assert cluster in service.aws("eks", "list-clusters", *shown).stdout


def test_every_answer_has_a_name(service):
    seen = set()
    for client, call in [("eks", "list_clusters"), ("ec2", "describe_vpcs"), ("iam", "list_users"), ("sts", "get_caller_identity")]:
        answer = getattr(service.client(client), call)()
        seen.add(answer["ResponseMetadata"]["RequestId"])
    assert len(seen) == 4 and all(len(name) == 36 for name in seen)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_clock_that_is_wrong_is_told_so(service, minutes):
    real = botocore.auth.get_current_datetime
    wrong = lambda *args, **more: real(*args, **more) + datetime.timedelta(minutes=minutes)  # noqa: E731
    with unittest.mock.patch.object(botocore.auth, "get_current_datetime", wrong):
        for client, call, code in [
            ("eks", "list_clusters", "InvalidSignatureException"),
            ("sts", "get_caller_identity", "SignatureDoesNotMatch"),
        ]:
            with pytest.raises(botocore.exceptions.ClientError) as refused:
                getattr(service.client(client), call)()
            said = refused.value.response["Error"]
            assert said["Code"] == code
            assert "Signature expired" in said["Message"] or "Signature not yet current" in said["Message"]
