//! What `top` shows, and how it changes. Pure: events and `now` in, a model that can be drawn.

use std::collections::{BTreeMap, VecDeque};

use services_api::report::{ContentReport, LogLine, OsReport, PeerReport, TransferReport, UnitReport};

/// Lines kept of all nodes together.
const LINES_MAX: usize = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    Nodes,
    Transfers,
    Apps,
    Logs,
}

pub const PANES: [Pane; 4] = [Pane::Nodes, Pane::Transfers, Pane::Apps, Pane::Logs];

impl Pane {
    pub fn title(self) -> &'static str {
        match self {
            Pane::Nodes => "Nodes",
            Pane::Transfers => "Transfers",
            Pane::Apps => "Apps",
            Pane::Logs => "Logs",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Quit,
    /// Out of help, back to all nodes, and then out of the program.
    Back,
    Help,
    NextPane,
    PreviousPane,
    Pane(usize),
    Up(usize),
    Down(usize),
    First,
    Last,
    /// Look at the chosen node alone.
    Enter,
    AllNodes,
}

/// `at` names a node by its place.
#[derive(Debug)]
pub enum Event {
    Key(Key),
    /// Time went by, or the terminal has another size.
    Tick,
    Answered {
        at: usize,
        snapshot: Box<Snapshot>,
    },
    Away {
        at: usize,
        why: String,
    },
    Logged {
        at: usize,
        lines: Vec<LogLine>,
    },
}

/// What a node said at one moment. What its services did not answer is empty.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    pub status: OsReport,
    pub units: Vec<UnitReport>,
    pub peers: Vec<PeerReport>,
    pub content: ContentReport,
}

#[derive(Debug, Clone)]
pub enum State {
    Asked,
    Up,
    Away(String),
}

#[derive(Debug)]
pub struct NodeView {
    pub label: String,
    pub state: State,
    /// The last one, also of a node that is away since.
    pub said: Option<Box<Snapshot>>,
    answered_ms: u64,
    /// Bytes per second by content.
    speeds: BTreeMap<String, u64>,
}

impl NodeView {
    pub fn name(&self) -> &str {
        match self.said.as_ref().map(|said| said.status.name.as_str()) {
            Some(name) if !name.is_empty() => name,
            _ => &self.label,
        }
    }

    pub fn speed(&self, mcid: &str) -> u64 {
        self.speeds.get(mcid).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
pub struct Model {
    pub nodes: Vec<NodeView>,
    pub pane: Pane,
    /// The row that is chosen in each pane; in `Logs`, how many lines the view is away from the newest.
    rows: [usize; PANES.len()],
    /// The node that is looked at alone.
    pub alone: Option<usize>,
    pub help: bool,
    pub colors: bool,
    pub ended: bool,
    pub lines: VecDeque<(usize, LogLine)>,
    pub now_ms: u64,
}

impl Model {
    pub fn new(labels: impl Iterator<Item = String>, colors: bool) -> Self {
        let view = |label| NodeView {
            label,
            state: State::Asked,
            said: None,
            answered_ms: 0,
            speeds: BTreeMap::new(),
        };
        Self {
            nodes: labels.map(view).collect(),
            pane: Pane::Nodes,
            rows: [0; PANES.len()],
            alone: None,
            help: false,
            colors,
            ended: false,
            lines: VecDeque::new(),
            now_ms: 0,
        }
    }

    pub fn update(&mut self, event: Event, now_ms: u64) {
        self.now_ms = now_ms;
        match event {
            Event::Key(key) => self.key(key),
            Event::Tick => {}
            Event::Answered { at, snapshot } => self.answered(at, snapshot),
            Event::Away { at, why } => {
                if let Some(node) = self.nodes.get_mut(at) {
                    node.state = State::Away(why);
                    node.speeds.clear();
                }
            }
            Event::Logged { at, lines } => self.logged(at, lines),
        }
    }

    fn answered(&mut self, at: usize, snapshot: Box<Snapshot>) {
        let now_ms = self.now_ms;
        let Some(node) = self.nodes.get_mut(at) else { return };
        let since_ms = now_ms.saturating_sub(node.answered_ms).max(1);
        let before = node.said.take().map(|said| said.content.transfers).unwrap_or_default();
        let speed = |t: &TransferReport| {
            let was = before.iter().find(|b| b.mcid == t.mcid && !b.finished)?.bytes_done;
            let bytes = t.bytes_done.saturating_sub(was);
            Some((t.mcid.clone(), bytes.saturating_mul(1000) / since_ms))
        };
        node.speeds = snapshot.content.transfers.iter().filter_map(speed).collect();
        (node.state, node.said, node.answered_ms) = (State::Up, Some(snapshot), now_ms);
    }

    fn logged(&mut self, at: usize, lines: Vec<LogLine>) {
        // Whoever has scrolled back goes on looking at the same lines.
        let row = &mut self.rows[Pane::Logs as usize];
        if *row > 0 && self.alone.is_none_or(|alone| alone == at) {
            *row += lines.len();
        }
        self.lines.extend(lines.into_iter().map(|line| (at, line)));
        let surplus = self.lines.len().saturating_sub(LINES_MAX);
        self.lines.drain(..surplus);
    }

    fn key(&mut self, key: Key) {
        if self.help && key != Key::Quit {
            self.help = false;
            return;
        }
        let pane = self.pane as usize;
        match key {
            Key::Quit => self.ended = true,
            Key::Back if self.alone.is_some() => self.alone = None,
            Key::Back => self.ended = true,
            Key::Help => self.help = true,
            Key::NextPane => self.pane = PANES[(pane + 1) % PANES.len()],
            Key::PreviousPane => self.pane = PANES[(pane + PANES.len() - 1) % PANES.len()],
            Key::Pane(n) => self.pane = PANES.get(n).copied().unwrap_or(self.pane),
            Key::AllNodes => self.alone = None,
            Key::Enter if self.pane == Pane::Nodes => {
                self.alone = Some(self.row()).filter(|at| *at < self.nodes.len());
                self.pane = Pane::Apps;
            }
            Key::Enter => {}
            // The logs' row counts from the newest line.
            Key::Up(n) if self.pane == Pane::Logs => self.rows[pane] = self.rows[pane].saturating_add(n),
            Key::Down(n) if self.pane == Pane::Logs => self.rows[pane] = self.rows[pane].saturating_sub(n),
            Key::First if self.pane == Pane::Logs => self.rows[pane] = usize::MAX,
            Key::Last if self.pane == Pane::Logs => self.rows[pane] = 0,
            Key::Up(n) => self.rows[pane] = self.row().saturating_sub(n),
            Key::Down(n) => self.rows[pane] = self.row().saturating_add(n),
            Key::First => self.rows[pane] = 0,
            Key::Last => self.rows[pane] = usize::MAX,
        }
    }

    pub fn row(&self) -> usize {
        self.rows[self.pane as usize]
    }

    /// Keeps the row where there is one: drawing knows how many there are.
    pub fn bound_row(&mut self, rows: usize) -> usize {
        let row = &mut self.rows[self.pane as usize];
        *row = (*row).min(rows.saturating_sub(1));
        *row
    }

    /// The nodes that are looked at.
    pub fn shown(&self) -> impl Iterator<Item = (usize, &NodeView)> {
        let alone = self.alone;
        self.nodes.iter().enumerate().filter(move |(at, _)| alone.is_none_or(|alone| alone == *at))
    }
}
