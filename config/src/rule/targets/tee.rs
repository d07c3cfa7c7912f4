//! `-j TEE --gateway ADDRESS [--oif NAME]`: a copy of the packet goes to another host, as if that were its gateway; the packet
//! itself goes on (`nf_dup_ipv4`, `nf_dup_ipv6`).
//!
//! The copy is local output: OUTPUT and POSTROUTING see it, untracked, and no TEE copies it again. An IPv4 copy may not be
//! fragmented, and one made in PREROUTING or INPUT has a hop less, so that two hosts that copy to each other do not do so for ever.
//! Where no route leads to the gateway there is no copy. With `--oif` the route is asked for that port.
//! TOML: `{ in = "lan0", target = "TEE", gateway = "192.168.1.9" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family, PortId};
use crate::rule::draft::suggest;
use crate::rule::matches::address::{parse_address, print_address};
use crate::rule::matches::interface::is_name;
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};

/// The target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tee {
    /// Where the copy goes.
    pub gateway: u128,
    /// Over which port.
    pub oif: Option<Port>,
}

/// A port and its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Port {
    /// As written.
    pub name: String,
    /// Which.
    pub id: PortId,
}

const GATEWAY: usize = 0;
const OIF: usize = 1;

/// TEE
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "TEE",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("gateway", &[]).about("ADDRESS", "sends a copy to this host"),
        Opt::plain("oif", &[]).about("NAME", "asks for a route over this port"),
    ],
    build,
    summary: "Sends a copy of the packet to another host and goes on to the next rule.",
    example: r#"{ in = "lan0", target = "TEE", gateway = "192.168.1.9" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j TEE --gateway 10.0.0.1", "="),
        Case::Prints(Family::V4, "-j TEE --oif wan0 --gateway 10.0.0.1", "-j TEE --gateway 10.0.0.1 --oif wan0"),
        Case::Prints(Family::V6, "-j TEE --gateway 2001:db8::1", "="),
        Case::Prints(Family::V6, "-i lan0 -j TEE --gateway 2001:0db8::0:1 --oif eth0", "-i lan0 -j TEE --gateway 2001:db8::1 --oif eth0"),
        Case::Refused(Family::V4, "-j TEE", "TEE needs --gateway"),
        Case::Refused(Family::V4, "-j TEE --oif lan0", "TEE needs --gateway"),
        Case::Refused(Family::V4, "-j TEE --gateway 0.0.0.0", "is no host"),
        Case::Refused(Family::V6, "-j TEE --gateway ::", "is no host"),
        Case::Refused(Family::V4, "-j TEE --gateway 2001:db8::1", "is an IPv6 address"),
        Case::Refused(Family::V6, "-j TEE --gateway 10.0.0.1", "is an IPv4 address"),
        Case::Refused(Family::V4, "-j TEE --gateway 10.0.0.1/24", "is not an IPv4 address"),
        Case::Refused(Family::V4, "-j TEE --gateway 10.0.0.1,10.0.0.2", "is several addresses"),
        Case::Refused(Family::V4, "-j TEE ! --gateway 10.0.0.1", "cannot be negated"),
        Case::Refused(Family::V4, "-j TEE --gateway 10.0.0.1 ! --oif lan0", "cannot be negated"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let word = given.required(GATEWAY, "gateway")?;
    let gateway = parse_address(word, given.family)?;
    if gateway == 0 {
        return Err(word.complain(format!("`{}` is no host", word.text), "the address of a host"));
    }
    let oif = given.value(OIF).map(|word| {
        let port = given.ports.iter().position(|port| *port == word.text);
        port.map(|at| Port { name: word.text.clone(), id: PortId(at as u16) }).ok_or_else(|| Complaint {
            at: word.at.clone(),
            what: format!("there is no interface `{}`", word.text),
            accepts: suggest(&word.text, given.ports.iter().map(String::as_str)),
        })
    });
    Ok(Target::Tee(Tee { gateway, oif: oif.transpose()? }))
}

impl Action for Tee {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Tee(self)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, family: Family, out: &mut String) {
        out.push_str(" --gateway ");
        print_address(out, family, self.gateway);
        if let Some(port) = &self.oif {
            out.push_str(" --oif ");
            out.push_str(&port.name);
        }
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let is_host = self.gateway != 0 && self.gateway <= family.ones();
        if is_host && self.oif.iter().all(|port| is_name(&port.name)) {
            return Ok(());
        }
        Err("TEE to what cannot be".to_string())
    }
}
