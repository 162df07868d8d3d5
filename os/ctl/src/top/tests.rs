use ratatui::Terminal;
use ratatui::backend::TestBackend;
use services_api::report::{InstallReport, LogLine, PeerReport, TransferReport, UnitReport};

use super::draw::draw;
use super::model::{Event, Key, Model, Pane, Snapshot};

/// What a terminal of this size shows, line by line, without trailing spaces.
fn screen(model: &mut Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(|y| line(y) + "\n").collect()
}

fn snapshot(name: &str) -> Snapshot {
    let mut said = Snapshot::default();
    said.status.name = name.into();
    (said.status.version, said.status.slot, said.status.uptime_s) = ("0.2.0".into(), "A".into(), 3_700);
    said.peers = vec![PeerReport { connected: true, ..PeerReport::default() }, PeerReport::default()];
    said.units = vec![
        UnitReport {
            name: "mesh".into(),
            state: "ready".into(),
            rss_bytes: 9 << 20,
            status: "1 peer".into(),
            ..Default::default()
        },
        UnitReport {
            name: "dht".into(),
            state: "failed".into(),
            restarts: 5,
            last_exit: "status 1".into(),
            ..Default::default()
        },
    ];
    said
}

fn transfer(bytes_done: u64) -> TransferReport {
    TransferReport {
        mcid: "mcid1-raw-blake3-00112233445566778899".into(),
        bytes_done,
        bytes_total: 100 << 20,
        from: vec![("local".into(), 1), ("did:key:a".into(), 1), ("did:key:b".into(), 1)],
        ..TransferReport::default()
    }
}

fn answered(at: usize, said: Snapshot) -> Event {
    Event::Answered { at, snapshot: Box::new(said) }
}

fn model() -> Model {
    let mut model =
        Model::new(["10.0.0.1:4433", "10.0.0.2:4433", "10.0.0.3:4433"].map(str::to_owned).into_iter(), false);
    model.update(answered(0, snapshot("attic")), 1_000);
    model.update(Event::Away { at: 1, why: "no node answered at 10.0.0.2:4433".into() }, 1_000);
    model
}

fn press(model: &mut Model, keys: &[Key]) {
    keys.iter().for_each(|key| model.update(Event::Key(*key), 2_000));
}

fn logged(model: &mut Model, at: usize, texts: &[&str]) {
    let line = |text: &&str| LogLine {
        unit: "mesh".into(),
        priority: 6,
        text: text.to_string(),
        at_ms: 1_234,
        seq: 0,
    };
    model.update(Event::Logged { at, lines: texts.iter().map(line).collect() }, 2_000);
}

