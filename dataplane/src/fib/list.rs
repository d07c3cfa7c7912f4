//! What is in the tables, for people: routes in the order of tables and prefixes, page by page.

use super::entry::{Entry, Hop, Kind, Out};
use super::half::{Half, Held, Routes, Spot};
use super::leads::Answer;
use super::lpm::Address;
use super::table::Table;
use ipnet::IpNet;
use std::cmp::Reverse;
use sumun_config::facts::Family;

/// Which routes; what is none is any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// Of this family.
    pub family: Option<Family>,
    /// Of this table.
    pub table: Option<u32>,
}

/// Where a page ended, to go on behind it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    family: usize,
    table: u32,
    key: u128,
    len: u8,
    tos: u8,
    metric: u32,
    order: u32,
}

impl Place {
    /// As numbers, to be taken elsewhere and back.
    pub fn parts(self) -> (u8, u32, u128, u8, u8, u32, u32) {
        (self.family as u8, self.table, self.key, self.len, self.tos, self.metric, self.order)
    }

    /// From numbers, of whomever.
    pub fn of((family, table, key, len, tos, metric, order): (u8, u32, u128, u8, u8, u32, u32)) -> Place {
        Place { family: family.into(), table, key, len, tos, metric, order }
    }
}

/// A route, and what is known of it now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The route.
    pub entry: Entry,
    /// Its next hops, those of its nexthop object if it names one; of each whether its link is down.
    pub hops: Vec<(Hop, bool)>,
    /// It does not count, since none of its next hops can be used.
    pub is_dead: bool,
}

impl Table {
    /// The routes behind a place, up to `most` of them, and where to go on if there are more.
    pub fn list(&self, of: Selection, after: Option<Place>, most: usize) -> (Vec<Listed>, Option<Place>) {
        let mut listed = Vec::new();
        let mut last = None;
        for family in Family::ALL {
            let is_wanted = of.family.is_none_or(|wanted| wanted == family);
            if !is_wanted || after.is_some_and(|after| after.family > family.index()) {
                continue;
            }
            let is_full = match family {
                Family::V4 => self.list_half(&self.v4, family, of, after, most, &mut listed, &mut last),
                Family::V6 => self.list_half(&self.v6, family, of, after, most, &mut listed, &mut last),
            };
            if is_full {
                return (listed, last);
            }
        }
        (listed, None)
    }

    #[expect(clippy::too_many_arguments, reason = "one walk over both families")]
    fn list_half<A: Address>(
        &self,
        half: &Half<A>,
        family: Family,
        of: Selection,
        after: Option<Place>,
        most: usize,
        listed: &mut Vec<Listed>,
        last: &mut Option<Place>,
    ) -> bool {
        let mut tables: Vec<(&u32, &Routes<A>)> = half.tables.iter().collect();
        tables.sort_by_key(|(number, _)| **number);
        for (&number, routes) in tables {
            let begun = after.filter(|after| after.family == family.index());
            if of.table.is_some_and(|wanted| wanted != number) || begun.is_some_and(|after| after.table > number) {
                continue;
            }
            let begun = begun.filter(|after| after.table == number);
            let from = begun.map(|at| {
                let Place { len, tos, metric, order, .. } = at;
                Spot { key: A::of(at.key), len, tos: Reverse(tos), metric, order }
            });
            let spots = match from {
                None => routes.spots.range(..),
                Some(from) => routes.spots.range((std::ops::Bound::Excluded(from), std::ops::Bound::Unbounded)),
            };
            for (spot, held) in spots {
                if listed.len() >= most {
                    return true;
                }
                listed.extend(self.listed(family, number, spot, held));
                let Spot { key, len, tos: Reverse(tos), metric, order } = *spot;
                let (family, key) = (family.index(), key.number());
                *last = Some(Place { family, table: number, key, len, tos, metric, order });
            }
        }
        false
    }

    fn listed<A: Address>(&self, family: Family, table: u32, spot: &Spot<A>, held: &Held) -> Option<Listed> {
        let lead = self.leads.lead(held.lead)?;
        let prefix = IpNet::new(family.address(spot.key.number()), spot.len).ok()?;
        let is_down = |hop: &Hop| match hop.out {
            Out::Port(port) => port.index().and_then(|i| self.ports.down.get(i)).is_some_and(|down| *down),
            Out::Other(_) => false,
        };
        let hops = self.leads.hops(&lead.kind).iter().map(|hop| (hop.clone(), is_down(hop))).collect();
        let is_dead = lead.kind != Kind::Throw && self.leads.answer(held.lead) == Answer::Dead;
        let entry = Entry {
            table,
            prefix,
            metric: spot.metric,
            kind: lead.kind.clone(),
            mtu: lead.mtu,
            source: lead.source,
            tos: spot.tos.0,
            realm: lead.realm,
            protocol: held.protocol,
        };
        Some(Listed { entry, hops, is_dead })
    }
}
