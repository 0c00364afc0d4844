//! What runs in the guests: tests as cargo builds them, and `turnpike`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use serde_json::Value;

use crate::{Workspace, must};

/// The test programs that guests run: the engine's, and that of whole nodes.
pub(crate) const TESTS: [&str; 5] = ["kernel", "wire", "differential", "lifecycle", "edges"];

/// Files.
#[derive(Debug)]
pub(crate) struct Programs {
    /// By the name that they have in guests.
    pub(crate) executables: Vec<(String, PathBuf)>,
    /// The XDP programs.
    pub(crate) object: PathBuf,
    /// Where the engine's tests are run.
    pub(crate) dir: PathBuf,
}

/// Builds them.
pub(crate) fn build(workspace: &Workspace) -> anyhow::Result<Programs> {
    println!("building   turnpike and its tests");
    must(workspace.cargo()?.args(["build", "--quiet", "-p", "turnpike-node"]))?;
    let mut command = workspace.cargo()?;
    command.args(["test", "--quiet", "-p", "turnpike-engine", "-p", "turnpike-demo", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    anyhow::ensure!(output.status.success(), "the tests do not build");
    let text = String::from_utf8(output.stdout).context("cargo did not write text")?;
    let messages: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();

    let mut executables = vec![("turnpike".to_owned(), workspace.target().join("debug/turnpike"))];
    for test in TESTS {
        let file = messages.iter().find_map(|message| test_program(message, test));
        executables.push((test.to_owned(), file.with_context(|| format!("there is no test {test}"))?));
    }
    let object = messages.iter().find_map(object).context("cargo does not say where the XDP programs are")?;
    Ok(Programs { executables, object, dir: workspace.root().join("dataplane/engine") })
}

fn test_program(message: &Value, name: &str) -> Option<PathBuf> {
    let is_it = message["target"]["name"] == name && message["target"]["kind"][0] == "test";
    is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
}

fn object(message: &Value) -> Option<PathBuf> {
    let is_it = message["reason"] == "build-script-executed"
        && message["package_id"].as_str().is_some_and(|id| id.contains("dataplane/engine"));
    is_it.then(|| message["out_dir"].as_str().map(|dir| Path::new(dir).join("turnpike-xdp")))?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_are_found_in_what_cargo_says() {
        let test = json!({"reason": "compiler-artifact", "target": {"name": "wire", "kind": ["test"]}, "executable": "/t/wire-1"});
        assert_eq!(test_program(&test, "wire"), Some(PathBuf::from("/t/wire-1")));
        assert_eq!(test_program(&test, "kernel"), None);
        let script = json!({"reason": "build-script-executed", "package_id": "path+file:///w/dataplane/engine#turnpike-engine@0.1.0", "out_dir": "/t/out"});
        assert_eq!(object(&script), Some(PathBuf::from("/t/out/turnpike-xdp")));
        assert_eq!(object(&test), None);
    }
}
