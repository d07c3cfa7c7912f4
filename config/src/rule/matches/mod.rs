//! All matches, one file each.
//!
//! Core conditions (address, interface, protocol, fragment) belong to every rule and are parsed by the rule parser itself;
//! the others are extensions, which describe their options in an [`MatchExtension`]. A rule lists its core conditions
//! first and its extensions in the order written, which is the order in which the kernel asks them.

use super::Outcome;
use super::option::MatchExtension;
use crate::facts::{Context, Facts, Family};
use crate::object::Object;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod harness;
mod headers;
pub mod opts;
pub mod ports;
pub mod span;

/// What the answer of a match depends on, of whole, well-formed packets of one direction of a flow (not of ICMP errors about
/// it). Each includes the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Asks {
    /// Nothing that changes while these stay the same: the flow and its mapping, its state, status and mark, the packet's own
    /// mark and TOS byte, `iif` and `oif`, how its frame was addressed, and the generation of the routes (`addrtype` asks them).
    #[default]
    Flow,
    /// The flags of TCP too.
    TcpFlags,
    /// Anything else of the packet, the time, or what other packets left behind; or it has an effect.
    Packet,
}

/// What each match type answers. [`Match`] forwards to it.
pub trait Condition {
    /// What this condition says of the packet, before negation.
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome;

    /// Writes the option as iptables-save does, with a blank before it: ` --dport 22`, ` ! --dport 22`. A condition that
    /// its bare `-m NAME` expresses writes nothing.
    fn print(&self, negate: bool, family: Family, out: &mut String);

    /// See [`Match::asks`]. [`Asks::Packet`] is always safe.
    fn asks(&self) -> Asks {
        Asks::Packet
    }

    /// Whether a value decoded from untrusted bytes is one that the parser could have made for this family.
    fn verify(&self, _family: Family) -> Result<(), String> {
        Ok(())
    }

    /// The number of this condition's cell of [`Context::cells`], if it has a memory. A stateful condition has exactly
    /// one cell, which starts as 0.
    fn cell(&self) -> Option<u32> {
        None
    }

    /// The same, for whoever hands out the numbers.
    fn cell_mut(&mut self) -> Option<&mut u32> {
        None
    }

    /// What it shares by name with other rules ([`crate::object`]), and the numbers that it has for it.
    fn objects(&self) -> Vec<(Object, u32)> {
        Vec::new()
    }

    /// Takes the numbers of its objects, in the order of [`Condition::objects`].
    fn set_objects(&mut self, _numbers: &[u32]) {}
}

