//! What an orchestrator does: REST calls to a node, from inside the node's namespace.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use turnpike_api::{Page, Problem};

use crate::topology::Namespace;

/// Longer than a node takes to give up on a request.
const TIMEOUT: Duration = Duration::from_secs(35);

/// Yes, or no with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// Done.
    Done(T),
    /// Refused.
    Refused(Box<Problem>),
}

/// One node's API.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    namespace: &'a Namespace,
    address: &'a str,
}

enum Verb<'a> {
    Get,
    Post(&'a Value),
    Patch(&'a Value),
    Delete,
}

impl<'a> Client<'a> {
    /// The API that listens on `address` inside `namespace`.
    #[must_use]
    pub const fn new(namespace: &'a Namespace, address: &'a str) -> Self {
        Self { namespace, address }
    }

    /// Reads a resource.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub fn get<T: DeserializeOwned + Send>(&self, path: &str) -> anyhow::Result<T> {
        self.done(&Verb::Get, path)
    }

    /// Reads all pages of a list.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub fn list<T: DeserializeOwned + Send>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        let mut items = Vec::new();
        let mut page: Page<T> = self.get(path)?;
        loop {
            items.append(&mut page.items);
            let Some(after) = page.next else { return Ok(items) };
            page = self.get(&format!("{path}?after={after}"))?;
        }
    }

    /// Makes a resource.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub fn post<T: DeserializeOwned + Send>(&self, path: &str, body: &Value) -> anyhow::Result<Answer<T>> {
        self.call(&Verb::Post(body), path)
    }

    /// Makes a resource that must not be refused.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub fn create<T: DeserializeOwned + Send>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        self.done(&Verb::Post(body), path)
    }

    /// Changes a resource, which must not be refused.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub fn patch<T: DeserializeOwned + Send>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        self.done(&Verb::Patch(body), path)
    }

    /// Ends a resource and gives what it was at the end; null if the node says nothing.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub fn delete<T: DeserializeOwned + Send>(&self, path: &str) -> anyhow::Result<T> {
        self.done(&Verb::Delete, path)
    }

    fn done<T: DeserializeOwned + Send>(&self, verb: &Verb<'_>, path: &str) -> anyhow::Result<T> {
        match self.call(verb, path)? {
            Answer::Done(answer) => Ok(answer),
            Answer::Refused(problem) => {
                bail!("{path} in {}: {} ({})", self.namespace.name(), problem.detail, problem.code)
            }
        }
    }

    fn call<T: DeserializeOwned + Send>(&self, verb: &Verb<'_>, path: &str) -> anyhow::Result<Answer<T>> {
        let at = || format!("{path} in {}", self.namespace.name());
        let (status, text) = self.namespace.run(|| self.exchange(verb, path)).with_context(at)?;
        let text = if text.trim().is_empty() { "null" } else { &text };
        if (200..300).contains(&status) {
            let answer = serde_json::from_str(text).with_context(|| format!("{} answered {text}", at()))?;
            return Ok(Answer::Done(answer));
        }
        let problem = serde_json::from_str(text).with_context(|| format!("{} answered {status}: {text}", at()))?;
        Ok(Answer::Refused(Box::new(problem)))
    }

    fn exchange(&self, verb: &Verb<'_>, path: &str) -> anyhow::Result<(u16, String)> {
        // A connection belongs to the namespace of the thread that made it, so none is kept.
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_idle_connections(0)
            .proxy(None)
            .build()
            .into();
        let url = format!("http://{}{path}", self.address);
        let mut response = match verb {
            Verb::Get => agent.get(url).call(),
            Verb::Post(body) => agent.post(url).send_json(body),
            Verb::Patch(body) => agent.patch(url).send_json(body),
            Verb::Delete => agent.delete(url).call(),
        }?;
        Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
    }
}
