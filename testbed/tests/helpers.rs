//! FTP and TFTP between real servers and clients: through a filter that lets only what is related back, through
//! masquerade, and to a published server; active and passive, both families, files compared byte by byte.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Child, Stdio};
use sumun_testbed::router::wait;
use sumun_testbed::{Host, Lab, Router};

const FILTER: &str = r#"
[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-p tcp -m tcp --dport 21 -j ACCEPT",
  "-p udp -m udp --dport 69 -j ACCEPT",
]
"#;

const HELPERS: &str = r#"
[raw.PREROUTING]
rules = ["-p tcp -m tcp --dport 21 -j CT --helper ftp", "-p udp -m udp --dport 69 -j CT --helper tftp"]
"#;

const MASQUERADE: &str = r#"
[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]
"#;

const DNAT: &str = r#"
[ipv4.nat.PREROUTING]
rules = [
  "-d 203.0.113.2/32 -p tcp -m tcp --dport 21 -j DNAT --to-destination 192.168.1.12",
  "-d 203.0.113.2/32 -p udp -m udp --dport 69 -j DNAT --to-destination 192.168.1.12",
]
[ipv6.nat.PREROUTING]
rules = [
  "-d 2001:db8:2::2/128 -p tcp -m tcp --dport 21 -j DNAT --to-destination fd00:1::12",
  "-d 2001:db8:2::2/128 -p udp -m udp --dport 69 -j DNAT --to-destination fd00:1::12",
]
"#;

/// Debian's python3-pyftpdlib. It compares addresses as text, and those that the kernel's helper writes, and ours, are not in
/// the shortest form.
const FTP_SERVER: &str = r#"
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_anonymous(sys.argv[2], perm="elradfmwMT")
FTPHandler.permit_foreign_addresses = ":" in sys.argv[1]
FTPServer((sys.argv[1], 21), FTPHandler).serve_forever()
"#;

/// A program that ends with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Service {
    fn start(lab: &Lab, host: &Host, program: &str, args: &[&str]) -> Result<Service> {
        let log = std::fs::File::options().create(true).append(true).open(lab.path("services.log"))?;
        let mut command = host.command(program);
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Service(command.spawn().with_context(|| program.to_string())?))
    }
}

/// FTP and TFTP servers of both families on a host, with the files of a directory.
fn serve(lab: &Lab, host: &Host, addresses: [&str; 2], dir: &Path) -> Result<Vec<Service>> {
    let dir = dir.to_str().context("a path of text")?;
    let mut services = Vec::new();
    for address in addresses {
        let ftp = ["-c", FTP_SERVER, address, dir];
        services.push(Service::start(lab, host, "/usr/bin/python3", &ftp)?);
        let (family, at) = match address.contains(':') {
            true => ("-6", format!("[{address}]:69")),
            false => ("-4", format!("{address}:69")),
        };
        let tftp = ["-L", family, "-u", "root", "-c", "-s", "-a", &at, dir];
        services.push(Service::start(lab, host, "in.tftpd", &tftp)?);
    }
    wait("the servers", || {
        let sockets = host.run(&["ss", "-Hltun"])?;
        let count = |port: &str| {
            sockets.lines().filter(|line| line.split_whitespace().nth(4).is_some_and(|at| at.ends_with(port))).count()
        };
        Ok(count(":21") == 2 && count(":69") == 2)
    })
    .with_context(|| std::fs::read_to_string(lab.path("services.log")).unwrap_or_default())?;
    Ok(services)
}

