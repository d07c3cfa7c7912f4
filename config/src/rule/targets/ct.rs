//! `-j CT`, in table `raw`: how conntrack treats the packet and the flow that it begins (`xt_CT.c`).
//!
//! A packet keeps the first CT or NOTRACK that it meets; where it belongs to a flow already, none counts. `--zone` looks
//! the packet up among the flows of that zone, `mark` being the packet's mark when conntrack sees it; `--zone-orig` and
//! `--zone-reply` count for that direction only. Helper, events and time-outs are those of flows that begin. Beside
//! `--notrack` nothing else has a meaning, and the kernel takes it nevertheless.
//!
//! TOML: `{ in = "lan0", protocol = "tcp", dport = 21, target = "CT", helper = "ftp" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::helper::{ABSENT, Helper};
use crate::rule::matches::protocol;
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension, Word};
use crate::rule::word::{either, integer, nearest, split};
use crate::rule::{Cond, Effect, Families, Match, Table};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What is asked of conntrack.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ct {
    /// `--notrack`
    pub notrack: bool,
    /// `--helper`
    pub helper: Option<Helper>,
    /// `--timeout`: the name of a policy.
    pub timeout: Option<String>,
    /// `--ctevents`: bits of [`EVENTS`]; 0 where it is not given.
    pub events: u16,
    /// `--expevents`: bits of [`EXPECT_EVENTS`]; 0 where it is not given.
    pub expect_events: u16,
    /// `--zone` and its forms.
    pub zone: Zone,
}

/// The zone of a packet and of the flow that it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Zone {
    /// Which.
    pub id: ZoneId,
    /// Packets of the original direction are in it; else in zone 0.
    pub original: bool,
    /// Packets of the reply direction are in it; else in zone 0.
    pub reply: bool,
}

/// Where the number of a zone comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ZoneId {
    /// The rule.
    Number(u16),
    /// The low 16 bits of the packet's mark.
    Mark,
}

impl Zone {
    /// Where nobody says otherwise.
    pub const DEFAULT: Zone = Zone { id: ZoneId::Number(0), original: true, reply: true };

    /// The zones of both directions for a packet with this mark.
    pub fn ids(self, mark: u32) -> [u16; 2] {
        let id = match self.id {
            ZoneId::Number(id) => id,
            ZoneId::Mark => mark as u16,
        };
        [self.original, self.reply].map(|has| if has { id } else { 0 })
    }
}

/// Events of a flow, with the kernel's bits, in the order in which they are printed.
pub const EVENTS: [(&str, u16); 10] = [
    ("new", 1 << 0),
    ("related", 1 << 1),
    ("destroy", 1 << 2),
    ("reply", 1 << 3),
    ("assured", 1 << 4),
    ("protoinfo", 1 << 5),
    ("helper", 1 << 6),
    ("mark", 1 << 7),
    ("natseqinfo", 1 << 8),
    ("secmark", 1 << 9),
];

/// Events of an expectation.
pub const EXPECT_EVENTS: [(&str, u16); 1] = [("new", 1 << 0)];

const NOTRACK: usize = 0;
const HELPER: usize = 1;
const TIMEOUT: usize = 2;
const CTEVENTS: usize = 3;
const EXPEVENTS: usize = 4;
const ZONE: usize = 5;
const ZONE_ORIG: usize = 6;
const ZONE_REPLY: usize = 7;

