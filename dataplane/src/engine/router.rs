//! What all workers share: links, flows, neighbours, and the generation and the routes that are in force.
//!
//! Publishing never stops a worker. The publisher builds a [`Generation`] or a [`Fib`], appends it to a short list and raises
//! its number; each worker compares both numbers once a burst, steps through the generations that are new, carrying its own
//! counters from bank to bank, and takes the newest routes. The lists' lock is taken by a worker only when something was
//! published. What is in the lists leaves them when every worker has moved on, and is freed by who publishes or settles: a
//! worker never has the last `Arc`, whose drop may take long.

use super::contexts::Contexts;
use super::generation::{self, CellPool, Generation, Keep, MAX_CELLS};
use super::objects::Objects;
use super::running::Running;
use super::stats::{Traffic, WorkerStats};
use crate::conntrack::Conntrack;
use crate::fib::{Change, Fib, Listed, Own, Place, Selection, Table};
use crate::local::board::Board;
use crate::log::{LogRing, PacketRing};
use crate::neigh::Neighbours;
use crate::packet::vlan::Vlans;
use crate::port::Link;
use crate::protocol::{AccountRow, ChainCounters, Counter, Counters, SetAnswer, SetRequest};
use crate::reason::DropReason;
use crate::set::packet::Ifaces;
use crate::set::{Plan, Sets};
use crate::synproxy::Cookies;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sumun_config::facts::{Family, PortId};
use sumun_config::model::{Appliance, Policy, PortSettings, RoutesFrom, RoutingRule, Sysctl};
use sumun_config::object::Object;
use sumun_config::rule::matches::nfacct::Limits;
use sumun_config::rule::{self, Match, Target};
use sumun_config::ruleset::Ruleset;

/// Log lines that can wait to be written.
const LOG_RING: usize = 4096;

/// A router: one for each dataplane process, alive as long as the process.
pub struct Router {
    /// By [`sumun_config::facts::PortId`].
    pub links: Vec<Link>,
    /// Cores of the workers.
    pub cores: Vec<usize>,
    /// The flow table.
    pub conntrack: Arc<Conntrack>,
    /// The neighbour table.
    pub neighbours: Arc<Neighbours>,
    /// Log lines on their way to the housekeeping thread.
    pub log: Arc<LogRing>,
    /// What the router shows of itself.
    pub board: Arc<Board>,
    /// The sets that rules ask and change.
    pub sets: Sets,
    /// Whether each port has a TAP.
    pub(super) taps: Box<[bool]>,
    /// Whether any has.
    pub(super) has_taps: bool,
    /// Whether the TAP of each port gets what is neither IP nor ARP.
    pub(super) all_frames: Box<[bool]>,
    /// The VLANs among the ports.
    pub(super) vlans: Vlans,
    /// Names of the ports, as sets know them.
    pub(super) ifaces: Ifaces,
    /// Packets of NFLOG on their way to who listens.
    pub packets: Arc<PacketRing>,
    /// Security contexts that rules have named.
    pub contexts: Contexts,
    /// Each worker's own numbers.
    pub stats: Vec<Arc<WorkerStats>>,
    pub(super) cells: Box<[AtomicU64]>,
    pub(super) seed: u64,
    pub(super) cookies: Cookies,
    newest: AtomicU64,
    newest_routes: AtomicU64,
    publishing: Mutex<Publishing>,
    publications: Mutex<Publications>,
    /// Held by whoever changes which sets there are.
    set_changes: Mutex<()>,
}

/// An address of a port.
type Address = (PortId, Family, u128);

/// What became of a batch of changes.
#[derive(Debug)]
pub struct Applied {
    /// The number of the routes that are in force now.
    pub number: u64,
    /// Changes that could not be, with the reason.
    pub left_out: Vec<(Change, String)>,
}

/// What the one who publishes needs while a generation is built, which takes its time; workers never ask for it.
struct Publishing {
    cells: CellPool,
    /// What the routes in force were made of.
    table: Table,
    /// Cells that no generation after this one uses.
    retired: Vec<(u64, Vec<u32>)>,
}

