//! Answers control on the Unix socket, beside the workers and without them: what does the router offer, who may ask, and
//! what happens with bytes that make no sense?
//!
//! One thread accepts and one thread serves each connection, one request after the other. What comes is decoded, checked
//! and then given to the [`Service`]; whatever cannot be decoded is answered with [`Response::Refused`] and leaves the
//! router as it was. Memory is bounded: at most [`MOST_CONNECTIONS`] peers, small requests, and one policy at a time.

use crate::protocol::AccountRow;
use crate::protocol::{
    self, ConntrackStats, Counters, Digest, Drops, FlowFilter, FlowKey, FlowRow, FrameError, Header, MirrorStatus,
};
use crate::protocol::{
    EventRow, ExpectationRow, Hello, Kind, NeighbourRow, ObjectRequest, PacketRow, PortStatus, Request, Response,
};
use crate::protocol::{RouteCounts, RoutesAnswer, RoutesRequest, Rules, SetAnswer, SetRequest, Status, TimerRow};
use crate::reason::DropReason;
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use sumun_config::model::{Appliance, Policy};

pub mod claim;
pub mod events;
pub mod ready;

use claim::{Claim, is_allowed};
use events::Subscription;

/// Connections served at a time.
pub const MOST_CONNECTIONS: usize = 32;
/// Flows in one page of [`Request::Conntrack`].
pub const FLOWS_PER_PAGE: usize = 8192;
/// How long a peer may take to send a payload that it has announced, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two answers to who listens to events while nothing happens.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// What the server needs of the router. Each may be called by any thread at any time.
pub trait Service: Send + Sync {
    /// What the router was started with.
    fn appliance(&self) -> &Appliance;
    /// Verifies, builds and stores a policy, and answers its generation; or says why not and changes nothing.
    fn publish(&self, policy: Policy) -> Result<u64, String>;
    /// The generation stored last.
    fn generation(&self) -> u64;
    /// Whether all workers run it.
    fn is_settled(&self) -> bool;
    /// Counters of the rules of the generation stored last.
    fn counters(&self) -> Counters;
    /// Sets them to zero.
    fn zero(&self);
    /// Packets dropped, by reason; what is missing is zero.
    fn drops(&self) -> Vec<(DropReason, u64)>;
    /// The ports in the order of the appliance.
    fn ports(&self) -> Vec<PortStatus>;
    /// How many flows there are.
    fn flow_count(&self) -> u32;
    /// How many were taken over from the dataplane before.
    fn adopted_flows(&self) -> u32;
    /// Bytes of the flow table.
    fn flow_memory(&self) -> u64;
    /// How many routes there are.
    fn route_counts(&self) -> RouteCounts {
        RouteCounts::default()
    }
    /// How the kernel's routes are followed, where they are.
    fn mirror(&self) -> Option<MirrorStatus> {
        None
    }
    /// Flows from the entry `from` on, out of up to `most` entries looked at, and the entry to go on with.
    fn flows(&self, filter: &FlowFilter, from: u32, most: usize) -> (Vec<FlowRow>, Option<u32>);
    /// One flow.
    fn flow(&self, key: &FlowKey) -> Option<FlowRow>;
    /// The same as [`Service::flows`], and they are deleted.
    fn delete_flows(&self, filter: &FlowFilter, from: u32, most: usize) -> (Vec<FlowRow>, Option<u32>);
    /// Deletes all flows; how many.
    fn flush_flows(&self) -> u64;
    /// The flows that are expected.
    fn expectations(&self) -> Vec<ExpectationRow>;
    /// Listens to what happens to flows, for these kinds of events (bits of [`protocol::EventKind`]); or says why not.
    fn subscribe(&self, filter: FlowFilter, kinds: u8) -> Result<Subscription<EventRow>, String>;
    /// Listens to the packets of NFLOG, of one group or of all; or says why not.
    fn subscribe_packets(&self, group: Option<u16>) -> Result<Subscription<PacketRow>, String>;
    /// What connection tracking counted.
    fn conntrack_stats(&self) -> ConntrackStats;
    /// All neighbours.
    fn neighbours(&self) -> Vec<NeighbourRow>;
    /// What is asked of sets, or done with them; or why not.
    fn sets(&self, request: SetRequest) -> Result<SetAnswer, String>;
    /// What is asked of routes; or why there is no answer.
    fn routes(&self, request: RoutesRequest) -> Result<RoutesAnswer, String>;
    /// What is asked of objects that rules share by name: lines for people; or why there are none.
    fn object(&self, ask: &ObjectRequest) -> Result<Vec<String>, String>;
    /// All timers of IDLETIMER.
    fn timers(&self) -> Vec<TimerRow>;
    /// What rules of `nfacct` counted.
    fn accounts(&self) -> Vec<AccountRow>;
}

