//! What CT of table raw asks of conntrack for a packet and the flow that it begins (`nf_ct_tmpl_alloc` and its readers).

use super::Cold;
use crate::sync::atomic::Ordering;
use std::sync::Arc;
use sumun_config::model::{Policy, Sysctl};
use sumun_config::rule::targets::ct::Ct;
use sumun_config::timeout::{self, TimeoutPolicy};

/// The template of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Template<'a> {
    /// The zones of both directions: where the packet is looked up, and what a flow that it begins gets.
    pub zones: [u16; 2],
    /// What else a flow gets that the packet begins.
    pub rule: Option<&'a Ct>,
    /// The flow is one that SYNPROXY opens.
    pub proxied: bool,
}

impl<'a> Template<'a> {
    /// That of a rule, for a packet with this mark.
    pub fn of(rule: &'a Ct, mark: u32) -> Template<'a> {
        Template { zones: rule.zone.ids(mark), rule: Some(rule), proxied: false }
    }

    /// That of a SYN with which SYNPROXY opens a connection.
    pub fn proxied() -> Template<'a> {
        Template { proxied: true, ..Template::default() }
    }

    /// Whether one direction is in another zone than the other.
    #[inline]
    pub fn is_divided(&self) -> bool {
        self.zones[0] != self.zones[1]
    }

    /// Writes down what a flow keeps beyond its zone; false where that is nothing. The line is clear.
    pub(super) fn write(&self, cold: &Cold) -> bool {
        let Some(rule) = self.rule else { return false };
        let helper = rule.helper.map_or(0, |helper| helper as u8);
        let (events, expect_events) = rule.event_masks();
        let silent = !events & 0x0fff | !expect_events << 12;
        cold.helper.store(helper, Ordering::Relaxed);
        let timeout = rule.timeout.as_deref().map_or(0, timeout::id);
        cold.silent.store(silent, Ordering::Relaxed);
        cold.timeout.store(timeout, Ordering::Relaxed);
        helper != 0 || silent != 0 || timeout != 0
    }
}

/// The settings of flows that have a time-out policy. Made for each generation, shared by the workers.
#[derive(Clone, Debug, Default)]
pub struct Timeouts(Arc<[(u16, Sysctl)]>);

impl Timeouts {
    /// Those of a policy.
    pub fn of(policy: &Policy) -> Timeouts {
        Timeouts::from_policies(&policy.timeouts, &policy.sysctl)
    }

    /// Those of time-out policies, where other flows have these settings.
    pub fn from_policies(policies: &[TimeoutPolicy], settings: &Sysctl) -> Timeouts {
        let mut all: Vec<_> = policies.iter().map(|policy| (policy.id(), policy.over(settings))).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        Timeouts(all.into())
    }

    /// The settings that a flow keeps this number of; none where there is no such policy any more.
    pub fn find(&self, id: u16) -> Option<&Sysctl> {
        let at = self.0.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.0.get(at).map(|(_, settings)| settings)
    }
}
