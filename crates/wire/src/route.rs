//! Which operation a request asks for.
//!
//! One port serves every service, so the SigV4 scope names the service; `X-Amz-Target`, `Action` and the path stand
//! in for unsigned calls. Invariant: REST paths are split on raw `/` before they are decoded, since ARNs travel in
//! them with their slashes encoded.

use ekstra_model::{Operation, Protocol, SERVICES, Service};

use crate::error::ApiError;
use crate::message::Request;
use crate::text::{parse_query, uri_decode};

/// A request's operation and the labels its path carried.
#[derive(Clone, Debug)]
pub struct Routed {
    pub service: &'static Service,
    pub operation: &'static Operation,
    /// `(label, decoded value)`, as `{label}` in the operation's URI.
    pub labels: Vec<(&'static str, String)>,
}

/// Why no operation was found. Always a 4xx, so that clients do not retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("The service {service} is not served here.")]
    UnknownService { protocol: Protocol, service: String },
    #[error("The action {operation} is not valid for this web service ({service}).")]
    UnknownOperation { protocol: Protocol, service: &'static str, operation: String },
    #[error(
        "The request names no service: it is unsigned and has neither X-Amz-Target nor Action nor a known path."
    )]
    Unroutable { protocol: Protocol },
    #[error("The request is not valid UTF-8 after decoding.")]
    Malformed { protocol: Protocol },
}

impl RouteError {
    /// The protocol the caller seems to speak, for [`crate::encode_error`].
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::UnknownService { protocol, .. }
            | Self::UnknownOperation { protocol, .. }
            | Self::Unroutable { protocol }
            | Self::Malformed { protocol } => *protocol,
        }
    }

    /// The answer.
    pub fn to_error(&self) -> ApiError {
        let (code, status) = match self.protocol() {
            Protocol::AwsQuery | Protocol::Ec2Query => ("InvalidAction", 400),
            Protocol::AwsJson10 | Protocol::AwsJson11 => ("UnknownOperationException", 400),
            Protocol::RestJson => ("UnknownOperationException", 404),
        };
        ApiError::client(code, status, self.to_string())
    }
}

/// Finds the operation. `scope` is the service of the credential scope, see [`crate::sigv4::scope`].
pub fn route(request: &Request, scope: Option<&str>) -> Result<Routed, RouteError> {
    route_among(SERVICES, request, scope)
}

fn route_among(
    services: &'static [&'static Service],
    request: &Request,
    scope: Option<&str>,
) -> Result<Routed, RouteError> {
    let action = action(request)?;
    if let Some(scope) = scope {
        let Some(service) = services.iter().find(|s| s.signing_name == scope) else {
            return Err(RouteError::UnknownService {
                protocol: guess(request, &action),
                service: scope.to_owned(),
            });
        };
        return within(service, request, &action);
    }
    if let Some(target) = request.header("x-amz-target") {
        let prefix = target.rsplit_once('.').map(|(prefix, _)| prefix);
        if let Some(service) =
            services.iter().find(|s| s.target_prefix.is_some() && s.target_prefix == prefix)
        {
            return within(service, request, &action);
        }
        let service = prefix.unwrap_or(target).to_owned();
        return Err(RouteError::UnknownService { protocol: guess(request, &action), service });
    }
    let candidates = services.iter().filter(|s| (action.is_some()) == is_query(s.protocol));
    candidates
        .filter_map(|s| within(s, request, &action).ok())
        .next()
        .ok_or_else(|| RouteError::Unroutable { protocol: guess(request, &action) })
}

fn within(
    service: &'static Service,
    request: &Request,
    action: &Option<String>,
) -> Result<Routed, RouteError> {
    let unknown = |operation: String| RouteError::UnknownOperation {
        protocol: service.protocol,
        service: service.id,
        operation,
    };
    let name = match service.protocol {
        Protocol::RestJson => return rest(service, request),
        Protocol::AwsJson10 | Protocol::AwsJson11 => {
            let target = request.header("x-amz-target").unwrap_or_default();
            target.rsplit_once('.').map_or(target, |(_, name)| name).to_owned()
        }
        Protocol::AwsQuery | Protocol::Ec2Query => action.clone().unwrap_or_default(),
    };
    match service.operation(&name) {
        Some(operation) => Ok(Routed { service, operation, labels: Vec::new() }),
        None => Err(unknown(name)),
    }
}

