//! `-s ADDRESS[/MASK]`, `-d ADDRESS[/MASK]`: source and destination address.
//!
//! A mask is a prefix length or a netmask, which need not be contiguous; host bits are cleared, as iptables does. A rule
//! with `-s 0.0.0.0/0` has no such condition, but `! -s 0.0.0.0/0` is one: it never holds.
//!
//! TOML: `{ source = "10.0.0.0/8", destination = "!192.0.2.1", jump = "ACCEPT" }`

use super::{Asks, Condition, not, yes};
use crate::facts::{Context, Facts, Family, number};
use crate::rule::Outcome;
use crate::rule::option::{Complaint, Word};
use crate::rule::word;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which of the two addresses, and the network it must be in. The mask need not be a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Address {
    /// `-s`
    Source {
        /// Network, host bits zero.
        net: u128,
        /// Bits that count.
        mask: u128,
    },
    /// `-d`
    Destination {
        /// Network, host bits zero.
        net: u128,
        /// Bits that count.
        mask: u128,
    },
}

impl Address {
    /// Whether it holds for every packet, so that a rule need not ask it unless negated.
    pub fn is_any(&self) -> bool {
        self.network().1 == 0
    }

    /// Network and mask.
    pub fn network(&self) -> (u128, u128) {
        match *self {
            Address::Source { net, mask } | Address::Destination { net, mask } => (net, mask),
        }
    }
}

/// Network and mask of one `ADDRESS[/MASK]` of the family, host bits cleared: for either side.
pub fn parse(word: &Word, family: Family) -> Result<(u128, u128), Complaint> {
    let Some((addr, mask)) = word::split_once(word, '/') else {
        return Ok((parse_address(word, family)?, family.ones()));
    };
    let mask = parse_mask(&mask, family)?;
    let addr = match family {
        Family::V4 => parse_address(&padded(&addr), family)?,
        Family::V6 => parse_address(&addr, family)?,
    };
    Ok((addr & mask, mask))
}

/// Address as written and prefix length of one `ADDRESS[/MASK]`, whose mask must be a prefix.
pub fn parse_prefix(word: &Word, family: Family) -> Result<(u128, u8), Complaint> {
    let Some((addr, mask)) = word::split_once(word, '/') else {
        return Ok((parse_address(word, family)?, family.bits()));
    };
    let length = prefix_length(&mask, family)?;
    Ok((parse_address(&addr, family)?, length))
}

/// A prefix length alone, which may be written as a mask.
pub fn parse_length(word: &Word, family: Family) -> Result<u8, Complaint> {
    prefix_length(word, family)
        .map_err(|mistake| Complaint { what: format!("`{}` is not a prefix length", word.text), ..mistake })
}

fn prefix_length(mask: &Word, family: Family) -> Result<u8, Complaint> {
    let bits = parse_mask(mask, family)?;
    let length = (family.bits() as u32 - (family.ones() & !bits).count_ones()) as u8;
    if family.mask(length) != bits {
        return Err(mask.complain(
            format!("`{}` is a mask with gaps", mask.text),
            format!("a length from 0 to {}", family.bits()),
        ));
    }
    Ok(length)
}

/// One address of the family, no mask.
pub fn parse_address(word: &Word, family: Family) -> Result<u128, Complaint> {
    let found = word.text.parse::<IpAddr>().map(number);
    if let Ok((of, addr)) = found
        && of == family
    {
        return Ok(addr);
    }
    let what = match found {
        Ok((other, _)) => {
            format!("`{}` is an {} address in an {} rule", word.text, pretty(other), pretty(family))
        }
        Err(_) if word.text.contains(',') => format!("`{}` is several addresses", word.text),
        Err(_) => format!("`{}` is not an {} address", word.text, pretty(family)),
    };
    Err(word.complain(
        what,
        match family {
            Family::V4 => "one address such as 192.0.2.1, with a network also 192.0.2.0/24 or 192.0.2.0/255.255.255.0",
            Family::V6 => "one address such as 2001:db8::1, with a network also 2001:db8::/32",
        },
    ))
}

