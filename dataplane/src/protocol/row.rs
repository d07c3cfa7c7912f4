//! Rows of answers: counters, drops, packets, timers, neighbours, accounts.

use crate::reason::{Class, DropReason};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use sumun_config::rule::matches::nfacct::Quota;

/// Packets and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP.
    pub bytes: u64,
}

/// The counters of a chain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChainCounters {
    /// Of the policy; zero for user chains.
    pub policy: Counter,
    /// Of the rules, in order.
    pub rules: Vec<Counter>,
}

/// The counters of a ruleset, in its shape: by `Family::index`, by `Table as usize`, by chain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Families, tables, chains.
    pub families: [[Vec<ChainCounters>; 5]; 2],
}

/// The running policy and its counters.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Its number.
    pub generation: u64,
    /// The payload that was published (a [`sumun_config::model::Policy`]); none while the initial policy runs.
    pub policy: Option<Vec<u8>>,
    /// Of this generation.
    pub counters: Counters,
}

/// A packet that NFLOG met.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PacketRow {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Its group.
    pub group: u16,
    /// The chain's hook: `FORWARD`.
    pub hook: String,
    /// `--nflog-prefix`.
    pub prefix: String,
    /// What LOG would say of it, behind the prefix, with its priority and its security context.
    pub line: String,
    /// Bytes of IP that it has.
    pub len: u32,
    /// As many of them as are told.
    pub bytes: Vec<u8>,
}

/// How many packets ended for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Drops {
    /// [`DropReason::name`].
    pub reason: String,
    /// `policy`, `error` or `overload`.
    pub class: String,
    /// Packets since the start.
    pub packets: u64,
    /// [`DropReason::explain`].
    pub explanation: String,
}

impl Drops {
    /// The line of a reason.
    pub fn of(reason: DropReason, packets: u64) -> Drops {
        let class = match reason.class() {
            Class::Policy => "policy",
            Class::Error => "error",
            Class::Overload => "overload",
        };
        Drops {
            reason: reason.name().to_string(),
            class: class.to_string(),
            packets,
            explanation: reason.explain().trim().to_string(),
        }
    }
}

/// A timer of IDLETIMER.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimerRow {
    /// Its name.
    pub label: String,
    /// Whole seconds that it has left; none where it has run out.
    pub left: Option<u32>,
    /// Its rules have `--alarm`.
    pub alarm: bool,
}

/// A neighbour for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NeighbourRow {
    /// Name of the port.
    pub port: String,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, where known.
    pub mac: Option<[u8; 6]>,
    /// `REACHABLE`, `STALE` and so on, as ip-neighbour(8) prints it.
    pub state: String,
}

/// An account of `nfacct`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccountRow {
    /// Its name.
    pub name: String,
    /// Packets counted.
    pub packets: u64,
    /// Bytes of IP.
    pub bytes: u64,
    /// Its quota, where it has one.
    pub quota: Option<Quota>,
    /// More was counted than that.
    pub beyond: bool,
}
