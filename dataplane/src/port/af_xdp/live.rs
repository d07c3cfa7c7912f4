//! Programs that send: one is run for frames that it writes itself, and is kept attached where no packet ever comes by.
//!
//! A program that is attached nowhere would be patched into the kernel's XDP dispatcher by every call and out of it again,
//! which waits for all CPUs: 10 to 30 ms. So it is attached, in generic mode, to the loopback device of a network namespace
//! that has nothing else in it, and that goes with the process like the link itself.

#![allow(unsafe_code, reason = "libbpf's C interface: running a program and attaching it in a given mode")]

use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Where a program runs on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the driver.
    Native,
    /// On skbs.
    Generic,
}

/// The ELF reader of libbpf wants its headers aligned.
#[repr(C, align(8))]
pub struct Aligned<T: ?Sized>(pub T);

/// Attaches a program to a device, by its index in this network namespace, for as long as the descriptor that is returned is
/// open: a BPF link. libbpf's own call for XDP has no flags, so it cannot ask for generic mode.
pub fn attach(program: BorrowedFd, index: u32, place: Place) -> io::Result<OwnedFd> {
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
        flags: match place {
            Place::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
            Place::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
        },
        ..Default::default()
    };
    let program = program.as_raw_fd();
    // SAFETY: the options live through the call and say their own size.
    let fd = unsafe { libbpf_sys::bpf_link_create(program, index as i32, libbpf_sys::BPF_XDP, &raw const options) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the call returned a descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A program's attachment where nothing is, and the namespace that it is in.
pub struct Parked {
    _link: OwnedFd,
    _namespace: File,
}

/// Attaches a program where no packet ever comes by.
pub fn park(program: BorrowedFd) -> io::Result<Parked> {
    std::thread::scope(|scope| {
        let parking = std::thread::Builder::new().name("xmit-park".into()).spawn_scoped(scope, move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let namespace = File::open("/proc/thread-self/ns/net")?;
            // The loopback device of a network namespace is always its first.
            let link = attach(program, 1, Place::Generic)?;
            Ok(Parked { _link: link, _namespace: namespace })
        })?;
        parking.join().unwrap_or_else(|_| Err(io::Error::other("the thread that attaches the program panicked")))
    })
}

/// Runs a program `count` times, each with a page of its own whose frame is `frame` at first; what it redirects leaves through
/// XDP. `batch` of them (at most 256) are handed to the device at a time.
///
/// # Errors
/// The kernel's. A signal ends the call between two batches (`EINTR`).
pub fn run(program: BorrowedFd, frame: &[u8], count: u32, batch: u32) -> io::Result<()> {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        repeat: count as i32,
        flags: libbpf_sys::BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..Default::default()
    };
    // SAFETY: the options live through the call, say their own size and point to as many readable bytes as they say.
    let answer = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(()) }
}

/// The descriptor of a loaded object's program, by its name.
pub fn program(object: &libbpf_rs::Object, name: &str) -> io::Result<OwnedFd> {
    let found = object.progs().find(|program| program.name() == std::ffi::OsStr::new(name));
    let program = found.ok_or_else(|| io::Error::other(format!("the object has no program {name}")))?;
    program.as_fd().try_clone_to_owned()
}
