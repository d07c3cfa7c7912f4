//! Recorded frames as a port: what `simulate` reads and writes.
//!
//! pcapng names its interfaces (`if_name`), and those names are port names. Classic pcap has no names: all its packets come
//! in on one port, which the caller names. Time stamps are nanoseconds since 1970, whatever resolution the file has.
//! A file is written as pcapng with nanosecond stamps, with one interface for each port, in their order, and a last one named
//! [`HOST`] for what was delivered locally.

use super::Port;
use crate::umem::{Frame, Pool};
use pcap_file::pcap::{PcapHeader, PcapReader};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, PcapError};
use std::borrow::Cow;
use std::io::{self, Cursor, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The interface for packets that the router itself received.
pub const HOST: &str = "host";

/// Longest packet that may stand in a file.
const SNAPLEN: u32 = 65535;

/// `if_tsresol` for nanoseconds.
const NANOSECONDS: u8 = 9;

/// What is wrong with a capture file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not what it should be.
    #[error("packet {packet}: {what}")]
    Format {
        /// Packets before the mistake.
        packet: u64,
        /// The mistake.
        what: String,
    },
    /// Not a capture file at all.
    #[error("neither pcapng nor pcap: it begins with {0:02x?}")]
    Foreign(Vec<u8>),
    /// The packets are not Ethernet frames.
    #[error("packet {packet}: link type {found:?} instead of Ethernet")]
    LinkType {
        /// Packets before this one.
        packet: u64,
        /// What they are.
        found: DataLink,
    },
    /// A classic pcap file names no interfaces.
    #[error(
        "this is a classic pcap file, which names no interfaces: say on which port its packets come in (--port NAME)"
    )]
    NoPort,
    /// An interface without a name.
    #[error(
        "packet {packet}: interface {interface} has no name (if_name): say on which port its packets come in (--port NAME)"
    )]
    NoName {
        /// Packets before this one.
        packet: u64,
        /// Its number in the file.
        interface: u32,
    },
}

/// One recorded frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// The name of the port that it came in on.
    pub port: String,
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Reads pcapng and classic pcap.
pub struct Reader<R: Read> {
    file: File<R>,
    port: Option<String>,
    /// By number in the current section.
    interfaces: Vec<Interface>,
    packets: u64,
}

/// A file with what was read of it to see which kind it is.
type Peeked<R> = io::Chain<Cursor<[u8; 4]>, R>;

enum File<R: Read> {
    Ng(PcapNgReader<Peeked<R>>),
    Classic(PcapReader<Peeked<R>>),
}

struct Interface {
    name: Option<String>,
    link: DataLink,
    /// Units of time in a second.
    per_second: u128,
    /// Seconds that are added.
    offset: u64,
}

impl<R: Read> Reader<R> {
    /// Opens a file of either kind. `port` names the port of packets whose interface has no name.
    pub fn new(mut file: R, port: Option<String>) -> Result<Reader<R>, FileError> {
        let mut magic = Vec::with_capacity(4);
        file.by_ref().take(4).read_to_end(&mut magic)?;
        let Ok(magic) = <[u8; 4]>::try_from(magic.as_slice()) else { return Err(FileError::Foreign(magic)) };
        let file = Cursor::new(magic).chain(file);
        let wrong = |error| wrong(0, error);
        let file = match magic {
            [0x0a, 0x0d, 0x0d, 0x0a] => File::Ng(PcapNgReader::new(file).map_err(wrong)?),
            // Micro- and nanoseconds, in either byte order.
            [0xa1, 0xb2, 0xc3, 0xd4]
            | [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d]
            | [0x4d, 0x3c, 0xb2, 0xa1] => {
                let reader = PcapReader::new(file).map_err(wrong)?;
                let PcapHeader { datalink, .. } = reader.header();
                if datalink != DataLink::ETHERNET {
                    return Err(FileError::LinkType { packet: 0, found: datalink });
                }
                if port.is_none() {
                    return Err(FileError::NoPort);
                }
                File::Classic(reader)
            }
            foreign => return Err(FileError::Foreign(foreign.to_vec())),
        };
        Ok(Reader { file, port, interfaces: Vec::new(), packets: 0 })
    }

