//! `-m conntrack`: what is known of the packet's flow (`xt_conntrack.c`): state, status, direction, protocol, ends, life.
//!
//! `--ctstate` holds for any of the states listed, and SNAT and DNAT are states too: those of flows whose addresses are
//! rewritten. A packet without a flow is INVALID or UNTRACKED. What the other options say of such a packet is the
//! kernel's rule: beside a `--ctstate` that holds they are not asked at all, alone they never match, negated or not.
//! `--ctorigsrc` and the like ask for the flow's own addresses, whatever NAT made of the packet's; ports are what the flow's
//! tuple has for ports, ICMP's identifier among them. `--ctexpire` counts whole seconds.
//!
//! TOML: `{ ctstate = ["RELATED", "ESTABLISHED"], jump = "ACCEPT" }`

use super::{Asks, Condition, Match, address, not, protocol, yes};
use crate::facts::{Context, CtState, Dir, Ends, Facts, Family, status};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, GivenOption, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Conntrack {
    /// `--ctstate`: bits of [`CtState`], [`SNAT`] and [`DNAT`].
    State(u16),
    /// `--ctproto`
    Protocol {
        /// Of the flow; an ICMP error has its flow's protocol here.
        number: u8,
        /// For packets without a flow.
        flowless: Flowless,
    },
    /// `--ctorigsrc`, `--ctorigdst`, `--ctreplsrc`, `--ctrepldst`
    Address {
        /// Of which end.
        end: End,
        /// As written: bits behind the prefix do not count.
        addr: u128,
        /// Length of the prefix.
        len: u8,
        /// For packets without a flow.
        flowless: Flowless,
    },
    /// `--ctorigsrcport`, `--ctorigdstport`, `--ctreplsrcport`, `--ctrepldstport`
    Port {
        /// Of which end.
        end: End,
        /// Lowest.
        first: u16,
        /// Highest.
        last: u16,
        /// For packets without a flow.
        flowless: Flowless,
    },
    /// `--ctexpire`: seconds that the flow has left.
    Expire {
        /// At least.
        first: u32,
        /// At most.
        last: u32,
        /// For packets without a flow.
        flowless: Flowless,
    },
    /// `--ctstatus`: bits of [`status`]; 0 is NONE, which holds for no flow.
    Status {
        /// Any of these.
        mask: u32,
        /// For packets without a flow.
        flowless: Flowless,
    },
    /// `--ctdir`
    Direction {
        /// That of the packet.
        dir: Dir,
        /// For packets without a flow.
        flowless: Flowless,
    },
}

/// An end of a flow, in one of its directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End {
    /// Of packets of this direction.
    pub dir: Dir,
    /// Where they come from; else where they go.
    pub source: bool,
}

/// In the order of the options.
const ENDS: [End; 4] = [
    End { dir: Dir::Original, source: true },
    End { dir: Dir::Original, source: false },
    End { dir: Dir::Reply, source: true },
    End { dir: Dir::Reply, source: false },
];

impl End {
    /// As options name it.
    const fn name(self) -> &'static str {
        match (self.dir, self.source) {
            (Dir::Original, true) => "origsrc",
            (Dir::Original, false) => "origdst",
            (Dir::Reply, true) => "replsrc",
            (Dir::Reply, false) => "repldst",
        }
    }

    /// Its address and port.
    #[inline]
    fn of(self, cx: &Context) -> (u128, u16) {
        let Ends { src, dst, sport, dport } = cx.around.flow().map(|flow| flow.ends(self.dir)).unwrap_or_default();
        if self.source { (src, sport) } else { (dst, dport) }
    }
}

/// What an option other than `--ctstate` says, before negation, of a packet that has no flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Flowless {
    /// No `--ctstate` stands in the same match.
    Never,
    /// One does, and the option is not negated.
    Yes,
    /// One does, and the option is negated.
    No,
}

/// The state of flows whose source is rewritten.
pub const SNAT: u16 = 1 << 7;
/// The state of flows whose destination is rewritten.
pub const DNAT: u16 = 1 << 8;

