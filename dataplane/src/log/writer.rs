//! Where lines go: datagrams to the syslog socket, or a file.
//!
//! Runs on the housekeeping thread and never waits: what cannot be written now is counted as lost. A syslog daemon that
//! was restarted and a file that was rotated away are found again.

use super::{LogEvent, line};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sumun_config::model::LogTo;

/// The socket that syslog daemons and journald listen on.
const SYSLOG: &str = "/dev/log";
/// Pause between attempts to reach what is away.
const RETRY: Duration = Duration::from_secs(1);

/// The log's end: one per process, owned by the housekeeping thread.
#[derive(Debug)]
pub struct Writer {
    to: Destination,
    retry_at: Option<Instant>,
    host: String,
    lost: u64,
}

#[derive(Debug)]
enum Destination {
    Syslog { path: PathBuf, socket: Option<UnixDatagram> },
    File { path: PathBuf, file: Option<File>, lines: Vec<u8>, count: u64 },
}

impl Writer {
    /// A writer to where the configuration says. Nothing is opened before the first line.
    pub fn new(to: &LogTo) -> Writer {
        match to {
            LogTo::Syslog => Writer::with(Destination::Syslog { path: SYSLOG.into(), socket: None }),
            LogTo::File(path) => {
                Writer::with(Destination::File { path: path.clone(), file: None, lines: Vec::new(), count: 0 })
            }
        }
    }

    fn with(to: Destination) -> Writer {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Writer { to, retry_at: None, host: host.unwrap_or_else(|| "localhost".into()), lost: 0 }
    }

    /// Lines that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes the line of an event. Call [`flush`](Writer::flush) after the last one of a batch.
    pub fn write(&mut self, event: &LogEvent, ports: &[String]) {
        let text = line(event, ports);
        match &mut self.to {
            Destination::Syslog { path, socket } => {
                // Facility kern is zero, so that the priority is the level.
                let message = format!("<{}>kernel: {text}", event.level);
                if !send(path, socket, &mut self.retry_at, message.as_bytes()) {
                    self.lost += 1;
                }
            }
            Destination::File { lines, count, .. } => {
                // Writing to a Vec cannot fail.
                let _ = writeln!(lines, "{} {} kernel: {text}", Timestamp(event.wall), self.host);
                *count += 1;
            }
        }
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) {
        let Destination::File { path, file, lines, count } = &mut self.to else { return };
        if lines.is_empty() {
            return;
        }
        if append(path, file, &mut self.retry_at, lines).is_err() {
            *file = None;
            self.lost += *count;
        }
        lines.clear();
        *count = 0;
    }
}

/// Whether it is time to try to open again; if so, the next attempt will be later.
fn is_due(retry_at: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    let due = retry_at.is_none_or(|at| at <= now);
    if due {
        *retry_at = Some(now + RETRY);
    }
    due
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn send(path: &Path, socket: &mut Option<UnixDatagram>, retry_at: &mut Option<Instant>, message: &[u8]) -> bool {
    if let Some(connected) = socket {
        match connected.send(message) {
            Ok(_) => return true,
            // The daemon is slow, not gone.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => {
                *socket = None;
                *retry_at = None;
            }
        }
    }
    if !is_due(retry_at) {
        return false;
    }
    *socket = connect(path).ok();
    socket.as_ref().is_some_and(|connected| connected.send(message).is_ok())
}

fn append(path: &Path, file: &mut Option<File>, retry_at: &mut Option<Instant>, lines: &[u8]) -> io::Result<()> {
    if let Some(open) = file.as_ref()
        && !is_same(open, path)
    {
        *file = None;
        *retry_at = None;
    }
    let open = match file {
        Some(open) => open,
        None if is_due(retry_at) => file.insert(OpenOptions::new().append(true).create(true).open(path)?),
        None => return Err(io::ErrorKind::NotFound.into()),
    };
    open.write_all(lines)
}

/// Whether the path still names the open file, or has been rotated away.
fn is_same(open: &File, path: &Path) -> bool {
    match (open.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Nanoseconds since 1970 as RFC 3339 in UTC with microseconds, as syslog files have it.
struct Timestamp(u64);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let micros = self.0 / 1000 % 1_000_000;
        let seconds = self.0 / 1_000_000_000;
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let (year, month, day) = civil(seconds / 86_400);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
    }
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years that start in March have their leap day last, so that the lengths of months follow one line.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_config::facts::{Facts, Family, PortId};
    use sumun_config::rule::targets::log::Log;

    fn event() -> LogEvent {
        let log = Log {
            level: 5,
            prefix: "refused: ".into(),
            tcp_sequence: false,
            tcp_options: false,
            ip_options: false,
            uid: false,
            macdecode: false,
        };
        LogEvent::new(&log, &Facts { oif: PortId(0), ..Facts::blank(Family::V4) }, &[], 1_000_000_000_123_456_789)
    }

    fn ports() -> Vec<String> {
        vec!["wan0".into()]
    }

    #[test]
    fn timestamps_are_right() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000+00:00"),
            (951_782_400, "2000-02-29T00:00:00.000000+00:00"),
            (1_000_000_000, "2001-09-09T01:46:40.000000+00:00"),
            (4_107_542_399, "2100-02-28T23:59:59.000000+00:00"),
            (4_107_542_400, "2100-03-01T00:00:00.000000+00:00"),
            (1_798_761_599, "2026-12-31T23:59:59.000000+00:00"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(Timestamp(seconds * 1_000_000_000).to_string(), expected);
        }
    }

    #[test]
    fn a_file_is_appended_to_and_found_again_after_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("firewall.log");
        let mut writer = Writer::new(&LogTo::File(path.clone()));
        writer.write(&event(), &ports());
        writer.write(&event(), &ports());
        writer.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected =
            format!("2001-09-09T01:46:40.123456+00:00 {} kernel: refused: IN= OUT=wan0 TRUNCATED\n", writer.host);
        assert_eq!(text, expected.repeat(2));
        std::fs::rename(&path, dir.path().join("firewall.log.1")).unwrap();
        writer.write(&event(), &ports());
        writer.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(writer.lost(), 0);
    }

    #[test]
    fn lines_for_a_file_that_cannot_be_opened_are_counted() {
        let mut writer = Writer::new(&LogTo::File("/nowhere/at/all".into()));
        for _ in 0..3 {
            writer.write(&event(), &ports());
        }
        writer.flush();
        assert_eq!(writer.lost(), 3);
    }

    #[test]
    fn syslog_gets_datagrams_and_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer::with(Destination::Syslog { path: path.clone(), socket: None });
        let received = |daemon: &UnixDatagram| {
            let mut bytes = [0; 256];
            let len = daemon.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..len].to_vec()).unwrap()
        };
        let expected = "<5>kernel: refused: IN= OUT=wan0 TRUNCATED";

        let daemon = UnixDatagram::bind(&path).unwrap();
        writer.write(&event(), &ports());
        assert_eq!(received(&daemon), expected);

        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        writer.write(&event(), &ports());
        assert_eq!(writer.lost(), 1);

        let daemon = UnixDatagram::bind(&path).unwrap();
        writer.retry_at = None;
        writer.write(&event(), &ports());
        assert_eq!(received(&daemon), expected);
        assert_eq!(writer.lost(), 1);
    }
}