    /// The next packet; none at the end of the file.
    pub fn next_packet(&mut self) -> Result<Option<Recorded>, FileError> {
        let Reader { file, port, interfaces, packets } = self;
        let before = *packets;
        let reader = match file {
            File::Classic(reader) => {
                let Some(packet) = reader.next_packet() else { return Ok(None) };
                let packet = packet.map_err(|error| wrong(before, error))?;
                *packets += 1;
                let time = u64::try_from(packet.timestamp.as_nanos()).unwrap_or(u64::MAX);
                let port = port.clone().ok_or(FileError::NoPort)?;
                return Ok(Some(Recorded { port, time, bytes: packet.data.into_owned() }));
            }
            File::Ng(reader) => reader,
        };
        loop {
            let Some(block) = reader.next_block() else { return Ok(None) };
            // A packet that says nothing of its interface is of the section's first, and of no known time.
            let (number, ticks, bytes) = match block.map_err(|error| wrong(before, error))? {
                Block::SectionHeader(_) => {
                    interfaces.clear();
                    continue;
                }
                Block::InterfaceDescription(description) => {
                    interfaces
                        .push(Interface::of(&description).map_err(|what| FileError::Format { packet: before, what })?);
                    continue;
                }
                // pcap-file takes the number for nanoseconds, whatever the interface's unit is: this is the bare number.
                Block::EnhancedPacket(packet) => {
                    (packet.interface_id, packet.timestamp.as_nanos(), packet.data.into_owned())
                }
                Block::SimplePacket(packet) => {
                    let length = packet.data.len().min(packet.original_len as usize);
                    (0, 0, packet.data[..length].to_vec())
                }
                _ => continue,
            };
            *packets += 1;
            let Some(interface) = interfaces.get(number as usize) else {
                let what = format!("interface {number} is not described");
                return Err(FileError::Format { packet: before, what });
            };
            if interface.link != DataLink::ETHERNET {
                return Err(FileError::LinkType { packet: before, found: interface.link });
            }
            let Some(port) = interface.name.clone().or_else(|| port.clone()) else {
                return Err(FileError::NoName { packet: before, interface: number });
            };
            return Ok(Some(Recorded { port, time: interface.time(ticks), bytes }));
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Recorded, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_packet().transpose()
    }
}

impl Interface {
    fn of(block: &InterfaceDescriptionBlock) -> Result<Interface, String> {
        let mut interface = Interface { name: None, link: block.linktype, per_second: 1_000_000, offset: 0 };
        for option in &block.options {
            match option {
                InterfaceDescriptionOption::IfName(name) => interface.name = Some(name.to_string()),
                InterfaceDescriptionOption::IfTsOffset(seconds) => interface.offset = *seconds,
                InterfaceDescriptionOption::IfTsResol(resolution) => {
                    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
                    let power = (resolution & 0x7f) as u32;
                    let per_second = base.checked_pow(power).filter(|units| *units <= u64::MAX as u128);
                    interface.per_second =
                        per_second.ok_or(format!("if_tsresol = {resolution} is finer than 2^-64 s"))?;
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    /// Nanoseconds since 1970 of a time stamp of this interface. The offset is a signed number of seconds.
    fn time(&self, ticks: u128) -> u64 {
        let nanoseconds = (ticks * 1_000_000_000 / self.per_second) as i128;
        let time = nanoseconds + (self.offset as i64) as i128 * 1_000_000_000;
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

/// Writes pcapng: an interface for each port, and [`HOST`].
pub struct Writer<W: Write> {
    file: PcapNgWriter<W>,
    ports: u32,
    packets: u64,
}

impl<W: Write> Writer<W> {
    /// Starts a file with these ports, by port number.
    pub fn new<S: AsRef<str>>(file: W, ports: &[S]) -> Result<Writer<W>, FileError> {
        let mut file = PcapNgWriter::new(file).map_err(|error| wrong(0, error))?;
        for name in ports.iter().map(S::as_ref).chain([HOST]) {
            let options = vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ];
            let block = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: SNAPLEN, options };
            file.write_block(&block.into_block()).map_err(|error| wrong(0, error))?;
        }
        Ok(Writer { file, ports: ports.len() as u32, packets: 0 })
    }

    /// Adds a frame that left on a port.
    pub fn sent(&mut self, port: usize, time: u64, bytes: &[u8]) -> Result<(), FileError> {
        self.write(port as u32, time, bytes)
    }

    /// Adds a frame that the router itself received.
    pub fn delivered(&mut self, time: u64, bytes: &[u8]) -> Result<(), FileError> {
        self.write(self.ports, time, bytes)
    }

    fn write(&mut self, interface_id: u32, time: u64, bytes: &[u8]) -> Result<(), FileError> {
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(time),
            original_len: bytes.len() as u32,
            data: Cow::Borrowed(bytes),
            options: Vec::new(),
        };
        self.file.write_block(&block.into_block()).map_err(|error| wrong(self.packets, error))?;
        self.packets += 1;
        Ok(())
    }

    /// Flushes the file and gives it back.
    pub fn finish(self) -> Result<W, FileError> {
        let mut file = self.file.into_inner();
        file.flush()?;
        Ok(file)
    }
}

/// Writes pcapng of bare IP packets, each with a comment.
pub struct Notes<W: Write> {
    file: PcapNgWriter<W>,
    packets: u64,
}

impl<W: Write> Notes<W> {
    /// Starts a file.
    pub fn new(file: W) -> Result<Notes<W>, FileError> {
        let mut file = PcapNgWriter::new(file).map_err(|error| wrong(0, error))?;
        let options = vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed("nflog")),
            InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
        ];
        let block = InterfaceDescriptionBlock { linktype: DataLink::RAW, snaplen: SNAPLEN, options };
        file.write_block(&block.into_block()).map_err(|error| wrong(0, error))?;
        Ok(Notes { file, packets: 0 })
    }

    /// Adds a packet of `len` bytes, or as much of it as there is.
    pub fn write(&mut self, time: u64, len: u32, bytes: &[u8], comment: &str) -> Result<(), FileError> {
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(time),
            original_len: len,
            data: Cow::Borrowed(bytes),
            options: vec![EnhancedPacketOption::Comment(Cow::Borrowed(comment))],
        };
        self.file.write_block(&block.into_block()).map_err(|error| wrong(self.packets, error))?;
        self.packets += 1;
        Ok(())
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) -> Result<(), FileError> {
        Ok(self.file.get_mut().flush()?)
    }
}

fn wrong(packet: u64, error: PcapError) -> FileError {
    match error {
        PcapError::IoError(error) if error.kind() != io::ErrorKind::UnexpectedEof => FileError::Io(error),
        PcapError::IoError(_) | PcapError::IncompleteBuffer => {
            FileError::Format { packet, what: "the file ends within a block".into() }
        }
        error => FileError::Format { packet, what: error.to_string() },
    }
}

/// Where the ports of a replay write what they send: one file for all of them.
pub struct Tape<W: Write> {
    writer: Writer<W>,
    /// Time stamp of what is written now.
    time: u64,
    /// The first thing that went wrong; after it nothing is written.
    failure: Option<FileError>,
}

impl<W: Write> Tape<W> {
    /// A tape over a file that was begun.
    pub fn new(writer: Writer<W>) -> Arc<Mutex<Tape<W>>> {
        Arc::new(Mutex::new(Tape { writer, time: 0, failure: None }))
    }