/// What workers look at on their way to a new generation: held for moments only.
struct Publications {
    /// The newest generation and those before it that some worker may not have reached; never empty.
    alive: VecDeque<Arc<Generation>>,
    /// The same of routes.
    routes: VecDeque<Arc<Fib>>,
    /// Addresses that ports no longer have from these routes on.
    gone: Vec<(u64, Vec<Address>)>,
}

impl Router {
    /// A router with no addresses, no routes and no rules, whose filter policy is the appliance's initial one.
    pub fn new(appliance: &Appliance, links: Vec<Link>, seed: u64) -> Arc<Router> {
        let conntrack = Conntrack::new(appliance.max_flows, appliance.cores.len(), seed);
        Router::with(conntrack, appliance, links, seed)
    }

    /// The same with this flow table, which is made for the appliance's workers and may have flows already.
    pub fn with(conntrack: Conntrack, appliance: &Appliance, links: Vec<Link>, seed: u64) -> Arc<Router> {
        let workers = appliance.cores.len().max(1);
        let taps: Box<[bool]> = appliance.interfaces.iter().map(|interface| appliance.has_tap(interface)).collect();
        let policy = nothing(appliance, &links);
        let mut cells = CellPool::full();
        let sets = Sets::new(seed);
        let mut table = Table::new(&links);
        table.adopt(&policy);
        let fib = table.fib();
        let (mut first, _) = Generation::build(0, policy, workers, None, Keep::Nothing, &mut cells)
            .expect("an empty ruleset has no cells");
        first.objects = Objects::none(seed);
        if conntrack.has_mappings() {
            // Of a router before this one: they outlive its rules, and what comes after this generation inherits it.
            first.needs.iter_mut().for_each(|needs| needs.nat = true);
        }
        Arc::new(Router {
            conntrack: Arc::new(conntrack),
            cores: appliance.cores.clone(),
            neighbours: Arc::new(Neighbours::new(appliance.max_neighbours, seed)),
            log: Arc::new(LogRing::new(LOG_RING)),
            sets,
            ifaces: Ifaces::of(links.iter().map(|link| link.name.as_str())),
            has_taps: taps.contains(&true),
            all_frames: appliance.interfaces.iter().map(|interface| appliance.gives_all_frames(interface)).collect(),
            taps,
            vlans: Vlans::of(&links),
            set_changes: Mutex::default(),
            packets: Arc::default(),
            board: Arc::new(Board::new(workers)),
            contexts: Contexts::default(),
            stats: (0..workers).map(|_| Arc::new(WorkerStats::new(links.len()))).collect(),
            cells: (0..MAX_CELLS).map(|_| AtomicU64::new(0)).collect(),
            seed,
            cookies: Cookies::default(),
            newest: AtomicU64::new(0),
            newest_routes: AtomicU64::new(0),
            publishing: Mutex::new(Publishing { cells, table, retired: Vec::new() }),
            publications: Mutex::new(Publications {
                alive: [Arc::new(first)].into(),
                routes: [Arc::new(fib)].into(),
                gone: Vec::new(),
            }),
            links,
        })
    }

    /// A panic while the lock is held leaves the list whole: it is changed by single pushes and pops.
    fn publications(&self) -> MutexGuard<'_, Publications> {
        self.publications.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a policy as if it came from an enemy, builds it and puts it in force. Returns its generation number as soon as
    /// workers can see it; [`Router::is_settled`] tells when all have.
    pub fn publish(&self, policy: Policy) -> Result<u64, String> {
        self.publish_at(crate::worker::now(), policy)
    }

    /// The same where another clock counts than this machine's: elements of sets begin now.
    pub fn publish_at(&self, now: u64, mut policy: Policy) -> Result<u64, String> {
        self.verify(&policy)?;
        let _changes = self.set_changes();
        // Elements live in the sets from now on: a generation keeps no second copy.
        let declared = std::mem::take(&mut policy.sets);
        let plan = self.sets.prepare(&declared, now)?;
        self.replace(policy, Keep::Counters, plan)
    }

