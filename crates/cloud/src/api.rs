//! Operations as a table: a marker type of the model, and the function that answers it.

use ekstra_domain::iam::Principal;
use ekstra_domain::names::Scope;
use ekstra_model::{OperationShape, Shape, Value};
use ekstra_store::{CommitError, TxnError};
use ekstra_wire::ApiError;
use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

/// Who calls, and where.
#[derive(Clone, Debug)]
pub struct Call {
    pub principal: Principal,
    pub scope: Scope,
    pub request_id: String,
}

type Handler = Arc<dyn Fn(Call, Value) -> BoxFuture<'static, Result<Value, ApiError>> + Send + Sync>;

/// Every operation that is served.
#[derive(Clone, Default)]
pub struct Router {
    handlers: HashMap<(&'static str, &'static str), Handler>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.handlers.keys()).finish()
    }
}

impl Router {
    pub fn serve<O, C, F, A>(&mut self, _operation: O, context: &C, function: F)
    where
        O: OperationShape,
        O::Input: Send + 'static,
        O::Output: Send,
        C: Clone + Send + Sync + 'static,
        F: Fn(C, Call, O::Input) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<O::Output, ApiError>> + Send + 'static,
    {
        let context = context.clone();
        let handler = move |call: Call, input: Value| {
            let (context, function) = (context.clone(), function.clone());
            async move {
                let input = O::Input::from_value(input).map_err(|e| ApiError::internal(e.to_string()))?;
                function(context, call, input).await.map(|output| output.to_value())
            }
            .boxed()
        };
        let operation = O::OPERATION;
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
