//! Who is asking: the connections over which the router shows itself.
//!
//! A fixed number of places, each with buffers of its own, so that memory is known beforehand. A place listens until a
//! connection comes; the request must be there in [`HEARING`], all be over in [`PATIENCE`]; then it listens again. Who finds no
//! place takes that of the connection that is closing or, of those that have not asked for anything in [`GRACE`], of the
//! oldest. So a client that says little by little what it wants, or nothing, keeps nobody out; a flood of SYNs does, and rules
//! for INPUT (`limit`, `connlimit`, SYNPROXY) keep it away.

use super::board::Board;
use super::http::{Answer, Extent, Heard, LONGEST_REQUEST, Page, Status, hear};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use smoltcp::wire::IpEndpoint;
use sumun_config::facts::PortId;

/// Connections at a time.
pub(super) const PLACES: usize = 64;
/// Bytes on their way to a client.
const ANSWER_BUFFER: usize = 8192;
/// How long a request may take to come.
const HEARING: u64 = 5_000_000_000;
/// How long a page may take to be made.
const MAKING: u64 = 5_000_000_000;
/// How long a connection may take as a whole.
const PATIENCE: u64 = 30_000_000_000;
/// How long a connection without a request has its place for itself.
const GRACE: u64 = 1_000_000_000;
/// Between two looks whether a page is there.
const LOOK: u64 = 5_000_000;

/// The places; one worker's.
pub(super) struct Desk {
    port: u16,
    places: Vec<Place>,
    refusals: Vec<Answer>,
}

struct Place {
    handle: SocketHandle,
    step: Step,
    /// When the connection began.
    since: u64,
    /// Where it came in.
    link: PortId,
}

/// How far a connection is.
enum Step {
    /// There is none.
    Listening,
    /// Its request comes.
    Hearing,
    /// The page that it asked for is made.
    Waiting { page: Page, extent: Extent, asked: u64 },
    /// The answer goes out from `at` on.
    Telling { answer: Answer, extent: Extent, at: usize },
    /// All was said.
    Closing,
}

impl Desk {
    /// Listens to a port.
    pub fn open(port: u16, sockets: &mut SocketSet<'static>) -> Desk {
        let place = |_| {
            let buffer = |len| SocketBuffer::new(vec![0; len]);
            let mut socket = Socket::new(buffer(LONGEST_REQUEST), buffer(ANSWER_BUFFER));
            socket.set_ack_delay(None);
            socket.set_nagle_enabled(false);
            socket.set_timeout(Some(Duration::from_micros(PATIENCE / 1000)));
            let handle = sockets.add(socket);
            Place { handle, step: Step::Closing, since: 0, link: PortId::NONE }
        };
        let mut desk = Desk {
            port,
            places: (0..PLACES).map(place).collect(),
            refusals: Status::ALL.map(Answer::refusal).to_vec(),
        };
        desk.reopen(sockets);
        desk
    }

    /// Forgets all connections.
    pub fn close(self, sockets: &mut SocketSet<'static>) {
        for place in self.places {
            sockets.remove(place.handle);
        }
    }

    /// The port that it listens to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets places whose connection is over listen again.
    pub fn reopen(&mut self, sockets: &mut SocketSet) {
        for place in &mut self.places {
            let socket = sockets.get_mut::<Socket>(place.handle);
            if socket.state() == State::Closed {
                place.listen(socket, self.port);
            }
        }
    }

    /// Makes a place for a new connection; false where there can be none now.
    pub fn make_room(&mut self, now: u64, sockets: &mut SocketSet) -> bool {
        let state = |place: &Place| sockets.get::<Socket>(place.handle).state();
        if self.places.iter().any(|place| state(place) == State::Listen) {
            return true;
        }
        let is_over = |place: &&mut Place| matches!(state(place), State::TimeWait | State::Closed | State::FinWait2);
        let is_idle = |place: &&mut Place| matches!(place.step, Step::Hearing) && place.since + GRACE <= now;
        let found = match self.places.iter_mut().find(is_over) {
            Some(place) => Some(place),
            None => self.places.iter_mut().filter(is_idle).min_by_key(|place| place.since),
        };
        let Some(place) = found else { return false };
        let socket = sockets.get_mut::<Socket>(place.handle);
        socket.abort();
        place.listen(socket, self.port);
        true
    }