    /// Stamps what is written from now on.
    pub fn set_time(&mut self, time: u64) {
        self.time = time;
    }

    /// Adds a frame that the router itself received.
    pub fn delivered(&mut self, bytes: &[u8]) {
        let time = self.time;
        self.keep(|writer| writer.delivered(time, bytes));
    }

    /// Whether all went well so far.
    pub fn check(&mut self) -> Result<(), FileError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Flushes the file and gives it back.
    pub fn finish(mut self) -> Result<W, FileError> {
        self.check()?;
        self.writer.finish()
    }

    fn keep(&mut self, write: impl FnOnce(&mut Writer<W>) -> Result<(), FileError>) {
        if self.failure.is_none() {
            self.failure = write(&mut self.writer).err();
        }
    }
}

/// A port of a replay: receives the frame that was loaded into it, and writes what is sent to the tape.
pub struct PcapPort<W: Write> {
    number: usize,
    tape: Option<Arc<Mutex<Tape<W>>>>,
    loaded: Option<Vec<u8>>,
    /// Given for transmission, not yet written.
    leaving: Vec<Frame>,
    sent: usize,
}

impl<W: Write> PcapPort<W> {
    /// Port `number` of a replay; without a tape what it sends is only counted.
    pub fn new(number: usize, tape: Option<Arc<Mutex<Tape<W>>>>) -> PcapPort<W> {
        PcapPort { number, tape, loaded: None, leaving: Vec::new(), sent: 0 }
    }

