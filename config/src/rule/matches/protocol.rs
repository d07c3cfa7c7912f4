//! `-p PROTOCOL`: the upper-layer protocol by name or number; `-p all` and `-p 0` write no condition.
//!
//! For IPv6 it is the protocol behind the extension headers. A later fragment of IPv4 has its packet's protocol.
//! Names are those of a usual `/etc/protocols`, built in, so that a ruleset means the same on every machine.
//!
//! TOML: `{ protocol = "tcp", jump = "ACCEPT" }`

use super::{Asks, Condition, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::Outcome;
use crate::rule::option::{Complaint, Word};
use crate::rule::word;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The protocol number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Protocol(pub u8);

/// Names and numbers; the first name of a number is the one that iptables-save prints.
const NAMES: &str = "\
    icmp=1 igmp=2 ggp=3 ipencap=4 ip-encap=4 st=5 tcp=6 egp=8 igp=9 pup=12 udp=17 hmp=20 xns-idp=22 rdp=27 iso-tp4=29 \
    dccp=33 xtp=36 ddp=37 idpr-cmtp=38 ipv6=41 ipv6-route=43 ipv6-frag=44 idrp=45 rsvp=46 gre=47 esp=50 ipsec-esp=50 \
    ah=51 ipsec-ah=51 skip=57 ipv6-icmp=58 icmpv6=58 ipv6-nonxt=59 ipv6-opts=60 rspf=73 cphb=73 vmtp=81 eigrp=88 \
    ospf=89 ospfigp=89 ax.25=93 ipip=94 etherip=97 encap=98 pim=103 ipcomp=108 vrrp=112 l2tp=115 isis=124 sctp=132 \
    fc=133 mobility-header=135 mh=135 ipv6-mh=135 udplite=136 mpls-in-ip=137 manet=138 hip=139 shim6=140 wesp=141 \
    rohc=142 ethernet=143 all=0 ip=0 hopopt=0";

fn names() -> impl Iterator<Item = (&'static str, u8)> + Clone {
    NAMES.split(' ').filter_map(|entry| {
        let (name, number) = entry.split_once('=')?;
        Some((name, number.parse().ok()?))
    })
}

/// The name of a protocol where it has one; none for 0.
pub fn name(number: u8) -> Option<&'static str> {
    names().find(|&(_, n)| n == number && n != 0).map(|(name, _)| name)
}

/// Writes the name, or the number of a protocol without one.
pub fn print_protocol(out: &mut String, number: u8) {
    let _ = match name(number) {
        Some(name) => write!(out, "{name}"),
        None => write!(out, "{number}"),
    };
}

/// The number of a protocol by name or number; 0 for `all`.
pub fn parse_protocol(word: &Word) -> Result<u8, Complaint> {
    if let Some(number) = word::integer(&word.text).and_then(|n| u8::try_from(n).ok()) {
        return Ok(number);
    }
    let named = names().find(|(name, _)| name.eq_ignore_ascii_case(&word.text));
    named.map(|(_, number)| number).ok_or_else(|| {
        let accepts = "a name such as tcp, udp, icmp or ipv6-icmp, or a number from 0 to 255";
        word.complain(
            format!("`{}` is not a protocol", word.text),
            match word::nearest(&word.text, names().map(|(name, _)| name)) {
                Some(near) => format!("{accepts}; did you mean `{near}`?"),
                None => accepts.to_string(),
            },
        )
    })
}

/// The condition that `-p` writes; none for `all`. (Negated, `all` is for the caller to refuse: it would match nothing.)
pub fn parse(word: &Word) -> Result<Option<Protocol>, Complaint> {
    Ok(match parse_protocol(word)? {
        0 => None,
        number => Some(Protocol(number)),
    })
}

impl Condition for Protocol {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(facts.proto == self.0)
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} -p ", not(negate));
        print_protocol(out, self.0);
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.0 == 0 { Err("a protocol condition that means every packet".to_string()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        Word { text: text.to_string(), at: 0..text.len() }
    }

    #[test]
    fn names_and_numbers_are_printed_as_iptables_save_prints_them() {
        assert_eq!(names().count(), NAMES.split(' ').count());
        for (text, printed) in [
            ("tcp", "tcp"),
            ("TCP", "tcp"),
            ("6", "tcp"),
            ("0x6", "tcp"),
            ("06", "tcp"),
            ("icmp", "icmp"),
            ("icmpv6", "ipv6-icmp"),
            ("58", "ipv6-icmp"),
            ("4", "ipencap"),
            ("47", "gre"),
            ("mh", "mobility-header"),
            ("112", "vrrp"),
            ("61", "61"),
            ("255", "255"),
        ] {
            let protocol = parse(&word(text)).unwrap().unwrap();
            let mut out = String::new();
            protocol.print(false, Family::V4, &mut out);
            assert_eq!(out, format!(" -p {printed}"), "{text}");
            assert_eq!(protocol.verify(Family::V6), Ok(()));
        }
        for all in ["all", "0", "ip", "hopopt"] {
            assert_eq!(parse(&word(all)).unwrap(), None);
        }
    }

    #[test]
    fn unknown_protocols_are_refused_with_the_nearest_name() {
        let complaint = parse(&word("tpc")).unwrap_err();
        assert_eq!(complaint.what, "`tpc` is not a protocol");
        assert!(complaint.accepts.unwrap().ends_with("did you mean `tcp`?"));
        for text in ["256", "0x100", "", "!"] {
            assert!(parse(&word(text)).is_err(), "{text}");
        }
    }
}
