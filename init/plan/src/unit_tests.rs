use super::*;

const UPDATE: &str = r#"
version = 1

[unit]
name = "update"
description = "writes the inactive slot"
after = ["mesh", "content"]
required = true

[service]
exec = ["/usr/bin/update", "--quiet"]
uid = 106
groups = [110]
socket = true
state_dir = true
ready_timeout_s = 20
watchdog_s = 0
environment = { RUST_LOG = "info" }

[limits]
memory_max = "96M"
pids_max = 64

[sandbox]
network = "none"
read = ["/state/config.toml"]
devices = ["inactive-root:rw", "esp:rw", "active-root:r"]
"#;

fn with(from: &str, to: &str) -> Result<Unit, UnitError> {
    assert!(UPDATE.contains(from), "{from:?} is not in the sample");
    Unit::parse("update", &UPDATE.replacen(from, to, 1))
}

#[track_caller]
fn refused(from: &str, to: &str, because: &str) {
    let error = with(from, to).expect_err("should be refused").to_string();
    assert!(error.contains(because), "{error:?} does not say {because:?}");
}

#[test]
fn reads_a_whole_unit() {
    let unit = Unit::parse("update", UPDATE).unwrap();
    assert_eq!(unit.after, ["mesh", "content"]);
    assert_eq!(unit.limits, Limits { memory_max_bytes: 96 << 20, pids_max: 64, cpu_weight: 100 });
    assert_eq!(unit.watchdog, None);
    assert_eq!(unit.ready_timeout, Duration::from_secs(20));
    assert_eq!(unit.stop_timeout, Duration::from_secs(5));
    assert_eq!(unit.sandbox.devices[0], Device { role: DeviceRole::InactiveRoot, write: true });
    assert_eq!(unit.sandbox.devices[2], Device { role: DeviceRole::ActiveRoot, write: false });
    assert!(unit.sandbox.capabilities.is_empty() && !unit.sandbox.tmp);
}

#[test]
fn refuses_what_it_does_not_know() {
    refused("required = true", "requird = true", "requird");
    refused("version = 1", "version = 2", "version 2");
    refused("version = 1", "", "version");
    refused("network = \"none\"", "network = \"some\"", "some");
    assert!(matches!(Unit::parse("mesh", UPDATE), Err(UnitError::FileName { .. })));
    assert_eq!(Unit::parse("update", &"#".repeat(UNIT_FILE_MAX + 1)), Err(UnitError::TooLong));
}

#[test]
fn refuses_what_would_widen_rights() {
    refused("uid = 106", "uid = 0", "service.uid");
    refused("groups = [110]", "groups = [0]", "service.groups");
    refused("\"active-root:r\"", "\"active-root:rw\"", "never writable");
    refused("\"active-root:r\"", "\"root-a:rw\"", "never writable");
    refused("\"active-root:r\"", "\"esp:r\"", "twice");
    refused("\"active-root:r\"", "\"state:r\"", "not a device role");
    refused("devices", "capabilities = [\"CAP_SYS_ADMIN\"]\ndevices", "CAP_SYS_ADMIN");
    refused("devices", "capabilities = [\"CAP_NET_RAW\"]\ndevices", "of no use");
    refused("/state/config.toml", "/state/../etc/shadow", "sandbox.read");
    refused("/state/config.toml", "state/config.toml", "sandbox.read");
    refused("/state/config.toml", "/", "sandbox.read");
    refused("/usr/bin/update", "update", "service.exec");
    refused("RUST_LOG", "LD_PRELOAD", "LD_PRELOAD");
}

#[test]
fn refuses_names_that_are_paths_or_taken() {
    for name in ["", "../x", "Mesh", "9p", "a.b", "abcdefghijklmnopqrstuvwxyz"] {
        assert!(!is_unit_name(name), "{name}");
    }
    refused("\"mesh\", \"content\"", "\"mesh\", \"mesh\"", "twice");
    refused("\"mesh\", \"content\"", "\"update\"", "after itself");
    let own = UPDATE.replacen("name = \"update\"", "name = \"supervisor\"", 1);
    assert!(Unit::parse("supervisor", &own).unwrap_err().to_string().contains("own name"));
}