/// The operation with the most literal segments among those whose method and path match.
fn rest(service: &'static Service, request: &Request) -> Result<Routed, RouteError> {
    let malformed = RouteError::Malformed { protocol: service.protocol };
    let fitting = service
        .operations
        .iter()
        .filter(|operation| operation.http_method == request.method && fits(operation.uri, &request.path));
    let literals = |uri: &str| uri.matches('/').count() - uri.matches('{').count();
    // Of equals the first.
    let best = fitting.rev().max_by_key(|operation| literals(operation.uri));
    let unserved = || {
        let fits = |(method, uri, _): &&(&str, &'static str, &str)| {
            *method == request.method && fits(uri, &request.path)
        };
        // Of several the one with the fewest labels.
        let fitting = service.unserved.iter().filter(fits);
        let name = fitting.min_by_key(|(_, uri, _)| uri.matches('{').count()).map(|(.., name)| *name);
        name.map_or_else(|| format!("{} {}", request.method, request.path), str::to_owned)
    };
    let operation = best.ok_or_else(|| RouteError::UnknownOperation {
        protocol: service.protocol,
        service: service.id,
        operation: unserved(),
    })?;
    let mut labels = Vec::new();
    match_path(operation.uri, &request.path, |label, value| labels.push((label, uri_decode(value))));
    let labels = labels.into_iter().map(|(label, value)| value.map(|value| (label, value)));
    let labels = labels.collect::<Option<_>>().ok_or(malformed)?;
    Ok(Routed { service, operation, labels })
}

fn fits(template: &'static str, path: &str) -> bool {
    match_path(template, path, |_, _| {}).is_some()
}

/// Tells the raw labels of a `path` that fits `template`. A greedy label `{x+}` takes the rest.
fn match_path<'p>(
    template: &'static str,
    path: &'p str,
    mut tell: impl FnMut(&'static str, &'p str),
) -> Option<()> {
    let template = template.split('?').next().unwrap_or(template);
    let mut path = path.strip_prefix('/')?;
    path = path.strip_suffix('/').unwrap_or(path);
    let mut rest = Some(path);
    for segment in template.strip_prefix('/')?.split('/') {
        let remaining = rest?;
        let label = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        if let Some(greedy) = label.and_then(|l| l.strip_suffix('+')) {
            tell(greedy, remaining);
            return (!remaining.is_empty()).then_some(());
        }
        let (head, tail) = remaining.split_once('/').map_or((remaining, None), |(h, t)| (h, Some(t)));
        match label {
            Some(label) if !head.is_empty() => tell(label, head),
            None if head == segment => {}
            _ => return None,
        }
        rest = tail;
    }
    rest.is_none().then_some(())
}

/// `Action` of the query or of a form body.
fn action(request: &Request) -> Result<Option<String>, RouteError> {
    let malformed = RouteError::Malformed { protocol: Protocol::AwsQuery };
    let find = |raw: &str| -> Result<Option<String>, RouteError> {
        let pairs = parse_query(raw).ok_or(malformed.clone())?;
        Ok(pairs.into_iter().find(|(k, _)| k == "Action").map(|(_, v)| v))
    };
    if request.query.contains("Action=")
        && let Some(action) = find(&request.query)?
    {
        return Ok(Some(action));
    }
    if request.media_type().as_deref() != Some("application/x-www-form-urlencoded") {
        return Ok(None);
    }
    find(std::str::from_utf8(&request.body).map_err(|_| malformed.clone())?)
}

fn is_query(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::AwsQuery | Protocol::Ec2Query)
}

