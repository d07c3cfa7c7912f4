//! The status page and the metrics, asked for by real clients over real devices.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use sumun_testbed::router::{INTERFACES, head, wait};
use sumun_testbed::{Host, Lab, Router};

const SHOWN: &str = r#"
[metrics]
port = 9100

[filter.INPUT]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-p ipv6-icmp -j ACCEPT",
  "-i lan0 -p tcp --dport 9100 -j ACCEPT",
]
"#;

const LAN: [&str; 2] = ["192.168.1.1:9100", "[fd00:1::1]:9100"];

/// What curl gets, with the status in front.
fn curl(host: &Host, args: &[&str]) -> Result<String> {
    let all = [&["curl", "-sS", "-g", "-m", "5", "-w", "\n%{http_code}"][..], args].concat();
    host.run(&all)
}

/// The value of a sample in the metrics that a client gets.
fn metric(host: &Host, sample: &str) -> Result<u64> {
    let text = curl(host, &[&format!("http://{}/metrics", LAN[0])])?;
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.with_context(|| format!("no {sample} in {text}"))?.parse().context(sample.to_string())
}

/// What the router says on a connection until it closes it.
fn raw(host: &Host, said: &[u8]) -> Result<String> {
    let address: SocketAddr = LAN[0].parse()?;
    host.inside(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(said)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

#[test]
fn the_router_shows_itself_to_who_may_ask() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, SHOWN)?;
    for address in LAN {
        let page = curl(&lab.client1, &[&format!("http://{address}/")])?;
        ensure!(
            page.ends_with("\n200") && page.contains("<td class=t>lan0<td class=t>lan0<td class=t>native"),
            "{page}"
        );
        let page = curl(&lab.client1, &[&format!("http://{address}/metrics")])?;
        ensure!(page.ends_with("\n200") && page.contains("\nsumun_generation 1\n"), "{page}");
        let page = curl(&lab.client1, &[&format!("http://{address}/nothing")])?;
        ensure!(page.ends_with("404 Not Found\n\n404"), "{page}");
        let page = curl(&lab.client1, &["-X", "DELETE", &format!("http://{address}/")])?;
        ensure!(page.ends_with("\n405"), "{page}");
        ensure!(curl(&lab.client1, &["-I", &format!("http://{address}/")])?.contains("Content-Length: "));
    }
    // INPUT lets nobody else in, nor on the other side.
    let refused = router.dropped("policy-drop")?;
    let output = lab.server.output(&["curl", "-sS", "-m", "1", "http://203.0.113.2:9100/"])?;
    ensure!(!output.status.success(), "the server got an answer");
    ensure!(router.dropped("policy-drop")? > refused);
    // The flow is tracked as any.
    ensure!(!router.flows(&["dst=192.168.1.1", "dport=9100"])?.is_empty());

    // Counters agree with those of `sumun`.
    lab.client1.run(&["ping", "-n", "-q", "-c", "3", "-i", "0.05", "-W", "1", "203.0.113.1"])?;
    wait("counters to agree", || {
        // For a page of now.
        std::thread::sleep(Duration::from_millis(1100));
        let drops = metric(&lab.client1, r#"sumun_drops_total{reason="policy-drop",class="policy"}"#)?;
        let shown = metric(&lab.client1, r#"sumun_port_sent_packets_total{port="wan0"}"#)?;
        let status = router.status()?;
        let wan = status["ports"].as_array().and_then(|ports| ports.iter().find(|port| port["name"] == "wan0"));
        let sent = wan.and_then(|wan| wan["tx_packets"].as_u64());
        Ok(drops == router.dropped("policy-drop")? && drops > 0 && sent == Some(shown))
    })?;
    let of = |what: &str| metric(&lab.client1, &format!(r#"sumun_worker_packets_total{{worker="0",what="{what}"}}"#));
    ensure!(of("delivered")? > 0 && of("originated")? > 0);

    // Without the section nobody listens.
    router.rewrite(&SHOWN.replace("[metrics]\nport = 9100\n", ""))?;
    wait("the port to be closed", || {
        let output = lab.client1.output(&["curl", "-sS", "-m", "1", "http://192.168.1.1:9100/"])?;
        // Refused at once.
        Ok(output.status.code() == Some(7))
    })
}

#[test]
fn crowds_slow_clients_and_garbage_are_served_or_sent_away() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, SHOWN)?;
    let silent: Vec<TcpStream> = lab.client2.inside(|| {
        let address: SocketAddr = LAN[0].parse()?;
        (0..40).map(|_| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(5))?)).collect()
    })?;
    std::thread::sleep(Duration::from_millis(1100));
    let crowd =
        "seq 50 | xargs -P 50 -I{} curl -sS -m 10 -o /dev/null -w '%{http_code}\\n' http://192.168.1.1:9100/metrics";
    let answers = lab.client1.run(&["sh", "-c", crowd])?;
    ensure!(answers.lines().filter(|line| *line == "200").count() == 50, "{answers}");
    drop(silent);

    ensure!(raw(&lab.client1, b"\x16\x03\x01\x02\x00\x01\x00")?.starts_with("HTTP/1.1 400 "));
    ensure!(raw(&lab.client1, b"NICK router\r\nUSER x\r\n\r\n")?.starts_with("HTTP/1.1 400 "));
    let long = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(2048));
    ensure!(raw(&lab.client1, long.as_bytes())?.starts_with("HTTP/1.1 431 "));
    let slow = raw(&lab.client1, b"GET / HT")?;
    ensure!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    ensure!(metric(&lab.client1, r#"sumun_http_answers_total{code="400"}"#)? == 2);
    ensure!(router.dropped("ip-checksum")? == 0 && router.dropped("no-frame")? == 0);
    Ok(())
}

#[test]
fn it_does_not_matter_which_worker_hears_a_client() -> Result<()> {
    let lab = Lab::crossed()?;
    let config = format!("{}{INTERFACES}{SHOWN}", head(&lab, "0, 1"));
    let _router = Router::start_with(&lab, &config)?;
    for client in [&lab.client1, &lab.client2] {
        for address in LAN {
            let page = curl(client, &[&format!("http://{address}/metrics")])?;
            ensure!(page.ends_with("\n200"), "{page}");
        }
    }
    let received =
        |worker| metric(&lab.client1, &format!(r#"sumun_worker_packets_total{{worker="{worker}",what="received"}}"#));
    wait("both workers to have heard a client", || {
        // For a page of now.
        std::thread::sleep(Duration::from_millis(1100));
        Ok(received(0)? > 0 && received(1)? > 0)
    })
}

#[test]
fn what_the_kernel_loses_ahead_of_the_router_is_shown() -> Result<()> {
    let lab = Lab::new(1)?;
    let small = INTERFACES.replace("[interfaces.lan0]", "[interfaces.lan0]\nring = 64");
    let router = Router::start_with(&lab, &format!("{}{small}{SHOWN}", head(&lab, "1")))?;
    let lost = |kind: &str| {
        metric(&lab.client1, &format!("sumun_port_losses_total{{port=\"lan0\",queue=\"0\",kind=\"{kind}\"}}"))
    };
    // So small a ring may have overrun while the router began, on a busy machine. Nothing is told that was not lost.
    let before = lost("dropped")? + lost("ring-full")?;
    let is_told = router.ask(&["status"])?.contains("LOST AT PORT");
    ensure!(!is_told || lost("dropped")? + lost("ring-full")? > 0);

    // A flood while the router does nothing at all.
    let pid = Pid::from_raw(router.dataplane_pid() as i32);
    kill(pid, Signal::SIGSTOP)?;
    let flood = lab.client1.inside(|| {
        let socket = std::net::UdpSocket::bind("192.168.1.11:0")?;
        for _ in 0..1000 {
            socket.send_to(&[7; 100], "203.0.113.1:9")?;
        }
        Ok(())
    });
    kill(pid, Signal::SIGCONT)?;
    flood?;
    // Some hundred find room in the ring and in the queue of the veth.
    wait("the losses to be shown", || Ok(lost("dropped")? + lost("ring-full")? >= before + 300))?;
    let text = router.ask(&["status"])?;
    let row = text.lines().skip_while(|line| !line.starts_with("LOST AT PORT")).nth(1).context(text.clone())?;
    ensure!(row.starts_with("lan0 "), "{text}");
    let status = router.status()?;
    let losses = &status["ports"][0]["losses"][0];
    ensure!(
        losses["dropped"].as_u64().zip(losses["ring_full"].as_u64()).is_some_and(|(a, b)| a + b >= 300),
        "{losses}"
    );
    let page = curl(&lab.client1, &[&format!("http://{}/", LAN[0])])?;
    ensure!(page.contains("Lost between device and router") && page.contains("<td class=t>lan0<td>0<td>"), "{page}");
    ensure!(
        status["routes"]["ipv4"].as_u64() > Some(0) && status["routes"]["ipv6"].as_u64() > Some(0),
        "{}",
        status["routes"]
    );
    Ok(())
}
