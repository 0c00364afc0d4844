//! Rules that a compiler does not know: who may import whom, where `unsafe` may stand, how long a file may be.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use crate::{Workspace, output};

/// The only files that may say `unsafe`.
const UNSAFE_FILES: &[&str] = &[
    "dataplane/engine/src/map.rs",
    "dataplane/engine/src/sys.rs",
    "ebpf-programs/src/bench/baseline.rs",
    "ebpf-programs/src/bench/rotation.rs",
    "ebpf-programs/src/frame.rs",
    "ebpf-programs/src/programs.rs",
    "ebpf-programs/src/route.rs",
    "ebpf-programs/src/tables.rs",
];

const FILE_LINES_MAX: usize = 800;

/// Which packages from outside a crate may import.
enum Outside {
    Only(&'static [&'static str]),
    AllBut(&'static [(&'static str, &'static str)]),
}

/// One row of the design's table "who may import whom".
struct ImportRule {
    package: &'static str,
    ours: &'static [&'static str],
    outside: Outside,
    why: &'static str,
}

const NO_RUNTIME: &str = "the data plane is poll-mode threads, an async runtime has no place in it";
const NO_SOCKETS: &str = "decisions and codecs are sans-IO, so that a simulation can run them";
const NO_DATAPLANE: &str = "stores know records, not maps";

const IMPORT_RULES: &[ImportRule] = &[
    ImportRule {
        package: "turnpike-fastpath",
        ours: &[],
        outside: Outside::Only(&["zerocopy"]),
        why: "the packet logic runs inside the kernel and knows nothing but packets",
    },
    ImportRule {
        package: "turnpike-ebpf-programs",
        ours: &["turnpike-fastpath"],
        outside: Outside::Only(&["aya-ebpf", "zerocopy"]),
        why: "the programs only host fastpath",
    },
    ImportRule {
        package: "turnpike-engine",
        ours: &["turnpike-fastpath"],
        outside: Outside::AllBut(&[
            ("tokio", NO_RUNTIME),
            ("async-std", NO_RUNTIME),
            ("smol", NO_RUNTIME),
            ("axum", NO_RUNTIME),
            ("hyper", NO_RUNTIME),
            ("rusqlite", "the engine keeps nothing but maps"),
        ]),
        why: "the data plane does not know the control plane",
    },
    ImportRule {
        package: "turnpike-broker",
        ours: &[],
        outside: Outside::Only(&["serde", "siphasher", "thiserror", "tracing"]),
        why: "the decisions have no clock, no socket, no map and no randomness",
    },
    ImportRule {
        package: "turnpike-simulation",
        ours: &["turnpike-broker"],
        outside: Outside::Only(&["clap"]),
        why: "a simulated world has only the broker and what its seed decides",
    },
    ImportRule {
        package: "turnpike-protocols",
        ours: &[],
        outside: Outside::AllBut(&[
            ("tokio", NO_SOCKETS),
            ("mio", NO_SOCKETS),
            ("socket2", NO_SOCKETS),
            ("axum", NO_SOCKETS),
            ("hyper", NO_SOCKETS),
            ("chrono", NO_SOCKETS),
        ]),
        why: "codecs are sans-IO and do not know the broker",
    },
    ImportRule {
        package: "turnpike-api",
        ours: &["turnpike-broker"],
        outside: Outside::AllBut(&[
            ("tokio", "the types are for every client"),
            ("axum", "the types are for every client"),
            ("aya", "the types are for every client"),
        ]),
        why: "the API's types stand on the broker's words alone",
    },
    ImportRule {
        package: "turnpike-authorization",
        ours: &[],
        outside: Outside::Only(&["pasetors", "serde", "serde_json", "thiserror", "time"]),
        why: "tokens are judged without a clock, a file or a socket",
    },
    ImportRule {
        package: "turnpike-store",
        ours: &["turnpike-broker"],
        outside: Outside::AllBut(&[("aya", NO_DATAPLANE), ("xsk-rs", NO_DATAPLANE)]),
        why: "a store implements the broker's store traits",
    },
    ImportRule {
        package: "turnpike-node",
        ours: &[
            "turnpike-api",
            "turnpike-authorization",
            "turnpike-broker",
            "turnpike-engine",
            "turnpike-fastpath",
            "turnpike-protocols",
            "turnpike-store",
        ],
        outside: Outside::AllBut(&[]),
        why: "the node is where the product meets",
    },
    ImportRule {
        package: "turnpike-demo",
        ours: &["turnpike-api", "turnpike-broker", "turnpike-engine", "turnpike-fastpath"],
        outside: Outside::AllBut(&[]),
        why: "the demo drives the product from outside",
    },
    ImportRule {
        package: "turnpike-perf",
        ours: &[
            "turnpike-api",
            "turnpike-broker",
            "turnpike-demo",
            "turnpike-engine",
            "turnpike-fastpath",
            "turnpike-protocols",
            "turnpike-store",
        ],
        outside: Outside::AllBut(&[]),
        why: "benchmarks measure the product from outside",
    },
    ImportRule {
        package: "xtask",
        ours: &[],
        outside: Outside::AllBut(&[]),
        why: "set-up must build before anything of ours can",
    },
];

