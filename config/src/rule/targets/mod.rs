//! All targets, one file each.

use super::option::{TargetExtension, table_hooks};
use super::{Cond, Effect, Table};
use crate::facts::{Context, Facts, Family};
use crate::object::Object;
use serde::{Deserialize, Serialize};

/// What each target type answers. [`Target`] forwards to it.
pub trait Action {
    /// What is to be done with the packet.
    fn act(&self, facts: &Facts, cx: &Context) -> Effect<'_>;

    /// Its description; none for a jump to a user chain.
    fn extension(&self, family: Family) -> Option<&'static TargetExtension>;

    /// Writes its options as iptables-save does, each with a blank before it.
    fn print(&self, family: Family, out: &mut String);

    /// Whether it may change a packet, its flow, its way, or what later rules tell of it. True is always safe.
    fn changes_packets(&self) -> bool {
        true
    }

    /// What the rule's conditions lack for this target, where they do.
    fn misses(&self, _conds: &[Cond]) -> Option<&'static str> {
        None
    }

    /// Hooks (bits) that it refuses although its extension allows them.
    fn refused_hooks(&self) -> u8 {
        0
    }

    /// Whether a value decoded from untrusted bytes is one that the parser could have made for this family.
    fn verify(&self, _family: Family) -> Result<(), String> {
        Ok(())
    }

    /// What it shares by name with other rules ([`crate::object`]), and the numbers that it has for it.
    fn objects(&self) -> Vec<(Object, u32)> {
        Vec::new()
    }

    /// Takes the numbers of its objects, in the order of [`Action::objects`].
    fn set_objects(&mut self, _numbers: &[u32]) {}
}

