//! From the names of a model to the names of Rust.

/// Keywords a member name can hit.
const KEYWORDS: [&str; 16] = [
    "type", "match", "ref", "move", "mod", "use", "in", "for", "enum", "struct", "static", "const", "where",
    "as", "loop", "async",
];

/// `roleNameType` ▸ `RoleNameType`.
pub(crate) fn camel(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// `kubernetesNetworkConfig` ▸ `kubernetes_network_config`; `VPCZoneIdentifier` ▸ `vpc_zone_identifier`.
pub(crate) fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let after_lower = i > 0 && !chars[i - 1].is_uppercase() && chars[i - 1] != '_';
        let ends_acronym =
            i > 0 && chars[i - 1].is_uppercase() && chars.get(i + 1).is_some_and(|n| n.is_lowercase());
        if c.is_uppercase() && (after_lower || ends_acronym) {
            out.push('_');
        }
        out.extend(if *c == '-' { '_' } else { *c }.to_lowercase());
    }
    out
}

/// A field: snake case, raw where it is a keyword.
pub(crate) fn field(name: &str) -> String {
    let name = snake(name);
    if KEYWORDS.contains(&name.as_str()) { format!("r#{name}") } else { name }
}

/// A static: upper snake case.
pub(crate) fn upper(name: &str) -> String {
    snake(name).to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_words() {
        assert_eq!(snake("kubernetesNetworkConfig"), "kubernetes_network_config");
        assert_eq!(snake("VPCZoneIdentifier"), "vpc_zone_identifier");
        assert_eq!(snake("serviceIpv4Cidr"), "service_ipv4_cidr");
        assert_eq!(snake("AMITypes"), "ami_types");
        assert_eq!(field("type"), "r#type");
        assert_eq!(camel("roleNameType"), "RoleNameType");
    }
}
