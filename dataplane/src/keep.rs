//! Flows that outlive the process: where they are kept, and how the next process finds them.
//!
//! The lines of the flow table are in the file `flows` of the run directory, mapped into memory ([`crate::umem::shared`]), so they are
//! there however the process ends. Whoever starts holds the dataplane's lock, so the file's writer is dead. It reads the
//! file like any other, takes over what is sound (`conntrack::adopt`) into a new file, and only then puts the new one in the
//! old one's place. So a process that dies while it starts has taken nothing away.
//!
//! ```text
//! 0        8         12       16          24                       64 KiB - 64   64 KiB
//! | magic  | version | length | checksum  | Head (postcard) | zeros | heartbeat  | entries | private lines | cold lines |
//! ```
//!
//! Deadlines are on the monotonic clock, which goes on from process to process but not from boot to boot: the head names
//! the boot. They are 32 bits of milliseconds; a file whose heart has not beaten for half of what they can tell is too old.

use crate::conntrack::{Adopted, Conntrack, Lines, Remains};
use crate::umem::shared::{Mapping, Slab};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use sumun_config::facts::PortId;
use sumun_config::model::Appliance;

/// The file's name in the run directory.
pub const FILE: &str = "flows";

const MAGIC: [u8; 8] = *b"SUMUNFLW";
/// To be raised when what a line holds changes its meaning, though not its size.
const VERSION: u32 = 2;
/// Bytes before the lines.
const HEAD: usize = 1 << 16;
/// Where the heartbeat is.
const BEAT: usize = HEAD - 64;
/// Bytes before the head proper.
const PREFIX: usize = 24;
/// Longest pause of the heart: deadlines further apart cannot be told from the past.
const OLDEST: u64 = i32::MAX as u64 * 1_000_000;
/// Lines read at once.
const PIECE: usize = 4096;

/// What must be known to read the lines.
#[derive(Serialize, Deserialize)]
struct Head {
    /// Bytes of the three kinds of line.
    sizes: [u32; 3],
    /// How many there are of each.
    lines: u32,
    /// Which boot of the machine the clock belongs to.
    boot: String,
    /// The ports, whose numbers are in notes of MASQUERADE.
    ports: Vec<String>,
}

/// A flow table, and how it came about.
pub struct Opened {
    /// The table.
    pub conntrack: Conntrack,
    /// To be told when it is over that the process lives.
    pub heart: Heart,
    /// What became of the flows of the process before.
    pub adopted: Adopted,
    /// Why flows of before were lost.
    pub lost: Option<String>,
    /// Why these flows will be lost with the process.
    pub mortal: Option<String>,
    /// Bytes of the file that are in large pages; none where there is no file.
    pub large: Option<usize>,
}

/// Says in the file until when the process lived.
pub struct Heart(Option<Slab<AtomicU64>>);

impl Heart {
    /// To be called now and then; `now` is monotonic, in nanoseconds.
    pub fn beat(&self, now: u64) {
        if let Some(beat) = &self.0 {
            beat[0].store(now, Ordering::Relaxed);
        }
    }
}

/// The flow table of an appliance: with the flows of the process before where there are any, and kept for the next one
/// unless the appliance does not want that or the system refuses. `now` is monotonic, in nanoseconds.
pub fn open(appliance: &Appliance, seed: u64, now: u64) -> Opened {
    let path = appliance.run_dir.join(FILE);
    let boot =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|error| format!("which boot is it? {error}"));
    let table = Table {
        max_flows: appliance.max_flows,
        workers: appliance.cores.len().max(1),
        seed,
        now,
        ports: appliance.interfaces.iter().map(|interface| interface.name.clone()).collect(),
    };
    match boot {
        Ok(boot) if appliance.keep_flows => table.open(&path, boot.trim()),
        Ok(_) => {
            // What is not written on would be wrong when the setting changes again.
            let _ = fs::remove_file(&path);
            table.mortal(None, None)
        }
        Err(why) => {
            let _ = fs::remove_file(&path);
            table.mortal(None, Some(why))
        }
    }
}

/// What a table is made of.
struct Table {
    max_flows: u32,
    workers: usize,
    seed: u64,
    now: u64,
    ports: Vec<String>,
}

/// The flows of the process before, and its ports.
#[derive(Default)]
struct Before {
    flows: Vec<Remains>,
    ports: Vec<String>,
}

impl Table {
    fn open(&self, path: &Path, boot: &str) -> Opened {
        let (before, lost) = match read(path, boot, self.now) {
            Ok(before) => (before.unwrap_or_default(), None),
            Err(why) => (Before::default(), Some(why)),
        };
        let fresh = path.with_extension("new");
        // Two of them may be more than there is room for: then the old one, which has been read, goes first.
        let made = self.make(&fresh, boot).or_else(|_| {
            let _ = fs::remove_file(path);
            self.make(&fresh, boot)
        });
        match made {
            Ok((lines, heart, large)) => {
                let (conntrack, adopted) = self.adopt(lines, before);
                match fs::rename(&fresh, path) {
                    Ok(()) => Opened { conntrack, heart, adopted, lost, mortal: None, large },
                    Err(error) => {
                        let why = format!("cannot name {}: {error}", path.display());
                        Opened { conntrack, heart: Heart(None), adopted, lost, mortal: Some(why), large }
                    }
                }
            }
            Err(error) => {
                let _ = (fs::remove_file(&fresh), fs::remove_file(path));
                let why = format!("cannot reserve {} MB in {}: {error}", self.bytes() >> 20, path.display());
                Opened { lost, ..self.mortal(Some(before), Some(why)) }
            }
        }
    }