/// States in canonical order, the virtual ones last.
pub const STATES: [(&str, u16); 7] = [
    ("INVALID", CtState::Invalid as u16),
    ("NEW", CtState::New as u16),
    ("RELATED", CtState::Related as u16),
    ("ESTABLISHED", CtState::Established as u16),
    ("UNTRACKED", CtState::Untracked as u16),
    ("SNAT", SNAT),
    ("DNAT", DNAT),
];

const STATUSES: [(&str, u32); 5] = [
    ("NONE", 0),
    ("EXPECTED", status::EXPECTED),
    ("SEEN_REPLY", status::SEEN_REPLY),
    ("ASSURED", status::ASSURED),
    ("CONFIRMED", status::CONFIRMED),
];

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "conntrack",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("ctstate", &[]).about("STATE[,STATE...]", "INVALID, NEW, RELATED, ESTABLISHED, UNTRACKED, SNAT or DNAT"),
        Opt::negatable("ctproto", &[]).about("PROTOCOL", "the protocol of the flow"),
        Opt::negatable("ctorigsrc", &[]).about("ADDRESS[/MASK]", "the source of the original direction"),
        Opt::negatable("ctorigdst", &[]).about("ADDRESS[/MASK]", "the destination of the original direction"),
        Opt::negatable("ctreplsrc", &[]).about("ADDRESS[/MASK]", "the source of the answers"),
        Opt::negatable("ctrepldst", &[]).about("ADDRESS[/MASK]", "the destination of the answers"),
        Opt::negatable("ctorigsrcport", &[]).about("PORT[:PORT]", "the source port of the original direction"),
        Opt::negatable("ctorigdstport", &[]).about("PORT[:PORT]", "the destination port of the original direction"),
        Opt::negatable("ctreplsrcport", &[]).about("PORT[:PORT]", "the source port of the answers"),
        Opt::negatable("ctrepldstport", &[]).about("PORT[:PORT]", "the destination port of the answers"),
        Opt::negatable("ctstatus", &[]).about("STATUS[,STATUS...]", "NONE, EXPECTED, SEEN_REPLY, ASSURED or CONFIRMED"),
        Opt::negatable("ctexpire", &[]).about("SECONDS[:SECONDS]", "how long the flow has left"),
        Opt::plain("ctdir", &[]).about("ORIGINAL|REPLY", "the direction of the packet in its flow"),
    ],
    build,
    summary: "state, status, direction, protocol, addresses, ports and time of the packet's flow",
    example: r#"{ ctstate = ["RELATED", "ESTABLISHED"], jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m conntrack --ctstate NEW", "="),
        Case::Prints(
            Family::V6,
            "-m conntrack --ctstate ESTABLISHED,RELATED",
            "-m conntrack --ctstate RELATED,ESTABLISHED",
        ),
        Case::Prints(
            Family::V4,
            "-m conntrack --ctstate DNAT,SNAT,RELATED,ESTABLISHED,NEW,INVALID,UNTRACKED",
            "-m conntrack --ctstate INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED,SNAT,DNAT",
        ),
        Case::Prints(Family::V4, "-m conntrack ! --ctstate invalid,new", "-m conntrack ! --ctstate INVALID,NEW"),
        Case::Prints(Family::V4, "-m conntrack --ctstatus NONE", "="),
        Case::Prints(Family::V4, "-m conntrack --ctstatus EXPECTED,SEEN_REPLY,ASSURED,CONFIRMED", "="),
        Case::Prints(Family::V4, "-m conntrack ! --ctstatus assured,NONE", "-m conntrack ! --ctstatus ASSURED"),
        Case::Prints(Family::V4, "-m conntrack --ctdir reply", "-m conntrack --ctdir REPLY"),
        Case::Prints(Family::V4, "-m conntrack ! --ctproto UDP", "-m conntrack ! --ctproto 17"),
        Case::Prints(Family::V4, "-m conntrack --ctproto 0", "="),
        Case::Prints(
            Family::V4,
            "-m conntrack --ctdir REPLY --ctstatus ASSURED --ctstate NEW --ctproto tcp",
            "-m conntrack --ctstate NEW --ctproto 6 --ctstatus ASSURED --ctdir REPLY",
        ),
        Case::Prints(Family::V4, "-m conntrack --ctorigsrc 10.0.0.1", "="),
        Case::Prints(Family::V4, "-m conntrack ! --ctorigdst 10.1.2.3/8", "="),
        Case::Prints(
            Family::V4,
            "-m conntrack --ctreplsrc 10.0.0.0/255.255.0.0",
            "-m conntrack --ctreplsrc 10.0.0.0/16",
        ),
        Case::Prints(Family::V4, "-m conntrack --ctreplsrc 0/0", "-m conntrack --ctreplsrc 0.0.0.0/0"),
        Case::Prints(Family::V6, "-m conntrack --ctorigsrc 2001:db8::1/32 ! --ctrepldst ::1", "="),
        Case::Prints(
            Family::V4,
            "-m conntrack --ctorigsrcport http ! --ctorigdstport 80:90 --ctreplsrcport :80 --ctrepldstport 80:",
            "-m conntrack --ctorigsrcport 80 ! --ctorigdstport 80:90 --ctreplsrcport 0:80 --ctrepldstport 80:65535",
        ),
        Case::Prints(Family::V4, "-m conntrack ! --ctexpire 0x10", "-m conntrack ! --ctexpire 16"),
        Case::Prints(Family::V6, "-m conntrack --ctexpire 5:", "-m conntrack --ctexpire 5:4294967295"),
        Case::Prints(
            Family::V4,
            "-m conntrack --ctdir reply --ctexpire 1 --ctrepldstport 4 --ctreplsrcport 3 --ctorigdstport 2 \
            --ctorigsrcport 1 --ctrepldst 4.4.4.4 --ctreplsrc 3.3.3.3 --ctorigdst 2.2.2.2 --ctorigsrc 1.1.1.1 \
            --ctproto tcp --ctstatus ASSURED --ctstate NEW",
            "-m conntrack --ctstate NEW --ctproto 6 --ctorigsrc 1.1.1.1 --ctorigdst 2.2.2.2 --ctreplsrc 3.3.3.3 \
            --ctrepldst 4.4.4.4 --ctorigsrcport 1 --ctorigdstport 2 --ctreplsrcport 3 --ctrepldstport 4 \
            --ctstatus ASSURED --ctexpire 1 --ctdir REPLY",
        ),
        Case::Refused(Family::V4, "-m conntrack --ctorigsrc 2001:db8::1", "is an IPv6 address"),
        Case::Refused(Family::V4, "-m conntrack --ctorigsrc 1.2.3.4,5.6.7.8", "is several addresses"),
        Case::Refused(Family::V4, "-m conntrack --ctorigsrc 10.0.0.1/255.0.255.0", "has holes"),
        Case::Refused(Family::V4, "-m conntrack --ctorigsrcport 70000", "`70000` is not a port"),
        Case::Refused(Family::V4, "-m conntrack --ctrepldstport 90:80", "runs backwards"),
        Case::Refused(Family::V4, "-m conntrack --ctexpire 4294967296", "is not a number of seconds"),
        Case::Refused(Family::V4, "-m conntrack --ctstate ESTABLISHD", "`ESTABLISHD` is not a conntrack state"),
        Case::Refused(Family::V4, "-m conntrack --ctstate NEW,", "`` is not a conntrack state"),
        Case::Refused(Family::V4, "-m conntrack --ctstatus SNAT", "`SNAT` is not a status"),
        Case::Refused(Family::V4, "-m conntrack --ctdir ORIG", "`ORIG` is not a direction"),
        Case::Refused(Family::V4, "-m conntrack --ctproto foo", "`foo` is not a protocol"),
        Case::Refused(Family::V6, "-m conntrack --ctorigdst 10.0.0.1", "is an IPv4 address"),
        Case::Refused(Family::V4, "-m conntrack --ctreplsrc 10.0.0.300", "is not an IPv4 address"),
        Case::Refused(Family::V4, "-m conntrack --ctrepldst 10.0.0.1 --ctrepldst 10.0.0.2", "given twice"),
        Case::Refused(Family::V4, "-m conntrack --ctorigdstport 1:2:3", "is not a port"),
        Case::Refused(Family::V4, "-m conntrack --ctreplsrcport htpps", "`htpps` is not a port"),
        Case::Refused(Family::V4, "-m conntrack ! --ctdir REPLY", "cannot be negated"),
        Case::Refused(Family::V4, "-m conntrack", "asks for an option"),
    ],
};