/// A server that runs. Stops, closes its connections and removes its socket when dropped.
pub struct Server {
    shared: Arc<Shared>,
    claim: Claim,
    accept: Option<JoinHandle<()>>,
}

struct Shared {
    service: Arc<dyn Service>,
    started: Instant,
    stop: AtomicBool,
    /// The policy published last. Held while a policy is published, so that who asks sees policy and counters of one
    /// generation.
    published: Mutex<Option<Published>>,
    /// Held from the first byte of a policy to its answer: one in memory at a time.
    publishing: Mutex<()>,
    connections: Mutex<HashMap<u64, Connection>>,
}

struct Published {
    digest: Digest,
    payload: Vec<u8>,
    rules: u64,
}

struct Connection {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl Server {
    /// Serves on a socket that was claimed.
    pub fn start(claim: Claim, service: Arc<dyn Service>) -> io::Result<Server> {
        let shared = Arc::new(Shared {
            service,
            started: Instant::now(),
            stop: AtomicBool::new(false),
            published: Mutex::new(None),
            publishing: Mutex::new(()),
            connections: Mutex::new(HashMap::new()),
        });
        let listener = claim.listener().try_clone()?;
        let accept = thread::Builder::new().name("accept".to_string()).spawn({
            let shared = shared.clone();
            move || {
                let mut number = 0;
                while !shared.stop.load(Ordering::Acquire) {
                    match listener.accept() {
                        Ok((stream, _)) => shared.admit(stream, number),
                        // Out of descriptors or memory for the moment: do not spin.
                        Err(e) if e.kind() != io::ErrorKind::Interrupted => thread::sleep(Duration::from_millis(50)),
                        Err(_) => {}
                    }
                    number += 1;
                }
            }
        })?;
        Ok(Server { shared, claim, accept: Some(accept) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the accepting thread; it sees `stop` before it serves this connection.
        let woken = UnixStream::connect(self.claim.path()).is_ok();
        if let Some(accept) = self.accept.take().filter(|_| woken) {
            let _ = accept.join();
        }
        let connections: Vec<Connection> = lock(&self.shared.connections).drain().map(|(_, c)| c).collect();
        for Connection { stream, thread } in connections {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

/// A lock whose holder panicked guards nothing that could be half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn admit(self: &Arc<Shared>, mut stream: UnixStream, number: u64) {
        if self.stop.load(Ordering::Acquire) {
            return;
        }
        let _ = stream.set_write_timeout(Some(PATIENCE));
        if !is_allowed(&stream) {
            tracing::warn!("refused a connection of another user");
            let _ = answer(&mut stream, &refused("only root and the user of the dataplane may connect"));
            return;
        }
        let mut connections = lock(&self.connections);
        if connections.len() >= MOST_CONNECTIONS {
            let _ = answer(&mut stream, &refused("too many connections"));
            return;
        }
        let Ok(handle) = stream.try_clone() else { return };
        let shared = self.clone();
        let thread = thread::Builder::new().name(format!("control-{number}")).spawn(move || {
            if let Err(error) = shared.serve(&mut stream) {
                tracing::debug!(%error, "connection ended");
            }
            let _ = stream.shutdown(Shutdown::Both);
            lock(&shared.connections).remove(&number);
        });
        // The thread waits for this lock before it removes itself.
        match thread {
            Ok(thread) => drop(connections.insert(number, Connection { stream: handle, thread })),
            Err(error) => tracing::warn!(%error, "cannot serve a connection"),
        }
    }

    /// Answers requests until the peer closes or its frames cannot be told apart any more.
    fn serve(&self, stream: &mut UnixStream) -> Result<(), FrameError> {
        loop {
            stream.set_read_timeout(None)?;
            let header = match protocol::read_header(stream) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(()),
                Err(error @ FrameError::Io(_)) => return Err(error),
                Err(error) => {
                    let _ = answer(stream, &refused(&error.to_string()));
                    return Err(error);
                }
            };
            stream.set_read_timeout(Some(PATIENCE))?;
            match header.kind {
                Kind::Request => {
                    let payload = protocol::read_payload(stream, header)?;
                    let response = match protocol::decode(&payload) {
                        Ok(Request::Events { filter, kinds }) => match self.service.subscribe(filter, kinds) {
                            Ok(subscription) => {
                                let answer = |events, lost| Response::Events { events, lost };
                                return self.stream(stream, &subscription, answer);
                            }
                            Err(reason) => refused(&reason),
                        },
                        Ok(Request::Packets { group }) => match self.service.subscribe_packets(group) {
                            Ok(subscription) => {
                                let answer = |packets, lost| Response::Packets { packets, lost };
                                return self.stream(stream, &subscription, answer);
                            }
                            Err(reason) => refused(&reason),
                        },
                        Ok(request) => self.respond(request),
                        Err(error) => refused(&error.to_string()),
                    };
                    answer(stream, &response)?;
                }
                Kind::Publish => self.receive_policy(stream, header)?,
                Kind::Response => {
                    let error = FrameError::Unexpected(header.kind);
                    let _ = answer(stream, &refused(&error.to_string()));
                    return Err(error);
                }
            }
        }
    }

    /// Hands on events until the peer has closed. One that takes nothing any more is cut off.
    fn stream<E>(
        &self,
        stream: &mut UnixStream,
        subscription: &Subscription<E>,
        response: impl Fn(Vec<E>, u64) -> Response,
    ) -> Result<(), FrameError> {
        let (mut events, mut lost) = (Vec::new(), 0);
        while !self.stop.load(Ordering::Acquire) {
            answer(stream, &response(events, lost))?;
            (events, lost) = subscription.wait(HEARTBEAT);
        }
        Ok(())
    }

    fn receive_policy(&self, stream: &mut UnixStream, header: Header) -> Result<(), FrameError> {
        let _one = match self.publishing.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                io::copy(&mut stream.take(header.len as u64), &mut io::sink())?;
                return answer(stream, &refused("another policy is being published"));
            }
        };
        let payload = protocol::read_payload(stream, header)?;
        let response = match self.publish(payload) {
            Ok(generation) => Response::Accepted { generation },
            Err(reason) => refused(&reason),
        };
        answer(stream, &response)
    }

