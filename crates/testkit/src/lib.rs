//! For tests only: one [`TestEnv`] a test. A home in a temporary directory, a furnished region, a simulated machine, a clock
//! that moves when it is told to, and ids that are the same each time.
//!
//! Invariant: two of them share nothing, so tests run side by side.

use ekstra_cloud::api::{Call, Origin, Router};
use ekstra_cloud::{Cloud, Settings, ensure_scope};
use ekstra_domain::ec2::Subnet;
use ekstra_domain::iam::{FIRST_USER, MasterKey, Principal, SessionTerms, User};
use ekstra_domain::names::{Scope, keys};
use ekstra_engine::{Chance, Clock, Env};
use ekstra_host::Names;
use ekstra_host::sim::SimHost;
use ekstra_model::{OperationShape, Shape};
use ekstra_store::{CommitError, Store, Txn};
use ekstra_wire::ApiError;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// 2026-11-01, noon.
const START_MS: i64 = 1_793_534_400_000;
const HOME_ID: &str = "beef";

/// Stands still until it is moved.
#[derive(Debug)]
pub struct TestClock {
    now: AtomicI64,
    steady: AtomicI64,
}

impl TestClock {
    /// Time goes by.
    pub fn advance_ms(&self, by: i64) {
        self.now.fetch_add(by, Ordering::SeqCst);
        self.steady.fetch_add(by, Ordering::SeqCst);
    }

    /// Somebody sets it.
    pub fn jump_ms(&self, by: i64) {
        self.now.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }

    fn steady_ms(&self) -> i64 {
        self.steady.load(Ordering::SeqCst)
    }
}

/// SplitMix64: what is called in the same order is told the same.
#[derive(Debug)]
struct TestChance(AtomicU64);

impl Chance for TestChance {
    fn fill(&self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
            let mut mixed = self.0.fetch_add(STEP, Ordering::SeqCst).wrapping_add(STEP);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            part.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..part.len()]);
        }
    }
}

/// Whose key a call is signed with.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Principal,
    /// In Unix seconds; of a key that lasts, `None`.
    pub session_issued: Option<i64>,
    /// Documents that narrow the session.
    pub session_policies: Vec<String>,
}

/// With a key that lasts, or in a session since 1970.
impl From<Principal> for Caller {
    fn from(principal: Principal) -> Self {
        let session_issued = principal.session_name().map(|_| 0);
        Self { principal, session_issued, session_policies: Vec::new() }
    }
}

/// A service's world without the service.
#[derive(Debug)]
pub struct TestEnv {
    _home: tempfile::TempDir,
    pub cloud: Cloud,
    pub host: Arc<SimHost>,
    pub names: Names,
    pub clock: Arc<TestClock>,
    /// The default account in us-east-1.
    pub scope: Scope,
}

impl TestEnv {
    pub async fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let clock = Arc::new(TestClock { now: AtomicI64::new(START_MS), steady: AtomicI64::new(0) });
        let cloud = Cloud {
            store: Store::open(&home.path().join("state.db")).expect("a new store opens"),
            env: Env::with(clock.clone(), Arc::new(TestChance(AtomicU64::new(0)))),
            master: MasterKey([1; 32]),
            settings: Arc::new(settings()),
            home: home.path().to_owned(),
            router_use: Arc::default(),
        };
        let scope = Scope::new("000000000000", "us-east-1");
        ensure_scope(&cloud, &scope).await.expect("a region is furnished");
        let names = Names { home_id: HOME_ID.into() };
        Self { _home: home, cloud, host: Arc::new(SimHost::default()), names, clock, scope }
    }

    /// A user of the account, who is there.
    pub fn user(&self, name: &str) -> Principal {
        let account = self.scope.account.clone();
        let user: User = self.cloud.store.view().get_as(&keys::user(&account, name)).expect("a user");
        Principal { account, arn: user.arn(), user_id: user.id }
    }

    /// What is known of a call that somebody signed.
    pub fn signed(&self, caller: Caller) -> Call {
        Call {
            session_issued: caller.session_issued,
            principal: caller.principal,
            terms: SessionTerms { policies: caller.session_policies, ..SessionTerms::default() },
            scope: self.scope.clone(),
            request_id: "r".into(),
            origin: Origin::default(),
        }
    }

    /// Calls an operation as the account's administrator, values and all, as the wire would.
    pub async fn call<O: OperationShape>(
        &self,
        router: &Router,
        operation: O,
        input: O::Input,
    ) -> Result<O::Output, ApiError> {
        self.call_as(Caller::from(self.user(FIRST_USER)), router, operation, input).await
    }

    pub async fn call_as<O: OperationShape>(
        &self,
        caller: Caller,
        router: &Router,
        _operation: O,
        input: O::Input,
    ) -> Result<O::Output, ApiError> {
        let (operation, call) = (O::OPERATION, self.signed(caller));
        let answer = router.call(operation.service, operation.name, call, input.to_value());
        answer
            .expect("the operation is served")
            .await
            .map(|v| O::Output::from_value(v).expect("the answer fits"))
    }

    /// Serves everything but EKS.
    pub fn router(&self) -> Router {
        let mut router = Router::new(self.cloud.clone());
        ekstra_cloud::serve(&mut router, &self.cloud);
        router
    }

    /// The default VPC's subnets, by zone.
    pub fn subnets(&self) -> Vec<Subnet> {
        let all = self.cloud.store.view().list_as::<Subnet>(&keys::scoped(keys::SUBNETS, &self.scope));
        let mut subnets: Vec<Subnet> = all.into_iter().map(|(_, subnet)| subnet).collect();
        subnets.sort_by(|a, b| a.zone.cmp(&b.zone));
        subnets
    }

    /// Writes as a reconciler would.
    pub async fn write<T>(&self, body: impl Fn(&mut Txn) -> Result<T, CommitError>) -> T {
        self.cloud.store.transact(body).await.expect("nothing else writes")
    }
}

fn settings() -> Settings {
    Settings {
        rootless: false,
        home_id: HOME_ID.into(),
        address: [169, 254, 80, 1].into(),
        port: 4566,
        registry_port: 4567,
        first_cluster_port: 16443,
        transit: "198.18.0.0/24".parse().expect("a prefix"),
        mtu: 1500,
        region: "us-east-1".into(),
    }
}
