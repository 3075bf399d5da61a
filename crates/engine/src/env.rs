//! Clock, chance and identifiers.

use rand::RngExt;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Unix milliseconds.
    fn now_ms(&self) -> i64;

    /// Milliseconds that went by while the machine was awake, from any beginning: nobody sets it.
    fn steady_ms(&self) -> i64;
}

#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn steady_ms(&self) -> i64 {
        // CLOCK_MONOTONIC on Linux, which stands still while the machine sleeps.
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        let since = BEGINNING.get_or_init(Instant::now).elapsed();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Where ids and secrets come from.
pub trait Chance: Send + Sync + std::fmt::Debug {
    fn fill(&self, bytes: &mut [u8]);
}

/// Nobody can guess what it says.
#[derive(Clone, Copy, Debug)]
pub struct SystemChance;

impl Chance for SystemChance {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill(bytes);
    }
}

/// Handed to whoever needs the time or a new id; cheap to clone.
#[derive(Clone, Debug)]
pub struct Env {
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
}

impl Env {
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), chance: Arc::new(SystemChance) }
    }

    /// Whose time and ids a test says.
    pub fn with(clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Self {
        Self { clock, chance }
    }

    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// For limits ([`crate::Waits`]); not a time of day.
    pub fn steady_ms(&self) -> i64 {
        self.clock.steady_ms()
    }

    /// Unix seconds.
    pub fn now(&self) -> i64 {
        self.clock.now_ms().div_euclid(1000)
    }

    /// `2 * bytes` hex digits.
    pub fn hex(&self, bytes: usize) -> String {
        hex::encode(self.random_bytes(bytes))
    }

    /// An id as EC2 makes them: `<kind>-<17 hex digits>`.
    pub fn ec2_id(&self, kind: &str) -> String {
        format!("{kind}-0{}", self.hex(8))
    }

    /// An RFC 4122 version 4 UUID.
    pub fn uuid(&self) -> String {
        let mut bytes = self.random_bytes(16);
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let hex = hex::encode(bytes);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// An IAM unique id: a prefix such as `AROA` and 17 characters of base 32.
    pub fn iam_id(&self, prefix: &str) -> String {
        self.base32(prefix, 17)
    }

    /// The id of an access key, `AKIA` or `ASIA` in front: one character shorter than IAM's other ids.
    pub fn access_key_id(&self, prefix: &str) -> String {
        self.base32(prefix, 16)
    }

    fn base32(&self, prefix: &str, digits: usize) -> String {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let tail = self.random_bytes(digits).into_iter().map(|b| char::from(ALPHABET[usize::from(b % 32)]));
        prefix.chars().chain(tail).collect()
    }

    pub fn random_bytes(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.chance.fill(&mut bytes);
        bytes
    }
}