    fn publish(&self, payload: Vec<u8>) -> Result<u64, String> {
        let policy: Policy = protocol::decode(&payload).map_err(|error| error.to_string())?;
        let rules = count_rules(&policy);
        let mut published = lock(&self.published);
        let generation = self.service.publish(policy).inspect_err(|reason| tracing::warn!(reason, "policy refused"))?;
        tracing::info!(generation, rules, "policy accepted");
        *published = Some(Published { digest: Digest::of(&payload), payload, rules });
        Ok(generation)
    }

    fn respond(&self, request: Request) -> Response {
        let service = &self.service;
        match request {
            Request::Hello => {
                let published = lock(&self.published);
                Response::Hello(Box::new(Hello {
                    pid: std::process::id(),
                    generation: service.generation(),
                    digest: published.as_ref().map(|p| p.digest),
                    appliance: service.appliance().clone(),
                }))
            }
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Rules => {
                let published = lock(&self.published);
                Response::Rules(Box::new(Rules {
                    generation: service.generation(),
                    policy: published.as_ref().map(|p| p.payload.clone()),
                    counters: service.counters(),
                }))
            }
            Request::Zero => {
                service.zero();
                Response::Done
            }
            Request::Drops => {
                let counted: HashMap<DropReason, u64> = service.drops().into_iter().collect();
                let line = |&reason| Drops::of(reason, counted.get(&reason).copied().unwrap_or(0));
                Response::Drops(DropReason::ALL.iter().map(line).collect())
            }
            Request::Conntrack { filter, from } => page(from, |at| service.flows(&filter, at, FLOWS_PER_PAGE)),
            Request::Flow(key) => Response::Flows { flows: service.flow(&key).into_iter().collect(), next: None },
            Request::DeleteFlows { filter, from } => page(from, |at| service.delete_flows(&filter, at, FLOWS_PER_PAGE)),
            Request::FlushFlows => Response::Count(service.flush_flows()),
            Request::CountFlows(filter) => Response::Count(self.count(&filter)),
            // Is answered by a stream, before it comes here.
            Request::Events { .. } | Request::Packets { .. } => refused("events need a connection of their own"),
            Request::Expectations => Response::Expectations(service.expectations()),
            Request::ConntrackStats => Response::ConntrackStats(service.conntrack_stats()),
            Request::Neighbours => Response::Neighbours(service.neighbours()),
            Request::Sets(request) => match service.sets(request) {
                Ok(answer) => Response::Sets(answer),
                Err(reason) => refused(&reason),
            },
            Request::Routes(request) => service.routes(request).map_or_else(|why| refused(&why), Response::Routes),
            Request::Object(ask) => service.object(&ask).map_or_else(|why| refused(&why), Response::Lines),
            Request::Timers => Response::Timers(service.timers()),
            Request::Accounts => Response::Accounts(service.accounts()),
        }
    }

