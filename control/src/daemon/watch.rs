//! Notices that a file may have changed.
//!
//! Editors replace files, and configuration tools move symbolic links, so what is watched is the directory: of the path, and
//! of the file that it leads to. A burst of events is one change, told when there was a moment of quiet. Whether the text is
//! another one is for the reader to see.

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Without an event for so long, the writer is done.
const QUIET: Duration = Duration::from_millis(50);
/// But with events without end, do not wait longer.
const MOST: Duration = Duration::from_millis(500);

/// Changes of one file.
pub struct Changes {
    settled: mpsc::Receiver<()>,
    watcher: RecommendedWatcher,
    file: PathBuf,
    /// The directory of the path, and that of the file that it leads to.
    near: PathBuf,
    far: Option<PathBuf>,
}

impl Changes {
    /// Watches from now on. Must be called within a tokio runtime.
    pub fn of(file: &Path) -> notify::Result<Changes> {
        // Room for one is enough: an event that finds another one waiting adds nothing.
        let (tell, events) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_change(&event.kind)) {
                let _ = tell.try_send(());
            }
        })?;
        let near = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.canonicalize()?,
            _ => Path::new(".").canonicalize()?,
        };
        watcher.watch(&near, RecursiveMode::NonRecursive)?;
        let (tell, settled) = mpsc::channel(1);
        tokio::spawn(settle(events, tell));
        let mut changes = Changes { settled, watcher, file: file.to_path_buf(), near, far: None };
        changes.follow();
        Ok(changes)
    }

    /// Looks where the path leads now, and watches there. To be called after each change.
    pub fn follow(&mut self) {
        let real = self.file.canonicalize().ok();
        let far = real.and_then(|real| real.parent().map(Path::to_path_buf)).filter(|far| *far != self.near);
        if far == self.far {
            return;
        }
        if let Some(old) = self.far.take() {
            let _ = self.watcher.unwatch(&old);
        }
        // A directory that cannot be watched is tried again at the next change; SIGHUP works in any case.
        self.far = far.filter(|far| self.watcher.watch(far, RecursiveMode::NonRecursive).is_ok());
    }

    /// Returns at the next change. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) {
        if self.settled.recv().await.is_none() {
            // The watcher has died; SIGHUP still works.
            std::future::pending().await
        }
    }
}

/// Reading a file is an event as well, and control reads it after each one.
fn is_change(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}

async fn settle(mut events: mpsc::Receiver<()>, tell: mpsc::Sender<()>) {
    while events.recv().await.is_some() {
        let end = Instant::now() + MOST;
        while let Ok(Some(())) = timeout_at(end.min(Instant::now() + QUIET), events.recv()).await {}
        if let Err(mpsc::error::TrySendError::Closed(())) = tell.try_send(()) {
            return;
        }
    }
}