    /// On the heap.
    fn mortal(&self, before: Option<Before>, mortal: Option<String>) -> Opened {
        let lines = Lines::heap(Lines::needed(self.max_flows, self.workers) as usize);
        let (conntrack, adopted) = self.adopt(lines, before.unwrap_or_default());
        Opened { conntrack, heart: Heart(None), adopted, lost: None, mortal, large: None }
    }

    fn adopt(&self, lines: Lines, before: Before) -> (Conntrack, Adopted) {
        let Before { flows, ports } = before;
        let port = |old: PortId| {
            let name = ports.get(old.index()?)?;
            self.ports.iter().position(|port| port == name).map(|port| PortId(port as u16))
        };
        let now = (self.now / 1_000_000) as u32;
        Conntrack::adopting(lines, self.max_flows, self.workers, self.seed, flows, now, port)
    }

    /// Bytes of the file.
    fn bytes(&self) -> usize {
        HEAD + Lines::needed(self.max_flows, self.workers) as usize * Lines::EACH
    }

    fn make(&self, path: &Path, boot: &str) -> io::Result<(Lines, Heart, Option<usize>)> {
        let lines = Lines::needed(self.max_flows, self.workers);
        let mut mapping = Mapping::fresh(path, self.bytes())?;
        let head = Head { sizes: Lines::SIZES, lines, boot: boot.to_string(), ports: self.ports.clone() };
        mapping.file().write_all_at(&head.bytes()?, 0)?;
        mapping.skip(BEAT);
        let none = || io::Error::other("the file is too short");
        let heart = Heart(Some(mapping.cut(8).ok_or_else(none)?));
        heart.beat(self.now);
        let large = mapping.large().ok();
        Ok((Lines::mapped(&mut mapping, lines as usize).ok_or_else(none)?, heart, large))
    }
}

impl Head {
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let head = postcard::to_stdvec(self).map_err(io::Error::other)?;
        if PREFIX + head.len() > BEAT {
            return Err(io::Error::other("the names of the ports are too long"));
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((head.len() as u32).to_le_bytes());
        bytes.extend(checksum(&head).to_le_bytes());
        bytes.extend(head);
        Ok(bytes)
    }

    /// The head of a file and its heartbeat, or why it is none.
    fn read(file: &File) -> Result<(Head, u64), String> {
        let mut bytes = vec![0; HEAD];
        file.read_exact_at(&mut bytes, 0).map_err(|error| format!("its head cannot be read: {error}"))?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if bytes[..8] != MAGIC {
            return Err("it is not a file of flows".to_string());
        }
        let (version, length) = (word(8) as u32, (word(8) >> 32) as usize);
        if version != VERSION {
            return Err(format!("it has version {version} and this program writes version {VERSION}"));
        }
        let head = bytes[PREFIX..BEAT].get(..length).filter(|head| checksum(head) == word(16));
        let head = head.and_then(|head| postcard::from_bytes(head).ok()).ok_or("its head is damaged")?;
        Ok((head, word(BEAT)))
    }
}

/// FNV-1a: against damage, not against enemies.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The flows of the process before; none where there is no file. An error says why it cannot be used.
fn read(path: &Path, boot: &str, now: u64) -> Result<Option<Before>, String> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| error.to_string())?,
    };
    let (head, beat) = Head::read(&file)?;
    if head.sizes != Lines::SIZES {
        return Err("another release wrote it".to_string());
    }
    if head.boot != boot {
        return Err("the machine was started since".to_string());
    }
    if now.checked_sub(beat).is_none_or(|pause| pause > OLDEST) {
        return Err("it is of another time".to_string());
    }
    let expected = HEAD as u64 + u64::from(head.lines) * Lines::EACH as u64;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length != expected {
        return Err(format!("it has {length} bytes instead of {expected}"));
    }
    let flows = read_lines(&file, head.lines).map_err(|error| error.to_string())?;
    Ok(Some(Before { flows, ports: head.ports }))
}

/// All flows that are neither free nor unconfirmed nor dead.
fn read_lines(file: &File, lines: u32) -> io::Result<Vec<Remains>> {
    let all = lines as usize;
    let starts = [0, all * Lines::SIZES[0] as usize, all * (Lines::SIZES[0] + Lines::SIZES[1]) as usize];
    let mut pieces = Lines::SIZES.map(|size| vec![0u8; PIECE * size as usize]);
    let mut flows = Vec::new();
    for from in (0..all).step_by(PIECE) {
        let count = PIECE.min(all - from);
        for ((start, size), piece) in starts.iter().zip(Lines::SIZES).zip(&mut pieces) {
            let size = size as usize;
            file.read_exact_at(&mut piece[..count * size], (HEAD + start + from * size) as u64)?;
        }
        for i in 0..count {
            let [entry, private, cold] = std::array::from_fn(|kind| {
                let size = Lines::SIZES[kind] as usize;
                &pieces[kind][i * size..][..size]
            });
            flows.extend(Remains::read(entry, private, cold).filter(Remains::is_live));
        }
    }
    Ok(flows)
}

#[cfg(test)]
mod tests;
