//! Tags of everything that has them.
//!
//! Source: IAM User Guide, "Tags for IAM resources": of users and roles, keys are the same in whatever letters they are written.

use super::{Entity, change, described, page, tags_of, unit};
use crate::Cloud;
use crate::api::{Call, Router};
use ekstra_domain::iam::{InstanceProfile, ManagedPolicy, OidcProvider, Role, User};
use ekstra_domain::page::Page;
use ekstra_model::iam::{self as model, errors, ops};
use ekstra_wire::ApiError;
use std::collections::BTreeMap;

/// IAM quotas.
const MOST_TAGS: usize = 50;

/// The same three operations of each kind.
macro_rules! operations {
    ($router:ident, $cloud:ident, $kind:ident, $id:ident,
     $tag:ident $tag_in:ident, $untag:ident $untag_in:ident, $list:ident $list_in:ident $list_out:ident) => {
        $router.serve(
            ops::$tag,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$tag_in| {
                let access = $kind::access(cloud, call, input.$id.as_ref());
                access.with_tags(Some(&tags_of(input.tags.clone())))
            },
            |cloud: Cloud, call: Call, input: model::$tag_in| async move {
                tag::<$kind>(&cloud, &call, input.$id, input.tags).await?;
                unit()
            },
        );
        $router.serve(
            ops::$untag,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$untag_in| {
                let access = $kind::access(cloud, call, input.$id.as_ref());
                access.with("aws:TagKeys", input.tag_keys.clone().unwrap_or_default())
            },
            |cloud: Cloud, call: Call, input: model::$untag_in| async move {
                untag::<$kind>(&cloud, &call, input.$id, input.tag_keys).await?;
                unit()
            },
        );
        $router.serve(
            ops::$list,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$list_in| {
                $kind::access(cloud, call, input.$id.as_ref())
            },
            |cloud: Cloud, call: Call, input: model::$list_in| async move {
                let page = list::<$kind>(&cloud, &call, input.$id, input.marker.as_deref(), input.max_items)?;
                Ok(model::$list_out {
                    tags: Some(page.items),
                    is_truncated: Some(page.next.is_some()),
                    marker: page.next,
                })
            },
        );
    };
}

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    operations!(router, cloud, Role, role_name,
        TagRole TagRoleRequest, UntagRole UntagRoleRequest,
        ListRoleTags ListRoleTagsRequest ListRoleTagsResponse);
    operations!(router, cloud, User, user_name,
        TagUser TagUserRequest, UntagUser UntagUserRequest,
        ListUserTags ListUserTagsRequest ListUserTagsResponse);
    operations!(router, cloud, ManagedPolicy, policy_arn,
        TagPolicy TagPolicyRequest, UntagPolicy UntagPolicyRequest,
        ListPolicyTags ListPolicyTagsRequest ListPolicyTagsResponse);
    operations!(router, cloud, InstanceProfile, instance_profile_name,
        TagInstanceProfile TagInstanceProfileRequest, UntagInstanceProfile UntagInstanceProfileRequest,
        ListInstanceProfileTags ListInstanceProfileTagsRequest ListInstanceProfileTagsResponse);
    operations!(router, cloud, OidcProvider, open_id_connect_provider_arn,
        TagOpenIDConnectProvider TagOpenIDConnectProviderRequest,
        UntagOpenIDConnectProvider UntagOpenIDConnectProviderRequest,
        ListOpenIDConnectProviderTags ListOpenIDConnectProviderTagsRequest ListOpenIDConnectProviderTagsResponse);
}

fn is_same<E: Entity>(key: &str, other: &str) -> bool {
    if E::TAGS_IGNORE_CASE { key.eq_ignore_ascii_case(other) } else { key == other }
}

/// Tags as a caller gives them.
pub(super) fn read<E: Entity>(given: Option<Vec<model::Tag>>) -> Result<BTreeMap<String, String>, ApiError> {
    let invalid = |message: &str| Err(ApiError::new(&errors::INVALID_INPUT_EXCEPTION, message));
    let given = given.unwrap_or_default();
    let keys: Vec<&str> = given.iter().filter_map(|tag| tag.key.as_deref()).collect();
    for (place, key) in keys.iter().enumerate() {
        if key.to_ascii_lowercase().starts_with("aws:") {
            return invalid("Tag keys must not begin with aws:");
        }
        if keys[..place].iter().any(|earlier| is_same::<E>(earlier, key)) {
            let kind =
                if E::TAGS_IGNORE_CASE { " Please note that Tag keys are case insensitive." } else { "" };
            return invalid(&format!("Duplicate tag keys found.{kind}"));
        }
    }
    Ok(tags_of(Some(given)))
}

async fn tag<E: Entity>(
    cloud: &Cloud,
    call: &Call,
    id: Option<String>,
    given: Option<Vec<model::Tag>>,
) -> Result<(), ApiError> {
    let name = E::name(call, &id.unwrap_or_default())?;
    let given = read::<E>(given)?;
    let body = |entity: &mut E| {
        let Some(tags) = entity.tags_mut() else { return Ok(()) };
        tags.retain(|known, _| !given.keys().any(|key| is_same::<E>(key, known)));
        tags.extend(given.clone());
        if tags.len() > MOST_TAGS {
            let message = "The number of tags has reached the maximum limit.";
            return Err(ApiError::new(&errors::LIMIT_EXCEEDED_EXCEPTION, message));
        }
        Ok(())
    };
    change(cloud, call, &name, body).await.map(drop)
}

async fn untag<E: Entity>(
    cloud: &Cloud,
    call: &Call,
    id: Option<String>,
    keys: Option<Vec<String>>,
) -> Result<(), ApiError> {
    let name = E::name(call, &id.unwrap_or_default())?;
    let gone = keys.unwrap_or_default();
    let body = |entity: &mut E| {
        let is_gone = |known: &str| gone.iter().any(|key| is_same::<E>(key, known));
        entity.tags_mut().into_iter().for_each(|tags| tags.retain(|known, _| !is_gone(known)));
        Ok(())
    };
    change(cloud, call, &name, body).await.map(drop)
}

fn list<E: Entity>(
    cloud: &Cloud,
    call: &Call,
    id: Option<String>,
    marker: Option<&str>,
    size: Option<i32>,
) -> Result<Page<model::Tag>, ApiError> {
    let entity = E::load(cloud, call, &E::name(call, &id.unwrap_or_default())?)?;
    let tags = entity.tags().map(described).unwrap_or_default();
    page(tags, |tag| tag.key.clone().unwrap_or_default(), marker, size)
}