    fn status(&self) -> Status {
        let service = &self.service;
        let published = lock(&self.published).as_ref().map(|p| p.rules);
        let appliance = service.appliance();
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            generation: service.generation(),
            settled: service.is_settled(),
            published: published.is_some(),
            rules: published.unwrap_or(0),
            cores: appliance.cores.clone(),
            ports: service.ports(),
            flows: service.flow_count(),
            max_flows: appliance.max_flows,
            adopted_flows: service.adopted_flows(),
            flow_memory: service.flow_memory(),
            routes: service.route_counts(),
            mirror: service.mirror(),
            neighbours: service.neighbours().len() as u32,
        }
    }

    fn count(&self, filter: &FlowFilter) -> u64 {
        if *filter == FlowFilter::default() {
            return self.service.flow_count().into();
        }
        let (mut count, mut from) = (0, Some(0));
        while let Some(at) = from {
            let (some, next) = self.service.flows(filter, at, FLOWS_PER_PAGE);
            count += some.len() as u64;
            from = next.filter(|&next| next > at);
        }
        count
    }
}

/// Looks on until a page is full, so that a filter which few flows pass does not cost a round trip for each stretch of the
/// table. `part` gives what a stretch has and where to go on.
fn page(from: u32, part: impl Fn(u32) -> (Vec<FlowRow>, Option<u32>)) -> Response {
    let mut flows = Vec::new();
    let mut next = Some(from);
    while let Some(at) = next.filter(|_| flows.len() < FLOWS_PER_PAGE) {
        let (some, further) = part(at);
        flows.extend(some);
        // A table that did not get ahead would keep the peer here for ever.
        next = further.filter(|&further| further > at);
    }
    Response::Flows { flows, next }
}

fn refused(reason: &str) -> Response {
    Response::Refused { reason: reason.to_string() }
}

fn answer(stream: &mut UnixStream, response: &Response) -> Result<(), FrameError> {
    protocol::write_frame(stream, Kind::Response, &protocol::encode(response)?)
}

pub(crate) fn count_rules(policy: &Policy) -> u64 {
    let chains = policy.ruleset.families.iter().flat_map(|f| &f.tables).flat_map(|t| &t.chains);
    chains.map(|chain| chain.rules.len() as u64).sum()
}

#[cfg(test)]
mod tests;
