//! IAM as its callers see it: names, and sessions that are revoked.

use ekstra_cloud::access::{Outsider, trusts, trusts_service};
use ekstra_cloud::api::{Call, Router};
use ekstra_domain::iam::{Principal, Role};
use ekstra_domain::names::keys;
use ekstra_model::{OperationShape, iam, sts};
use ekstra_testkit::{Caller, TestEnv};
use ekstra_wire::{ApiError, iso8601, uri_encode};

const ACCOUNT: &str = "000000000000";

struct World {
    env: TestEnv,
    router: Router,
}

impl World {
    async fn new() -> Self {
        let env = TestEnv::new().await;
        Self { router: env.router(), env }
    }

    async fn asked<O: OperationShape>(&self, operation: O, input: O::Input) -> Result<(), ApiError> {
        self.env.call(&self.router, operation, input).await.map(drop)
    }

    async fn create(&self, kind: &str, name: &str) -> Result<(), ApiError> {
        let name = Some(name.to_owned());
        match kind {
            "user" => {
                let request = iam::CreateUserRequest { user_name: name, ..Default::default() };
                self.asked(iam::ops::CreateUser, request).await
            }
            "group" => {
                let request = iam::CreateGroupRequest { group_name: name, ..Default::default() };
                self.asked(iam::ops::CreateGroup, request).await
            }
            "role" => {
                let request = iam::CreateRoleRequest {
                    role_name: name,
                    assume_role_policy_document: Some(trust()),
                    ..Default::default()
                };
                self.asked(iam::ops::CreateRole, request).await
            }
            "instance profile" => {
                let request =
                    iam::CreateInstanceProfileRequest { instance_profile_name: name, ..Default::default() };
                self.asked(iam::ops::CreateInstanceProfile, request).await
            }
            _ => {
                let request = iam::CreatePolicyRequest {
                    policy_name: name,
                    policy_document: Some(allow("*")),
                    ..Default::default()
                };
                self.asked(iam::ops::CreatePolicy, request).await
            }
        }
    }

    /// The role `worker`.
    async fn trust(&self, document: &str) -> Result<(), ApiError> {
        let request = iam::UpdateAssumeRolePolicyRequest {
            role_name: Some("worker".into()),
            policy_document: Some(document.into()),
        };
        self.asked(iam::ops::UpdateAssumeRolePolicy, request).await
    }

    async fn assume(&self, user: &str) -> Result<(), ApiError> {
        self.assumed(Caller::from(self.env.user(user)), sts::AssumeRoleRequest::default()).await
    }

    /// The role `worker`, unless the request says another.
    async fn assumed(&self, caller: Caller, mut request: sts::AssumeRoleRequest) -> Result<(), ApiError> {
        request.role_arn.get_or_insert_with(|| format!("arn:aws:iam::{ACCOUNT}:role/worker"));
        request.role_session_name = Some("s".into());
        self.env.call_as(caller, &self.router, sts::ops::AssumeRole, request).await.map(drop)
    }

    /// The trust policy as it is answered: percent-encoded.
    async fn trusted(&self) -> String {
        let request = iam::GetRoleRequest { role_name: Some("worker".into()) };
        let answer = self.env.call(&self.router, iam::ops::GetRole, request).await.expect("is there");
        answer.role.and_then(|role| role.assume_role_policy_document).expect("has one")
    }

    async fn put(&self, policy: &str, document: String) {
        let request = iam::PutRolePolicyRequest {
            role_name: Some("worker".into()),
            policy_name: Some(policy.into()),
            policy_document: Some(document),
        };
        self.asked(iam::ops::PutRolePolicy, request).await.expect("is taken");
    }
}

fn trust() -> String {
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#.into()
}

fn allow(action: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"{action}","Resource":"*"}}]}}"#
    )
}

#[tokio::test]
async fn names_that_differ_in_case_are_the_same() {
    let world = World::new().await;
    for kind in ["user", "group", "role", "instance profile", "policy"] {
        world.create(kind, "Ada").await.expect("is new");
        world.create(kind, "Adam").await.expect("is another");
        for name in ["Ada", "ADA", "ada"] {
            let refused = world.create(kind, name).await.expect_err("is taken");
            assert_eq!(refused.code, "EntityAlreadyExists", "{kind}");
            assert!(refused.message.contains(name), "{}", refused.message);
        }
    }
}