#[test]
fn sizes_are_bounded() {
    assert_eq!(parse_size("1M"), Some(1 << 20));
    assert_eq!(parse_size("2G"), Some(2 << 30));
    for bad in [
        "",
        "M",
        "96",
        "-1M",
        "+1M",
        "1.5M",
        "99999999999999999999G",
        "18446744073709551615G",
        "65G",
        "4K",
        "9é",
    ] {
        assert_eq!(parse_size(bad), None, "{bad}");
    }
    refused("\"96M\"", "\"much\"", "limits.memory_max");
    refused("ready_timeout_s = 20", "ready_timeout_s = 0", "ready_timeout_s");
}

#[test]
fn capabilities_have_the_kernels_numbers() {
    let text = UPDATE.replace("\"none\"", "\"host\"\ncapabilities = [\"CAP_NET_RAW\", \"CAP_NET_ADMIN\"]");
    let numbers: Vec<u32> =
        Unit::parse("update", &text).unwrap().sandbox.capabilities.iter().map(|c| c.number()).collect();
    assert_eq!(numbers, [12, 13]);
}

/// The files that ship with the services.
#[test]
fn every_service_of_the_system_has_a_good_unit() {
    let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../services");
    let mut units = BTreeMap::new();
    for entry in std::fs::read_dir(services).unwrap() {
        let file = entry.unwrap().path().join("unit.toml");
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let name = file.parent().and_then(Path::file_name).and_then(|n| n.to_str()).unwrap().to_owned();
        let unit = Unit::parse(&name, &text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        units.insert(name, unit);
    }
    assert_eq!(units.len(), 10, "{:?}", units.keys());
    let dispensable: Vec<&str> = units.values().filter(|u| !u.required).map(|u| u.name.as_str()).collect();
    assert_eq!(dispensable, ["console", "pairing", "wifi"], "a node does without these");
    let on_the_network: Vec<&str> =
        units.values().filter(|u| u.sandbox.network == Network::Host).map(|u| u.name.as_str()).collect();
    assert_eq!(on_the_network, ["mesh", "network", "wifi"]);
    let uids: BTreeSet<u32> = units.values().map(|u| u.uid).collect();
    assert_eq!(uids.len(), units.len(), "each service has a uid of its own");
    let order = crate::unit_order::start_order(&crate::unit_order::graph(units.values())).unwrap();
    let with_the_node: Vec<&String> = order.iter().filter(|name| !units[*name].on_demand).collect();
    assert_eq!(with_the_node.last().map(|name| name.as_str()), Some("reconciler"));
}

const APP: &str = r#"
version = 1
[unit]
name = "hello"
description = "greets"
after = ["mesh"]
[service]
exec = ["/usr/bin/hello"]
uid = 10001
state_dir = true
[sandbox]
network = "none"
[app]
serve = ["hello/greet_v1"]
"#;

#[test]
fn an_app_gets_what_it_lists_and_nothing_of_the_systems() {
    let app = |from: &str, to: &str| {
        assert!(APP.contains(from), "{from:?} is not in the sample");
        Unit::parse("hello", &APP.replacen(from, to, 1)).map_err(|e| e.to_string())
    };
    let rights = app("", "").unwrap().app.unwrap();
    assert_eq!((rights[0].ability, rights[0].path.as_str()), ("macula/mesh/serve", "rpc/hello/greet_v1"));
    for (from, to, because) in [
        ("uid = 10001", "uid = 106", "service.uid: 106: apps"),
        ("[app]\nserve = [\"hello/greet_v1\"]", "", "service.uid: 10001: apps"),
        ("after =", "required = true\nafter =", "unit.required: is not for an app"),
        ("uid =", "groups = [106]\nuid =", "service.groups: is not for an app"),
        ("uid =", "console = true\nuid =", "service.console: is not for an app"),
        ("uid =", "foreign = true\nuid =", "service.foreign: is not for an app"),
        ("after =", "on_demand = true\nafter =", "unit.on_demand: is not for an app"),
        ("network =", "read = [\"/state/identity\"]\nnetwork =", "sandbox.read: is not for an app"),
        ("network =", "devices = [\"esp:r\"]\nnetwork =", "sandbox.devices: is not for an app"),
        (
            "network = \"none\"",
            "network = \"host\"\ncapabilities = [\"CAP_NET_RAW\"]",
            "sandbox.capabilities",
        ),
        ("hello/greet_v1\"", "Hello\"", "app.serve"),
        ("uid =", "environment = { MACULA_RUN_DIR = \"/x\" }\nuid =", "MACULA_RUN_DIR is set by"),
    ] {
        let refused = app(from, to).expect_err(to);
        assert!(refused.contains(because), "{refused:?} does not say {because:?}");
    }
}
