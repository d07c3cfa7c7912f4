//! What `schema::load` accepts and refuses.

use sumun_config::diag::{self, Diagnostic, Source};
use sumun_config::schema::load;

const NETWORK: &str = r#"
[interfaces.lan0]
addresses = ["192.168.1.1/24", "fd00:1::1/64"]
[interfaces.wan0]
addresses = ["203.0.113.2/24", "2001:db8:2::2/64"]
"#;

/// The file of a case, with interfaces where it has none.
fn source(text: &str) -> Source {
    let own = text.contains("interfaces");
    Source::new("router.toml", format!("{text}{}", if own { "" } else { NETWORK }))
}

fn lines(source: &Source, found: &[Diagnostic]) -> Vec<String> {
    found.iter().map(|d| diag::short(source, d).replace("router.toml:", "")).collect()
}

/// The cases of mistakes.txt: files and what is said of them.
#[test]
fn mistakes_are_all_said_with_their_place_and_what_would_be_accepted() {
    let cases = include_str!("mistakes.txt").split("====\n").skip(1);
    let mut wrong = String::new();
    let mut count = 0;
    for case in cases {
        let (expected, text): (Vec<&str>, Vec<&str>) = case.lines().partition(|line| line.starts_with("=> "));
        let source = source(&text.iter().map(|line| format!("{line}\n")).collect::<String>());
        let found = match load(&source) {
            Ok((_, warnings)) => warnings,
            Err(found) => found,
        };
        let found: Vec<String> = lines(&source, &found).into_iter().map(|line| format!("=> {line}")).collect();
        if found != expected {
            wrong.push_str(&format!("{}\n{}\n====\n", text.join("\n"), found.join("\n")));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "these cases say something else now:\n{wrong}");
    assert!(count >= 60, "{count} cases");
}
