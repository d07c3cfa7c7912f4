//! `-m cluster`: whether the packet is this router's share of what a cluster of routers sees together (`xt_cluster.c`).
//!
//! The source of the flow's first packet (of an IPv6 one its first 32 bits, as in the kernel) is hashed (Jenkins' hash with
//! the seed, the kernel's `jhash`), and the hash is scaled to the nodes: all packets of a flow, answers included, belong to one node, on the kernel and here alike. Packets without a
//! flow never match, negated or not. A frame to a group's MAC counts as sent to the router where its IP address is no group
//! and the rules of its family have a `cluster`: that is how the nodes see the same packets.
//!
//! TOML: `{ cluster-total-nodes = 2, cluster-local-node = 1, cluster-hash-seed = 0xdeadbeef, jump = "ACCEPT" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Dir, Facts, Family, status};
use crate::jhash::jhash;
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The options of one `-m cluster`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Nodes, 1 to 32.
    pub nodes: u32,
    /// A bit for each node that is meant.
    pub mask: u32,
    /// Seed of the hash.
    pub seed: u32,
}

const MAX_NODES: u32 = 32;
const NODEMASK: usize = 0;
const NODE: usize = 1;
const NODES: usize = 2;
const SEED: usize = 3;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "cluster",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("cluster-local-nodemask", &[]).about("MASK", "bits of the nodes that are meant"),
        Opt::negatable("cluster-local-node", &[]).about("NODE", "the node that is meant, from 1"),
        Opt::plain("cluster-total-nodes", &[]).about("NODES", "how many nodes there are, at most 32"),
        Opt::plain("cluster-hash-seed", &[]).about("SEED", "seed of the hash, the same on all nodes"),
    ],
    build,
    summary: "whether the packet is this router's share of what a cluster sees",
    example: r#"{ cluster-total-nodes = 2, cluster-local-node = 1, cluster-hash-seed = 0xdeadbeef, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(
            Family::V4,
            "-m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 0xdeadbeef",
            "-m cluster --cluster-local-nodemask 0x00000001 --cluster-total-nodes 2 --cluster-hash-seed 0xdeadbeef",
        ),
        Case::Prints(
            Family::V6,
            "-m cluster --cluster-total-nodes 2 ! --cluster-local-node 2 --cluster-hash-seed 1",
            "-m cluster ! --cluster-local-nodemask 0x00000002 --cluster-total-nodes 2 --cluster-hash-seed 0x00000001",
        ),
        Case::Prints(
            Family::V4,
            "-m cluster --cluster-total-nodes 2 --cluster-local-nodemask 3 --cluster-hash-seed 1",
            "-m cluster --cluster-local-nodemask 0x00000003 --cluster-total-nodes 2 --cluster-hash-seed 0x00000001",
        ),
        Case::Prints(
            Family::V4,
            "-m cluster --cluster-total-nodes 4 ! --cluster-local-nodemask 0xa --cluster-hash-seed 4294967295",
            "-m cluster ! --cluster-local-nodemask 0x0000000a --cluster-total-nodes 4 --cluster-hash-seed 0xffffffff",
        ),
        Case::Prints(
            Family::V4,
            "-m cluster --cluster-total-nodes 32 --cluster-local-node 6 --cluster-hash-seed 0",
            "-m cluster --cluster-local-nodemask 0x00000020 --cluster-total-nodes 32 --cluster-hash-seed 0x00000000",
        ),
        Case::Prints(
            Family::V6,
            "-m cluster --cluster-total-nodes 1 --cluster-local-node 1 --cluster-hash-seed 1",
            "-m cluster --cluster-local-nodemask 0x00000001 --cluster-total-nodes 1 --cluster-hash-seed 0x00000001",
        ),
        Case::Refused(Family::V4, "-m cluster", "cluster asks for --cluster-total-nodes"),
        Case::Refused(Family::V4, "-m cluster --cluster-local-node 1 --cluster-hash-seed 1", "cluster asks for --cluster-total-nodes"),
        Case::Refused(Family::V4, "-m cluster --cluster-total-nodes 2 --cluster-local-node 1", "cluster asks for --cluster-hash-seed"),
        Case::Refused(Family::V4, "-m cluster --cluster-total-nodes 2 --cluster-hash-seed 1", "--cluster-local-node or"),
        Case::Refused(Family::V4, "-m cluster --cluster-total-nodes 33 --cluster-local-node 1 --cluster-hash-seed 1", "`33` is not a number of nodes"),
        Case::Refused(Family::V4, "-m cluster --cluster-total-nodes 0 --cluster-local-node 1 --cluster-hash-seed 1", "`0` is not a number of nodes"),
        Case::Refused(Family::V4, "-m cluster --cluster-total-nodes 2 --cluster-local-node 3 --cluster-hash-seed 1", "`3` is not a node of 2"),
        Case::Refused(Family::V6, "-m cluster --cluster-total-nodes 2 --cluster-local-node 0 --cluster-hash-seed 1", "`0` is not a node of 2"),
        Case::Refused(Family::V4, "-m cluster --cluster-total-nodes 2 --cluster-local-nodemask 4 --cluster-hash-seed 1", "`4` is not a mask of 2 nodes"),
        Case::Refused(Family::V4, "-m cluster --cluster-total-nodes 2 --cluster-local-nodemask 0 --cluster-hash-seed 1", "`0` is not a mask of 2 nodes"),
        Case::Refused(Family::V4, "-m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 4294967296", "`4294967296` is not a seed"),
        Case::Refused(
            Family::V4,
            "-m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-local-nodemask 1 --cluster-hash-seed 1",
            "cannot stand with",
        ),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(nodes) = given.value(NODES) else { return Err(given.complain("cluster asks for --cluster-total-nodes")) };
    let nodes = word::number(nodes, "a number of nodes", 1..=MAX_NODES.into())? as u32;
    let Some(seed) = given.value(SEED) else { return Err(given.complain("cluster asks for --cluster-hash-seed")) };
    let seed = word::number(seed, "a seed", 0..=u32::MAX.into())? as u32;
    let (option, mask) = match (given.get(NODE), given.get(NODEMASK)) {
        (Some(node), Some(_)) => {
            let what = "`--cluster-local-node` cannot stand with `--cluster-local-nodemask`";
            return Err(node.word.complain(what, "one of the two"));
        }
        (None, None) => {
            return Err(given.complain("cluster asks for --cluster-local-node or --cluster-local-nodemask"));
        }
        (Some(node), None) => {
            let number = word::number(&node.values[0], &format!("a node of {nodes}"), 1..=nodes.into())?;
            (node, 1 << (number - 1))
        }
        (None, Some(mask)) => {
            (mask, word::number(&mask.values[0], &format!("a mask of {nodes} nodes"), 1..=all(nodes).into())? as u32)
        }
    };
    Ok(vec![Cond::new(option.negate, Match::Cluster(Cluster { nodes, mask, seed }))])
}

