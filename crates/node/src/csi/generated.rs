//! Code that `models/grpc` writes.

#![allow(clippy::all, unreachable_pub, dead_code, reason = "generated")]

pub(super) mod csi;
pub(super) mod registration;

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    #[test]
    fn it_is_made_from_the_definitions_as_they_are() {
        for (name, proto, code) in [
            ("csi", include_str!("../../../../models/grpc/csi.proto"), include_str!("generated/csi.rs")),
            (
                "pluginregistration",
                include_str!("../../../../models/grpc/pluginregistration.proto"),
                include_str!("generated/registration.rs"),
            ),
        ] {
            let digest = hex::encode(Sha256::digest(proto));
            let first = code.lines().next().unwrap_or_default();
            assert!(first.contains(&digest), "{name}: cargo run --manifest-path models/grpc/Cargo.toml");
        }
    }
}
