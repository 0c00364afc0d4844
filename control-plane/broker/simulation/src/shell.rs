//! The shell around a broker, as the node's own is: inputs that wait are handled together, their changes are one transaction, and no effect is
//! carried out before that.

use std::collections::VecDeque;

use turnpike_broker::Output;
use turnpike_broker::record::Change;

use crate::checker::{Held, Rule};
use crate::node::{Incoming, Job, Message};
use crate::time::{MS, US};
use crate::world::{Event, World};

impl World {
    /// To the thread that owns the broker, which takes all that has come once it gets to it.
    pub(crate) fn give(&mut self, index: usize, message: Message) {
        let after_ns = self.random.between(10 * US, 2 * MS);
        let node = &mut self.nodes[index];
        node.inbox.push(message);
        if !std::mem::replace(&mut node.work_is_due, true) {
            self.queue.at(self.now.plus(after_ns), Event::Work { node: index, life: node.life });
        }
    }

    pub(crate) fn work(&mut self, index: usize, life: u32) -> Held {
        let node = &mut self.nodes[index];
        if self.now < node.paused_until {
            self.queue.at(node.paused_until, Event::Work { node: index, life });
            return Ok(());
        }
        node.work_is_due = false;
        if self.options.trace {
            node.inbox.iter().for_each(|message| println!("{} n{index} < {:?}", self.now.0, message.input));
        }
        self.checker.hears(index, &node.inbox);
        let (changes, effects) = node.handle_all(self.now)?;
        self.checker.sends(index, &effects);
        self.checker.worked(index, &self.nodes[index])?;
        self.carry_out(index, changes, effects)?;
        if self.nodes[index].life == life {
            self.checker.holds_end(index, &self.nodes[index])?;
            self.checker.is_enforced_in_time(index, &self.nodes[index], self.now)?;
        }
        Ok(())
    }

    /// One transaction, then the effects, one after the other. The process may die before, between and after all of these.
    pub(crate) fn carry_out(&mut self, index: usize, changes: Vec<Change>, effects: VecDeque<Output>) -> Held {
        let nothing = changes.is_empty() && effects.is_empty();
        if !nothing && self.dies(index, "before the transaction") {
            return Ok(());
        }
        self.checker.keeps_together(&changes);
        for change in &changes {
            if self.options.trace {
                println!("{} n{index} = {change:?}", self.now.0);
            }
            self.checker.change(&self.nodes, index, change)?;
        }
        let jobs = self.nodes[index].jobs.len();
        self.nodes[index].persist(changes);
        if self.nodes[index].jobs.len() > jobs {
            self.job_later(index);
        }
        if !nothing && self.dies(index, "after the transaction") {
            return Ok(());
        }
        for effect in effects {
            if self.options.trace {
                println!("{} n{index} > {effect:?}", self.now.0);
            }
            self.checker.effect(&self.nodes, index, &effect)?;
            let after = self.effect(index, effect);
            self.note(index as u64 ^ (after.len() as u64) << 32);
            if self.dies(index, after) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The history goes on with this.
    const fn note(&mut self, what: u64) {
        self.digest = (self.digest ^ self.now.0).wrapping_mul(0x0100_0000_01b3);
        self.digest = (self.digest ^ what).wrapping_mul(0x0100_0000_01b3);
    }

    fn effect(&mut self, index: usize, effect: Output) -> &'static str {
        let life = self.nodes[index].life;
        match effect {
            Output::Persist(_) => "after a change",
            Output::Notify { session, state, .. } => {
                for (after_ns, step) in self.clients.noticed(index, &session, state) {
                    self.queue.at(self.now.plus(after_ns), Event::Client(step));
                }
                "after a notice"
            }
            Output::Install { ticket, policies, .. } => {
                let fails = !self.is_calm && self.random.chance(self.climate.install_failure);
                self.installs_failed += u64::from(fails);
                self.nodes[index].jobs.push_back(Job::Install { ticket, policies, fails });
                self.job_later(index);
                "after an installation"
            }
            Output::ChangeMeters { ticket, meters } => {
                let fails = !self.is_calm && self.random.chance(self.climate.install_failure);
                self.nodes[index].jobs.push_back(Job::Change { ticket, meters, fails });
                self.job_later(index);
                "after a change of meters"
            }
            Output::Deinstall { ticket, policies } => {
                self.nodes[index].jobs.push_back(Job::Deinstall { ticket, policies });
                self.job_later(index);
                "after a deinstallation"
            }
            Output::Send { ticket, peer, request, token, deadline } => {
                let node = &mut self.nodes[index];
                node.outgoing.insert(ticket);
                let (epoch, until) = (node.config.epoch, node.clock.when(deadline));
                let answer = Err("no answer in time".to_owned());
                self.queue.at(until, Event::Reply { to: index, life, ticket, answer });
                if let Some(to) = self.nodes.iter().position(|node| node.config.node == peer) {
                    let to_life = self.nodes[to].life;
                    for at in self.network.send(index, to, self.now) {
                        let (request, token) = (request.clone(), token.clone());
                        let from = index;
                        let event =
                            Event::Request { from, from_life: life, ticket, to, to_life, epoch, request, token };
                        self.queue.at(at, event);
                    }
                }
                "after a message"
            }
            Output::Answer { ticket, answer } => {
                self.nodes[index].asked.remove(&ticket);
                for (after_ns, step) in self.clients.answered(index, ticket, &answer) {
                    self.queue.at(self.now.plus(after_ns), Event::Client(step));
                }
                "after an answer to a client"
            }
            Output::PeerAnswer { ticket, answer } => {
                if let Some(Incoming { from, from_life, ticket, .. }) = self.nodes[index].incoming.remove(&ticket) {
                    let arrivals = self.network.send(index, from, self.now);
                    if arrivals.is_empty() {
                        self.break_off(index, from, from_life, ticket);
                    }
                    for at in arrivals {
                        let answer = Ok(answer.clone());
                        self.queue.at(at, Event::Reply { to: from, life: from_life, ticket, answer });
                    }
                }
                "after an answer to a peer"
            }
            Output::WakeAt(at) => {
                let node = &mut self.nodes[index];
                node.wake = Some(at);
                let when = node.clock.when(at).max(self.now);
                self.queue.at(when, Event::Wake { node: index, life, at });
                "after a timer"
            }
        }
    }

    fn job_later(&mut self, node: usize) {
        let at = self.now.plus(self.random.between(50 * US, 5 * MS));
        self.queue.at(at, Event::Job { node, life: self.nodes[node].life });
    }

    pub(crate) fn job(&mut self, index: usize, life: u32) -> Held {
        let node = &mut self.nodes[index];
        if self.now < node.paused_until {
            self.queue.at(node.paused_until, Event::Job { node: index, life });
            return Ok(());
        }
        let (touched, changes) = match node.jobs.front() {
            Some(Job::Install { policies, .. }) => (policies.iter().map(|(id, _)| *id).collect(), false),
            Some(Job::Change { meters, fails, .. }) => (meters.iter().map(|(id, ..)| *id).collect(), !fails),
            Some(Job::Deinstall { .. } | Job::Forget { .. }) | None => (Vec::new(), false),
        };
        match node.do_job() {
            Ok(Some(report)) => self.give(index, report),
            Ok(None) => {}
            Err(detail) => return Err((Rule::DataPlane, detail)),
        }
        if changes {
            self.checker.reads(index, &touched);
        }
        self.checker.rates_fit(&self.nodes, index, &touched)
    }
}