/// CT
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "CT",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Raw],
    hooks: ANY_HOOK,
    options: &[
        Opt::flag("notrack", &[]).about("", "the packet is not tracked"),
        Opt::plain("helper", &[]).about("NAME", "reads the flow's packets: ftp, tftp"),
        Opt::plain("timeout", &[]).about("NAME", "a policy of [conntrack.timeouts]"),
        Opt::plain("ctevents", &[]).about("EVENT[,EVENT...]", "tells only these events of the flow"),
        Opt::plain("expevents", &[]).about("EVENT[,EVENT...]", "tells only these events of what the flow announces"),
        Opt::plain("zone", &[]).about("NUMBER|mark", "the zone of both directions; mark: the packet's mark"),
        Opt::plain("zone-orig", &[]).about("NUMBER|mark", "the zone of the original direction"),
        Opt::plain("zone-reply", &[]).about("NUMBER|mark", "the zone of the reply direction"),
    ],
    build,
    summary: "Says how conntrack treats the packet, and the flow that it begins.",
    example: r#"{ in = "lan0", protocol = "tcp", dport = 21, target = "CT", helper = "ftp" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j CT", "="),
        Case::Prints(Family::V4, "-j CT --notrack", "="),
        Case::Prints(Family::V6, "-s 2001:db8::/32 -j CT --notrack", "="),
        Case::Prints(Family::V4, "-j CT --zone 5", "="),
        Case::Prints(Family::V4, "-j CT --zone 0", "-j CT"),
        Case::Prints(Family::V6, "-j CT --zone 0x10", "-j CT --zone 16"),
        Case::Prints(Family::V4, "-j CT --zone 65535", "="),
        Case::Prints(Family::V4, "-j CT --zone MARK", "-j CT --zone mark"),
        Case::Prints(Family::V4, "-j CT --zone-orig 5", "="),
        Case::Prints(Family::V4, "-j CT --zone-orig mark", "="),
        Case::Prints(Family::V6, "-j CT --zone-reply 5", "="),
        Case::Prints(Family::V4, "-j CT --zone-reply 7 --zone-orig 5", "-j CT --zone 5"),
        Case::Prints(Family::V4, "-j CT --zone-reply mark --zone-orig mark", "-j CT --zone mark"),
        Case::Prints(Family::V4, "-j CT --zone-reply mark --zone-orig 1", "-j CT --zone mark"),
        Case::Prints(Family::V4, "-j CT --zone 3 --zone-orig 5", "-j CT --zone-orig 5"),
        Case::Prints(Family::V4, "-j CT --zone-orig 5 --zone 3", "-j CT --zone-orig 3"),
        Case::Prints(Family::V4, "-j CT --zone mark --zone-orig 5", "-j CT --zone-orig mark"),
        Case::Prints(Family::V4, "-j CT --zone-orig 0", "-j CT"),
        Case::Prints(Family::V4, "-j CT --notrack --zone 5", "="),
        Case::Prints(Family::V4, "-j CT --helper ftp --notrack", "-j CT --notrack --helper ftp"),
        Case::Prints(Family::V4, "-p tcp -j CT --helper ftp", "="),
        Case::Prints(Family::V6, "-p udp -j CT --helper tftp", "="),
        Case::Prints(
            Family::V4,
            "-p tcp -j CT --zone 4 --expevents new --ctevents destroy,new --helper ftp",
            "-p tcp -j CT --helper ftp --ctevents new,destroy --expevents new --zone 4",
        ),
        Case::Prints(
            Family::V4,
            "-j CT --ctevents new,related,destroy,reply,assured,protoinfo,helper,mark,natseqinfo,secmark",
            "=",
        ),
        Case::Prints(Family::V4, "-j CT --ctevents assured,new,new", "-j CT --ctevents new,assured"),
        Case::Prints(Family::V6, "-j CT --expevents new,new", "-j CT --expevents new"),
        Case::Refused(Family::V4, "-j CT ! --notrack", "cannot be negated"),
        Case::Refused(Family::V4, "-j CT --zone 65536", "`65536` is not a zone"),
        Case::Refused(Family::V4, "-j CT --zone-orig five", "`five` is not a zone"),
        Case::Refused(Family::V4, "-j CT --zone 1 --zone 2", "given twice"),
        Case::Refused(Family::V6, "-j CT --zone-reply -1", "`-1` is not a zone"),
        Case::Refused(Family::V4, "-j CT --ctevents new,label", "`label` is not an event of a flow"),
        Case::Refused(Family::V4, "-j CT --ctevents NEW", "`NEW` is not an event"),
        Case::Refused(Family::V4, "-j CT --expevents destroy", "`destroy` is not an event of an expectation"),
        Case::Refused(Family::V4, "-j CT --helper ftp", "the helper ftp is for protocol tcp"),
        Case::Refused(Family::V4, "-p udp -j CT --helper ftp", "the helper ftp is for protocol tcp"),
        Case::Refused(Family::V6, "! -p udp -j CT --helper tftp", "the helper tftp is for protocol udp"),
        Case::Refused(Family::V4, "-p tcp -j CT --helper sip", "no helper `sip` yet"),
        Case::Refused(Family::V4, "-p tcp -j CT --timeout short", "no time-out policy `short`"),
        Case::Refused(Family::V4, "-p tcp -j CT --helper ftpd", "`ftpd` is not a helper"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let notrack = given.get(NOTRACK).is_some();
    let helper = given.value(HELPER).map(read_helper).transpose()?;
    if let (Some(helper), Some(word)) = (helper.filter(|_| !notrack), given.value(HELPER))
        && given.protocol != Some((helper.protocol(), false))
    {
        let protocol = protocol::name(helper.protocol()).unwrap_or_default();
        return Err(word.complain(
            format!("the helper {} is for protocol {protocol}", helper.name()),
            format!("-p {protocol} in the rule"),
        ));
    }
    let events = |option, what, names: &[(&str, u16)]| given.value(option).map_or(Ok(0), |w| read_events(w, what, names));
    Ok(Target::Ct(Ct {
        notrack,
        helper,
        timeout: given.value(TIMEOUT).map(|word| read_timeout(word, given, notrack)).transpose()?,
        events: events(CTEVENTS, "an event of a flow", &EVENTS)?,
        expect_events: events(EXPEVENTS, "an event of an expectation", &EXPECT_EVENTS)?,
        zone: read_zone(given)?,
    }))
}

