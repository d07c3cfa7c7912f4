//! The conditions that need no `-m`: addresses, interfaces, protocol, fragments. Their options, and what becomes of them.

use super::build::Site;
use super::draft::{Draft, suggest};
use super::matches::{
    address::{self, Address},
    fragment::Fragment,
    interface, protocol,
};
use super::option::{Complaint, GivenOption, Opt, Word};
use super::word::split;
use super::{Cond, Hook, Match};
use crate::facts::{Family, LOOPBACK};

/// Index of each option in [`OPTIONS`].
pub const SOURCE: usize = 0;
/// `-d`
pub const DESTINATION: usize = 1;
/// `-i`
pub const IN: usize = 2;
/// `-o`
pub const OUT: usize = 3;
/// `-p`
pub const PROTOCOL: usize = 4;
/// `-f`
pub const FRAGMENT: usize = 5;

/// In canonical order. One-letter names take one dash.
pub static OPTIONS: [Opt; 6] = [
    Opt::negatable("source", &["s", "src"])
        .about("ADDRESS[/MASK][,...]", "source address or network; a list is a rule for each"),
    Opt::negatable("destination", &["d", "dst"])
        .about("ADDRESS[/MASK][,...]", "destination address or network; a list is a rule for each"),
    Opt::negatable("in-interface", &["i", "in"])
        .about("NAME", "interface that the packet came in on; a `+` at the end stands for anything"),
    Opt::negatable("out-interface", &["o", "out"]).about("NAME", "interface that it goes out on"),
    Opt::negatable("protocol", &["p"]).about("PROTOCOL", "name or number of the protocol"),
    Opt::negatable_flag("fragment", &["f", "fragments"]).about("", "a fragment other than the first; IPv4 only"),
];

/// The long names that iptables has; the others are ours.
pub const IPTABLES: [&str; 8] =
    ["source", "src", "destination", "dst", "in-interface", "out-interface", "protocol", "fragments"];

/// The protocol of `-p` and whether it was negated; none for `-p all`.
pub fn protocol(given: &[GivenOption]) -> Option<(u8, bool)> {
    let option = given.iter().find(|o| o.option == PROTOCOL)?;
    let number = protocol::parse_protocol(option.values.first()?).ok()?;
    (number != 0).then_some((number, option.negate))
}

/// The conditions of `-p`, `-i`, `-o` and `-f`, and the choices of `-s` and `-d`: a list of addresses is one rule for each.
pub struct Built {
    /// One of these; a choice without a condition is any address.
    pub sources: Vec<Option<Cond>>,
    /// And one of these.
    pub destinations: Vec<Option<Cond>>,
    /// And all of these, in canonical order.
    pub others: Vec<Cond>,
}

/// Makes conditions of the core options.
pub fn build(draft: &Draft, site: &Site, complaints: &mut Vec<Complaint>) -> Built {
    let family = draft.family;
    let mut built = Built { sources: vec![None], destinations: vec![None], others: Vec::new() };
    let mut sorted: Vec<&GivenOption> = draft.core.iter().collect();
    sorted.sort_by_key(|o| o.option);
    for option in sorted {
        let made = match option.option {
            SOURCE => addresses(option, family, |net, mask| Address::Source { net, mask })
                .map(|choices| built.sources = choices),
            DESTINATION => addresses(option, family, |net, mask| Address::Destination { net, mask })
                .map(|choices| built.destinations = choices),
            IN | OUT => interface(option, site).map(|cond| built.others.extend(cond)),
            PROTOCOL => protocol_cond(option).map(|cond| built.others.extend(cond)),
            FRAGMENT => fragment(option, family).map(|cond| built.others.push(cond)),
            _ => Ok(()),
        };
        complaints.extend(made.err());
    }
    built
}

fn word(option: &GivenOption) -> Word {
    option.values.first().cloned().unwrap_or_else(|| option.word.clone())
}

/// One condition for each address of the list, none for one that any packet meets.
fn addresses(
    option: &GivenOption,
    family: Family,
    make: impl Fn(u128, u128) -> Address,
) -> Result<Vec<Option<Cond>>, Complaint> {
    let word = word(option);
    let parts = split(&word, ',');
    if option.negate && parts.len() > 1 {
        return Err(word.complain(
            "`!` cannot stand before a list of addresses: it would be several rules, and any packet would match one",
            "one address, or the iprange match",
        ));
    }
    let cond = |part: &Word| {
        let (net, mask) = address::parse(part, family)?;
        let any = mask == 0 && !option.negate;
        Ok((!any).then(|| Cond::new(option.negate, Match::Address(make(net, mask)))))
    };
    parts.iter().map(cond).collect()
}

fn interface(option: &GivenOption, site: &Site) -> Result<Option<Cond>, Complaint> {
    let word = word(option);
    let inward = option.option == IN;
    let builtin = site.reach.builtin();
    let has_none = match builtin {
        Some(Hook::Output | Hook::Postrouting) => inward,
        Some(Hook::Prerouting | Hook::Input) => !inward,
        _ => false,
    };
    if let (true, Some(hook)) = (has_none, builtin) {
        let side = if inward { "incoming" } else { "outgoing" };
        let complaint =
            format!("`{}` cannot be used in {}: packets have no {side} interface there", option.word.text, hook.name());
        return Err(Complaint { at: option.word.at.clone(), what: complaint, accepts: None });
    }
    let Some((name, set)) = interface::parse(&word, site.ports)? else {
        // `! -i +` writes no condition either (iptables drops the `!` with it).
        return Ok(None);
    };
    let foreign = site.names.foreign;
    let known =
        &*name == LOOPBACK || name.ends_with('+') || foreign.iter().any(|pattern| interface::covers(pattern, &name));
    if set.is_empty() && !known {
        return Err(Complaint {
            at: word.at.clone(),
            what: format!("there is no interface `{name}`"),
            accepts: suggest(&name, site.ports.iter().chain(foreign).map(String::as_str)),
        });
    }
    let test = if inward {
        interface::Interface::In { name, ports: set }
    } else {
        interface::Interface::Out { name, ports: set }
    };
    Ok(Some(Cond::new(option.negate, Match::Interface(test))))
}

fn protocol_cond(option: &GivenOption) -> Result<Option<Cond>, Complaint> {
    let word = word(option);
    match protocol::parse(&word)? {
        None if option.negate => Err(word.complain("a rule for no protocol never matches", "a protocol after `!`")),
        found => Ok(found.map(|protocol| Cond::new(option.negate, Match::Protocol(protocol)))),
    }
}

fn fragment(option: &GivenOption, family: Family) -> Result<Cond, Complaint> {
    match family {
        Family::V4 => Ok(Cond::new(option.negate, Match::Fragment(Fragment))),
        Family::V6 => Err(Complaint {
            at: option.word.at.clone(),
            what: format!("`{}` is for IPv4 only", option.word.text),
            accepts: None,
        }),
    }
}
