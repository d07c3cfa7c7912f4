//! The thread that follows the kernel.
//!
//! It goes into the TAPs' namespace for good. Events are told on one socket and dumps are read on another, so that events never
//! get between the parts of a dump: those that came meanwhile are taken in after it, and what they say a second time changes nothing.

mod beside;

use super::decode::Message;
use super::news::{Neighbour, NeighbourState, News, Reason};
use super::socket::{Failure, Netlink, get, group};
use super::view::{Follows, Learned, View};
use crate::engine::Router;
use crate::fib::{Change, LinkState};
use crate::worker::now;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use sumun_config::facts::{Family, PortId};
use sumun_config::model::RoutesFrom;

/// How long changes are collected, at most.
const COLLECT: Duration = Duration::from_millis(2);
/// Changes in one batch, at most.
const BATCH: usize = 1 << 16;
/// Between two looks at what no event tells, and the longest sleep.
const LOOK: Duration = Duration::from_secs(1);
/// From a doubt to the resynchronisation: daemons have more to say then.
const SETTLE: Duration = Duration::from_millis(100);
/// A resynchronisation that took so long is not begun again before so many times that.
const REST: u32 = 5;
/// Dumps that changed while they were read are read again so often.
const DUMPS: usize = 3;
/// After a failure: the first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What the thread works with.
pub struct Plan {
    /// The router, whose policy says what of the kernel counts.
    pub router: Arc<Router>,
    /// Wakes the workers.
    pub wake: Box<dyn Fn() + Send>,
    /// By port: its device, or that of its parent.
    pub devices: Vec<Option<String>>,
    /// Where the TAPs are, if there are any.
    pub host: Option<Place>,
}

/// A network namespace.
#[derive(Clone, Debug)]
pub enum Place {
    /// That of the process.
    Own,
    /// One of `ip netns`.
    Named(String),
}

/// What the mirror is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Routes come from the kernel.
    pub is_mirrored: bool,
    /// What is in force is what the kernel has.
    pub is_synchronised: bool,
    /// How often everything was read.
    pub synchronisations: u64,
    /// How long that took the last time.
    pub took: Duration,
    /// When something changed last.
    pub last_change: Option<SystemTime>,
    /// Routes and rules that the dataplane cannot do, by reason.
    pub left_out: BTreeMap<Reason, u64>,
    /// Changes that were refused since everything was read.
    pub refused: u64,
    /// What went wrong, where it is not in order.
    pub failure: Option<String>,
}

/// The running thread.
pub struct Mirror {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    bell: EventFd,
    stop: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Starts the thread.
pub fn start(plan: Plan) -> io::Result<Mirror> {
    let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let shared = Arc::new(Shared { bell, stop: AtomicBool::new(false), state: Mutex::default() });
    // A socket of the devices' namespace, which the thread leaves.
    let devices = Netlink::open(&[group::LINK])?;
    let own = shared.clone();
    let thread = std::thread::Builder::new().name("kernel".into()).spawn(move || {
        let follower = Follower {
            view: View::new(std::iter::empty(), Follows::Links),
            plan,
            shared: own,
            devices,
            down: BTreeSet::new(),
            put: HashSet::new(),
            sure: HashSet::new(),
            joined: HashMap::new(),
            said: HashSet::new(),
            static_neighbours: HashMap::new(),
            cost: Duration::ZERO,
            refused: 0,
        };
        follower.run();
    })?;
    Ok(Mirror { shared, thread: Some(thread) })
}

impl Mirror {
    /// There is a new policy.
    pub fn nudge(&self) {
        // It fails only when the counter is at its end, and then the thread is woken already.
        let _ = self.shared.bell.write(1);
    }

