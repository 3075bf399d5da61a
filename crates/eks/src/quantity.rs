//! Quantities of Kubernetes.
//!
//! Source: "Quantity" in the Kubernetes API: a decimal number with a binary or decimal suffix.

/// Rounded up.
pub(crate) fn whole(quantity: &str) -> Option<u128> {
    let (amount, of) = parts(quantity)?;
    Some(amount.div_ceil(of))
}

/// Rounded up.
pub(crate) fn thousandths(quantity: &str) -> Option<u128> {
    let (amount, of) = parts(quantity)?;
    Some(amount.checked_mul(1000)?.div_ceil(of))
}

/// So many parts of a whole, and how many of them are one.
fn parts(quantity: &str) -> Option<(u128, u128)> {
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
    if let Some(number) = quantity.strip_suffix('m') {
        let (amount, of) = parts(number)?;
        return Some((amount, of.checked_mul(1000)?));
    }
    let (number, unit) =
        UNITS.iter().find_map(|(suffix, unit)| Some((quantity.strip_suffix(suffix)?, *unit)))?;
    if let Some((mantissa, exponent)) = number.split_once(['e', 'E']) {
        let (amount, of) = parts(mantissa)?;
        return Some((amount.checked_mul(10_u128.checked_pow(exponent.parse().ok()?)?)?, of));
    }
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if integer.is_empty() && fraction.is_empty() {
        return None;
    }
    let of = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let amount = digits(integer)?.checked_mul(of)?.checked_add(digits(fraction)?)?;
    Some((amount.checked_mul(unit)?, of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_and_fractions_are_read() {
        for (text, expected) in [
            ("2", Some((2, 2000))),
            ("2k", Some((2000, 2_000_000))),
            ("1.5Gi", Some((3 << 29, (3 << 29) * 1000))),
            ("1e3", Some((1000, 1_000_000))),
            (".5", Some((1, 500))),
            ("1930m", Some((2, 1930))),
            ("0.1m", Some((1, 1))),
            ("", None),
            ("m", None),
            ("-1", None),
        ] {
            let expected = (expected.map(|(whole, _)| whole), expected.map(|(_, thousandths)| thousandths));
            assert_eq!((whole(text), thousandths(text)), expected, "{text}");
        }
    }
}