/// As IAM's console revokes them: the policy `AWSRevokeOlderSessions`.
#[tokio::test]
async fn sessions_that_began_before_a_time_are_revoked() {
    let world = World::new().await;
    world.create("role", "worker").await.expect("is new");
    world.put("own", allow("iam:GetRole")).await;
    let role: Role = world.env.cloud.store.view().get_as(&keys::role(ACCOUNT, "worker")).expect("is there");
    let principal = Principal {
        account: ACCOUNT.into(),
        arn: format!("arn:aws:sts::{ACCOUNT}:assumed-role/worker/s"),
        user_id: format!("{}:s", role.id),
    };
    let began = world.env.cloud.env.now();
    let ask = |issued| {
        let request = iam::GetRoleRequest { role_name: Some("worker".into()) };
        let caller = Caller { session_issued: Some(issued), ..Caller::from(principal.clone()) };
        world.env.call_as(caller, &world.router, iam::ops::GetRole, request)
    };
    ask(began).await.expect("nothing is revoked");

    world.env.clock.advance_ms(10_000);
    let now = iso8601(world.env.cloud.env.now_ms());
    let revoked = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Action":["*"],"Resource":["*"],"Condition":{{"DateLessThan":{{"aws:TokenIssueTime":"{now}"}}}}}}]}}"#
    );
    world.put("AWSRevokeOlderSessions", revoked).await;
    let refused = ask(began).await.expect_err("began before");
    assert!(
        refused.message.ends_with("with an explicit deny in an identity-based policy"),
        "{}",
        refused.message
    );
    ask(began + 10).await.expect("began then");
}

