//! Speaks with the kernel's packet filter: puts rule sets in force, hears what changes in them, reads what they refused.
//!
//! Rule sets go in by the program `nft`, in one transaction each. All else is netlink in this process: news come by
//! event (`NFNLGRP_NFTABLES`), and what was refused is read from the sets without a program being started.
//!
//! Everything here is about the network namespace of the thread that makes it (network_namespaces(7)).

use std::io::Write;
use std::process::{Command, Stdio};

use edgewarden_platform::netlink::{
    self, DATAGRAM_BYTES_MAX, Family, Netlink, Received, attribute, attributes, find, messages,
};
use edgewarden_platform::programs;
use edgewarden_policy::nftables::TABLE;

use crate::error::RunError;

/// linux/netfilter/nfnetlink.h: `NFNLGRP_NFTABLES` as a bit.
const CHANGES: u32 = 1 << 6;
/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// `struct nfgenmsg`
const FAMILY_HEADER_BYTES: usize = 4;
const NFPROTO_INET: u8 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

// linux/netfilter/nf_tables.h: enum nf_tables_msg_types
const NEW_SET_ELEMENTS: u16 = 12;
const GET_SET_ELEMENTS: u16 = 13;
const NEW_GENERATION: u16 = 15;
const GET_GENERATION: u16 = 16;

/// Names who changed something; more is not needed to find them.
const AUTHORS_MAX: usize = 4;

/// Puts a rule set in force as a whole. Blocks.
pub fn apply(script: &str) -> Result<(), RunError> {
    let what = || RunError::io("run `nft`");
    let mut child = Command::new(programs::resolve("nft"))
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| RunError::program("nft", "nftables", error))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(what())?;
    }
    let output = child.wait_with_output().map_err(what())?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    Err(RunError::Network(format!("`nft` refused the rules: {said}")))
}

/// Changes of our table since the last look.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct News {
    /// Transactions that touched it.
    pub changes: usize,
    /// Programs that made them, by name and process number, as the kernel tells.
    pub authors: Vec<String>,
    /// More happened than the kernel kept for us.
    pub lost: bool,
}

impl News {
    /// `true` when nothing touched the table, and no news was lost.
    pub fn is_empty(&self) -> bool {
        self.changes == 0 && !self.lost
    }

    /// The authors for people.
    pub fn by(&self) -> String {
        if self.authors.is_empty() { "somebody".into() } else { self.authors.join(", ") }
    }
}

/// The changes of rule sets in one namespace.
#[derive(Debug)]
pub struct Changes {
    socket: Netlink,
    questions: Netlink,
    buffer: Vec<u8>,
    /// Our table was touched in the transaction whose end has not come yet.
    touched: bool,
    /// The number of the last transaction.
    generation: Option<u32>,
}

impl Changes {
    /// Listens for changes of rule sets in the network namespace of the calling thread.
    pub fn open() -> Result<Self, RunError> {
        let open = |groups| Netlink::open(Family::Netfilter, groups);
        let failed = || RunError::io("open a netlink socket for the packet filter");
        Ok(Self {
            socket: open(CHANGES).map_err(failed())?,
            questions: open(0).map_err(failed())?,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
            touched: false,
            generation: None,
        })
    }

    /// Becomes readable when there is news.
    pub fn socket(&self) -> &Netlink {
        &self.socket
    }

    /// Takes all news that wait. Never waits itself.
    pub fn take(&mut self) -> Result<News, RunError> {
        let mut news = News::default();
        loop {
            let received = self.socket.receive(&mut self.buffer);
            match received.map_err(RunError::io("hear of changes of the rules"))? {
                Received::Nothing => return Ok(news),
                Received::Lost => {
                    news.lost = true;
                    self.generation = None;
                }
                Received::Datagram(datagram) => {
                    for (kind, payload) in messages(datagram) {
                        if kind >> 8 == SUBSYSTEM {
                            hear(kind & 0xff, payload, &mut self.touched, &mut self.generation, &mut news);
                        }
                    }
                }
            }
        }
    }

    /// Was a change of ours, made after `before` was the last, the only one of which there are news? What the kernel did
    /// not keep for us is counted by its numbers.
    pub fn is_only(&mut self, before: Option<u32>, news: &News) -> Result<bool, RunError> {
        if !news.lost {
            return Ok(news.changes <= 1);
        }
        let after = self.last()?;
        self.generation = after;
        Ok(before.zip(after).is_some_and(|(before, after)| after == before.wrapping_add(1)))
    }

    /// Asks the kernel for the number of its last transaction: false when one passed of which no news came.
    pub fn is_complete(&mut self) -> Result<bool, RunError> {
        let now = self.last()?;
        let complete = self.generation.is_none() || now.is_none() || self.generation == now;
        self.generation = now;
        Ok(complete)
    }

    /// The number of the kernel's last transaction.
    pub fn last(&mut self) -> Result<Option<u32>, RunError> {
        let kind = SUBSYSTEM << 8 | GET_GENERATION;
        let failed = || RunError::io("ask for the generation of the rules");
        self.questions.ask(kind, &[0; FAMILY_HEADER_BYTES]).map_err(failed())?;
        let Received::Datagram(datagram) = self.questions.receive(&mut self.buffer).map_err(failed())? else {
            return Ok(None);
        };
        Ok(messages(datagram)
            .find(|(kind, _)| *kind == SUBSYSTEM << 8 | NEW_GENERATION)
            .and_then(|(_, payload)| generation(payload.get(FAMILY_HEADER_BYTES..)?)))
    }

