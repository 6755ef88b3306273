//! Manifests as trees that know their lines. YAML 1.2 and JSON, several documents a file; a document that does
//! not parse says where.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

/// A file that is no YAML, and where. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub column: usize,
    pub what: String,
}

/// One document and where it begins in its file.
#[derive(Debug)]
pub struct Document {
    pub root: Spanned<Node>,
    /// Lines before the document.
    offset: usize,
}

#[derive(Debug)]
pub enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

/// All documents of a file that are not empty.
pub fn read(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let mut documents = Vec::new();
    for (offset, part) in split(text) {
        if part.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        match serde_saphyr::from_str::<Spanned<Node>>(&part) {
            Ok(root) => documents.push(Document { root, offset }),
            Err(error) => return Err(syntax_error(&error, offset)),
        }
    }
    Ok(documents)
}

/// Splits at document markers, which stand at the beginning of a line and nowhere else (YAML 1.2, 9.1.2), and
/// says how many lines come before each part.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(0, String::new())];
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.trim_end();
        let begins = marker == "---" || marker.starts_with("--- ") || marker.starts_with("---\t");
        if begins || marker == "..." {
            // The rest of the marker's line belongs to the new document; a comment may stand there.
            let rest = marker.strip_prefix("---").unwrap_or_default();
            parts.push((index, format!("{rest}\n")));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
        }
    }
    parts
}

fn syntax_error(error: &serde_saphyr::Error, offset: usize) -> SyntaxError {
    let at = error.location();
    let number = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok()).unwrap_or(1);
    let what = error.without_snippet().to_string();
    SyntaxError {
        line: number(at.map(|at| at.line())) + offset,
        column: number(at.map(|at| at.column())),
        what: what.lines().next().unwrap_or("is no YAML").to_owned(),
    }
}

impl Document {
    /// The line of a field, given as `spec.rules[0].host`; of its closest ancestor, if it isn't there.
    pub fn line(&self, path: &str) -> usize {
        let mut node = &self.root.value;
        let mut line = usize::try_from(self.root.referenced.line()).unwrap_or(1).max(1);
        for segment in segments(path) {
            let next = match (node, segment) {
                (Node::Map(fields), Segment::Field(name)) => {
                    fields.iter().find(|(field, _)| field == name).map(|(_, child)| child)
                }
                (Node::List(items), Segment::Index(index)) => items.get(index),
                _ => None,
            };
            let Some(next) = next else { break };
            line = usize::try_from(next.referenced.line()).unwrap_or(line).max(1);
            node = &next.value;
        }
        line + self.offset
    }
}

enum Segment<'a> {
    Field(&'a str),
    Index(usize),
}

/// Splits `spec.rules[0].host` and `data[tls.crt]`.
fn segments(path: &str) -> Vec<Segment<'_>> {
    let mut all = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        if end > 0 {
            all.push(Segment::Field(&rest[..end]));
        }
        rest = &rest[end..];
        if let Some(inner) = rest.strip_prefix('[') {
            let close = inner.find(']').unwrap_or(inner.len());
            let text = &inner[..close];
            all.push(text.parse().map_or(Segment::Field(text), Segment::Index));
            rest = inner.get(close + 1..).unwrap_or_default();
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    all
}

impl Node {
    /// As JSON, without lines.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Map(fields) => Value::Object(
                fields.iter().map(|(name, child)| (name.clone(), child.value.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Node::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(field) = fields.next_entry()? {
            all.push(field);
        }
        Ok(Node::Map(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# a comment\n---\nkind: A\nspec:\n  rules:\n  - host: a.example\n    port: 80\n--- # next\nkind: B\ndata:\n  tls.crt: \"80\"\n...\n";

    #[test]
    fn documents_know_their_lines() {
        let documents = read(TEXT).unwrap();
        assert_eq!(documents.len(), 2);
        let json = documents[0].root.value.to_json();
        assert_eq!(json["spec"]["rules"][0]["port"], 80);
        assert_eq!(documents[1].root.value.to_json()["data"]["tls.crt"], "80");
        let table = [
            (0, "kind", 3),
            (0, "spec.rules[0].host", 6),
            (0, "spec.rules[0].port", 7),
            (0, "spec.rules[0].http.paths", 6),
            (1, "kind", 9),
            (1, "data[tls.crt]", 11),
        ];
        for (index, path, line) in table {
            assert_eq!(documents[index].line(path), line, "{path}");
        }
    }

    #[test]
    fn an_error_says_where() {
        let error = read("a: 1\n---\nb: [1,\nc: }\n").unwrap_err();
        assert!((3..=5).contains(&error.line), "{error:?}");
        assert!(read("\n---\n# nothing\n---\n").unwrap().is_empty());
        assert_eq!(read("{\"kind\": \"A\", \"x\": [null, true, 1.5]}").unwrap()[0].root.value.to_json()["x"][2], 1.5);
    }
}
