"""Writes requests.json: what botocore 1.44.5 sends and signs at a fixed time, for the tests of ekstra-wire; and every.json:
what it sends for every operation that is served, with every member of its input, and an answer with every member; and what it
sends for the steps of crates/eks/tests/exchanges/scenario.json.

Run with that botocore installed: python3 generate.py. With the argument "answers" it reads answers/* (which the
tests write with UPDATE_GOLDEN=1) through botocore's parsers instead. What it makes of the answers to every operation,
`tests/e2e/test_04_exchanges.py` compares.
"""
import datetime, json, os, sys, tomllib, unittest.mock
import botocore.auth, botocore.config, botocore.session
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.parsers import create_parser
from botocore.validate import ParamValidator

HERE = os.path.dirname(os.path.abspath(__file__))
EXCHANGES = os.path.join(HERE, "../../../eks/tests/exchanges")
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
KEY, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "token/with+chars=="


def fixed_time():
    """While it lasts, botocore signs at that time."""
    now = lambda remove_tzinfo=True: NOW.replace(tzinfo=None) if remove_tzinfo else NOW
    return unittest.mock.patch.object(botocore.auth, "get_current_datetime", now)


CASES = [
    ("json_body", "eks", "CreateCluster", False, {
        "name": "demo", "version": "1.35", "roleArn": "arn:aws:iam::000000000000:role/eks",
        "resourcesVpcConfig": {"subnetIds": ["subnet-1", "subnet-2"], "endpointPublicAccess": True},
        "kubernetesNetworkConfig": {"serviceIpv4Cidr": "10.100.0.0/16"},
        "logging": {"clusterLogging": [{"types": ["api", "audit"], "enabled": True}]},
        "clientRequestToken": "token-1", "tags": {"a b": "grüße \"x\"", "k": ""}}),
    ("json_body_with_session_token", "eks", "UpdateNodegroupConfig", True, {
        "clusterName": "demo", "nodegroupName": "ng", "scalingConfig": {"minSize": 0, "maxSize": 3, "desiredSize": 1},
        "clientRequestToken": "token-2"}),
    ("query_members", "eks", "ListClusters", False, {"maxResults": 7, "nextToken": "a+b c/=", "include": ["all"]}),
    ("encoded_arn", "eks", "UntagResource", False, {
        "resourceArn": "arn:aws:eks:us-east-1:000000000000:cluster/x", "tagKeys": ["a", "b c", "d+e/f"]}),
    ("form", "sts", "AssumeRole", False, {
        "RoleArn": "arn:aws:iam::000000000000:role/r", "RoleSessionName": "s@x", "DurationSeconds": 900,
        "Tags": [{"Key": "a b", "Value": "1+1=2"}, {"Key": "c", "Value": "d=e"}], "TransitiveTagKeys": ["a b"]}),
    ("form_empty_list", "iam", "CreateRole", True, {
        "RoleName": "r", "Path": "/x/", "AssumeRolePolicyDocument": "{\"Version\": \"2012-10-17\"}", "Tags": []}),
    ("form_ec2", "ec2", "DescribeSubnets", False, {
        "SubnetIds": ["subnet-1", "subnet-2"], "DryRun": False, "MaxResults": 5,
        "Filters": [{"Name": "vpc-id", "Values": ["vpc-1", "vpc-2"]}, {"Name": "tag:x", "Values": ["*"]}]}),
]


def client(session, service, token):
    return session.create_client(service, region_name="us-east-1", aws_access_key_id=KEY,
                                 aws_secret_access_key=SECRET, aws_session_token=TOKEN if token else None,
                                 config=botocore.config.Config(parameter_validation=False))


def message(method, url, headers, body):
    rest = url.split("://", 1)[1]
    host, _, rest = rest.partition("/")
    path, _, query = ("/" + rest).partition("?")
    text = lambda v: v.decode() if isinstance(v, bytes) else str(v)
    headers = [[k.lower(), text(v)] for k, v in headers.items()]
    if not any(k == "host" for k, _ in headers):
        headers.append(["host", host])
    return {"method": method, "path": path, "query": query, "headers": headers, "body": text(body or b"")}


def requests(session):
    out = []
    for name, service, operation, token, params in CASES:
        r = sent_by(client(session, service, token), operation, params)
        headers = {k: v for k, v in r.headers.items() if k.lower() not in ("user-agent", "content-length")
                   and not k.lower().startswith("amz-sdk")}
        out.append({"name": name, "service": service, "operation": operation, "input": params,
                    "request": message(r.method, r.url, headers, r.body)})
    return out