/// The broker's feature that only tests may ask for.
const PLANTED_BUGS: &str = "planted-bugs";

/// `cargo xtask check`.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    let imports = report("import rules", &imports(workspace)?);
    let sources = report("source rules", &sources(workspace)?);
    Ok(if imports && sources { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what is broken and says whether nothing is.
pub(crate) fn report(what: &str, broken: &[String]) -> bool {
    for line in broken {
        println!("{line}");
    }
    println!("{what}: {}", if broken.is_empty() { "ok".to_owned() } else { format!("{} broken", broken.len()) });
    broken.is_empty()
}

/// Every broken import rule.
pub(crate) fn imports(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    Ok(broken_imports(&metadata(workspace)?))
}

fn metadata(workspace: &Workspace) -> anyhow::Result<Value> {
    let text = output(workspace.cargo()?.args(["metadata", "--no-deps", "--format-version=1"]))?;
    serde_json::from_str(&text).context("cargo metadata did not write JSON")
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn broken_imports(metadata: &Value) -> Vec<String> {
    let ours: Vec<&str> = packages(metadata).map(|package| text(package, "name")).collect();
    let mut broken = Vec::new();
    for package in packages(metadata) {
        let name = text(package, "name");
        let Some(rule) = IMPORT_RULES.iter().find(|rule| rule.package == name) else {
            broken.push(format!("crate {name} has no import rule: say in xtask/src/check.rs what it may import"));
            continue;
        };
        // The kind is null for what the product itself is built of.
        let imported =
            package["dependencies"].as_array().into_iter().flatten().filter(|import| import["kind"].is_null());
        for import in imported {
            let mut features = import["features"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let import = text(import, "name");
            if let Some(reason) = forbidden(rule, import, ours.contains(&import)) {
                broken.push(format!("crate {name} must not import {import}: {reason}"));
            }
            if features.any(|feature| feature == PLANTED_BUGS) {
                broken.push(format!(
                    "crate {name} must not import {import} with {PLANTED_BUGS}: bugs on purpose are for tests"
                ));
            }
        }
    }
    broken
}

fn forbidden(rule: &ImportRule, import: &str, is_ours: bool) -> Option<&'static str> {
    if is_ours {
        return (!rule.ours.contains(&import)).then_some(rule.why);
    }
    match rule.outside {
        Outside::Only(allowed) => (!allowed.contains(&import)).then_some(rule.why),
        Outside::AllBut(never) => never.iter().find(|(name, _)| *name == import).map(|(_, why)| *why),
    }
}

/// Every broken rule on source files.
pub(crate) fn sources(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let root = workspace.root();
    let mut files = Vec::new();
    source_files(root, &mut files)?;
    files.sort();
    let mut broken = Vec::new();
    for file in &files {
        let source = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned();
        broken.extend(broken_source(&name, &source));
    }
    for crate_root in crate_roots(&metadata(workspace)?, root) {
        let source =
            std::fs::read_to_string(&crate_root).with_context(|| format!("cannot read {}", crate_root.display()))?;
        if !forbids_unsafe(&source) {
            let name = crate_root.strip_prefix(root).unwrap_or(&crate_root);
            broken.push(format!("{}: a crate without unsafe code says #![forbid(unsafe_code)]", name.display()));
        }
    }
    Ok(broken)
}

fn source_files(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && !path.is_symlink() {
            if name != "target" && !name.starts_with('.') {
                source_files(&path, files)?;
            }
        } else if [".rs", ".sh", ".py", ".lua", ".c"].iter().any(|end| name.ends_with(end)) {
            files.push(path);
        }
    }
    Ok(())
}

fn broken_source(name: &str, source: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        broken.push(format!("{name}: {lines} lines, more than {FILE_LINES_MAX}: split it"));
    }
    if name.ends_with(".rs") && !UNSAFE_FILES.contains(&name) {
        for line in unsafe_lines(source) {
            broken.push(format!("{name}:{line}: unsafe code only in {}", UNSAFE_FILES.join(", ")));
        }
    }
    broken
}

/// The roots of libraries and programs of packages in which no file may have unsafe code.
fn crate_roots(metadata: &Value, root: &Path) -> Vec<PathBuf> {
    packages(metadata)
        .filter(|package| {
            let dir = Path::new(text(package, "manifest_path")).parent().unwrap_or(root);
            let may = |file: &&str| root.join(file).starts_with(dir) && root.join(file).is_file();
            !UNSAFE_FILES.iter().any(may)
        })
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter(|target| {
            let kinds = target["kind"].as_array().into_iter().flatten().filter_map(Value::as_str);
            kinds.into_iter().any(|kind| matches!(kind, "lib" | "bin" | "proc-macro"))
        })
        .map(|target| PathBuf::from(text(target, "src_path")))
        .collect()
}

fn forbids_unsafe(source: &str) -> bool {
    let code: String = code_only(source).split_whitespace().collect();
    code.contains("#![forbid(unsafe_code)]")
}

/// Lines with the keyword, but not with `#[unsafe(…)]`: attributes such as `no_mangle` must be written so.
fn unsafe_lines(source: &str) -> Vec<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let code = code_only(source);
    let found = code.match_indices("unsafe").filter(|(at, word)| {
        let (before, after) = (&code[..*at], &code[at + word.len()..]);
        !before.ends_with(is_word) && !after.starts_with(is_word) && !after.starts_with('(')
    });
    found.map(|(at, _)| code[..at].matches('\n').count() + 1).collect()
}

