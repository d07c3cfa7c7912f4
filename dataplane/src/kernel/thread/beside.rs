//! What of the kernel's side is not routes: neighbours, groups, the ports' own devices, and the addresses of TAPs.

use super::{BATCH, Follower};
use crate::fib::Change;
use crate::kernel::decode::Message;
use crate::kernel::groups;
use crate::kernel::news::{NeighbourState, News};
use crate::kernel::socket::{Failure, Netlink, get};
use crate::kernel::view::Learned;
use crate::neigh::{self, Replaces};
use crate::worker::now;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use nix::errno::Errno;
use std::collections::HashSet;
use sumun_config::facts::{PortId, number};
use sumun_config::model::StaticNeighbour;

impl Follower {
    pub(super) fn tell_static(&self) {
        let row =
            |(&(port, address), &mac): (&(PortId, std::net::IpAddr), &[u8; 6])| StaticNeighbour { port, address, mac };
        let rows: Vec<StaticNeighbour> = self.static_neighbours.iter().map(row).collect();
        self.plan.router.neighbours.set_static(&rows, now());
        (self.plan.wake)();
    }

    pub(super) fn tell_neighbours(&mut self, told: Vec<(PortId, Learned)>) {
        let mut changed = false;
        let router = self.plan.router.clone();
        let most = router.neighbours.capacity();
        let sysctl = &router.current().policy.sysctl;
        for (port, learned) in told {
            let (Learned::Is(neighbour) | Learned::Gone(neighbour)) = &learned;
            let key = (port, neighbour.address);
            let (family, addr) = number(neighbour.address);
            match (&learned, neighbour.state, neighbour.mac) {
                (Learned::Is(_), NeighbourState::Permanent, Some(mac)) => {
                    if self.static_neighbours.len() < most {
                        changed |= self.static_neighbours.insert(key, mac) != Some(mac);
                    }
                    continue;
                }
                (Learned::Is(_), NeighbourState::Reachable | NeighbourState::Known, Some(mac)) => {
                    let learned = neigh::Learned {
                        port,
                        family,
                        addr,
                        mac: Some(mac),
                        confirms: neighbour.state == NeighbourState::Reachable,
                        replaces: Replaces::Settled,
                        creates: true,
                        router: None,
                    };
                    router.neighbours.hint(&learned, now(), sysctl);
                }
                (Learned::Gone(_), _, _) | (_, NeighbourState::Failed, _) => {
                    router.neighbours.forget_unsure(port, family, addr, now());
                }
                _ => {}
            }
            changed |= self.static_neighbours.remove(&key).is_some();
        }
        if changed {
            self.tell_static();
        }
    }

    /// Which groups the host's programs have joined.
    pub(super) fn look_at_groups(&mut self) {
        if self.plan.host.is_none() {
            return;
        }
        let mut all = groups::joined();
        let mut changes = Vec::new();
        for i in 0..self.plan.router.links.len() {
            let port = PortId(i as u16);
            let groups = self.view.device(port).and_then(|link| all.remove(&link.index)).unwrap_or_default();
            if self.joined.get(&port) != Some(&groups) {
                self.joined.insert(port, groups.clone());
                changes.push(Change::Groups { port, groups });
            }
        }
        self.apply(changes);
    }

    /// Asks which devices of ports are up.
    pub(super) fn look_at_devices(&mut self) -> Result<(), Failure> {
        let mut found = Vec::new();
        self.devices.dump(get::LINKS, AddressFamily::Unspec, |news| found.push(news))?;
        found.into_iter().for_each(|news| self.device(news));
        Ok(())
    }

    /// Takes in what is told of devices of ports.
    pub(super) fn watch_devices(&mut self) -> Result<(), Failure> {
        let mut found = Vec::new();
        let result = loop {
            let take = self.devices.take(|message| match message {
                Message::News(news) => found.push(news),
                Message::Overrun | Message::Done | Message::Answer(_) | Message::Unreadable(_) => {}
            });
            match take {
                Ok(true) if found.len() < BATCH => {}
                Ok(_) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        found.into_iter().for_each(|news| self.device(news));
        match result {
            Err(Failure::Overrun) => self.look_at_devices(),
            result => result,
        }
    }

    fn device(&mut self, news: News) {
        let News::Link(link) = news else { return };
        for (i, device) in self.plan.devices.iter().enumerate() {
            let port = PortId(i as u16);
            if device.as_ref() != Some(&link.name) {
                continue;
            }
            let changed = if link.is_up { self.down.remove(&port) } else { self.down.insert(port) };
            if changed {
                self.view.device_is(port, link.is_up);
            }
        }
    }

    /// Puts the configuration's addresses on the TAPs, and takes those away that it no longer has.
    pub(super) fn dress(&mut self, asks: &mut Netlink) {
        if self.plan.host.is_none() {
            return;
        }
        let policy = &self.plan.router.current().policy;
        let mut wanted: HashSet<(u32, IpNet)> = HashSet::new();
        for (i, settings) in policy.port_settings.iter().enumerate() {
            if let Some(link) = self.view.device(PortId(i as u16)) {
                // A device that is set down loses its IPv6 addresses, and gets them back when it is up.
                let stays = |net: &&IpNet| link.is_up || net.addr().is_ipv4();
                wanted.extend(settings.addresses.iter().filter(stays).map(|net| (link.index, *net)));
            }
        }
        let gone: Vec<(u32, IpNet)> = self.put.difference(&wanted).copied().collect();
        for (link, net) in gone {
            self.put.remove(&(link, net));
            self.sure.remove(&(link, net));
            if let Err(error) = asks.remove_address(link, net)
                && !matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EADDRNOTAVAIL | Errno::ENODEV))
            {
                tracing::warn!("taking {net} from its TAP: {error}");
            }
        }
        let new: Vec<(u32, IpNet)> = wanted.difference(&self.sure).copied().collect();
        for (link, net) in new {
            match asks.add_address(link, net) {
                Ok(()) => {
                    self.put.insert((link, net));
                    self.sure.insert((link, net));
                }
                Err(error) => self.say(format!("{net} cannot be put on its TAP: {error}")),
            }
        }
    }
}