fn guess(request: &Request, action: &Option<String>) -> Protocol {
    if request.header("x-amz-target").is_some() {
        let one_zero = request.media_type().as_deref() == Some("application/x-amz-json-1.0");
        return if one_zero { Protocol::AwsJson10 } else { Protocol::AwsJson11 };
    }
    if action.is_some() { Protocol::AwsQuery } else { Protocol::RestJson }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekstra_model::Value;

    fn request(method: &str, path: &str) -> Request {
        Request { method: method.to_owned(), path: path.to_owned(), ..Request::default() }
    }

    #[test]
    fn what_is_not_served_has_a_name() {
        let partly = Service {
            operations: &[],
            unserved: &[
                ("GET", "/clusters/{name}/fargate-profiles", "ListFargateProfiles"),
                ("GET", "/clusters/{name}/{part}", "DescribePart"),
            ],
            ..ekstra_model::eks::SERVICE
        };
        let services: &'static [&'static Service] = Box::leak(Box::new([&*Box::leak(Box::new(partly))]));
        for (method, path, name) in [
            ("GET", "/clusters/a/fargate-profiles", "ListFargateProfiles"),
            ("GET", "/clusters/a/b", "DescribePart"),
            ("PATCH", "/clusters/a", "PATCH /clusters/a"),
        ] {
            let error = route_among(services, &request(method, path), Some("eks")).expect_err("not served");
            let RouteError::UnknownOperation { operation, .. } = error else { panic!("{error:?}") };
            assert_eq!(operation, name);
        }
    }

    fn routed(method: &str, path: &str) -> (String, Vec<(&'static str, String)>) {
        let routed = route(&request(method, path), Some("eks")).expect("routable");
        (routed.operation.name.to_owned(), routed.labels)
    }

    #[test]
    fn rest_paths_find_their_operation() {
        assert_eq!(routed("GET", "/clusters").0, "ListClusters");
        assert_eq!(
            routed("GET", "/clusters/a%20b"),
            ("DescribeCluster".to_owned(), vec![("name", "a b".to_owned())])
        );
        assert_eq!(routed("POST", "/clusters/x/updates").0, "UpdateClusterVersion");
        assert_eq!(routed("GET", "/clusters/x/updates").0, "ListUpdates");
        assert_eq!(routed("GET", "/cluster-versions").0, "DescribeClusterVersions");
        let arn = "arn:aws:eks:us-east-1:000000000000:cluster/x";
        let path = "/tags/arn%3Aaws%3Aeks%3Aus-east-1%3A000000000000%3Acluster%2Fx";
        assert_eq!(
            routed("DELETE", path),
            ("UntagResource".to_owned(), vec![("resourceArn", arn.to_owned())])
        );
    }

    #[test]
    fn what_is_not_served_is_a_4xx_by_name() {
        let error = route(&request("GET", "/nothing/here"), Some("eks")).expect_err("unknown");
        assert_eq!(error.to_error().status, 404);
        assert!(error.to_string().contains("GET /nothing/here"), "{error}");
        let error = route(&request("GET", "/"), Some("sqs")).expect_err("unknown");
        assert!(error.to_string().contains("sqs"), "{error}");
    }

    fn targeted(target: &str, body: &[u8]) -> Request {
        let mut post = request("POST", "/");
        post.headers.push(("x-amz-target".into(), target.into()));
        post.body = body.to_vec();
        post
    }

    #[test]
    fn targets_are_found_whether_a_scope_is_named_or_not() {
        let prefix = ekstra_model::cloudtrail::SERVICE.target_prefix.expect("it has one");
        let lookup = targeted(&format!("{prefix}.LookupEvents"), b"{}");
        for scope in [Some("cloudtrail"), None] {
            assert_eq!(route(&lookup, scope).expect("routable").operation.name, "LookupEvents");
        }
        let unserved =
            route(&targeted(&format!("{prefix}.CreateTrail"), b"{}"), None).expect_err("not served");
        assert_eq!(unserved.protocol(), Protocol::AwsJson11);
        assert!(unserved.to_string().contains("CreateTrail"), "{unserved}");
        for nothing in ["", ".", "LookupEvents", "Nobody_20120810.LookupEvents"] {
            assert!(route(&targeted(nothing, b"{}"), None).is_err(), "{nothing}");
        }
    }

    /// None of the services is one yet; DynamoDB's and SQS's kind.
    #[test]
    fn json_1_0_differs_by_its_name() {
        let older = Service { protocol: Protocol::AwsJson10, ..ekstra_model::cloudtrail::SERVICE };
        let older: &'static Service = Box::leak(Box::new(older));
        let services: &'static [&'static Service] = Box::leak(Box::new([older]));
        let target = format!("{}.LookupEvents", older.target_prefix.expect("it has one"));
        let asked = targeted(&target, br#"{"MaxResults": 7}"#);
        let routed = route_among(services, &asked, None).expect("routable");
        let input = crate::decode_request(&routed, &asked).expect("is understood");
        assert!(matches!(&input, Value::Struct(members) if members.len() == 1));
        let answer = crate::encode_response(older, routed.operation, &Value::Struct(Vec::new()), "r");
        let refusal = crate::encode_error(older.protocol, &crate::ApiError::client("Code", 400, "why"), "r");
        for response in [answer, refusal] {
            let found = response.headers.iter().find(|(name, _)| name == "content-type");
            assert_eq!(found.map(|(_, value)| value.as_str()), Some("application/x-amz-json-1.0"));
        }
    }

    #[test]
    fn actions_are_found_in_body_and_query() {
        let mut post = request("POST", "/");
        post.headers.push(("content-type".into(), "application/x-www-form-urlencoded; charset=utf-8".into()));
        post.body = b"Action=GetRole&Version=2010-05-08&RoleName=r".to_vec();
        assert_eq!(route(&post, Some("iam")).expect("routable").operation.name, "GetRole");
        assert_eq!(route(&post, None).expect("routable").service.id, "iam");
        let mut get = request("GET", "/");
        get.query = "Action=GetCallerIdentity&Version=2011-06-15".to_owned();
        assert_eq!(route(&get, None).expect("routable").service.id, "sts");
        get.query = "Action=Nonsense".to_owned();
        let error = route(&get, Some("sts")).expect_err("unknown").to_error();
        assert_eq!((error.code.as_str(), error.status), ("InvalidAction", 400));
    }
}
