//! What the local stacks of all workers and the thread that makes pages have in common.
//!
//! A status page is made when somebody has asked for one: a worker says so here ([`Board::page`]), and the housekeeping thread
//! looks ([`Board::is_due`]) and pins a new one ([`Board::pin`]), at most once a second. Connections are one worker's, the
//! first's; packets for them that come in elsewhere are left here for it. No worker ever waits: pages are swapped as a whole,
//! the queue is a ring, and pages that a connection still sends are freed by the thread that made them.

use super::http::{Answer, Page, Status};
use crate::engine::stats::Count;
use crate::reason::DropReason;
use arc_swap::ArcSwapOption;
use crossbeam_queue::ArrayQueue;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use sumun_config::facts::PortId;

/// How old a page may be, in nanoseconds.
pub const FRESH: u64 = 1_000_000_000;
/// Packets that may lie here.
const LETTERS: usize = 128;
/// Bytes that such a packet may have: requests are short.
const LETTER: usize = 2048;

/// One for each router.
#[derive(Debug)]
pub struct Board {
    pages: ArcSwapOption<Pages>,
    /// When a page was last asked for and none was fresh.
    asked: AtomicU64,
    /// Of workers other than the first; none where there are none.
    letters: Option<ArrayQueue<Letter>>,
    /// Pages that may still be sent.
    outdated: Mutex<Vec<Arc<Pages>>>,
    /// Answers given, by [`Status`].
    pub answers: [Count; Status::ALL.len()],
    /// Connections that found no place.
    pub turned_away: Count,
}

/// What the router shows of itself at one moment.
#[derive(Debug)]
pub struct Pages {
    /// When it was made.
    pub made: u64,
    /// For people.
    pub overview: Answer,
    /// For Prometheus.
    pub metrics: Answer,
}

/// A packet for another worker.
#[derive(Debug)]
struct Letter {
    port: PortId,
    len: usize,
    bytes: [u8; LETTER],
}

impl Board {
    /// An empty board for so many workers.
    pub fn new(workers: usize) -> Board {
        Board {
            pages: ArcSwapOption::empty(),
            asked: AtomicU64::new(0),
            letters: (workers > 1).then(|| ArrayQueue::new(LETTERS)),
            outdated: Mutex::default(),
            answers: Default::default(),
            turned_away: Count::default(),
        }
    }

    /// The page for who asked at `asked`, if there is one that is fresh.
    pub(super) fn page(&self, page: Page, asked: u64) -> Option<Answer> {
        let pages = self.pages.load();
        match pages.as_ref().filter(|pages| pages.made.saturating_add(FRESH) > asked) {
            Some(pages) => Some(match page {
                Page::Overview => pages.overview.clone(),
                Page::Metrics => pages.metrics.clone(),
            }),
            None => {
                self.asked.fetch_max(asked, Ordering::Relaxed);
                None
            }
        }
    }

    /// Whether somebody waits for a page.
    pub fn is_due(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        asked != 0 && self.pages.load().as_ref().is_none_or(|pages| pages.made.saturating_add(FRESH) <= asked)
    }

    /// Shows new pages; for one thread.
    pub fn pin(&self, pages: Pages) {
        let before = self.pages.swap(Some(Arc::new(pages)));
        let mut outdated = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
        outdated.extend(before);
        // What it is sent from is the answer's own bytes, which the last clone frees.
        outdated
            .retain(|pages| Arc::strong_count(pages) > 1 || pages.overview.is_shared() || pages.metrics.is_shared());
    }

    /// Leaves a packet, which `write` writes and whose length it says, for the first worker.
    pub(super) fn leave(
        &self,
        port: PortId,
        write: impl FnOnce(&mut [u8]) -> Result<usize, DropReason>,
    ) -> Result<(), DropReason> {
        let mut letter = Letter { port, len: 0, bytes: [0; LETTER] };
        letter.len = write(&mut letter.bytes)?;
        let letters = self.letters.as_ref().ok_or(DropReason::LocalQueue)?;
        letters.push(letter).map_err(|_| DropReason::LocalQueue)
    }

    /// Hands the oldest packet that was left, if there is one, to `read`.
    pub(super) fn take(&self, read: impl FnOnce(PortId, &[u8])) -> bool {
        let letter = self.letters.as_ref().and_then(ArrayQueue::pop);
        if let Some(letter) = &letter {
            read(letter.port, &letter.bytes[..letter.len]);
        }
        letter.is_some()
    }

    /// Whether packets lie here.
    pub(super) fn has_letters(&self) -> bool {
        self.letters.as_ref().is_some_and(|letters| !letters.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(made: u64) -> Pages {
        let answer = |body: &str| Answer::new(Status::Ok, "text/plain", body);
        Pages { made, overview: answer("overview"), metrics: answer("metrics") }
    }

    #[test]
    fn pages_are_made_for_who_asks_and_serve_a_second() {
        let board = Board::new(1);
        assert!(!board.is_due());
        assert!(board.page(Page::Overview, 5).is_none());
        assert!(board.is_due());
        board.pin(pages(10));
        assert!(!board.is_due());
        assert!(board.page(Page::Overview, 5).is_some());
        assert!(board.page(Page::Metrics, 9 + FRESH).is_some());
        assert!(!board.is_due());
        assert!(board.page(Page::Metrics, 10 + FRESH).is_none());
        assert!(board.is_due());
    }

    #[test]
    fn pages_that_are_being_sent_are_kept_until_they_are_sent() {
        let board = Board::new(1);
        board.pin(pages(1));
        let sent = board.page(Page::Metrics, 2);
        board.pin(pages(3));
        board.pin(pages(4));
        assert_eq!(board.outdated.lock().unwrap().len(), 1);
        drop(sent);
        board.pin(pages(5));
        assert_eq!(board.outdated.lock().unwrap().len(), 0);
    }

    #[test]
    fn letters_are_bounded_and_in_order() {
        let board = Board::new(2);
        let leave = |byte: u8| {
            board.leave(PortId(byte.into()), |bytes| {
                bytes[0] = byte;
                Ok(1)
            })
        };
        for byte in 0..LETTERS as u8 {
            assert_eq!(leave(byte), Ok(()));
        }
        assert_eq!(leave(0), Err(DropReason::LocalQueue));
        for byte in 0..LETTERS as u8 {
            assert!(board.take(|port, bytes| assert_eq!((port, bytes), (PortId(byte.into()), &[byte][..]))));
        }
        assert!(!board.take(|_, _| panic!("there is none")) && !board.has_letters());
        assert_eq!(Board::new(1).leave(PortId(0), |_| Ok(0)), Err(DropReason::LocalQueue));
    }
}
