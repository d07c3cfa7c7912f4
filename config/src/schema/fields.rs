//! A rule written as a table of fields: its TOML values as the words that the rule language sorts.
//!
//! `{ in = "lan0", protocol = "tcp", dport = [22, 80], source = "!10.0.0.0/8", syn = true, target = "ACCEPT" }`: a string,
//! a number or a boolean is one word, an array several, a table has fields of its own. What they mean is
//! [`crate::rule::parse_fields`]'s.

use super::literal::Literal;
use super::reader::{Field, Fields, kind};
use super::report::Sink;
use crate::rule::Item;
use crate::rule::option::Word;
use toml::de::DeValue;

/// The fields of a rule. What cannot be a word is complained of, and then none comes out.
pub(super) fn items(fields: &mut Fields, text: &str, sink: &mut Sink) -> Option<Vec<Item>> {
    // All are looked at before one can end it.
    let items: Vec<Option<Item>> = fields.rest().iter().map(|field| item(field, text, sink)).collect();
    items.into_iter().collect()
}

fn item(field: &Field, text: &str, sink: &mut Sink) -> Option<Item> {
    let (mut values, mut nested) = (Vec::new(), None);
    match field.node.get_ref() {
        DeValue::Table(table) => nested = Some(items(&mut Fields::of(table, "", field.at()), text, sink)?),
        DeValue::Array(_) => {
            let words: Vec<Option<Word>> =
                field.list("", sink)?.iter().map(|element| word(element, text, sink)).collect();
            values = words.into_iter().collect::<Option<_>>()?;
        }
        _ => values.push(word(field, text, sink)?),
    }
    let key = Word { text: field.name.to_string(), at: field.key() };
    Some(Item { key, negate: false, values, nested })
}

/// A single value.
fn word(field: &Field, text: &str, sink: &mut Sink) -> Option<Word> {
    let at = field.at();
    let word = |text: &str| Some(Word { text: text.to_string(), at: at.clone() });
    match field.node.get_ref() {
        DeValue::String(value) => {
            let at = Literal::new(text, at, value).content();
            Some(Word { text: value.to_string(), at })
        }
        // In decimal: iptables reads hexadecimal, but nothing of 0o and 0b.
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) => word(&value.to_string()),
            Err(_) => word(number.as_str()),
        },
        DeValue::Float(number) => word(number.as_str()),
        DeValue::Boolean(value) => word(&value.to_string()),
        other => {
            sink.error(at, format!("`{}` cannot be {}", field.name, kind(other)))
                .help("a string, a number, or an array of them");
            None
        }
    }
}
