//! The store in a Redis cluster of three nodes.

use ringbearer::sandbox::Rules;
use ringbearer::store::{Change, TokenStore};
use ringbearer::token::Generation;

use crate::fleet::{Fleet, refreshing, renew_under_load};
use crate::redis::{save_as, use_every_operation};
use crate::redis_server::{RedisServer, open_store};
use crate::support::{Wishes, sessions, settle};

const SLOTS: [[&str; 2]; 3] = [["0", "5460"], ["5461", "10922"], ["10923", "16383"]];

struct Cluster {
    nodes: Vec<RedisServer>,
}

impl Cluster {
    async fn form() -> Option<Self> {
        let mut nodes = Vec::new();
        for slots in SLOTS {
            let node = RedisServer::cluster_node().await?;
            node.run(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]).await;
            nodes.push(node);
        }
        for (index, node) in nodes.iter().enumerate() {
            node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
        }
        for node in &nodes[1..] {
            let (port, bus) = (node.port().to_string(), bus_of(node).await);
            nodes[0].run(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        let cluster = Self { nodes };
        cluster.whole().await;
        Some(cluster)
    }

    /// Returns when every node knows of every slot.
    async fn whole(&self) {
        for node in &self.nodes {
            node.until(&["CLUSTER", "INFO"], "cluster_slots_ok:16384").await;
            node.until(&["CLUSTER", "INFO"], "cluster_state:ok").await;
        }
    }

    /// `[store]`, naming these nodes only.
    fn store(&self, named: &[usize]) -> String {
        let ports = named.iter().map(|index| self.nodes[*index].port());
        let hosts: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis = \"redis+cluster://{}\"", hosts.join(","))
    }
}

async fn bus_of(node: &RedisServer) -> String {
    redis::from_redis_value::<Vec<String>>(node.run(&["CONFIG", "GET", "cluster-port"]).await)
        .unwrap()
        .remove(1)
}

fn identities() -> Vec<String> {
    (0..40).map(|n| format!("identity-{n}")).collect()
}

#[tokio::test]
async fn every_operation_does_its_work_in_a_cluster() {
    let Some(cluster) = Cluster::form().await else { return };
    use_every_operation(&open_store(&cluster.store(&[1]))).await.unwrap();
}

#[tokio::test]
async fn sessions_are_spread_over_the_nodes_and_changes_are_told_across() {
    let Some(cluster) = Cluster::form().await else { return };
    let (one, other) = (open_store(&cluster.store(&[0])), open_store(&cluster.store(&[2])));
    let mut changes = other.changes();
    // The subscription begins in a task.
    while changes.try_recv().is_err() {
        one.enrol("first", None).await.unwrap();
        settle().await;
    }
    while changes.try_recv().is_ok() {}
    for identity in identities() {
        save_as(&one, &identity, 1, 0).await.unwrap();
        loop {
            let Change::Identity(name, generation) = changes.recv().await.unwrap() else {
                continue;
            };
            if name == identity {
                assert_eq!(generation, Some(Generation::new(1)));
                break;
            }
        }
        assert_eq!(other.load(&identity).await.unwrap().generation().number(), 1);
    }
    for node in &cluster.nodes {
        let keys = redis::from_redis_value::<u64>(node.run(&["DBSIZE"]).await).unwrap();
        assert!(keys >= 5, "{keys} keys on a node");
    }
    assert_eq!(other.survey().await.unwrap().len(), 40);
    let names = identities();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(other.generations(&names).await.unwrap(), [Generation::new(1); 40]);
}

#[tokio::test]
async fn a_dead_node_costs_its_own_sessions_only_and_returns() {
    let Some(mut cluster) = Cluster::form().await else { return };
    let store = open_store(&cluster.store(&[0, 1, 2]));
    for identity in identities() {
        save_as(&store, &identity, 1, 0).await.unwrap();
    }
    cluster.nodes[1].kill();
    cluster.nodes[0].until(&["CLUSTER", "NODES"], "fail").await;
    let (mut kept, mut lost) = (0, 0);
    for identity in identities() {
        match store.load(&identity).await {
            Ok(entry) => kept += u64::from(entry.generation() == Generation::new(1)),
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with("the store at 127.0.0.1:"), "{error}");
                lost += 1;
            }
        }
    }
    assert!(kept + lost == 40 && kept >= 10 && lost >= 5, "{kept} kept, {lost} lost");
    cluster.nodes[1].revive().await;
    cluster.whole().await;
    for identity in identities() {
        while store.load(&identity).await.is_err() {}
        assert_eq!(store.load(&identity).await.unwrap().generation().number(), 1, "{identity}");
    }
    while store.check().await.is_err() {}
}

#[tokio::test]
async fn four_replicas_on_one_cluster_refresh_once_per_generation() {
    let Some(cluster) = Cluster::form().await else { return };
    let store = Some(cluster.store(&[0, 1, 2]));
    let fleet = Fleet::with(Wishes { store, ..refreshing(Rules::unlimited()) }).await;
    renew_under_load(&fleet, 10, 20).await;
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    assert_eq!(fleet.first.control().counts().token_repeats, 0);
    fleet.finish().await;
}