    /// The keys of a set of ours with the packets that each counted. A set that is not there is empty.
    pub fn counted(&mut self, set: &str) -> Result<Vec<(Vec<u8>, u64)>, RunError> {
        let zero_ended = |text: &str| [text.as_bytes(), &[0]].concat();
        let mut question = vec![NFPROTO_INET, 0, 0, 0];
        question.extend(attribute(1, &zero_ended(TABLE)));
        question.extend(attribute(2, &zero_ended(set)));
        let failed = || RunError::io("read what was refused");
        self.questions.ask(SUBSYSTEM << 8 | GET_SET_ELEMENTS, &question).map_err(failed())?;
        let mut found = Vec::new();
        loop {
            let Received::Datagram(datagram) = self.questions.receive(&mut self.buffer).map_err(failed())?
            else {
                return Ok(found);
            };
            for (kind, payload) in messages(datagram) {
                match kind {
                    NLMSG_DONE | NLMSG_ERROR => return Ok(found),
                    kind if kind == SUBSYSTEM << 8 | NEW_SET_ELEMENTS => {
                        let attributes = payload.get(FAMILY_HEADER_BYTES..).unwrap_or_default();
                        found.extend(elements(attributes));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn hear(kind: u16, payload: &[u8], touched: &mut bool, last: &mut Option<u32>, news: &mut News) {
    let (Some(family), Some(about)) = (payload.first(), payload.get(FAMILY_HEADER_BYTES..)) else { return };
    if kind == NEW_GENERATION {
        *last = generation(about);
        if std::mem::take(touched) {
            news.changes = news.changes.saturating_add(1);
            let author = author(about);
            if news.authors.len() < AUTHORS_MAX && !news.authors.contains(&author) {
                news.authors.push(author);
            }
        }
    } else if *family == NFPROTO_INET && find(about, 1).map(netlink::text) == Some(TABLE) {
        // Of tables, chains, rules, sets and their elements alike the first attribute is the table's name.
        *touched = true;
    }
}

/// `NFTA_GEN_ID`
fn generation(attributes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*find(attributes, 1)?.first_chunk()?))
}

/// `NFTA_GEN_PROC_NAME` and `NFTA_GEN_PROC_PID`
fn author(attributes: &[u8]) -> String {
    let name = find(attributes, 3).map(netlink::text).filter(|name| !name.is_empty());
    let process = find(attributes, 2).and_then(|value| Some(u32::from_be_bytes(*value.first_chunk()?)));
    let name = name.unwrap_or("somebody").escape_debug();
    process.map_or_else(|| format!("`{name}`"), |process| format!("`{name}` (process {process})"))
}

/// `NFTA_SET_ELEM_LIST_ELEMENTS`: lists of `NFTA_SET_ELEM_KEY` and, as its expression, a counter.
fn elements(message: &[u8]) -> Vec<(Vec<u8>, u64)> {
    const ELEMENTS: u16 = 3;
    const KEY: u16 = 1;
    const VALUE: u16 = 1;
    const EXPRESSION: u16 = 7;
    const DATA: u16 = 2;
    const PACKETS: u16 = 2;
    let list = find(message, ELEMENTS).unwrap_or_default();
    let element = |element: &[u8]| {
        let key = find(find(element, KEY)?, VALUE)?.to_vec();
        let packets = find(element, EXPRESSION)
            .and_then(|expression| find(find(expression, DATA)?, PACKETS)?.first_chunk().copied())
            .map_or(1, u64::from_be_bytes);
        Some((key, packets))
    };
    attributes(list).filter_map(|(_, value)| element(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(20 + attributes.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn only_a_change_of_our_table_is_news_and_its_author_is_named() {
        let generation =
            [attribute(1, &9_u32.to_be_bytes()), attribute(2, &77_u32.to_be_bytes()), attribute(3, b"nft\0")]
                .concat();
        for (what, change, expected) in [
            ("a rule of ours", message(8, NFPROTO_INET, &attribute(1, b"edgewarden\0")), 1),
            ("another table", message(2, NFPROTO_INET, &attribute(1, b"filter\0")), 0),
            ("another family", message(2, 2, &attribute(1, b"edgewarden\0")), 0),
            ("a longer name", message(2, NFPROTO_INET, &attribute(1, b"edgewarden2\0")), 0),
            ("nothing", Vec::new(), 0),
        ] {
            let datagram = [change, message(NEW_GENERATION, 0, &generation)].concat();
            let (mut touched, mut last, mut news) = (false, None, News::default());
            for (kind, payload) in messages(&datagram) {
                hear(kind & 0xff, payload, &mut touched, &mut last, &mut news);
            }
            assert_eq!((news.changes, last), (expected, Some(9)), "{what}");
            assert_eq!(
                news.authors.first().map(String::as_str),
                (expected > 0).then_some("`nft` (process 77)")
            );
        }
    }
}
