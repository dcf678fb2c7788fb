//! Types, signatures and lines: a search for a type finds one definition, a signature says what its
//! parts mean, and a line fits into a window.

use std::{collections::BTreeMap, ffi::OsStr, path::Path};

use syn::{
    Field, FnArg, GenericArgument, PathArguments, Signature, Type, TypeReference, visit::Visit,
};

use crate::sources::{own_files, read, sources};

/// The widest line, in characters.
const MAX_WIDTH: usize = 100;

/// The most parameters of a function, `self` not counted.
const MAX_PARAMETERS: usize = 6;

/// The names of the types that a file defines: structs, enums, traits and unions anywhere, type
/// aliases at the top of a module, the objects that `kube`'s derive makes, and what the call of a
/// macro writes as a definition.
fn defined_types(syntax: &syn::File) -> Vec<String> {
    #[derive(Default)]
    struct Collector {
        names: Vec<String>,
        /// How many function bodies the visitor is in.
        bodies: usize,
    }

    impl<'ast> Visit<'ast> for Collector {
        fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
            self.names.push(item.ident.to_string());
            let kinds = item.attrs.iter().filter(|attribute| attribute.path().is_ident("kube"));
            self.names.extend(kinds.filter_map(kind_of).filter(|kind| item.ident != kind));
            syn::visit::visit_item_struct(self, item);
        }

        fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
            self.names.push(item.ident.to_string());
            syn::visit::visit_item_enum(self, item);
        }

        fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
            self.names.push(item.ident.to_string());
            syn::visit::visit_item_union(self, item);
        }

        fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
            self.names.push(item.ident.to_string());
            syn::visit::visit_item_trait(self, item);
        }

        fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
            if self.bodies == 0 {
                self.names.push(item.ident.to_string());
            }
        }

        fn visit_block(&mut self, block: &'ast syn::Block) {
            self.bodies += 1;
            syn::visit::visit_block(self, block);
            self.bodies -= 1;
        }

        fn visit_macro(&mut self, called: &'ast syn::Macro) {
            // Most macros are given something else than items.
            if let Ok(items) = called.parse_body::<syn::File>() {
                self.names.extend(defined_types(&items));
            }
        }
    }

    let mut collector = Collector::default();
    collector.visit_file(syntax);
    collector.names
}

/// The kind in `#[kube(kind = "...")]`: the name of the struct that the derive adds.
fn kind_of(attribute: &syn::Attribute) -> Option<String> {
    let syn::Meta::List(list) = &attribute.meta else { return None };
    let tokens = list.tokens.to_string();
    let (_, rest) = tokens.split_once("kind = \"")?;
    Some(rest.split('"').next()?.to_owned())
}

/// The types that are hard to read where a function, a field or an alias names them, each with the
/// name of the function, field or alias.
fn unclear_types(syntax: &syn::File) -> Vec<String> {
    #[derive(Default)]
    struct Collector {
        found: Vec<String>,
    }

    impl Collector {
        fn check(&mut self, what: &str, problems: Vec<&'static str>) {
            self.found.extend(problems.iter().map(|problem| format!("`{what}` has {problem}")));
        }
    }

    impl<'ast> Visit<'ast> for Collector {
        fn visit_signature(&mut self, signature: &'ast Signature) {
            let mut problems = Problems::default();
            problems.visit_signature(signature);
            self.check(&signature.ident.to_string(), problems.0);
        }

        fn visit_field(&mut self, field: &'ast Field) {
            let mut problems = Problems::default();
            problems.visit_type(&field.ty);
            let name = field.ident.as_ref().map_or("a field".into(), ToString::to_string);
            self.check(&name, problems.0);
        }

        fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
            let mut problems = Problems::default();
            problems.visit_type(&item.ty);
            self.check(&item.ident.to_string(), problems.0);
        }
    }

    #[derive(Default)]
    struct Problems(Vec<&'static str>);

    impl<'ast> Visit<'ast> for Problems {
        fn visit_type_tuple(&mut self, tuple: &'ast syn::TypeTuple) {
            if tuple.elems.len() > 2 {
                self.0.push("a tuple of three or more: name its parts in a struct");
            }
            syn::visit::visit_type_tuple(self, tuple);
        }

        fn visit_path_segment(&mut self, segment: &'ast syn::PathSegment) {
            for (name, problem) in [
                ("Result", "a Result in a Result: use one enum, or a variant of the error"),
                ("Option", "an Option in an Option: use an enum"),
            ] {
                if segment.ident == name && first_argument(segment) == Some(name.to_owned()) {
                    self.0.push(problem);
                }
            }
            syn::visit::visit_path_segment(self, segment);
        }
    }

    let mut collector = Collector::default();
    collector.visit_file(syntax);
    collector.found
}

