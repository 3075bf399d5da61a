//! From a request to its answer: guard, route, authenticate, decode, validate, operate, encode.

use crate::http::LARGEST_BODY;
use ekstra_cloud::api::{Call, Origin, Router};
use ekstra_cloud::trail::{Record, Trail};
use ekstra_cloud::{Cloud, ensure_scope};
use ekstra_domain::iam::{AccessKey, Credential, Principal, Secret, SessionTerms};
use ekstra_domain::names::{Arn, DEFAULT_ACCOUNT, Scope, is_region, keys};
use ekstra_model::sts::AssumeRoleWithWebIdentityResponse;
use ekstra_model::{Shape, Value};
use ekstra_wire::sigv4::{self, SecretKey, SigError, VerifyOptions};
use ekstra_wire::{
    ApiError, Request, Response, Routed, decode_request, encode_error, encode_response, encoding, parameters,
    route, shortened, validate, violations_error,
};

/// Answered to whoever asks whether the service is there; names nothing secret.
pub(crate) const HEALTH: &str = "/_ekstra/health";

/// Characters of a refusal that the log has.
const LOGGED: usize = 1024;

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) cloud: Cloud,
    pub(crate) router: Router,
    pub(crate) trail: Trail,
    /// Identifies this home to the command line.
    pub(crate) home: String,
}

/// What was found out about a call before it ended.
#[derive(Default)]
struct Seen {
    principal: Option<Principal>,
    access_key: Option<String>,
    region: Option<String>,
    parameters: serde_json::Value,
}

impl Service {
    pub(crate) async fn handle(&self, request: Request, origin: Origin) -> Response {
        if let Some(refusal) = self.guard(&request) {
            return refusal;
        }
        if request.path == HEALTH {
            return self.health();
        }
        let request_id = self.cloud.env.uuid();
        let scope = sigv4::scope(&request);
        let plain = match encoding::unpacked(&request, LARGEST_BODY) {
            Ok(plain) => plain,
            Err(refused) => return self.refuse(&request, &refused.to_error()),
        };
        let routed = match route(&plain, scope.as_ref().map(|s| s.service.as_str())) {
            Ok(routed) => routed,
            Err(error) => return encode_error(error.protocol(), &error.to_error(), &request_id),
        };
        let protocol = routed.service.protocol;
        let operation = routed.operation.name;
        let mut seen = Seen { access_key: scope.map(|scope| scope.access_key), ..Seen::default() };
        let outcome = self.operate((&request, &plain), &routed, &request_id, &origin, &mut seen).await;
        self.note(&request, &routed, &request_id, &origin, seen, outcome.as_ref().err());
        match outcome {
            Ok(response) => response,
            Err(error) => {
                let message = shortened(&error.message, LOGGED);
                tracing::info!(operation, code = error.code, message, "refused");
                encode_error(protocol, &error, &request_id)
            }
        }
    }

    /// Of a request whose body is not known: as its service would, as far as the rest of it tells.
    pub(crate) fn refuse(&self, request: &Request, error: &ApiError) -> Response {
        let scope = sigv4::scope(request);
        let routed = route(request, scope.as_ref().map(|s| s.service.as_str()));
        let protocol = routed.map_or_else(|unknown| unknown.protocol(), |routed| routed.service.protocol);
        encode_error(protocol, error, &self.cloud.env.uuid())
    }

    fn note(
        &self,
        request: &Request,
        routed: &Routed,
        request_id: &str,
        origin: &Origin,
        seen: Seen,
        error: Option<&ApiError>,
    ) {
        let record = Record {
            service: routed.service.id,
            operation: routed.operation.name,
            region: seen.region.as_deref().unwrap_or(&self.cloud.settings.region),
            principal: seen.principal.as_ref(),
            access_key: seen.access_key.as_deref(),
            address: origin.address,
            user_agent: request.header("user-agent"),
            is_tls: origin.is_tls,
            parameters: seen.parameters,
            error: error.map(|error| (error.code.as_str(), error.message.as_str())),
            request_id,
        };
        self.trail.note(&self.cloud, record);
    }