/// Lists the matches: a new one is a file and a line here.
macro_rules! registry {
    (
        core { $($(#[$core_doc:meta])* $core:ident($core_module:ident::$core_type:ident),)* }
        extensions { $($(#[$doc:meta])* $variant:ident($module:ident::$type:ident),)* }
    ) => {
        $(pub mod $core_module;)*
        $(pub mod $module;)*

        /// One condition of a match. Options of the same match are separate conditions.
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        pub enum Match {
            $($(#[$core_doc])* $core($core_module::$core_type),)*
            $($(#[$doc])* $variant($module::$type),)*
        }

        /// The extensions, by the order of the list.
        pub static EXTENSIONS: &[&MatchExtension] = &[$(&$module::EXTENSION,)*];

        impl Match {
            /// What this condition says of the packet, before negation.
            #[inline]
            pub fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
                match self {
                    $(Match::$core(m) => m.test(facts, cx),)*
                    $(Match::$variant(m) => m.test(facts, cx),)*
                }
            }

            /// Writes the option alone (not the `-m NAME` before it) as iptables-save does, with a blank before it.
            pub fn print(&self, negate: bool, family: Family, out: &mut String) {
                match self {
                    $(Match::$core(m) => m.print(negate, family, out),)*
                    $(Match::$variant(m) => m.print(negate, family, out),)*
                }
            }

            /// The extension that this is an option of; none for the core conditions.
            pub fn extension(&self) -> Option<&'static MatchExtension> {
                match self {
                    $(Match::$core(_) => None,)*
                    $(Match::$variant(_) => Some(&$module::EXTENSION),)*
                }
            }

            /// What of a packet the answer depends on.
            pub fn asks(&self) -> Asks {
                match self {
                    $(Match::$core(m) => m.asks(),)*
                    $(Match::$variant(m) => m.asks(),)*
                }
            }

            /// Whether a value decoded from untrusted bytes is sane for this family: ranges in order, lists within
            /// limits, nothing that the parser could not have made. The cell is the ruleset's to check.
            pub fn verify(&self, family: Family) -> Result<(), String> {
                if let Some(extension) = self.extension() && !extension.families.has(family) {
                    return Err(format!("{} does not exist for {}", extension.name, family.name()));
                }
                match self {
                    $(Match::$core(m) => m.verify(family),)*
                    $(Match::$variant(m) => m.verify(family),)*
                }
            }

            /// The number of the cell of a stateful condition (`limit`, `statistic --mode nth`). Each of them has one.
            pub fn cell(&self) -> Option<u32> {
                match self {
                    $(Match::$core(m) => m.cell(),)*
                    $(Match::$variant(m) => m.cell(),)*
                }
            }

            /// The same, for the linker that assigns it. Each stateful condition needs exactly one cell.
            pub fn cells(&mut self) -> Option<&mut u32> {
                match self {
                    $(Match::$core(m) => m.cell_mut(),)*
                    $(Match::$variant(m) => m.cell_mut(),)*
                }
            }

            /// What it shares by name with other rules, and the numbers that it has for it.
            pub fn objects(&self) -> Vec<(Object, u32)> {
                match self {
                    $(Match::$core(m) => m.objects(),)*
                    $(Match::$variant(m) => m.objects(),)*
                }
            }

            /// Takes the numbers of its objects.
            pub fn set_objects(&mut self, numbers: &[u32]) {
                match self {
                    $(Match::$core(m) => m.set_objects(numbers),)*
                    $(Match::$variant(m) => m.set_objects(numbers),)*
                }
            }
        }
    };
}

registry! {
    core {
        /// `-s`, `-d`.
        Address(address::Address),
        /// `-i`, `-o`.
        Interface(interface::Interface),
        /// `-p`.
        Protocol(protocol::Protocol),
        /// `-f`.
        Fragment(fragment::Fragment),
    }
    extensions {
        /// `-m tcp`.
        Tcp(tcp::Tcp),
        /// `-m udp`.
        Udp(udp::Udp),
        /// `-m sctp`.
        Sctp(sctp::Sctp),
        /// `-m dccp`.
        Dccp(dccp::Dccp),
        /// `-m ah` of IPv4.
        Ah(ah::Ah),
        /// `-m ah` of IPv6.
        Ah6(ah6::Ah6),
        /// `-m esp`.
        Esp(esp::Esp),
        /// `-m ipcomp`.
        Ipcomp(ipcomp::Ipcomp),
        /// `-m tcpmss`.
        Tcpmss(tcpmss::Tcpmss),
        /// `-m icmp`.
        Icmp(icmp::Icmp),
        /// `-m icmp6`.
        Icmp6(icmp6::Icmp6),
        /// `-m dst`.
        Dst(dst::Dst),
        /// `-m hbh`.
        Hbh(hbh::Hbh),
        /// `-m eui64`.
        Eui64(eui64::Eui64),
        /// `-m frag`.
        Frag(frag::Frag),
        /// `-m ipv6header`.
        Ipv6header(ipv6header::Ipv6header),
        /// `-m mh`.
        Mh(mh::Mh),
        /// `-m rt`.
        Rt(rt::Rt),
        /// `-m srh`.
        Srh(srh::Srh),
        /// `-m u32`.
        U32(u32::U32),
        /// `-m string`.
        String(string::Text),
        /// `-m bpf`.
        Bpf(bpf::Bpf),
        /// `-m multiport`.
        Multiport(multiport::Multiport),
        /// `-m conntrack`.
        Conntrack(conntrack::Conntrack),
        /// `-m state`.
        State(state::State),
        /// `-m mark`.
        Mark(mark::Mark),
        /// `-m connmark`.
        Connmark(connmark::Connmark),
        /// `-m connbytes`.
        Connbytes(connbytes::Connbytes),
        /// `-m connlabel`.
        Connlabel(connlabel::Connlabel),
        /// `-m connlimit`.
        Connlimit(connlimit::Connlimit),
        /// `-m helper`.
        Helper(helper::Helper),
        /// `-m addrtype`.
        Addrtype(addrtype::Addrtype),
        /// `-m iprange`.
        Iprange(iprange::Iprange),
        /// `-m mac`.
        Mac(mac::Mac),
        /// `-m pkttype`.
        Pkttype(pkttype::Pkttype),
        /// `-m length`.
        Length(length::Length),
        /// `-m ttl`.
        Ttl(ttl::Ttl),
        /// `-m hl`.
        Hl(hl::Hl),
        /// `-m tos`.
        Tos(tos::Tos),
        /// `-m dscp`.
        Dscp(dscp::Dscp),
        /// `-m ecn`.
        Ecn(ecn::Ecn),
        /// `-m time`.
        Time(time::Time),
        /// `-m rpfilter`.
        Rpfilter(rpfilter::Rpfilter),
        /// `-m policy`.
        Policy(policy::Policy),
        /// `-m physdev`.
        Physdev(physdev::Physdev),
        /// `-m realm`.
        Realm(realm::Realm),
        /// `-m devgroup`.
        Devgroup(devgroup::Devgroup),
        /// `-m cpu`.
        Cpu(cpu::Cpu),
        /// `-m cluster`.
        Cluster(cluster::Cluster),
        /// `-m owner`.
        Owner(owner::Owner),
        /// `-m socket`.
        Socket(socket::Socket),
        /// `-m cgroup`.
        Cgroup(cgroup::Cgroup),
        /// `-m limit`.
        Limit(limit::Limit),
        /// `-m osf`.
        Osf(osf::Osf),
        /// `-m nfacct`.
        Nfacct(nfacct::Nfacct),
        /// `-m quota`.
        Quota(quota::Quota),
        /// `-m statistic`.
        Statistic(statistic::Statistic),
        /// `-m hashlimit`.
        Hashlimit(hashlimit::Hashlimit),
        /// `-m rateest`.
        Rateest(rateest::Rateest),
        /// `-m recent`.
        Recent(recent::Recent),
        /// `-m set`.
        Set(set::Set),
        /// `-m comment`.
        Comment(comment::Comment),
    }
}

/// ` !` before a negated option.
fn not(negate: bool) -> &'static str {
    if negate { " !" } else { "" }
}

/// A plain yes or no.
#[inline]
fn yes(hit: bool) -> Outcome {
    if hit { Outcome::Yes } else { Outcome::No }
}