    /// Sets all rule counters to zero.
    pub fn zero(&self) -> u64 {
        let _changes = self.set_changes();
        let plan = self.sets.unchanged();
        self.replace(self.current().policy.clone(), Keep::Nothing, plan).expect("it has all its cells already")
    }

    /// What control asks of sets, or does with them.
    pub fn answer_sets(&self, request: SetRequest, now: u64) -> Result<SetAnswer, String> {
        let _changes = self.set_changes();
        let alive: Vec<Arc<Generation>> = self.publications().alive.iter().cloned().collect();
        // The newest counts; one that some worker still runs keeps its sets too.
        let uses = |slot: u32| alive.iter().rev().find_map(|g| g.set_uses.get(&slot)).copied().unwrap_or(0);
        self.sets.answer(request, &uses, now)
    }

    fn set_changes(&self) -> MutexGuard<'_, ()> {
        self.set_changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verify(&self, policy: &Policy) -> Result<(), String> {
        let own: Vec<&str> = self.links.iter().map(|l| l.name.as_str()).collect();
        if own != policy.ports.iter().map(String::as_str).collect::<Vec<_>>() {
            return Err(format!(
                "the policy is for the ports {:?}, this router has {own:?}: restart sumun-dataplane with the same file",
                policy.ports
            ));
        }
        policy.verify()?;
        policy.ruleset.verify(self.links.len())
    }

    fn replace(&self, mut policy: Policy, keep: Keep, plan: Plan) -> Result<u64, String> {
        let set_uses = generation::place_sets(&mut policy.ruleset, &plan)?;
        self.contexts.number(&mut policy.ruleset)?;
        // A panic while a generation is built leaves cells that are taken and unused: no harm.
        let mut publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.reclaim(&mut publishing);
        let before = self.current();
        let number = before.number + 1;
        let (mut next, fresh) =
            Generation::build(number, policy, self.stats.len(), Some(&before), keep, &mut publishing.cells)?;
        next.set_uses = set_uses;
        // Before its rules: who runs them finds the sets.
        self.sets.commit(plan, number);
        for cell in fresh {
            self.cells[cell as usize].store(0, Ordering::Relaxed);
        }
        let counting = generation::count(&next.policy.ruleset, |test| matches!(test, Match::Connlimit(_)));
        if counting > 0 {
            self.conntrack.count_connections(counting);
        }
        if generation::does(&next.policy.ruleset, |target| matches!(target, Target::ConnSecMark(_))) {
            self.conntrack.keep_contexts();
        }
        let left = before.cells_left_by(&next);
        publishing.retired.push((number, left));
        if next.policy.routes_from == RoutesFrom::File {
            self.neighbours.set_static(&next.policy.neighbours, crate::worker::now());
        }
        let next = Arc::new(next);
        publishing.table.adopt(&next.policy);
        let fib = publishing.table.fib();
        let (fib, gone) = self.put(Some(next), fib);
        if before.number == 0 && self.conntrack.count() > 0 {
            // Flows of a router before this one: its addresses are not known, only which of them are here now.
            self.conntrack
                .forget_masqueraded(crate::worker::now(), |port, family, addr| !has(&fib, &(port, family, addr)));
        }
        self.forget(&gone);
        Ok(number)
    }

    /// Applies a batch of changes to what is mirrored from the kernel and puts the outcome in force; workers that sleep are to
    /// be woken. Changes that cannot be are left out, the others hold.
    pub fn routes(&self, changes: Vec<Change>) -> Applied {
        let mut publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.reclaim(&mut publishing);
        let left_out = publishing.table.apply(changes);
        let fib = publishing.table.fib();
        let (fib, gone) = self.put(None, fib);
        self.forget(&gone);
        Applied { number: fib.number(), left_out }
    }

    /// The routes behind a place, up to `most` of them, and where to go on if there are more.
    pub fn list_routes(&self, of: Selection, after: Option<Place>, most: usize) -> (Vec<Listed>, Option<Place>) {
        let publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        publishing.table.list(of, after, most)
    }

