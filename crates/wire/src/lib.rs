//! The AWS wire: routing, one codec a protocol, constraint validation, error envelopes and Signature Version 4.
//!
//! Pure: bytes in, bytes out; no sockets, no clock. Invariant: nothing here knows an operation by name, except
//! STS's `GetCallerIdentity` inside EKS tokens. What an operation looks like comes from `ekstra_model`'s schemas.

mod codec;
pub mod encoding;
mod error;
mod message;
mod redact;
mod route;
pub mod sigv4;
mod text;
mod time;
mod validate;

pub use codec::{DecodeError, decode_input, decode_request, encode_output, encode_response};
pub use error::{ApiError, encode_error};
pub use message::{Request, Response};
pub use redact::parameters;
pub use route::{RouteError, Routed, route};
pub use text::uri_encode;
pub use time::{amz_date, iso8601, parse_amz_date, parse_iso8601};
pub use validate::{Violation, shortened, validate, violations_error, violations_message};
