//! `sumun timers`: what `/sys/class/xt_idletimer/timers` says of each timer of IDLETIMER.

use std::io::Write;
use sumun_dataplane::protocol::TimerRow;

/// Prints them in the order of their labels.
pub fn print(out: &mut impl Write, rows: &[TimerRow], json: bool) -> anyhow::Result<()> {
    let mut rows: Vec<&TimerRow> = rows.iter().collect();
    rows.sort_by_key(|row| &row.label);
    if json {
        let of = |row: &&TimerRow| {
            let TimerRow { label, left, alarm } = row;
            serde_json::json!({"label": label, "left": left.unwrap_or(0), "active": left.is_some(), "alarm": alarm})
        };
        let rows: Vec<serde_json::Value> = rows.iter().map(of).collect();
        serde_json::to_writer_pretty(&mut *out, &rows)?;
        return Ok(writeln!(out)?);
    }
    for TimerRow { label, left, alarm } in rows {
        let state = if left.is_some() { "active" } else { "idle" };
        let alarm = if *alarm { " alarm" } else { "" };
        writeln!(out, "{label:<27} {:>7} {state}{alarm}", left.unwrap_or(0))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [TimerRow; 2] {
        [
            TimerRow { label: "wan".to_string(), left: None, alarm: true },
            TimerRow { label: "lan".to_string(), left: Some(7), alarm: false },
        ]
    }

    #[test]
    fn people_see_which_timers_are_idle() {
        let mut out = Vec::new();
        print(&mut out, &rows(), false).unwrap();
        let expected = "lan                               7 active\nwan                               0 idle alarm\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn programs_see_the_same() {
        let mut out = Vec::new();
        print(&mut out, &rows(), true).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json[0], serde_json::json!({"label": "lan", "left": 7, "active": true, "alarm": false}));
        assert_eq!(json[1]["active"], false);
    }
}
