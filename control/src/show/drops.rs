//! `sumun drops`.

use std::io::Write;
use sumun_dataplane::protocol::Drops;

/// Prints the reasons in order, those that never occurred only with `all`.
pub fn print(out: &mut impl Write, drops: &[Drops], all: bool, json: bool) -> anyhow::Result<()> {
    let shown: Vec<&Drops> = drops.iter().filter(|d| all || d.packets > 0).collect();
    if json {
        serde_json::to_writer_pretty(&mut *out, &shown)?;
        return Ok(writeln!(out)?);
    }
    if shown.is_empty() {
        return Ok(writeln!(out, "no packet was dropped")?);
    }
    writeln!(out, "{:<20} {:<8} {:>12}  WHY", "REASON", "CLASS", "PACKETS")?;
    for Drops { reason, class, packets, explanation } in shown {
        writeln!(out, "{reason:<20} {class:<8} {packets:>12}  {explanation}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_dataplane::reason::DropReason;

    fn printed(all: bool, json: bool) -> String {
        let drops: Vec<Drops> =
            DropReason::ALL.iter().map(|&r| Drops::of(r, if r == DropReason::NoRoute { 12 } else { 0 })).collect();
        let mut out = Vec::new();
        print(&mut out, &drops, all, json).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_what_occurred_is_shown_with_its_explanation() {
        let expected = "REASON               CLASS         PACKETS  WHY\n\
                        no-route             policy             12  The route is unreachable, or there is none.\n";
        assert_eq!(printed(false, false), expected);
    }

    #[test]
    fn all_shows_every_reason() {
        assert_eq!(printed(true, false).lines().count(), 1 + DropReason::ALL.len());
        let json: Vec<serde_json::Value> = serde_json::from_str(&printed(true, true)).unwrap();
        assert_eq!(json.len(), DropReason::ALL.len());
    }

    #[test]
    fn json_holds_the_same() {
        let json: serde_json::Value = serde_json::from_str(&printed(false, true)).unwrap();
        let explanation = "The route is unreachable, or there is none.";
        let expected = serde_json::json!([
            {"reason": "no-route", "class": "policy", "packets": 12, "explanation": explanation}
        ]);
        assert_eq!(json, expected);
    }
}