#[test]
fn nodes_are_shown_with_those_that_are_away() {
    let mut said = snapshot("cellar");
    said.status.installing = Some(InstallReport {
        version: "0.3.0".into(),
        bytes_done: 1,
        bytes_total: 2,
        ..InstallReport::default()
    });
    let mut model = model();
    model.update(answered(2, said), 1_000);
    let expected = "\
macula  2 of 3 up   1 Nodes   2 Transfers   3 Apps   4 Logs
NAME             STATE      VERSION   SLOT PEERS UP
attic            up         0.2.0     A    1     1 h 1 min
10.0.0.2:4433    away                                        no node answered at 10.0.0.2:4433
cellar           installing 0.2.0     A    1     1 h 1 min   0.3.0 [########--------]  50 %
1-4 view  up/down choose  Enter one node  a all nodes  ? help  q leave
";
    assert_eq!(screen(&mut model, 100, 6), expected);
}

#[test]
fn transfers_have_a_bar_and_a_speed() {
    let mut model = model();
    for (done, now_ms) in [(10 << 20, 3_000), (50 << 20, 5_000)] {
        let mut said = snapshot("attic");
        said.content.transfers =
            vec![TransferReport { finished: true, ..transfer(100 << 20) }, transfer(done)];
        said.content.transfers[0].mcid = "mcid1-raw-blake3-aaaaaaaaaaaaaa".into();
        model.update(answered(0, said), now_ms);
    }
    press(&mut model, &[Key::Pane(1)]);
    let expected = "\
macula  1 of 3 up   1 Nodes   2 Transfers   3 Apps   4 Logs
NODE             CONTENT                             OF         PEERS STATE
attic            5566778899 [########--------]  50 % 100.0 MiB  2     20.0 MiB/s
attic            aaaaaaaaaa [################] 100 % 100.0 MiB  2     done
1-4 view  up/down choose  Enter one node  a all nodes  ? help  q leave
";
    assert_eq!(screen(&mut model, 90, 5), expected);
}

#[test]
fn one_node_can_be_looked_at_alone() {
    let mut model = model();
    model.update(answered(2, snapshot("cellar")), 1_000);
    press(&mut model, &[Key::Down(1), Key::Down(1), Key::Enter]);
    let expected = "\
macula  2 of 3 up   1 Nodes   2 Transfers   3 Apps   4 Logs   only cellar
NODE             APP          STATE      FOR         MEMORY     RESTARTS STATUS
cellar           mesh         ready      0 s         9.0 MiB    0        1 peer
cellar           dht          failed     0 s         0 B        5        status 1

1-4 view  up/down choose  Enter one node  a all nodes  ? help  q leave
";
    assert_eq!(screen(&mut model, 100, 6), expected);
    press(&mut model, &[Key::Back]);
    assert_eq!(screen(&mut model, 100, 10).matches("mesh").count(), 2);
    assert!(!model.ended);
    press(&mut model, &[Key::Back]);
    assert!(model.ended);
}

#[test]
fn logs_follow_until_somebody_scrolls_back() {
    let mut model = model();
    press(&mut model, &[Key::PreviousPane]);
    assert_eq!(model.pane, Pane::Logs);
    logged(&mut model, 0, &["one", "two", "three\x1b[2J", "four"]);
    let expected = "\
macula  1 of 3 up   1 Nodes   2 Transfers   3 Apps   4 Logs
attic [     1.234] mesh  three�[2J
attic [     1.234] mesh  four
1-4 view  up/down choose  Enter one node  a all nodes  ? hel
";
    assert_eq!(screen(&mut model, 60, 4), expected);
    press(&mut model, &[Key::Up(1)]);
    let shown = screen(&mut model, 60, 4);
    logged(&mut model, 0, &["five", "six"]);
    assert_eq!(screen(&mut model, 60, 4), shown, "the same lines are looked at");
    press(&mut model, &[Key::First]);
    assert!(screen(&mut model, 60, 4).contains(" one\n"));
    press(&mut model, &[Key::Last]);
    assert!(screen(&mut model, 60, 4).contains(" six\n"));
    logged(&mut model, 1, &["of another"]);
    model.alone = Some(0);
    assert!(!screen(&mut model, 60, 20).contains("of another"));
}

#[test]
fn every_size_can_be_drawn_and_every_row_is_bounded() {
    let mut model = model();
    logged(&mut model, 7, &["of a node that is not there"]);
    for pane in 0..4 {
        press(&mut model, &[Key::Pane(pane), Key::Last, Key::Help]);
        for (width, height) in [(1, 1), (2, 3), (20, 4), (300, 90)] {
            screen(&mut model, width, height);
        }
        press(&mut model, &[Key::Up(1), Key::Up(1)]);
        screen(&mut model, 80, 24);
    }
    model.update(answered(9, snapshot("nobody")), 1);
    (0..20).for_each(|_| logged(&mut model, 0, &["x"; 1_000]));
    assert_eq!(model.lines.len(), 5_000);
}

#[test]
fn help_lies_over_it_and_any_key_takes_it_away() {
    let mut model = model();
    press(&mut model, &[Key::Help]);
    let expected = "\
macula  1 of 3 up   1 Nodes   2 Transfers   3 Apps   4 Logs
NAME  ┌ Keys ────────────────────────────────────────────────────────────┐
attic │1 2 3 4      nodes, transfers, apps, logs                         │
10.0.0│Tab, arrows  the next one, the one before                         │red at
10.0.0│up, down     choose a line, or scroll the logs                    │
      │PgUp, PgDn   ten at a time                                        │
      │Home, End    the first, the last (in logs: go on with new lines)  │
      │Enter        look at the chosen node alone                        │
      │a, Esc       look at all nodes again                              │
      │?            this                                                 │
      │q, Ctrl-C    leave                                                │
      │                                                                  │
      │any key goes back                                                 │
      └──────────────────────────────────────────────────────────────────┘
1-4 view  up/down choose  Enter one node  a all nodes  ? help  q leave
";
    assert_eq!(screen(&mut model, 80, 15), expected);
    press(&mut model, &[Key::Back]);
    assert!(!model.help && !model.ended);
    press(&mut model, &[Key::Quit]);
    assert!(model.ended);
}

#[test]
fn colours_only_where_they_are_wanted() {
    let is_plain = |colors: bool| {
        let mut model = model();
        model.colors = colors;
        let mut terminal = Terminal::new(TestBackend::new(80, 6)).unwrap();
        terminal.draw(|frame| draw(&mut model, frame)).unwrap();
        terminal.backend().buffer().content.iter().all(|cell| cell.fg == ratatui::style::Color::Reset)
    };
    assert!(is_plain(false) && !is_plain(true));
}