/// IAM User Guide, "AWS JSON policy elements: Principal".
#[tokio::test]
async fn nobody_is_trusted_for_the_name_of_one_who_is_gone() {
    let world = World::new().await;
    world.create("user", "ada").await.expect("is new");
    world.create("role", "worker").await.expect("is new");
    let naming =
        |name: &str| trust().replace(r#""Service":"ec2.amazonaws.com""#, &format!(r#""AWS":{name}"#));
    let (ada, admin) = (world.env.user("ada"), world.env.user("admin"));
    let both = naming(&format!(r#"["{}","{}"]"#, ada.arn, admin.arn));
    world.trust(&both).await.expect("both are there");
    world.assume("ada").await.expect("is trusted");
    assert_eq!(world.trusted().await, uri_encode(&both), "as it was given");

    let gone = iam::DeleteUserRequest { user_name: Some("ada".into()) };
    world.asked(iam::ops::DeleteUser, gone).await.expect("is there");
    let shown = world.trusted().await;
    let known = uri_encode(&format!(r#"["{}","{}"]"#, ada.user_id, admin.arn));
    assert!(shown.contains(&known), "{shown}");
    world.create("user", "ada").await.expect("is new");
    assert_eq!(world.trusted().await, shown);
    assert_eq!(world.assume("ada").await.expect_err("is another").code, "AccessDenied");
    world.assume("admin").await.expect("is still trusted");

    let refused = world.trust(&naming(&format!(r#""{}""#, ada.user_id))).await.expect_err("names nobody");
    let told = format!(r#"Invalid principal in policy: "AWS":"{}""#, ada.user_id);
    assert_eq!((refused.code.as_str(), refused.message), ("MalformedPolicyDocument", told));
    world.trust(&naming(&format!(r#""{}""#, ada.arn))).await.expect("the other is there");
    world.assume("ada").await.expect("is trusted");
    assert_eq!(world.assume("admin").await.expect_err("is no longer").code, "AccessDenied");
}

#[tokio::test]
async fn who_is_trusted_is_there() {
    let world = World::new().await;
    world.create("role", "worker").await.expect("is new");
    let naming =
        |arn: &str| trust().replace(r#""Service":"ec2"#, &format!(r#""AWS":"{arn}","Service":"ec2"#));
    for bad in ["iam user/ada", "iam user/path/admin", "iam role/ada", "sts assumed-role/ada/s"] {
        let (service, resource) = bad.split_once(' ').expect("two words");
        let arn = format!("arn:aws:{service}::{ACCOUNT}:{resource}");
        let refused = world.trust(&naming(&arn)).await.expect_err("nobody");
        assert_eq!(refused.message, format!(r#"Invalid principal in policy: "AWS":"{arn}""#));
    }
    assert_eq!(world.trusted().await, uri_encode(&trust()), "and nothing is changed");
    for good in [
        format!("arn:aws:iam::{ACCOUNT}:role/worker"),
        format!("arn:aws:iam::{ACCOUNT}:root"),
        format!("arn:aws:sts::{ACCOUNT}:assumed-role/worker/s"),
        ACCOUNT.to_owned(),
        // Nobody has made that account here.
        "arn:aws:iam::111122223333:role/deployer".to_owned(),
    ] {
        world.trust(&naming(&good)).await.expect(&good);
    }
}

#[tokio::test]
async fn a_session_that_is_trusted_is_of_the_role_that_there_was() {
    let world = World::new().await;
    world.create("role", "worker").await.expect("is new");
    world.create("role", "caller").await.expect("is new");
    let arn = format!("arn:aws:sts::{ACCOUNT}:assumed-role/caller/s");
    let document = trust().replace(r#""Service":"ec2.amazonaws.com""#, &format!(r#""AWS":"{arn}""#));
    world.trust(&document).await.expect("the role is there");
    let assume = || async {
        let view = world.env.cloud.store.view();
        let caller: Role = view.get_as(&keys::role(ACCOUNT, "caller")).expect("is there");
        let user_id = format!("{}:s", caller.id);
        let principal = Principal { account: ACCOUNT.into(), arn: arn.clone(), user_id };
        world.assumed(Caller::from(principal), sts::AssumeRoleRequest::default()).await
    };
    assume().await.expect("is trusted");
    let gone = iam::DeleteRoleRequest { role_name: Some("caller".into()) };
    world.asked(iam::ops::DeleteRole, gone).await.expect("is there");
    world.create("role", "caller").await.expect("is new");
    assert_eq!(assume().await.expect_err("is another").code, "AccessDenied");
    assert_eq!(world.trusted().await, uri_encode(&document), "sessions are shown as they were named");
}

/// Who may not know of a role is told the same whether it is there or not; nor whether a policy is.
#[tokio::test]
async fn roles_are_not_guessed() {
    let world = World::new().await;
    world.create("user", "ada").await.expect("is new");
    world.create("role", "worker").await.expect("is new");
    let tag = |n: usize| sts::Tag { key: Some(format!("{n:0>128}")), value: Some("v".repeat(256)) };
    let descriptor = |name: &str| {
        vec![sts::PolicyDescriptorType { arn: Some(format!("arn:aws:iam::{ACCOUNT}:policy/{name}")) }]
    };
    for request in [
        sts::AssumeRoleRequest::default(),
        sts::AssumeRoleRequest { tags: Some((0..20).map(tag).collect()), ..Default::default() },
        sts::AssumeRoleRequest { policy_arns: Some(descriptor("unheard")), ..Default::default() },
        sts::AssumeRoleRequest { duration_seconds: Some(43_000), ..Default::default() },
    ] {
        let told = |name: &str| {
            let role_arn = Some(format!("arn:aws:iam::{ACCOUNT}:role/{name}"));
            let request = sts::AssumeRoleRequest { role_arn, ..request.clone() };
            world.assumed(Caller::from(world.env.user("ada")), request)
        };
        let known = told("worker").await.expect_err("may nothing");
        let unknown = told("unheard").await.expect_err("may nothing");
        assert_eq!(known.code, unknown.code);
        assert_eq!(known.message, unknown.message.replace("unheard", "worker"));
    }
}

/// STS API reference, AssumeRole: "The policies must exist in the same account as the role".
#[tokio::test]
async fn policies_of_a_session_are_of_the_role_s_account() {
    let world = World::new().await;
    world.create("role", "worker").await.expect("is new");
    world.create("policy", "narrow").await.expect("is new");
    let everybody = trust().replace(r#"{"Service":"ec2.amazonaws.com"}"#, r#"{"AWS":"*"}"#);
    world.trust(&everybody).await.expect("a policy");
    let ask = |account: &str| {
        let arn = Some(format!("arn:aws:iam::{account}:policy/narrow"));
        let policy_arns = Some(vec![sts::PolicyDescriptorType { arn }]);
        let request = sts::AssumeRoleRequest { policy_arns, ..Default::default() };
        world.assumed(Caller::from(world.env.user("admin")), request)
    };
    ask(ACCOUNT).await.expect("is there");
    let refused = ask("111122223333").await.expect_err("is not");
    assert!(refused.message.ends_with("does not exist or is not attachable."), "{}", refused.message);
}

/// Whose role it is, not who asks.
#[tokio::test]
async fn the_account_of_a_resource_is_the_role_s() {
    const ELSEWHERE: &str = "111122223333";
    let world = World::new().await;
    world.create("user", "ada").await.expect("is new");
    world.create("role", "worker").await.expect("is new");
    let perimeter = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"},
        {"Effect":"Deny","Action":"sts:AssumeRole","Resource":"*",
         "Condition":{"StringNotEquals":{"aws:ResourceAccount":"${aws:PrincipalAccount}"}}}]}"#;
    let put = iam::PutUserPolicyRequest {
        user_name: Some("ada".into()),
        policy_name: Some("own".into()),
        policy_document: Some(perimeter.into()),
    };
    world.asked(iam::ops::PutUserPolicy, put).await.expect("is taken");
    let everybody = trust().replace(r#"{"Service":"ec2.amazonaws.com"}"#, r#"{"AWS":"*"}"#);
    world.trust(&everybody).await.expect("a policy");
    let here: Role = world.env.cloud.store.view().get_as(&keys::role(ACCOUNT, "worker")).expect("is there");
    let there = Role { account: ELSEWHERE.into(), ..here };
    world.env.write(|txn| Ok(txn.put(&keys::role(ELSEWHERE, "worker"), &there)?)).await;
    let ask = |account: &str| {
        let role_arn = Some(format!("arn:aws:iam::{account}:role/worker"));
        let request = sts::AssumeRoleRequest { role_arn, ..Default::default() };
        world.assumed(Caller::from(world.env.user("ada")), request)
    };
    ask(ACCOUNT).await.expect("is of her account");
    assert_eq!(ask(ELSEWHERE).await.expect_err("is of another").code, "AccessDenied");
}

/// What a request is like: a trust policy may ask for it, whoever comes.
#[tokio::test]
async fn outsiders_come_with_what_every_request_has() {
    let world = World::new().await;
    world.create("role", "worker").await.expect("is new");
    let role: Role = world.env.cloud.store.view().get_as(&keys::role(ACCOUNT, "worker")).expect("is there");
    let call: Call = world.env.signed(Caller::from(world.env.user("admin")));
    let (service, provider) = ("eks.amazonaws.com", "arn:aws:iam::000000000000:oidc-provider/o");
    let cluster = "arn:aws:eks:us-east-1:000000000000:cluster/one";
    for (condition, by_service, by_token) in [
        (r#""DateLessThan":{"aws:CurrentTime":"2001-01-01T00:00:00Z"}"#, false, false),
        (r#""DateGreaterThan":{"aws:CurrentTime":"2001-01-01T00:00:00Z"}"#, true, true),
        (r#""Bool":{"aws:SecureTransport":"true"}"#, true, false),
        (r#""Bool":{"aws:PrincipalIsAWSService":"true"}"#, true, false),
        (r#""Bool":{"aws:PrincipalIsAWSService":"false"}"#, false, true),
        (r#""StringEquals":{"aws:RequestedRegion":"us-east-1"}"#, true, true),
        (r#""StringEquals":{"aws:ResourceAccount":"000000000000"}"#, true, true),
        (r#""ArnLike":{"aws:SourceArn":"arn:aws:eks:*:*:cluster/one"}"#, true, false),
        (r#""ArnLike":{"aws:SourceArn":"arn:aws:eks:*:*:cluster/two"}"#, false, false),
        (r#""StringEquals":{"aws:SourceAccount":"000000000000"}"#, true, false),
    ] {
        let trust_policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Service":"{service}","Federated":"{provider}"}},
            "Action":"sts:*","Condition":{{{condition}}}}}]}}"#
        );
        let role = Role { trust_policy, ..role.clone() };
        let cloud = &world.env.cloud;
        assert_eq!(
            trusts_service(cloud, &call, &role, service, Some(cluster.into())),
            by_service,
            "{condition}"
        );
        let token = Outsider::Federated(provider);
        let told = trusts(cloud, &call, &role, token, "sts:AssumeRoleWithWebIdentity", &[]);
        assert_eq!(told, by_token, "{condition}");
    }
}
