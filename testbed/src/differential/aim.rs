//! What a ruleset speaks of, for traffic to be aimed at.

use super::net::of;
use super::rng::Rng;
use super::rules::Rules;
use super::traffic::own;
use std::net::IpAddr;
use sumun_config::facts::Family;

/// Addresses behind the gateway, and numbers, in the order in which the rules have them.
#[derive(Clone, Default)]
pub struct Aim {
    hosts: Vec<u128>,
    numbers: Vec<u16>,
    asked: Vec<Asked>,
    has_low_range: bool,
}

/// Ends that one rule asks for, as far as it does so plainly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// From where.
    pub src: Option<u128>,
    /// To where.
    pub dst: Option<u128>,
    /// To which port.
    pub dport: Option<u16>,
}

impl Asked {
    fn of(rule: &str) -> Option<Asked> {
        let words: Vec<&str> = rule.split(' ').collect();
        let value = |option: &str| {
            let at = words.iter().position(|word| *word == option)?;
            (at == 0 || words[at - 1] != "!").then(|| words.get(at + 1).copied())?
        };
        let host = |text: &str| {
            let single = text.strip_suffix("/32").or(text.strip_suffix("/128"))?;
            single.parse().ok().map(|address| sumun_config::facts::number(address).1)
        };
        // What is from a broadcast address or the router's own the traffic leaves out (`super::compare`).
        let is_somebody = |address: &u128| {
            (address >> 32 != 0 || address & 0xff != 0xff) && !Family::ALL.iter().any(|f| own(*f).contains(address))
        };
        let first = |text: &str| text.split([',', ':']).next().and_then(number);
        let asked = Asked {
            src: value("-s").and_then(host).filter(is_somebody),
            dst: value("-d").and_then(host),
            dport: value("--dport").or(value("--dports")).and_then(first),
        };
        (asked != Asked::default()).then_some(asked)
    }
}

impl Aim {
    /// What the rules have.
    pub fn at(rules: &Rules) -> Aim {
        let mut aim = Aim::default();
        let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == ':';
        let words = rules.lines().flat_map(|line| line.split(|c: char| !is_of_word(c)));
        for word in words.filter(|word| !word.is_empty()) {
            match word.parse() {
                Ok(IpAddr::V4(host)) if rules.family == Family::V4 => aim.hosts.push(u32::from(host).into()),
                Ok(IpAddr::V6(host)) if rules.family == Family::V6 => aim.hosts.push(host.into()),
                Ok(_) => {}
                Err(_) => aim.numbers.extend(word.split(':').filter_map(number)),
            }
        }
        aim.has_low_range = rules.lines().flat_map(|line| line.split([' ', ','])).any(is_low_range);
        aim.asked = rules.lines().filter_map(Asked::of).collect();
        aim.asked.dedup();
        aim.hosts.retain(|&host| is_behind_gateway(rules.family, host));
        aim
    }

    /// Whether a rule has a range of well-known ports: NAT, which draws another such port where one is taken, draws one of the
    /// range or not.
    pub fn has_low_range(&self) -> bool {
        self.has_low_range
    }

    /// One of the hosts.
    pub fn host(&self, rng: &mut Rng) -> Option<u128> {
        (!self.hosts.is_empty()).then(|| rng.pick(&self.hosts))
    }

    /// What one of the rules asks for.
    pub fn asked(&self, rng: &mut Rng) -> Option<Asked> {
        (!self.asked.is_empty()).then(|| rng.pick(&self.asked))
    }

    /// One of the numbers, or a neighbour of it.
    pub fn number(&self, rng: &mut Rng) -> Option<u16> {
        (!self.numbers.is_empty()).then(|| rng.pick(&self.numbers).wrapping_add(rng.pick(&[0, 0, 0, 1, u16::MAX])))
    }
}

fn is_low_range(word: &str) -> bool {
    let ends = word.split_once(':').and_then(|(low, high)| Some((number(low)?, number(high)?)));
    ends.is_some_and(|(low, high)| high < 1024 && high.saturating_sub(low) >= 32)
}

fn number(word: &str) -> Option<u16> {
    match word.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

/// Whether packets to it leave by the default route, and it may be a source.
fn is_behind_gateway(family: Family, host: u128) -> bool {
    let is_special = match family {
        Family::V4 => matches!(host >> 24, 0 | 127 | 224..) || matches!(host >> 16, 0x0a42..=0x0a44 | 0xa9fe),
        Family::V6 => !matches!(host >> 125, 1) && host >> 121 != 0x7e,
    };
    let (near, length) = of(family, ([0xc0_a801, 0xcb_0071], 8), ([0xfd00_0001_0000_0000, 0x2001_0db8_0002_0000], 64));
    let refused = family == Family::V6 && matches!(host >> 96, 0xfd66_0000 | 0xfd67_0000 | 0xfd68_0000);
    !is_special && !refused && !near.contains(&(host >> length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_asks_for_the_hosts_and_the_port_that_it_names() {
        let asked = Asked::of("-s 192.0.2.1/32 ! -d 192.0.2.2/32 -p tcp -m tcp --dport 22:25 -j DROP");
        assert_eq!(asked, Some(Asked { src: Some(0xc000_0201), dst: None, dport: Some(22) }));
        assert_eq!(Asked::of("-s 192.0.2.0/24 -j DROP"), None);
    }
}
