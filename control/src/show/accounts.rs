//! `sumun accounts`, in the format of `nfacct list`.

use std::io::Write;
use sumun_config::rule::matches::nfacct::Quota;
use sumun_dataplane::protocol::AccountRow;

/// Prints them in the order of their names.
pub fn print(out: &mut impl Write, rows: &[AccountRow], json: bool) -> anyhow::Result<()> {
    let mut rows: Vec<&AccountRow> = rows.iter().collect();
    rows.sort_by_key(|row| &row.name);
    if json {
        let row = |row: &&AccountRow| {
            let AccountRow { name, packets, bytes, quota, beyond } = row;
            let (bytes_quota, packets_quota) = match *quota {
                None => (None, None),
                Some(Quota::Bytes(quota)) => (Some(quota), None),
                Some(Quota::Packets(quota)) => (None, Some(quota)),
            };
            serde_json::json!({
                "name": name, "packets": packets, "bytes": bytes,
                "quota-bytes": bytes_quota, "quota-packets": packets_quota, "over-quota": beyond,
            })
        };
        let rows: Vec<serde_json::Value> = rows.iter().map(row).collect();
        serde_json::to_writer_pretty(&mut *out, &rows)?;
        return Ok(writeln!(out)?);
    }
    for AccountRow { name, packets, bytes, quota, beyond } in rows {
        write!(out, "{{ pkts = {packets:020}, bytes = {bytes:020}")?;
        let over = u8::from(*beyond);
        match quota {
            None => {}
            Some(Quota::Bytes(quota)) => write!(out, ", quota = {quota:020}, mode = byte, overquota = {over}")?,
            Some(Quota::Packets(quota)) => write!(out, ", quota = {quota:020}, mode = packet, overquota = {over}")?,
        }
        writeln!(out, " }} = {name};")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_read_as_nfacct_prints_them() {
        let row = |name: &str, quota, beyond| AccountRow { name: name.into(), packets: 2, bytes: 84, quota, beyond };
        let rows = [row("web", None, false), row("mail", Some(Quota::Bytes(80)), true)];
        let mut out = Vec::new();
        print(&mut out, &rows, false).unwrap();
        let counts = "{ pkts = 00000000000000000002, bytes = 00000000000000000084";
        let quota = ", quota = 00000000000000000080, mode = byte, overquota = 1";
        assert_eq!(String::from_utf8(out).unwrap(), format!("{counts}{quota} }} = mail;\n{counts} }} = web;\n"));
    }
}
