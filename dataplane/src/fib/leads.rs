//! Where entries of tables lead: the descriptions that routes share, numbered, and the targets made of them.
//!
//! A million routes have few next hops. Routes that say the same share a number, which is what tables hold; what the number
//! means for packets (its [`Target`]) can change without a table being touched: when a nexthop object gets other hops, a link
//! goes down, an MTU changes.
//!
//! Invariants: number 0 leads nowhere; a number is given anew only when no route has it any more; a number whose target
//! cannot be used at all is dead, and routes with it do not count.

use super::entry::{Hop, Kind, Out};
use super::{NOWHERE, Route, Target, Way};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use sumun_config::facts::{AddrType, Family, PortId, number};
use sumun_config::model::gateway_number;

/// What a route says apart from where it stands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Lead {
    pub family: Family,
    pub kind: Kind,
    pub mtu: Option<u16>,
    pub source: Option<IpAddr>,
    pub realm: u32,
}

/// What a table's entry with some number amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// It does not count.
    Dead,
    /// The table has no route.
    Throw,
    /// A lookup finds this.
    Value(u32),
}

/// What the ports are like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ports {
    pub mtu: Vec<u16>,
    /// Set down.
    pub down: Vec<bool>,
}

struct Held {
    lead: Arc<Lead>,
    /// Routes that have the number.
    uses: u32,
    answer: Answer,
}

/// Targets of a piece of the numbers.
const CHUNK: usize = 256;

/// Targets by number, in pieces that versions share.
#[derive(Clone, Debug, Default)]
pub(super) struct Targets(Vec<Arc<[Target]>>);

impl Targets {
    #[inline]
    pub fn get(&self, number: u32) -> &Target {
        let number = number as usize;
        self.0.get(number / CHUNK).map_or(&NOWHERE, |chunk| &chunk[number % CHUNK])
    }

    fn set(&mut self, number: u32, target: Target) {
        let (chunk, at) = (number as usize / CHUNK, number as usize % CHUNK);
        while self.0.len() <= chunk {
            self.0.push(Arc::from(vec![NOWHERE; CHUNK]));
        }
        Arc::make_mut(&mut self.0[chunk])[at] = target;
    }

    /// Bytes of memory, shared or not.
    pub fn bytes(&self) -> usize {
        self.0.len() * CHUNK * size_of::<Target>()
    }
}

/// All leads of a table.
pub(super) struct Leads {
    numbers: HashMap<Arc<Lead>, u32>,
    held: Vec<Option<Held>>,
    free: Vec<u32>,
    objects: HashMap<u32, Vec<Hop>>,
    pub targets: Targets,
    /// Numbers in use whose target has several ways, and whose routes have realms.
    multipath: usize,
    realms: usize,
}

impl Leads {
    pub fn new() -> Leads {
        let mut targets = Targets::default();
        targets.set(0, NOWHERE);
        Leads {
            numbers: HashMap::new(),
            held: vec![None],
            free: Vec::new(),
            objects: HashMap::new(),
            targets,
            multipath: 0,
            realms: 0,
        }
    }

