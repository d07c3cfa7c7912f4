//! `-j SECMARK --selctx CONTEXT`, in tables `mangle` and `security`: the security context of the packet.
//!
//! A context is a label: up to 255 characters that a security module of a kernel would understand, and that the router carries with
//! the packet, keeps with its flow ([`connsecmark`](super::connsecmark)) and shows (`sumun conntrack`, NFLOG, traces).
//! TOML: `{ in = "wan0", target = "SECMARK", selctx = "system_u:object_r:internet_packet_t:s0" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};

/// Most bytes of a context: `struct xt_secmark_target_info` holds 256 with the terminating zero.
pub const MAX_CONTEXT: usize = 255;

/// The target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecMark {
    /// The context.
    pub context: String,
    /// Its number in the router that runs the rule; given there.
    #[serde(skip)]
    pub number: u32,
}

/// SECMARK
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "SECMARK",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Mangle, Table::Security],
    hooks: ANY_HOOK,
    options: &[Opt::plain("selctx", &[]).about("CONTEXT", "gives the packet this security context; at most 255 bytes")],
    build,
    summary: "Gives the packet a security context.",
    example: r#"{ in = "wan0", target = "SECMARK", selctx = "system_u:object_r:internet_packet_t:s0" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j SECMARK --selctx system_u:object_r:httpd_packet_t:s0", "="),
        Case::Prints(Family::V6, "-p tcp -j SECMARK --selctx system_u:object_r:ssh_packet_t:s0-s15:c0.c1023", "-p tcp -j SECMARK --selctx system_u:object_r:ssh_packet_t:s0-s15:c0.c1023"),
        Case::Refused(Family::V4, "-j SECMARK", "SECMARK needs --selctx"),
        Case::Refused(Family::V4, "-j SECMARK --selctx ''", "is not a security context"),
        Case::Refused(Family::V4, "-j SECMARK --selctx 'a b'", "is not a security context"),
        Case::Refused(Family::V6, "-j SECMARK ! --selctx a:b:c", "cannot be negated"),
        Case::Refused(Family::V4, "-j SECMARK --selctx a:b:c --selctx a:b:d", "given twice"),
    ],
};

/// iptables-save prints contexts as they are, so what would have to be quoted cannot be one.
fn is_context(text: &str) -> bool {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | '\\');
    !text.is_empty() && text.len() <= MAX_CONTEXT && !text.starts_with(['-', '!']) && text.chars().all(is_plain)
}

fn build(given: &Given) -> Result<Target, Complaint> {
    let word = given.required(0, "selctx")?;
    match is_context(&word.text) {
        true => Ok(Target::SecMark(SecMark { context: word.text.clone(), number: 0 })),
        false => Err(word.complain(
            format!("`{}` is not a security context", word.text.escape_debug()),
            format!("up to {MAX_CONTEXT} bytes without blanks or quotes such as system_u:object_r:http_packet_t:s0"),
        )),
    }
}

impl Action for SecMark {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::SecMark(self.number)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        out.push_str(" --selctx ");
        out.push_str(&self.context);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if is_context(&self.context) { Ok(()) } else { Err("SECMARK with a context that cannot be".to_string()) }
    }
}