/// The signatures that are hard to read at the call, each with its problem: a bare `bool` may mean
/// anything there, and nobody remembers the order of many parameters.
///
/// A setter of one value is clear. The signatures of a trait of another crate are given.
fn unclear_calls(syntax: &syn::File) -> Vec<String> {
    #[derive(Default)]
    struct Collector {
        found: Vec<String>,
    }

    impl Collector {
        fn check(&mut self, signature: &Signature) {
            let parameters: Vec<&Type> = signature.inputs.iter().filter_map(typed).collect();
            let name = &signature.ident;
            let is_setter = parameters.len() == 1 && name.to_string().starts_with("set_");
            if !is_setter && parameters.iter().any(|parameter| is_bool(parameter)) {
                self.found.push(format!("`{name}` takes a bool: use an enum of two, or a struct"));
            }
            if parameters.len() > MAX_PARAMETERS {
                let count = parameters.len();
                self.found.push(format!("`{name}` takes {count} parameters: use a struct"));
            }
        }
    }

    impl<'ast> Visit<'ast> for Collector {
        fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
            self.check(&item.sig);
            syn::visit::visit_item_fn(self, item);
        }

        fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
            for member in &item.items {
                let syn::ImplItem::Fn(function) = member else { continue };
                if item.trait_.is_none() {
                    self.check(&function.sig);
                }
            }
            syn::visit::visit_item_impl(self, item);
        }

        fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
            self.check(&item.sig);
            syn::visit::visit_trait_item_fn(self, item);
        }
    }

    let mut collector = Collector::default();
    collector.visit_file(syntax);
    collector.found
}

/// The type of a parameter; `None` for `self`.
fn typed(parameter: &FnArg) -> Option<&Type> {
    match parameter {
        FnArg::Typed(parameter) => Some(&parameter.ty),
        FnArg::Receiver(_) => None,
    }
}

fn is_bool(parameter: &Type) -> bool {
    matches!(parameter, Type::Path(path) if path.path.is_ident("bool"))
}

/// The last name of the first type argument, ignoring references.
fn first_argument(segment: &syn::PathSegment) -> Option<String> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    let GenericArgument::Type(argument) = arguments.args.first()? else { return None };
    let mut argument = argument;
    while let Type::Reference(TypeReference { elem, .. }) = argument {
        argument = elem;
    }
    let Type::Path(path) = argument else { return None };
    Some(path.path.segments.last()?.ident.to_string())
}

/// Which lines of a text have a limited width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextKind {
    /// All.
    Rust,
    /// Prose: not the rows of tables, code blocks, and lines with an address.
    Markdown,
    /// Comments: not those with columns or an address.
    Other,
}

impl TextKind {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(OsStr::to_str) {
            Some("rs") => Self::Rust,
            Some("md") => Self::Markdown,
            _ => Self::Other,
        }
    }
}

/// The lines that are too wide, counted from 1.
fn too_wide(text: &str, kind: TextKind) -> impl Iterator<Item = usize> {
    let mut is_code = false;
    let lines = text.lines().enumerate().filter(move |(_, line)| {
        let content = line.trim_start();
        let is_fence = content.starts_with("```");
        is_code ^= is_fence;
        let is_limited = match kind {
            TextKind::Rust => true,
            TextKind::Markdown => !is_code && !content.starts_with('|') && !has_address(line),
            TextKind::Other => is_comment(content) && !has_columns(content) && !has_address(line),
        };
        is_limited && line.chars().count() > MAX_WIDTH
    });
    lines.map(|(number, _)| number + 1)
}

fn is_comment(content: &str) -> bool {
    ["#", "//", "/*", "* ", "{{/*"].iter().any(|sign| content.starts_with(sign))
}

/// Whether words are aligned or indented, as in the description of a command's options.
fn has_columns(content: &str) -> bool {
    content.trim_start_matches(['#', '/']).contains("  ")
}

fn has_address(line: &str) -> bool {
    line.contains("http://") || line.contains("https://")
}

/// Whether a tool writes the file: `make generate`, the tests or a dashboard editor. Templates and
/// schemas in JSON have one line per value, however long it is.
fn is_generated(path: &Path) -> bool {
    let folders = ["crds", "deploy", "docs/reference", "charts/groundswell/files/crds"];
    folders.iter().any(|folder| path.starts_with(folder))
        || path == Path::new("docs/states.md")
        || ["json", "patch", "snap"].iter().any(|kind| path.extension() == Some(OsStr::new(kind)))
}

#[test]
fn a_type_name_is_defined_once() {
    let mut definitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources() {
        for name in defined_types(&file.syntax) {
            definitions.entry(name).or_default().push(file.path.display().to_string());
        }
    }
    let twice: Vec<String> = definitions
        .into_iter()
        .filter(|(_, places)| places.len() > 1)
        .map(|(name, places)| format!("{name}: {}", places.join(" ")))
        .collect();
    assert!(twice.is_empty(), "defined more than once:\n{}", twice.join("\n"));
}

