//! What the command line prints: for people by default, for programs as JSON.

use crate::candidate::Checked;
use sumun_config::facts::Family;

pub mod accounts;
pub mod drops;
pub mod neighbours;
pub mod rules;
pub mod status;
pub mod timers;

/// One line on a configuration that is right.
pub fn summary(checked: &Checked) -> String {
    let count = |family: Family| -> usize {
        let tables = &checked.config.policy.ruleset.of(family).tables;
        tables.iter().flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum()
    };
    let (v4, v6) = (count(Family::V4), count(Family::V6));
    let interfaces = plural(checked.config.appliance.interfaces.len(), "interface");
    let routes = plural(checked.config.policy.routes.len(), "route");
    let warnings = match checked.warnings.len() {
        0 => String::new(),
        n => format!("; {}", plural(n, "warning")),
    };
    let name = checked.source.name();
    format!("{name}: no mistakes; {interfaces}, {routes}, {} for IPv4, {v6} for IPv6{warnings}", plural(v4, "rule"))
}

/// `1 rule`, `2 rules`.
pub fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// `02:00:00:00:00:01`
pub fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// `3 days 02:03:04`, without the days where there are none.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    let clock = format!("{:02}:{:02}:{:02}", s / 3600 % 24, s / 60 % 60, s % 60);
    match s / 86_400 {
        0 => clock,
        days => format!("{} {clock}", plural(days as usize, "day")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_clocks() {
        assert_eq!(duration(3_723_999), "01:02:03");
        assert_eq!(duration(86_400_000), "1 day 00:00:00");
        assert_eq!(duration(2 * 86_400_000 + 1000), "2 days 00:00:01");
    }

    #[test]
    fn mac_has_two_digits_a_byte() {
        assert_eq!(mac([2, 0, 0xab, 0, 0, 1]), "02:00:ab:00:00:01");
    }
}