    /// The number of a lead, for one more route.
    pub fn take(&mut self, lead: Lead, ports: &Ports) -> u32 {
        if let Some(&number) = self.numbers.get(&lead) {
            if let Some(held) = &mut self.held[number as usize] {
                held.uses += 1;
            }
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.held.push(None);
            (self.held.len() - 1) as u32
        });
        let lead = Arc::new(lead);
        self.numbers.insert(lead.clone(), number);
        self.realms += (lead.realm != 0) as usize;
        self.held[number as usize] = Some(Held { lead, uses: 1, answer: Answer::Dead });
        self.compile(number, ports);
        number
    }

    /// A route less has the number.
    pub fn give(&mut self, number: u32) {
        let Some(held) = self.held.get_mut(number as usize).and_then(Option::as_mut) else { return };
        held.uses -= 1;
        if held.uses == 0 {
            self.numbers.remove(&held.lead);
            self.realms -= (held.lead.realm != 0) as usize;
            self.multipath -= self.targets.get(number).is_multipath() as usize;
            self.targets.set(number, NOWHERE);
            self.held[number as usize] = None;
            self.free.push(number);
        }
    }

    /// What the number stands for.
    pub fn lead(&self, number: u32) -> Option<&Arc<Lead>> {
        self.held.get(number as usize).and_then(Option::as_ref).map(|held| &held.lead)
    }

    /// The next hops of a lead, those of its object if it names one.
    pub fn hops<'a>(&'a self, kind: &'a Kind) -> &'a [Hop] {
        match kind {
            Kind::Via(hops) => hops,
            Kind::Object(id) => self.objects.get(id).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }

    #[inline]
    pub fn answer(&self, number: u32) -> Answer {
        self.held.get(number as usize).and_then(Option::as_ref).map_or(Answer::Dead, |held| held.answer)
    }

    /// Whether packets that come by a number are refused.
    pub fn refuses(&self, number: u32) -> bool {
        let kind = self.lead(number).map(|lead| &lead.kind);
        matches!(kind, Some(Kind::Blackhole | Kind::Unreachable | Kind::Prohibit))
    }

    /// Sets or removes a nexthop object. Whether a number has come to life or died.
    pub fn set_object(&mut self, id: u32, hops: Option<Vec<Hop>>, ports: &Ports) -> bool {
        match hops {
            Some(hops) => self.objects.insert(id, hops),
            None => self.objects.remove(&id),
        };
        self.renew(ports, |lead| lead.kind == Kind::Object(id))
    }

    /// How many numbers are in use.
    #[cfg(test)]
    pub fn numbers(&self) -> usize {
        self.numbers.len()
    }

    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    pub fn forget_objects(&mut self) {
        self.objects.clear();
    }

    /// Makes targets anew. Whether a number has come to life or died.
    pub fn renew(&mut self, ports: &Ports, which: impl Fn(&Lead) -> bool) -> bool {
        let mut revived = false;
        for number in 1..self.held.len() as u32 {
            if let Some(held) = &self.held[number as usize]
                && which(&held.lead)
            {
                let before = held.answer;
                self.compile(number, ports);
                revived |= self.answer(number) != before;
            }
        }
        revived
    }

    fn compile(&mut self, number: u32, ports: &Ports) {
        let Some(held) = &self.held[number as usize] else { return };
        let lead = held.lead.clone();
        let target = self.target(&lead, ports);
        let before = self.targets.get(number);
        let was_multipath = before.is_multipath();
        let answer = match (&lead.kind, &target) {
            (Kind::Throw, _) => Answer::Throw,
            (_, Some(_)) => Answer::Value(number),
            (_, None) => Answer::Dead,
        };
        let target = target.unwrap_or(NOWHERE);
        self.multipath = self.multipath + target.is_multipath() as usize - was_multipath as usize;
        if *before != target {
            self.targets.set(number, target);
        }
        if let Some(held) = &mut self.held[number as usize] {
            held.answer = answer;
        }
    }

    pub fn has_realms(&self) -> bool {
        self.realms > 0
    }

    pub fn is_multipath(&self) -> bool {
        self.multipath > 0
    }

    /// What a lead means for packets; none where no next hop can be used.
    fn target(&self, lead: &Lead, ports: &Ports) -> Option<Target> {
        let simple = |route, kind, port| Some(Target { route, kind, port, ways: None, realm: lead.realm });
        match lead.kind {
            Kind::Local(port) => simple(Route::Local, AddrType::Local, port),
            Kind::Anycast(port) => simple(Route::Local, AddrType::Anycast, port),
            Kind::Broadcast(port) => simple(Route::Broadcast { port }, AddrType::Broadcast, port),
            Kind::Blackhole => simple(Route::Blackhole, AddrType::Blackhole, PortId::NONE),
            Kind::Unreachable => simple(Route::Unreachable, AddrType::Unreachable, PortId::NONE),
            Kind::Prohibit => simple(Route::Prohibit, AddrType::Prohibit, PortId::NONE),
            Kind::Throw => None,
            Kind::Via(_) | Kind::Object(_) => via(lead, self.hops(&lead.kind), ports),
        }
    }
}

/// The target of next hops; none where none of them can be used.
fn via(lead: &Lead, hops: &[Hop], ports: &Ports) -> Option<Target> {
    let same = |addr: IpAddr| {
        let (its, addr) = number(addr);
        (its == lead.family).then_some(addr)
    };
    let source = lead.source.and_then(same);
    let mut ways: Vec<(u64, Route)> = Vec::with_capacity(hops.len());
    for hop in hops {
        let weight = hop.weight.max(1).into();
        let Out::Port(port) = hop.out else {
            ways.push((weight, Route::NotAPort));
            continue;
        };
        let Some((&mtu, false)) = port.index().and_then(|i| Some((ports.mtu.get(i)?, *ports.down.get(i)?))) else {
            continue;
        };
        let gateway = match hop.gateway.map(|via| gateway_number(lead.family, via)) {
            None => None,
            Some(Some(gateway)) => Some(gateway),
            Some(None) => continue,
        };
        let mtu = lead.mtu.map_or(mtu, |limit| limit.min(mtu));
        ways.push((weight, Route::Via { port, gateway, mtu, source }));
    }
    let &(_, route) = ways.first()?;
    let port = match route {
        Route::Via { port, .. } => port,
        _ => PortId::NONE,
    };
    let one = Target { route, kind: AddrType::Unicast, port, ways: None, realm: lead.realm };
    if ways.len() == 1 {
        return Some(one);
    }
    // Hash threshold of 31 bits (`fib_rebalance`): each way gets the share of the range that its weight is of the sum.
    let total: u64 = ways.iter().map(|(weight, _)| weight).sum();
    let mut sum = 0;
    let bounded = ways.into_iter().map(|(weight, route)| {
        sum += weight;
        let bound = ((sum << 31) + total / 2) / total - 1;
        Way { bound: bound as u32, route }
    });
    Some(Target { ways: Some(bounded.collect()), ..one })
}
