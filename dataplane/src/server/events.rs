//! Who listens to what happens to flows, and what waits for each of them.
//!
//! One thread publishes; each listener's own thread waits and writes. What waits for a listener is bounded: whoever is too
//! slow misses events and is told how many.

use crate::protocol::{EventRow, FlowFilter};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Listeners at a time.
pub const MOST_LISTENERS: usize = 8;
/// Events that wait for one listener.
pub const WAITING: usize = 65_536;
/// Events in one answer.
const BATCH: usize = 4096;

/// All listeners. One for each router.
#[derive(Default)]
pub struct Hub {
    listeners: Mutex<Vec<Arc<Listener>>>,
}

struct Listener {
    filter: FlowFilter,
    kinds: u8,
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<EventRow>,
    lost: u64,
}

/// One listener's end; it stops listening when this is dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    listener: Arc<Listener>,
}

/// A lock whose holder panicked guards nothing that could be half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Another listener, for events of these kinds about these flows.
    ///
    /// # Errors
    /// There are too many already.
    pub fn subscribe(self: &Arc<Hub>, filter: FlowFilter, kinds: u8) -> Result<Subscription, String> {
        let mut listeners = lock(&self.listeners);
        if listeners.len() >= MOST_LISTENERS {
            return Err(format!("{MOST_LISTENERS} listen to events already"));
        }
        let listener = Arc::new(Listener { filter, kinds, waiting: Mutex::default(), ready: Condvar::new() });
        listeners.push(listener.clone());
        Ok(Subscription { hub: self.clone(), listener })
    }

    /// The kinds that somebody listens for.
    pub fn kinds(&self) -> u8 {
        lock(&self.listeners).iter().fold(0, |kinds, listener| kinds | listener.kinds)
    }

    /// Gives each listener what it listens for. `lost` events did not come this far.
    pub fn publish(&self, events: &[EventRow], lost: u64) {
        for listener in lock(&self.listeners).iter() {
            let mut waiting = lock(&listener.waiting);
            waiting.lost += lost;
            for event in events {
                if listener.kinds & event.what.bit() == 0 || !listener.filter.takes(&event.flow) {
                    continue;
                }
                match waiting.events.len() < WAITING {
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

impl Subscription {
    /// The next events, and how many were lost; nothing where nothing happened for as long as `most`.
    pub fn wait(&self, most: Duration) -> (Vec<EventRow>, u64) {
        let waiting = lock(&self.listener.waiting);
        let idle = |waiting: &mut Waiting| waiting.events.is_empty() && waiting.lost == 0;
        let (mut waiting, _) =
            self.listener.ready.wait_timeout_while(waiting, most, idle).unwrap_or_else(PoisonError::into_inner);
        let batch = waiting.events.len().min(BATCH);
        (waiting.events.drain(..batch).collect(), std::mem::take(&mut waiting.lost))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.hub.listeners).retain(|listener| !Arc::ptr_eq(listener, &self.listener));
    }
}