/// The mask of all nodes.
fn all(nodes: u32) -> u32 {
    ((1u64 << nodes) - 1) as u32
}

impl Cluster {
    /// The node, from 0, of flows that this address began.
    fn node(&self, family: Family, addr: u128) -> u32 {
        // The kernel means to hash all of an IPv6 address, but gives its length in the wrong unit (`xt_cluster_hash_ipv6`).
        let hashed = match family {
            Family::V4 => addr as u32,
            Family::V6 => (addr >> 96) as u32,
        };
        // As it stands in memory.
        let hash = jhash(&[u32::from_ne_bytes(hashed.to_be_bytes())], self.seed);
        // `reciprocal_scale`
        ((u64::from(hash) * u64::from(self.nodes)) >> 32) as u32
    }
}

impl Condition for Cluster {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let Some(flow) = cx.around.flow().filter(|_| facts.has_ct) else { return Outcome::Never };
        let node = match facts.ct_status & status::TEMPLATE {
            0 => self.node(facts.family, flow.ends(Dir::Original).src),
            // The template of a flow has no addresses, and 0 for its hash.
            _ => 0,
        };
        yes(self.mask >> node & 1 != 0)
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let Cluster { nodes, mask, seed } = self;
        let _ = write!(
            out,
            "{} --cluster-local-nodemask {mask:#010x} --cluster-total-nodes {nodes} --cluster-hash-seed {seed:#010x}",
            not(negate)
        );
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self.nodes {
            1..=MAX_NODES if self.mask != 0 && self.mask <= all(self.nodes) => Ok(()),
            nodes => Err(format!("a mask {:#x} of {nodes} nodes", self.mask)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use crate::facts::Ends;

    #[test]
    fn every_flow_belongs_to_one_node_and_nothing_without_a_flow_to_any() {
        for family in Family::ALL {
            for source in [1, 0x0a00_0001, 0xc0a8_0107 << 96, 0xffff_ffff] {
                let hits = (1..=5).filter(|node| {
                    let text = "-m cluster --cluster-total-nodes 5 --cluster-hash-seed 7 --cluster-local-node";
                    let mut judge = Judge::new(family, &format!("{text} {node}"));
                    judge.flow.ends[Dir::Original as usize] = Ends { src: source, ..Ends::default() };
                    assert_eq!(judge.ask(&Facts::blank(family), &[]), Outcome::Never);
                    judge.ask(&Facts { has_ct: true, ..Facts::blank(family) }, &[]) == Outcome::Yes
                });
                assert_eq!(hits.count(), 1, "{family:?} {source:x}");
            }
        }
    }

    #[test]
    fn a_template_is_of_the_first_node() {
        for (node, expected) in [(1, Outcome::Yes), (2, Outcome::No)] {
            let text = "-m cluster --cluster-total-nodes 2 --cluster-hash-seed 7 --cluster-local-node";
            let judge = Judge::new(Family::V4, &format!("{text} {node}"));
            let facts = Facts { has_ct: true, ct_status: status::TEMPLATE, ..Facts::blank(Family::V4) };
            assert_eq!(judge.ask(&facts, &[]), expected);
        }
    }

    #[test]
    fn nodes_that_cannot_be_do_not_verify() {
        for (nodes, mask) in [(0, 1), (33, 1), (2, 0), (2, 4)] {
            assert!(Cluster { nodes, mask, seed: 0 }.verify(Family::V4).is_err(), "{nodes} {mask}");
        }
        assert_eq!(Cluster { nodes: 32, mask: u32::MAX, seed: 0 }.verify(Family::V4), Ok(()));
    }
}
