//! Circles of files that import each other, found in the text of one crate's `src`.
//!
//! An import is a path of a `use` line outside of `#[cfg(test)]`. A `mod` line is none, and neither is a re-export:
//! who imports a name from there imports the file that the name is from.

use std::collections::{BTreeMap, BTreeSet};

/// Path of a module below its crate: empty for `lib.rs`, `keys::token` for `keys/token.rs`.
type Module = Vec<String>;

/// One name that a `use` line brings.
struct Import {
    path: Vec<String>,
    name: String,
    is_reexport: bool,
}

struct File<'a> {
    path: &'a str,
    imports: Vec<Import>,
}

struct Crate<'a>(BTreeMap<Module, File<'a>>);

/// Circles among files, given as path below `src` and text: of each circle, its imports as "a.rs imports b.rs".
pub fn circles(files: &BTreeMap<String, String>) -> Vec<String> {
    let files = files.iter().map(|(path, text)| (module(path), File { path, imports: imports(&code(text)) }));
    let code = Crate(files.collect());
    let edges: BTreeMap<_, _> = code.0.keys().map(|module| (module, code.imported_by(module))).collect();
    let reached: BTreeMap<_, _> = edges.keys().map(|module| (*module, reached(module, &edges))).collect();
    let circle_of = |module: &&Module| {
        let others = reached[*module].iter().filter(|other| reached[*other].contains(*module));
        others.cloned().collect::<BTreeSet<Module>>()
    };
    let circles: BTreeSet<_> = edges.keys().map(circle_of).filter(|circle| !circle.is_empty()).collect();
    let told = |circle: &BTreeSet<Module>| {
        let among = |from: &Module| {
            let inside = edges[from].intersection(circle);
            let told = inside.map(|to| format!("{} imports {}", code.0[from].path, code.0[to].path));
            told.collect::<Vec<_>>()
        };
        circle.iter().flat_map(among).collect::<Vec<_>>().join(", ")
    };
    circles.iter().map(told).collect()
}

fn module(path: &str) -> Module {
    let mut module: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(module.last().unwrap().as_str(), "lib" | "main" | "mod") {
        module.pop();
    }
    module
}

/// Text without comments and `#[cfg(test)]` items. As rustfmt lays them out, an item ends at the first line of its
/// own indent that ends with `;` or `}`.
fn code(text: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            lines.find(|last| indent(last) == indent(line) && last.ends_with([';', '}']));
        } else {
            code.push_str(line.split("//").next().unwrap());
            code.push('\n');
        }
    }
    code
}

fn imports(code: &str) -> Vec<Import> {
    let mut imports = Vec::new();
    let mut rest = code;
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        let Some((visibility, tree)) = line.trim_start().split_once("use ") else { continue };
        if !(visibility.is_empty() || visibility.starts_with("pub")) {
            continue;
        }
        let tree = if let Some((tree, _)) = tree.split_once(';') {
            tree.to_owned()
        } else {
            let (more, after) = rest.split_once(';').unwrap_or((rest, ""));
            rest = after;
            format!("{tree} {more}")
        };
        let is_reexport = !visibility.is_empty();
        imports.extend(leaves(&tree).into_iter().map(|(path, name)| Import { path, name, is_reexport }));
    }
    imports
}

/// Paths and names of a use tree: `a::{b, c::{d, e as f}}` has `a::b`, `a::c::d`, and `a::c::e` as `f`.
fn leaves(tree: &str) -> Vec<(Vec<String>, String)> {
    if let Some((before, group)) = tree.split_once('{') {
        let (group, _) = group.rsplit_once('}').unwrap();
        let mut depth = 0;
        let parts = group.split(|letter| {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0 && letter == ','
        });
        let parts = parts.filter(|part| !part.trim().is_empty());
        return parts.flat_map(|part| leaves(&format!("{before}{part}"))).collect();
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let path: Vec<_> = path.split("::").map(|part| part.trim().to_owned()).collect();
    let name = if alias.is_empty() { path.last().unwrap() } else { alias.trim() }.to_owned();
    vec![(path, name)]
}

impl Crate<'_> {
    fn imported_by(&self, module: &Module) -> BTreeSet<Module> {
        let imports = self.0[module].imports.iter().filter(|import| !import.is_reexport);
        let files = imports.filter_map(|import| self.file_of(module, &import.path));
        files.filter(|file| file != module).collect()
    }

    /// The file that a path leads to, through re-exports; none for a path to another crate.
    fn file_of(&self, from: &Module, path: &[String]) -> Option<Module> {
        let mut at = from.clone();
        for (index, part) in path.iter().enumerate() {
            let below = [at.as_slice(), std::slice::from_ref(part)].concat();
            match part.as_str() {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                _ if self.0.contains_key(&below) => at = below,
                _ if index == 0 => return None,
                name => {
                    let mut reexports = self.0.get(&at)?.imports.iter().filter(|import| import.is_reexport);
                    let reexport = reexports.find(|import| import.name == name);
                    return reexport.and_then(|import| self.file_of(&at, &import.path)).or(Some(at));
                }
            }
        }
        Some(at)
    }
}

/// Files that a file imports, and that those import, and so on; itself if it lies in a circle.
fn reached(from: &Module, edges: &BTreeMap<&Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        next.extend(edges[module].iter().filter(|file| reached.insert((*file).clone())));
    }
    reached
}

fn found(files: &[(&str, &str)]) -> Vec<String> {
    circles(&files.iter().map(|(path, text)| ((*path).to_owned(), format!("{text}\n"))).collect())
}

#[test]
fn files_that_import_each_other_are_a_circle() {
    assert_eq!(
        found(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;"),
            ("a.rs", "use std::fs;\n\nuse crate::{\n    b::{self, One},\n    c::Two as Other,\n};"),
            ("b.rs", "fn late() {\n    use super::c;\n}"),
            ("c.rs", "use crate::a::Three;"),
            ("d.rs", "use crate::a::Three;"),
        ]),
        ["a.rs imports b.rs, a.rs imports c.rs, b.rs imports c.rs, c.rs imports a.rs"]
    );
}

#[test]
fn a_parent_that_imports_from_its_child_and_gives_to_it_is_in_a_circle() {
    assert_eq!(
        found(&[("keys/mod.rs", "mod token;\nuse token::Token;"), ("keys/token.rs", "use super::Key;")]),
        ["keys/mod.rs imports keys/token.rs, keys/token.rs imports keys/mod.rs"]
    );
}

#[test]
fn a_reexport_is_followed_to_its_file() {
    let lib = ("lib.rs", "mod a;\nmod b;\npub use a::One;\npub use b::Two as Second;");
    assert!(found(&[lib, ("a.rs", "use crate::Second;"), ("b.rs", "")]).is_empty());
    assert_eq!(
        found(&[lib, ("a.rs", "use crate::Second;"), ("b.rs", "use crate::One;")]),
        ["a.rs imports b.rs, b.rs imports a.rs"]
    );
}

#[test]
fn what_tests_import_and_what_comments_say_is_no_circle() {
    let test = "#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod tests {\n    use crate::b::Two;\n}";
    let comment = "// use crate::b::Two;";
    for text in [test, comment, "#[cfg(test)]\nuse crate::b::Two;"] {
        assert!(found(&[("a.rs", text), ("b.rs", "use crate::a::One;")]).is_empty(), "{text}");
    }
    let after = format!("{test}\nuse crate::b::Two;");
    assert_eq!(found(&[("a.rs", &after), ("b.rs", "use crate::a::One;")]).len(), 1);
}