    /// Puts routes in force, and with them the generation that they came with. Returns them, and the addresses that ports no
    /// longer have. By the one who holds `publishing`.
    fn put(&self, generation: Option<Arc<Generation>>, fib: Fib) -> (Arc<Fib>, Vec<Address>) {
        let before = self.fib();
        let number = before.number() + 1;
        let gone: Vec<Address> = match fib.shares_addresses(&before) {
            true => Vec::new(),
            false => own(&before).filter(|address| !has(&fib, address)).collect(),
        };
        let fib = Arc::new(fib.numbered(number));
        let mut publications = self.publications();
        publications.routes.push_back(fib.clone());
        if !gone.is_empty() {
            publications.gone.push((number, gone.clone()));
        }
        // Release: a worker that sees a number finds what it is of in the list (which the lock orders anyway) and the zeroed
        // cells. Workers look into the lists under the lock, so that they get rules and routes together whichever number
        // they see first.
        if let Some(generation) = generation {
            self.newest.store(generation.number, Ordering::Release);
            publications.alive.push_back(generation);
        }
        self.newest_routes.store(number, Ordering::Release);
        // Workers take the lock on their way to what is new, and must not wait for a walk through all flows.
        drop(publications);
        (fib, gone)
    }

    /// Work that waits for the workers to reach what is in force; for a thread with time, now and then. Until then a worker
    /// may have masqueraded flows with addresses that are gone.
    pub fn settle(&self) {
        self.sets.settle(self.reached(), crate::worker::now());
        // Who publishes meanwhile does it himself.
        if let Ok(mut publishing) = self.publishing.try_lock() {
            self.reclaim(&mut publishing);
        }
        let mut publications = self.publications();
        if publications.gone.is_empty() {
            return;
        }
        let reached = self.reached_routes();
        let (due, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut publications.gone).into_iter().partition(|(number, _)| *number <= reached);
        publications.gone = waiting;
        let present = publications.routes.back().expect("never empty");
        let gone: Vec<Address> = due.into_iter().flat_map(|(_, gone)| gone).filter(|own| !has(present, own)).collect();
        drop(publications);
        self.forget(&gone);
    }

    /// Deletes the flows that were masqueraded with addresses that are gone. Without the lock: it takes its time.
    fn forget(&self, gone: &[Address]) {
        if !gone.is_empty() {
            self.conntrack
                .forget_masqueraded(crate::worker::now(), |port, family, addr| gone.contains(&(port, family, addr)));
        }
    }

    /// Frees what no worker can see any more.
    fn reclaim(&self, publishing: &mut Publishing) {
        let (reached, reached_routes) = (self.reached(), self.reached_routes());
        // A large ruleset takes a while to be freed: not under the lock that workers may wait for.
        let (mut outlived, mut outlived_routes) = (Vec::new(), Vec::new());
        let mut publications = self.publications();
        while publications.routes.len() > 1 && publications.routes[0].number() < reached_routes {
            outlived_routes.extend(publications.routes.pop_front());
        }
        while publications.alive.len() > 1 && publications.alive[0].number < reached {
            outlived.extend(publications.alive.pop_front());
        }
        drop(publications);
        drop((outlived, outlived_routes));
        let (gone, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut publishing.retired).into_iter().partition(|(number, _)| *number <= reached);
        publishing.retired = still;
        for (_, cells) in gone {
            publishing.cells.give(cells);
        }
    }

    /// The generation that every worker has reached.
    fn reached(&self) -> u64 {
        self.stats.iter().map(|s| s.generation.get()).min().unwrap_or(0)
    }

    /// The routes that every worker has reached.
    fn reached_routes(&self) -> u64 {
        self.stats.iter().map(|s| s.routes.get()).min().unwrap_or(0)
    }

    /// The newest generation's number; 0 is the initial policy.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// The number of the newest routes.
    #[inline]
    pub fn routes_number(&self) -> u64 {
        self.newest_routes.load(Ordering::Acquire)
    }

    /// Whether all workers run the newest generation and the newest routes.
    pub fn is_settled(&self) -> bool {
        self.reached() == self.generation() && self.reached_routes() == self.routes_number()
    }