    /// What the mirror is like now.
    pub fn state(&self) -> State {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.nudge();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Follower {
    plan: Plan,
    shared: Arc<Shared>,
    view: View,
    devices: Netlink,
    /// Ports whose device is set down.
    down: BTreeSet<PortId>,
    /// Addresses that were put on TAPs: by device.
    put: HashSet<(u32, IpNet)>,
    /// Those of them that nothing has taken away since: a device that is set down loses its IPv6 addresses.
    sure: HashSet<(u32, IpNet)>,
    joined: HashMap<PortId, Vec<(Family, u128)>>,
    /// Reasons that were logged.
    said: HashSet<String>,
    static_neighbours: HashMap<(PortId, std::net::IpAddr), [u8; 6]>,
    /// What the last batch took.
    cost: Duration,
    refused: u64,
}

/// Why following ends without a failure.
enum End {
    Stop,
    /// Other things are to be followed.
    Changed,
}

impl Follower {
    fn run(mut self) {
        if let Err(error) = self.enter() {
            tracing::error!("routes and addresses of the host are not followed: {error}");
            self.shared.update(|state| state.failure = Some(error.to_string()));
            // Links of the devices still count.
            self.plan.host = None;
        }
        let mut pause = PAUSES.0;
        while !self.shared.is_stopping() {
            let begun = Instant::now();
            match self.session() {
                Ok(End::Stop) => return,
                Ok(End::Changed) => continue,
                Err(failure) => {
                    tracing::warn!(
                        "the kernel is not followed for the moment, and what is known stays in force: {failure}"
                    );
                    self.shared.update(|state| {
                        state.is_synchronised = false;
                        state.failure = Some(failure.to_string());
                    });
                }
            }
            if begun.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            self.sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn enter(&self) -> io::Result<()> {
        match &self.plan.host {
            Some(Place::Named(name)) => {
                let file = File::open(Path::new("/run/netns").join(name))?;
                setns(file, CloneFlags::CLONE_NEWNET)?;
                Ok(())
            }
            Some(Place::Own) | None => Ok(()),
        }
    }

    fn follows(&self) -> Follows {
        match self.plan.router.current().policy.routes_from {
            RoutesFrom::Kernel if self.plan.host.is_some() => Follows::Routes,
            _ => Follows::Links,
        }
    }

    /// Follows until something goes wrong.
    fn session(&mut self) -> Result<End, Failure> {
        let what = self.follows();
        let mut groups = vec![group::LINK];
        if what == Follows::Routes {
            groups.extend(group::ROUTING);
            groups.push(group::NEIGHBOUR);
        }
        groups.extend(group::MULTICAST);
        let mut events = Netlink::open(if self.plan.host.is_some() { &groups } else { &[] })?;
        let mut asks = Netlink::open(&[])?;
        let mut last = self.synchronise(&mut asks, what)?;
        // What happened before nobody has heard.
        self.sure.clear();
        self.dress(&mut asks);
        let (mut due, mut look): (Option<Instant>, _) = (None, Instant::now() + LOOK);
        loop {
            let now = Instant::now();
            let until = due.map_or(look, |due| due.min(look)).saturating_duration_since(now);
            let (bell, device_news, host_news) = self.wait(&events, until)?;
            if bell {
                let _ = self.shared.bell.read();
                if self.shared.is_stopping() {
                    return Ok(End::Stop);
                }
                if self.follows() != what {
                    return Ok(End::Changed);
                }
                self.dress(&mut asks);
            }
            if device_news {
                self.watch_devices()?;
            }
            if host_news {
                self.collect(&mut events)?;
            }
            if Instant::now() >= look || self.view.groups_changed() {
                look = Instant::now() + LOOK;
                self.look_at_groups();
            }
            self.publish();
            if host_news {
                self.dress(&mut asks);
            }
            if let Some(why) = self.view.doubt().filter(|_| what == Follows::Routes) {
                tracing::debug!("everything will be read again: {why}");
                due.get_or_insert(Instant::now().max(last.0 + REST * last.1) + SETTLE);
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                due = None;
                last = self.synchronise(&mut asks, what)?;
            }
        }
    }

    /// Waits: whether the bell was rung, and whether there is news of devices and of the host.
    fn wait(&self, events: &Netlink, most: Duration) -> Result<(bool, bool, bool), Failure> {
        let fd = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [fd(self.shared.bell.as_fd()), fd(self.devices.as_fd()), fd(events.as_fd())];
        let most = PollTimeout::try_from(most.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, most) {
            Ok(_) => {
                let is = |i: usize| fds[i].any().unwrap_or(true);
                Ok((is(0), is(1), is(2)))
            }
            Err(Errno::EINTR) => Ok((false, false, false)),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.shared.is_stopping() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.plan.router.links.iter().map(|link| link.name.as_str())
    }

    /// Reads everything and puts it in force in one piece. When it ended and how long it took.
    fn synchronise(&mut self, asks: &mut Netlink, what: Follows) -> Result<(Instant, Duration), Failure> {
        let begun = Instant::now();
        self.shared.update(|state| state.is_mirrored = what == Follows::Routes);
        self.look_at_devices()?;
        let mut view = None;
        for round in 0..DUMPS {
            let mut next = View::new(self.names(), what);
            match self.dump(asks, &mut next, what) {
                Ok(()) => {
                    view = Some(next);
                    break;
                }
                // What changes for ever is not worse than what was true a moment ago, and events tell the rest.
                Err(Failure::Interrupted) if round + 1 == DUMPS => view = Some(next),
                Err(Failure::Interrupted) => {}
                Err(failure) => return Err(failure),
            }
        }
        let mut view = view.unwrap_or_else(|| View::new(self.names(), what));
        for port in &self.down {
            view.device_is(*port, false);
        }
        view.doubt();
        let mut changes = view.changes();
        self.refused = 0;
        let neighbours = view.neighbours();
        self.view = view;
        self.joined.clear();
        if what == Follows::Routes {
            changes.insert(0, Change::Forget);
            self.static_neighbours.clear();
            for (port, learned) in &neighbours {
                if let Learned::Is(Neighbour { state: NeighbourState::Permanent, address, mac: Some(mac), .. }) =
                    learned
                {
                    self.static_neighbours.insert((*port, *address), *mac);
                }
            }
            self.tell_static();
            self.tell_neighbours(neighbours);
        }
        self.apply(changes);
        self.look_at_groups();
        self.publish();
        let took = begun.elapsed();
        self.shared.update(|state| {
            state.is_synchronised = true;
            state.synchronisations += 1;
            state.took = took;
            state.failure = None;
        });
        tracing::debug!(?took, "everything was read");
        Ok((Instant::now(), took))
    }

    fn dump(&self, asks: &mut Netlink, view: &mut View, what: Follows) -> Result<(), Failure> {
        if self.plan.host.is_none() {
            return Ok(());
        }
        asks.dump(get::LINKS, AddressFamily::Unspec, |news| view.take(news))?;
        if what == Follows::Links {
            return Ok(());
        }
        asks.dump(get::ADDRESSES, AddressFamily::Unspec, |news| view.take(news))?;
        match asks.dump(get::NEXTHOPS, AddressFamily::Unspec, |news| view.take(news)) {
            // Kernels before 5.3 have none.
            Err(Failure::System(error)) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {}
            result => result?,
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for kind in [get::RULES, get::ROUTES, get::NEIGHBOURS] {
                asks.dump(kind, family, |news| view.take(news))?;
            }
        }
        Ok(())
    }

    /// Takes in what the host's kernel tells.
    fn collect(&mut self, events: &mut Netlink) -> Result<(), Failure> {
        let begun = Instant::now();
        // Where batches are costly they are larger: they take half of the time at most.
        let most = COLLECT.max(self.cost.min(10 * COLLECT));
        while begun.elapsed() < most && self.view.waiting() < BATCH {
            let mut overrun = false;
            let (view, sure) = (&mut self.view, &mut self.sure);
            let more = events.take(|message| match message {
                Message::News(news) => {
                    // It may be up again by the time that all is taken in.
                    if let News::Link(link) = &news
                        && !link.is_up
                    {
                        sure.retain(|(index, net)| *index != link.index || net.addr().is_ipv4());
                    }
                    view.take(news);
                }
                Message::Overrun => overrun = true,
                Message::Unreadable(why) => tracing::debug!("a netlink message: {why}"),
                Message::Done | Message::Answer(_) => {}
            })?;
            if overrun {
                return Err(Failure::Overrun);
            }
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Puts in force what was told.
    fn publish(&mut self) {
        let neighbours = self.view.neighbours();
        let changes = self.view.changes();
        self.tell_neighbours(neighbours);
        self.apply(changes);
        self.note_left_out();
    }

    fn apply(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let begun = Instant::now();
        let router = &self.plan.router;
        let down: Vec<PortId> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Link { port, state: LinkState::Down } => Some(*port),
                _ => None,
            })
            .collect();
        let applied = router.routes(changes);
        (self.plan.wake)();
        for port in down {
            // `masq_device_event` on NETDEV_DOWN.
            router.conntrack.forget_masqueraded(now(), |on, _, _| on == port);
        }
        for (change, reason) in applied.left_out {
            // What goes may never have been there.
            let goes = matches!(
                change,
                Change::Remove(_) | Change::NoRule(_) | Change::NoNexthops { .. } | Change::NoAddress(_)
            );
            if !goes {
                self.refused += 1;
                self.say(format!("left out: {reason}"));
            }
        }
        self.cost = begun.elapsed();
        self.shared.update(|state| {
            state.refused = self.refused;
            state.last_change = Some(SystemTime::now());
        });
    }

    /// Tells what is left out.
    fn note_left_out(&mut self) {
        let left_out = self.view.left_out();
        for reason in left_out.keys() {
            self.say(format!("left out: {}", reason.text()));
        }
        self.shared.update(|state| state.left_out = left_out);
    }

    /// Logs something once.
    fn say(&mut self, what: String) {
        if self.said.len() < 256 && self.said.insert(what.clone()) {
            tracing::warn!("of the kernel's routes: {what} (said once)");
        }
    }
}
