//! `[[rules]]`: policy routing, as `ip rule`.
//!
//! The kernel starts with three rules: the tables local at 0, main at 32766, default at 32767. They are added for each
//! family, unless the file has a rule of that priority for it.

use super::interfaces::Interfaces;
use super::reader::{Field, Fields};
use super::report::Sink;
use super::routes::table_number;
use super::values::{family_of_net, network, said};
use crate::facts::{Family, LOOPBACK};
use crate::model::{Route, RoutingRule, RuleAction, RuleIif};
use ipnet::IpNet;
use std::ops::Range;

/// Reads `[[rules]]`; the answer is in order of priority.
pub(super) fn read(
    sections: Vec<Fields>,
    interfaces: &Interfaces,
    routes: &[Route],
    sink: &mut Sink,
) -> Vec<RoutingRule> {
    let mut rules: Vec<(RoutingRule, Range<usize>)> = Vec::new();
    for fields in sections {
        let at = fields.at.clone();
        for rule in rule(fields, interfaces, routes, sink) {
            if let Some((_, first)) = rules.iter().find(|(other, _)| *other == rule) {
                sink.conflict(at.clone(), "this rule is given twice")
                    .help("another priority, or other conditions")
                    .label(first.clone(), "first given here");
                break;
            }
            rules.push((rule, at.clone()));
        }
    }
    let mut rules: Vec<RoutingRule> = rules.into_iter().map(|(rule, _)| rule).collect();
    for family in Family::ALL {
        for (priority, lookup) in RoutingRule::KERNEL {
            if !rules.iter().any(|rule| rule.priority == priority && rule.family == family) {
                rules.push(RoutingRule::bare(priority, family, RuleAction::Lookup(lookup)));
            }
        }
    }
    // Stable: equal priorities stay in the order of the file, as the kernel adds a rule behind its equals.
    rules.sort_by_key(|rule| rule.priority);
    rules
}

/// Reads one section: a rule for each family that it serves.
fn rule(mut fields: Fields, interfaces: &Interfaces, routes: &[Route], sink: &mut Sink) -> Vec<RoutingRule> {
    let priority = fields.require("priority", "priority = 1000", sink);
    let priority = priority.and_then(|field| field.integer(0..=u32::MAX.into(), sink));
    let family_field = fields.take("family");
    let family = family_field.and_then(|field| {
        field.choice(&[("ipv4", Family::V4), ("ipv6", Family::V6)], sink).map(|family| (family, field))
    });
    let not = fields.take("not").and_then(|field| field.boolean(sink)).unwrap_or(false);
    let from_field = fields.take("from");
    let from = from_field.and_then(|field| selector(&field, sink));
    let to_field = fields.take("to");
    let to = to_field.and_then(|field| selector(&field, sink));
    let iif = fields.take("iif").and_then(|field| match field.node.get_ref().as_str() {
        Some(LOOPBACK) => Some(RuleIif::Local),
        _ => interfaces.find(&field, sink).map(RuleIif::Port),
    });
    let fwmark = fields.take("fwmark").and_then(|field| fwmark(&field, sink));
    let (tos_field, dscp_field) = (fields.take("tos"), fields.take("dscp"));
    let tos = tos_field.and_then(|field| tos(&field, sink)).unwrap_or(0);
    let dscp: Option<u8> = dscp_field.and_then(|field| field.integer(0..=63, sink));
    if let (Some(tos), Some(dscp)) = (tos_field, dscp_field) {
        sink.conflict(dscp.at(), "a rule has either `tos` or `dscp`").help("remove one").label(tos.at(), "given here");
    }
    let suppress = fields.take("suppress-prefixlength").and_then(|field| field.integer(0..=128, sink));
    let action = action(&mut fields, routes, sink);
    fields.finish(sink);
    // Each place that shows a family must show the same one.
    let mut shown = family.map(|(family, field)| (family, field.at()));
    for (net, field) in [(from, from_field), (to, to_field)] {
        let (Some(net), Some(field)) = (net, field) else { continue };
        match &shown {
            Some((family, first)) if *family != family_of_net(net) => {
                sink.conflict(field.at(), format!("{net} cannot match in an {} rule", said(*family)))
                    .help(format!("an {} network", said(*family)))
                    .label(first.clone(), "the family shows here");
                return Vec::new();
            }
            _ => shown = Some((family_of_net(net), field.at())),
        }
    }
    let (Some(priority), Some(action)) = (priority, action) else { return Vec::new() };
    Family::ALL
        .into_iter()
        .filter(|family| shown.as_ref().is_none_or(|(only, _)| only == family))
        .map(|family| {
            let tos = dscp.map(RoutingRule::dscp).or_else(|| RoutingRule::tos(family, tos));
            RoutingRule { not, from, to, iif, fwmark, tos, suppress, ..RoutingRule::bare(priority, family, action) }
        })
        .collect()
}

