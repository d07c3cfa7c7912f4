//! The elements of a file with their places, and what is wrong with them.

use crate::diag::Diagnostic;
use crate::rule::word::{either, nearest};
use roxmltree::Node;
use std::ops::Range;

/// Where something stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    /// Number of the file.
    pub file: usize,
    /// Bytes of its text, from and to.
    pub start: usize,
    pub end: usize,
}

impl Place {
    pub fn new(file: usize, at: Range<usize>) -> Place {
        Place { file, start: at.start, end: at.end }
    }
}

/// All that is wrong, by file.
#[derive(Default)]
pub(super) struct Mistakes(pub Vec<(usize, Diagnostic)>);

impl Mistakes {
    pub fn add(&mut self, at: &Place, what: impl Into<String>, accepts: impl Into<String>) {
        let found = (at.file, Diagnostic::error(at.start..at.end, what).with_help(accepts));
        if !self.0.contains(&found) {
            self.0.push(found);
        }
    }
}

/// A value with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Value {
    pub text: String,
    pub at: Place,
}

/// An element of a file.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    node: Node<'a, 'a>,
    file: usize,
}

impl<'a> Element<'a> {
    /// The root, if it has this name.
    pub fn root(
        document: &'a roxmltree::Document<'a>,
        file: usize,
        name: &str,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        let root = Element { node: document.root_element(), file };
        if root.name() != name {
            mistakes.add(&root.at(), format!("the file begins with <{}>", root.name()), format!("<{name}>"));
            return None;
        }
        Some(root)
    }

    pub fn name(&self) -> &'a str {
        self.node.tag_name().name()
    }

    /// Its name in the file.
    pub fn at(&self) -> Place {
        let start = self.node.range().start + 1;
        Place::new(self.file, start..start + self.name().len())
    }

    /// Complains of attributes, elements and text that do not belong there.
    pub fn only(&self, attributes: &[&str], children: &[&str], mistakes: &mut Mistakes) {
        for attribute in self.node.attributes() {
            if !attributes.contains(&attribute.name()) {
                let at = Place::new(self.file, attribute.range_qname());
                let what = format!("<{}> has no attribute `{}`", self.name(), attribute.name());
                mistakes.add(&at, what, expected(attribute.name(), attributes, "no attribute"));
            }
        }
        for child in self.node.children() {
            if child.is_element() {
                let child = Element { node: child, file: self.file };
                if !children.contains(&child.name()) {
                    let what = format!("<{}> cannot hold <{}>", self.name(), child.name());
                    mistakes.add(&child.at(), what, expected(child.name(), children, "nothing in it"));
                }
            } else if child.is_text() {
                let text = child.text().unwrap_or("");
                if let Some(word) = text.split_whitespace().next() {
                    let at = Place::new(self.file, child.range());
                    mistakes.add(&at, format!("<{}> cannot hold text: `{word}`", self.name()), "elements");
                }
            }
        }
    }

    /// The same for an element with text alone.
    pub fn only_text(&self, attributes: &[&str], mistakes: &mut Mistakes) -> Value {
        for child in self.elements() {
            mistakes.add(&child.at(), format!("<{}> cannot hold <{}>", self.name(), child.name()), "text");
        }
        let nothing = Element { node: self.node, file: self.file };
        for attribute in nothing.node.attributes().filter(|a| !attributes.contains(&a.name())) {
            let at = Place::new(self.file, attribute.range_qname());
            let what = format!("<{}> has no attribute `{}`", self.name(), attribute.name());
            mistakes.add(&at, what, expected(attribute.name(), attributes, "no attribute"));
        }
        let texts = self.node.children().filter(Node::is_text);
        let at = texts.clone().map(|text| Place::new(self.file, text.range())).next().unwrap_or(self.at());
        Value { text: texts.filter_map(|text| text.text()).collect::<String>().trim().to_string(), at }
    }

    /// The elements in it, in order.
    pub fn elements(&self) -> impl Iterator<Item = Element<'a>> + use<'a> {
        let file = self.file;
        self.node.children().filter(Node::is_element).map(move |node| Element { node, file })
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<Value> {
        let attribute = self.node.attributes().find(|attribute| attribute.name() == name)?;
        Some(Value { text: attribute.value().to_string(), at: Place::new(self.file, attribute.range_value()) })
    }

    /// The value of an attribute that must be there.
    pub fn need(&self, name: &str, mistakes: &mut Mistakes) -> Option<Value> {
        let value = self.get(name);
        if value.is_none() {
            mistakes.add(
                &self.at(),
                format!("<{}> lacks the attribute `{name}`", self.name()),
                format!("{name}=\"...\""),
            );
        }
        value
    }
}

/// What would be accepted instead of a name.
pub(super) fn expected(found: &str, names: &[&str], nothing: &str) -> String {
    match nearest(found, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => nothing.to_string(),
        None => either(names.iter().copied()),
    }
}
