//! Why a signature is refused, and what each protocol calls it.
//!
//! Sources: "Common errors" of the STS, EKS and EC2 API references.

use ekstra_model::Protocol;

use crate::error::ApiError;

/// A request that is not authenticated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigError {
    #[error("Request is missing Authentication Token")]
    Missing,
    #[error("{0}")]
    Incomplete(String),
    #[error("The security token included in the request is invalid.")]
    UnknownKey { access_key: String },
    #[error("The security token included in the request is expired")]
    ExpiredToken,
    #[error(
        "The request signature we calculated does not match the signature you provided. \
         Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
    /// The credential scope, a header that had to be signed, or a payload hash is wrong.
    #[error("{0}")]
    Invalid(String),
    #[error("Signature expired: {signed} is now earlier than {limit} ({now} - {minutes} min.)")]
    TooOld { signed: String, limit: String, now: String, minutes: i64 },
    #[error("Signature not yet current: {signed} is still later than {limit} ({now} + {minutes} min.)")]
    NotYet { signed: String, limit: String, now: String, minutes: i64 },
    #[error("Request has expired.")]
    RequestExpired,
}

impl SigError {
    /// The answer in a protocol's words.
    pub fn to_error(&self, protocol: Protocol) -> ApiError {
        let query = matches!(protocol, Protocol::AwsQuery | Protocol::Ec2Query);
        let pick = |in_query: &'static str, elsewhere: &'static str| if query { in_query } else { elsewhere };
        let (code, status) = match self {
            Self::Missing => (pick("MissingAuthenticationToken", "MissingAuthenticationTokenException"), 403),
            Self::Incomplete(_) => (pick("IncompleteSignature", "IncompleteSignatureException"), 400),
            Self::UnknownKey { .. } if protocol == Protocol::Ec2Query => {
                let text = "AWS was not able to validate the provided access credentials";
                return ApiError::client("AuthFailure", 401, text);
            }
            Self::UnknownKey { .. } => (pick("InvalidClientTokenId", "UnrecognizedClientException"), 403),
            Self::ExpiredToken => (pick("ExpiredToken", "ExpiredTokenException"), 403),
            Self::Mismatch | Self::Invalid(_) | Self::TooOld { .. } | Self::NotYet { .. } => {
                (pick("SignatureDoesNotMatch", "InvalidSignatureException"), 403)
            }
            Self::RequestExpired => (pick("RequestExpired", "RequestExpiredException"), 400),
        };
        ApiError::client(code, status, self.to_string())
    }
}
