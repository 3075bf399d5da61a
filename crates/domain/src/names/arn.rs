//! Amazon Resource Names.

use std::fmt;
use std::str::FromStr;

/// `arn:<partition>:<service>:<region>:<account>:<resource>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arn {
    pub partition: String,
    pub service: String,
    pub region: String,
    pub account: String,
    /// Everything behind the fifth colon.
    pub resource: String,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0:?} is not an ARN")]
pub struct ArnError(String);

impl FromStr for Arn {
    type Err = ArnError;

    fn from_str(text: &str) -> Result<Self, ArnError> {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let ["arn", partition, service, region, account, resource] = parts[..] else {
            return Err(ArnError(text.to_owned()));
        };
        if partition.is_empty() || service.is_empty() || resource.is_empty() {
            return Err(ArnError(text.to_owned()));
        }
        Ok(Self {
            partition: partition.into(),
            service: service.into(),
            region: region.into(),
            account: account.into(),
            resource: resource.into(),
        })
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, service, region, account, resource } = self;
        write!(f, "arn:{partition}:{service}:{region}:{account}:{resource}")
    }
}

impl Arn {
    /// The name of an IAM user, without its path.
    pub fn user_name(&self) -> Option<&str> {
        match (self.service.as_str(), self.resource.split_once('/')?) {
            ("iam", ("user", rest)) => rest.rsplit('/').next(),
            _ => None,
        }
    }

    /// The name of an IAM role, without its path; also of the role behind an assumed-role session.
    pub fn role_name(&self) -> Option<&str> {
        match (self.service.as_str(), self.resource.split_once('/')?) {
            ("iam", ("role", rest)) => rest.rsplit('/').next(),
            ("sts", ("assumed-role", rest)) => rest.split('/').next(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_round_trip_and_name_their_role() {
        let role: Arn = "arn:aws:iam::000000000000:role/path/eksNodeRole".parse().expect("valid");
        assert_eq!(role.to_string(), "arn:aws:iam::000000000000:role/path/eksNodeRole");
        assert_eq!(role.role_name(), Some("eksNodeRole"));
        let session: Arn = "arn:aws:sts::000000000000:assumed-role/R/i-1".parse().expect("valid");
        assert_eq!(session.role_name(), Some("R"));
        let cluster: Arn = "arn:aws:eks:us-east-1:000000000000:cluster/a:b".parse().expect("valid");
        assert_eq!((cluster.resource.as_str(), cluster.role_name()), ("cluster/a:b", None));
        for bad in ["", "arn:aws:iam", "arn::iam:::x", "urn:aws:iam::0:role/x"] {
            assert!(bad.parse::<Arn>().is_err(), "{bad}");
        }
    }
}
