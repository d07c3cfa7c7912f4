//! The order of hooks and tables, as data: the only place where it is written.
//!
//! Priorities are netfilter's: raw -300, conntrack -200, mangle -150, dstnat -100, filter 0, security 50, srcnat 100,
//! confirm last (`enum nf_ip_hook_priorities`).

use crate::nat::Manip;
use sumun_config::rule::{Hook, Table};

/// One thing that happens to a packet at a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The table's chain for this hook judges it.
    Chain(Table),
    /// Conntrack places it (`nf_conntrack_in`).
    Track,
    /// The flow's first packet chooses the mapping, every packet is rewritten (`nf_nat_inet_fn`).
    Nat(Manip),
    /// Local output only: the route is looked up again if what it depends on was changed since (`ip_route_me_harder`).
    Reroute,
    /// The flow enters the table (`nf_conntrack_confirm`).
    Confirm,
}

/// What happens at a hook, in order.
pub const fn stages(hook: Hook) -> &'static [Stage] {
    use Stage::*;
    match hook {
        Hook::Prerouting => &[Chain(Table::Raw), Track, Chain(Table::Mangle), Nat(Manip::Dst)],
        Hook::Input => &[Chain(Table::Mangle), Chain(Table::Filter), Chain(Table::Security), Nat(Manip::Src), Confirm],
        Hook::Forward => &[Chain(Table::Mangle), Chain(Table::Filter), Chain(Table::Security)],
        Hook::Output => &[
            Chain(Table::Raw),
            Track,
            Chain(Table::Mangle),
            Reroute,
            Nat(Manip::Dst),
            Reroute,
            Chain(Table::Filter),
            Chain(Table::Security),
        ],
        Hook::Postrouting => &[Chain(Table::Mangle), Nat(Manip::Src), Confirm],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_asked_at_exactly_the_hooks_that_have_its_chain() {
        for hook in Hook::ALL {
            for table in Table::ALL {
                let asked = stages(hook).iter().any(|s| match s {
                    Stage::Chain(t) => *t == table,
                    Stage::Nat(_) => table == Table::Nat,
                    _ => false,
                });
                assert_eq!(asked, table.hooks().contains(&hook), "{} at {}", table.name(), hook.name());
            }
        }
    }
}