/// `from` and `to`: `"all"` is no condition.
fn selector(field: &Field, sink: &mut Sink) -> Option<IpNet> {
    match field.node.get_ref().as_str() {
        Some("all") => None,
        _ => network(field, sink),
    }
}

/// `fwmark`: a number, or `"MARK/MASK"` with both decimal or hexadecimal.
fn fwmark(field: &Field, sink: &mut Sink) -> Option<(u32, u32)> {
    let accepts = "a mark, such as 1 or \"0x1/0xff\"";
    let text = match field.node.get_ref() {
        toml::de::DeValue::Integer(_) => {
            return field.integer(0..=u32::MAX.into(), sink).map(|mark| (mark, u32::MAX));
        }
        _ => field.string(accepts, sink)?,
    };
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok(),
        _ => text.parse().ok(),
    };
    let parsed = match text.split_once('/') {
        Some((mark, mask)) => number(mark).zip(number(mask)),
        None => number(text).map(|mark| (mark, u32::MAX)),
    };
    let Some((mark, mask)) = parsed else {
        field.refuse(accepts, sink);
        return None;
    };
    // The kernel compares under the mask only (`fib_rule_match`): such bits never matter.
    if mark & !mask != 0 {
        sink.warning(field.at(), format!("the mark {mark:#x} has bits outside of its mask {mask:#x}"))
            .help(format!("this is the same as \"{:#x}/{mask:#x}\"", mark & mask));
    }
    Some((mark & mask, mask))
}

/// `tos`: the kernel refuses ECN bits (`fib4_nl2rule`, `rtm_to_fib_config`), and takes 0 for none.
pub(super) fn tos(field: &Field, sink: &mut Sink) -> Option<u8> {
    let tos: u8 = field.integer(0..=255, sink)?;
    if tos & 3 != 0 {
        sink.error(field.at(), format!("`tos` cannot be {tos}: its two lowest bits are ECN's"))
            .help("a multiple of 4 from 4 to 252");
        return None;
    }
    Some(tos)
}

/// `table` or `action`.
fn action(fields: &mut Fields, routes: &[Route], sink: &mut Sink) -> Option<RuleAction> {
    let table_field = fields.take("table");
    let action_field = fields.take("action");
    let table = table_field.map(|field| table_number(&field, sink));
    let action = action_field.map(|field| {
        let choices = [
            ("blackhole", RuleAction::Blackhole),
            ("unreachable", RuleAction::Unreachable),
            ("prohibit", RuleAction::Prohibit),
        ];
        field.choice(&choices, sink)
    });
    match (table_field, table, action_field, action) {
        (Some(table), _, Some(action), _) => {
            sink.conflict(action.key(), "a rule has either `table` or `action`")
                .help("remove one of the two")
                .label(table.key(), "given here");
            None
        }
        (Some(field), Some(Some(number)), ..) => {
            let known = RoutingRule::KERNEL.iter().any(|(_, table)| *table == number);
            if !known && !routes.iter().any(|route| route.table == number) {
                sink.warning(field.at(), format!("there is no route in table {number}"))
                    .help(format!("add `table = {number}` to a route; until then this rule does nothing"));
            }
            Some(RuleAction::Lookup(number))
        }
        (_, _, Some(_), Some(action)) => action,
        (None, _, None, _) => {
            sink.conflict(fields.at.clone(), "this rule does nothing")
                .help("add `table = \"main\"` or `action = \"prohibit\"`");
            None
        }
        _ => None,
    }
}
