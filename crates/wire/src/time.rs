//! Instants as text: ISO 8601, SigV4's basic form, HTTP dates.
//!
//! All UTC. Invariant: parsing accepts what the matching formatter writes.

use jiff::Timestamp;
use jiff::tz::TimeZone;

fn strftime(ms: i64, format: &str) -> String {
    let instant = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    instant.to_zoned(TimeZone::UTC).strftime(format).to_string()
}

/// `2026-01-02T03:04:05Z`, with milliseconds where they are not zero. `ms` is since the Unix epoch.
pub fn iso8601(ms: i64) -> String {
    strftime(ms, if ms % 1000 == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%3fZ" })
}

/// `20150830T123600Z` from Unix seconds, as SigV4's `X-Amz-Date`.
pub fn amz_date(unix: i64) -> String {
    strftime(unix.saturating_mul(1000), "%Y%m%dT%H%M%SZ")
}

/// `Sun, 30 Aug 2015 12:36:00 GMT`.
pub(crate) fn http_date(ms: i64) -> String {
    strftime(ms, "%a, %d %b %Y %H:%M:%S GMT")
}

/// Unix seconds of an `X-Amz-Date`; nothing but that exact form.
pub fn parse_amz_date(text: &str) -> Option<i64> {
    if text.len() != 16 || !text.is_ascii() {
        return None;
    }
    let date = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let unix = date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    (amz_date(unix) == text).then_some(unix)
}

/// Unix milliseconds of an ISO 8601 instant with a zone.
pub fn parse_iso8601(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|t| t.as_millisecond())
}

/// Unix milliseconds of an HTTP date.
pub(crate) fn parse_http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|z| z.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_round_trip() {
        assert_eq!(amz_date(1_440_938_160), "20150830T123600Z");
        assert_eq!(parse_amz_date("20150830T123600Z"), Some(1_440_938_160));
        assert_eq!(iso8601(1_440_938_160_000), "2015-08-30T12:36:00Z");
        assert_eq!(iso8601(1_440_938_160_007), "2015-08-30T12:36:00.007Z");
        assert_eq!(parse_iso8601("2015-08-30T12:36:00.007Z"), Some(1_440_938_160_007));
        assert_eq!(http_date(1_440_938_160_000), "Sun, 30 Aug 2015 12:36:00 GMT");
        assert_eq!(parse_http_date("Sun, 30 Aug 2015 12:36:00 GMT"), Some(1_440_938_160_000));
    }

    #[test]
    fn other_forms_of_the_amz_date_are_refused() {
        for bad in [
            "",
            "20150830T123600",
            "2015-08-30T12:36",
            "20151330T123600Z",
            "20150830T1236 0Z",
            "20150830T123660Z",
        ] {
            assert_eq!(parse_amz_date(bad), None, "{bad}");
        }
    }
}
