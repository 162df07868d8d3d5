//! One transfer: the scheduler of `content-store` with its clock, streams and consumer.
//!
//! Chunks are looked for here first, then asked of peers. They go to the consumer in order, each verified; nothing is
//! kept. A transfer that gets nothing for a minute ends, and its report says who was tried and how that went.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use content_store::Checked;
use content_store::download::{Action, Download, Source, Wanted};
use os_content_id::{Hash, Mcid};
use os_identity::NodeId;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::local::blocking;
use crate::node::Node;
use crate::peer_link::{LinkEvent, PeerLink};
use crate::peers::Peers;

/// Between two lookups of providers, while more are needed.
const LOOKUP_MS: u64 = 3_000;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two updates of the report.
const REPORT_MS: u64 = 250;
/// Providers named in a report.
const MAX_NAMED: usize = 64;

/// A chunk on its way to the consumer.
struct Front {
    bytes: Arc<Vec<u8>>,
    sent: usize,
}

struct Transfer<P> {
    node: Arc<Node<P>>,
    content: Mcid,
    download: Download<NodeId>,
    links: HashMap<NodeId, (u64, PeerLink)>,
    serial: u64,
    report_id: u64,
    bytes_done: u64,
    started: Instant,
    reported_at: u64,
    next_lookup: u64,
    looking_up: bool,
    lookup_error: Option<String>,
    link_events: mpsc::Sender<(NodeId, u64, LinkEvent)>,
    other_events: mpsc::Sender<Event>,
}

enum Event {
    Local(Hash, Option<Checked>),
    Providers(Result<Vec<NodeId>>),
}

/// Writes the wanted chunks to `out`, then closes it. Errors are in the report, too.
pub async fn run<P: Peers>(
    node: Arc<Node<P>>,
    content: Mcid,
    wanted: Vec<Wanted>,
    out: UnixStream,
) -> Result<()> {
    let total = wanted.iter().map(|w| u64::from(w.len)).sum();
    let report_id = node.transfers.start(&content, total);
    let (link_events, links) = mpsc::channel(4);
    let (other_events, others) = mpsc::channel(16);
    let mut transfer = Transfer {
        download: Download::new(wanted, 0),
        node,
        content,
        links: HashMap::new(),
        serial: 0,
        report_id,
        bytes_done: 0,
        started: Instant::now(),
        reported_at: 0,
        next_lookup: 0,
        looking_up: false,
        lookup_error: None,
        link_events,
        other_events,
    };
    let result = transfer.run(out, links, others).await;
    transfer.report(result.as_ref().err());
    result
}