const ADDRESSES: usize = 2;
const PORTS: usize = 6;
const STATUS: usize = 10;
const EXPIRE: usize = 11;
const DIRECTION: usize = 12;

/// An address as written, and the length of its prefix. The kernel would take other masks, but iptables-save would not
/// print them.
fn prefix(word: &Word, family: Family) -> Result<(u128, u8), Complaint> {
    let (net, mask) = address::parse(word, family)?;
    let len = (mask << (128 - u32::from(family.bits()))).leading_ones() as u8;
    if family.mask(len) != mask {
        return Err(word.complain(format!("the mask of `{}` has holes", word.text), "a prefix length or its netmask"));
    }
    let written = word::split_once(word, '/').map_or_else(|| word.clone(), |(addr, _)| addr);
    Ok((address::parse_address(&written, family).unwrap_or(net), len))
}

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    let mut push = |option: &GivenOption, test| conds.push(Cond::new(option.negate, Match::Conntrack(test)));
    let state = given.get(0);
    let flowless = |option: &GivenOption| match (state, option.negate) {
        (None, _) => Flowless::Never,
        (Some(_), false) => Flowless::Yes,
        (Some(_), true) => Flowless::No,
    };
    if let Some(option) = state {
        let states = word::abbreviated_list(&option.values[0], "a conntrack state", &STATES)?;
        push(option, Conntrack::State(states.into_iter().fold(0, |mask, state| mask | state)));
    }
    if let Some(option) = given.get(1) {
        let number = protocol::parse_protocol(&option.values[0])?;
        push(option, Conntrack::Protocol { number, flowless: flowless(option) });
    }
    for (i, &end) in ENDS.iter().enumerate() {
        if let Some(option) = given.get(ADDRESSES + i) {
            let (addr, len) = prefix(&option.values[0], given.family)?;
            push(option, Conntrack::Address { end, addr, len, flowless: flowless(option) });
        }
    }
    for (i, &end) in ENDS.iter().enumerate() {
        if let Some(option) = given.get(PORTS + i) {
            let (first, last) = word::port_range(&option.values[0], ':')?;
            push(option, Conntrack::Port { end, first, last, flowless: flowless(option) });
        }
    }
    if let Some(option) = given.get(STATUS) {
        let statuses = word::abbreviated_list(&option.values[0], "a status of a flow", &STATUSES)?;
        let mask = statuses.into_iter().fold(0, |mask, status| mask | status);
        push(option, Conntrack::Status { mask, flowless: flowless(option) });
    }
    if let Some(option) = given.get(EXPIRE) {
        let (first, last) = word::range(&option.values[0], ':', "a number of seconds", 0..=u32::MAX.into())?;
        push(option, Conntrack::Expire { first: first as u32, last: last as u32, flowless: flowless(option) });
    }
    if let Some(option) = given.get(DIRECTION) {
        let names = [("ORIGINAL", Dir::Original), ("REPLY", Dir::Reply)];
        let dir = word::named(&option.values[0], "a direction", &names)?;
        push(option, Conntrack::Direction { dir, flowless: flowless(option) });
    }
    if conds.is_empty() {
        return Err(given.complain("conntrack asks for an option, such as --ctstate"));
    }
    Ok(conds)
}

