//! Line and column of each field of a YAML text. They are computed only when a problem needs them:
//! reading with positions takes several times as long as without.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_yaml::Spanned;

use crate::input::manifests::options;

/// Line and column, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

/// The positions of a text, read on demand.
#[derive(Debug)]
pub struct Positions {
    text: Arc<str>,
    documents: OnceLock<Vec<YamlNode>>,
}

impl Positions {
    /// Creates the positions of a text.
    pub fn of(text: Arc<str>) -> Self {
        Self { text, documents: OnceLock::new() }
    }

    /// Returns the position of a field: of its name, or of an item of a list. Where it is missing,
    /// that of the nearest field around it.
    ///
    /// `document` counts the documents of the text from 0; `pointer` is the JSON pointer of the
    /// field in it.
    pub fn find(&self, document: usize, pointer: &str) -> Option<Position> {
        let documents = self.documents.get_or_init(|| {
            serde_yaml::from_multiple_with_options(&self.text, options()).unwrap_or_default()
        });
        let mut node = documents.get(document)?;
        let mut position = node.start();
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let Some(below) = node.member(&part) else { break };
            (node, position) = (below.node, below.position);
        }
        Some(position)
    }
}

/// A value of a YAML text.
#[derive(Debug, Deserialize)]
struct YamlNode(Spanned<NodeContent>);

#[derive(Debug)]
enum NodeContent {
    Scalar,
    List(Vec<YamlNode>),
    Fields(Vec<(Spanned<String>, YamlNode)>),
}

struct Member<'a> {
    node: &'a YamlNode,
    position: Position,
}

impl YamlNode {
    fn start(&self) -> Position {
        match &self.0.value {
            NodeContent::Fields(fields) if !fields.is_empty() => {
                fields.first().map(|(key, _)| position(key)).unwrap_or_default()
            }
            _ => position(&self.0),
        }
    }

    fn member(&self, name: &str) -> Option<Member<'_>> {
        match &self.0.value {
            NodeContent::Scalar => None,
            NodeContent::List(items) => {
                let node = items.get(name.parse::<usize>().ok()?)?;
                Some(Member { node, position: node.start() })
            }
            NodeContent::Fields(fields) => {
                let (key, node) = fields.iter().find(|(key, _)| key.value == name)?;
                Some(Member { node, position: position(key) })
            }
        }
    }
}

fn position<T>(spanned: &Spanned<T>) -> Position {
    let location = spanned.referenced;
    Position { line: location.line(), column: location.column() }
}

impl<'de> Deserialize<'de> for NodeContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeContentVisitor;

        impl<'de> Visitor<'de> for NodeContentVisitor {
            type Value = NodeContent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<NodeContent, E> {
                Ok(NodeContent::Scalar)
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<NodeContent, E> {
                Ok(NodeContent::Scalar)
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<NodeContent, E> {
                Ok(NodeContent::Scalar)
            }

            fn visit_i128<E: de::Error>(self, _: i128) -> Result<NodeContent, E> {
                Ok(NodeContent::Scalar)
            }

            fn visit_u128<E: de::Error>(self, _: u128) -> Result<NodeContent, E> {
                Ok(NodeContent::Scalar)
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<NodeContent, E> {
                Ok(NodeContent::Scalar)
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<NodeContent, E> {
                Ok(NodeContent::Scalar)
            }

            fn visit_unit<E: de::Error>(self) -> Result<NodeContent, E> {
                Ok(NodeContent::Scalar)
            }

            fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<NodeContent, D::Error> {
                NodeContent::deserialize(value)
            }

            fn visit_none<E: de::Error>(self) -> Result<NodeContent, E> {
                Ok(NodeContent::Scalar)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<NodeContent, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(NodeContent::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NodeContent, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(NodeContent::Fields(fields))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                value: D,
            ) -> Result<NodeContent, D::Error> {
                IgnoredAny::deserialize(value).map(|_| NodeContent::Scalar)
            }
        }

        deserializer.deserialize_any(NodeContentVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_items_are_found_in_every_document() {
        let text = "kind: First\n---\n# nothing\n---\nspec:\n  images:\n  - name: a\n    \
                    from: []\n  \
                    - {name: b, \"x/y\": 1}\n";
        let positions = Positions::of(text.into());
        let found = |document, pointer: &str| {
            let found = positions.find(document, pointer).expect("a position");
            (found.line, found.column)
        };
        assert_eq!(found(0, ""), (1, 1));
        let last = positions.documents.get().expect("read").len() - 1;
        assert_eq!(found(last, "/spec"), (5, 1));
        assert_eq!(found(last, "/spec/images/0/from"), (8, 5));
        assert_eq!(found(last, "/spec/images/1"), (9, 6));
        assert_eq!(found(last, "/spec/images/1/x~1y"), (9, 15));
        assert_eq!(found(last, "/spec/images/7/from"), (6, 3), "the nearest field around it");
        assert_eq!(positions.find(9, ""), None);
    }

    #[test]
    fn what_is_no_yaml_has_no_positions() {
        assert_eq!(Positions::of("a: [".into()).find(0, ""), None);
    }
}