    /// Notes a connection that the last packet opened, and on which link it came in, or one that it ended before it began.
    pub fn note(&mut self, now: u64, link: PortId, sockets: &SocketSet) {
        for place in &mut self.places {
            let listens = sockets.get::<Socket>(place.handle).state() == State::Listen;
            match place.step {
                Step::Listening if !listens => (place.step, place.since, place.link) = (Step::Hearing, now, link),
                Step::Listening => {}
                // A reset took it back to where it was.
                _ if listens => place.step = Step::Listening,
                _ => {}
            }
        }
    }

    /// The link of a connection with this client.
    pub fn link_of(&self, client: IpEndpoint, sockets: &SocketSet) -> PortId {
        let is_with = |place: &&Place| sockets.get::<Socket>(place.handle).remote_endpoint() == Some(client);
        self.places.iter().find(is_with).map_or(PortId::NONE, |place| place.link)
    }

    /// Takes every connection as far as it goes now; when it must be looked at again.
    pub fn serve(&mut self, now: u64, sockets: &mut SocketSet, board: &Board) -> Option<u64> {
        let mut next = None;
        for place in &mut self.places {
            let socket = sockets.get_mut::<Socket>(place.handle);
            let due = place.serve(now, socket, &self.refusals, board);
            next = due.into_iter().chain(next).min();
        }
        next
    }
}

impl Place {
    fn listen(&mut self, socket: &mut Socket, port: u16) {
        // It fails only for port 0 and for a socket that is open.
        let _ = socket.listen(port);
        self.step = Step::Listening;
    }

    /// One connection; when it must be looked at again.
    fn serve(&mut self, now: u64, socket: &mut Socket, refusals: &[Answer], board: &Board) -> Option<u64> {
        if matches!(self.step, Step::Listening) || !socket.is_open() {
            return None;
        }
        let end = self.since + PATIENCE;
        if now >= end {
            socket.abort();
            return None;
        }
        if let Step::Hearing = self.step
            && let Some(step) = hear_on(now, self.since, socket, refusals, board)
        {
            self.step = step;
        }
        if let Step::Waiting { page, extent, asked } = self.step {
            if let Some(answer) = board.page(page, asked) {
                board.answers[Status::Ok as usize].add(1);
                self.step = Step::Telling { answer, extent, at: 0 };
            } else if now >= asked + MAKING {
                self.step = refuse(Status::Unavailable, refusals, board);
            }
        }
        if let Step::Telling { answer, extent, at } = &mut self.step {
            let rest = answer.bytes(*extent).get(*at..).unwrap_or_default();
            *at += socket.send_slice(rest).unwrap_or(rest.len());
            if *at >= answer.bytes(*extent).len() {
                socket.close();
                self.step = Step::Closing;
            }
        }
        match &self.step {
            Step::Listening => None,
            Step::Hearing => Some(self.since + HEARING),
            Step::Waiting { .. } => Some(now + LOOK),
            // What more it says does not matter, but must not close its window.
            Step::Telling { .. } | Step::Closing => {
                let _ = socket.recv(|bytes| (bytes.len(), ()));
                Some(end)
            }
        }
    }
}

/// What follows from what a client has said so far; none while it says more.
fn hear_on(now: u64, since: u64, socket: &mut Socket, refusals: &[Answer], board: &Board) -> Option<Step> {
    let heard = hear(socket.peek(LONGEST_REQUEST).unwrap_or_default());
    match heard {
        Heard::Request(page, extent) => Some(Step::Waiting { page, extent, asked: now }),
        Heard::Refused(status) => Some(refuse(status, refusals, board)),
        Heard::Part if now >= since + HEARING && socket.state() == State::SynReceived => {
            socket.abort();
            Some(Step::Closing)
        }
        Heard::Part if now >= since + HEARING => Some(refuse(Status::Timeout, refusals, board)),
        // It has said all that it wanted to.
        Heard::Part if matches!(socket.state(), State::CloseWait) => {
            socket.close();
            Some(Step::Closing)
        }
        Heard::Part => None,
    }
}

fn refuse(status: Status, refusals: &[Answer], board: &Board) -> Step {
    board.answers[status as usize].add(1);
    Step::Telling { answer: refusals[status as usize].clone(), extent: Extent::Whole, at: 0 }
}