/// `len` bytes in which no piece looks like another.
fn contents(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Ways to ask for a data connection, as options of curl.
fn forms(v6: bool) -> &'static [&'static [&'static str]] {
    const ALL: [&[&str]; 4] = [
        &["--disable-epsv", "--no-ftp-skip-pasv-ip"],
        &["--ftp-port", "-", "--disable-eprt"],
        &[],
        &["--ftp-port", "-"],
    ];
    if v6 { &ALL[2..] } else { &ALL }
}

fn url(scheme: &str, address: &str, file: &str) -> String {
    match address.contains(':') {
        true => format!("{scheme}://[{address}]/{file}"),
        false => format!("{scheme}://{address}/{file}"),
    }
}

/// curl on a host.
fn curl(host: &Host, args: &[&str]) -> Result<String> {
    let mut command = vec!["curl", "-sS", "-g", "--connect-timeout", "5", "--max-time", "15"];
    command.extend(args);
    host.run(&command)
}

/// Fetches and stores a file in every form.
fn exchange(lab: &Lab, client: &Host, address: &str, dir: &Path, size: usize) -> Result<()> {
    let [got, mine] = ["got", "mine"].map(|name| lab.path(name));
    let [got_text, mine_text] = [&got, &mine].map(|path| path.display().to_string());
    let mut seed = size as u32;
    let mut both = |scheme: &str, options: &[&str]| -> Result<()> {
        seed += 1;
        let what = format!("{scheme} {address} {options:?}");
        let bytes = contents(size, seed);
        std::fs::write(dir.join("theirs"), &bytes)?;
        let from = url(scheme, address, "theirs");
        curl(client, &[options, &["-o", &got_text, &from]].concat()).context(what.clone())?;
        ensure!(std::fs::read(&got)? == bytes, "{what}: other bytes were fetched");
        let bytes = contents(size, seed + 1000);
        std::fs::write(&mine, &bytes)?;
        // Servers refuse to store over another's file.
        let name = format!("stored-{}-{seed}-{}", client.name(), address.replace(':', "."));
        let to = url(scheme, address, &name);
        curl(client, &[options, &["-T", &mine_text, &to]].concat()).context(what.clone())?;
        wait("the stored file", || Ok(std::fs::read(dir.join(&name)).is_ok_and(|stored| stored.len() == size)))?;
        ensure!(std::fs::read(dir.join(&name))? == bytes, "{what}: other bytes were stored");
        Ok(())
    };
    for form in forms(address.contains(':')) {
        both("ftp", form)?;
    }
    both("tftp", &[])
}

/// A directory that servers may write to.
fn shared(lab: &Lab) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let dir = lab.path("files");
    std::fs::create_dir(&dir)?;
    for path in [lab.path("."), dir.clone()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    Ok(dir)
}

const OUTSIDE: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];
const PUBLIC: [&str; 2] = ["203.0.113.2", "2001:db8:2::2"];
const INSIDE: [&str; 2] = ["192.168.1.12", "fd00:1::12"];

#[test]
fn files_go_both_ways_through_a_filter_that_lets_only_related_flows_pass() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, &format!("{FILTER}{HELPERS}"))?;
    let dir = shared(&lab)?;
    let _servers = serve(&lab, &lab.server, OUTSIDE, &dir)?;
    for address in OUTSIDE {
        exchange(&lab, &lab.client1, address, &dir, 300_000)?;
    }
    assert_eq!(router.dropped("policy-drop")?, 0);
    Ok(())
}

#[test]
fn files_go_both_ways_through_masquerade_from_two_clients() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, &format!("{MASQUERADE}{FILTER}{HELPERS}"))?;
    // Nothing but the translation leads back.
    lab.server.ip("route del 192.168.1.0/24")?;
    lab.server.ip("route del fd00:1::/64")?;
    let dir = shared(&lab)?;
    let _servers = serve(&lab, &lab.server, OUTSIDE, &dir)?;
    for address in OUTSIDE {
        for client in [&lab.client1, &lab.client2] {
            exchange(&lab, client, address, &dir, 200_000)?;
        }
    }
    assert_eq!(router.dropped("policy-drop")?, 0);
    Ok(())
}

#[test]
fn files_go_both_ways_to_a_published_server() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, &format!("{DNAT}{FILTER}{HELPERS}"))?;
    // The client knows the public address only.
    lab.server.ip("route del 192.168.1.0/24")?;
    lab.server.ip("route del fd00:1::/64")?;
    let dir = shared(&lab)?;
    let _servers = serve(&lab, &lab.client2, INSIDE, &dir)?;
    for address in PUBLIC {
        exchange(&lab, &lab.server, address, &dir, 300_000)?;
    }
    assert_eq!(router.dropped("policy-drop")?, 0);
    Ok(())
}

#[test]
fn without_helpers_no_file_comes_through() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, FILTER)?;
    let dir = shared(&lab)?;
    let _servers = serve(&lab, &lab.server, OUTSIDE, &dir)?;
    std::fs::write(dir.join("theirs"), b"bytes")?;
    let impatient = ["--connect-timeout", "1", "--max-time", "2", "-o", "/dev/null"];
    for address in OUTSIDE {
        for form in forms(address.contains(':')) {
            let from = url("ftp", address, "theirs");
            assert!(
                curl(&lab.client1, &[form, &impatient[..], &[from.as_str()]].concat()).is_err(),
                "{address} {form:?}"
            );
        }
        assert!(curl(&lab.client1, &[&impatient[..], &[url("tftp", address, "theirs").as_str()]].concat()).is_err());
    }
    assert!(router.dropped("policy-drop")? > 0);
    Ok(())
}