/// Writes the names of states, in canonical order.
pub fn print_states(out: &mut String, mask: u16) {
    let set = STATES.iter().filter(|&&(_, bit)| mask & bit != 0);
    for (i, (name, _)) in set.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(name);
    }
}

/// The packet's states: its own and those of its flow's mapping.
#[inline]
fn states_of(facts: &Facts) -> u16 {
    let mut states = facts.ct_state as u16;
    if facts.has_ct {
        if facts.ct_status & status::SRC_NAT != 0 {
            states |= SNAT;
        }
        if facts.ct_status & status::DST_NAT != 0 {
            states |= DNAT;
        }
    }
    states
}

impl Flowless {
    #[inline]
    fn or(self, facts: &Facts, hit: bool) -> Outcome {
        if facts.has_ct {
            return yes(hit);
        }
        match self {
            Flowless::Never => Outcome::Never,
            Flowless::Yes => Outcome::Yes,
            Flowless::No => Outcome::No,
        }
    }
}

impl Conntrack {
    /// What is asked less often than the state.
    #[inline(never)]
    fn test_more(&self, facts: &Facts, cx: &Context) -> Outcome {
        match *self {
            Conntrack::State(mask) => yes(mask & states_of(facts) != 0),
            Conntrack::Protocol { number, flowless } => flowless.or(facts, facts.ct_proto == number),
            Conntrack::Status { mask, flowless } => flowless.or(facts, facts.ct_status & mask != 0),
            Conntrack::Direction { dir, flowless } => flowless.or(facts, facts.ct_dir == dir),
            Conntrack::Address { end, addr, len, flowless } => {
                flowless.or(facts, (end.of(cx).0 ^ addr) & facts.family.mask(len.min(facts.family.bits())) == 0)
            }
            Conntrack::Port { end, first, last, flowless } => {
                flowless.or(facts, (first..=last).contains(&end.of(cx).1))
            }
            Conntrack::Expire { first, last, flowless } => {
                let seconds = cx.around.flow().map_or(0, |flow| flow.left() / 1000);
                flowless.or(facts, (first..=last).contains(&seconds))
            }
        }
    }
}