    /// The newest generation.
    pub fn current(&self) -> Arc<Generation> {
        self.publications().alive.back().expect("never empty").clone()
    }

    /// The newest routes and own addresses.
    pub fn fib(&self) -> Arc<Fib> {
        self.publications().routes.back().expect("never empty").clone()
    }

    /// The generations after this one, oldest first, and the newest routes.
    pub(super) fn after(&self, number: u64) -> (Vec<Arc<Generation>>, Arc<Fib>) {
        let publications = self.publications();
        let generations = publications.alive.iter().filter(|g| g.number > number).cloned().collect();
        (generations, publications.routes.back().expect("never empty").clone())
    }

    /// What a new worker starts with: the oldest generation alive, so that it steps through the rest, and the oldest routes.
    pub(super) fn oldest(&self) -> Running {
        let publications = self.publications();
        Running {
            generation: publications.alive.front().expect("never empty").clone(),
            fib: publications.routes.front().expect("never empty").clone(),
        }
    }

    /// Counters of the newest generation, summed over workers.
    pub fn counters(&self) -> Counters {
        let generation = self.current();
        let sum = |slot: u32| total(generation.banks.iter().map(|bank| bank.slot(slot)));
        let families = Family::ALL.map(|family| {
            let program = generation.program(family);
            rule::Table::ALL.map(|table| {
                let chains = program.chains_of(table).iter();
                chains
                    .map(|chain| ChainCounters {
                        policy: sum(chain.slot),
                        rules: chain.rules.clone().map(|rule| sum(program.rule(rule).slot)).collect(),
                    })
                    .collect()
            })
        });
        Counters { families }
    }

    /// What was counted for each account of the newest generation.
    pub fn accounts(&self) -> Vec<AccountRow> {
        let generation = self.current();
        let row = |(number, object): (usize, &Object)| {
            let account = generation.objects.account(number as u32)?;
            let (packets, bytes) = account.counted();
            let quota = object.kind.get::<Limits>().and_then(|limits| limits.quota);
            Some(AccountRow { name: object.name.clone(), packets, bytes, quota, beyond: account.is_beyond() })
        };
        generation.policy.ruleset.objects.iter().enumerate().filter_map(row).collect()
    }

    /// Packets dropped, by reason, summed over workers.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let sum = |r: DropReason| self.stats.iter().map(|s| s.drops[r as usize].get()).sum();
        DropReason::ALL.iter().map(|r| (*r, sum(*r))).collect()
    }

    /// Frames received and sent by each port, summed over workers.
    pub fn port_traffic(&self) -> Vec<(Counter, Counter)> {
        let of = |i: usize| (total(self.stats.iter().map(|s| &s.rx[i])), total(self.stats.iter().map(|s| &s.tx[i])));
        (0..self.links.len()).map(of).collect()
    }
}

/// The addresses of ports.
fn own(fib: &Fib) -> impl Iterator<Item = Address> {
    fib.own_addresses().map(|&Own { port, family, addr, .. }| (port, family, addr))
}

fn has(fib: &Fib, (port, family, addr): &Address) -> bool {
    fib.is_own_on(*family, *addr, *port)
}

fn total<'a>(parts: impl Iterator<Item = &'a Traffic>) -> Counter {
    parts.fold(Counter::default(), |sum, part| Counter {
        packets: sum.packets + part.packets.get(),
        bytes: sum.bytes + part.bytes.get(),
    })
}

/// The policy before control has said anything.
fn nothing(appliance: &Appliance, links: &[Link]) -> Policy {
    Policy {
        ports: links.iter().map(|l| l.name.clone()).collect(),
        port_settings: vec![PortSettings::default(); links.len()],
        neighbours: Vec::new(),
        routes_from: Default::default(),
        vrfs: Vec::new(),
        routes: Vec::new(),
        rules: RoutingRule::defaults(),
        sysctl: Sysctl::default(),
        timeouts: Vec::new(),
        labels: Vec::new(),
        sets: Vec::new(),
        fingerprints: Vec::new(),
        accounts: Vec::new(),
        metrics: None,
        ruleset: Ruleset::empty(appliance.initial_policy),
    }
}
