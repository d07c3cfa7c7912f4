//! Who listens to what happens (to flows, to packets of NFLOG), and what waits for each of them.
//!
//! One thread publishes; each listener's own thread waits and writes. What waits for a listener is bounded: whoever is too
//! slow misses events and is told how many.

use crate::protocol::{EventRow, FlowFilter, PacketRow};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Listeners at a time.
pub const MOST_LISTENERS: usize = 8;
/// Events of flows that wait for one listener.
pub const WAITING: usize = 65_536;
/// Packets that wait for one listener.
pub const WAITING_PACKETS: usize = 8192;
/// Events in one answer.
const BATCH: usize = 4096;

/// All listeners to one kind of event. One for each router.
pub struct Hub<E> {
    listeners: Mutex<Vec<Arc<Listener<E>>>>,
    /// Events that wait for one listener.
    most: usize,
}

/// Whether a listener wants an event.
pub type Interest<E> = Box<dyn Fn(&E) -> bool + Send + Sync>;

struct Listener<E> {
    takes: Interest<E>,
    kinds: u8,
    waiting: Mutex<Waiting<E>>,
    ready: Condvar,
}

struct Waiting<E> {
    events: VecDeque<E>,
    lost: u64,
}

/// One listener's end; it stops listening when this is dropped.
pub struct Subscription<E> {
    hub: Arc<Hub<E>>,
    listener: Arc<Listener<E>>,
}

/// A lock whose holder panicked guards nothing that could be half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Clone> Hub<E> {
    /// Nobody listens yet; so many events may wait for each listener.
    pub fn new(most: usize) -> Arc<Hub<E>> {
        Arc::new(Hub { listeners: Mutex::default(), most })
    }

    /// Another listener, for events of these kinds (bits) that it takes.
    ///
    /// # Errors
    /// There are too many already.
    pub fn subscribe(self: &Arc<Self>, takes: Interest<E>, kinds: u8) -> Result<Subscription<E>, String> {
        let mut listeners = lock(&self.listeners);
        if listeners.len() >= MOST_LISTENERS {
            return Err(format!("{MOST_LISTENERS} listen to events already"));
        }
        let waiting = Mutex::new(Waiting { events: VecDeque::new(), lost: 0 });
        let listener = Arc::new(Listener { takes, kinds, waiting, ready: Condvar::new() });
        listeners.push(listener.clone());
        Ok(Subscription { hub: self.clone(), listener })
    }

    /// The kinds that somebody listens for.
    pub fn kinds(&self) -> u8 {
        lock(&self.listeners).iter().fold(0, |kinds, listener| kinds | listener.kinds)
    }

    /// Gives each listener what it listens for. `lost` events did not come this far.
    pub fn publish(&self, events: &[E], lost: u64) {
        for listener in lock(&self.listeners).iter() {
            let mut waiting = lock(&listener.waiting);
            waiting.lost += lost;
            for event in events.iter().filter(|event| (listener.takes)(event)) {
                match waiting.events.len() < self.most {
                    true => waiting.events.push_back(event.clone()),
                    false => waiting.lost += 1,
                }
            }
            if !waiting.events.is_empty() || waiting.lost > 0 {
                listener.ready.notify_one();
            }
        }
    }
}

impl Hub<EventRow> {
    /// Another listener, for events of these kinds about these flows.
    ///
    /// # Errors
    /// There are too many already.
    pub fn subscribe_flows(self: &Arc<Self>, filter: FlowFilter, kinds: u8) -> Result<Subscription<EventRow>, String> {
        let takes = move |event: &EventRow| kinds & event.what.bit() != 0 && filter.takes(&event.flow);
        self.subscribe(Box::new(takes), kinds)
    }
}

impl Hub<PacketRow> {
    /// Another listener, for packets of one group or of all.
    ///
    /// # Errors
    /// There are too many already.
    pub fn subscribe_group(self: &Arc<Self>, group: Option<u16>) -> Result<Subscription<PacketRow>, String> {
        self.subscribe(Box::new(move |packet| group.is_none_or(|group| group == packet.group)), 1)
    }
}

impl<E> Subscription<E> {
    /// The next events, and how many were lost; nothing where nothing happened for as long as `most`.
    pub fn wait(&self, most: Duration) -> (Vec<E>, u64) {
        let waiting = lock(&self.listener.waiting);
        let idle = |waiting: &mut Waiting<E>| waiting.events.is_empty() && waiting.lost == 0;
        let (mut waiting, _) =
            self.listener.ready.wait_timeout_while(waiting, most, idle).unwrap_or_else(PoisonError::into_inner);
        let batch = waiting.events.len().min(BATCH);
        (waiting.events.drain(..batch).collect(), std::mem::take(&mut waiting.lost))
    }
}

impl<E> Drop for Subscription<E> {
    fn drop(&mut self) {
        lock(&self.hub.listeners).retain(|listener| !Arc::ptr_eq(listener, &self.listener));
    }
}
