//! Tags, the same for everything that has them.

use super::{Entity, change, described, page, tags_of};
use crate::Cloud;
use crate::access::Access;
use crate::api::Call;
use ekstra_domain::page::Page;
use ekstra_model::iam::{self as model, errors};
use ekstra_wire::ApiError;

/// IAM quotas.
const MOST_TAGS: usize = 50;

/// What a call needs that gives these tags.
pub(super) fn giving(access: Access, tags: Option<&Vec<model::Tag>>) -> Access {
    access.with_tags(Some(&tags_of(tags.cloned())))
}

/// What a call needs that takes tags of these keys.
pub(super) fn taking(access: Access, keys: Option<&Vec<String>>) -> Access {
    access.with("aws:TagKeys", keys.cloned().unwrap_or_default())
}

pub(super) async fn tag<E: Entity>(
    cloud: &Cloud,
    call: &Call,
    name: &str,
    given: Option<Vec<model::Tag>>,
) -> Result<(), ApiError> {
    let given = tags_of(given);
    let body = |entity: &mut E| {
        let Some(tags) = entity.tags_mut() else { return Ok(()) };
        tags.extend(given.clone());
        if tags.len() > MOST_TAGS {
            let message = "The number of tags has reached the maximum limit.";
            return Err(ApiError::new(&errors::LIMIT_EXCEEDED_EXCEPTION, message));
        }
        Ok(())
    };
    change(cloud, call, name, body).await
}

pub(super) async fn untag<E: Entity>(
    cloud: &Cloud,
    call: &Call,
    name: &str,
    keys: Option<Vec<String>>,
) -> Result<(), ApiError> {
    let gone = keys.unwrap_or_default();
    let body = |entity: &mut E| {
        entity.tags_mut().into_iter().for_each(|tags| tags.retain(|key, _| !gone.contains(key)));
        Ok(())
    };
    change(cloud, call, name, body).await
}

pub(super) fn list<E: Entity>(
    cloud: &Cloud,
    call: &Call,
    name: &str,
    marker: Option<&str>,
    size: Option<i32>,
) -> Result<Page<model::Tag>, ApiError> {
    let entity = E::load(cloud, call, name)?;
    let tags = entity.tags().map(described).unwrap_or_default();
    page(tags, |tag| tag.key.clone().unwrap_or_default(), marker, size)
}