/// The helper of a name.
pub(crate) fn read_helper(word: &Word) -> Result<Helper, Complaint> {
    let name = word.text.as_str();
    let names = Helper::ALL.iter().map(|helper| helper.name());
    Helper::named(name).ok_or_else(|| {
        let what = match ABSENT.contains(&name) {
            true => format!("there is no helper `{name}` yet"),
            false => format!("`{name}` is not a helper"),
        };
        let accepts = match nearest(name, names.clone()) {
            Some(near) => format!("{}; did you mean `{near}`?", either(names)),
            None => either(names),
        };
        word.complain(what, accepts)
    })
}

/// The name of a policy that fits the rule.
fn read_timeout(word: &Word, given: &Given, notrack: bool) -> Result<String, Complaint> {
    if given.names.mistaken.contains(&word.text) {
        return Ok(word.text.clone());
    }
    let policies = given.names.timeouts;
    let Some(policy) = policies.iter().find(|policy| policy.name == word.text) else {
        let names = policies.iter().map(|policy| policy.name.as_str());
        let accepts = match nearest(&word.text, names.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if policies.is_empty() => format!("a section [conntrack.timeouts.{}]", word.text),
            None => either(names),
        };
        return Err(word.complain(format!("there is no time-out policy `{}`", word.text), accepts));
    };
    match policy.unfit(given.family, given.protocol).filter(|_| !notrack) {
        None => Ok(policy.name.clone()),
        Some(why) => Err(word.complain(why, "-p with such a protocol in the rule, or another policy")),
    }
}

fn read_events(word: &Word, what: &str, names: &[(&str, u16)]) -> Result<u16, Complaint> {
    let read = |mask: u16, part: Word| match names.iter().find(|(name, _)| *name == part.text) {
        Some((_, bit)) => Ok(mask | bit),
        None => {
            let list = either(names.iter().map(|(name, _)| *name));
            Err(part.complain(format!("`{}` is not {what}", part.text), list))
        }
    };
    split(word, ',').into_iter().try_fold(0, read)
}

