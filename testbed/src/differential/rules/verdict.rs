//! Ends of packets, policies, and jumps.

use super::super::rng::Rng;
use super::draw::Place;
use super::protocol;
use sumun_config::rule::{Hook, Table};

/// ACCEPT, DROP, or REJECT where it may stand. What the router sends is not answered: the answer would come in again.
pub(super) fn target(place: &Place, conditions: &str, rng: &mut Rng) -> String {
    match rng.below(10) {
        0..=5 => "-j ACCEPT".into(),
        8.. if place.table == Table::Filter && !place.is_at(Hook::Output) => refusal(place, conditions, rng),
        _ => "-j DROP".into(),
    }
}

fn refusal(place: &Place, conditions: &str, rng: &mut Rng) -> String {
    let with = place.of(
        &[
            "icmp-port-unreachable",
            "icmp-net-unreachable",
            "icmp-host-unreachable",
            "icmp-proto-unreachable",
            "icmp-net-prohibited",
            "icmp-host-prohibited",
            "icmp-admin-prohibited",
        ][..],
        &[
            "icmp6-port-unreachable",
            "icmp6-no-route",
            "icmp6-adm-prohibited",
            "icmp6-addr-unreachable",
            "icmp6-policy-fail",
            "icmp6-reject-route",
        ],
    );
    let resets = protocol::of(conditions) == Some("tcp") && rng.chance(60);
    format!("-j REJECT --reject-with {}", if resets { "tcp-reset" } else { rng.pick(with) })
}

/// To another chain of the table.
pub(super) fn jump(chain: &str, rng: &mut Rng) -> String {
    format!("{} {chain}", if rng.chance(25) { "-g" } else { "-j" })
}

/// The policy of a built-in chain.
pub(super) fn policy(table: Table, rng: &mut Rng) -> &'static str {
    let percent = match table {
        Table::Filter => 20,
        Table::Nat => 0,
        Table::Raw | Table::Mangle | Table::Security => 2,
    };
    if rng.chance(percent) { "DROP" } else { "ACCEPT" }
}
