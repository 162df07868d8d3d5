//! A real QEMU with nothing but firmware. Skipped, saying why, where QEMU or OVMF is not installed.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use qemu_vm::{Error, Firmware, Switch, Vm};

/// Two emulated machines at once only slow each other down.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const FIRMWARE_TIMEOUT: Duration = Duration::from_secs(60);

fn is_installed() -> bool {
    let qemu = std::process::Command::new("qemu-system-x86_64").arg("--version").output();
    if let Err(error) = qemu {
        println!("skipped: qemu-system-x86_64: {error}");
        return false;
    }
    if let Err(error) = Firmware::find() {
        println!("skipped: {error}");
        return false;
    }
    true
}

fn process_exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn firmware_speaks_through_power_cut_restart_and_reset() {
    if !is_installed() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock();
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("empty.img");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let (switch, log) = (Switch::new(), folder.path().join("serial.log"));
    let vm = Vm::builder("smoke")
        .disk(&disk)
        .record_writes(folder.path().join("writes.log"))
        .uefi()
        .memory_mib(256)
        .lan(&switch)
        .forward_udp(4433)
        .watchdog()
        .serial_log(&log)
        .start()
        .unwrap();
    vm.serial().wait_for("BdsDxe", FIRMWARE_TIMEOUT).unwrap();
    assert_eq!(vm.status().unwrap(), "running");
    assert!(vm.host_port(4433).is_some());
    let first = vm.pid();
    vm.power_cut().unwrap();
    assert!(!vm.is_running() && !process_exists(first));
    assert!(matches!(vm.serial().wait_for("never printed", FIRMWARE_TIMEOUT), Err(Error::Closed { .. })));

    vm.restart().unwrap();
    vm.serial().wait_for("BdsDxe", FIRMWARE_TIMEOUT).unwrap();
    vm.reset().unwrap();
    vm.qmp().unwrap().wait_event("RESET", Duration::from_secs(10)).unwrap();
    vm.stop().unwrap();
    let second = vm.pid();
    drop(vm);
    assert!(second != first && !process_exists(second));
    assert!(std::fs::read_to_string(log).unwrap().matches("BdsDxe").count() >= 2);
}

#[test]
fn frames_of_a_machine_reach_the_switch() {
    if !is_installed() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock();
    let switch = Switch::new();
    let listener = switch.add_port("listener");
    let _cable = switch.plug(listener).unwrap();
    // Without any disk the firmware tries to boot from the network.
    let vm = Vm::builder("netboot").uefi().memory_mib(256).lan(&switch).start().unwrap();
    let deadline = Instant::now() + FIRMWARE_TIMEOUT;
    while switch.traffic(vm.lan_port(0).unwrap(), listener).frames == 0 {
        assert!(Instant::now() < deadline, "no frame from the firmware; {:?}", vm.serial().contents());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn refusal_of_qemu_is_passed_on() {
    if !is_installed() {
        return;
    }
    let error =
        Vm::builder("odd").arguments(["-device", "no-such-device"]).start().err().unwrap().to_string();
    assert!(error.contains("no-such-device"), "{error}");
    let error = Vm::builder("odd").disk("/nonexistent/disk.img").start().err().unwrap().to_string();
    assert!(error.contains("/nonexistent/disk.img"), "{error}");
}
