//! Operations as a table: a marker type of the model, and the function that answers it.

use crate::Cloud;
use crate::access::{self, Access};
use ekstra_domain::iam::{Principal, SessionTerms};
use ekstra_domain::names::Scope;
use ekstra_model::{OperationShape, Protocol, Shape, Value};
use ekstra_store::{CommitError, TxnError};
use ekstra_wire::ApiError;
use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

/// Who calls, and where.
#[derive(Clone, Debug)]
pub struct Call {
    pub principal: Principal,
    /// Of the caller's session, if its key is one's.
    pub terms: SessionTerms,
    /// When the session began that the caller's key is of, in Unix seconds; `None` for a key that lasts.
    pub session_issued: Option<i64>,
    pub scope: Scope,
    pub request_id: String,
    pub origin: Origin,
}

/// Where a request came from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub address: Option<IpAddr>,
    pub is_tls: bool,
    pub user_agent: Option<String>,
}

impl Origin {
    /// A service of AWS asks from where it is, and never in the clear.
    pub fn of_service() -> Self {
        Self { is_tls: true, ..Self::default() }
    }
}

type Handler = Arc<dyn Fn(Call, Value) -> BoxFuture<'static, Result<Value, ApiError>> + Send + Sync>;

/// Every operation that is served.
#[derive(Clone)]
pub struct Router {
    cloud: Cloud,
    handlers: HashMap<(&'static str, &'static str), Handler>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.handlers.keys()).finish()
    }
}

impl Router {
    pub fn new(cloud: Cloud) -> Self {
        Self { cloud, handlers: HashMap::new() }
    }

    /// `access` says what a call needs; whoever has not got that does not come to `function`.
    pub fn serve<O, C, F, A>(
        &mut self,
        _operation: O,
        context: &C,
        access: impl Fn(&C, &Call, &O::Input) -> Access + Clone + Send + Sync + 'static,
        function: F,
    ) where
        O: OperationShape,
        O::Input: Send + 'static,
        O::Output: Send,
        C: Clone + Send + Sync + 'static,
        F: Fn(C, Call, O::Input) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<O::Output, ApiError>> + Send + 'static,
    {
        let (context, cloud) = (context.clone(), self.cloud.clone());
        let operation = O::OPERATION;
        let action = format!("{}:{}", operation.service, operation.name);
        let protocol = protocol(operation.service);
        let handler = move |call: Call, input: Value| {
            let (context, function, cloud) = (context.clone(), function.clone(), cloud.clone());
            let (access, action) = (access.clone(), action.clone());
            async move {
                let input = O::Input::from_value(input).map_err(|e| ApiError::internal(e.to_string()))?;
                let needed = access(&context, &call, &input);
                access::check(&cloud, &call, protocol, &action, needed)?;
                function(context, call, input).await.map(|output| output.to_value())
            }
            .boxed()
        };
        self.handlers.insert((operation.service, operation.name), Arc::new(handler));
    }

    /// `None` when the operation is in the model and not served.
    pub fn call(
        &self,
        service: &str,
        operation: &str,
        call: Call,
        input: Value,
    ) -> Option<BoxFuture<'static, Result<Value, ApiError>>> {
        let handler = self.handlers.get(&(service, operation))?;
        Some(handler(call, input))
    }
}

/// How a service's clients are told of errors.
fn protocol(service: &str) -> Protocol {
    let served = ekstra_model::SERVICES.iter().find(|known| known.id == service);
    served.map_or(Protocol::RestJson, |known| known.protocol)
}

/// What was asked, without the token: the same token with other words is refused.
pub fn digest(input: &impl std::fmt::Debug) -> String {
    hex::encode(Sha256::digest(format!("{input:?}")))
}

/// The outcome of a transaction's body: an answer for the caller, or a failure of the store.
#[derive(Debug)]
pub enum Refusal {
    Api(ApiError),
    Store(CommitError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        Self::Store(error)
    }
}

impl From<TxnError> for Refusal {
    fn from(error: TxnError) -> Self {
        Self::Store(error.into())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Api(error) => error,
            Refusal::Store(error) => {
                tracing::error!(%error, "store");
                Self::internal("The service's state could not be written.")
            }
        }
    }
}
