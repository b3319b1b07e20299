//! The source as the rules of the house see it: the files of `src`, the code in them that is not for tests, and what
//! each imports.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A word, `::` or a sign.
#[derive(Clone, Debug)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path in the code, from the crate's root: `["store", "spool", "Spool"]`.
#[derive(Debug)]
struct Import {
    path: Vec<String>,
    line: usize,
    /// What it is called in this file.
    name: String,
    /// `pub use`, of any visibility.
    is_public: bool,
}

/// One file of `src`.
pub struct File {
    /// Below `src`: `store/spool/mod.rs`.
    pub path: PathBuf,
    /// `["store", "spool"]`.
    module: Vec<String>,
    /// Without tests, comments and text.
    pub code: Vec<Token>,
    imports: Vec<Import>,
    pub lines: usize,
    /// For tests alone: under `cfg(test)`, or `..._tests.rs` beside what it tests.
    pub is_test: bool,
}

/// `from` names something of `to`, both numbers of files.
pub struct Edge {
    pub from: usize,
    pub to: usize,
    pub line: usize,
}

pub struct Source {
    pub files: Vec<File>,
    by_module: HashMap<Vec<String>, usize>,
}

impl Source {
    /// Reads `src`.
    pub fn read() -> Source {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = Vec::new();
        walk(&root, &mut paths);
        paths.sort();
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap();
            (path.strip_prefix(&root).unwrap().to_owned(), text)
        };
        Source::of(paths.iter().map(read).collect())
    }

    /// Of paths below `src` and their texts.
    pub fn of(texts: Vec<(PathBuf, String)>) -> Source {
        let (mut files, mut tests) = (Vec::new(), Vec::new());
        for (path, text) in texts {
            let module = module(&path);
            let (code, for_tests) = without_tests(&tokens(&text));
            tests.extend(for_tests.into_iter().map(|name| child(&module, &name)));
            files.push(File {
                path,
                module,
                code,
                imports: Vec::new(),
                lines: text.lines().count(),
                is_test: false,
            });
        }
        let modules = files.iter().map(|file| file.module.clone());
        let by_module: HashMap<_, _> = modules.zip(0..).collect();
        for file in &mut files {
            let name = file.path.file_stem().unwrap().to_string_lossy();
            let by_name = name.ends_with("_tests") || name.ends_with("_model");
            file.is_test = by_name || tests.iter().any(|test| file.module.starts_with(test));
            file.imports = imports(file, &by_module);
        }
        Source { files, by_module }
    }

    /// Who names what of whom, tests left out.
    pub fn edges(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        for (from, file) in self.files.iter().enumerate() {
            let is_front = file.path == Path::new("lib.rs");
            for import in &file.imports {
                // What a folder's file only hands on is no import of its own.
                let uses = || file.code.iter().filter(|t| t.text == import.name).count();
                let is_handed_on = import.is_public && (is_front || uses() < 2);
                let to = self.resolve(&import.path, 8);
                if !file.is_test && !is_handed_on && to != from {
                    let line = import.line;
                    edges.push(Edge { from, to, line });
                }
            }
        }
        edges
    }

    /// The file that has it, through what others hand on.
    fn resolve(&self, path: &[String], steps: usize) -> usize {
        let known = |len: &usize| self.by_module.contains_key(&path[..*len]);
        let len = (0..=path.len()).rev().find(known).unwrap();
        let at = self.by_module[&path[..len]];
        let handed_on = path.get(len).and_then(|name| {
            let mut imports = self.files[at].imports.iter();
            imports.find(|import| import.name == *name && import.path != path[..=len])
        });
        match handed_on {
            Some(import) if steps > 0 => {
                let further = [&import.path, &path[len + 1..]].concat();
                self.resolve(&further, steps - 1)
            }
            _ => at,
        }
    }
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, paths),
            false => paths.push(path),
        }
    }
}

/// `store/spool/mod.rs` and `store/spool.rs` are `["store", "spool"]`.
fn module(path: &Path) -> Vec<String> {
    let whole = path.with_extension("");
    let parts = whole.iter().map(|part| part.to_string_lossy().into_owned());
    let mut module: Vec<_> = parts.collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

fn child(module: &[String], name: &str) -> Vec<String> {
    [module, &[name.to_owned()]].concat()
}

/// Without comments, the insides of text, and numbers' dots.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(c) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let after_quotes = text_end(rest);
        let (len, token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), "")
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), "")
        } else if let Some(end) = after_quotes {
            (end, "\"\"")
        } else if word > 0 {
            (word, &rest[..word])
        } else if rest.starts_with("::") {
            (2, "::")
        } else {
            (c.len_utf8(), rest[..c.len_utf8()].trim())
        };
        if !token.is_empty() {
            let text = token.to_owned();
            tokens.push(Token { text, line });
        }
        line += rest[..len].matches('\n').count();
        rest = &rest[len..];
    }
    tokens
}

