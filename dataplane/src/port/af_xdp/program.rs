//! The XDP program on a device: loaded from the binary, attached for as long as the process lives, never longer.
//!
//! It is attached by a BPF link, in native mode as in generic mode. The kernel detaches it when the link's last file
//! descriptor is closed, so a process that is killed leaves nothing on the device. What can be found there is thus another
//! process's, or that of a run that ends at this moment, which is waited for.

#![allow(unsafe_code, reason = "libbpf's C interface: attaching in generic mode and asking what is attached")]

use super::device::Device;
use super::error::OpenError;
use super::live::{self, Aligned, Place, attach};
use libbpf_rs::query::{LinkInfoIter, LinkTypeInfo};
use libbpf_rs::{MapCore, MapFlags, MapHandle, ObjectBuilder, PrintLevel};
use nix::libc;
use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use sumun_config::model::Attach;

/// The name under which the kernel lists the program.
pub(super) const NAME: &str = "sumun_redirect";

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/redirect.bpf.o")));

/// How long a run that is just ending may take to let go of the device.
const LETTING_GO: Duration = Duration::from_secs(1);

/// How long frames of the device are at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Longest {
    /// They fit a frame of the UMEM.
    Frame,
    /// They may be longer: the program is one that takes them in pieces (`xdp.frags`), which not every driver has.
    Pieces,
}

/// Which frames the router wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// IP, ARP and what is tagged.
    Ip,
    /// All.
    All,
}

/// How the program is to be on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Sockets that there is to be room for.
    pub(super) queues: u32,
    /// Where it runs.
    pub(super) how: Attach,
    /// What it must take.
    pub(super) longest: Longest,
    /// What it gives the router.
    pub(super) wanted: Wanted,
}

/// The attached program.
pub(super) struct Program {
    sockets: MapHandle,
    /// Dropping it detaches.
    _link: OwnedFd,
    /// In the driver, not on skbs.
    pub(super) native: bool,
}

impl Program {
    /// Loads the program with room for `queues` sockets and attaches it.
    pub(super) fn attach(device: &Device, shape: Shape) -> Result<Program, OpenError> {
        let Shape { queues, how, longest, wanted } = shape;
        let Device { name: device, index, .. } = device;
        let (device, index) = (device.as_str(), *index);
        libbpf_rs::set_print(Some((
            PrintLevel::Info,
            |_, text| tracing::debug!(target: "libbpf", "{}", text.trim_end()),
        )));
        let failed = |error: libbpf_rs::Error| {
            let what = format!("{device}: loading the XDP program");
            match error.kind() {
                libbpf_rs::ErrorKind::PermissionDenied => OpenError::NotPermitted { what },
                _ => OpenError::System { what, source: io::Error::other(error.to_string()) },
            }
        };
        let mut object = ObjectBuilder::default().open_memory(&OBJECT.0).map_err(failed)?;
        for mut map in object.maps_mut() {
            match map.name() == OsStr::new("sockets") {
                true => map.set_max_entries(queues.max(1)).map_err(failed)?,
                // The one other is of constants: `all_frames`.
                false => map.set_initial_value(&[u8::from(wanted == Wanted::All)]).map_err(failed)?,
            }
        }
        if longest == Longest::Pieces {
            object.progs_mut().for_each(|mut program| program.set_flags(libbpf_sys::BPF_F_XDP_HAS_FRAGS));
        }
        let object = object.load().map_err(failed)?;
        let map = object.maps().find(|map| map.name() == OsStr::new("sockets")).expect("the map is in the object");
        let sockets = MapHandle::try_from(&map).map_err(failed)?;
        let program = live::program(&object, NAME).expect("the program is in the object");

        let native = || attach(program.as_fd(), index, Place::Native);
        let generic = || attach(program.as_fd(), index, Place::Generic);
        let deadline = Instant::now() + LETTING_GO;
        let (link, native) = loop {
            let tried = match how {
                Attach::Generic => generic().map(|link| (link, false)),
                Attach::Native => native().map(|link| (link, true)),
                Attach::Auto => match native() {
                    Err(error) if !is_taken(&error) && !is_forbidden(&error) => {
                        let attached = generic();
                        if attached.is_ok() {
                            tracing::warn!(
                                "{device}: no native XDP ({error}); attached in generic mode, which is slower"
                            );
                        }
                        attached.map(|link| (link, false))
                    }
                    answer => answer.map(|link| (link, true)),
                },
            };
            match tried {
                Ok(attached) => break attached,
                Err(error) if is_taken(&error) => match found(device, index) {
                    Some((name, refusal)) if name != NAME || Instant::now() >= deadline => return Err(refusal),
                    None if Instant::now() >= deadline => {
                        return Err(OpenError::system(format!("{device}: attaching the XDP program"), error));
                    }
                    _ => std::thread::sleep(Duration::from_millis(10)),
                },
                Err(source) if how == Attach::Native && !is_forbidden(&source) => {
                    return Err(OpenError::NotNative { device: device.into(), source });
                }
                Err(source) => return Err(OpenError::system(format!("{device}: attaching the XDP program"), source)),
            }
        };
        Ok(Program { sockets, _link: link, native })
    }

    /// Sends the frames of a queue to a socket from now on.
    pub(super) fn give(&self, queue: u32, socket: RawFd) -> Result<(), libbpf_rs::Error> {
        self.sockets.update(&queue.to_ne_bytes(), &socket.to_ne_bytes(), MapFlags::ANY)
    }
}

/// Another program, or one in the other mode, is attached.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// The program that is attached now: its name, and the refusal that tells of it.
pub(super) fn found(device: &str, index: u32) -> Option<(String, OpenError)> {
    let mut options =
        libbpf_sys::bpf_xdp_query_opts { sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as _, ..Default::default() };
    // SAFETY: the options live through the call and say their own size.
    if unsafe { libbpf_sys::bpf_xdp_query(index as i32, 0, &raw mut options) } < 0 {
        return None;
    }
    let id = [options.drv_prog_id, options.skb_prog_id, options.hw_prog_id, options.prog_id]
        .into_iter()
        .find(|id| *id != 0)?;
    let name = name_of(id).unwrap_or_else(|| "?".into());
    let by_link = LinkInfoIter::default()
        .any(|link| matches!(&link.info, LinkTypeInfo::Xdp(xdp) if xdp.ifindex == index) && link.prog_id == id);
    let remedy = if name == NAME {
        "another sumun-dataplane runs on this device: stop it".into()
    } else if by_link {
        "it ends with the process that holds its BPF link (`bpftool link` names it): stop that one".into()
    } else {
        let mode = if options.drv_prog_id == 0 && options.skb_prog_id == id { "xdpgeneric" } else { "xdp" };
        format!("to remove it: `ip link set dev {device} {mode} off`")
    };
    let refusal = OpenError::ProgramAttached { device: device.into(), program: format!("\"{name}\", id {id}"), remedy };
    Some((name, refusal))
}

/// The name of a loaded program.
fn name_of(id: u32) -> Option<String> {
    // SAFETY: a plain call; the descriptor that it returns is ours.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
    if fd < 0 {
        return None;
    }
    // SAFETY: just opened, nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: `len` is the size of `info`; both live through the call.
    if unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut len) } < 0 {
        return None;
    }
    // SAFETY: the kernel ends the name with a zero within the array, which was zeroed before.
    let name = unsafe { CStr::from_ptr(info.name.as_ptr()) };
    Some(name.to_string_lossy().into_owned())
}