impl Condition for Conntrack {
    #[inline]
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        match *self {
            Conntrack::State(mask) => yes(mask & states_of(facts) != 0),
            _ => self.test_more(facts, cx),
        }
    }

    fn print(&self, negate: bool, family: Family, out: &mut String) {
        out.push_str(not(negate));
        match *self {
            Conntrack::State(mask) => {
                out.push_str(" --ctstate ");
                print_states(out, mask);
            }
            Conntrack::Protocol { number, .. } => {
                let _ = write!(out, " --ctproto {number}");
            }
            Conntrack::Status { mask, .. } => {
                let set = STATUSES.iter().filter(|&&(_, bit)| mask & bit != 0 || mask == bit);
                for (i, (name, _)) in set.enumerate() {
                    let _ = write!(out, "{}{name}", if i > 0 { "," } else { " --ctstatus " });
                }
            }
            Conntrack::Address { end, addr, len, .. } => {
                let _ = write!(out, " --ct{} ", end.name());
                address::print_address(out, family, addr);
                if len != family.bits() {
                    let _ = write!(out, "/{len}");
                }
            }
            Conntrack::Port { end, first, last, .. } => {
                let _ = write!(out, " --ct{}port {first}", end.name());
                if last != first {
                    let _ = write!(out, ":{last}");
                }
            }
            Conntrack::Expire { first, last, .. } => {
                let _ = write!(out, " --ctexpire {first}");
                if last != first {
                    let _ = write!(out, ":{last}");
                }
            }
            Conntrack::Direction { dir: Dir::Original, .. } => out.push_str(" --ctdir ORIGINAL"),
            Conntrack::Direction { dir: Dir::Reply, .. } => out.push_str(" --ctdir REPLY"),
        }
    }

    fn asks(&self) -> Asks {
        match self {
            // A flow grows older with or without packets.
            Conntrack::Expire { .. } => Asks::Packet,
            _ => Asks::Flow,
        }
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let states = STATES.iter().fold(0, |mask, (_, bit)| mask | bit);
        let statuses = STATUSES.iter().fold(0, |mask, (_, bit)| mask | bit);
        match *self {
            Conntrack::State(mask) if mask == 0 || mask & !states != 0 => Err("unknown conntrack states".to_string()),
            Conntrack::Status { mask, .. } if mask & !statuses != 0 => Err("unknown status of a flow".to_string()),
            Conntrack::Address { addr, len, .. } if addr & !family.ones() != 0 || len > family.bits() => {
                Err("an address of the other family".to_string())
            }
            Conntrack::Port { first, last, .. } if first > last => Err("ports that run backwards".to_string()),
            Conntrack::Expire { first, last, .. } if first > last => Err("seconds that run backwards".to_string()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;
    use crate::facts::proto;
    use Outcome::{Never, No, Yes};

    fn flow(ct_state: CtState, ct_status: u32, ct_dir: Dir) -> Facts {
        Facts { ct_state, ct_status, ct_dir, has_ct: true, ct_proto: proto::UDP, ..Facts::blank(Family::V4) }
    }

    #[test]
    fn states_hold_also_those_of_the_mapping() {
        let natted = flow(CtState::Established, status::SRC_NAT | status::ASSURED, Dir::Reply);
        for (text, facts, expected) in [
            ("--ctstate NEW", flow(CtState::New, 0, Dir::Original), Yes),
            ("--ctstate NEW", natted, No),
            ("--ctstate NEW,SNAT", natted, Yes),
            ("--ctstate SNAT", natted, Yes),
            ("--ctstate DNAT", natted, No),
            ("! --ctstate DNAT", natted, Yes),
            ("! --ctstate ESTABLISHED,DNAT", natted, No),
            ("--ctstate UNTRACKED", Facts { ct_state: CtState::Untracked, ..Facts::blank(Family::V4) }, Yes),
            ("--ctstate INVALID", Facts::blank(Family::V4), Yes),
        ] {
            assert_eq!(outcome(&format!("-m conntrack {text}"), &facts), expected, "{text}");
        }
    }

    #[test]
    fn status_direction_and_protocol_are_those_of_the_flow() {
        let facts = flow(CtState::Established, status::CONFIRMED | status::SEEN_REPLY, Dir::Reply);
        for (text, expected) in [
            ("--ctstatus CONFIRMED", Yes),
            ("--ctstatus ASSURED", No),
            ("--ctstatus ASSURED,SEEN_REPLY", Yes),
            ("! --ctstatus ASSURED", Yes),
            ("--ctstatus NONE", No),
            ("! --ctstatus NONE", Yes),
            ("--ctdir REPLY", Yes),
            ("--ctdir ORIGINAL", No),
            ("--ctproto udp", Yes),
            ("--ctproto tcp", No),
            ("! --ctproto tcp", Yes),
            ("--ctstate ESTABLISHED --ctdir ORIGINAL", No),
        ] {
            assert_eq!(outcome(&format!("-m conntrack {text}"), &facts), expected, "{text}");
        }
    }

    #[test]
    fn without_a_flow_only_the_state_is_asked_where_there_is_one() {
        let facts = Facts::blank(Family::V4);
        for (text, expected) in [
            ("--ctdir ORIGINAL", Never),
            ("! --ctproto tcp", Never),
            ("! --ctstatus ASSURED", Never),
            ("--ctstate INVALID --ctdir REPLY", Yes),
            ("--ctstate INVALID ! --ctproto tcp", Yes),
            ("--ctstate INVALID ! --ctstatus CONFIRMED --ctproto tcp", Yes),
            ("--ctstate NEW --ctdir ORIGINAL", No),
        ] {
            assert_eq!(outcome(&format!("-m conntrack {text}"), &facts), expected, "{text}");
        }
    }

    #[test]
    fn masks_of_unknown_bits_do_not_verify() {
        assert!(Conntrack::State(0).verify(Family::V4).is_err());
        assert!(Conntrack::State(16).verify(Family::V4).is_err());
        assert!(Conntrack::Status { mask: 16, flowless: Flowless::Never }.verify(Family::V4).is_err());
    }
}