def sample(shape, name, depth=0):
    """A value with every member, as deep as shapes do not come again. Text has what has to be escaped."""
    kind = shape.type_name
    if kind == "structure":
        members = shape.members.items() if depth < 8 else ()
        return {member: sample(inner, member, depth + 1) for member, inner in members}
    if kind == "list":
        return [sample(shape.member, name, depth + 1)]
    if kind == "map":
        return {sample(shape.key, "key", depth + 1): sample(shape.value, "value", depth + 1)}
    if kind == "string":
        return shape.enum[0] if shape.enum else f"{name} é/<&+=>"
    if kind in ("integer", "long"):
        return 7
    if kind in ("float", "double"):
        return 1.5
    if kind == "timestamp":
        return NOW
    if kind == "blob":
        return b"bytes"
    assert kind == "boolean", kind
    return True


def plain(value):
    """As JSON has it: instants in seconds, bytes as text."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime.datetime):
        return int(value.timestamp())
    return value.decode() if isinstance(value, bytes) else value


def served():
    with open(os.path.join(HERE, "../../../../models/operations.toml"), "rb") as f:
        services = tomllib.load(f)["service"]
    return [(service["id"], operation) for service in services for operation in service["operations"]]


def output_sample(model):
    return plain(sample(model.output_shape, "")) if model.output_shape else {}


def every(session):
    out = []
    for service, operation in served():
        model = session.get_service_model(service).operation_model(operation)
        params = sample(model.input_shape, "") if model.input_shape else {}
        out.append({"service": service, "operation": operation, "input": plain(params),
                    "request": unsigned(session, service, operation, params), "output": output_sample(model)})
    return out


def unsigned(session, service, operation, params):
    r = sent_by(client(session, service, False), operation, params)
    headers = {k: v for k, v in r.headers.items() if k.lower() in ("content-type", "x-amz-target", "host")}
    return message(r.method, r.url, headers, r.body)


def scenario(session):
    """The steps as botocore sends them; what one takes from the answer to another is a word between underscores."""
    with open(os.path.join(EXCHANGES, "scenario.json")) as f:
        steps = json.load(f)
    out = []
    for service, operation, params, *keep in steps:
        model = session.get_service_model(service).operation_model(operation)
        report = ParamValidator().validate(params, model.input_shape) if model.input_shape else None
        if report and report.has_errors():
            sys.exit(f"{service}.{operation}: {report.generate_report()}")
        # Tokens that botocore makes up would be others each time.
        members = model.input_shape.members if model.input_shape else {}
        tokens = [name for name, shape in members.items() if shape.metadata.get("idempotencyToken")]
        params = params | dict.fromkeys(set(tokens) - set(params), f"{operation}-{len(out)}")
        out.append({"service": service, "operation": operation, "keep": keep[0] if keep else {},
                    "request": unsigned(session, service, operation, params)})
    return out


def write_lines(path, items):
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in items) + "\n]\n")


def sent_by(c, operation, params):
    sent = []

    def stop(request, **_):
        sent.append(request)
        raise InterruptedError

    c.meta.events.register("before-send", stop)
    try:
        getattr(c, botocore.xform_name(operation))(**params)
    except InterruptedError:
        pass
    return sent[0]


def presigned(session):
    c = client(session, "sts", True)
    url = c.generate_presigned_url("get_caller_identity", ExpiresIn=120, HttpMethod="GET")
    return message("GET", url, {}, b"")


def eks_token_url(token):
    """As aws-cli's get-token: a presigned GET with the header x-k8s-aws-id."""
    request = AWSRequest("GET", "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
                         headers={"x-k8s-aws-id": "demo"})
    credentials = Credentials(KEY, SECRET, TOKEN if token else None)
    botocore.auth.SigV4QueryAuth(credentials, "sts", "us-east-1", expires=60).add_auth(request)
    return request.prepare().url


def answers(session):
    for file in sorted(os.listdir(os.path.join(HERE, "answers"))):
        service, operation, _ = file.split(".")
        model = session.get_service_model(service)
        with open(os.path.join(HERE, "answers", file), "rb") as f:
            body = f.read()
        if operation.startswith("error"):
            response = {"status_code": 404, "headers": {"x-amzn-errortype": "ResourceNotFoundException"}, "body": body}
            print(file, create_parser(model.metadata["protocol"]).parse(response, None))
            continue
        shape = model.operation_model(operation).output_shape
        response = {"status_code": 200, "headers": {}, "body": body}
        print(file, json.dumps(create_parser(model.metadata["protocol"]).parse(response, shape), default=str))


if __name__ == "__main__":
    with fixed_time():
        session = botocore.session.get_session()
        if sys.argv[1:] == ["answers"]:
            answers(session)
        else:
            golden = {"now": int(NOW.timestamp()), "access_key_id": KEY, "secret_access_key": SECRET,
                      "session_token": TOKEN, "requests": requests(session), "presigned": presigned(session),
                      "eks_token_url": eks_token_url(False), "eks_token_url_with_session": eks_token_url(True)}
            with open(os.path.join(HERE, "requests.json"), "w") as f:
                json.dump(golden, f, indent=1, ensure_ascii=False)
                f.write("\n")
            write_lines(os.path.join(HERE, "every.json"), every(session))
            write_lines(os.path.join(EXCHANGES, "requests.json"), scenario(session))