/// The length of a string, character or lifetime at the start.
fn text_end(rest: &str) -> Option<usize> {
    let plain = rest.strip_prefix('b').unwrap_or(rest);
    let skipped = rest.len() - plain.len();
    if let Some(raw) = plain.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let at = raw[hashes + 1..].find(&end)?;
            return Some(skipped + 1 + hashes + 1 + at + end.len());
        }
    }
    let quote = plain.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let mut escaped = false;
    for (at, c) in plain.char_indices().skip(1) {
        if quote == '\'' && at > 1 && !plain[1..].starts_with('\\') && c != '\'' {
            // A lifetime.
            let end = plain[1..].find(|c: char| !c.is_alphanumeric() && c != '_');
            return Some(skipped + 1 + end.unwrap_or(plain.len() - 1));
        }
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(skipped + at + 1),
            _ => {}
        }
    }
    None
}

/// The code that is not under `cfg(test)` or `cfg(loom)`, and the names of the modules of which that leaves nothing.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let (mut code, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let is = |from: usize, texts: &[&str]| {
            let mut pairs = tokens[from..].iter().zip(texts);
            tokens.len() >= from + texts.len() && pairs.all(|(token, text)| token.text == *text)
        };
        let end = closed(tokens, at + 1);
        let attribute = &tokens[at..end];
        let names = |word: &str| attribute.iter().any(|token| token.text == word);
        let hides = is(at, &["#", "[", "cfg"]) && (names("test") || names("loom")) && !names("not");
        if !hides {
            code.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at = end;
        while is(at, &["#", "["]) {
            at = closed(tokens, at + 1);
        }
        let item = at;
        while at < tokens.len() && ![";", "{", ","].contains(&&*tokens[at].text) {
            at = closed(tokens, at);
        }
        let module = tokens[item..at]
            .iter()
            .position(|token| token.text == "mod");
        if let (Some(module), true) = (module, is(at, &[";"])) {
            modules.push(tokens[item + module + 1].text.clone());
        }
        at = closed(tokens, at);
    }
    (code, modules)
}

/// Where what begins at `at` is over: one token, or all up to the closing sign.
fn closed(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (number, token) in tokens.iter().enumerate().skip(at) {
        match &*token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth <= 0 {
            return number + 1;
        }
    }
    tokens.len()
}

/// Every path of this crate that a file names.
fn imports(file: &File, modules: &HashMap<Vec<String>, usize>) -> Vec<Import> {
    let tokens = &file.code;
    let text = |at: usize| tokens.get(at).map_or("", |token| &*token.text);
    let mut imports = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let before = if at == 0 { "" } else { text(at - 1) };
        let mut leaves = Vec::new();
        let (line, mut is_public) = (tokens[at].line, false);
        if text(at) == "use" {
            is_public = ["pub", ")"].contains(&before);
            at = tree(tokens, at + 1, &[], &mut leaves);
        } else if text(at + 1) == "::" && !["::", "in", "."].contains(&before) {
            let mut path = vec![text(at).to_owned()];
            while text(at + 1) == "::" && is_name(text(at + 2)) {
                path.push(text(at + 2).to_owned());
                at += 2;
            }
            leaves.push((path, String::new(), line));
        }
        at += 1;
        for (path, name, line) in leaves {
            if let Some(path) = absolute(&path, &file.module, modules) {
                imports.push(Import {
                    path,
                    line,
                    name,
                    is_public,
                });
            }
        }
    }
    imports
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads a tree of imports; where it ends.
fn tree(
    tokens: &[Token],
    mut at: usize,
    before: &[String],
    leaves: &mut Vec<(Vec<String>, String, usize)>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| &*token.text);
    let mut path = before.to_vec();
    let line = tokens[at].line;
    if text(at) == "::" {
        // Another crate, whatever its name.
        path.push(String::new());
        at += 1;
    }
    loop {
        match text(at) {
            "{" => {
                at += 1;
                while text(at) != "}" && at < tokens.len() {
                    at = tree(tokens, at, &path, leaves);
                    at += usize::from(text(at) == ",");
                }
                return at + 1;
            }
            "self" if !path.is_empty() => at += 1,
            "*" => at += 1,
            name => {
                path.push(name.to_owned());
                at += 1;
            }
        }
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if text(at) == "as" {
        name = text(at + 1).to_owned();
        at += 2;
    }
    leaves.push((path, name, line));
    at
}

/// From the crate's root, if it is of this crate.
fn absolute(
    path: &[String],
    module: &[String],
    modules: &HashMap<Vec<String>, usize>,
) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let (base, rest) = match &*path[0] {
        // `smtpd788` is the name of the library in main.rs.
        "crate" | "smtpd788" => (&[][..], &path[1..]),
        "self" => (module, &path[1..]),
        "super" => (
            &module[..module.len().checked_sub(supers)?],
            &path[supers..],
        ),
        name if modules.contains_key(&child(module, name)) && module != ["main"] => (module, path),
        _ => return None,
    };
    Some([base, rest].concat())
}
