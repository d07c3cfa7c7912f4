//! Opening, refusing, closing, and being killed.

use super::rig::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use sumun_config::model::{Attach, CopyMode, Interface};
use sumun_dataplane::port::af_xdp::{self, Mode, OpenError, Plan};

#[test]
fn a_killed_router_leaves_no_program_to_send_with() {
    let site = Site::new("killtx", 1);
    let mut holder = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "hold_the_ports_until_killed", "--nocapture"])
        .env("SUMUN_PORTS_HOLD", site.name("r"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process");
    let mut lines = BufReader::new(holder.stdout.take().expect("its output")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("holding"))), "it holds the ports");
    let mut programs = Vec::new();
    for file in std::fs::read_dir(format!("/proc/{}/fdinfo", holder.id())).expect("its files").flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        programs.extend(text.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()));
    }
    let alive = || -> Vec<String> {
        let all = libbpf_rs::query::ProgInfoIter::default().filter(|program| programs.contains(&program.id));
        all.map(|program| program.name.to_string_lossy().into_owned()).collect()
    };
    assert!(alive().iter().any(|name| name == "sumun_xmit"), "{:?}", alive());
    assert!(!site.ip("r", &["link", "show", "lo"]).contains("xdp"), "nothing is on the loopback device");
    kill(Pid::from_raw(holder.id() as i32), Signal::SIGKILL).expect("killed");
    holder.wait().expect("ended");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !alive().is_empty() {
        assert!(Instant::now() < deadline, "{:?} stays", alive());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn auto_falls_back_to_generic_where_the_driver_refuses() {
    let site = Site::new("fallback", 1);
    // A bridge has no native XDP, and does not tell how many queues it has.
    site.ip("r", &["link", "add", "r2", "numrxqueues", "3", "numtxqueues", "3", "type", "bridge"]);
    site.ip("r", &["link", "set", "r2", "up"]);
    let opened = site.within("r", || open(&[interface("r2", Attach::Auto)], 1)).expect("opens");
    assert_eq!(opened.modes, [Mode { native: false, zero_copy: false, queues: 3, jumbo: false }]);
    drop(opened);
    let refused = site.within("r", || open(&[interface("r2", Attach::Native)], 1)).map(|_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::NotNative { .. }), "{refused}");
}

#[test]
fn nothing_stays_on_the_device_after_closing() {
    let site = Site::new("detach", 1);
    for attach in [Attach::Auto, Attach::Generic] {
        let running = site.bridge(attach, 1);
        assert!(site.ip("r", &["link", "show", "r0"]).contains("xdp"));
        running.stop();
        let mut after = site.ip("r", &["-d", "link", "show"]);
        let patience = Instant::now();
        // The kernel lets go of a socket's memberships with its last reference, which may be a moment later.
        while after.contains("allmulti 1") && patience.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
            after = site.ip("r", &["-d", "link", "show"]);
        }
        assert!(!after.contains("xdp") && !after.contains("allmulti 1"), "{after}");
    }
    // And what is half open when it fails is closed as well.
    site.ip("r", &["link", "set", "r1", "down"]);
    assert!(site.open(Attach::Auto, 1).is_err());
    assert!(!site.ip("r", &["link", "show"]).contains("xdp"));
}

#[test]
fn a_killed_router_leaves_nothing_behind_and_is_started_anew() {
    let site = Site::new("killed", 1);
    for _ in 0..3 {
        let mut holder = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "hold_the_ports_until_killed", "--nocapture"])
            .env("SUMUN_PORTS_HOLD", site.name("r"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let mut lines = BufReader::new(holder.stdout.take().expect("its output")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("holding"))), "it holds the ports");
        let refused = site.open(Attach::Auto, 1).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("another sumun-dataplane runs on this device"), "{refused}");
        kill(Pid::from_raw(holder.id() as i32), Signal::SIGKILL).expect("killed");
        holder.wait().expect("ended");
        let running = site.bridge(Attach::Auto, 1);
        assert_eq!(site.echo(100, 1), 100);
        running.stop();
    }
    assert!(!site.ip("r", &["link", "show"]).contains("xdp"));
}