/// The source with comments and the contents of literals taken out and its lines kept.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_length(rest)
        } else if first == '"' {
            string_length(rest)
        } else if first == 'r' && !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            raw_string_length(rest)
        } else if first == '\'' {
            char_length(rest)
        } else {
            0
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (skipped, after) = rest.split_at(length);
            code.push(' ');
            code.extend(skipped.chars().filter(|c| *c == '\n'));
            rest = after;
        }
    }
    code
}

fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// 0 if it is no raw string.
fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let start = 1 + hashes;
    if !text[start..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[start + 1..].find(&end).map_or(text.len(), |at| start + 1 + at + end.len())
}

/// 0 if it is a lifetime.
fn char_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    let Some((_, first)) = chars.next() else { return 0 };
    if first == '\\' {
        return text[3..].find('\'').map_or(text.len(), |at| 3 + at + 1);
    }
    match chars.next() {
        Some((at, '\'')) => at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, imports: &[(&str, Option<&str>)]) -> Value {
        let imports: Vec<_> = imports.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        json!({"name": name, "dependencies": imports})
    }

    #[test]
    fn the_design_holds() {
        let metadata = json!({"packages": [
            package("turnpike-fastpath", &[("zerocopy", None), ("proptest", Some("dev"))]),
            package("turnpike-broker", &[("serde", None), ("turnpike-engine", Some("dev"))]),
            package("turnpike-engine", &[("turnpike-fastpath", None), ("aya", None), ("aya-build", Some("build"))]),
            package("turnpike-node", &[("turnpike-engine", None), ("turnpike-broker", None), ("tokio", None)]),
        ]});
        assert_eq!(broken_imports(&metadata), Vec::<String>::new());
    }

    #[test]
    fn each_broken_rule_is_named_with_its_reason() {
        let metadata = json!({"packages": [
            package("turnpike-fastpath", &[("libc", None)]),
            package("turnpike-engine", &[("turnpike-broker", None), ("tokio", None)]),
            package("turnpike-broker", &[("turnpike-fastpath", None), ("rand", None)]),
            package("turnpike-store", &[("turnpike-engine", None)]),
            package("turnpike-demo", &[("turnpike-node", None)]),
            package("turnpike-node", &[]),
            package("turnpike-new", &[]),
            package("xtask", &[("turnpike-fastpath", None)]),
        ]});
        let broken = broken_imports(&metadata);
        let starts = [
            "crate turnpike-fastpath must not import libc: the packet logic",
            "crate turnpike-engine must not import turnpike-broker: the data plane",
            "crate turnpike-engine must not import tokio: the data plane is poll-mode",
            "crate turnpike-broker must not import turnpike-fastpath: the decisions",
            "crate turnpike-broker must not import rand: the decisions",
            "crate turnpike-store must not import turnpike-engine: a store",
            "crate turnpike-demo must not import turnpike-node: the demo",
            "crate turnpike-new has no import rule",
            "crate xtask must not import turnpike-fastpath: set-up",
        ];
        assert_eq!(broken.len(), starts.len(), "{broken:#?}");
        for (line, start) in broken.iter().zip(starts) {
            assert!(line.starts_with(start), "{line:?} does not start with {start:?}");
        }
    }

    #[test]
    fn bugs_on_purpose_are_for_tests_only() {
        let import = |kind: Option<&str>| {
            let broker = json!({"name": "turnpike-broker", "kind": kind, "features": ["planted-bugs"]});
            json!({"packages": [package("turnpike-broker", &[]), {"name": "turnpike-simulation", "dependencies": [broker]}]})
        };
        assert_eq!(broken_imports(&import(Some("dev"))), Vec::<String>::new());
        let broken = broken_imports(&import(None));
        assert!(
            broken.len() == 1 && broken[0].ends_with("with planted-bugs: bugs on purpose are for tests"),
            "{broken:?}"
        );
    }

    #[test]
    fn the_node_is_imported_by_nobody() {
        assert!(IMPORT_RULES.iter().all(|rule| !rule.ours.contains(&"turnpike-node")));
    }

    #[test]
    fn unsafe_is_found_in_code_only() {
        let source = r##"
// unsafe { in a comment }
/* unsafe /* nested */ fn */
const A: &str = "unsafe { \" }";
const B: &str = r#"unsafe " fn"#;
const C: [char; 3] = ['"', '\'', '\u{22}'];
#![deny(unsafe_code)]
#[unsafe(no_mangle)]
fn f<'a>(x: &'a str) { unsafe { g(x) } }
  unsafe
fn h() {}
"##;
        assert_eq!(unsafe_lines(source), [9, 10]);
    }

    #[test]
    fn unsafe_is_free_in_the_files_for_it() {
        assert_eq!(broken_source("dataplane/engine/src/sys.rs", "unsafe fn f() {}").len(), 0);
        assert_eq!(broken_source("dataplane/engine/src/lib.rs", "unsafe fn f() {}").len(), 1);
    }

    #[test]
    fn long_files_are_named() {
        assert_eq!(broken_source("a.rs", &"\n".repeat(FILE_LINES_MAX)).len(), 0);
        assert_eq!(broken_source("a.rs", &"\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
    }

    #[test]
    fn forbidding_in_a_comment_does_not_count() {
        assert!(forbids_unsafe("//! Hello\n#![forbid(unsafe_code)]\n"));
        assert!(!forbids_unsafe("// #![forbid(unsafe_code)]\n"));
        assert!(!forbids_unsafe("#![deny(unsafe_code)]\n"));
    }
}