fn pretty(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// `10/8` and `10.1/16` leave out zero octets at the end.
fn padded(addr: &Word) -> Word {
    let missing = 4usize.saturating_sub(addr.text.split('.').count());
    Word { text: addr.text.clone() + &".0".repeat(missing), at: addr.at.clone() }
}

fn parse_mask(mask: &Word, family: Family) -> Result<u128, Complaint> {
    let length = mask.text.chars().all(|c| c.is_ascii_digit()).then(|| mask.text.parse::<u8>().ok()).flatten();
    if let Some(length) = length.filter(|&l| l <= family.bits()) {
        return Ok(family.mask(length));
    }
    match (mask.text.parse::<IpAddr>().map(number), length) {
        (Ok((of, bits)), None) if of == family => Ok(bits),
        _ => Err(mask.complain(
            format!("`{}` is not a mask", mask.text),
            format!(
                "a length from 0 to {} or a netmask such as {}",
                family.bits(),
                family.address(family.mask(family.bits() / 4 * 3))
            ),
        )),
    }
}

/// Writes `NET/LENGTH`, or `NET/NETMASK` where the mask is no prefix, as iptables-save does: IPv4 and IPv6 hosts have
/// their `/32` and `/128`.
pub fn print_network(out: &mut String, family: Family, net: u128, mask: u128) {
    let length = (family.bits() as u32 - (family.ones() & !mask).count_ones()) as u8;
    print_address(out, family, net);
    out.push('/');
    if family.mask(length) == mask {
        let _ = write!(out, "{length}");
    } else {
        print_address(out, family, mask);
    }
}

/// Writes an address as inet_ntop(3) does: IPv4-compatible addresses (`::192.0.2.1`) in dotted form too.
pub fn print_address(out: &mut String, family: Family, addr: u128) {
    let dotted = addr >> 32 == 0 && addr >> 16 != 0;
    let _ = match family {
        Family::V4 => write!(out, "{}", Ipv4Addr::from(addr as u32)),
        Family::V6 if dotted => write!(out, "::{}", Ipv4Addr::from(addr as u32)),
        Family::V6 => write!(out, "{}", Ipv6Addr::from(addr)),
    };
}

impl Condition for Address {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(match *self {
            Address::Source { net, mask } => facts.src & mask == net,
            Address::Destination { net, mask } => facts.dst & mask == net,
        })
    }

    fn print(&self, negate: bool, family: Family, out: &mut String) {
        let (net, mask) = self.network();
        let option = if matches!(self, Address::Source { .. }) { "-s" } else { "-d" };
        let _ = write!(out, "{} {option} ", not(negate));
        print_network(out, family, net, mask);
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let (net, mask) = self.network();
        if mask & !family.ones() != 0 {
            return Err(format!("a mask wider than an {} address", pretty(family)));
        }
        if net & !mask != 0 {
            return Err("a network with host bits set".to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        Word { text: text.to_string(), at: 0..text.len() }
    }

    #[test]
    fn networks_are_read_and_printed_as_iptables_save_prints_them() {
        for (family, text, printed) in [
            (Family::V4, "10.0.0.1", "10.0.0.1/32"),
            (Family::V4, "10.0.0.1/24", "10.0.0.0/24"),
            (Family::V4, "10.0.0.1/255.255.255.0", "10.0.0.0/24"),
            (Family::V4, "10.0.0.1/255.0.255.0", "10.0.0.0/255.0.255.0"),
            (Family::V4, "10.0.0.1/0.0.0.255", "0.0.0.1/0.0.0.255"),
            (Family::V4, "10/8", "10.0.0.0/8"),
            (Family::V4, "10.1/16", "10.1.0.0/16"),
            (Family::V4, "0/0", "0.0.0.0/0"),
            (Family::V6, "fd00::1", "fd00::1/128"),
            (Family::V6, "fd00::1/64", "fd00::/64"),
            (Family::V6, "fd00::/ffff::", "fd00::/16"),
            (Family::V6, "fd00::1/ffff:0:ffff::", "fd00::/ffff:0:ffff::"),
            (Family::V6, "2001:DB8::1", "2001:db8::1/128"),
            (Family::V6, "::ffff:1.2.3.4", "::ffff:1.2.3.4/128"),
            (Family::V6, "::1.2.3.4", "::1.2.3.4/128"),
            (Family::V6, "::1", "::1/128"),
            (Family::V6, "::/0", "::/0"),
        ] {
            let (net, mask) = parse(&word(text), family).unwrap_or_else(|c| panic!("{text}: {}", c.what));
            let mut out = String::new();
            Address::Source { net, mask }.print(false, family, &mut out);
            assert_eq!(out, format!(" -s {printed}"));
            assert_eq!(Address::Destination { net, mask }.verify(family), Ok(()));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (family, text, why) in [
            (Family::V4, "10.0.0.256", "not an IPv4 address"),
            (Family::V4, "10.0.0.1/33", "`33` is not a mask"),
            (Family::V4, "10.0.0.1/", "`` is not a mask"),
            (Family::V4, "10.0.0.1/ffff::", "is not a mask"),
            (Family::V4, "10.0.0.1/+8", "is not a mask"),
            (Family::V4, "10.1", "not an IPv4 address"),
            (Family::V4, "010.0.0.1", "not an IPv4 address"),
            (Family::V4, "10.0.0.1,10.0.0.2", "several addresses"),
            (Family::V4, "fd00::1", "an IPv6 address in an IPv4 rule"),
            (Family::V6, "10.0.0.1", "an IPv4 address in an IPv6 rule"),
            (Family::V6, "fd00::/129", "`129` is not a mask"),
            (Family::V6, "fe80::1%lo", "not an IPv6 address"),
        ] {
            let complaint = parse(&word(text), family).unwrap_err();
            assert!(complaint.what.contains(why), "{text}: {}", complaint.what);
        }
    }

    #[test]
    fn only_the_bits_of_the_mask_count() {
        let cases = [(0x0a00_0001, true), (0x0aff_0001, true), (0x0a00_0002, false), (0x0b00_0001, false)];
        let judge = crate::rule::matches::harness::Judge::new(Family::V4, "");
        let cx = Context { l3: &[], now: 0, wall: 0, around: &judge, cells: &[] };
        for (addr, hit) in cases {
            let facts = Facts { src: addr, dst: 1, ..Facts::blank(Family::V4) };
            let source = Address::Source { net: 0x0a00_0001, mask: 0xff00_ffff };
            assert_eq!(source.test(&facts, &cx), yes(hit), "{addr:x}");
            let destination = Address::Destination { net: 0x0a00_0001, mask: 0xff00_ffff };
            assert_eq!(destination.test(&facts, &cx), Outcome::No);
        }
    }

    #[test]
    fn impossible_networks_do_not_verify() {
        let host_bits = Address::Source { net: 1, mask: 0xffff_ff00 };
        assert!(host_bits.verify(Family::V4).is_err());
        let wide = Address::Source { net: 0, mask: u128::MAX };
        assert!(wide.verify(Family::V4).is_err());
        assert!(wide.verify(Family::V6).is_ok());
    }
}
