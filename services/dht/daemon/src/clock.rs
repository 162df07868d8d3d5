//! The wall clock as `dht-proto` wants it: it does not go back.

use services_api::daemon;

/// Steps back up to this are sat out.
const STEP_MS: u64 = 60_000;

#[derive(Default)]
pub struct Clock {
    last_ms: u64,
}

/// What a look at the clock gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Now {
    Ms(u64),
    /// Somebody set the clock back: whatever was reckoned from the old time is void.
    SetBack(u64),
}

impl Clock {
    pub fn now(&mut self) -> Now {
        self.judge(daemon::now_ms())
    }

    fn judge(&mut self, wall_ms: u64) -> Now {
        if wall_ms.saturating_add(STEP_MS) < self.last_ms {
            self.last_ms = wall_ms;
            return Now::SetBack(wall_ms);
        }
        self.last_ms = self.last_ms.max(wall_ms);
        Now::Ms(self.last_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_steps_back_are_hidden_and_large_ones_told() {
        let mut clock = Clock::default();
        assert_eq!(clock.judge(1_000_000), Now::Ms(1_000_000));
        assert_eq!(clock.judge(990_000), Now::Ms(1_000_000));
        assert_eq!(clock.judge(1_000_001), Now::Ms(1_000_001));
        assert_eq!(clock.judge(900_000), Now::SetBack(900_000));
        assert_eq!(clock.judge(900_001), Now::Ms(900_001));
    }
}
