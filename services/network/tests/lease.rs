//! The real service in a network namespace of its own, joined by a virtual cable to another one, where dnsmasq serves
//! DHCP or nobody does. Needs root, `ip` and `dnsmasq` (dnsmasq-base); says so and skips where one is missing.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn gets_renews_and_keeps_a_lease() {
    let Some(cable) = Cable::new("lease") else { return };
    cable.server_address("192.0.2.1/24");
    let server = cable.dnsmasq();
    let node = cable.node();
    // An address in the server's range, with a lifetime that the kernel enforces, and the way out.
    cable.wait_for("the lease", || cable.addresses().contains("inet 192.0.2.1"));
    let addresses = cable.addresses();
    assert!(addresses.contains("/24") && addresses.contains("scope global dynamic"), "{addresses}");
    cable.wait_for("the default route", || {
        cable.in_node("ip -4 route").contains("default via 192.0.2.1 dev cable")
    });
    cable.wait_for("the name server", || {
        fs::read_to_string(cable.run.path().join("net/resolv.conf"))
            .is_ok_and(|text| text == "nameserver 192.0.2.53\n")
    });
    assert!(cable.in_node("ip link show lo").contains("UP"));
    assert!(cable.addresses().contains("inet6 fe80::"), "{}", cable.addresses());

    // Killed and started again: the same address, and only one.
    let before = cable.ipv4();
    drop(node);
    assert_eq!(cable.ipv4(), before);
    let _node = cable.node();
    cable.wait_for("the second ack", || cable.server_log().matches("DHCPACK").count() >= 2);
    assert_eq!(cable.ipv4(), before);

    // The cable is pulled and plugged: the old address is confirmed, not looked for anew.
    let discovers = cable.server_log().matches("DHCPDISCOVER").count();
    cable.in_server("ip link set cable down");
    std::thread::sleep(Duration::from_millis(300));
    cable.in_server("ip link set cable up");
    cable.wait_for("the third ack", || cable.server_log().matches("DHCPACK").count() >= 3);
    assert_eq!(cable.server_log().matches("DHCPDISCOVER").count(), discovers);
    assert_eq!(cable.ipv4(), before);
    drop(server);
}

#[test]
fn falls_back_to_a_link_local_address_and_leaves_it_for_a_lease() {
    let Some(cable) = Cable::new("local") else { return };
    cable.in_server("ip link set cable up");
    let _node = cable.node();
    // Ten seconds for DHCP, then about six for probing.
    let limit = Duration::from_secs(40);
    cable.wait_within("a link-local address", limit, || cable.addresses().contains("inet 169.254."));
    cable.server_address("169.254.0.1/16");
    let address = cable.ipv4()[0].trim_end_matches("/16").to_owned();
    // Anything sent there makes the other side ask by ARP who has the address.
    cable.speak_from_server(&address);
    cable.wait_for("the neighbour's answer", || {
        cable.in_server(&format!("ip neigh show {address}")).contains("lladdr")
    });

    cable.server_address("192.0.2.1/24");
    let _server = cable.dnsmasq();
    cable.wait_within("the lease", limit, || cable.addresses().contains("inet 192.0.2."));
    cable.wait_for("its end", || !cable.addresses().contains("169.254."));
}

/// Two namespaces joined by a virtual cable; each end is called `cable`.
struct Cable {
    node: String,
    server: String,
    run: TempDir,
}

impl Cable {
    fn new(name: &str) -> Option<Self> {
        for tool in ["ip", "dnsmasq"] {
            if Command::new("which").arg(tool).output().is_ok_and(|output| !output.status.success()) {
                println!("skipped: {tool} is not installed");
                return None;
            }
        }
        let (node, server) = (format!("macula-{name}-node"), format!("macula-{name}-server"));
        for namespace in [&node, &server] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
            if !Command::new("ip")
                .args(["netns", "add", namespace])
                .status()
                .is_ok_and(|status| status.success())
            {
                println!("skipped: cannot make a network namespace (root is needed)");
                return None;
            }
        }
        let cable = Self { node, server, run: TempDir::new().unwrap() };
        let Self { node, server, .. } = &cable;
        run(&format!("ip -n {node} link add cable type veth peer name cable netns {server}"));
        Some(cable)
    }

    fn server_address(&self, address: &str) {
        self.in_server("ip link set cable up");
        self.in_server(&format!("ip address add {address} dev cable"));
    }

    fn dnsmasq(&self) -> Killed {
        let log = fs::File::create(self.run.path().join("dnsmasq.log")).unwrap();
        let leases = self.run.path().join("leases");
        Killed::start(
            Command::new("ip")
                .args(["netns", "exec", &self.server, "dnsmasq", "--no-daemon", "--conf-file=/dev/null"])
                .args(["--port=0", "--interface=cable", "--log-dhcp", "--user=root", "--no-ping"])
                .args(["--dhcp-authoritative", "--dhcp-range=192.0.2.100,192.0.2.199,255.255.255.0,120"])
                .args(["--dhcp-option=option:router,192.0.2.1", "--dhcp-option=option:dns-server,192.0.2.53"])
                .arg(format!("--dhcp-leasefile={}", leases.display()))
                .stderr(log),
        )
    }

    /// The service as on a node, but for its sockets' directory.
    fn node(&self) -> Killed {
        Killed::start(
            Command::new("ip")
                .args(["netns", "exec", &self.node, env!("CARGO_BIN_EXE_network")])
                .env("MACULA_RUN_DIR", self.run.path())
                .env_remove("LISTEN_FDS")
                .env_remove("NOTIFY_SOCKET"),
        )
    }

    fn in_node(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.node))
    }

    fn in_server(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.server))
    }

    fn speak_from_server(&self, address: &str) {
        let script = format!("echo hello > /dev/udp/{address}/9");
        let status =
            Command::new("ip").args(["netns", "exec", &self.server, "bash", "-c", &script]).status().unwrap();
        assert!(status.success());
    }

    fn addresses(&self) -> String {
        self.in_node("ip address show dev cable")
    }

    fn ipv4(&self) -> Vec<String> {
        let text = self.in_node("ip -4 -o address show dev cable");
        text.lines().filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned)).collect()
    }

    fn server_log(&self) -> String {
        fs::read_to_string(Path::new(self.run.path()).join("dnsmasq.log")).unwrap_or_default()
    }

    fn wait_for(&self, what: &str, is_there: impl Fn() -> bool) {
        self.wait_within(what, SOON, is_there);
    }

    fn wait_within(&self, what: &str, limit: Duration, is_there: impl Fn() -> bool) {
        let deadline = Instant::now() + limit;
        while !is_there() {
            let state = || format!("{}\n{}", self.addresses(), self.server_log());
            assert!(Instant::now() < deadline, "{what} did not come:\n{}", state());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.server] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// A child that ends with its handle, as `kill -9` ends it.
struct Killed(Child);

impl Killed {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