/// The last of the three options says the number, all together the directions, and a `mark` among them holds.
fn read_zone(given: &Given) -> Result<Zone, Complaint> {
    let mut zone = Zone { id: ZoneId::Number(0), original: false, reply: false };
    for option in given.options.iter().filter(|o| matches!(o.option, ZONE | ZONE_ORIG | ZONE_REPLY)) {
        zone.original |= option.option == ZONE_ORIG;
        zone.reply |= option.option == ZONE_REPLY;
        let Some(word) = option.values.first() else { continue };
        if word.text.eq_ignore_ascii_case("mark") {
            zone.id = ZoneId::Mark;
            continue;
        }
        let number = integer(&word.text).and_then(|number| u16::try_from(number).ok()).ok_or_else(|| {
            word.complain(format!("`{}` is not a zone", word.text), "a number from 0 to 65535, or `mark`")
        })?;
        if zone.id != ZoneId::Mark {
            zone.id = ZoneId::Number(number);
        }
    }
    // Neither option is both directions, and zone 0 is zone 0 in either.
    Ok(match zone {
        Zone { id: ZoneId::Number(0), .. } => Zone::DEFAULT,
        Zone { original: false, reply: false, .. } => Zone { original: true, reply: true, ..zone },
        _ => zone,
    })
}

impl Ct {
    /// Which events are told of flows that begin by this rule, and of their expectations. Where neither is given, all.
    pub fn event_masks(&self) -> (u16, u16) {
        match (self.events, self.expect_events) {
            (0, 0) => (u16::MAX, u16::MAX),
            masks => masks,
        }
    }
}

impl Action for Ct {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        if self.notrack { Effect::Untrack } else { Effect::Ct(self) }
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        if self.notrack {
            out.push_str(" --notrack");
        }
        if let Some(helper) = self.helper {
            let _ = write!(out, " --helper {}", helper.name());
        }
        if let Some(timeout) = &self.timeout {
            let _ = write!(out, " --timeout {timeout}");
        }
        print_events(out, "ctevents", self.events, &EVENTS);
        print_events(out, "expevents", self.expect_events, &EXPECT_EVENTS);
        let direction = match self.zone {
            Zone::DEFAULT => return,
            Zone { original: true, reply: true, .. } => "",
            Zone { original: true, .. } => "-orig",
            Zone { .. } => "-reply",
        };
        let _ = match self.zone.id {
            ZoneId::Number(id) => write!(out, " --zone{direction} {id}"),
            ZoneId::Mark => write!(out, " --zone{direction} mark"),
        };
    }

    fn misses(&self, conds: &[Cond]) -> Option<&'static str> {
        let helper = self.helper.filter(|_| !self.notrack)?;
        let fits = |cond: &Cond| {
            !cond.negate && matches!(cond.test, Match::Protocol(protocol::Protocol(number)) if number == helper.protocol())
        };
        (!conds.iter().any(fits)).then_some("a helper needs its protocol in the rule: -p tcp or -p udp")
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let all = |names: &[(&str, u16)]| names.iter().fold(0, |mask, (_, bit)| mask | bit);
        if self.events & !all(&EVENTS) != 0 || self.expect_events & !all(&EXPECT_EVENTS) != 0 {
            return Err("unknown events".to_string());
        }
        let Zone { id, original, reply } = self.zone;
        if !original && !reply || id == ZoneId::Number(0) && self.zone != Zone::DEFAULT {
            return Err("a zone without a direction".to_string());
        }
        Ok(())
    }
}

fn print_events(out: &mut String, option: &str, mask: u16, names: &[(&str, u16)]) {
    let set = names.iter().filter(|(_, bit)| mask & bit != 0);
    for (i, (name, _)) in set.enumerate() {
        let _ = if i == 0 { write!(out, " --{option} {name}") } else { write!(out, ",{name}") };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_holds_for_its_directions_and_may_be_the_mark() {
        let zone = |id, original, reply| Zone { id, original, reply };
        for (zone, ids) in [
            (Zone::DEFAULT, [0, 0]),
            (zone(ZoneId::Number(7), true, true), [7, 7]),
            (zone(ZoneId::Number(7), true, false), [7, 0]),
            (zone(ZoneId::Mark, false, true), [0, 0x2345]),
        ] {
            assert_eq!(zone.ids(0x1_2345), ids, "{zone:?}");
        }
    }

    #[test]
    fn where_no_events_are_named_all_are_told() {
        let ct = Ct { notrack: false, helper: None, timeout: None, events: 0, expect_events: 0, zone: Zone::DEFAULT };
        assert_eq!(ct.event_masks(), (u16::MAX, u16::MAX));
        assert_eq!(Ct { events: 5, ..ct }.event_masks(), (5, 0));
    }
}
