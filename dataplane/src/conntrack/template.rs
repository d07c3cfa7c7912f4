//! What CT of table raw asks of conntrack for a packet and the flow that it begins (`nf_ct_tmpl_alloc` and its readers).

use super::Cold;
use crate::sync::atomic::Ordering;
use sumun_config::rule::targets::ct::Ct;

/// The template of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Template<'a> {
    /// The zones of both directions: where the packet is looked up, and what a flow that it begins gets.
    pub zones: [u16; 2],
    /// What else a flow gets that the packet begins.
    pub rule: Option<&'a Ct>,
}

impl<'a> Template<'a> {
    /// That of a rule, for a packet with this mark.
    pub fn of(rule: &'a Ct, mark: u32) -> Template<'a> {
        Template { zones: rule.zone.ids(mark), rule: Some(rule) }
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
        let silent = u32::from(!events) | u32::from(!expect_events) << 16;
        cold.helper.store(helper, Ordering::Relaxed);
        cold.silent.store(silent, Ordering::Relaxed);
        helper != 0 || silent != 0
    }
}