    async fn operate(
        &self,
        // As it travelled, which is what the signature covers, and unpacked.
        (request, plain): (&Request, &Request),
        routed: &Routed,
        request_id: &str,
        origin: &Origin,
        seen: &mut Seen,
    ) -> Result<Response, ApiError> {
        let protocol = routed.service.protocol;
        let is_anonymous = routed.operation.anonymous && seen.access_key.is_none();
        let (Credential { principal, terms, issued: session_issued, .. }, region) = if is_anonymous {
            (nobody(), self.cloud.settings.region.clone())
        } else {
            self.authenticate(request, routed)?
        };
        if !is_anonymous {
            seen.principal = Some(principal.clone());
            seen.region = Some(region.clone());
        }
        let scope = Scope::new(&principal.account, region);
        let value = decode_request(routed, plain).map_err(|e| e.to_error(protocol))?;
        seen.parameters = parameters(routed.operation.input, &value);
        let violations = validate(routed.operation.input, &value);
        if !violations.is_empty() {
            return Err(violations_error(protocol, routed.operation, &violations));
        }
        ensure_scope(&self.cloud, &scope).await.map_err(ApiError::from)?;
        let origin = Origin { user_agent: request.header("user-agent").map(str::to_owned), ..origin.clone() };
        let request_id = request_id.to_owned();
        let call = Call { principal, terms, session_issued, scope, request_id: request_id.clone(), origin };
        let (service, operation) = (routed.service, routed.operation);
        let answer = self.router.call(operation.service, operation.name, call, value);
        let answer = answer.ok_or_else(|| unserved(operation.name))?.await?;
        if is_anonymous {
            seen.principal = web_identity(&answer);
        }
        Ok(encode_response(service, operation, &answer, &request_id))
    }

    fn authenticate(&self, request: &Request, routed: &Routed) -> Result<(Credential, String), ApiError> {
        let protocol = routed.service.protocol;
        let options = VerifyOptions { service: Some(routed.service.signing_name), ..Default::default() };
        let lookup = |id: &str, token: Option<&str>| {
            let credential = self.credential(id, token)?;
            Some((SecretKey::new(credential.secret.0.clone()).expiring(credential.expires), credential))
        };
        let verified = sigv4::verify(request, lookup, self.cloud.env.now(), &options)
            .map_err(|error| error.to_error(protocol))?;
        if !is_region(&verified.region) {
            let message =
                format!("Credential should be scoped to a valid region, not '{}'.", verified.region);
            return Err(SigError::Invalid(message).to_error(protocol));
        }
        let (_, credential) = verified.found;
        Ok((credential, verified.region))
    }

    fn credential(&self, id: &str, token: Option<&str>) -> Option<Credential> {
        let view = self.cloud.store.view();
        self.cloud.master.credential(id, token, |id| view.shared::<AccessKey>(&keys::access_key(id)))
    }

    /// Browsers send a page's origin, and a rebound name as the host; AWS's clients do neither.
    fn guard(&self, request: &Request) -> Option<Response> {
        let host = request.header("host").unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let address = self.cloud.settings.address.to_string();
        let ours = ["127.0.0.1", "localhost", address.as_str()].contains(&name);
        let site = request.header("sec-fetch-site").is_some_and(|s| s != "none" && s != "same-origin");
        if ours && !site && request.header("origin").is_none() {
            return None;
        }
        let body = br#"{"message":"This address is for AWS clients on this machine."}"#.to_vec();
        Some(Response {
            status: 403,
            headers: vec![("content-type".into(), "application/json".into())],
            body,
        })
    }

    fn health(&self) -> Response {
        let body =
            serde_json::json!({"service": "ekstra", "version": env!("CARGO_PKG_VERSION"), "home": self.home});
        Response {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            body: body.to_string().into_bytes(),
        }
    }
}

/// Who has shown by a token who they are, as the answer says.
fn web_identity(answer: &Value) -> Option<Principal> {
    let answer = AssumeRoleWithWebIdentityResponse::from_value(answer.clone()).ok()?;
    let assumed: Arn = answer.assumed_role_user?.arn?.parse().ok()?;
    let (provider, audience) = (answer.provider?, answer.audience?);
    let subject = answer.subject_from_web_identity_token?;
    let user_id = format!("{provider}:{audience}:{subject}");
    Some(Principal { account: assumed.account, arn: provider, user_id })
}

/// Whoever calls an operation that asks for no signature.
fn nobody() -> Credential {
    Credential {
        secret: Secret(String::new()),
        issued: None,
        expires: None,
        principal: Principal {
            account: DEFAULT_ACCOUNT.into(),
            arn: "anonymous".into(),
            user_id: "anonymous".into(),
        },
        terms: SessionTerms::default(),
    }
}

fn unserved(operation: &str) -> ApiError {
    ApiError::client("UnknownOperationException", 404, format!("ekstra does not serve {operation}"))
}
