//! `sumun neighbours`, in the format of `ip neighbour`.

use super::mac;
use std::io::Write;
use sumun_dataplane::protocol::NeighbourRow;

/// Prints them in the order of ports and addresses.
pub fn print(out: &mut impl Write, rows: &[NeighbourRow], json: bool) -> anyhow::Result<()> {
    let mut rows: Vec<&NeighbourRow> = rows.iter().collect();
    rows.sort_by(|a, b| (&a.port, a.address).cmp(&(&b.port, b.address)));
    if json {
        let rows: Vec<serde_json::Value> = rows
            .iter()
            .map(|r| {
                let mac = r.mac.map(mac);
                serde_json::json!({"port": r.port, "address": r.address, "mac": mac, "state": r.state})
            })
            .collect();
        serde_json::to_writer_pretty(&mut *out, &rows)?;
        return Ok(writeln!(out)?);
    }
    for NeighbourRow { port, address, mac: known, state } in rows {
        let lladdr = known.map(|m| format!("lladdr {} ", mac(m))).unwrap_or_default();
        writeln!(out, "{address} dev {port} {lladdr}{state}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_read_as_ip_prints_them() {
        let row = |port: &str, address: &str, mac, state: &str| NeighbourRow {
            port: port.to_string(),
            address: address.parse().unwrap(),
            mac,
            state: state.to_string(),
        };
        let rows = [
            row("wan0", "2001:db8::1", None, "FAILED"),
            row("lan0", "10.0.0.2", Some([2, 0, 0, 0, 0, 1]), "REACHABLE"),
        ];
        let mut out = Vec::new();
        print(&mut out, &rows, false).unwrap();
        let expected = "10.0.0.2 dev lan0 lladdr 02:00:00:00:00:01 REACHABLE\n2001:db8::1 dev wan0 FAILED\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