impl<P: Peers> Transfer<P> {
    async fn run(
        &mut self,
        mut out: UnixStream,
        mut links: mpsc::Receiver<(NodeId, u64, LinkEvent)>,
        mut others: mpsc::Receiver<Event>,
    ) -> Result<()> {
        let mut front: Option<Front> = None;
        loop {
            if front.is_none() {
                front = self.next_front();
            }
            let now = self.now();
            for action in self.download.poll(now) {
                self.act(action);
            }
            if front.is_none() && self.download.finished() {
                return out.shutdown().await.context("closing the stream failed");
            }
            if self.download.stalled_ms(now) >= self.node.stall_ms {
                bail!(self.give_up());
            }
            self.look_up(now);
            self.report_sometimes(now);
            let wake = self.started + Duration::from_millis(self.wake_at(now));
            tokio::select! {
                written = write_some(&mut out, front.as_mut()), if front.is_some() => {
                    if written.context("the reader went away")? {
                        self.bytes_done += front.take().map_or(0, |f| f.bytes.len() as u64);
                    }
                }
                Some((peer, serial, event)) = links.recv() => self.link_event(peer, serial, event),
                Some(event) = others.recv() => self.other_event(event),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn next_front(&mut self) -> Option<Front> {
        let (_, bytes, source) = self.download.next(self.now())?;
        if let Source::Peer(peer) = source {
            tracing::trace!("{} bytes from {peer}", bytes.len());
        }
        Some(Front { bytes, sent: 0 })
    }

    fn wake_at(&self, now: u64) -> u64 {
        let stall = now + self.node.stall_ms.saturating_sub(self.download.stalled_ms(now)).max(1);
        let lookup = if self.looking_up { stall } else { self.next_lookup.max(now + 1) };
        let lookup = if self.download.lacks_providers() { lookup } else { stall };
        let report = now + REPORT_MS;
        [Some(stall), Some(lookup), Some(report), self.download.next_deadline(now)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(report)
    }

    fn act(&mut self, action: Action<NodeId>) {
        match action {
            Action::Local(hash) => self.look_here(hash),
            Action::Connect(peer) => {
                self.serial += 1;
                let (node, events) = (self.node.clone(), self.link_events.clone());
                let link = PeerLink::start(node, peer, self.serial, self.content, events);
                self.links.insert(peer, (self.serial, link));
            }
            Action::Want(peer, hashes) => {
                if let Some((_, link)) = self.links.get(&peer) {
                    link.want(hashes);
                }
            }
            Action::Close(peer) => drop(self.links.remove(&peer)),
        }
    }

    fn look_here(&self, hash: Hash) {
        let (local, events) = (self.node.local.clone(), self.other_events.clone());
        tokio::spawn(async move {
            let found = match local.chunk(hash).await {
                Some(bytes) => blocking(move || Checked::new(hash, bytes)).await.ok(),
                None => None,
            };
            let _ = events.send(Event::Local(hash, found)).await;
        });
    }

    fn look_up(&mut self, now: u64) {
        if self.looking_up || now < self.next_lookup || !self.download.lacks_providers() {
            return;
        }
        self.looking_up = true;
        let (node, content, events) = (self.node.clone(), self.content, self.other_events.clone());
        tokio::spawn(async move {
            let found = timeout(LOOKUP_TIMEOUT, node.peers.providers(&content)).await;
            let found = found.unwrap_or_else(|_| Err(anyhow!("the lookup took longer than 30 s")));
            let _ = events.send(Event::Providers(found)).await;
        });
    }

    fn other_event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Local(hash, found) => self.download.local(&hash, found, now),
            Event::Providers(found) => {
                self.looking_up = false;
                self.next_lookup = now + LOOKUP_MS;
                match found {
                    Ok(peers) => peers.into_iter().for_each(|p| self.add_provider(p, now)),
                    Err(e) => self.lookup_error = Some(format!("{e:#}")),
                }
            }
        }
    }

    fn add_provider(&mut self, peer: NodeId, now: u64) {
        self.lookup_error = None;
        self.download.add_provider(peer, now);
        if let Some(lie) = self.node.lie_of(&peer) {
            self.download.drop_provider(&peer, lie);
        }
    }

    fn link_event(&mut self, peer: NodeId, serial: u64, event: LinkEvent) {
        let now = self.now();
        if self.links.get(&peer).is_none_or(|(s, _)| *s != serial) {
            return;
        }
        match event {
            LinkEvent::Up => self.download.connected(&peer, now),
            LinkEvent::Reply(reply) => {
                self.download.reply(&peer, reply, now);
                if let Some(lie) = self.download.lie_of(&peer) {
                    self.node.lied(peer, lie);
                }
            }
            LinkEvent::Lied(reason) => {
                self.node.lied(peer, &reason);
                self.download.drop_provider(&peer, reason);
            }
            LinkEvent::Ended(reason) => {
                self.links.remove(&peer);
                self.download.failed(&peer, &reason, now);
            }
        }
    }

    fn give_up(&self) -> String {
        let chunk = self.download.waiting_for().unwrap_or(0);
        let lookup = self.lookup_error.as_ref().map(|e| format!("; looking for providers failed: {e}"));
        format!(
            "chunk {chunk} could not be had within {} s; tried: {}{}",
            self.node.stall_ms / 1000,
            self.download.tried(),
            lookup.unwrap_or_default()
        )
    }

    fn report_sometimes(&mut self, now: u64) {
        if now >= self.reported_at + REPORT_MS {
            self.reported_at = now;
            self.report(None);
        }
    }

    fn report(&self, error: Option<&anyhow::Error>) {
        let (local, peers) = self.download.bytes_from();
        let mut from: Vec<(String, u64)> =
            peers.into_iter().take(MAX_NAMED).map(|(p, n)| (p.to_string(), n)).collect();
        if local > 0 {
            from.push(("local".to_string(), local));
        }
        let dropped = self.download.dropped().into_iter().take(MAX_NAMED);
        let dropped = dropped.map(|(p, why)| (p.to_string(), why)).collect();
        let done = self.bytes_done;
        self.node.transfers.update(self.report_id, |t| {
            t.bytes_done = done;
            t.from = from;
            t.dropped = dropped;
            t.finished = done == t.bytes_total && self.download.finished();
            t.error = error.map(|e| format!("{e:#}")).unwrap_or_default();
        });
    }
}

/// Whether the chunk is written whole.
async fn write_some(out: &mut UnixStream, front: Option<&mut Front>) -> std::io::Result<bool> {
    let Some(front) = front else { return Ok(true) };
    if front.sent < front.bytes.len() {
        front.sent += out.write(&front.bytes[front.sent..]).await?;
    }
    Ok(front.sent == front.bytes.len())
}
