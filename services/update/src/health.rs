//! What the machine says of itself: how hot it is, and how worn its disk. Says nothing where the machine says nothing.

use std::fs;
use std::path::Path;

/// Where the kernel says it.
pub const SYS: &str = "/sys";
const MAX_ZONES: usize = 64;

/// The hottest sensor (`class/thermal`), in whole degrees Celsius.
pub fn temperature_c(sys: &Path) -> Option<i32> {
    let zones = fs::read_dir(sys.join("class/thermal")).ok()?.flatten().take(MAX_ZONES);
    let millidegrees =
        zones.filter_map(|zone| fs::read_to_string(zone.path().join("temp")).ok()?.trim().parse().ok());
    millidegrees.max().map(|hottest: i32| hottest / 1000)
}

/// How much of its life a disk of eMMC says it has used, at most so many percent (JESD84-B51, DEVICE_LIFE_TIME_EST: steps of ten, 11
/// is beyond its life). The worse of its two kinds of cells counts.
pub fn disk_wear_percent(sys: &Path, disk: &Path) -> Option<u8> {
    let file = sys.join("class/block").join(disk.file_name()?).join("device/life_time");
    let text = fs::read_to_string(file).ok()?;
    let steps =
        text.split_whitespace().filter_map(|word| u8::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    // 0 is not defined.
    steps.filter(|step| (1..=11).contains(step)).max().map(|step| step * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_and_the_most_worn() {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path();
        assert_eq!((temperature_c(sys), disk_wear_percent(sys, Path::new("/dev/mmcblk0"))), (None, None));
        for (zone, temp) in
            [("thermal_zone0", "41250\n"), ("thermal_zone1", "55999\n"), ("cooling_device0", "")]
        {
            let zone = sys.join("class/thermal").join(zone);
            fs::create_dir_all(&zone).unwrap();
            fs::write(zone.join("temp"), temp).unwrap();
        }
        assert_eq!(temperature_c(sys), Some(55));
        let device = sys.join("class/block/mmcblk0/device");
        fs::create_dir_all(&device).unwrap();
        for (life_time, percent) in
            [("0x02 0x01\n", Some(20)), ("0x01 0x0b", Some(110)), ("0x00 0x00", None), ("x", None)]
        {
            fs::write(device.join("life_time"), life_time).unwrap();
            assert_eq!(disk_wear_percent(sys, Path::new("/dev/mmcblk0")), percent, "{life_time}");
        }
    }
}