    /// Puts a recorded frame where the next [`Port::receive`] finds it.
    pub fn load(&mut self, bytes: Vec<u8>) {
        self.loaded = Some(bytes);
    }

    /// Frames sent since the last call.
    pub fn take_sent(&mut self) -> usize {
        std::mem::take(&mut self.sent)
    }
}

impl<W: Write + Send> Port for PcapPort<W> {
    fn receive(&mut self, pool: &mut Pool, rx: &mut Vec<Frame>, most: usize) {
        let Some(bytes) = self.loaded.take_if(|_| most > 0) else { return };
        // A frame that is too long for the packet memory is no frame of this router: the caller sees that none came.
        match pool.take() {
            Some(mut frame) if bytes.len() <= frame.capacity() => {
                let _fits = frame.set(&bytes);
                rx.push(frame);
            }
            Some(frame) => pool.give(frame),
            None => {}
        }
    }

    fn transmit(&mut self, tx: &mut Vec<Frame>) {
        self.leaving.append(tx);
    }

    fn flush(&mut self, pool: &mut Pool) {
        let tape = self.tape.as_ref().map(|tape| tape.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(mut tape) = tape {
            let time = tape.time;
            for frame in &self.leaving {
                tape.keep(|writer| writer.sent(self.number, time, frame.bytes()));
            }
        }
        self.sent += self.leaving.len();
        self.leaving.drain(..).for_each(|frame| pool.give(frame));
    }

    fn lent(&self) -> usize {
        self.leaving.len()
    }

    fn wait_on(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn is_sending(&self) -> bool {
        !self.leaving.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::{PcapPacket, PcapWriter};
    use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;

    fn read(file: &[u8], port: Option<&str>) -> Result<Vec<Recorded>, FileError> {
        Reader::new(file, port.map(String::from))?.collect()
    }

    fn recorded(port: &str, time: u64, bytes: &[u8]) -> Recorded {
        Recorded { port: port.into(), time, bytes: bytes.into() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut writer = Writer::new(Vec::new(), &["lan0", "wan0"]).unwrap();
        writer.sent(1, 1_700_000_000_123_456_789, b"to the wan").unwrap();
        writer.sent(0, 1_700_000_000_123_456_790, b"to the lan").unwrap();
        writer.delivered(1_700_000_001_000_000_000, b"here").unwrap();
        let file = writer.finish().unwrap();
        assert_eq!(
            read(&file, None).unwrap(),
            [
                recorded("wan0", 1_700_000_000_123_456_789, b"to the wan"),
                recorded("lan0", 1_700_000_000_123_456_790, b"to the lan"),
                recorded("host", 1_700_000_001_000_000_000, b"here"),
            ]
        );
    }

    #[test]
    fn a_time_stamp_has_the_unit_of_its_interface() {
        // (if_tsresol, if_tsoffset, number in the file, nanoseconds)
        let cases = [
            (None, None, 1_500_000, 1_500_000_000),
            (Some(3), None, 1_500, 1_500_000_000),
            (Some(9), None, 1_500, 1_500),
            (Some(12), None, 1_500_000, 1_500),
            (Some(0x80 | 10), None, 512, 500_000_000),
            (Some(9), Some(3), 7, 3_000_000_007),
            (Some(0), Some(-2i64 as u64), 5, 3_000_000_000),
            (Some(0), Some(-9i64 as u64), 5, 0),
        ];
        for (resolution, offset, number, expected) in cases {
            let mut options = vec![InterfaceDescriptionOption::IfName("p".into())];
            options.extend(resolution.map(InterfaceDescriptionOption::IfTsResol));
            options.extend(offset.map(InterfaceDescriptionOption::IfTsOffset));
            let mut file = PcapNgWriter::new(Vec::new()).unwrap();
            let interface = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options };
            file.write_block(&interface.into_block()).unwrap();
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_nanos(number),
                original_len: 1,
                data: Cow::Borrowed(b"x"),
                options: Vec::new(),
            };
            file.write_block(&packet.into_block()).unwrap();
            let read = read(&file.into_inner(), None).unwrap();
            assert_eq!(read, [recorded("p", expected, b"x")], "{resolution:?} {offset:?}");
        }
    }

    #[test]
    fn classic_pcap_needs_a_port_and_takes_it() {
        let mut file = PcapWriter::new(Vec::new()).unwrap();
        file.write_packet(&PcapPacket::new(Duration::new(7, 8000), 3, b"abc")).unwrap();
        let file = file.into_writer();
        assert!(matches!(read(&file, None), Err(FileError::NoPort)));
        assert_eq!(read(&file, Some("lan0")).unwrap(), [recorded("lan0", 7_000_008_000, b"abc")]);
    }

    #[test]
    fn a_packet_without_a_port_is_refused_by_its_number() {
        let mut file = PcapNgWriter::new(Vec::new()).unwrap();
        let packet = || SimplePacketBlock { original_len: 2, data: Cow::Borrowed(b"ab") };
        file.write_block(&packet().into_block()).unwrap();
        let error = read(&file.into_inner(), None).unwrap_err().to_string();
        assert_eq!(error, "packet 0: interface 0 is not described");

        let mut file = PcapNgWriter::new(Vec::new()).unwrap();
        file.write_block(&InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0).into_block()).unwrap();
        file.write_block(&packet().into_block()).unwrap();
        let file = file.into_inner();
        assert!(matches!(read(&file, None), Err(FileError::NoName { packet: 0, interface: 0 })));
        assert_eq!(read(&file, Some("p")).unwrap(), [recorded("p", 0, b"ab")]);

        let mut file = PcapNgWriter::new(Vec::new()).unwrap();
        file.write_block(&InterfaceDescriptionBlock::new(DataLink::LINUX_SLL, 0).into_block()).unwrap();
        file.write_block(&packet().into_block()).unwrap();
        assert!(matches!(read(&file.into_inner(), Some("p")), Err(FileError::LinkType { packet: 0, .. })));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_panic() {
        let mut writer = Writer::new(Vec::new(), &["p"]).unwrap();
        writer.sent(0, 1, &[7; 60]).unwrap();
        let whole = writer.finish().unwrap();
        for length in 0..whole.len() {
            let _ = read(&whole[..length], None);
        }
        for place in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[place] = byte;
                let _ = read(&damaged, None);
            }
        }
    }
}
