//! `top`: nodes, transfers, services and logs on one screen, live.
//!
//! [`model`] is all that is shown and how it changes, without clock or terminal; [`draw`] makes a picture of it; [`collect`] asks the
//! nodes; this module is the loop between them and the terminal. It only looks. However it ends, the terminal is left as it was.

mod collect;
mod draw;
mod model;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ratatui::crossterm::event::{self, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, crossterm};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::verbs::Session;
use model::{Event, Key, Model};

/// The picture is drawn anew at least so often: what it says about time grows.
const TICK: Duration = Duration::from_secs(1);
/// Events that wait to be drawn; who sends more waits.
const QUEUE: usize = 256;
/// How soon the thread that reads keys hears that it should end.
const KEY_POLL: Duration = Duration::from_millis(200);

pub async fn top(s: &Session) -> Result<()> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("`top` needs a terminal: `maculactl nodes --json` and `maculactl logs -f --all` are for pipes");
    }
    // A wrong option should be said before the screen is taken.
    let members = s.members(true)?;
    let (events, inbox) = mpsc::channel(QUEUE);
    let mut terminal = Screen(ratatui::try_init().context("cannot take the terminal")?);
    let model = Model::new(members.iter().map(|m| m.label()), s.out.palette.colors);
    collect::begin(&s.quietly(), members, &events);
    read_keys(events);
    run(&mut terminal.0, model, inbox).await
}

/// Gives the terminal back. A panic's hook, which ratatui has set, does the same before the panic is shown.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn run(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    mut inbox: mpsc::Receiver<Event>,
) -> Result<()> {
    let began = Instant::now();
    let mut signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [terminate, interrupt, hangup] = &mut signals;
    let [Ok(terminate), Ok(interrupt), Ok(hangup)] = [terminate, interrupt, hangup] else {
        bail!("cannot listen for signals");
    };
    while !model.ended {
        terminal.draw(|frame| draw::draw(&mut model, frame)).context("cannot draw")?;
        let event = tokio::select! {
            event = inbox.recv() => event.unwrap_or(Event::Key(Key::Quit)),
            () = tokio::time::sleep(TICK) => Event::Tick,
            _ = terminate.recv() => Event::Key(Key::Quit),
            _ = interrupt.recv() => Event::Key(Key::Quit),
            _ = hangup.recv() => Event::Key(Key::Quit),
        };
        let now_ms = began.elapsed().as_millis() as u64;
        model.update(event, now_ms);
        // What came meanwhile is drawn together.
        while let Ok(event) = inbox.try_recv() {
            model.update(event, now_ms);
        }
    }
    Ok(())
}

/// Keys and new sizes of the terminal, until nobody listens.
fn read_keys(events: mpsc::Sender<Event>) {
    std::thread::spawn(move || {
        while !events.is_closed() {
            match event::poll(KEY_POLL) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(_) => break,
            }
            let Ok(read) = event::read() else { break };
            let Some(event) = translate(&read) else { continue };
            if events.blocking_send(event).is_err() {
                break;
            }
        }
    });
}

fn translate(event: &crossterm::event::Event) -> Option<Event> {
    let key = match event {
        crossterm::event::Event::Resize(..) => return Some(Event::Tick),
        crossterm::event::Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(Event::Key(match key.code {
        KeyCode::Char('c' | 'd') if control => Key::Quit,
        KeyCode::Char('q') => Key::Quit,
        KeyCode::Esc => Key::Back,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => Key::Help,
        KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => Key::NextPane,
        KeyCode::BackTab | KeyCode::Left => Key::PreviousPane,
        KeyCode::Char(digit @ '1'..='4') => Key::Pane(digit as usize - '1' as usize),
        KeyCode::Up | KeyCode::Char('k') => Key::Up(1),
        KeyCode::Down | KeyCode::Char('j') => Key::Down(1),
        KeyCode::PageUp => Key::Up(10),
        KeyCode::PageDown | KeyCode::Char(' ') => Key::Down(10),
        KeyCode::Home | KeyCode::Char('g') => Key::First,
        KeyCode::End | KeyCode::Char('G') => Key::Last,
        KeyCode::Enter => Key::Enter,
        KeyCode::Char('a') => Key::AllNodes,
        _ => return None,
    }))
}
