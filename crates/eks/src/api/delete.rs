//! DeleteCluster and DeleteNodegroup: the record says DELETING before the answer goes out, because waiters fail when
//! they still see ACTIVE (`spec/eks-api.md` §2).

use super::{in_use, invalid_request, no_cluster, no_nodegroup, present};
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_domain::eks::{Cluster, ClusterStatus, Nodegroup, NodegroupStatus};
use ekstra_domain::names::keys;
use ekstra_model::eks as model;
use ekstra_wire::ApiError;

pub(super) async fn cluster(
    eks: Eks,
    call: Call,
    input: model::DeleteClusterRequest,
) -> Result<model::DeleteClusterResponse, ApiError> {
    let name = input.name.unwrap_or_default();
    let key = keys::cluster(&call.scope, &name);
    let attached = [
        ("nodegroups", keys::nodegroups(&call.scope, &name)),
        ("Fargate profiles", keys::fargate_profiles(&call.scope, &name)),
        ("capabilities", keys::capabilities(&call.scope, &name)),
    ];
    let cluster = eks
        .cloud
        .store
        .transact(|txn| {
            let mut cluster: Cluster = txn.get(&key)?.ok_or_else(|| no_cluster(&name))?;
            if cluster.deletion_protection && cluster.status.is_up() {
                let message = format!(
                    "Cluster {name} has deletion protection enabled. Disable it to delete the cluster."
                );
                return Err(Refusal::Api(invalid_request(message)));
            }
            for (what, prefix) in &attached {
                if !txn.list::<serde_json::Value>(prefix)?.is_empty() {
                    let message = format!("Cluster has {what} attached");
                    return Err(in_use(message).with("clusterName", name.clone()).into());
                }
            }
            cluster.status = ClusterStatus::Deleting;
            txn.put(&key, &cluster)?;
            Ok::<_, Refusal>(cluster)
        })
        .await?;
    Ok(model::DeleteClusterResponse { cluster: Some(present::cluster(&eks, &cluster)) })
}

pub(super) async fn nodegroup(
    eks: Eks,
    call: Call,
    input: model::DeleteNodegroupRequest,
) -> Result<model::DeleteNodegroupResponse, ApiError> {
    let (cluster, name) = (input.cluster_name.unwrap_or_default(), input.nodegroup_name.unwrap_or_default());
    let cluster_key = keys::cluster(&call.scope, &cluster);
    let key = keys::nodegroup(&call.scope, &cluster, &name);
    let now = eks.cloud.env.now_ms();
    let group = eks
        .cloud
        .store
        .transact(|txn| {
            if !txn.exists(&cluster_key) {
                return Err(Refusal::Api(no_cluster(&cluster)));
            }
            let mut group: Nodegroup = txn.get(&key)?.ok_or_else(|| no_nodegroup(&cluster, &name))?;
            if group.status != NodegroupStatus::Deleting {
                group.status = NodegroupStatus::Deleting;
                group.modified_ms = now;
                txn.put(&key, &group)?;
            }
            Ok(group)
        })
        .await?;
    Ok(model::DeleteNodegroupResponse { nodegroup: Some(present::nodegroup(&group)) })
}
