//! What was asked of a packet, step by step; recorded only where somebody asked for it (`sumun simulate --trace`).

use crate::conntrack::Invalid;
use crate::reason::DropReason;
use sumun_config::rule::{Hook, Table};

/// A chain said something of the packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// At this hook.
    pub hook: Hook,
    /// In this table.
    pub table: Table,
    /// In this chain.
    pub chain: String,
    /// The rule, counted from 1; none: the chain's end.
    pub rule: Option<u32>,
    /// `ACCEPT`, `DROP`, `RETURN`, the target's or the chain's name, or `CONTINUE` for a rule that only counts.
    pub verdict: String,
}

/// How a packet ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Sent on these ports (more than one frame where it was fragmented).
    Forwarded,
    /// Given to the local stack.
    Delivered,
    /// Waits for its neighbour's address, or as a fragment for the rest of its packet.
    Waiting,
    /// Answered by the engine itself (ARP, neighbour discovery).
    Consumed,
    /// Dropped.
    Dropped(DropReason),
}

/// The record of one packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// In order.
    pub steps: Vec<Step>,
    /// Why conntrack could not place it, if it could not.
    pub invalid: Option<Invalid>,
    /// Set when the packet has ended.
    pub end: Option<End>,
    /// Frames whose packets were handed to the local stack.
    pub delivered: Vec<Vec<u8>>,
}