/// Lists the targets: a new one is a file and a line here.
macro_rules! registry {
    ($($(#[$doc:meta])* $variant:ident($module:ident::$type:ident) = [$($extension:path),* $(,)?],)*) => {
        $(pub mod $module;)*

        /// What a rule does with what it matches.
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        pub enum Target {
            $($(#[$doc])* $variant($module::$type),)*
        }

        /// The descriptions of all targets.
        pub static EXTENSIONS: &[&TargetExtension] = &[$($(&$extension,)*)*];

        impl Target {
            /// What is to be done with the packet.
            #[inline]
            pub fn act(&self, facts: &Facts, cx: &Context) -> Effect<'_> {
                match self {
                    $(Target::$variant(t) => t.act(facts, cx),)*
                }
            }

            /// Its description; none for a jump to a user chain.
            pub fn extension(&self, family: Family) -> Option<&'static TargetExtension> {
                match self {
                    $(Target::$variant(t) => t.extension(family),)*
                }
            }

            /// Writes its options (not the `-j NAME` before them) as iptables-save does.
            pub fn print(&self, family: Family, out: &mut String) {
                match self {
                    $(Target::$variant(t) => t.print(family, out),)*
                }
            }

            /// Whether it may change a packet, its flow, its way, or what later rules tell of it.
            pub fn changes_packets(&self) -> bool {
                match self {
                    $(Target::$variant(t) => t.changes_packets(),)*
                }
            }

            /// What the rule's conditions lack for this target, where they do.
            pub fn misses(&self, conds: &[Cond]) -> Option<&'static str> {
                match self {
                    $(Target::$variant(t) => t.misses(conds),)*
                }
            }

            /// What it shares by name with other rules, and the numbers that it has for it.
            pub fn objects(&self) -> Vec<(Object, u32)> {
                match self {
                    $(Target::$variant(t) => t.objects(),)*
                }
            }

            /// Takes the numbers of its objects.
            pub fn set_objects(&mut self, numbers: &[u32]) {
                match self {
                    $(Target::$variant(t) => t.set_objects(numbers),)*
                }
            }

            fn refused_hooks(&self) -> u8 {
                match self {
                    $(Target::$variant(t) => t.refused_hooks(),)*
                }
            }

            fn verify_value(&self, family: Family) -> Result<(), String> {
                match self {
                    $(Target::$variant(t) => t.verify(family),)*
                }
            }
        }
    };
}

registry! {
    /// ACCEPT, DROP, RETURN, QUEUE, and jumps to user chains.
    Verdict(verdict::Verdict) = [verdict::ACCEPT, verdict::DROP, verdict::RETURN, verdict::QUEUE],
    /// REJECT.
    Reject(reject::Reject) = [reject::V4, reject::V6],
    /// LOG.
    Log(log::Log) = [log::EXTENSION],
    /// MARK.
    Mark(mark::Mark) = [mark::EXTENSION],
    /// CONNMARK.
    ConnMark(connmark::ConnMark) = [connmark::EXTENSION],
    /// TTL, HL.
    Ttl(ttl::Ttl) = [ttl::TTL, ttl::HL],
    /// TOS.
    Tos(tos::Tos) = [tos::EXTENSION],
    /// DSCP.
    Dscp(dscp::Dscp) = [dscp::EXTENSION],
    /// NOTRACK.
    Notrack(notrack::Notrack) = [notrack::EXTENSION],
    /// CT.
    Ct(ct::Ct) = [ct::EXTENSION],
    /// TCPMSS.
    Mss(tcpmss::Mss) = [tcpmss::EXTENSION],
    /// SNAT, DNAT, MASQUERADE, REDIRECT, NETMAP.
    Nat(nat::Nat) = [snat::EXTENSION, dnat::EXTENSION, masquerade::EXTENSION, redirect::EXTENSION, netmap::EXTENSION],
    /// RATEEST.
    Rateest(rateest::Rateest) = [rateest::EXTENSION],
    /// IDLETIMER.
    Idletimer(idletimer::Idletimer) = [idletimer::EXTENSION],
    /// SYNPROXY.
    Synproxy(synproxy::Synproxy) = [synproxy::EXTENSION],
    /// SET.
    Set(set::Set) = [set::EXTENSION],
    /// SNPT, DNPT.
    Npt(npt::Npt) = [npt::SNPT, npt::DNPT],
    /// CHECKSUM.
    Checksum(checksum::Checksum) = [checksum::EXTENSION],
    /// CLASSIFY.
    Classify(classify::Classify) = [classify::EXTENSION],
    /// ECN.
    Ecn(ecn::Ecn) = [ecn::EXTENSION],
    /// TCPOPTSTRIP.
    Strip(tcpoptstrip::Strip) = [tcpoptstrip::EXTENSION],
    /// HMARK.
    Hmark(hmark::Hmark) = [hmark::EXTENSION],
    /// TRACE.
    Trace(trace::Trace) = [trace::EXTENSION],
    /// AUDIT.
    Audit(audit::Audit) = [audit::EXTENSION],
    /// NFQUEUE.
    Queue(nfqueue::Queue) = [nfqueue::EXTENSION],
    /// NFLOG.
    Nflog(nflog::Nflog) = [nflog::EXTENSION],
    /// TEE.
    Tee(tee::Tee) = [tee::EXTENSION],
    /// SECMARK.
    SecMark(secmark::SecMark) = [secmark::EXTENSION],
    /// CONNSECMARK.
    ConnSecMark(connsecmark::ConnSecMark) = [connsecmark::EXTENSION],
}

/// Whether some family has a target of that name: no chain may be called so.
pub fn is_name(name: &str) -> bool {
    EXTENSIONS.iter().any(|target| target.name == name || target.aliases.contains(&name))
        || absent::find(name, absent::ABSENT).is_some()
}

pub mod absent;
pub mod dnat;
pub mod masquerade;
pub mod netmap;
pub mod redirect;
pub mod snat;

impl Target {
    /// What a trace says of it: its name, and what is shown nowhere else: priorities and security contexts.
    pub fn told(&self, family: Family) -> String {
        let mut text = self.extension(family).map_or("", |extension| extension.name).to_string();
        if let Target::Classify(_) | Target::SecMark(_) | Target::ConnSecMark(_) = self {
            self.print(family, &mut text);
        }
        text
    }

    /// Whether a target decoded from untrusted bytes may stand in a rule of this family with these conditions, in a chain
    /// of this table that is reached from these hooks.
    pub fn verify(&self, family: Family, table: Table, hooks: u8, conds: &[Cond]) -> Result<(), String> {
        if let Some(extension) = self.extension(family) {
            let name = extension.name;
            if !extension.families.has(family) {
                return Err(format!("{name} does not exist for {}", family.name()));
            }
            if !extension.tables.is_empty() && !extension.tables.contains(&table) {
                return Err(format!("{name} cannot be used in table {}", table.name()));
            }
            if hooks & table_hooks(table) & (self.refused_hooks() | !extension.hooks) != 0 {
                return Err(format!("{name} cannot be used in a chain that is reached from these hooks"));
            }
        }
        if let Target::Set(set) = self
            && !set.fits(table)
        {
            return Err(format!("--map-set cannot be used in table {}", table.name()));
        }
        if let Some(missing) = self.misses(conds) {
            return Err(missing.to_string());
        }
        self.verify_value(family)
    }
}