#[test]
fn signatures_name_their_parts() {
    let mut wrong = Vec::new();
    for file in sources() {
        let found = unclear_types(&file.syntax).into_iter();
        wrong.extend(found.map(|problem| format!("{}: {problem}", file.path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn calls_can_be_read() {
    let mut wrong = Vec::new();
    for file in sources() {
        let found = unclear_calls(&file.syntax).into_iter();
        wrong.extend(found.map(|problem| format!("{}: {problem}", file.path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lines_are_at_most_100_characters_wide() {
    let mut wrong = Vec::new();
    for path in own_files().into_iter().filter(|path| !is_generated(path)) {
        let Some(text) = read(&path) else { continue };
        let kind = TextKind::of(&path);
        wrong.extend(too_wide(&text, kind).map(|line| format!("{}:{line}", path.display())));
    }
    assert!(wrong.is_empty(), "wider than {MAX_WIDTH} characters:\n{}", wrong.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(code: &str) -> syn::File {
        syn::parse_file(code).expect("code")
    }

    #[test]
    fn every_kind_of_definition_is_found() {
        let code = "
            #[kube(group = \"x\", kind = \"Family\")] struct FamilySpec { x: u8 }
            enum E {} trait T { type Associated; } union U { a: u8 }
            type Alias = u8;
            mod tests { struct InModule; type InModuleAlias = u8; }
            fn f() { struct InFunction; type Local = u8; }
            impl T for E { type Associated = u8; }
            fn g<Parameter>() {}
            text! { /// A text.
                pub struct InMacro; }
        ";
        let mut names = defined_types(&parse(code));
        names.sort();
        let expected = [
            "Alias",
            "E",
            "Family",
            "FamilySpec",
            "InFunction",
            "InMacro",
            "InModule",
            "InModuleAlias",
            "T",
            "U",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn unclear_types_are_found() {
        for code in [
            "fn f(_: (u8, u8, u8)) {}",
            "fn f() -> Vec<(u8, u8, u8)> {}",
            "fn f() -> impl Iterator<Item = (u8, u8, u8)> {}",
            "fn f(_: impl Fn((u8, u8, u8))) {}",
            "fn f<T: Iterator<Item = (u8, u8, u8)>>() {}",
            "fn f<T>() where T: Into<(u8, u8, u8)> {}",
            "impl X { fn f() -> Result<Result<u8, A>, B> {} }",
            "trait T { fn f() -> io::Result<std::result::Result<u8, A>>; }",
            "fn f(_: Option<Option<u8>>) {}",
            "fn f(_: Option<&Option<u8>>) {}",
            "struct S { x: BTreeMap<u8, (u8, u8, u8)> }",
            "struct S(Option<Option<u8>>);",
            "enum E { V(Result<Result<u8, A>, B>) }",
            "type A = (u8, u8, u8);",
            "mod tests { fn f(_: (u8, u8, u8)) {} }",
        ] {
            assert_eq!(unclear_types(&parse(code)).len(), 1, "{code}");
        }
    }

    #[test]
    fn clear_types_are_not() {
        for code in [
            "fn f(_: (u8, u8)) -> Result<Option<u8>, Error> { let x: (u8, u8, u8) = (1, 2, 3); }",
            "fn f() -> Option<Result<Option<u8>, Error>> {}",
            "fn f() -> Result<u8, Option<Option_>> { |x: (u8, u8, u8)| x }",
            "fn f() {}",
        ] {
            assert_eq!(unclear_types(&parse(code)), Vec::<String>::new(), "{code}");
        }
    }

    #[test]
    fn unclear_calls_are_found() {
        for code in [
            "fn f(_: bool) {}",
            "fn set_x(_: bool, _: u8) {}",
            "impl X { fn f(&self, _: u8, _: bool) {} }",
            "trait T { fn f(&self, _: bool); }",
            "mod tests { fn f(_: bool) {} }",
            "fn f() { fn g(_: bool) {} }",
            "fn f(_: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8) {}",
        ] {
            assert_eq!(unclear_calls(&parse(code)).len(), 1, "{code}");
        }
        for code in [
            "impl X { fn set_x(&self, _: bool) {} }",
            "impl T for X { fn f(&self, _: bool) {} }",
            "fn f(_: Option<bool>, _: impl Fn(bool) -> bool) -> bool {}",
            "impl X { fn f(&self, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8) {} }",
        ] {
            assert_eq!(unclear_calls(&parse(code)), Vec::<String>::new(), "{code}");
        }
    }

    #[test]
    fn wide_lines_are_found() {
        let text = format!("{}\n{}\n{}\n", "x".repeat(100), "x".repeat(101), "é".repeat(100));
        assert_eq!(too_wide(&text, TextKind::Rust).collect::<Vec<_>>(), [2]);
        let long = "x ".repeat(51);
        for (kind, text, expected) in [
            (TextKind::Markdown, format!("{long}\n| {long}\n```\n{long}\n```\n"), &[1][..]),
            (TextKind::Markdown, format!("```\n{long}\n```\n- {long}\n"), &[4]),
            (TextKind::Other, format!("# {long}\nrun {long}\n#  NAME  {long}\n"), &[1]),
            (TextKind::Other, format!("# {long}https://example.com\n  // {long}\n"), &[2]),
        ] {
            assert_eq!(too_wide(&text, kind).collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