#[test]
fn without_the_privilege_it_says_what_is_missing() {
    let site = Site::new("caps", 1);
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("ip")
        .args(["netns", "exec", &site.name("r"), "setpriv", "--bounding-set=-all", "--inh-caps=-all"])
        .arg(program)
        .args(["--exact", "hold_the_ports_until_killed", "--nocapture"])
        .env("SUMUN_PORTS_HOLD", "")
        .stdin(Stdio::null())
        .output()
        .expect("a second process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("refused: r0: loading the XDP program: not permitted: run as root"), "{said}");
}

#[test]
fn what_is_wrong_with_a_device_is_said_in_one_line() {
    let site = Site::new("errors", 1);
    let refused = |device: &str, change: &dyn Fn(&mut Interface)| {
        let mut interface = interface(device, Attach::Auto);
        change(&mut interface);
        let error = site.within("r", || open(&[interface], 1)).map(|_| ()).unwrap_err().to_string();
        assert!(!error.contains('\n') && error.starts_with(device), "{error}");
        error
    };
    let unchanged = |_: &mut Interface| {};
    assert!(refused("absent0", &unchanged).contains("no such device in this network namespace"));
    assert!(refused("a0", &unchanged).contains("no such device in this network namespace"));
    assert!(refused("a-name-that-is-too-long", &unchanged).contains("no such device"));
    site.ip("r", &["link", "set", "lo", "up"]);
    assert!(refused("lo", &unchanged).contains("not an Ethernet device"));
    site.ip("r", &["link", "set", "r0", "down"]);
    assert!(refused("r0", &unchanged).contains("ip link set dev r0 up"));
    site.ip("r", &["link", "set", "r0", "up"]);
    assert!(refused("r0", &|interface| interface.mtu = Some(1501)).contains("more than the device's own 1500"));
    assert!(refused("r0", &|interface| device_of(interface).ring = 500).contains("not a power of two"));
    assert!(
        refused("r0", &|interface| device_of(interface).copy = CopyMode::ZeroCopy)
            .contains("zero-copy is not possible")
    );
    site.ip("r", &["link", "set", "r0", "mtu", "9001"]);
    let error = refused("r0", &unchanged);
    assert!(error.contains("9001") && error.contains("ip link set dev r0 mtu 9000"), "{error}");
    site.ip("r", &["link", "set", "r0", "mtu", "1500"]);
    let few = site.within("r", || {
        af_xdp::open(Plan {
            interfaces: &ports(Attach::Auto),
            all_frames: &[],
            workers: 1,
            beside: 0,
            frames_per_worker: 64,
            frame_size: 2048,
        })
    });
    assert!(few.map(|_| ()).unwrap_err().to_string().contains("at least 128"));
}

#[test]
fn a_device_with_a_foreign_program_is_refused_with_the_way_out() {
    let site = Site::new("foreign", 1);
    let directory = tempfile::tempdir().expect("a directory");
    let (source, object) = (directory.path().join("pass.c"), directory.path().join("pass.o"));
    std::fs::write(&source, "__attribute__((section(\"xdp\"))) int foreign(void *ctx) { return 2; }").expect("written");
    run(&[
        "clang",
        "-O2",
        "-g",
        "-target",
        "bpf",
        "-c",
        source.to_str().expect("utf-8"),
        "-o",
        object.to_str().expect("utf-8"),
    ]);
    for mode in ["xdp", "xdpgeneric"] {
        site.ip("r", &["link", "set", "dev", "r0", mode, "obj", object.to_str().expect("utf-8"), "sec", "xdp"]);
        let error = site.open(Attach::Auto, 1).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("ip link set dev r0 {mode} off")), "{error}");
        site.ip("r", &["link", "set", "dev", "r0", mode, "off"]);
        site.open(Attach::Auto, 1).expect("opens now");
    }
}
