//! Conditions and targets out of the accepted cases of all matches and targets, in their canonical text.
//!
//! A new match or target is drawn as soon as it has cases. What both routers cannot be compared by is [`LEFT_OUT`].

use super::super::net::PORTS;
use super::super::rng::Rng;
use super::alteration::harms_sums;
use super::draw::Place;
use sumun_config::facts::Family;
use sumun_config::rule::option::{Case, Extension, MatchExtension};
use sumun_config::rule::{Families, Hook, Reach, Site, Table, matches, parse_text, targets};
use sumun_config::set::samples;

/// Words of cases that are not drawn, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("--mode random", "chance"),
    ("--random", "chance"),
    ("-j SYNPROXY", "cookies are chance; tests/synproxy_scripts.rs knows them"),
    ("-m rateest", "time, and an estimator has to be there"),
    ("-m nfacct", "the kernel wants to be told of accounts beforehand"),
    ("-m cpu", "the kernel's core is whichever sends the frame"),
    ("-m cluster", "whatever has a group's MAC goes on with it; tests/around_scripts.rs has what it matches"),
    ("-m connlimit", "time; the kernel counts a flow anew for each of its packets in a tick"),
    ("-m hashlimit", "time; tests/memory_scripts.rs has rates that a case does not notice"),
    ("-m limit", "time; the makers have rates that a case does not notice"),
    ("-j SECMARK", "the kernel may have no security module that knows a context"),
    ("-j SNPT", "damages checksums; the makers know with which prefixes both do so alike"),
    ("-j DNPT", "damages checksums; the makers know with which prefixes both do so alike"),
];

/// Targets that change an IPv6 header without its sum.
const UNSUMMED: [&str; 4] = ["-j TOS", "-j DSCP", "-j HL", "-j ECN"];

/// Whether Sumun takes a rule at a place. That iptables takes it there as well is known of each case (tests/spelling.rs).
pub(super) fn takes(rule: &str, place: &Place) -> bool {
    let ports = PORTS.map(String::from);
    let hook = Hook::ALL.into_iter().find(|hook| place.is_at(*hook));
    let reach = match hook.filter(|_| place.is_builtin) {
        Some(hook) => Reach::BuiltIn(hook),
        None => Reach::User(place.hooks),
    };
    let families = Families::Only(place.family);
    let site = Site { families, table: place.table, reach, ports: &ports, names: samples::names(), base: 0, line: 0 };
    parse_text(rule, &site).is_ok()
}

/// Whether iptables gives an option to the wrong match: with `-m mark` between two `-m connmark`, the last `--mark` is a second one
/// of the former.
pub(super) fn is_misread(conditions: &str) -> bool {
    let named = conditions.split("-m ").skip(1).filter_map(|part| part.split(' ').next());
    let named: Vec<_> =
        named.filter_map(|name| matches::EXTENSIONS.iter().find(|extension| extension.name == name)).collect();
    let shares = |a: &MatchExtension, b: &MatchExtension| {
        a.name != b.name && a.options.iter().any(|option| b.options.iter().any(|other| other.name == option.name))
    };
    let mut again =
        named.iter().enumerate().filter(|(n, one)| named[..*n].iter().any(|earlier| earlier.name == one.name));
    again.any(|(_, one)| named.iter().any(|other| shares(one, other)))
}

/// A condition that asks for no protocol.
pub(super) fn condition(place: &Place, rng: &mut Rng) -> Option<String> {
    draw(matches::EXTENSIONS, place, rng, |text| text.starts_with("-m "))
}

/// A protocol or another condition of every rule, and what asks for it.
pub(super) fn protocol(place: &Place, rng: &mut Rng) -> Option<String> {
    draw(matches::EXTENSIONS, place, rng, |text| !text.starts_with("-m "))
}

/// A target, and the conditions that its case has.
pub(super) fn target(place: &Place, rng: &mut Rng) -> Option<String> {
    draw(targets::EXTENSIONS, place, rng, |_| true)
}

/// A case of an extension; each extension is as likely as any other.
fn draw<T>(of: &[&Extension<T>], place: &Place, rng: &mut Rng, fits: fn(&str) -> bool) -> Option<String> {
    (0..30).find_map(|_| {
        let texts = accepted(rng.pick(of), place.family);
        let text = (!texts.is_empty()).then(|| rng.pick(&texts))?;
        (fits(text) && is_comparable(text, place) && takes(text, place)).then(|| text.to_string())
    })
}

fn accepted<T>(extension: &Extension<T>, family: Family) -> Vec<&'static str> {
    let canonical = |case: &Case| match *case {
        Case::Prints(of, text, "=") if of == family => Some(text),
        Case::Prints(of, _, canonical) if of == family => Some(canonical),
        _ => None,
    };
    extension.cases.iter().filter_map(canonical).collect()
}

fn is_comparable(text: &str, place: &Place) -> bool {
    let unsummed = harms_sums(place) && UNSUMMED.iter().any(|target| text.contains(target));
    // The answer to what the router sends would come in again.
    let echoed = place.is_at(Hook::Output) && text.contains("-j REJECT");
    // The program does not let the kernel do so.
    let inhibited = place.table == Table::Nat && text.contains("-j DROP");
    // Nobody listens: the kernel lets the packet through without a mapping, and asks again for the flow's next.
    let unmapped = place.table == Table::Nat && text.contains("QUEUE");
    !unsummed && !echoed && !inhibited && !unmapped && !LEFT_OUT.iter().any(|(words, _)| text.contains(words))
}
