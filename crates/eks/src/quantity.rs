//! Quantities of Kubernetes.
//!
//! Source: "Quantity" in the Kubernetes API: a decimal number with a binary or decimal suffix. Thousandths (`m`) are not read.

/// Rounded up.
pub(crate) fn whole(quantity: &str) -> Option<u128> {
    const UNITS: [(&str, u128); 13] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
        ("", 1),
    ];
    let (number, unit) =
        UNITS.iter().find_map(|(suffix, unit)| Some((quantity.strip_suffix(suffix)?, *unit)))?;
    if let Some((mantissa, exponent)) = number.split_once(['e', 'E']) {
        return whole(mantissa)?.checked_mul(10_u128.checked_pow(exponent.parse().ok()?)?);
    }
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if integer.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let integer: u128 = if integer.is_empty() { 0 } else { integer.parse().ok()? };
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scaled = integer.checked_mul(scale)?.checked_add(fraction)?.checked_mul(unit)?;
    Some(scaled.div_ceil(scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_and_fractions_are_read() {
        for (text, expected) in [
            ("2", Some(2)),
            ("2k", Some(2000)),
            ("1.5Gi", Some(3 << 29)),
            ("1e3", Some(1000)),
            (".5", Some(1)),
            ("", None),
            ("m", None),
            ("1930m", None),
            ("-1", None),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
    }
}
